"""Images in groups: nothing is accused because siblings are alike, and wrong labels of whole groups are found."""

import numpy as np
import pandas as pd
import pytest

from steps.checks import duplicates, label_errors, selection
from steps.errors import RejectedError
from steps.training.learnt_from import learnt_from
from steps.training.linear_probe import Labelled
from tests.studies import grouped_evidence as study

SETS = 10


@pytest.mark.parametrize("words", ["20 groups of 20", "2 groups of 50, 40 of 5"])
def test_groups_without_a_fault_are_seldom_accused(words: str) -> None:
    """Image by image: shortcuts in 80 sets of a hundred, coverage in 58, labels in 12 to 38."""
    accused = dict(study.rates(study.SIZES[words], SETS))
    assert set(accused) == set(study.ACCUSED) and max(accused.values()) <= 0.2, accused


def test_wrong_labels_of_two_whole_groups_are_suspected() -> None:
    """Heads that have seen an image's siblings suspect none of the twenty."""
    shares = [study.labels_accused(study.SIZES["40 groups of 10"], seed, wrong=2)[1] for seed in range(SETS)]
    assert np.mean(shares) >= 0.6


def test_a_shortcut_of_whole_groups_is_still_a_shortcut() -> None:
    images = study.pictures(study.SIZES["40 groups of 10"], 0)
    images["brightness"] += 0.8 * (images["label"] == "1")
    rows = {row.measure: row for row in selection.shortcuts(images, np.random.default_rng(0))}
    assert rows["brightness"].significant and rows["brightness"].effect > 0.9


def test_labels_within_groups_that_hold_both_are_exchanged_there() -> None:
    images = study.pictures(np.full(8, 30), 1)
    images["label"] = np.array(["0", "1"])[np.arange(240) % 2]
    images["contrast"] += 0.9 * (images["label"] == "1")
    rows = {row.measure: row.significant for row in selection.shortcuts(images, np.random.default_rng(0))}
    assert rows == {"brightness": False, "contrast": True, "sharpness": False, "bytes": False} | {
        name: False for name in rows if name == "source"
    }


def test_the_only_image_and_the_only_group_of_a_class_are_not_judged() -> None:
    rng, targets = np.random.default_rng(0), np.array([0] * 10 + [1] * 10 + [2] * 5 + [3])
    groups = np.array([*range(20), *[20] * 5, 21])
    data = Labelled(rng.normal(size=(26, 8)).astype(np.float32), targets, np.ones(26))
    answers, judged = label_errors.out_of_fold(data, 4, 0, groups)
    assert judged.tolist() == [True] * 20 + [False] * 6
    assert np.allclose(answers.sum(axis=1), 1)


def copied() -> pd.DataFrame:
    columns = ["id", "path", "label", "split", "weight"]
    rows = [
        ("a", "1", "ant", "train", 0.0),
        ("a", "2", "ant", "train", 1.0),
        ("a", "3", "ant", "train", 2.0),
        ("a", "4", "bee", "train", 1.0),
        ("a", "5", "ant", "test", 1.0),
        ("b", "6", "", "unlabelled", 1.0),
        ("b", "7", "", "unlabelled", 1.0),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_copies_of_one_label_in_one_split_count_once() -> None:
    assert duplicates.counted_once(copied())["weight"].tolist() == [0, 1, 0, 1, 1, 1, 1]


def test_images_of_weight_0_are_not_learnt_from() -> None:
    images = copied().assign(id=list("abcdefg"))
    assert learnt_from(images, "head") == ["b", "c", "d"]


def test_what_cannot_be_learnt_chosen_or_judged_is_one_refusal() -> None:
    images = copied().assign(weight=[0, 0, 0, 1, 0, 1, 1])
    refused = selection.untrainable(images, "Add images.")
    assert isinstance(refused, RejectedError)
    found = "class 'ant': no training image; the validation split: no image; the test split: no image"
    assert f"found   {found}" in str(refused) and "remedy  Add images." in str(refused)
