"""The stage on real digits: what it calibrates by, what it compares with, and that nobody looks without a trace."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steps.backbones import familiarity, models
from steps.backbones.backbone import Grafted, digest
from steps.backbones.inference import predict_logits
from steps.commands import origins
from steps.errors import ParamsError, RegistryError
from steps.evaluate import evaluate
from steps.evaluation.calibration import tempered
from steps.evaluation.protocol import EvaluateParams
from steps.images.dataset import Images
from steps.registry import look_ledger, tracking
from steps.runtime import artefacts, files
from steps.runtime.compute import ComputeParams
from steps.runtime.feature_file import read_features, write_features
from steps.runtime.params import bind, faults_of
from steps.runtime.stage import Lineage
from steps.train_head import TrainHeadParams, train_head
from steps.training.histories import FineTuneHistory, HeadHistory
from steps.training.rivals import bounded
from tests import outputs
from tests.conftest import REPOSITORY, write_images

CLASSES = ["0", "1", "2"]
COMPUTE = ComputeParams(threads=1, batch_size=16)


def params(**changes: Any) -> EvaluateParams:
    section = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))["evaluate"]
    return bind(EvaluateParams, {**section, "bootstrap_draws": 200, "slice_least": 5, **changes}, "evaluate")


@dataclass(frozen=True)
class World:
    """Digits of three classes, a head that was really trained on them, and a fine-tuned network that answers alike."""

    root: Path
    table: pd.DataFrame

    def evaluate(self, **changes: Any) -> dict[str, Any]:
        """Run the stage; return what it wrote."""
        names = (
            "raw",
            "screened.parquet",
            "preprocessing.json",
            "backbone",
            "head",
            "head.json",
            "fine_tuned",
            "fine_tuned.json",
            "features.safetensors",
            "baselines.parquet",
            "baselines.json",
            "evaluation.json",
            "predictions.parquet",
            "familiarity.safetensors",
        )
        evaluate(params(**changes), 3, COMPUTE, *(self.root / name for name in names))
        found: dict[str, Any] = files.read_json(self.root / "evaluation.json")
        return found

    def logits(self, split: str, refitted: bool) -> Any:
        """Compute the head's logits on a split, the long way round."""
        _, network, _ = models.load_backbone(self.root / "backbone")
        model = Grafted(network, models.load_head(self.root / "head", refitted)).eval()
        images = Images(self.root / "raw", self.table, CLASSES, models.read_preprocessing(self.spec), COMPUTE)
        return np.concatenate([predict_logits(model, pixels) for pixels, _, _ in images.batches(split)])

    @property
    def spec(self) -> Path:
        """Return the file of the preprocessing."""
        return self.root / "preprocessing.json"

    def targets(self, split: str) -> Any:
        """Return class indices in the order of paths."""
        part = self.table[self.table["split"] == split].sort_values("path")
        return np.searchsorted(CLASSES, part["label"].tolist())


