"""Compare: two registered versions on the test images of today. Not a stage: it depends on what the registry holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.errors import RequestError
from steps.promotion.rematch import ACCEPTED, RAW, answers, weights_of
from steps.registry import ledger, look_ledger, packages
from steps.registry.model_registry import Registry
from steps.runtime import files, params

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def compare(root: Path, one: str, other: str) -> dict[str, Any]:
    """Return the paired comparison of two versions, per class, and the images on which they differ.

    Both answer the raw bytes of today's test images, and each is recorded as a look. A class that a version never
    learnt gets probability 0, an image that it cannot read counts as wrong. Raises RequestError where there is no such
    version, RegistryError where it is not what was signed or decided about, IntegrityError where a test image is not
    what ingest saw.
    """
    import numpy as np

    from steps.evaluation.comparison import compare as paired
    from steps.evaluation.comparison import per_class
    from steps.evaluation.intervals import groups_of, sampled
    from steps.evaluation.protocol import EvaluateParams
    from steps.images.manifest import TEST
    from steps.runtime.seeding import numpy_generator

    document, registry = params.read(root), Registry(root)
    for version in (one, other):
        if not registry.has(version):
            raise RequestError(
                f"{registry.name} has no version {version}, or its files are gone; `regraft history` lists them"
            )
    rules = params.bind(EvaluateParams, document.get("evaluate"), "evaluate")
    table = files.read_table(root / ACCEPTED)
    part = table[table["split"] == TEST].sort_values("path")
    chain = ledger.whole(ledger.read(registry))
    loaded = [packages.load(registry, version, chain.package_of(version)) for version in (one, other)]
    look_ledger.record([weights_of(package) for package in loaded], part["id"])

    classes = sorted(part["label"].unique())
    a, b = (_probabilities(package, root, part, classes) for package in loaded)
    targets = np.searchsorted(classes, part["label"].tolist())
    right_a, right_b = (answers.argmax(axis=1) == targets for answers in (a, b))
    sample, rng = sampled(targets, groups_of(part)), numpy_generator(document["seed"], "compare", one, other)
    return {
        "model": registry.name,
        **paired((one, other), targets, a, b, sample, rules, rng),
        "per_class": per_class(targets, right_a, right_b, classes),
        "differ": _differing(part, classes, [a, b]),
    }


def _probabilities(
    package: packages.Package, root: Path, part: "pd.DataFrame", classes: list[str]
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return a version's probabilities, [n, classes + 1]; classes that no longer exist share the last column.

    So does all of an image that it cannot read: a wrong answer, as the gate of promotion counts it.
    """
    import numpy as np

    rows = list(zip(part["path"], part["id"], strict=True))
    told = answers(package, root / RAW, rows, "probabilities")
    known = list(package.model.unwrap_python_model().classes)
    found = np.array([np.zeros(len(known)) if answer is None else answer for answer in told])
    columns = [found[:, known.index(label)] if label in known else np.zeros(len(found)) for label in classes]
    gone = [i for i, label in enumerate(known) if label not in classes]
    unread = [answer is None for answer in told]
    return np.stack([*columns, np.where(unread, 1.0, found[:, gone].max(axis=1, initial=0.0))], axis=1)


def _differing(part: "pd.DataFrame", classes: list[str], told: list[Any]) -> list[dict[str, Any]]:
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


def lines(found: dict[str, Any]) -> list[str]:
    """Return a comparison as lines of text."""
    a, b, n = found["a"], found["b"], found["n"]
    said = [
        f"version {a} against version {b} on {n:,} test images: {found['sentence']}",
        f"  accuracy {100 * found['difference']:+.1f} points ({100 * found['low']:+.1f} to {100 * found['high']:+.1f}, "
        f"{found['method']} {found['confidence']:.0%}); McNemar's exact p = {found['mcnemar_p']:.3g}",
        *(
            f"  {what} {row.value:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
            for what, row in (("balanced accuracy", found["balanced_accuracy"]), ("log-loss", found["log_loss"]))
        ),
    ]
    for row in found["per_class"]:
        recalls = f"{100 * row['recall_a']:.1f} % against {100 * row['recall_b']:.1f} % of {row['n']}"
        said += [f"  {row['label']}: {recalls}; only {a} right {row['only_a']}, only {b} right {row['only_b']}"]
    for row in found["differ"]:
        answers = f"{a} says {row['a']} ({row['of_a']:.2f}), {b} says {row['b']} ({row['of_b']:.2f})"
        said += [f"  {row['path']} is {row['label']}: {answers}"]
    return said
