"""Comparison of a replay with its original, pure: two dvc.locks and two sets of answers in, a verdict out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

IDENTICAL, EQUIVALENT, DIFFERENT = "identical", "equivalent", "different"
COMPUTED = "output"  # the only kind of difference that the inputs do not cause
FIGURES = ("accuracy", "balanced_accuracy", "log_loss")
Lock = Mapping[str, Mapping[str, Any]]  # the stages of a dvc.lock


@dataclass(frozen=True)
class Difference:
    """A difference in a stage of the replay: `kind` is missing | command | params | code | data | output."""

    stage: str
    kind: str
    where: str

    def __str__(self) -> str:
        """Return a sentence."""
        if self.kind == COMPUTED:
            return f"stage {self.stage} made other bytes of the same inputs: {self.where}"
        if self.kind == "missing":
            return f"stage {self.stage} is missing in {self.where}"
        return f"stage {self.stage} differs in its {self.kind}: {self.where}"


@dataclass(frozen=True)
class Verdict:
    """`kind` is identical | equivalent | different; the reasons say what was compared, and where the two differ."""

    kind: str
    reasons: tuple[str, ...]


def differences(order: Sequence[str], was: Lock, now: Lock) -> list[Difference]:
    """Compare two locks stage by stage. Consequences of an earlier stage's output are not repeated."""
    made = {out["path"] for stage in now.values() for out in stage.get("outs", ())}
    return [difference for name in order for difference in _of_stage(name, was.get(name), now.get(name), made)]


def _of_stage(
    name: str, was: Mapping[str, Any] | None, now: Mapping[str, Any] | None, made: set[str]
) -> Iterator[Difference]:
    if was is None or now is None:
        yield Difference(name, "missing", "the original's dvc.lock" if was is None else "the replay")
        return
    causes = [*_causes(name, was, now, made)]
    yield from causes
    reads = [_changed(was, now, "deps", path) for path in _paths(was, now, "deps") if path in made]
    if not causes and not any(reads):
        outs = [path for path in _paths(was, now, "outs") if _changed(was, now, "outs", path)]
        yield from (Difference(name, COMPUTED, path) for path in outs)


def _causes(name: str, was: Mapping[str, Any], now: Mapping[str, Any], made: set[str]) -> Iterator[Difference]:
    if was.get("cmd") != now.get("cmd"):
        yield Difference(name, "command", f"{was.get('cmd')} -> {now.get('cmd')}")
    before, after = _flat(was.get("params", {})), _flat(now.get("params", {}))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield Difference(name, "params", f"{key}: {before.get(key)} -> {after.get(key)}")
    for path in _paths(was, now, "deps"):
        if path not in made and _changed(was, now, "deps", path):
            yield Difference(name, "code" if path.startswith("steps/") else "data", path)


def _paths(was: Mapping[str, Any], now: Mapping[str, Any], kind: str) -> list[str]:
    return sorted({item["path"] for lock in (was, now) for item in lock.get(kind, ())})


def _changed(was: Mapping[str, Any], now: Mapping[str, Any], kind: str, path: str) -> bool:
    before, after = ({item["path"]: item["md5"] for item in lock.get(kind, ())}.get(path) for lock in (was, now))
    return before != after


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, above if name == "params.yaml" else f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat


def gaps(was: pd.DataFrame, now: pd.DataFrame, judged: Mapping[str, Any], anew: Mapping[str, Any]) -> dict[str, float]:
    """Return the largest differences: of a test figure, and of a probability for one image.

    The tables hold id, model and probabilities; the figures are the `test` part of evaluation.json. If the two do not
    cover the same images and models, the difference is infinite.
    """
    keys = ["id", "path", "model"]
    both = was.merge(now, on=keys, how="outer", suffixes=("", "_now"), indicator=True)
    if (both["_merge"] != "both").any() or judged.keys() != anew.keys():
        return {"test figure": float("inf"), "probability": float("inf")}
    pairs = [(judged[kind][name]["value"], anew[kind][name]["value"]) for kind in judged for name in FIGURES]
    apart = [
        np.abs(np.subtract(*pair)).max() for pair in zip(both["probabilities"], both["probabilities_now"], strict=True)
    ]
    return {"test figure": max(abs(a - b) for a, b in pairs), "probability": float(max(apart, default=0.0))}


def judge(
    found: Sequence[Difference], reproduced: bool, measured: Mapping[str, float] | None, tolerance: float
) -> Verdict:
    """Return the verdict; `reproduced`: the package has its digest again; `measured`: `gaps`, None if lost."""
    if not found and reproduced:
        return Verdict(IDENTICAL, ("every tracked output and the package have the same bytes",))
    lines = [str(difference) for difference in found] or [
        "the package has another digest, though every output is the same"
    ]
    figures = tuple(f"largest difference of a {name}: {gap:.2g}" for name, gap in (measured or {}).items())
    causes = [difference for difference in found if difference.kind != COMPUTED]
    if causes:
        first = lines.index(str(causes[0]))
        return Verdict(DIFFERENT, (*lines[first:], *lines[:first], *figures))
    if measured is None:
        return Verdict(DIFFERENT, (*lines, "the original's answers are gone: nothing says how far the two are apart"))
    kind = EQUIVALENT if max(measured.values()) <= tolerance else DIFFERENT
    return Verdict(kind, (*lines, *figures, f"tolerance {tolerance:g}"))
