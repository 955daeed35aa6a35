"""The facts that the report shows, against tables small enough to reckon by hand."""

from dataclasses import replace

import pandas as pd
import pytest

from steps.evaluation.results import ClassJudgement
from steps.pages import findings
from steps.runtime.figure import Figure
from tests import outputs

CLASSES = ["ant", "bee"]


def answer(path: str, label: str, model: str, chances: list[float], split: str = "test") -> dict[str, object]:
    predicted = CLASSES[chances.index(max(chances))]
    return {
        "id": path * 2,
        "path": path,
        "split": split,
        "label": label,
        "model": model,
        "predicted": predicted,
        "probabilities": chances,
    }


ANSWERS = pd.DataFrame(
    [
        answer("1", "ant", "head", [0.9, 0.1]),
        answer("2", "ant", "head", [0.4, 0.6]),
        answer("3", "bee", "head", [0.8, 0.2]),
        answer("4", "bee", "head", [0.3, 0.7]),
        answer("1", "ant", "fine_tuned", [0.2, 0.8]),
        answer("2", "ant", "fine_tuned", [0.7, 0.3]),
        answer("3", "bee", "fine_tuned", [0.1, 0.9]),
        answer("4", "bee", "fine_tuned", [0.95, 0.05]),
        answer("5", "bee", "fine_tuned", [0.99, 0.01], split="val"),
    ]
)
JUDGED = replace(
    outputs.JUDGED,
    n=60,
    per_class=tuple(
        ClassJudgement(label, n, Figure(recall, None, None, "Wilson"), outputs.unknown("Wilson"))
        for label, n, recall in (("ant", 20, 0.9), ("bee", 40, 0.8), ("wasp", 0, None))
    ),
    confusion=((18, 1, 1), (8, 32, 0), (0, 0, 0)),
)


def test_mistakes_are_the_chosen_models_on_the_test_split_most_confident_first() -> None:
    found = findings.mistakes(ANSWERS, "fine_tuned", CLASSES)
    assert [(image.path, image.of_predicted, image.of_label) for image in found] == [("4", 0.95, 0.05), ("1", 0.8, 0.2)]


def test_paired_counts_what_fine_tuning_mended_and_what_it_broke() -> None:
    assert findings.paired(ANSWERS) == {"mended": 2, "broken": 2}
    assert findings.paired(ANSWERS[ANSWERS["path"] != "4"]) == {"mended": 2, "broken": 1}


def test_confusions_leave_out_right_answers_and_start_with_the_most_frequent() -> None:
    found = findings.confusions(JUDGED)
    assert [(pair.truth, pair.answer, pair.count, pair.share) for pair in found] == [
        ("bee", "ant", 8, 0.2),
        ("ant", "bee", 1, 0.05),
        ("ant", "wasp", 1, 0.05),
    ]
    assert len(findings.confusions(JUDGED, most=1)) == 1


def test_a_class_without_test_images_is_not_the_hardest() -> None:
    assert [row.label for row in findings.hardest_first(JUDGED)] == ["bee", "ant", "wasp"]


def test_majority_is_what_the_commonest_training_label_would_score_whatever_is_common_in_the_test() -> None:
    assert findings.majority(JUDGED, "ant") == findings.Majority("ant", 20 / 60)
    assert findings.majority(JUDGED, "wasp") == findings.Majority("wasp", 0)


def test_imbalance_counts_a_class_that_is_missing_from_training() -> None:
    assert findings.imbalance({"ant": 10, "bee": 25}, CLASSES) == pytest.approx(2.5)
    assert findings.imbalance({"ant": 10}, CLASSES) is None


def test_too_many_classes_leave_the_largest_and_the_smallest() -> None:
    counts = {f"c{i}": i for i in range(9)}
    assert findings.ends_of_scale(counts, list(counts), 4) == ["c8", "c7", "c1", "c0"]
    assert findings.ends_of_scale(counts, list(counts), 9) == list(counts)


def test_samples_follow_the_content_and_not_the_order_of_the_table() -> None:
    rows = [
        {"id": f"{i * 7 % 10}", "path": f"{i}.png", "label": CLASSES[i % 2], "split": "train" if i < 8 else "test"}
        for i in range(10)
    ]
    images = pd.DataFrame(rows)
    picked = findings.sampled(images, [*CLASSES, "wasp"], 2)
    assert picked == {"ant": [("0.png", "0"), ("6.png", "2")], "bee": [("3.png", "1"), ("5.png", "5")], "wasp": []}
    assert picked == findings.sampled(images.iloc[::-1], [*CLASSES, "wasp"], 2)
