"""One self-contained HTML page about the pipeline's results, made from tracked inputs alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from annotated_types import Ge, Interval
from matplotlib.figure import Figure

from steps.backbones import models
from steps.checks.reports import Counts, Screening, Validation
from steps.checks.rules import SWAPPED
from steps.evaluation.results import Evaluation, Judgement, Transfer
from steps.images.deep_grey import used_bits
from steps.images.manifest import TRAIN, UNLABELLED, VAL
from steps.pages import figures, figures_calibration, findings
from steps.pages.album import Album, exchanged
from steps.pages.caveats import caveats
from steps.pages.findings import NAMES
from steps.pages.inspection import Inspection
from steps.pages.rendering import Picture, inline_svg, percent, render
from steps.runtime import artefacts, files, stage
from steps.training.choice import HEAD
from steps.training.histories import BaselinesHistory, FineTuneHistory, HeadHistory
from steps.training.strategy import Strategy

RIVALS = {"pixels": "pixels alone", "scratch": "from scratch"}  # baselines worth a row beside the two
PICTURE_BUDGET = 3_000_000  # characters for all pictures together: the page stays light enough to mail
MOST_CLASSES = 30  # in one figure; a task with more shows the ends of the scale
GLANCED = 4  # mistakes on the first screen
MOST_SAMPLED = 24  # classes with sample images; a task with more shows the hardest


@dataclass(frozen=True, kw_only=True)
class ReportParams:
    """How many pictures the page shows, and how large."""

    sample_images: Annotated[int, Ge(1)]  # training images of each class
    wrong_answers: Annotated[int, Ge(1)]  # of the chosen model on the test split, the most confident first
    thumbnail: Annotated[int, Interval(ge=32, le=512)]  # longer side, pixels


Drawing = tuple[str, Figure, str]  # name in the templates, figure, alternative text


@dataclass(frozen=True, kw_only=True)
class Found:
    """The stages' results: the templates' variables, under these names. A chapter adds what it needs."""

    card: models.Card
    checks: Validation
    screened: Screening
    plan: Strategy
    head: HeadHistory
    tuned: FineTuneHistory
    judged: Evaluation
    rivals: BaselinesHistory
    inspected: Inspection
    images: pd.DataFrame
    answers: pd.DataFrame

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the labels, in the order of probabilities and of the confusion matrix."""
        return self.judged.classes

    @property
    def test(self) -> Judgement:
        """Return the chosen model's figures on the test split."""
        return self.judged.judgement

    @property
    def commonest(self) -> str:
        """Return the label that most of the training images carry, as `baselines` counted them."""
        return self.rivals.majority.label

    @property
    def counts(self) -> Counts:
        """Return the images of each class in each split, splits in words."""
        return {"validation" if name == VAL else name: of for name, of in self.checks.counts.items()}


def report(
    params: ReportParams,
    raw: Path,
    backbone: Path,
    screened: Path,
    validation: Path,
    strategy: Path,
    screening: Path,
    train_head: Path,
    fine_tune: Path,
    evaluation: Path,
    predictions: Path,
    baselines: Path,
    inspection: Path,
    page: Path,
) -> None:
    """Write the report of one run of the pipeline; the same inputs give the same bytes.

    `raw` holds the images and `backbone` a card.json; `screened` and `predictions` are Parquet, the others the
    stages' JSON. The page needs no network and no script, and stays under 5 MB.
    """
    results = Found(
        card=models.read_card(backbone),
        checks=artefacts.read(Validation, validation),
        screened=artefacts.read(Screening, screening),
        plan=artefacts.read(Strategy, strategy),
        head=artefacts.read(HeadHistory, train_head),
        tuned=artefacts.read(FineTuneHistory, fine_tune),
        judged=artefacts.read(Evaluation, evaluation),
        rivals=artefacts.read(BaselinesHistory, baselines),
        inspected=artefacts.read(Inspection, inspection),
        images=files.read_table(screened),
        answers=files.read_table(predictions),
    )
    album = Album(raw, params.thumbnail, PICTURE_BUDGET, used_bits(results.images))
    # The mistakes come before the samples here, too: if the budget is short, the page is for them
    context = {
        **_test(results),
        **_wrong_answers(results, album, params),
        **_data(results, album, params),
        "accounts_shown": _accounts_shown(results, album),
        "caveats": caveats((*results.checks.rules, *results.screened.rules), results.screened.splits, results.judged),
    }
    svg = {name: inline_svg(figure, name, words) for name, figure, words in _drawings(results)}

    files.write_text(page, render("report.html", **vars(results), **context, svg=svg, most_classes=MOST_CLASSES))


def _test(results: Found) -> dict[str, object]:
    """Collect the content of the test split's chapters, and the names that all chapters use."""
    chosen, test = results.judged.chosen, results.test
    return {
        "names": findings.compared(results.tuned),
        "chosen": chosen,
        "chosen_name": NAMES[chosen],
        "classes": results.classes,
        "test": test,
        "figures": findings.figures(results.judged.test, findings.compared(results.tuned)),
        "majority": findings.majority(test, results.commonest),
        "paired": findings.paired(results.answers),
        "hardest": findings.hardest_first(test),
        "confused": findings.confusions(test),
    }


