"""What could overturn a result is said in one order, by consequence, wherever a result is told."""

from dataclasses import replace

import pytest

from flows.finish import SAID, Report
from steps.checks.feature_rules import LIKE_SPLITS
from steps.checks.reports import Covariate, SplitShift
from steps.checks.rule import RuleResult
from steps.checks.rules import KEY_OF
from steps.evaluation.results import HURTS, Evaluation, SliceJudgement
from steps.evaluation.split_gap import split_gap
from steps.pages.caveats import CONSEQUENCES, RANK, SLICES, TRANSFER, Caveat, caveats
from steps.pages.outcome import markdown
from steps.promotion.terms import Promotion
from steps.runtime import artefacts
from steps.runtime.figure import Figure
from tests.outputs import FIRST, JUDGED, SCREENED, Inputs, make

ORDER = (
    # the key of a broken rule, and those that are less grave
    ("leakage", ("shortcuts", "coverage", "wanted", "label_errors", TRANSFER, SLICES, "imbalance")),
    ("like_images", ("shortcuts", "coverage")),
    ("shortcuts", ("coverage", "wanted", "label_errors", SLICES, "imbalance")),
    ("coverage", ("wanted", "imbalance")),
    ("label_errors", (TRANSFER, SLICES, "quarantine")),
)


def broken(name: str, observed: str = "85.9 %") -> RuleResult:
    return RuleResult(name, False, observed, (), "warn", "at most 50 %", "a measure", "Set `a: b` in params.yaml.")


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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make(tmp_path_factory.mktemp("caveats"))


@pytest.fixture(scope="module")
def judged(inputs: Inputs) -> Evaluation:
    evaluation = artefacts.read(Evaluation, inputs.root / "evaluation.json")
    return replace(evaluation, slices={}, transfer=replace(evaluation.transfer, verdict=None))


@pytest.mark.parametrize(("grave", "less"), ORDER)
def test_a_graver_consequence_comes_first_whatever_stage_says_it(grave: str, less: tuple[str, ...]) -> None:
    assert all(RANK[grave] < RANK[key] for key in less)


def test_every_key_of_a_rule_that_can_warn_has_a_consequence() -> None:
    assert {*KEY_OF.values()} <= set(RANK)
    assert len(RANK) == sum(len(keys) for _, keys in CONSEQUENCES), "a key has two consequences"


def test_warnings_of_all_stages_are_in_one_list(judged: Evaluation) -> None:
    names = ["classes are balanced", "labels are credible", "no shortcut to the label", "no image in two splits"]
    held = replace(broken("same preprocessing as the backbone"), passed=True)
    hurt = replace(judged.transfer, verdict=HURTS, sentence="worse by 9 points")
    night = SliceJudgement(
        column="light", value="night", n=20, accuracy=JUDGED.accuracy, limit=0.99, breached=True, p_adjusted=0.01
    )
    slices = {judged.chosen: (night, replace(night, value="day", breached=False))}
    said = caveats([*map(broken, names), held], (), replace(judged, transfer=hurt, slices=slices))
    assert [caveat.what.partition(":")[0] for caveat in said] == [
        "no image in two splits",
        "no shortcut to the label",
        "labels are credible",
        "transfer",
        "slice light = night",
        "classes are balanced",
    ]
    assert said[1].what == "no shortcut to the label: 85.9 % (limit: at most 50 %)"
    assert caveats([held], (), judged) == ()


def test_a_gap_and_a_split_unlike_training_are_sentences_and_come_first(judged: Evaluation) -> None:
    said = caveats([broken(LIKE_SPLITS), broken("no image in two splits")], (VAL, TEST), replace(judged, split_gap=GAP))
    assert tuple(caveat.what for caveat in said[:2]) == SENTENCES
    assert len(said) == 3 and said[2].what.startswith("no image in two splits")


def test_nothing_is_said_where_chance_explains_it_or_older_reports_do_not_know(judged: Evaluation) -> None:
    near = split_gap(Figure(0.9, 0.8, 0.95, "Wilson"), Figure(0.88, 0.82, 0.92, "Wilson"))
    assert caveats((), (VAL,), replace(judged, split_gap=near)) == ()
    assert judged.split_gap is None and caveats((), SCREENED.splits, judged) == SCREENED.splits == ()


def test_a_rule_of_another_release_is_said_last(judged: Evaluation) -> None:
    said = caveats([broken("a rule of tomorrow"), broken("classes are balanced")], (), judged)
    assert [caveat.what.partition(":")[0] for caveat in said] == ["classes are balanced", "a rule of tomorrow"]


def promotion(*said: Caveat) -> Promotion:
    return Promotion("garden", "4", "4", None, True, ("it clears the floor",), "r", JUDGED, "promote", None, said)


def test_the_last_lines_of_a_run_say_the_gravest_before_the_verdict() -> None:
    said = [Caveat(f"warning {number}", "it may not hold", "Look.") for number in range(SAID + 2)]
    report = Report(stages={"report": "Ran"}, promotion=promotion(*said), checks="data/outcome/checks.html")
    lines = report.lines()
    verdict = next(i for i, line in enumerate(lines) if "is the new champion" in line)
    before = lines[2:verdict]
    assert before == [
        "what could overturn this, the gravest first:",
        *(f"  ! warning {number}; it may not hold" for number in range(SAID)),
        "  and 2 more",
        "  warnings in pictures: data/outcome/checks.html",
    ]
    assert "overturn" not in "\n".join(Report(stages={"report": "Ran"}, promotion=promotion()).lines())


def test_the_report_and_the_outcome_say_it_before_the_reasons(inputs: Inputs) -> None:
    report = inputs.page().read_text(encoding="utf-8")
    assert report.index('id="caveats"') < report.index("<!-- reasons -->") < report.index('id="checks"')
    assert "classes are balanced: 2.5 (limit: at most 2)" in report
    text = markdown(replace(FIRST, caveats=(Caveat("a|b: 9", "it may not hold", "Look."),)))
    assert text.index("1. **a\\|b: 9**; it may not hold. Look.") < text.index("balanced accuracy 0.934")
