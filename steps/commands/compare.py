"""Compare two registered versions on today's test images. Not a stage: it depends on what the registry holds."""

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
from steps.images.manifest import TEST, in_use, normal
from steps.promotion.rematch import answers, weights_of
from steps.promotion.terms import RAW, SCREENED, PromoteParams
from steps.promotion.unseen import learnt_by, unseen
from steps.registry import ledger, look_ledger, package_loading
from steps.registry.model_registry import Registry
from steps.runtime import files, params
from steps.runtime.arrays import Floats, Ints
from steps.runtime.seeding import numpy_generator


@dataclass(frozen=True)
class Disagreement:
    """An image to which the two versions gave different answers, and the probability that each gave to its own."""

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
    notes: list[str]  # which test images were left out, and what is not known

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        return {
            "model": self.model,
            **vars(self.overall),
            "per_class": self.per_class,
            "differ": self.differ,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """Return lines of text."""
        result, a, b = self.overall, self.overall.a, self.overall.b
        text = [
            *self.notes,
            f"version {a} against version {b} on {result.n:,} test images, in accuracy: {result.sentence}",
            f"  accuracy {100 * result.difference:+.1f} points ({100 * result.low:+.1f} to {100 * result.high:+.1f}, "
            f"{result.method} {result.confidence:.0%}); McNemar's exact p = {result.mcnemar_p:.3g}",
        ]
        for name, figure in (("balanced accuracy", result.balanced_accuracy), ("log-loss", result.log_loss)):
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
    learnt gets probability 0, an image that it cannot read counts as wrong, an image that either learnt from is left
    out. Raises RequestError if there is no such version or too few images are left, RegistryError if it is not what was
    signed or decided on, IntegrityError if a test image has changed since ingest.
    """
    document, registry = params.read(root), Registry(root)
    for version in (one, other):
        if not registry.has(version):
            raise RequestError(
                f"{registry.name} has no version {version}, or its files are gone; `regraft history` lists them"
            )
    rules = params.bind(EvaluateParams, document.get("evaluate"), "evaluate")
    table = files.read_table(root / SCREENED)
    images = in_use(table, TEST).sort_values("path")
    chain = ledger.whole(ledger.read(registry))
    loaded = [package_loading.load(registry, version, chain.package_of(version)) for version in (one, other)]
    seen = unseen(images["id"], {f"version {package.version}": learnt_by(root, package) for package in loaded})
    least = params.bind(PromoteParams, document.get("promote"), "promote").min_unseen_per_class
    if shortage := seen.shortage(images["label"], sorted(images["label"].unique()), least):
        raise RequestError(shortage)
    images = images[seen.mask]
    look_ledger.record([weights_of(package) for package in loaded], images["id"])

    classes = sorted(images["label"].unique())
    (a, of_a), (b, of_b) = (_told(package, root, images, classes) for package in loaded)
    answered = of_a, of_b
    targets = np.searchsorted(classes, images["label"].tolist())
    right_a, right_b = (answers == targets for answers in answered)
    sample, rng = sampled(targets, groups_of(images)), numpy_generator(document["seed"], "compare", one, other)
    return VersionComparison(
        registry.name,
        paired((one, other), targets, a, b, sample, rules, rng, answered),
        per_class(targets, right_a, right_b, classes),
        _differing(images, classes, (a, b), answered),
        seen.notes,
    )


def _told(
    package: package_loading.Package, root: Path, images: pd.DataFrame, classes: list[str]
) -> tuple[Floats, Ints]:
    """Return a version's probabilities, [n, classes + 1], and the columns that it answers, [n].

    Classes that no longer exist share the last column. An image that it cannot read has all its probability there: a
    wrong answer, as in the gate of promotion.
    """
    pairs = list(zip(images["path"], images["id"], strict=True))
    told = answers(package, root / RAW, pairs, "probabilities")
    known = [normal(label) for label in package.model.unwrap_python_model().classes]
    scores = np.array([np.zeros(len(known)) if answer is None else answer for answer in told])
    columns = [scores[:, known.index(label)] if label in known else np.zeros(len(scores)) for label in classes]
    gone, unread = [i for i, label in enumerate(known) if label not in classes], [answer is None for answer in told]
    of_known = np.array([classes.index(label) if label in classes else len(classes) for label in known])
    answered = of_known[(scores * package.facts.weights).argmax(axis=1)]
    last = np.where(unread, 1.0, scores[:, gone].max(axis=1, initial=0.0))
    return np.stack([*columns, last], axis=1), np.where(unread, len(classes), answered)


def _differing(
    images: pd.DataFrame, classes: list[str], chances: tuple[Floats, Floats], answered: tuple[Ints, Ints]
) -> list[Disagreement]:
    names, (a, b) = [*classes, "another class"], chances
    picked = zip(images["path"], images["label"], *answered, strict=True)
    return [
        Disagreement(path, label, names[of_a], names[of_b], float(a[i, of_a]), float(b[i, of_b]))
        for i, (path, label, of_a, of_b) in enumerate(picked)
        if of_a != of_b
    ]
