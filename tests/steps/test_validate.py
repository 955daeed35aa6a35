"""The gate lets nothing through that breaks a rule, and leaves its reasons on disk when it refuses."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from steps.adapters import files, models
from steps.core.manifest import Row
from steps.core.preprocessing import Preprocessing
from steps.errors import DataError
from steps.validate import ValidateParams, refusal, validate

SPEC = Preprocessing(
    resize=32, crop=28, interpolation="bilinear", antialias=True, colour_order="RGB",
    value_range=(0.0, 1.0), mean=(0.5, 0.0, 1.0), std=(0.5, 0.5, 2.0),
)  # fmt: skip
PARAMS = ValidateParams(
    min_train_per_class=4, min_val_per_class=2, min_test_per_class=3, max_imbalance=3.0, quarantine_limit=0.1,
    preprocessing=SPEC,
)  # fmt: skip
COUNTS = {
    "train": {"ant": 5, "bee": 4},
    "val": {"ant": 2, "bee": 2},
    "test": {"ant": 3, "bee": 3},
    "unlabelled": {"": 2},
}


def rows(counts: dict[str, dict[str, int]]) -> pd.DataFrame:
    made = []
    for split, labels in counts.items():
        for label, count in labels.items():
            for i in range(count):
                name = f"{split}/{label}/{i}.png"
                made.append(
                    Row(
                        hashlib.sha256(name.encode()).hexdigest(),
                        name,
                        label,
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
                        0.5,
                        0.2,
                        0.01,
                        "",
                    )
                )
    return pd.DataFrame(made, columns=Row._fields)


@dataclass
class Gate:
    """The files that the gate reads, and those it writes."""

    root: Path

    def lay_out(self, table: pd.DataFrame, quarantined: int = 0, card: Any = None) -> None:
        files.write_table(self.root / "manifest.parquet", table)
        lines = ["path,reason,exception", *(f'bad {i}.jpg,"damaged, truncated",OSError: x' for i in range(quarantined))]
        files.write_text(self.root / "quarantine.csv", "\n".join(lines) + "\n")
        files.write_json(self.root / "backbone" / models.CARD, {
            "name": "mine", "architecture": "squeezenet1_1", "num_classes": 3, "sha256": "", "source": "",
            "licence": "", "preprocessing": card or SPEC.to_dict(), "input_statistics": None, "notes": {},
        })  # fmt: skip

    def run(self, params: ValidateParams = PARAMS) -> None:
        validate(
            params, self.root / "manifest.parquet", self.root / "quarantine.csv", self.root / "backbone",
            self.root / "accepted.parquet", self.root / "preprocessing.json", self.root / "validation.json",
            self.root / "docs",
        )  # fmt: skip

    @property
    def verdict(self) -> dict[str, Any]:
        return json.loads((self.root / "validation.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def broken(self) -> dict[str, str]:
        return {rule["name"]: rule["observed"] for rule in self.verdict["rules"] if not rule["passed"]}


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_sound_data_pass_unchanged_with_their_preprocessing(gate: Gate) -> None:
    table = rows(COUNTS)
    # One file in 22 is no image: under the limit of a tenth. The card's numbers stand without decimal points.
    gate.lay_out(table, quarantined=1, card={**SPEC.to_dict(), "value_range": [0, 1], "mean": [0.5, 0, 1]})
    gate.run()
    assert pd.read_parquet(gate.root / "accepted.parquet").equals(table)
    assert models.read_preprocessing(gate.root / "preprocessing.json") == SPEC
    verdict = gate.verdict
    assert (verdict["accepted"], gate.broken()) == (True, {})
    assert verdict["counts"] == COUNTS
    assert verdict["quarantined"] == 1
    assert len(verdict["rules"]) == 15
    assert [row["field"] for row in verdict["preprocessing"]] == list(SPEC.to_dict())
    assert all(row["agree"] for row in verdict["preprocessing"])
    observed = {rule["name"]: rule["observed"] for rule in verdict["rules"]}
    assert observed["enough to learn from"] == "4 to 5"
    assert observed["classes are balanced"] == "1.25"
    assert observed["files can be decoded"] == f"{1 / 22:g}"
    assert (gate.root / "docs" / "index.html").is_file()


def test_the_tracked_verdict_carries_neither_time_nor_luck(gate: Gate) -> None:
    gate.lay_out(rows(COUNTS))
    gate.run()
    before = [(gate.root / name).read_bytes() for name in ("validation.json", "accepted.parquet", "preprocessing.json")]
    gate.run()
    assert before == [
        (gate.root / name).read_bytes() for name in ("validation.json", "accepted.parquet", "preprocessing.json")
    ]


def test_imbalance_warns_and_lets_pass(gate: Gate) -> None:
    gate.lay_out(rows({**COUNTS, "train": {"ant": 13, "bee": 4}}))
    gate.run()
    assert gate.broken() == {"classes are balanced": "3.25"}
    assert gate.verdict["accepted"] is True
    assert (gate.root / "accepted.parquet").exists()


def of_the_files(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[0, "split"], table.loc[2, "width"], table.loc[4, "path"] = "dev", 0, table.loc[3, "path"]
    table.loc[6, "id"] = "ABC"
    return table


def copied(table: pd.DataFrame) -> pd.DataFrame:
    """A test image's bytes stand in training too; and in training, one picture carries both labels."""
    train, test = table.index[table["split"] == "train"], table.index[table["split"] == "test"]
    table.loc[train[0], "id"] = table.loc[test[0], "id"]
    table.loc[train[1], "id"] = table.loc[train[-1], "id"]
    return table


