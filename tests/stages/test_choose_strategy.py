"""The stage on generated features: what it decides, what it may not see, and that it decides the same twice."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steps.backbones import models
from steps.choose_strategy import ChooseStrategyParams, choose_strategy
from steps.images.manifest import Row
from steps.runtime import artefacts, files
from steps.runtime.compute import ComputeParams
from steps.runtime.feature_file import write_features
from steps.runtime.params import faults_of
from steps.training.strategy import Strategy
from tests.made import spec

PARAMS = ChooseStrategyParams(
    strategy="auto",
    folds=4,
    most_images=1000,
    inverse_regularisation=(1e-2, 0.1),
    least_labels=30,
    settled=0.03,
    headroom=0.05,
    later_share=0.5,
    budget_flops=None,
    confidence=0.95,
)
COMPUTE = ComputeParams(threads=1, batch_size=8)
SPEC = spec(16, 16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
WHOLE, EARLY = "", "features.1"
CLASSES = ("ant", "bee", "cat")


@dataclass(frozen=True)
class Inputs:
    """The paths of the stage, and a way to run it."""

    root: Path
    table: pd.DataFrame

    def run(self, params: ChooseStrategyParams = PARAMS, seed: int = 0) -> Strategy:
        files.write_table(self.root / "screened.parquet", self.table)
        names = ("screened.parquet", "validation.json", "backbone", "features.safetensors", "strategy.json")
        choose_strategy(params, seed, COMPUTE, *(self.root / name for name in names))
        return artefacts.read(Strategy, self.root / "strategy.json")


def row(split: str, label: str, number: int) -> Row:
    name = f"{split}/{label}/{number}.png"
    identity = hashlib.sha256(name.encode()).hexdigest()
    fields: dict[str, Any] = {
        "id": identity,
        "path": name,
        "label": label,
        "split": split,
        "mode": "RGB",
        "format": "PNG",
        "group": "",
        "source": "",
        "weight": 1.0,
        "phash": identity[:16],
    }
    return Row(**{**dict.fromkeys(Row._fields, 0), **fields})


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Inputs]:
    """Return a maker of inputs: images a class, and how far apart the classes lie at each cut (noise has size 1)."""

    def made(labels: int, apart: dict[str, float], classes: tuple[str, ...] = CLASSES) -> Inputs:
        rows = [row(s, label, i) for s, n in (("train", labels), ("test", 5)) for label in classes for i in range(n)]
        table = pd.DataFrame(rows, columns=Row._fields)
        rng, centres = np.random.default_rng(0), np.eye(len(classes), 6)
        targets = np.searchsorted(classes, table["label"].tolist())
        cuts = {cut: size * centres[targets] + rng.normal(size=(len(table), 6)) for cut, size in apart.items()}
        write_features(tmp_path / "features.safetensors", table["id"].tolist(), cuts)
        validation = {"observed": {"source_divergence": {"features.0": 0.1, "features.1": 0.2, "features.2": None}}}
        files.write_json(tmp_path / "validation.json", validation)
        card = models.Card("mine", "glyphnet", 10, "", "here", "none", SPEC, None, {})
        models.write_card(tmp_path / "backbone", card)
        return Inputs(tmp_path, table)

    return made


def test_few_labels_on_a_similar_source_train_the_head_alone(make: Callable[..., Inputs]) -> None:
    found = make(10, {WHOLE: 3.0, EARLY: 1.0}).run()
    assert (found.strategy, found.cut, found.blocks) == ("head_only", "", 0)
    assert found.pretrained
    assert found.size.labels_per_class == 10
    assert [point.labels_per_class for point in found.size.curve] == [1.9, 3.8, 7.5]


def test_many_labels_on_a_similar_source_train_the_later_blocks_too(make: Callable[..., Inputs]) -> None:
    found = make(200, {WHOLE: 2.5, EARLY: 1.0}).run()
    assert (found.strategy, found.cut, found.blocks) == ("later_blocks", "", 2)
    assert [cut.cut for cut in found.similarity] == [EARLY, WHOLE], "in the order of the network"
    assert found.similarity[1].balanced_accuracy > found.similarity[0].balanced_accuracy
    assert found.similarity[1].logme > found.similarity[0].logme
    assert found.similarity[1].h_score > found.similarity[0].h_score
    assert [cut.source_divergence for cut in found.similarity] == [0.2, None], "each of the block it ends after"


def test_earlier_features_that_part_the_classes_better_are_a_different_task(make: Callable[..., Inputs]) -> None:
    small = make(20, {WHOLE: 0.5, EARLY: 5.0}).run()
    assert (small.strategy, small.cut, small.blocks) == ("early_features", EARLY, 0)
    large = make(80, {WHOLE: 0.0, EARLY: 5.0}).run()
    assert (large.strategy, large.cut, large.blocks) == ("everything", "", 3)


def test_weights_that_tell_less_than_a_perceptual_hash_are_left_for_random_ones(make: Callable[..., Inputs]) -> None:
    inputs = make(80, {WHOLE: 0.3, EARLY: 0.3})
    telling = inputs.table["label"].map({"ant": "00", "bee": "f0", "cat": "ff"}) + inputs.table["phash"].str[2:]
    found = replace(inputs, table=inputs.table.assign(phash=telling)).run()
    assert (found.strategy, found.cut, found.blocks) == ("from_scratch", "", 3)
    assert not found.pretrained
    assert found.worth.perceptual_hash.balanced_accuracy > 0.95
    assert found.worth.best_cut_less.below(0)
    assert inputs.run().strategy != "from_scratch", "hashes that tell nothing accuse no weights"


def test_the_test_split_has_no_say(make: Callable[..., Inputs]) -> None:
    inputs = make(12, {WHOLE: 1.0, EARLY: 1.0})
    before = inputs.run()
    without = replace(inputs, table=inputs.table[inputs.table["split"] == "train"])
    assert without.run() == before
    shuffled = inputs.table.assign(label=inputs.table["label"].where(inputs.table["split"] == "train", "ant"))
    assert replace(inputs, table=shuffled).run() == before


def test_the_same_inputs_give_the_same_bytes_whatever_their_order(make: Callable[..., Inputs]) -> None:
    inputs = make(12, {WHOLE: 1.0, EARLY: 0.5})
    inputs.run()
    before = (inputs.root / "strategy.json").read_bytes()
    replace(inputs, table=inputs.table.sample(frac=1, random_state=1)).run()
    assert (inputs.root / "strategy.json").read_bytes() == before


def test_a_copy_under_another_name_is_one_image(make: Callable[..., Inputs]) -> None:
    inputs = make(12, {WHOLE: 1.0})
    copies = inputs.table[inputs.table["split"] == "train"].assign(path="again")
    assert replace(inputs, table=pd.concat([inputs.table, copies])).run() == inputs.run()


@pytest.mark.parametrize("labels", [1, 2])
def test_one_or_two_labels_a_class_are_enough_to_say_that_they_are_few(
    make: Callable[..., Inputs], labels: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(labels, {WHOLE: 3.0, EARLY: 1.0}).run().strategy in ("head_only", "early_features")


def test_no_more_images_are_measured_than_params_say(make: Callable[..., Inputs]) -> None:
    found = make(100, {WHOLE: 1.0}).run(replace(PARAMS, most_images=120))
    assert found.size.curve[-1].n == 120
    assert found.size.labels_per_class == 100, "what there is, not what was measured"


def test_the_wrong_values_are_refused_all_at_once() -> None:
    wrong = replace(PARAMS, strategy="head", folds=1, inverse_regularisation=(), budget_flops=0.0, headroom=2.0)
    faults = list(faults_of(ChooseStrategyParams, vars(wrong), "choose_strategy"))
    assert len(faults) == 5
    assert "one of auto, head_only, later_blocks, early_features, everything" in faults[0]
    assert not list(faults_of(ChooseStrategyParams, vars(PARAMS), "choose_strategy"))
