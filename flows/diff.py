"""Changes in the data between two versions: images added, removed, relabelled, moved; the classes' balance."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from flows.graph import read_at
from steps.errors import RequestError
from steps.images.manifest import SPLITS, class_counts

MANIFEST, WORKSPACE = "data/manifest.parquet", "workspace"
SHOWN = 10  # images per kind in the text; --json lists all


Side = str | list[str]  # as text, or [old, new] if the two differ


@dataclass(frozen=True)
class ImageDifference:
    """An image by its bytes: its paths, labels and splits."""

    id: str
    path: Side
    label: Side
    split: Side


@dataclass(frozen=True)
class DataDifference:
    """Two versions compared by the images' bytes: a file that was renamed is the same image.

    `balance`: split -> label -> [count, share of the split] in the old and in the new version.
    """

    old: str
    new: str
    images: tuple[int, int]
    added: list[ImageDifference]
    removed: list[ImageDifference]
    relabelled: list[ImageDifference]
    moved: list[ImageDifference]
    renamed: list[ImageDifference]
    balance: dict[str, dict[str, list[list[float]]]]

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Return text for a person."""
        return [*self._lines()]

    def _lines(self) -> Iterator[str]:
        yield f"{self.old} -> {self.new}: {self.images[0]} images, then {self.images[1]}"
        for kind in ("added", "removed", "relabelled", "moved", "renamed"):
            items = getattr(self, kind)
            yield f"  {kind:<11}{len(items)}"
            for item in items[:SHOWN]:
                values = [value for value in (item.path, item.label, item.split) if value]
                yield "    " + "  ".join(" -> ".join(v) if isinstance(v, list) else v for v in values)
            if len(items) > SHOWN:
                yield f"    and {len(items) - SHOWN} more (--json lists all)"
        for split, labels in self.balance.items():
            yield f"  {split}"
            for label, ((count, share), (later, share_later)) in labels.items():
                mark = "" if count == later else f"   {later - count:+d}"
                yield f"    {label or '(none)'}: {count} ({share:.1%}) -> {later} ({share_later:.1%}){mark}"


def between(root: Path, old: str, new: str) -> DataDifference:
    """Compare the manifests of two revisions; `workspace` is the working copy. RequestError as in `read_at`."""
    return compare(old, new, _manifest(root, old), _manifest(root, new))


def compare(old: str, new: str, before: pd.DataFrame, after: pd.DataFrame) -> DataDifference:
    """Compare two manifests (id, path, label, split; one row per file)."""
    was, now = _by_image(before), _by_image(after)
    both = [(was[key], now[key]) for key in was if key in now]

    def changed(field: str) -> list[ImageDifference]:
        values = [(image, [getattr(old, field), getattr(image, field)]) for old, image in both]
        return [replace(image, **{field: pair}) for image, pair in values if pair[0] != pair[1]]  # type: ignore[arg-type]

    return DataDifference(
        old,
        new,
        (len(was), len(now)),
        added=[now[key] for key in now if key not in was],
        removed=[was[key] for key in was if key not in now],
        relabelled=changed("label"),
        moved=changed("split"),
        renamed=changed("path"),
        balance=_balance(before, after),
    )


def _manifest(root: Path, revision: str) -> pd.DataFrame:
    if revision != WORKSPACE:
        return pd.read_parquet(io.BytesIO(read_at(root, MANIFEST, revision)))
    if not (root / MANIFEST).exists():
        raise RequestError(f"there is no {MANIFEST} here yet; `regraft run` makes it")
    return pd.read_parquet(root / MANIFEST)


def _by_image(table: pd.DataFrame) -> dict[str, ImageDifference]:
    """Return id -> its paths, labels and splits, each as sorted text: copies of one image are one image."""
    columns = ["path", "label", "split"]
    sides: dict[str, list[set[str]]] = {}
    for identity, *values in table.sort_values("path")[["id", *columns]].itertuples(index=False):
        for known, value in zip(sides.setdefault(identity, [set(), set(), set()]), values, strict=True):
            known.add(value)
    return {key: ImageDifference(key, *(", ".join(sorted(side)) for side in of)) for key, of in sides.items()}


def _balance(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, dict[str, list[list[float]]]]:
    counts = [class_counts(zip(table["split"], table["label"], strict=True)) for table in (before, after)]

    def told(version: dict[str, dict[str, int]], split: str, label: str) -> list[float]:
        count = version.get(split, {}).get(label, 0)
        return [count, count / max(1, sum(version.get(split, {}).values()))]

    labels = {split: sorted({label for version in counts for label in version.get(split, {})}) for split in SPLITS}
    return {
        split: {label: [told(version, split, label) for version in counts] for label in of_split}
        for split, of_split in labels.items()
        if of_split
    }
