"""The gate lets nothing through that breaks a rule, and leaves its reasons on disk when it refuses."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from steps.backbones import models
from steps.checks.reports import Obeyed, Unsound, Validation
from steps.checks.rule import RuleResult, refusal
from steps.commands import origins
from steps.errors import DataError, ParamsError
from steps.images import decoding
from steps.images.manifest import Row
from steps.runtime import artefacts, files
from steps.runtime.compute import ComputeParams
from steps.validate import SplitShares, ValidateParams, validate
from tests.made import params_of

CARD, STATE = origins.embedded()
SPEC = CARD.preprocessing
PARAMS: ValidateParams = params_of(
    validate,
    min_train_per_class=4,
    min_test_per_class=3,
    max_imbalance=3.0,
    quarantine_limit=0.1,
    sample_images=8,
    preprocessing=SPEC,
)
COMPUTE = ComputeParams(threads=1, batch_size=8)
SHARES = SplitShares(validation_share=0.25, test_share=0.2)
DIGITS = load_digits()
COUNTS = {
    "train": {"ant": 5, "bee": 4},
    "val": {"ant": 2, "bee": 2},
    "test": {"ant": 3, "bee": 3},
    "unlabelled": {"": 2},
}


def digit(number: int) -> Image.Image:
    """Return one of scikit-learn's handwritten digits, enlarged: a real picture, and no two alike."""
    pixels = np.rint(DIGITS.images[number] * (255 / 16)).astype(np.uint8)
    return Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)


