"""Test images that none of the models has learnt from: splits move when shares, layout or listing change."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steps.promotion.evidence import FACTS, SignedFacts
from steps.promotion.terms import SCREENED
from steps.registry import circumstances
from steps.registry.package_loading import Package
from steps.runtime import artefacts, files
from steps.runtime.arrays import Bools
from steps.training.learnt_from import FILE, among, learnt_from, packed

WAY_OUT = "Add test images, or restore the split under which the models learnt"
KEPT = f"{circumstances.FOLDER}/{FILE}"  # in a version's package


@dataclass(frozen=True)
class Unseen:
    """Which test images [n] no model has learnt from; `notes`: how many were left out, and what is not known."""

    mask: Bools
    notes: list[str]

    def shortage(self, labels: Sequence[str], classes: Sequence[str], least: int | None) -> str | None:
        """Return why too few images are left to compare two models: fewer than `least` of some class, or none at all.

        `labels` [n] are those of the test images, `classes` those that both models know (none, if all were renamed). A
        class that had fewer before keeps what it has. None if enough are left or no image was left out; `least` None:
        one image is enough.
        """
        before = Counter(labels)
        left = Counter(label for label, unseen in zip(labels, self.mask, strict=True) if unseen)
        short = [f"{label!r} {left[label]}" for label in classes if left[label] < min(least or 0, before[label])]
        if not self.mask.all() and not any(left[label] for label in classes or left):
            return f"{self.notes[0]}; none is left to compare the two on. {WAY_OUT}"
        if not short:
            return None
        return (
            f"{self.notes[0]}; too few are left of {', '.join(short[:5])}{' ...' if short[5:] else ''}: at least "
            f"{least} per class are needed. {WAY_OUT} (promote.min_unseen_per_class)"
        )


def unseen(ids: Sequence[str], models: Mapping[str, bytes | None]) -> Unseen:
    """Return which test images no model has learnt from; `models`: how to name a model -> its list, None: not known."""
    mask, notes = np.ones(len(ids), dtype=bool), list[str]()
    for name, content in models.items():
        seen = among(ids, content) if content is not None else np.zeros(len(ids), dtype=bool)
        mask &= ~seen
        if seen.any():
            notes.append(f"{seen.sum():,} of {len(ids):,} test images are left out: {name} learnt from them")
        if content is None:
            notes.append(
                f"whether {name} learnt from some of today's test images is not known: it was registered before "
                "versions kept the list"
            )
    return Unseen(mask, sorted(notes, key=lambda note: "not known" in note))


def learnt_by(root: Path, package: Package) -> bytes | None:
    """Return the list of the images that a version learnt from, as `learnt_from.packed` writes it.

    A version without it, made from today's manifest, learnt from that. None if neither is known.
    """
    kept = package.folder / KEPT
    if kept.is_file():
        return kept.read_bytes()
    facts = artefacts.read(SignedFacts, package.folder / FACTS, lenient=True)
    if facts.data_sha256 is None or facts.data_sha256 != files.sha256_of(root / SCREENED):
        return None
    return packed(learnt_from(files.read_table(root / SCREENED), str(facts.kind)))