def write_world(root: Path) -> World:
    write_images(root / "raw", per_class=40)
    paths = sorted((root / "raw").rglob("*.png"))
    table = pd.DataFrame(
        [
            {
                "id": files.sha256_of(path),
                "path": path.relative_to(root / "raw").as_posix(),
                "label": path.parent.name,
                "split": ("train", "val", "test", "test")[number % 4],
                "weight": 1.0,
                "group": "",
                "source": "",
                "width": 8,
                "height": 8,
                "brightness": number / 120,
                "format": "PNG",
                "camera": "ab"[number % 8 // 4],
            }
            for number, path in enumerate(paths)
        ]
    )
    files.write_table(root / "screened.parquet", table)
    card, state = origins.embedded()
    files.write_tensors(root / "backbone" / models.WEIGHTS, state)
    models.write_card(root / "backbone", replace(card, sha256=files.sha256_of(root / "backbone" / models.WEIGHTS)))
    files.write_json(root / "preprocessing.json", card.preprocessing)
    world = World(root, table)
    _, network, _ = models.load_backbone(root / "backbone")
    images = Images(root / "raw", table, CLASSES, card.preprocessing, COMPUTE)
    with torch.inference_mode():
        found = [network(pixels) for pixels, _, _ in images.batches("train", "val", "test")]
    ids = images.part("train", "val", "test")["id"].tolist()
    write_features(root / "features.safetensors", ids, {"": torch.cat(found).numpy()})
    files.write_json(root / "strategy.json", outputs.strategy())
    names = ("screened.parquet", "features.safetensors", "strategy.json", "head", "head.json")
    head = TrainHeadParams(kind="linear", inverse_regularisation=(1e-3, 1e-2))
    files.write_table(root / "screened.parquet", table[table["split"] != "test"])
    train_head(head, 0, COMPUTE, Lineage("train_head", "d" * 64, "", {}, {}), *(root / name for name in names))
    files.write_table(root / "screened.parquet", table)
    model = Grafted(network, models.load_head(root / "head", refitted=False))
    files.write_tensors(root / "fine_tuned" / models.WEIGHTS, model.state_dict())
    shutil.copy(root / "head" / models.FACTS, root / "fine_tuned")
    validation = artefacts.read(HeadHistory, root / "head.json").validation
    files.write_json(root / "fine_tuned.json", outputs.fine_tune_history(validation=validation, best_epoch=0))
    part = table[table["split"] == "test"].sort_values("path")[["id", "path", "split", "label"]]
    rivals = [
        part.assign(model="majority", draw=0, predicted="0"),
        *(part.assign(model="scratch", draw=draw, predicted="1") for draw in range(2)),
    ]
    files.write_table(root / "baselines.parquet", pd.concat(rivals))
    learnt = outputs.baselines_history(CLASSES, train=30, train_of=30, most_images=30)
    files.write_json(root / "baselines.json", learnt)
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("evaluate")
    shutil.copy(REPOSITORY / "params.yaml", root / "params.yaml")
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield write_world(root)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture(scope="module")
def found(world: World) -> dict[str, Any]:
    return world.evaluate(slice_columns=["camera"], slice_limits={"camera=b": 1.0, "brightness": 0.0})


def test_one_figure_has_one_interval_wherever_it_is_told(found: dict[str, Any]) -> None:
    for name, told in found["test"].items():
        for figure in ("log_loss", "calibration_error"):
            assert found["calibration"][name]["after"][figure] == told[figure]


def test_the_temperature_follows_from_the_head_that_had_not_seen_validation(
    world: World, found: dict[str, Any]
) -> None:
    logits, targets = world.logits("val", refitted=False), world.targets("val")

    def penalised(temperature: float) -> float:
        chosen = tempered(logits, temperature)[np.arange(len(targets)), targets]
        return float(-np.log(chosen).sum() + 0.5 * (np.log(temperature) / params().temperature_spread) ** 2)

    temperature = found["calibration"]["head"]["temperature"]
    assert all(penalised(temperature) <= penalised(temperature * factor) for factor in (0.9, 0.999, 1.001, 1.1))


def test_predictions_are_calibrated_probabilities_of_the_refitted_head(world: World, found: dict[str, Any]) -> None:
    told = files.read_table(world.root / "predictions.parquet")
    head = told[told["model"] == "head"]
    wanted = tempered(world.logits("test", refitted=True), found["calibration"]["head"]["temperature"])
    assert np.abs(np.array(head["probabilities"].tolist()) - wanted).max() < 1e-6
    assert head["path"].tolist() == sorted(head["path"])
    assert found["test"]["head"]["accuracy"]["value"] == (head["predicted"] == head["label"]).mean()


def test_the_measure_is_of_training_images_and_validation_sets_its_limit(world: World, found: dict[str, Any]) -> None:
    tensors = files.read_tensors(world.root / "familiarity.safetensors")
    for name, row in found["unfamiliar"].items():
        measure = familiarity.from_tensors(models.under(f"{name}.", tensors))
        assert (row["known"], row["threshold"]) == (len(measure.known), measure.threshold) == (30, measure.threshold)
        cached, part = read_features(world.root / "features.safetensors"), world.table.sort_values("path")
        held, tested = (cached.of(part.loc[part["split"] == split, "id"]) for split in ("val", "test"))
        assert not measure.unfamiliar(torch.from_numpy(held)).any()
        assert row["test"]["value"] == measure.unfamiliar(torch.from_numpy(tested)).mean() <= 0.1
        assert measure.unfamiliar(torch.randn(5, held.shape[1])).all()
    wider = world.evaluate(unfamiliar_rate=0.2)["unfamiliar"]["head"]
    assert wider["threshold"] < found["unfamiliar"]["head"]["threshold"]
    assert wider["test"]["value"] > found["unfamiliar"]["head"]["test"]["value"]


def test_every_chapter_is_there_and_the_verdicts_are_paired(found: dict[str, Any]) -> None:
    assert found["transfer"]["verdict"] == "helps" and found["transfer"]["against"] == "scratch"
    assert {row["against"]: row["draws"] for row in found["transfer"]["baselines"]} == {"majority": 1, "scratch": 2}
    (pair,) = found["comparisons"]
    assert (pair["a"], pair["b"], pair["verdict"]) == ("fine_tuned", "head", "no evidence")
    rows = {(row["column"], row["value"].split(" ")[0]): row for row in found["slices"]["head"]}
    assert set(rows) == {
        ("camera", "a"),
        ("camera", "b"),
        *(("brightness", third) for third in ("low", "middle", "high")),
    }
    assert rows["camera", "b"]["limit"] == 1.0 and rows["brightness", "low"]["limit"] == 0.0
    assert rows["camera", "b"]["breached"] == (rows["camera", "b"]["accuracy"]["value"] < 1)


def test_transfer_is_judged_by_the_labels_that_the_baselines_had(world: World, found: dict[str, Any]) -> None:
    transfer, targets = found["transfer"], world.targets("test")
    assert (transfer["model"], transfer["labels"], transfer["labels_of"]) == ("head", 30, 30)
    assert transfer["sentence"].endswith(" points, both from 30 labels")
    alone = world.logits("test", refitted=False).argmax(axis=1)
    assert transfer["accuracy"] == (alone == targets).mean()
    scratch = next(row for row in transfer["baselines"] if row["against"] == "scratch")
    assert scratch["difference"] == pytest.approx((alone == targets).mean() - (targets == 1).mean())


def test_where_the_baselines_had_a_part_of_the_labels_so_has_the_head(world: World) -> None:
    path = world.root / "baselines.json"
    whole = path.read_bytes()
    files.write_json(path, outputs.baselines_history(CLASSES, train=6, train_of=30, most_images=6))
    found = world.evaluate()["transfer"]
    path.write_bytes(whole)
    table = bounded(world.table, 6)
    ids, rows = read_features(world.root / "features.safetensors")
    position = {identity: i for i, identity in enumerate(ids)}
    parts = [table[table["split"] == split].sort_values("path") for split in ("train", "test")]
    assert len(parts[0]) == 6
    features, labels = zip(*((rows[[position[i] for i in part["id"]]], part["label"]) for part in parts), strict=True)
    c = artefacts.read(HeadHistory, world.root / "head.json").chosen_c
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight="balanced", tol=1e-6))
    right = reference.fit(features[0], labels[0]).predict(features[1]) == labels[1].to_numpy()
    assert found["accuracy"] == right.mean()
    assert found["sentence"].endswith("both from 6 of the 30 labels (baselines.most_images)")


