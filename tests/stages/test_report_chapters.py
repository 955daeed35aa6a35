"""The chapters of the evaluation say what its figures mean, and nothing where there are none."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steps.evaluation.results import UnjudgedSlice
from tests.outputs import CLASSES, UNASKED, Inputs, honest, make
from tests.stages.test_report import Page, read

CHAPTERS = ("transfer", "comparisons", "calibration", "slices")


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return make(tmp_path)


def told(inputs: Inputs, **changes: Any) -> str:
    inputs.change("evaluation", **{**honest(CLASSES), **changes})
    return read(inputs).text


def linked(page: Page) -> set[str]:
    return {str(link["href"])[1:] for link in page.all("a")}


def test_a_chapter_without_figures_is_neither_on_the_page_nor_in_the_navigation(inputs: Inputs) -> None:
    bare = read(inputs)
    assert not set(CHAPTERS) & (linked(bare) | {str(section.get("id")) for section in bare.all("section")})
    inputs.change("evaluation", **honest(CLASSES))
    whole = read(inputs)
    assert set(CHAPTERS) <= linked(whole) & {str(section.get("id")) for section in whole.all("section")}


@pytest.mark.parametrize(
    ("verdict", "sentence", "said"),
    [
        (
            "helps",
            "helps by 5.0 to 19.0 points",
            "Yes: transfer helps by 5.0 to 19.0 points, in balanced accuracy, compared with",
        ),
        ("hurts", "hurts by 1.0 to 2.0 points", "No: transfer hurts by 1.0 to 2.0 points"),
        ("no evidence", "no evidence yet (needs about 90 more test images)", "Not shown: no evidence yet (needs about"),
    ],
)
def test_the_verdict_on_transfer_is_told_in_words(inputs: Inputs, verdict: str, sentence: str, said: str) -> None:
    transfer = replace(honest(CLASSES)["transfer"], verdict=verdict, sentence=sentence)
    text = told(inputs, transfer=transfer)
    assert said in text and "+12.0 points (+5.0 to +19.0)" in text and "< 0.001" in text
    assert f"Transfer: {sentence}, compared with the same network from scratch." in text, "and on the first screen"


def test_one_class_is_the_commonest_in_every_chapter_and_the_test_images_have_no_say(inputs: Inputs) -> None:
    judged = json.loads(inputs.evaluation.read_text())["test"]
    for of_model in judged.values():
        of_model["per_class"][0]["n"] = 400
    inputs.change("baselines", majority={**json.loads(inputs.baselines.read_text())["majority"], "label": "bees"})
    inputs.change("evaluation", **honest(CLASSES), test=judged)
    page = read(inputs)
    assert set(re.findall(r"[Aa]lways (?:answering )?“(.+?)”", page.source)) == {"bees"}
    assert "always answering “bees”, the most frequent class in training, would get 33.3\xa0%" in page.source


def test_no_verdict_on_transfer_is_no_chapter(inputs: Inputs) -> None:
    assert "Does transfer help?" not in told(inputs, transfer=UNASKED)


def test_a_comparison_says_how_many_images_are_wanting(inputs: Inputs) -> None:
    text = told(inputs)
    assert "Fine-tuned against head alone: no evidence yet (needs about 888 more test images)." in text
    assert "-0.020 (-0.100 to +0.060)" in text and "None" not in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.08, -0.01, "brought probabilities and truth closer together"),
        (0.01, 0.08, "moved probabilities away from the truth"),
        (-0.01, 0.01, "made no difference that 12 test images could show"),
    ],
)
def test_calibration_is_praised_only_where_its_interval_allows(
    inputs: Inputs, low: float, high: float, said: str
) -> None:
    found = honest(CLASSES)["calibration"]["fine_tuned"]
    change = replace(found.change, calibration_error=replace(found.change.calibration_error, low=low, high=high))
    text = told(inputs, calibration={"fine_tuned": replace(found, change=change)})
    assert f"A temperature of 1.43, fitted on validation images, {said}" in text
    assert "Below a probability of 62.0 % the model abstains" in text


def test_slices_name_the_worst_the_breached_and_fold_the_rest(inputs: Inputs) -> None:
    parts = honest(CLASSES)["slices"]["fine_tuned"]
    assert "On none of 18 slices" in told(inputs)
    worst = replace(parts[0], p_adjusted=0.003, limit=0.95, breached=True)
    text = told(inputs, slices={"fine_tuned": [worst, *parts[1:]]})
    assert (
        "On 1 slice of the test images the model is worse than on the rest, by more than chance explains: source ants"
        in text
    )
    assert "1 slice missed a limit." in text and "below its limit" in text and "95.0 % ✗ fail" in text
    assert "The other 6 slices" in text


def test_parts_with_too_few_images_are_named_those_with_a_limit_first(inputs: Inputs) -> None:
    few = [UnjudgedSlice("source", "dusk", 4, None), UnjudgedSlice("source", "night", 3, 0.9)]
    text = told(inputs, unjudged=few)
    wanted = "source night (3; its limit of 90.0 % is not checked); source dusk (4)."
    assert f"Too few images to judge: {wanted}" in text
    assert "Too few images" not in told(inputs, unjudged=[])


def test_the_verdict_on_transfer_says_which_model_is_compared(inputs: Inputs) -> None:
    transfer = replace(honest(CLASSES)["transfer"], model="head", accuracy=0.912)
    text = told(inputs, transfer=transfer)
    assert (
        "The comparison uses the frozen head as fitted on the training images alone, with an accuracy of 91.2 %;"
        in text
    )


def test_the_share_of_unfamiliar_test_images_is_stated_unless_the_evaluation_is_older(inputs: Inputs) -> None:
    said = "features are farther than 0.123 (cosine distance; the limit comes from validation images) from each of 30"
    assert said in told(inputs) and "4.0 % (1.0 to 20.0) of the test images are;" in told(inputs)
    assert "unfamiliar" not in told(inputs, unfamiliar=None)


def test_a_test_set_too_small_for_slices_says_so(inputs: Inputs) -> None:
    assert "No slice of the test images is large enough" in told(inputs, slices={"fine_tuned": []})
