"""Slices: is the model worse on some part of the test images, by more than chance picks out of many parts?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import fisher_exact
from statsmodels.stats.multitest import multipletests

from steps.core.intervals import share

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]
COLUMNS = ("source", "group", "size", "brightness", "format")
THIRDS = ("low", "middle", "high")


def slices_of(images: pd.DataFrame, columns: Sequence[str], least: int) -> Iterator[tuple[str, str, Bools]]:
    """Yield column, value and members [n] of each slice of at least `least` images; a whole is no slice.

    `images` has the manifest's columns; `size` is its shorter side. Numbers are cut into thirds, texts by value.
    """
    table = images.assign(size=np.minimum(images["width"], images["height"]))
    for column in dict.fromkeys(columns):
        values = table[column]
        named = _thirds(values) if pd.api.types.is_numeric_dtype(values) else values.astype(str)
        for value in sorted(set(named) - {""}):
            members = (named == value).to_numpy()
            if least <= members.sum() < len(table):
                yield column, value, members


def _thirds(values: pd.Series) -> pd.Series:
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    bounds = {"low": f"up to {low:.4g}", "middle": f"{low:.4g} to {high:.4g}", "high": f"above {high:.4g}"}
    names = np.select([values <= low, values <= high], THIRDS[:2], THIRDS[2])
    return pd.Series([f"{name} ({bounds[name]})" for name in names], index=values.index)


def judge_slices(
    images: pd.DataFrame,
    right: Bools,
    cluster: Ints,
    columns: Sequence[str],
    least: int,
    limits: Mapping[str, float],
    confidence: float,
) -> list[dict[str, Any]]:
    """Return each slice with its accuracy, the worst first, and whether it is worse than the rest of the images.

    `p_adjusted` is Fisher's exact test, one-sided, after Holm's correction over all slices (Holm 1979, Scand. J.
    Stat. 6:65). `limits` maps a column, or "column=value", to the least accuracy of its slices: a lower one breaches.
    """
    rows, chances = [], []
    for column, value, members in slices_of(images, columns, least):
        accuracy = share(right[members], cluster[members], confidence)
        inside, outside = right[members], right[~members]
        table = [[inside.sum(), (~inside).sum()], [outside.sum(), (~outside).sum()]]
        chances.append(float(fisher_exact(table, alternative="less").pvalue))
        limit = limits.get(f"{column}={value.split(' (')[0]}", limits.get(column))
        rows.append({
            "column": column, "value": value, "n": int(members.sum()), "accuracy": accuracy, "limit": limit,
            "breached": limit is not None and accuracy["value"] < limit,
        })  # fmt: skip
    adjusted = multipletests(chances, method="holm")[1] if chances else []
    told = [{**row, "p_adjusted": float(p)} for row, p in zip(rows, adjusted, strict=True)]
    return sorted(told, key=lambda row: (row["accuracy"]["value"], row["column"], row["value"]))