def test_each_model_that_answers_is_one_look_and_a_rerun_none_and_the_same_bytes(
    world: World, found: dict[str, Any]
) -> None:
    test = world.table[world.table["split"] == "test"]["id"]
    before, names = look_ledger.count(test), ("evaluation.json", "predictions.parquet", "familiarity.safetensors")
    model = models.load_head_model(world.root / "backbone", world.root / "head")
    assert found["weights"]["head"] == digest(model.state_dict())
    assert before == 4 and found, "the two, the head fitted on train alone, and the one fitted on a part of it"
    world.evaluate(slice_columns=["camera"], slice_limits={"camera=b": 1.0, "brightness": 0.0})
    bytes_before = [(world.root / name).read_bytes() for name in names]
    world.evaluate(slice_columns=["camera"], slice_limits={"camera=b": 1.0, "brightness": 0.0})
    assert [(world.root / name).read_bytes() for name in names] == bytes_before
    assert look_ledger.count(test) == before


def test_an_image_of_weight_0_counts_nowhere(world: World) -> None:
    path = world.root / "screened.parquet"
    whole, test = path.read_bytes(), world.table.index[world.table["split"] == "test"]
    val = world.table.index[world.table["split"] == "val"]
    weightless = world.table.index.isin([*test[:3], *val[:2]])
    files.write_table(path, world.table.assign(weight=np.where(weightless, 0.0, 1.0)))
    found = world.evaluate()
    path.write_bytes(whole)
    assert found["test"]["head"]["n"] == len(test) - 3
    assert found["split_gap"]["validation"]["value"] * (len(val) - 2) == pytest.approx(
        round(found["split_gap"]["validation"]["value"] * (len(val) - 2))
    )
    told = files.read_table(world.root / "predictions.parquet")
    assert not set(told["path"]) & set(world.table["path"][test[:3]])


