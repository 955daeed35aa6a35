"""Images in groups without any fault: how often a gate accuses them, and how many planted wrong labels it finds.

`python -m tests.studies.grouped_evidence` prints the shares; 200 sets per row take some minutes.
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from steps.checks import label_errors, selection, shift
from steps.training.linear_probe import Labelled

SIZES = {  # images of each group
    "8 groups of 50": np.full(8, 50),
    "20 groups of 20": np.full(20, 20),
    "40 groups of 10": np.full(40, 10),
    "2 groups of 50, 40 of 5": np.array([50, 50, *[5] * 40]),
}
EFFECT = 0.5  # of a shortcut, and 0.2 of a gap: params.yaml's limits, beyond which a rule speaks
WIDTH, ALIKE = 64, 0.8  # of the features; the share of their spread that a group has in common


def pictures(sizes: np.ndarray, seed: int) -> pd.DataFrame:
    """Return a manifest whose measures, sources and splits are constant within a group, and unrelated to the label."""
    rng, group = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    of_group = pd.DataFrame(
        {
            "label": rng.permutation(np.arange(len(sizes)) % 2).astype(str),
            "brightness": rng.normal(0.5, 0.1, len(sizes)),
            "bytes": rng.integers(10_000, 1_000_000, len(sizes)),
            "source": [f"camera {number}" for number in rng.integers(0, 4, len(sizes))],
            "split": np.where(rng.random(len(sizes)) < 0.6, "train", "test"),
            "group": [f"patient {number}" for number in range(len(sizes))],
        }
    )
    table = of_group.iloc[group].reset_index(drop=True)
    return table.assign(
        id=[f"{number:064x}" for number in rng.permutation(len(table))],
        brightness=table["brightness"] + rng.normal(0, 0.01, len(table)),
        bytes=table["bytes"] + rng.integers(0, 5000, len(table)),
        contrast=rng.random(len(table)),
        sharpness=rng.random(len(table)),
        width=100,
        height=100,
        format="JPEG",
        mode="RGB",
        taken="",
        weight=1.0,
    )


def features(sizes: np.ndarray, labels: np.ndarray, rng: np.random.Generator, signal: float) -> np.ndarray:
    """Return features [n, WIDTH] of groups with these labels; images of a group are alike."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    own = rng.normal(size=(len(sizes), WIDTH))[group]
    x = np.sqrt(ALIKE) * own + np.sqrt(1 - ALIKE) * rng.normal(size=(len(group), WIDTH))
    x[:, :16] += signal * labels[group][:, None]
    return np.asarray(x, dtype=np.float32)


def shortcut_accused(sizes: np.ndarray, seed: int) -> bool:
    rows = selection.shortcuts(pictures(sizes, seed), np.random.default_rng(seed + 1000))
    return any(row.significant and row.effect > EFFECT for row in rows)


def coverage_accused(sizes: np.ndarray, seed: int) -> bool:
    return any(row.significant and row.effect > 0.2 for row in selection.coverage(pictures(sizes, seed)))


def source_accused(sizes: np.ndarray, seed: int) -> bool:
    images = pictures(sizes, seed)
    return any(row.significant for row in selection.representation(images.assign(source=images["group"])))


def population_accused(sizes: np.ndarray, seed: int) -> bool:
    images, rng = pictures(sizes, seed), np.random.default_rng(seed)
    images["label"] = images["group"].map({name: str(rng.integers(2)) for name in images["group"].unique()})
    units = selection.independent(images)["label"].value_counts().to_dict()
    counts = {"train": images["label"].value_counts().to_dict()}
    return any(row.significant for row in selection.population_fit(counts, {"0": 1, "1": 1}, {"train": units}))


def shift_accused(sizes: np.ndarray, seed: int) -> bool:
    """Compare grouped training images with single images of the same world."""
    rng = np.random.default_rng(seed)
    none = np.zeros(len(sizes))
    first, second = features(sizes, none, rng, 0), features(np.ones(80, dtype=int), np.zeros(80), rng, 0)
    test = shift.two_sample(first, second, seed, np.repeat(np.arange(len(sizes)), sizes))
    return test.p < selection.ALPHA


def labels_accused(sizes: np.ndarray, seed: int, wrong: int = 0, signal: float = 1.5) -> tuple[bool, float]:
    """Return whether the estimate of wrong labels is significant, and the share of those planted that are suspected."""
    rng = np.random.default_rng(seed)
    true = np.arange(len(sizes)) % 2
    bad = rng.choice(len(sizes), wrong, replace=False)
    given = np.where(np.isin(np.arange(len(sizes)), bad), 1 - true, true)
    group = np.repeat(np.arange(len(sizes)), sizes)
    data = Labelled(features(sizes, true, rng, signal), given[group], np.ones(len(group)))
    answers, _ = label_errors.out_of_fold(data, 2, seed, group)
    suspects = np.isin(group[label_errors.suspects(data.targets, answers)], bad).sum()
    planted = np.isin(group, bad).sum()
    accused = label_errors.noise(data.targets, answers, group).p < selection.ALPHA
    return accused, float(suspects / planted) if planted else 0.0


ACCUSED = {
    "a shortcut": shortcut_accused,
    "a gap of coverage": coverage_accused,
    "a source of one class": source_accused,
    "the class shares": population_accused,
    "a shift": shift_accused,
    "labels": lambda sizes, seed: labels_accused(sizes, seed)[0],
    "labels, weak head": lambda sizes, seed: labels_accused(sizes, seed, signal=0.5)[0],
}


def rates(sizes: np.ndarray, sets: int) -> Iterator[tuple[str, float]]:
    """Yield how often each gate accuses images in groups that have no fault."""
    for what, accused in ACCUSED.items():
        yield what, float(np.mean([accused(sizes, seed) for seed in range(sets)]))


def main(sets: Annotated[int, typer.Option(help="simulated sets per row")] = 200) -> None:
    """Print the table of false alarms, and how many of the wrong labels of two whole groups are found."""
    typer.echo("| groups | " + " | ".join(ACCUSED) + " | wrong labels of 2 groups suspected |")
    typer.echo("|---|" + "---|" * (len(ACCUSED) + 1))
    for words, sizes in SIZES.items():
        found = np.mean([labels_accused(sizes, seed, wrong=2)[1] for seed in range(sets)])
        shares = [share for _, share in rates(sizes, sets)] + [float(found)]
        typer.echo(f"| {words} | " + " | ".join(f"{100 * share:.0f} %" for share in shares) + " |")


if __name__ == "__main__":
    typer.run(main)
