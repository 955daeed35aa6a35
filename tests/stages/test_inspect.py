"""What is shown of a model is what it did: its wrong answers, their neighbours in training, and a pool to label."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from steps.backbones import models
from steps.commands import origins
from steps.images.decoding import read_image
from steps.images.preprocessing import preprocess
from steps.inspect import InspectParams, inspect
from steps.runtime import files
from steps.runtime.compute import ComputeParams
from steps.runtime.feature_file import read_features, write_features
from steps.runtime.params import faults_of
from steps.training.linear_probe import Labelled, fit
from tests.conftest import write_images
from tests.outputs import evaluated

PARAMS = InspectParams(
    answers=4,
    neighbours=3,
    thumbnail=64,
    most_points=60,
    perplexity=10.0,
    label_next=6,
    label_pictures=2,
    robustness_images=12,
)
CLASSES = ["0", "1", "2"]
SPLITS = ("train", "train", "val", "test", "unlabelled")
WRONG = 3  # test images whose recorded answer is another class


@dataclass(frozen=True)
class World:
    """Digits of three classes in all splits, the embedded backbone, its features, a head, and answers with mistakes."""

    root: Path

    def run(self, to: str = "out", table: pd.DataFrame | None = None, **changes: Any) -> tuple[Any, pd.DataFrame]:
        out, root = self.root / to, self.root
        files.write_table(root / f"{to}.parquet", self.table if table is None else table)
        inspect(
            replace(PARAMS, **changes),
            0,
            ComputeParams(threads=1, batch_size=8),
            raw=root / "raw",
            screened=root / f"{to}.parquet",
            preprocessing=root / "preprocessing.json",
            backbone=root / "backbone",
            features=root / "features.safetensors",
            head=root / "head",
            fine_tuned=root / "fine_tuned",
            evaluation=root / "evaluation.json",
            predictions=root / "predictions.parquet",
            inspection=out / "inspect.json",
            label_next=out / "label_next.csv",
        )
        return json.loads((out / "inspect.json").read_text()), pd.read_csv(
            out / "label_next.csv", dtype={"predicted": str}
        )

    @property
    def table(self) -> pd.DataFrame:
        return files.read_table(self.root / "screened.parquet")

    def choose(self, model: str) -> None:
        files.write_json(self.root / "evaluation.json", evaluated({}, CLASSES, model))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    write_images(root / "raw", per_class=40)
    rows = [
        {
            "id": files.sha256_of(path),
            "path": path.relative_to(root / "raw").as_posix(),
            "label": path.parent.name,
            "split": SPLITS[int(path.stem) % 5],
            "weight": 1.0,
            "group": "",
        }
        for path in sorted((root / "raw").rglob("*.png"))
    ]
    table = pd.DataFrame(rows)
    truth = np.searchsorted(CLASSES, table["label"].tolist())
    table["label"] = table["label"].where(table["split"] != "unlabelled", "")
    files.write_table(root / "screened.parquet", table)
    card, state = origins.embedded()
    files.write_tensors(root / "backbone" / models.WEIGHTS, state)
    models.write_card(root / "backbone", replace(card, sha256=files.sha256_of(root / "backbone" / models.WEIGHTS)))
    files.write_json(root / "preprocessing.json", card.preprocessing.to_dict())
    pixels = [preprocess(read_image(root / "raw", row["path"], row["id"], None), card.preprocessing) for row in rows]
    with torch.inference_mode():
        features = models.assemble(card, state)[0](torch.stack(pixels)).flatten(1).numpy()
    write_features(root / "features.safetensors", table["id"].tolist(), {"": features})

    known = (table["split"] == "train").to_numpy()
    head = fit(Labelled(features[known], truth[known], np.ones(known.sum())), 3, 0.1)
    tensors = {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}
    files.write_tensors(
        root / "head" / models.WEIGHTS,
        {f"{part}.{name}": tensor.clone() for part in ("refitted", "train_only") for name, tensor in tensors.items()},
    )
    opposite = models.load_head_model(root / "backbone", _facts(root)).state_dict()
    opposite["head.weight"] = -opposite["head.weight"]
    files.write_tensors(root / "fine_tuned" / models.WEIGHTS, opposite)
    files.write_table(root / "predictions.parquet", answers(table[table["split"] == "test"].sort_values("path")))
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    made = World(root)
    made.choose("head")
    yield made
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


def _facts(root: Path) -> Path:
    for name in ("head", "fine_tuned"):
        files.write_json(root / name / models.FACTS, {"classes": CLASSES, "cut": ""})
    return root / "head"


def answers(test: pd.DataFrame) -> pd.DataFrame:
    """Right but for the first few, of which the model is the surer the earlier they come."""
    truth = np.searchsorted(CLASSES, test["label"].tolist())
    said = np.where(np.arange(len(test)) < WRONG, (truth + 1) % 3, truth)
    chances = 0.9 * np.eye(3)[said] + 0.1 / 3
    chances[:WRONG] -= 0.05 * np.arange(WRONG)[:, None] * (np.eye(3)[said[:WRONG]] - 1 / 3)
    told = test[["id", "path", "split", "label"]].assign(
        predicted=[CLASSES[i] for i in said], probabilities=list(chances)
    )
    return pd.concat([told.assign(model=model) for model in ("head", "fine_tuned")], ignore_index=True)


@pytest.fixture(scope="module")
def found(world: World) -> tuple[Any, pd.DataFrame]:
    return world.run()


def test_the_wrong_answers_are_shown_the_surest_first_and_the_right_ones_are_right(world: World, found: Any) -> None:
    told, _ = found
    test = world.table[world.table["split"] == "test"].sort_values("path")
    assert [row["path"] for row in told["wrong"]] == test["path"].tolist()[:WRONG] and told["wrong_total"] == WRONG
    assert len(told["right"]) == 4 and all(row["label"] == row["predicted"] for row in told["right"])
    assert told["block"] == "features.2"
    for row in (*told["wrong"], *told["right"]):
        assert row["picture"]["uri"].startswith("data:image/") and row["heat"]["uri"] != row["picture"]["uri"]


def test_neighbours_are_the_nearest_training_images_with_their_labels(world: World, found: Any) -> None:
    told, _ = found
    train = world.table[world.table["split"] == "train"].set_index("path")["label"]
    ids, rows = read_features(world.root / "features.safetensors")
    centred = dict(
        zip(
            ids,
            rows - rows[[ids.index(i) for i in world.table["id"][world.table["split"] == "train"]]].mean(axis=0),
            strict=True,
        )
    )
    for row in told["wrong"]:
        alike = [neighbour["likeness"] for neighbour in row["neighbours"]]
        assert len(alike) == 3 and alike == sorted(alike, reverse=True)
        mine = centred[row["id"]]
        best = max(
            float(mine @ centred[i] / np.linalg.norm(mine) / np.linalg.norm(centred[i]))
            for i in world.table["id"][world.table["split"] == "train"]
        )
        assert alike[0] == pytest.approx(best, abs=1e-3)
        assert all(train[neighbour["path"]] == neighbour["label"] for neighbour in row["neighbours"])


def test_robustness_is_of_validation_images_and_of_a_head_that_has_not_seen_them(world: World, found: Any) -> None:
    told = found[0]["robustness"]
    assert told["images"] == 12
    assert [row["strength"] for row in told["rows"]] == ["", *("mild", "strong") * 5]
    as_they_are = told["rows"][0]
    assert as_they_are["agreement"] == 1.0 and as_they_are["accuracy"]["value"] > 0.8
    assert told["worst"]["accuracy"]["value"] == min(row["accuracy"]["value"] for row in told["rows"][1:])
    head = files.read_tensors(world.root / "head" / models.WEIGHTS)
    reversed_head = {name: -value if name.startswith("train_only") else value for name, value in head.items()}
    files.write_tensors(world.root / "head" / models.WEIGHTS, reversed_head)
    try:
        other = world.run(to="reversed")[0]["robustness"]
    finally:
        files.write_tensors(world.root / "head" / models.WEIGHTS, head)
    assert other["rows"][0]["accuracy"]["value"] < 0.5
    assert world.run(to="no look", robustness_images=0)[0]["robustness"] is None


def test_the_list_to_label_holds_images_of_the_pool_alone(world: World, found: Any) -> None:
    told, listed = found
    pool = set(world.table["path"][world.table["split"] == "unlabelled"])
    assert list(listed.columns) == ["path", "predicted", "margin", "stands_for", "rank"]
    assert listed["rank"].tolist() == list(range(1, 7)) and set(listed["path"]) <= pool
    assert (
        listed["path"].is_unique and listed["margin"].between(0, 1).all() and set(listed["predicted"]) <= set(CLASSES)
    )
    assert (told["pool"], told["asked"]) == (len(pool), 6)
    assert [row["path"] for row in told["label_next"]] == listed["path"].tolist()[:2]


def test_the_map_says_how_many_it_shows_and_has_words(found: Any) -> None:
    told, _ = found
    assert told["map"]["images"] == 60 and told["map"]["of"] == 72 and 0.2 < told["map"]["agreement"] <= 1
    shown = {"inspect-pca": "60 images", "inspect-tsne": "60 images", "inspect-robustness": "noise, strong"}
    assert set(told["svg"]) == set(shown)
    for name, svg in told["svg"].items():
        assert svg.startswith("<svg ") and f'aria-labelledby="{name}-title"' in svg and shown[name] in svg


def test_the_same_images_in_another_order_give_the_same_bytes(world: World, found: Any) -> None:
    world.run(to="again", table=world.table.sample(frac=1, random_state=1))
    for name in ("inspect.json", "label_next.csv"):
        assert (world.root / "again" / name).read_bytes() == (world.root / "out" / name).read_bytes()
    assert (world.root / "out" / "inspect.json").stat().st_size < 1_500_000


def test_the_fine_tuned_network_is_looked_into_where_it_was_chosen(world: World, found: Any) -> None:
    world.choose("fine_tuned")
    told, _ = world.run(to="tuned")
    world.choose("head")
    assert told["chosen"] == "fine_tuned"
    heats = [[row["heat"]["uri"] for row in each["right"]] for each in (told, found[0])]
    assert heats[0] != heats[1], "it holds a head of the opposite opinion"


def test_without_a_pool_the_list_is_empty_and_says_its_columns(world: World) -> None:
    told, listed = world.run(to="dry", table=world.table[world.table["split"] != "unlabelled"])
    assert (told["pool"], told["asked"], told["label_next"]) == (0, 0, [])
    assert list(listed.columns) == ["path", "predicted", "margin", "stands_for", "rank"] and listed.empty


def test_the_wrong_values_are_refused_all_at_once() -> None:
    wrong = replace(PARAMS, answers=0, perplexity=1.0, label_next=0)
    assert len(list(faults_of(InspectParams, vars(wrong), "inspect"))) == 3
    assert not list(faults_of(InspectParams, vars(PARAMS), "inspect"))