def _wrong_answers(results: Found, album: Album, params: ReportParams) -> dict[str, object]:
    """Gather the mistakes and the suspects, with their pictures."""
    wrong = findings.mistakes(results.answers, results.judged.chosen, results.classes)
    suspects = _suspects(results.screened, params.wrong_answers)
    surest = [vars(image) for image in wrong[: params.wrong_answers]]
    shown = _pictured(surest, album, "Test image of class {label}, named {predicted}")
    album.budget -= sum(len(picture.uri) for _, picture, _ in shown[:GLANCED])  # the first screen shows them, too
    return {
        "wrong_total": len(wrong),
        "wrong": shown,
        "glanced": shown[:GLANCED],
        "suspects": _pictured(suspects, album, "Suspect {path}"),
    }


def _suspects(screened: Screening, most: int) -> list[dict[str, str]]:
    """List about `most` images that a person should look at first: path, id, and the reason in words."""
    labels = [(row, f"labelled {row.label}, looks like {row.suggested}") for row in screened.label_errors]
    like = [
        (image, f"like {group.images[0].path} in another split")
        for group in screened.like
        for image in group.images[1:]
        if group.leaking
    ]
    odd = [(row, "; ".join(row.reasons)) for row in screened.odd]
    share = max(1, most // 3)  # of each kind, so that one does not crowd out the others
    rows = (*labels[:share], *like[:share], *odd[:share])
    return [{"path": image.path, "id": image.id, "reason": reason} for image, reason in rows]


def _accounts_shown(results: Found, album: Album) -> list[tuple[str, list[tuple[Picture, str]]]]:
    """Return pictures as in the files and with swapped colours, side by side, if the weights suggest the swap."""
    seen = results.checks.observed
    if not seen or all(finding.account != SWAPPED for finding in seen.wanted):
        return []
    changes = {"as in the file": None, "red and blue exchanged": exchanged}
    pairs = [
        (
            row.path,
            [(shown, words) for words, change in changes.items() if (shown := album.add(row.path, row.id, change))],
        )
        for row in seen.shown
    ]
    return [(path, pair) for path, pair in pairs if len(pair) == len(changes)]


def _pictured(rows: Sequence[dict[str, Any]], album: Album, alt: str) -> list[tuple[dict[str, Any], Picture, str]]:
    """Return (row, picture, alternative text) of each row whose picture still fits on the page."""
    return [(row, shown, alt.format(**row)) for row in rows if (shown := album.add(row["path"], row["id"]))]


def _data(results: Found, album: Album, params: ReportParams) -> dict[str, object]:
    """Gather the sizes of the splits and sample images of each class, or of the hardest if there are many."""
    sampled: Sequence[str] = results.classes
    if len(sampled) > MOST_SAMPLED:
        sampled = [row.label for row in findings.hardest_first(results.test)[:MOST_SAMPLED]]
    picked = findings.sampled(results.images, sampled, params.sample_images)
    return {
        "counts": results.counts,
        "images_total": len(results.images),
        "imbalance": findings.imbalance(results.counts.get(TRAIN, {}), results.classes),
        "samples": {
            label: [shown for path, identity in some if (shown := album.add(path, identity))]
            for label, some in picked.items()
        },
    }


def _drawings(results: Found) -> Iterator[Drawing]:
    """Yield each figure of the page with its name and alternative text."""
    yield from _of_test(results)
    yield from figures_calibration.drawn(results.judged.calibration.get(results.judged.chosen))
    yield from _of_training(results)


def _of_test(results: Found) -> Iterator[Drawing]:
    judged, test = results.judged, results.test
    rivals = [row for row in judged.transfer.baselines if row.against in RIVALS]
    named = findings.compared(results.tuned)
    models = [(name, model == judged.chosen, judged.test[model].accuracy) for model, name in named.items()]
    dots = [
        *(figures.Dot(RIVALS[row.against], chosen=False, value=row.accuracy) for row in rivals),
        *_same_labels(judged.transfer, bool(rivals)),
        *(figures.Dot(name, chosen, share.known, share.low, share.high) for name, chosen, share in models),
    ]
    largest = findings.majority(test, results.commonest)
    figure = figures.accuracy_intervals(dots, largest.value, f"always “{largest.label}”")
    said = "; ".join(f"{dot.name} {percent(dot.value)}" for dot in dots)
    yield "comparison", figure, f"Test accuracy: {said}"

    if len(results.classes) <= MOST_CLASSES:
        figure = figures.confusion_matrix(test.confusion, results.classes)
        yield "confusion", figure, "Confusion matrix of the test split; the tables beside it say the same"


def _same_labels(transfer: Transfer, rivals: bool) -> list[figures.Dot]:
    """Return the head that learned from the baselines' labels: the served one was refitted on more."""
    compared = rivals and transfer.model == HEAD
    return [figures.Dot("head, same labels", chosen=False, value=transfer.accuracy)] if compared else []


def _of_training(results: Found) -> Iterator[Drawing]:
    labelled = {split: of_class for split, of_class in results.counts.items() if split != UNLABELLED}
    shown = findings.ends_of_scale(results.counts.get(TRAIN, {}), results.classes, MOST_CLASSES)
    yield "balance", figures.class_balance(labelled, shown), "Images of each class in each split"

    curve = results.plan.size.curve
    reached = percent(curve[-1].balanced_accuracy)
    yield "learning", figures.learning_curve(curve), f"Balanced accuracy by labels a class; with all of them {reached}"

    chosen = results.head.chosen_c
    figure = figures.head_path(results.head.path, chosen)
    yield "path", figure, f"Validation balanced accuracy by C; the chosen C is {chosen:g}"

    best = results.tuned.best_epoch
    figure = figures.fine_tuning_curve(results.tuned.epochs, best)
    yield "curve", figure, f"Validation balanced accuracy and log loss by epoch; the best epoch is {best}"


if __name__ == "__main__":
    stage.main(report)