Change = Callable[[pd.DataFrame], pd.DataFrame]
FEW = {"train": {"ant": 5, "bee": 3, "wasp": 4}, "val": {"ant": 1, "bee": 2, "wasp": 2}, "test": {"ant": 3, "bee": 3}}
LONELY = {"train": {"ant": 5}, "val": {"ant": 2}, "test": {"ant": 3}}
BROKEN: dict[str, tuple[pd.DataFrame, int, dict[str, str]]] = {
    "files": (of_the_files(rows({**COUNTS, "train": {"ant": 6, "bee": 6}})), 0, {
        "ids are digests": "ABC", "splits are known": "dev", "paths are unique": "train/ant/3.png",
        "images have area": "0",
    }),
    "few": (rows(FEW), 0, {
        "enough to learn from": "'bee' has 3", "enough to choose by": "'ant' has 1",
        "enough to judge by": "'wasp' has 0",
    }),
    "another schema": (rows(COUNTS).drop(columns="width"), 0, {
        "the manifest is whole": "id; path; label; split; height; mode; bytes; format; group; source and 6 more",
        "images have area": 'could not be checked: Error: The column "width" in BatchData does not exist.',
    }),
    "one class": (rows(LONELY), 0, {"two classes or more": "1"}),
    "no labels": (rows({"unlabelled": {"": 5}}), 0, {"two classes or more": "0"}),
    "copies": (copied(rows(COUNTS)), 3, {
        "files can be decoded": f"{3 / 24:g}", "no image in two splits": "1", "one image, one label": "1",
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_exactly_the_broken_rules_are_named_and_nothing_passes(gate: Gate, case: str) -> None:
    table, quarantined, wanted = BROKEN[case]
    gate.lay_out(table, quarantined)
    with pytest.raises(DataError) as caught:
        gate.run()
    assert gate.broken() == wanted
    assert gate.verdict["accepted"] is False
    assert (gate.root / "docs" / "index.html").is_file(), "a refusal has to be readable"
    assert not (gate.root / "accepted.parquet").exists()
    assert not (gate.root / "preprocessing.json").exists()
    told = str(caught.value)
    assert caught.value.exit_code == 3
    assert told.startswith(f"the data was rejected: {len(wanted)} rule")
    for rule in gate.verdict["rules"]:
        lines = [f"  {rule['name']}: {rule['what']}", f"      found   {rule['observed']}",
                 f"      limit   {rule['limit']}", f"      remedy  {rule['remedy']}"]  # fmt: skip
        assert ("\n".join(lines) in told) == (rule["name"] in wanted)


def test_an_image_in_the_pool_that_was_labelled_since_leaks_nothing(gate: Gate) -> None:
    table = rows(COUNTS)
    table.loc[table.index[-1], "id"] = table.loc[0, "id"]
    assert table["split"].iloc[-1] == "unlabelled"
    gate.lay_out(table)
    gate.run()
    assert gate.broken() == {}


def test_a_group_in_two_splits_and_images_without_weight_are_refused(gate: Gate) -> None:
    table = rows(COUNTS)
    table.loc[table["path"].isin(["train/ant/0.png", "test/bee/0.png"]), "group"] = "patient 7"
    table.loc[table["path"].isin(["train/bee/0.png", "val/bee/1.png"]), "weight"] = 0.0
    gate.lay_out(table)
    with pytest.raises(DataError, match="no group in two splits"):
        gate.run()
    assert gate.broken() == {
        "no group in two splits": "1", "enough to learn from": "'bee' has 3", "enough to choose by": "'bee' has 1",
    }  # fmt: skip
    assert gate.verdict["counts"] == COUNTS, "they are counted as images all the same"


def test_each_field_of_the_preprocessing_that_is_not_the_backbones_is_named(gate: Gate) -> None:
    gate.lay_out(rows(COUNTS))
    ours = replace(SPEC, interpolation="bicubic", mean=(0.5, 0.0, 0.9), value_range=(-1.0, 1.0))
    with pytest.raises(DataError, match="same preprocessing as the backbone"):
        gate.run(replace(PARAMS, preprocessing=ours))
    assert gate.broken() == {
        "same preprocessing as the backbone":
            "interpolation is bicubic, the backbone wants bilinear; "
            "value_range is [-1.0, 1.0], the backbone wants [0.0, 1.0]; "
            "mean is [0.5, 0.0, 0.9], the backbone wants [0.5, 0.0, 1.0]"
    }  # fmt: skip
    disagree = [row["field"] for row in gate.verdict["preprocessing"] if not row["agree"]]
    assert disagree == ["interpolation", "value_range", "mean"]
    assert not (gate.root / "accepted.parquet").exists()


def test_a_refusal_of_one_rule_is_said_in_the_singular() -> None:
    rule = {"name": "n", "what": "w", "observed": "o", "limit": "l", "remedy": "r"}
    assert refusal([rule]) == (
        "the data was rejected: 1 rule broken\n  n: w\n      found   o\n      limit   l\n      remedy  r"
    )
    assert refusal([rule, rule]).startswith("the data was rejected: 2 rules broken\n")
