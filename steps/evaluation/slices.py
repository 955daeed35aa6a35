"""Slices: is the model worse on some part of the test images, beyond chance among many parts?"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact
from statsmodels.stats.multitest import multipletests

from steps.evaluation.intervals import effective_images, share
from steps.evaluation.results import SliceJudgement, UnjudgedSlice
from steps.runtime.arrays import Bools, Ints

COLUMNS = ("source", "group", "size", "brightness", "format")
THIRDS = ("low", "middle", "high")


@dataclass(frozen=True)
class Slice:
    """One part of the images: `name` as limits use it (column=value), `shown` as readers see it."""

    column: str
    name: str
    shown: str
    members: Bools  # [n]

    def limit(self, limits: Mapping[str, float]) -> float | None:
        """Return the least accuracy required: the limit of its own name, else of its column; None without a limit."""
        return limits.get(self.name, limits.get(self.column))


def slices_of(images: pd.DataFrame, columns: Sequence[str]) -> Iterator[Slice]:
    """Yield each slice by column and value.

    `images` has the manifest's columns; `size` is its shorter side. Numbers are cut into thirds, texts by value.
    """
    table = images.assign(size=np.minimum(images["width"], images["height"]))
    for column in dict.fromkeys(columns):
        values = table[column]
        named, bounds = _thirds(values) if pd.api.types.is_numeric_dtype(values) else (values.astype(str), {})
        for value in sorted(set(named) - {""}):
            shown = f"{value} ({bounds[value]})" if bounds else value
            yield Slice(column, f"{column}={value}", shown, (named == value).to_numpy())


def _thirds(values: pd.Series) -> tuple[pd.Series, dict[str, str]]:
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    least, most = (f"{bound:,.0f}" if bound >= 1000 else f"{bound:.3g}" for bound in (low, high))
    bounds = {"low": f"up to {least}", "middle": f"{least} to {most}", "high": f"above {most}"}
    names = np.select([values <= low, values <= high], THIRDS[:2], THIRDS[2])
    return pd.Series(names, index=values.index), bounds


def unknown_limits(images: pd.DataFrame, columns: Sequence[str], limits: Mapping[str, float]) -> Iterator[str]:
    """Yield a sentence for each limit that names no column of `columns`, or a value that no image of any split has."""
    for name in sorted(limits):
        column, equals, value = name.partition("=")
        if column not in columns:
            yield f"{name!r} is no slice{_nearest(column, columns)} (known: {', '.join(sorted(columns))})"
        elif equals:
            numeric = column == "size" or pd.api.types.is_numeric_dtype(images[column])
            known = THIRDS if numeric else tuple(sorted(set(images[column].astype(str)) - {""}))
            if value not in known:
                some = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
                yield f"no image has {column} {value!r}{_nearest(value, known)} (there are: {some or 'none'})"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def unjudged(
    images: pd.DataFrame, columns: Sequence[str], least: int, limits: Mapping[str, float]
) -> tuple[UnjudgedSlice, ...]:
    """Return the slices with fewer than `least` images, and the limits that none of `images` falls under.

    For `group`, whose slices are many and small by nature, only those with a limit.
    """
    slices = list(slices_of(images, columns))
    small = [
        UnjudgedSlice(part.column, part.shown, int(part.members.sum()), part.limit(limits))
        for part in slices
        if part.members.sum() < least and (part.column != "group" or part.limit(limits) is not None)
    ]
    empty = [name.split("=", 1) for name in sorted(set(limits) - {part.name for part in slices}) if "=" in name]
    return (*small, *(UnjudgedSlice(column, value, 0, limits[f"{column}={value}"]) for column, value in empty))


def judge_slices(
    images: pd.DataFrame,
    right: Bools,
    cluster: Ints,
    columns: Sequence[str],
    least: int,
    limits: Mapping[str, float],
    confidence: float,
) -> tuple[SliceJudgement, ...]:
    """Return each slice of at least `least` images with its accuracy and whether it is worse, the worst first.

    `p_adjusted` is Fisher's exact test against the rest of the images, one-sided, after Holm's correction over all
    slices (Holm 1979, Scand. J. Stat. 6:65). If images come in clusters, its counts are divided by their design
    effect (Rao and Scott 1992, Biometrics 48:577). `limits` maps a column, or "column=value", to the least accuracy
    of its slices: a lower one is a breach. A slice of all images is left out, unless it has a limit.
    """
    judged = [
        candidate
        for candidate in slices_of(images, columns)
        if candidate.members.sum() >= least and (not candidate.members.all() or candidate.limit(limits) is not None)
    ]
    chances = [_chance(right, candidate.members, cluster, confidence) for candidate in judged]
    adjusted = multipletests(chances, method="holm")[1] if chances else []
    rows = [
        _judged(part, right, cluster, part.limit(limits), confidence, float(p))
        for part, p in zip(judged, adjusted, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: (row.accuracy.known, row.column, row.value)))


def _judged(
    part: Slice, right: Bools, cluster: Ints, limit: float | None, confidence: float, p_adjusted: float
) -> SliceJudgement:
    accuracy = share(right[part.members], cluster[part.members], confidence)
    return SliceJudgement(
        column=part.column,
        value=part.shown,
        n=int(part.members.sum()),
        accuracy=accuracy,
        limit=limit,
        breached=limit is not None and accuracy.known < limit,
        p_adjusted=p_adjusted,
    )


def _chance(right: Bools, members: Bools, cluster: Ints, confidence: float) -> float:
    """Return the chance of so low an accuracy inside if inside and outside were alike; 1 if there is no outside."""
    if members.all():
        return 1.0
    overall = effective_images(right, cluster, confidence) / len(right)
    table = []
    for side in (members, ~members):
        # few clusters estimate their design effect poorly: that of all images counts if it is larger
        effective_share = min(effective_images(right[side], cluster[side], confidence) / side.sum(), overall)
        table.append([round(right[side].sum() * effective_share), round((~right[side]).sum() * effective_share)])
    return float(fisher_exact(table, alternative="less").pvalue)
