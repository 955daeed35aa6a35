"""The screen finds what is wrong with single images, says it where a person decides, and changes weights on request."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from steps.checks.feature_rules import ScreenSeverity
from steps.checks.reports import Screening
from steps.errors import DataError
from steps.images.manifest import Row
from steps.runtime import artefacts, files
from steps.runtime.compute import ComputeParams
from steps.runtime.feature_file import read_features, write_features
from steps.screen import ScreenParams, screen
from tests.made import params_of

PARAMS: ScreenParams = params_of(screen, max_label_errors=0.01, unlike=2.0, most_shown=5)
SIZES = {"train": 30, "val": 10, "test": 10}
WRONG, DARK = "train/0/3.png", "train/1/4.png"  # a wrong label; a dark picture
COPY = ("test/2/5.png", "train/2/6.png")  # one picture in two splits


@dataclass
class Screened:
    """A table of three well separated classes with one fault of each kind, and what the screen makes of it."""

    root: Path

    def lay_out(self) -> None:
        generator = np.random.default_rng(0)
        centres = np.random.default_rng(1).normal(size=(3, 24))
        rows, features = [], {}
        for split, count in SIZES.items():
            for label in range(3):
                for number in range(count):
                    path = f"{split}/{label}/{number}.png"
                    (self.root / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(self.root / "raw" / path)
                    identity = hashlib.sha256((self.root / "raw" / path).read_bytes()).hexdigest()
                    truth = 1 if path == WRONG else label
                    features[path] = (identity, centres[truth] + 0.3 * generator.normal(size=24))
                    rows.append(
                        Row(
                            identity,
                            path,
                            str(label),
                            split,
                            8,
                            8,
                            "RGB",
                            99,
                            "PNG",
                            "",
                            "",
                            1.0,
                            "0" * 16,
                            0.01 if path == DARK else 0.5,
                            0.2,
                            0.1,
                            "",
                        )
                    )
        features[COPY[1]] = (features[COPY[1]][0], features[COPY[0]][1] + 0.001)
        files.write_table(self.root / "accepted.parquet", pd.DataFrame(rows, columns=Row._fields))
        ids, vectors = zip(*sorted(features.values(), key=lambda pair: pair[0]), strict=True)
        write_features(self.root / "features.safetensors", list(ids), {"": np.array(vectors, np.float32)})
        self.decide()
        files.write_text(self.root / "importance.csv", "image,weight\n")

    def mislabel(self) -> list[str]:
        """Give nine images another label each, and the features a backbone's length; return their paths."""
        table = pd.read_parquet(self.root / "accepted.parquet")
        wrong = [f"train/{label}/{number}.png" for label in range(3) for number in (10, 11, 12)]
        table["label"] = [
            str((int(label) + 1 + number % 2) % 3) if path in wrong else label
            for number, (path, label) in enumerate(zip(table["path"], table["label"], strict=True))
        ]
        files.write_table(self.root / "accepted.parquet", table)
        ids, rows = read_features(self.root / "features.safetensors")
        write_features(self.root / "features.safetensors", ids, {"": 10 * np.array(rows)})
        return wrong

    def decide(self, *lines: str) -> None:
        files.write_text(self.root / "decisions.csv", "\n".join(["image,decision,label,note", *lines]) + "\n")

    def run(self, **changes: Any) -> Screening:
        names = (
            "raw",
            "accepted.parquet",
            "features.safetensors",
            "decisions.csv",
            "importance.csv",
            "screened.parquet",
            "screen.json",
            "screen.html",
            "suspects.csv",
            "docs",
        )
        screen(
            replace(PARAMS, **changes), 0, ComputeParams(threads=1, batch_size=8), *(self.root / name for name in names)
        )
        return self.report

    @property
    def report(self) -> Screening:
        return artefacts.read(Screening, self.root / "screen.json")

    @property
    def weights(self) -> dict[str, float]:
        table = pd.read_parquet(self.root / "screened.parquet")
        return dict(zip(table["path"], table["weight"], strict=True))


@pytest.fixture
def project(tmp_path: Path) -> Screened:
    made = Screened(tmp_path)
    made.lay_out()
    return made


def test_each_planted_fault_is_found_and_nothing_else(project: Screened) -> None:
    found = project.run()
    (error,) = found.label_errors
    assert (error.path, error.label, error.suggested) == (WRONG, "0", "1")
    (group,) = found.like
    assert tuple(image.path for image in group.images) == COPY and group.leaking
    assert [(row.path, row.reasons) for row in found.odd] == [(DARK, ("dark: mean luma under 0.05",))]
    assert (found.searched, found.credible) == (3 * 40, True)
    verdicts = {rule.name: rule.passed for rule in found.rules}
    assert verdicts == {
        "labels are credible": True,
        "no like image in two splits": False,
        "like images, one label": True,
        "splits look alike": True,
    }
    accepted = pd.read_parquet(project.root / "accepted.parquet")
    assert pd.read_parquet(project.root / "screened.parquet").equals(accepted), "nothing changes unless it is asked for"


