"""One self-contained HTML page about what the pipeline found, made of tracked inputs alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from steps.adapters import files, stage
from steps.adapters.album import Album
from steps.adapters.pages import inline_svg, percent, render
from steps.core import figures, findings
from steps.core.decision import FINE_TUNED, HEAD
from steps.core.manifest import TRAIN, UNLABELLED, VAL

NAMES = {HEAD: "head alone", FINE_TUNED: "fine-tuned"}
PICTURE_BUDGET = 3_000_000  # characters for all pictures together: the page stays light enough to mail
MOST_CLASSES = 30  # in one figure; a task with more shows the ends of the scale
MOST_SAMPLED = 24  # classes with sample images; a task with more shows the hardest


@dataclass(frozen=True, kw_only=True)
class ReportParams:
    """How many pictures the page shows, and how large."""

    sample_images: int  # training images of each class
    wrong_answers: int  # of the chosen model on the test split, the most confident first
    thumbnail: int  # longer side, pixels

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the values."""
        if self.sample_images < 1:
            yield f"sample_images is {self.sample_images}; at least 1"
        if self.wrong_answers < 1:
            yield f"wrong_answers is {self.wrong_answers}; at least 1"
        if not 32 <= self.thumbnail <= 512:
            yield f"thumbnail is {self.thumbnail}; between 32 and 512 pixels"


def report(
    params: ReportParams,
    raw: Path,
    backbone: Path,
    accepted: Path,
    validation: Path,
    strategy: Path,
    screening: Path,
    train_head: Path,
    fine_tune: Path,
    evaluation: Path,
    predictions: Path,
    page: Path,
) -> None:
    """Write the report of one run of the pipeline; the same inputs give the same bytes.

    `raw` holds the images and `backbone` a card.json; `accepted` and `predictions` are Parquet, the others the
    stages' JSON. The page needs no network and no script, and stays under 5 MB.
    """
    card, checks = files.read_json(backbone / "card.json"), files.read_json(validation)
    screened, plan, head = (files.read_json(path) for path in (screening, strategy, train_head))
    tuned, judged = files.read_json(fine_tune), files.read_json(evaluation)
    images, answers = files.read_table(accepted), files.read_table(predictions)

    classes, test = judged["classes"], judged["test"][judged["chosen"]]
    counts = {"validation" if name == VAL else name: of for name, of in checks["counts"].items()}
    hardest = findings.hardest_first(test)
    wrong = findings.mistakes(answers, judged["chosen"], classes)
    sampled = classes if len(classes) <= MOST_SAMPLED else [row["label"] for row in hardest[:MOST_SAMPLED]]
    album = Album(raw, params.thumbnail, PICTURE_BUDGET)
    text = render(
        "report.html",
        card=card, checks=checks, screened=screened, plan=plan, head=head, tuned=tuned, judged=judged, test=test,
        names=NAMES, counts=counts,
        images_total=len(images),
        imbalance=findings.imbalance(counts.get(TRAIN, {}), classes),
        majority=findings.majority(test),
        paired=findings.paired(answers),
        hardest=hardest,
        confused=findings.confusions(test),
        svg={
            name: inline_svg(figure, name, words)
            for name, figure, words in _figures(counts, plan, head, tuned, judged)
        },
        most_classes=MOST_CLASSES,
        # The mistakes come before the samples here, too: where the budget is short, they are what the page is for
        wrong_total=len(wrong),
        wrong=[(row, shown) for row in wrong[: params.wrong_answers] if (shown := album.add(row["path"], row["id"]))],
        suspects=[(row, shown) for row in findings.suspects(screened, params.wrong_answers)
                  if (shown := album.add(row["path"], row["id"]))],
        samples={
            label: [shown for path, identity in picked if (shown := album.add(path, identity))]
            for label, picked in findings.sampled(images, sampled, params.sample_images).items()
        },
    )  # fmt: skip

    files.write_text(page, text)


def _figures(
    counts: Mapping[str, Mapping[str, int]], plan: Any, head: Any, tuned: Any, judged: Any
) -> Iterator[tuple[str, Figure, str]]:
    """Yield each figure of the page with its name and the words that stand for it where it cannot be seen."""
    classes, test = judged["classes"], judged["test"][judged["chosen"]]
    accuracies = [
        {"name": name, "chosen": model == judged["chosen"], **judged["test"][model]["accuracy"]}
        for model, name in NAMES.items()
    ]
    largest = findings.majority(test)
    figure = figures.accuracy_intervals(accuracies, largest["value"], f"always “{largest['label']}”")
    said = "; ".join(f"{row['name']} {percent(row['value'])}" for row in accuracies)
    yield "comparison", figure, f"Test accuracy: {said}"

    labelled = {split: of_class for split, of_class in counts.items() if split != UNLABELLED}
    shown = findings.ends_of_scale(counts.get(TRAIN, {}), classes, MOST_CLASSES)
    yield "balance", figures.class_balance(labelled, shown), "Images of each class in each split"

    curve = plan["size"]["curve"]
    reached = percent(curve[-1]["balanced_accuracy"])
    yield "learning", figures.learning_curve(curve), f"Balanced accuracy by labels a class; with all of them {reached}"

    chosen = head["chosen_c"]
    figure = figures.head_path(head["path"], chosen)
    yield "path", figure, f"Validation balanced accuracy by C; the chosen C is {chosen:g}"

    best = tuned["best_epoch"]
    figure = figures.fine_tuning_curve(tuned["epochs"], best)
    yield "curve", figure, f"Validation balanced accuracy and log loss by epoch; the best epoch is {best}"

    if len(classes) <= MOST_CLASSES:
        figure = figures.confusion_matrix(test["confusion"], classes)
        yield "confusion", figure, "Confusion matrix of the test split; the tables beside it say the same"


if __name__ == "__main__":
    stage.main(report)