def test_without_a_network_from_scratch_the_verdict_is_against_the_strongest_rival(world: World) -> None:
    path = world.root / "baselines.parquet"
    whole = path.read_bytes()
    files.write_table(path, files.read_table(path).query("model != 'scratch'"))
    assert world.evaluate()["transfer"]["against"] == "majority"
    path.write_bytes(whole)


def test_a_network_from_random_weights_is_no_evidence_of_transfer(world: World) -> None:
    path = world.root / "fine_tuned.json"
    told = artefacts.read(FineTuneHistory, path)
    better = replace(told.validation, balanced_accuracy=1.0, log_loss=0.0)
    for pretrained, judged in ((True, "fine_tuned"), (False, "head")):
        files.write_json(path, replace(told, validation=better, best_epoch=1, pretrained=pretrained))
        found = world.evaluate()
        assert (found["chosen"], found["transfer"]["model"]) == ("fine_tuned", judged)
    files.write_json(path, told)


def test_slices_that_the_manifest_does_not_know_are_named_before_anything_is_looked_at(world: World) -> None:
    with pytest.raises(ParamsError) as told:
        world.evaluate(slice_columns=["lens"], slice_limits={"soruce": 0.5})
    assert "slice_columns: the manifest has no column 'lens'" in str(told.value)
    with pytest.raises(ParamsError) as told:
        world.evaluate(slice_columns=["camera"], slice_limits={"soruce": 0.5, "camera=A": 0.5})
    assert "slice_limits: 'soruce' is no slice; did you mean 'source'?" in str(told.value)
    assert "slice_limits: no image has camera 'A' (there are: a, b)" in str(told.value)
    assert len(list(faults_of(EvaluateParams, vars(params()), "evaluate"))) == 0
    wrong = replace(params(), power=2.0, slice_limits={"source": "high", 2024: 0.5}, target_accuracy=0)
    assert len(list(faults_of(EvaluateParams, vars(wrong), "evaluate"))) == 3
    with pytest.raises(ParamsError, match="slice_limits: '2024' is no slice"):
        world.evaluate(slice_limits={2024: 0.5})


def test_where_the_ledger_of_looks_was_tampered_with_no_figure_is_shown(world: World) -> None:
    """Last: it breaks the registry."""
    world.evaluate()
    tracking.client().delete_model_version("regraft.looks", "1")
    (world.root / "evaluation.json").unlink()
    with pytest.raises(RegistryError, match="entry 1 is missing: deleted"):
        world.evaluate()
    assert not (world.root / "evaluation.json").exists()