def test_suspects_are_listed_in_the_columns_of_the_decisions_and_shown_with_pictures(project: Screened) -> None:
    project.run()
    asked = pd.read_csv(project.root / "suspects.csv", dtype=str, keep_default_na=False)
    assert list(asked.columns) == ["image", "decision", "label", "note"]
    assert asked["image"].tolist() == [WRONG, COPY[1], DARK]
    page = (project.root / "screen.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 4 and all(path in page for path in (WRONG, *COPY, DARK))
    assert "<script" not in page and "http:" not in page and "https:" not in page


def test_what_a_person_kept_is_asked_no_more(project: Screened) -> None:
    project.decide(f"{WRONG},keep,,", f"{DARK},keep,,", f"{COPY[0]},keep,,", f"{COPY[1]},keep,,")
    found = project.run()
    assert (found.label_errors, found.odd, found.like, found.kept) == ((), (), (), 4)


def test_one_kept_image_of_two_that_are_alike_is_enough(project: Screened) -> None:
    project.decide(f"{COPY[1]},keep,,two pictures")
    found = project.run(severity=ScreenSeverity(label_errors="off", like_images="fail", domain_shift="warn"))
    assert found.like == ()


def test_a_decision_that_validate_has_obeyed_already_ends_no_later_run(project: Screened) -> None:
    project.decide("train/0/gone.png,drop,,", f"{'a' * 64},relabel,lost,", f"{DARK},keep,,")
    assert project.run().kept == 1


def test_remedies_set_weights_of_training_images_and_are_recorded(project: Screened) -> None:
    found = project.run(drop_suspects=True, drop_leaking=True)
    assert found.dropped == tuple(sorted([WRONG, COPY[1]]))
    assert {path for path, weight in project.weights.items() if weight == 0} == {WRONG, COPY[1]}


def test_importance_weights_multiply_those_of_training_images_alone(project: Screened) -> None:
    table = pd.read_parquet(project.root / "accepted.parquet").set_index("path")["id"]
    lines = [f"{table[path]},{weight}" for path, weight in (("train/0/0.png", 2.5), ("test/0/0.png", 3), (WRONG, 4))]
    files.write_text(project.root / "importance.csv", "\n".join(["image,weight", *lines, "gone,2"]) + "\n")
    found = project.run(drop_suspects=True)
    changed = {path: weight for path, weight in project.weights.items() if weight != 1}
    assert changed == {"train/0/0.png": 2.5, WRONG: 0.0} and found.reweighted == 2


@pytest.mark.parametrize(
    "text", ["image,weight\na,-1\n", "image,weight\na,1\na,2\n", "image,weight\na,heavy\n", "image\na\n"]
)
def test_weights_that_make_no_sense_are_refused_by_name(project: Screened, text: str) -> None:
    files.write_text(project.root / "importance.csv", text)
    with pytest.raises(DataError, match=r"importance\.csv"):
        project.run()
    assert not (project.root / "screened.parquet").exists()


def test_what_is_set_to_fail_rejects_the_data_and_leaves_the_sheet(project: Screened) -> None:
    with pytest.raises(DataError, match="no like image in two splits"):
        project.run(severity=ScreenSeverity(label_errors="off", like_images="fail", domain_shift="warn"))
    (rule,) = [rule for rule in project.report.rules if not rule.passed]
    assert rule.where == tuple(sorted(COPY))
    assert (project.root / "screen.html").exists() and not (project.root / "screened.parquet").exists()


def test_labels_are_accused_by_their_estimated_number_until_a_person_has_looked(project: Screened) -> None:
    wrong = project.mislabel()
    found = project.run()
    assert found.rules[0].passed is False and len({*wrong} - {*found.rules[0].where}) <= 1
    assert found.wrong_share == pytest.approx(10 / 120, abs=0.02) and found.wrong_p < 0.01
    project.decide(*(f"{path},keep,," for path in found.rules[0].where))
    assert project.run().rules[0].passed is True


def test_a_weak_head_accuses_nobody_and_drops_nothing(project: Screened) -> None:
    found = project.run(least_agreement=1.0, max_label_errors=0.0, drop_suspects=True)
    assert found.dropped == () and not [path for path, weight in project.weights.items() if weight == 0]
    assert found.credible is False and found.label_errors
    assert found.rules[0].passed is True


def test_the_same_inputs_give_the_same_bytes(project: Screened) -> None:
    names = ("screened.parquet", "screen.json", "screen.html", "suspects.csv")
    project.run()
    before = [(project.root / name).read_bytes() for name in names]
    project.run()
    assert before == [(project.root / name).read_bytes() for name in names]
