"""What a reader of the report wants to know first, picked from the tables: mistakes, confusions, balance, samples."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from steps.evaluation.results import ClassJudgement, Judgement
from steps.images.manifest import TEST, TRAIN
from steps.pages.inspection import AnsweredImage
from steps.runtime.figure import Figure
from steps.training.choice import FINE_TUNED, HEAD
from steps.training.histories import FineTuneHistory

NAMES = {HEAD: "head alone", FINE_TUNED: "fine-tuned"}


def compared(tuned: FineTuneHistory) -> dict[str, str]:
    """Return the models that have figures of their own, with their names: no second one if nothing was fine-tuned."""
    return NAMES if tuned.trained else {HEAD: NAMES[HEAD]}


def mistakes(answers: pd.DataFrame, model: str, classes: Sequence[str]) -> list[AnsweredImage]:
    """List a model's wrong answers on the test split, the most confident first.

    `answers` has the columns of data/predictions.parquet.
    """
    asked = answers[(answers["split"] == TEST) & (answers["model"] == model)]
    wrong = asked[asked["predicted"] != asked["label"]]
    index = {label: i for i, label in enumerate(classes)}
    columns = (wrong[name] for name in ("id", "path", "label", "predicted", "probabilities"))
    rows = [
        AnsweredImage(
            identity,
            path,
            label,
            predicted,
            of_predicted=float(chances[index[predicted]]),
            of_label=float(chances[index[label]]),
        )
        for identity, path, label, predicted, chances in zip(*columns, strict=True)
    ]
    return sorted(rows, key=lambda image: (-image.of_predicted, image.path))


def paired(answers: pd.DataFrame) -> dict[str, int]:
    """Count the test images on which the two models differ: those that fine-tuning fixed and those it broke."""
    test = answers[answers["split"] == TEST]
    right = {model: set(of["path"][of["predicted"] == of["label"]]) for model, of in test.groupby("model")}
    before, after = right[HEAD], right[FINE_TUNED]
    return {"mended": len(after - before), "broken": len(before - after)}


def figures(tests: Mapping[str, Judgement], models: Collection[str] = tuple(NAMES)) -> dict[str, dict[str, Figure]]:
    """Turn model -> judgement into figure -> model -> value with interval, for every figure of the first model."""
    kept = {model: judged.figures for model, judged in tests.items() if model in models}
    return {name: {model: of_model[name] for model, of_model in kept.items()} for name in next(iter(kept.values()))}


@dataclass(frozen=True)
class Confusion:
    """How often images of one class were classified as another, and the share of the class's images."""

    truth: str
    answer: str
    count: int
    share: float


def confusions(judged: Judgement, most: int = 10) -> list[Confusion]:
    """List the most frequent confusions."""
    labels = [row.label for row in judged.per_class]
    pairs = [
        Confusion(truth, answer, count, count / sum(counts))
        for truth, counts in zip(labels, judged.confusion, strict=True)
        for answer, count in zip(labels, counts, strict=True)
        if answer != truth and count
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, pair.truth, pair.answer))[:most]


def hardest_first(judged: Judgement) -> list[ClassJudgement]:
    """Sort the classes by recall, the lowest first; a class without test images comes last."""

    def key(row: ClassJudgement) -> tuple[bool, float, str]:
        recall = row.recall.value
        return recall is None, recall or 0.0, row.label

    return sorted(judged.per_class, key=key)


@dataclass(frozen=True)
class Majority:
    """The accuracy of always answering one class."""

    label: str
    value: float


def majority(judged: Judgement, label: str) -> Majority:
    """Return the accuracy on the split of always answering one class, usually the commonest training label.

    The test images do not determine that class: whoever answers without looking knows only the training labels.
    """
    named = sum(row.n for row in judged.per_class if row.label == label)
    return Majority(label, named / judged.n)


def imbalance(counts: Mapping[str, int], classes: Sequence[str]) -> float | None:
    """Return the ratio of the largest class's images to the smallest class's; None if a class has none."""
    sizes = [counts.get(label, 0) for label in classes]
    return max(sizes) / min(sizes) if min(sizes) else None


def ends_of_scale(counts: Mapping[str, int], classes: Sequence[str], most: int) -> list[str]:
    """Return all classes in their order, or the largest and the smallest if there are more than `most`."""
    if len(classes) <= most:
        return list(classes)
    ordered = sorted(classes, key=lambda label: (-counts.get(label, 0), label))
    return [*ordered[: most // 2], *ordered[-(most // 2) :]]


def sampled(images: pd.DataFrame, classes: Sequence[str], most: int) -> dict[str, list[tuple[str, str]]]:
    """Pick (path, id) of up to `most` training images per class, in order of content hash, so that nobody chooses."""
    train = images[images["split"] == TRAIN].sort_values(["id", "path"])
    picked: dict[str, list[tuple[str, str]]] = {label: [] for label in classes}
    for label, path, identity in zip(train["label"], train["path"], train["id"], strict=True):
        if label in picked and len(picked[label]) < most:
            picked[label].append((path, identity))
    return picked
