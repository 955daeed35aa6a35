"""What speaks against the test split is said first, in the run's last lines and on the page."""

from dataclasses import replace
from pathlib import Path

from flows.finish import Report
from steps.checks.reports import Covariate, Screening, SplitShift
from steps.evaluation.results import Evaluation
from steps.evaluation.split_gap import split_gap
from steps.pages.outcome import markdown
from steps.promotion.doubts import doubts
from steps.promotion.terms import Promotion
from steps.runtime import artefacts
from steps.runtime.figure import Figure
from tests.outputs import FIRST, SCREENED, make

DARKER = Covariate("brightness", "Kolmogorov-Smirnov", 0.6, 1e-9, 0.51, 0.22, 1e-8, True)
SAME = Covariate("sharpness", "Kolmogorov-Smirnov", 0.05, 0.6, 0.1, 0.1, 0.6, False)
TEST = SplitShift(
    "test", 153, Figure(0.903, 0.88, 0.93, "DeLong"), 3e-46, (DARKER, SAME), "another exposure", 6e-46, True
)
VAL = replace(TEST, split="val", auc=Figure(0.52, 0.45, 0.59, "DeLong"), p=0.3, measures=(), kind="", significant=False)
GAP = split_gap(Figure(0.855, 0.78, 0.91, "Wilson"), Figure(0.457, 0.38, 0.54, "Wilson"))
SENTENCES = (
    "accuracy is 85.5% on validation and 45.7% on test images: +39.8 points (+28.6 to +49.3), "
    "more than chance explains",
    "test images are not like training images (AUC 0.90, p = 3e-46): probably another exposure; "
    "brightness 0.22 against 0.51",
)


def evaluation(tmp_path: Path) -> Evaluation:
    return artefacts.read(Evaluation, make(tmp_path).evaluation)


def test_each_doubt_is_a_sentence_and_the_gap_comes_first(tmp_path: Path) -> None:
    judged = replace(evaluation(tmp_path), split_gap=GAP)
    assert doubts(replace(SCREENED, splits=(VAL, TEST)), judged) == SENTENCES


def test_nothing_is_doubted_where_chance_explains_it_or_older_reports_do_not_know(tmp_path: Path) -> None:
    judged = evaluation(tmp_path)
    near = split_gap(Figure(0.9, 0.8, 0.95, "Wilson"), Figure(0.88, 0.82, 0.92, "Wilson"))
    assert doubts(replace(SCREENED, splits=(VAL,)), replace(judged, split_gap=near)) == ()
    assert judged.split_gap is None and doubts(SCREENED, judged) == doubts(None, judged) == ()
    assert isinstance(SCREENED, Screening) and SCREENED.splits == ()


def test_doubts_come_before_the_verdict_in_the_last_lines_and_in_markdown() -> None:
    made = Promotion("garden", "4", "4", None, True, (), "run", FIRST.judged, "promote", None)
    lines = Report(stages={"ingest": "Ran"}, promotion=made, doubts=SENTENCES).lines()
    verdict = lines.index("version 4 of garden is the new champion")
    assert lines[verdict - 2 : verdict] == [f"doubt: {sentence}" for sentence in SENTENCES]
    text = markdown(replace(FIRST, doubts=SENTENCES))
    assert text.index("> Accuracy is 85.5") < text.index("> Test images are not") < text.index("**")
