"""Compare: two registered versions on the test images of today. Not a stage: it depends on what the registry holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steps.errors import RequestError
from steps.evaluation.comparison import compare as paired
from steps.evaluation.comparison import per_class
from steps.evaluation.intervals import groups_of, sampled
from steps.evaluation.protocol import EvaluateParams
from steps.images.manifest import TEST
from steps.promotion.rematch import answers, weights_of
from steps.promotion.terms import RAW, SCREENED
from steps.registry import ledger, look_ledger, packages
from steps.registry.model_registry import Registry
from steps.runtime import files, params
from steps.runtime.arrays import Floats
from steps.runtime.seeding import numpy_generator


@dataclass(frozen=True)
class Compared:
    """Two versions: what `comparison.compare` found, recalls per class, and the images on which the two differ."""

    model: str
    paired: dict[str, Any]
    per_class: list[dict[str, Any]]
    differ: list[dict[str, Any]]

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        return {"model": self.model, **self.paired, "per_class": self.per_class, "differ": self.differ}

    def lines(self) -> list[str]:
        """Return text for a person."""
        paired = self.paired
        a, b, n = paired["a"], paired["b"], paired["n"]
        lines = [
            f"version {a} against version {b} on {n:,} test images: {paired['sentence']}",
            f"  accuracy {100 * paired['difference']:+.1f} points ({100 * paired['low']:+.1f} to "
            f"{100 * paired['high']:+.1f}, {paired['method']} {paired['confidence']:.0%}); "
            f"McNemar's exact p = {paired['mcnemar_p']:.3g}",
        ]
        for name in ("balanced_accuracy", "log_loss"):
            figure = paired[name]
            low, high = figure.ends
            lines.append(f"  {WORDS[name]} {figure.known:+.3f} ({low:+.3f} to {high:+.3f})")
        for row in self.per_class:
            recalls = f"{100 * row['recall_a']:.1f} % against {100 * row['recall_b']:.1f} % of {row['n']}"
            lines.append(f"  {row['label']}: {recalls}; only {a} right {row['only_a']}, only {b} right {row['only_b']}")
        for row in self.differ:
            both = f"{a} says {row['a']} ({row['of_a']:.2f}), {b} says {row['b']} ({row['of_b']:.2f})"
            lines.append(f"  {row['path']} is {row['label']}: {both}")
        return lines


WORDS = {"balanced_accuracy": "balanced accuracy", "log_loss": "log-loss"}


def compare(root: Path, one: str, other: str) -> Compared:
    """Return the paired comparison of two versions, per class, and the images on which they differ.

    Both answer the raw bytes of today's test images, and each is recorded as a look. A class that a version never
    learnt gets probability 0, an image that it cannot read counts as wrong. Raises RequestError where there is no such
    version, RegistryError where it is not what was signed or decided about, IntegrityError where a test image is not
    what ingest saw.
    """
    document, registry = params.read(root), Registry(root)
    for version in (one, other):
        if not registry.has(version):
            raise RequestError(
                f"{registry.name} has no version {version}, or its files are gone; `regraft history` lists them"
            )
    rules = params.bind(EvaluateParams, document.get("evaluate"), "evaluate")
    table = files.read_table(root / SCREENED)
    part = table[table["split"] == TEST].sort_values("path")
    chain = ledger.whole(ledger.read(registry))
    loaded = [packages.load(registry, version, chain.package_of(version)) for version in (one, other)]
    look_ledger.record([weights_of(package) for package in loaded], part["id"])

    classes = sorted(part["label"].unique())
    a, b = (_probabilities(package, root, part, classes) for package in loaded)
    targets = np.searchsorted(classes, part["label"].tolist())
    right_a, right_b = (answers.argmax(axis=1) == targets for answers in (a, b))
    sample, rng = sampled(targets, groups_of(part)), numpy_generator(document["seed"], "compare", one, other)
    return Compared(
        registry.name,
        paired((one, other), targets, a, b, sample, rules, rng),
        per_class(targets, right_a, right_b, classes),
        _differing(part, classes, [a, b]),
    )


def _probabilities(package: packages.Package, root: Path, part: pd.DataFrame, classes: list[str]) -> Floats:
    """Return a version's probabilities, [n, classes + 1]; classes that no longer exist share the last column.

    So does all of an image that it cannot read: a wrong answer, as the gate of promotion counts it.
    """
    rows = list(zip(part["path"], part["id"], strict=True))
    told = answers(package, root / RAW, rows, "probabilities")
    known = list(package.model.unwrap_python_model().classes)
    found = np.array([np.zeros(len(known)) if answer is None else answer for answer in told])
    columns = [found[:, known.index(label)] if label in known else np.zeros(len(found)) for label in classes]
    gone = [i for i, label in enumerate(known) if label not in classes]
    unread = [answer is None for answer in told]
    return np.stack([*columns, np.where(unread, 1.0, found[:, gone].max(axis=1, initial=0.0))], axis=1)


def _differing(part: pd.DataFrame, classes: list[str], told: list[Any]) -> list[dict[str, Any]]:
    """List the images to which the two gave different answers."""
    names = [*classes, "another class"]
    picked = [answers.argmax(axis=1) for answers in told]
    return [
        {
            "path": path,
            "label": label,
            "a": names[a],
            "b": names[b],
            "of_a": float(told[0][i, a]),
            "of_b": float(told[1][i, b]),
        }
        for i, (path, label, a, b) in enumerate(zip(part["path"], part["label"], *picked, strict=True))
        if a != b
    ]
