"""Compare: two registered versions on the test images of today. Not a stage: it depends on what the registry holds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from steps.errors import RequestError
from steps.evaluation.comparison import compare as paired
from steps.evaluation.comparison import per_class
from steps.evaluation.intervals import groups_of, sampled
from steps.evaluation.protocol import EvaluateParams
from steps.evaluation.results import ClassComparison, Comparison
from steps.images.manifest import TEST
from steps.promotion.rematch import answers, weights_of
from steps.promotion.terms import RAW, SCREENED
from steps.registry import ledger, look_ledger, packages
from steps.registry.model_registry import Registry
from steps.runtime import files, params
from steps.runtime.arrays import Floats
from steps.runtime.seeding import numpy_generator


@dataclass(frozen=True)
class Disagreement:
    """An image to which the two versions gave different answers, each with the probability of its own."""

    path: str
    label: str
    a: str
    b: str
    of_a: float
    of_b: float


@dataclass(frozen=True)
class VersionComparison:
    """Two versions of a model compared: overall, for each class, and the images on which they differ."""

    model: str
    overall: Comparison
    per_class: list[ClassComparison]
    differ: list[Disagreement]

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        return {"model": self.model, **vars(self.overall), "per_class": self.per_class, "differ": self.differ}

    def lines(self) -> list[str]:
        """Return lines of text."""
        found, a, b = self.overall, self.overall.a, self.overall.b
        text = [
            f"version {a} against version {b} on {found.n:,} test images: {found.sentence}",
            f"  accuracy {100 * found.difference:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f}, "
            f"{found.method} {found.confidence:.0%}); McNemar's exact p = {found.mcnemar_p:.3g}",
        ]
        for name, figure in (("balanced accuracy", found.balanced_accuracy), ("log-loss", found.log_loss)):
            low, high = figure.ends
            text.append(f"  {name} {figure.known:+.3f} ({low:+.3f} to {high:+.3f})")
        for row in self.per_class:
            recalls = f"{100 * row.recall_a:.1f} % against {100 * row.recall_b:.1f} % of {row.n}"
            text.append(f"  {row.label}: {recalls}; only {a} right {row.only_a}, only {b} right {row.only_b}")
        for image in self.differ:
            answers = f"{a} says {image.a} ({image.of_a:.2f}), {b} says {image.b} ({image.of_b:.2f})"
            text.append(f"  {image.path} is {image.label}: {answers}")
        return text


def compare(root: Path, one: str, other: str) -> VersionComparison:
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
    return VersionComparison(
        registry.name,
        paired((one, other), targets, a, b, sample, rules, rng),
        per_class(targets, right_a, right_b, classes),
        _differing(part, classes, a, b),
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


def _differing(part: pd.DataFrame, classes: list[str], a: Floats, b: Floats) -> list[Disagreement]:
    names = [*classes, "another class"]
    picked = zip(part["path"], part["label"], a.argmax(axis=1), b.argmax(axis=1), strict=True)
    return [
        Disagreement(path, label, names[of_a], names[of_b], float(a[i, of_a]), float(b[i, of_b]))
        for i, (path, label, of_a, of_b) in enumerate(picked)
        if of_a != of_b
    ]
