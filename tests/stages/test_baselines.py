"""The rivals of transfer: each answers for every test image, learns from the other splits alone, and can be resumed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steps.backbones import models
from steps.baselines import BaselinesParams, baselines
from steps.commands import origins
from steps.errors import ParamsError
from steps.runtime import artefacts, files
from steps.runtime.compute import ComputeParams
from steps.runtime.params import bind, faults_of
from steps.runtime.stage import Lineage
from steps.training import checkpoints
from steps.training.histories import BaselinesHistory
from tests.conftest import REPOSITORY, write_images
from tests.test_graph import GRAPH, split_deps

LINEAGE = Lineage(stage="baselines", digest="ab" * 32, code="", params={}, inputs={})
SHORT = {"epochs": 3, "least_steps": 0, "draws": 2, "rates": [1e-3, 1e-2], "most_images": 100}


def params(**changes: Any) -> BaselinesParams:
    section = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))["baselines"]
    return bind(BaselinesParams, {**section, **SHORT, **changes}, "baselines")


@dataclass(frozen=True)
class World:
    """Digits of three classes, class 2 the largest in training, the card of the embedded backbone and no weights."""

    root: Path

    def run(self, to: str = "out", batch_size: int = 8, **changes: Any) -> tuple[pd.DataFrame, BaselinesHistory]:
        out = self.root / to
        baselines(
            params(**changes),
            seed=3,
            compute=ComputeParams(threads=1, batch_size=batch_size),
            lineage=LINEAGE,
            raw=self.root / "raw",
            screened=self.root / "screened.parquet",
            preprocessing=self.root / "preprocessing.json",
            card=self.root / "backbone" / models.CARD,
            predictions=out / "baselines.parquet",
            history=out / "baselines.json",
        )
        return pd.read_parquet(out / "baselines.parquet"), artefacts.read(BaselinesHistory, out / "baselines.json")

    @property
    def table(self) -> pd.DataFrame:
        return files.read_table(self.root / "screened.parquet")

    def bytes_of(self, to: str) -> list[bytes]:
        return [(self.root / to / name).read_bytes() for name in ("baselines.parquet", "baselines.json")]


def split_of(label: str, number: int) -> str:
    if label == "0" and number >= 30:
        return "unlabelled"
    return ("train", "train", "val", "test")[number % 4]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    write_images(root / "raw", per_class=60)
    rows = [
        {
            "id": files.sha256_of(path),
            "path": path.relative_to(root / "raw").as_posix(),
            "label": path.parent.name,
            "split": split_of(path.parent.name, int(path.stem)),
            "weight": 1.0,
        }
        for path in sorted((root / "raw").rglob("*.png"))
    ]
    table = pd.DataFrame(rows)
    table.loc[(table["label"] == "1") & (table.index % 8 == 0), "weight"] = 0.0
    files.write_table(root / "screened.parquet", table)
    card, _ = origins.embedded()
    models.write_card(root / "backbone", card)
    files.write_json(root / "preprocessing.json", card.preprocessing)
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        yield World(root)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture(scope="module")
def found(world: World) -> tuple[pd.DataFrame, BaselinesHistory]:
    return world.run()


def probabilities(rows: pd.DataFrame, model: str, draw: int = 0) -> "np.ndarray[Any, Any]":
    return np.stack(rows[(rows["model"] == model) & (rows["draw"] == draw)]["probabilities"].tolist())


def test_every_baseline_and_draw_answers_once_for_every_test_image(world: World, found: Any) -> None:
    rows, told = found
    assert list(rows.columns) == ["id", "path", "split", "label", "model", "draw", "predicted", "probabilities"]
    test = world.table[world.table["split"] == "test"].sort_values("path")
    answered = {key: part["id"].tolist() for key, part in rows.groupby(["model", "draw"])}
    assert answered == dict.fromkeys(
        [("majority", 0), ("pixels", 0), ("scratch", 0), ("scratch", 1)], test["id"].tolist()
    )
    spread = np.stack(rows["probabilities"].tolist())
    assert np.allclose(spread.sum(axis=1), 1) and (spread >= 0).all()
    assert rows["predicted"].tolist() == [told.classes[i] for i in spread.argmax(axis=1)]


def test_the_majority_is_the_class_with_most_weight_and_answers_with_the_shares(world: World, found: Any) -> None:
    rows, told = found
    known = world.table[world.table["split"] == "train"]
    shares = known.groupby("label")["weight"].sum() / known["weight"].sum()
    assert told.majority.label == shares.idxmax() == "2"
    assert np.allclose(probabilities(rows, "majority"), shares.to_numpy())


def test_the_linear_model_is_logistic_regression_on_shrunk_pixels(world: World, found: Any) -> None:
    rows, told = found
    table = world.table.sort_values("path")
    pixels = (
        np.stack(
            [
                np.asarray(
                    Image.open(world.root / "raw" / path).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
                )
                for path in table["path"]
            ]
        ).reshape(len(table), -1)
        / 255.0
    )
    known, test = ((table["split"] == split).to_numpy() for split in ("train", "test"))
    known = known & (table["weight"] > 0).to_numpy()
    reference = make_pipeline(
        StandardScaler(), LogisticRegression(C=told.pixels.chosen_c, class_weight="balanced", tol=1e-6)
    )
    wanted = reference.fit(pixels[known], table["label"][known]).predict_proba(pixels[test])
    assert np.abs(wanted - probabilities(rows, "pixels")).max() < 0.02, "up to the resampling filter's last bits"


def test_the_network_from_scratch_learns_and_each_draw_is_another(found: Any) -> None:
    rows, told = found
    truth = rows[(rows["model"] == "scratch") & (rows["draw"] == 0)]["label"].astype(int).to_numpy()
    one, other = (probabilities(rows, "scratch", draw) for draw in (0, 1))
    assert (one.argmax(axis=1) == truth).mean() > 0.75 > told.majority.validation.accuracy
    assert not np.array_equal(one, other)
    assert [(run.draw, run.rate) for run in told.scratch.rates] == [(0, 1e-3), (0, 1e-2)]
    assert [run.draw for run in told.scratch.draws] == [0, 1]
    losses = {run.rate: run.validation.log_loss for run in told.scratch.rates}
    assert losses[told.scratch.chosen_rate] == min(losses.values())


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    world: World, found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, save, epochs = world.bytes_of("out"), checkpoints.save, []

    def stopping(*arguments: Any) -> None:
        save(*arguments)
        epochs.append(arguments)
        if len(epochs) == 5:  # the second rate's second epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        world.run(to="resumed")
    assert not (world.root / "resumed").exists()
    world.run(to="resumed")
    assert world.bytes_of("resumed") == wanted
    assert len(epochs) == 3 * 3, "each epoch once: none before the stop is trained again"
    assert not list((world.root / ".regraft/checkpoints").iterdir())


def test_few_images_are_trained_for_more_epochs_within_the_budget(world: World) -> None:
    few = {"most_images": 30, "rates": [1e-3], "draws": 1, "epochs": 2, "patience": 9}  # 4 batches
    for changes, most in (({"least_steps": 11}, 3), ({"least_steps": 11, "budget_flops": 1.0}, 2)):
        _, history = world.run(to="longer", **{**few, **changes})
        assert history.scratch is not None and history.scratch.draws[0].epochs == most


def test_from_scratch_can_be_left_out(world: World, found: Any) -> None:
    rows, told = world.run(to="without", scratch=False)
    assert set(rows["model"]) == {"majority", "pixels"} and told.scratch is None
    assert np.array_equal(probabilities(rows, "pixels"), probabilities(found[0], "pixels"))


def test_batches_of_one_image_are_refused_where_batch_norm_would_learn_from_them(world: World) -> None:
    with pytest.raises(ParamsError, match=r"compute.batch_size is 1; at least 2 where BatchNorm learns"):
        world.run(to="single", batch_size=1)
    assert not (world.root / "single").exists()


def test_no_more_training_images_are_used_than_params_say_and_that_is_told(world: World) -> None:
    rows, told = world.run(to="few", scratch=False, most_images=30)
    counted = world.table[world.table["weight"] > 0]
    assert told.train_of == (counted["split"] == "train").sum()
    assert 28 <= told.train <= 32, "about 30, the same share of each class"
    assert rows["id"].nunique() == (counted["split"] == "test").sum()


def test_the_wrong_values_are_refused_all_at_once() -> None:
    wrong = replace(params(), most_images=0, inverse_regularisation=(), rates=(0.0,), draws=0, least_area=2.0)
    assert len(list(faults_of(BaselinesParams, vars(wrong), "baselines"))) == 5
    assert not list(faults_of(BaselinesParams, vars(params()), "baselines"))


def test_neither_the_head_nor_the_backbones_weights_are_an_input() -> None:
    data, _ = split_deps("baselines")
    assert data == {"data/raw", "data/screened.parquet", "data/preprocessing.json", "data/backbone/card.json"}
    assert GRAPH["baselines"]["params"] == ["baselines", "compute", "seed"]