def rows(counts: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Return a manifest whose files `Gate.lay_out` draws: the number of the picture is its place in the table."""
    made = []
    for split, labels in counts.items():
        for label, count in labels.items():
            for i in range(count):
                data = encoded(digit(len(made)))
                made.append(row(f"{split}/{label}/{i}.png", data, label, split))
    return pd.DataFrame(made, columns=Row._fields)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


PICTURES: dict[str, bytes] = {}


def row(path: str, data: bytes, label: str, split: str) -> Row:
    identity = hashlib.sha256(data).hexdigest()
    PICTURES[identity] = data
    facts = decoding.inspect(data)
    return Row(
        id=identity,
        path=path,
        label=label,
        split=split,
        bytes=len(data),
        group="",
        source="",
        weight=1.0,
        **facts._asdict(),
    )


@dataclass
class Gate:
    """The files that the gate reads, and those it writes."""

    root: Path

    def lay_out(self, table: pd.DataFrame, quarantined: int = 0, card: Any = None, decisions: str = "") -> None:
        files.write_table(self.root / "manifest.parquet", table)
        names = ("bad.jpg", "NA", "2024")  # people's files have names that tables take for something else
        lines = [f'{names[i % 3]},"damaged, truncated",OSError: x,damaged,,' for i in range(quarantined)]
        lines.append("note.txt,not an image format,,other file,text,ant")
        head = "path,reason,exception,kind,format,label"
        files.write_text(self.root / "quarantine.csv", "\n".join([head, *lines]) + "\n")
        files.write_json(self.root / "lost_classes.json", [])
        files.write_text(self.root / "decisions.csv", f"image,decision,label,note\n{decisions}")
        for path, identity in zip(table["path"], table["id"], strict=True):
            (self.root / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / "raw" / path).write_bytes(PICTURES.get(identity, b""))
        folder = self.root / "backbone"
        files.write_tensors(folder / models.WEIGHTS, STATE)
        models.write_card(folder, replace(CARD, sha256=files.sha256_of(folder / models.WEIGHTS)))
        if card:
            files.write_json(folder / models.CARD, {**files.read_json(folder / models.CARD), "preprocessing": card})

    def run(self, params: ValidateParams = PARAMS) -> None:
        validate(
            params,
            SHARES,
            0,
            COMPUTE,
            self.root / "manifest.parquet",
            self.root / "quarantine.csv",
            self.root / "decisions.csv",
            self.root / "lost_classes.json",
            self.root / "raw",
            self.root / "backbone",
            self.root / "accepted.parquet",
            self.root / "preprocessing.json",
            self.root / "validation.json",
            self.root / "docs",
        )

    @property
    def verdict(self) -> Validation | Unsound:
        path = self.root / "validation.json"
        return artefacts.read(Validation if "decisions" in files.read_json(path) else Unsound, path)

    def broken(self) -> dict[str, str]:
        return {rule.name: rule.observed for rule in self.verdict.rules if not rule.passed}


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_sound_data_pass_unchanged_with_their_preprocessing(gate: Gate) -> None:
    table = rows(COUNTS)
    # One file in 22 is no image: under the limit of a tenth. The card's numbers stand without decimal points.
    gate.lay_out(table, quarantined=1, card={**SPEC.to_dict(), "value_range": [0, 1]})
    gate.run()
    assert pd.read_parquet(gate.root / "accepted.parquet").equals(table)
    assert models.read_preprocessing(gate.root / "preprocessing.json") == SPEC
    verdict = gate.verdict
    assert (verdict.accepted, gate.broken()) == (True, {})
    divergence = verdict.observed.source_divergence
    assert list(divergence) == ["features.0", "features.1", "features.2"], "of each block, input side first"
    assert 0 < min(divergence.values()) < max(divergence.values()) < 1, "digits are near to glyphs, and not the same"
    assert verdict.counts == COUNTS
    assert verdict.quarantined == 1
    assert len(verdict.rules) == 23
    assert [row.field for row in verdict.preprocessing] == list(SPEC.to_dict())
    assert all(row.agree for row in verdict.preprocessing)
    observed = {rule.name: rule.observed for rule in verdict.rules}
    assert observed["enough to learn from"] == "4 to 5 images"
    assert observed["classes are balanced"] == "1.25 times"
    assert observed["files can be decoded"] == "4.5 %"
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
    assert gate.broken() == {"classes are balanced": "3.25 times"}
    assert gate.verdict.accepted is True
    assert (gate.root / "accepted.parquet").exists()


def of_the_files(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[0, "split"], table.loc[2, "width"], table.loc[4, "path"] = "dev", 0, table.loc[3, "path"]
    table.loc[6, "id"] = "ABC"
    return table


def copied(table: pd.DataFrame) -> pd.DataFrame:
    """A test image's bytes stand in training too; and in training, one picture carries both labels."""
    train, test = table.index[table["split"] == "train"], table.index[table["split"] == "test"]
    facts = ["id", "phash"]
    table.loc[train[0], facts] = table.loc[test[0], facts]
    table.loc[train[1], facts] = table.loc[train[-1], facts]
    return table


def test_a_refusal_names_the_files_that_it_counts(gate: Gate) -> None:
    table = copied(rows(COUNTS))
    gate.lay_out(table, quarantined=3)
    with pytest.raises(DataError) as caught:
        gate.run()
    where = {rule.name: list(rule.where) for rule in gate.verdict.rules if rule.where}
    assert where == {
        "files can be decoded": ["2024", "NA", "bad.jpg"],
        "no image in two splits": ["test/ant/0.png", "train/ant/0.png"],
        "one image, one label": ["train/ant/1.png", "train/bee/3.png"],
    }
    for names in where.values():
        assert f"      where   {'; '.join(names)}\n" in str(caught.value)


def test_a_source_that_training_lacks_is_a_warning(gate: Gate) -> None:
    table = rows({"train": {"ant": 12, "bee": 12}, "val": {"ant": 2, "bee": 2}, "test": {"ant": 12, "bee": 12}})
    table["source"] = np.where(table["split"] == "test", "clinic", "field")
    gate.lay_out(table)
    gate.run()
    assert gate.broken()["training covers what is tested"] == "'field' has 85.7 points; 'clinic' has 85.7 points"


Change = Callable[[pd.DataFrame], pd.DataFrame]
FEW = {"train": {"ant": 5, "bee": 3, "wasp": 4}, "val": {"ant": 1, "bee": 2, "wasp": 2}, "test": {"ant": 3, "bee": 3}}
LONELY = {"train": {"ant": 5}, "val": {"ant": 2}, "test": {"ant": 3}}
BROKEN: dict[str, tuple[pd.DataFrame, int, dict[str, str]]] = {
    "files": (
        of_the_files(rows({**COUNTS, "train": {"ant": 6, "bee": 6}})),
        0,
        {
            "ids are digests": "ABC",
            "splits are known": "dev",
            "paths are unique": "train/ant/3.png",
            "images have area": "0 pixels",
        },
    ),
    "few": (
        rows(FEW),
        0,
        {
            "enough to learn from": "'bee' has 3 images (needs 1 more)",
            "enough to choose by": "'ant' has 1 image (needs 1 more)",
            "enough to judge by": "'wasp' has 0 images (needs 3 more)",
        },
    ),
    "another schema": (
        rows(COUNTS).drop(columns="width"),
        0,
        {
            "the manifest is whole": "id; path; label; split; height; mode; bytes; format; group; source and 6 more",
            "images have area": 'could not be checked: Error: The column "width" in BatchData does not exist.',
        },
    ),
    "one class": (rows(LONELY), 0, {"two classes or more": "1 class"}),
    "no labels": (rows({"unlabelled": {"": 5}}), 0, {"two classes or more": "0 classes"}),
    "copies": (
        copied(rows(COUNTS)),
        3,
        {"files can be decoded": "12.5 %", "no image in two splits": "1", "one image, one label": "1"},
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_exactly_the_broken_rules_are_named_and_nothing_passes(gate: Gate, case: str) -> None:
    table, quarantined, wanted = BROKEN[case]
    gate.lay_out(table, quarantined)
    with pytest.raises(DataError) as caught:
        gate.run()
    assert gate.broken() == wanted
    assert gate.verdict.accepted is False
    assert (gate.root / "docs" / "index.html").is_file(), "a refusal has to be readable"
    assert not (gate.root / "accepted.parquet").exists()
    assert not (gate.root / "preprocessing.json").exists()
    told = str(caught.value)
    assert caught.value.exit_code == 3
    assert told.startswith(f"the data was rejected: {len(wanted)} rule")
    for rule in gate.verdict.rules:
        lines = [
            f"  {rule.name}: {rule.what}",
            f"      found   {rule.observed}",
            *([f"      where   {'; '.join(rule.where)}"] if rule.where else []),
            f"      limit   {rule.limit}",
            f"      remedy  {rule.remedy}",
        ]
        assert ("\n".join(lines) in told) == (rule.name in wanted)


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
        "no group in two splits": "1",
        "enough to learn from": "'bee' has 3 images (needs 1 more)",
        "enough to choose by": "'bee' has 1 image (needs 1 more)",
    }
    assert gate.verdict.counts == COUNTS, "they are counted as images all the same"


def test_each_field_of_the_preprocessing_that_is_not_the_backbones_is_named(gate: Gate) -> None:
    gate.lay_out(rows(COUNTS))
    ours = replace(SPEC, interpolation="bicubic", mean=(0.5, 0.0, 0.9), value_range=(-1.0, 1.0))
    silent = replace(PARAMS.severity, observed="off")
    with pytest.raises(DataError, match="same preprocessing as the backbone"):
        gate.run(replace(PARAMS, preprocessing=ours, severity=silent))
    assert gate.broken() == {
        "same preprocessing as the backbone": "interpolation is bicubic, the backbone wants bilinear; "
        "value_range is [-1.0, 1.0], the backbone wants [0.0, 1.0]; "
        "mean is [0.5, 0.0, 0.9], the backbone wants [0.2737, 0.2737, 0.2737]"
    }
    disagree = [row.field for row in gate.verdict.preprocessing if not row.agree]
    assert disagree == ["interpolation", "value_range", "mean"]
    assert not (gate.root / "accepted.parquet").exists()


def test_a_refusal_of_one_rule_is_said_in_the_singular() -> None:
    rule = RuleResult("n", False, "o", (), "fail", "l", "w", "r")
    assert str(refusal([rule])) == (
        "the data was rejected: 1 rule broken\n  n: w\n      found   o\n      limit   l\n      remedy  r"
    )
    assert str(refusal([rule, rule])).startswith("the data was rejected: 2 rules broken\n")
    assert refusal([replace(rule, severity="warn"), replace(rule, passed=True)]) is None


def test_a_copy_in_another_size_and_format_is_found_across_splits_and_labels(gate: Gate) -> None:
    table = rows(COUNTS)
    test = table[table["split"] == "test"].iloc[0]
    copy = encoded(digit(int(test.name)).resize((64, 64), Image.Resampling.BICUBIC), "JPEG", quality=90)
    table.loc[len(table)] = row("train/bee/copy.jpg", copy, "bee", "train")
    gate.lay_out(table)
    with pytest.raises(DataError, match="no copy in two splits"):
        gate.run()
    assert gate.broken() == {"no copy in two splits": "1", "one picture, one label": "1"}
    (group,) = gate.verdict.copies
    assert [image.path for image in group.images] == ["test/ant/0.png", "train/bee/copy.jpg"]
    assert (group.leaking, group.conflicting, group.identical) == (True, True, False)


def test_the_remedy_drops_the_copy_outside_test_and_moves_no_image(gate: Gate) -> None:
    table = copied(rows({**COUNTS, "train": {"ant": 6, "bee": 5}}))
    gate.lay_out(table)
    leaking = table["path"][table["split"] == "train"].iloc[0]
    silent = replace(PARAMS.severity, conflicting_labels="off")
    gate.run(replace(PARAMS, drop_leaking=True, severity=silent))
    left = pd.read_parquet(gate.root / "accepted.parquet")
    assert (gate.verdict.dropped, gate.verdict.left_out) == ((leaking,), {"train": 1})
    assert left.equals(table[table["path"] != leaking].reset_index(drop=True))


def test_decisions_are_obeyed_before_the_gate_looks(gate: Gate) -> None:
    table = rows(COUNTS)
    identity = table["id"][table["path"] == "train/ant/1.png"].item()
    gate.lay_out(
        table, decisions=f"train/ant/0.png,relabel,bee,a bee\n{identity},drop,,blurred\nval/ant/0.png,keep,,\n"
    )
    with pytest.raises(DataError, match="'ant' has 3"):
        gate.run()
    gate.run(replace(PARAMS, min_train_per_class=3))
    left = pd.read_parquet(gate.root / "accepted.parquet").set_index("path")
    assert left["label"]["train/ant/0.png"] == "bee"
    assert "train/ant/1.png" not in left.index and len(left) == len(table) - 1
    assert (left["split"] == table.set_index("path")["split"][left.index]).all()
    assert gate.verdict.decisions == Obeyed(keep=1, relabel=1, drop=1, absent=())


def test_wrong_decisions_are_all_listed_and_nothing_is_written(gate: Gate) -> None:
    gate.lay_out(rows(COUNTS), decisions="ant/0.png,keep,,\ntrain/ant/0.png,erase,,\ntrain/bee/0.png,relabel,wasp,\n")
    with pytest.raises(DataError) as caught:
        gate.run()
    assert caught.value.exit_code == 3
    assert str(caught.value).splitlines() == [
        "3 faults in decisions.csv:",
        "  line 2: there is no image 'ant/0.png'; did you mean 'train/ant/0.png'? "
        "If the file has gone, delete the line",
        "  line 3: 'erase' is no decision; one of keep, relabel, drop",
        "  line 4: 'wasp' is no label of this data; one of ant, bee",
    ]
    assert not (gate.root / "accepted.parquet").exists()


def test_a_prior_of_other_classes_is_a_fault_of_the_params(gate: Gate) -> None:
    gate.lay_out(rows(COUNTS))
    with pytest.raises(ParamsError, match="population_prior names ant, wasp; the classes are ant, bee"):
        gate.run(replace(PARAMS, population_prior={"ant": 1, "wasp": 1}))


def test_a_backbone_without_its_top_is_observed_and_not_asked_for_colours(gate: Gate) -> None:
    gate.lay_out(rows({**COUNTS, "train": {"ant": 30, "bee": 30}}))
    gate.run(replace(PARAMS, sample_images=64))
    whole = gate.verdict.observed
    folder = gate.root / "backbone"
    files.write_tensors(folder / models.WEIGHTS, {k: v for k, v in STATE.items() if not k.startswith("classifier")})
    models.write_card(folder, replace(CARD, cut="", sha256=files.sha256_of(folder / models.WEIGHTS)))
    gate.run(replace(PARAMS, sample_images=64))
    seen = gate.verdict.observed
    assert seen.source_divergence == whole.source_divergence and gate.broken() == {}
    assert [found.account for found in seen.wanted] == ["cannot be told", "as declared"]


def test_batch_norm_remembers_other_inputs_though_card_and_params_agree(gate: Gate) -> None:
    wrong = replace(SPEC, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    enough = {**COUNTS, "train": {"ant": 30, "bee": 30}}
    gate.lay_out(rows(enough), card=wrong.to_dict())
    params = replace(PARAMS, preprocessing=wrong, sample_images=64)
    gate.run(params)
    assert gate.broken() == {
        "the weights know such inputs": "colour order: cannot be told; "
        f"mean and std: mean and std of the source (value_range [0.0, 1.0], "
        f"mean {[*SPEC.mean]}, std {[*SPEC.std]})"
    }
    strict = replace(PARAMS.severity, wanted="fail")
    with pytest.raises(DataError, match="the weights know such inputs"):
        gate.run(replace(params, severity=strict))
    gate.lay_out(rows(enough))  # the remedy: card and params with the values that were named
    gate.run(replace(PARAMS, sample_images=64, severity=strict))
    assert gate.broken() == {}
