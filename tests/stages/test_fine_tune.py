"""A killed fine-tuning goes on to the very same bytes; what is kept for later changes time and nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from steps.backbones import models
from steps.backbones.backbone import Grafted
from steps.commands import origins
from steps.errors import IntegrityError, ParamsError
from steps.fine_tune import FineTuneParams, fine_tune
from steps.runtime import artefacts, files
from steps.runtime.compute import ComputeParams
from steps.runtime.params import bind
from steps.runtime.stage import Lineage
from steps.training import checkpoints
from steps.training.histories import FineTuneHistory, TrainedFacts
from tests import outputs
from tests.conftest import REPOSITORY, write_images

FILES = ("fine_tuned/weights.safetensors", "fine_tuned/model.json", "history.json")
GRADUAL = {
    "blocks": 2,
    "epochs": 4,
    "patience": 4,
    "unfreeze_every": 2,
    "ema": 0.5,
    "l2_sp": 0.01,
    "bn_policy": "train",
}


def params(**changes: Any) -> FineTuneParams:
    section = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))["fine_tune"]
    return bind(FineTuneParams, {**section, **changes}, "fine_tune")


def lineage(digest: str = "ab" * 32) -> Lineage:
    return Lineage(stage="fine_tune", digest=digest, code="", params={}, inputs={})


@dataclass(frozen=True)
class World:
    """Twelve digits of three classes, the embedded backbone and a head, in a folder of their own."""

    root: Path

    def fine_tune(
        self,
        to: str = "out",
        digest: str = "ab" * 32,
        blocks: int = 1,
        pretrained: bool = True,
        batch_size: int = 8,
        **changes: Any,
    ) -> dict[str, bytes]:
        """Run the stage; return the bytes of what it wrote."""
        out = self.root / to
        files.write_json(self.root / "strategy.json", outputs.strategy(blocks=blocks, pretrained=pretrained))
        fine_tune(
            params(**changes),
            seed=3,
            compute=ComputeParams(threads=1, batch_size=batch_size),
            lineage=lineage(digest),
            raw=self.root / "raw",
            screened=self.root / "screened.parquet",
            preprocessing=self.root / "preprocessing.json",
            backbone=self.root / "backbone",
            head=self.root / "head",
            strategy=self.root / "strategy.json",
            fine_tuned=out / "fine_tuned",
            history=out / "history.json",
        )
        return {name: (out / name).read_bytes() for name in FILES}

    def history(self, of: str = "out") -> FineTuneHistory:
        return artefacts.read(FineTuneHistory, self.root / of / "history.json")


def write_world(root: Path) -> World:
    write_images(root / "raw", per_class=14)
    rows = [
        {
            "id": files.sha256_of(path),
            "path": path.relative_to(root / "raw").as_posix(),
            "label": path.parent.name,
            "split": "val" if number % 4 == 3 else "train",
            "weight": 1.0,
        }
        for number, path in enumerate(sorted((root / "raw").rglob("*.png")))
    ]
    files.write_table(root / "screened.parquet", pd.DataFrame(rows))
    card, state = origins.embedded()
    files.write_tensors(root / "backbone" / models.WEIGHTS, state)
    models.write_card(root / "backbone", replace(card, sha256=files.sha256_of(root / "backbone" / models.WEIGHTS)))
    files.write_json(root / "preprocessing.json", card.preprocessing)
    drawn = torch.Generator().manual_seed(0)
    head = {"train_only.weight": 0.1 * torch.randn(3, 512, generator=drawn), "train_only.bias": torch.zeros(3)}
    files.write_tensors(root / "head" / models.WEIGHTS, head)
    files.write_json(root / "head" / models.FACTS, TrainedFacts(("0", "1", "2"), "", lineage()))
    return World(root)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield write_world(tmp_path)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


KILLED = """
import os, signal, sys
from pathlib import Path
from steps.training import batches, checkpoints
from tests.stages.test_fine_tune import GRADUAL, World

root, place, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
owner, name = {"after": (checkpoints, "save"), "within": (batches, "frozen_pass")}[place]
original, calls = getattr(owner, name), []

def counted(*arguments):
    calls.append(original(*arguments))
    if len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return calls[-1]

setattr(owner, name, counted)
World(root).fine_tune(to="killed", **GRADUAL)
"""


def kill(world: World, place: str, count: int) -> None:
    """Run the stage in a process that kills itself: after so many checkpoints, or within an epoch."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(world.root), place, str(count)]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (world.root / "killed").exists()


# Two blocks: the second starts to learn in epoch 3. An epoch is four batches and four for the statistics of BatchNorm,
# validation two, done once.
@pytest.mark.parametrize(
    ("place", "count", "epochs"),
    [("after", 1, 1), ("after", 3, 3), ("within", 2 + 8 + 8 + 2, 2)],
    ids=["before it unfreezes", "after it has unfrozen", "in the middle of the epoch that unfreezes"],
)
def test_a_killed_run_goes_on_to_the_bytes_of_one_that_was_not(
    world: World, place: str, count: int, epochs: int
) -> None:
    wanted = world.fine_tune(to="whole", **GRADUAL)
    kill(world, place, count)
    found = checkpoints.load(lineage())
    assert found is not None
    assert len(found.epochs) == 1 + epochs
    assert world.fine_tune(to="resumed", **GRADUAL) == wanted
    assert checkpoints.load(lineage()) is None, "a run that has ended leaves nothing to skip the next one with"


def test_what_another_lineage_left_is_not_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "remove", lambda _: None)
    wanted = world.fine_tune(epochs=2)
    path = next((world.root / ".regraft/checkpoints").iterdir())
    foreign = path.with_name(path.name.replace("ab" * 32, "cd" * 32))
    foreign.write_bytes(path.read_bytes())
    assert checkpoints.load(lineage()) is not None
    assert checkpoints.load(lineage("cd" * 32)) is None, "a renamed file still names the lineage it belongs to"
    assert world.fine_tune(digest="ef" * 32, epochs=2)[FILES[0]] == wanted[FILES[0]]
    assert [p.name for p in path.parent.iterdir()] == [path.name.replace("ab" * 32, "ef" * 32)]


def test_a_damaged_checkpoint_costs_time_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "remove", lambda _: None)
    wanted = world.fine_tune(epochs=2)
    path = next((world.root / ".regraft/checkpoints").iterdir())
    for damaged in (b"", path.read_bytes()[:-40], b"\xff" * 100):
        path.write_bytes(damaged)
        assert checkpoints.load(lineage()) is None
    assert world.fine_tune(epochs=2) == wanted


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"augmentation": "none"}, {"train": 1, "val": 1}),
        ({"views": 2}, {"train": 2, "val": 1}),
        ({"views": 0}, {"train": 3, "val": 1}),
    ],
    ids=["no augmentation", "two views", "new crops in every epoch"],
)
def test_an_image_goes_through_the_frozen_part_once_for_each_time_it_looks_different(
    world: World, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], passes: dict[str, int]
) -> None:
    from steps.images import decoding
    from steps.training import batches

    seen, decoded = [], []
    original, read = batches.frozen_pass, decoding.read_image

    def counted(*arguments: Any) -> torch.Tensor:
        seen.append(len(arguments[1]))
        return original(*arguments)

    def noted(root: Path, path: str, *how: Any) -> Any:
        decoded.append(path)
        return read(root, path, *how)

    monkeypatch.setattr(batches, "frozen_pass", counted)
    monkeypatch.setattr(decoding, "read_image", noted)
    world.fine_tune(**{"epochs": 3, "patience": 3, **changes})
    assert sum(seen) == 32 * passes["train"] + 10 * passes["val"]
    assert len(decoded) == len(set(decoded)) == 42, "a picture is decoded once, whatever the epochs"


def test_kept_activations_train_the_weights_that_computing_them_anew_would(world: World) -> None:
    """One batch holds all images, so that cached and fresh activations come from the very same forward pass."""
    table = files.read_table(world.root / "screened.parquet")
    few = pd.concat([table[table["split"] == "val"], table[table["split"] == "train"].iloc[::4]])
    assert (few["split"] == "train").sum() == 8
    files.write_table(world.root / "screened.parquet", few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steps.images.dataset.Images.order", lambda self, *_: list(range(len(self.part("train")))))
        still = {"augmentation": "crop", "least_area": 1.0, "horizontal_flip": False, "epochs": 2}
        patch.setattr(
            "torchvision.transforms.v2.RandomResizedCrop.make_params",
            lambda self, flat: {"top": 0, "left": 0, "height": 16, "width": 16},
        )
        fresh = world.fine_tune(views=0, **still)
        kept = world.fine_tune(views=1, **still)
    assert fresh == kept


def test_a_frozen_tensor_that_moved_fails_the_stage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inject the fault: a `train` that forgets the frozen part, as nn.Module's own does."""
    monkeypatch.setattr(Grafted, "train", torch.nn.Module.train)
    monkeypatch.setattr("steps.training.fine_tuning.predict_probabilities", _without_eval)
    monkeypatch.setattr("steps.backbones.inference.nn.Module.eval", lambda module: module)
    with pytest.raises(IntegrityError, match="the frozen part changed in training"):
        world.fine_tune(blocks=1, epochs=1)
    assert not (world.root / "out").exists()


def _without_eval(model: torch.nn.Module, images: torch.Tensor) -> Any:
    with torch.no_grad():
        return torch.softmax(model(images).double(), dim=1).numpy()


@pytest.mark.parametrize("policy", ["frozen", "adapt", "train"])
def test_batch_norm_statistics_follow_the_policy_in_learning_blocks_and_stand_still_elsewhere(
    world: World, policy: str
) -> None:
    world.fine_tune(blocks=1, epochs=4, patience=4, bn_policy=policy, head_rate=0.01, backbone_rate=1e-3)
    tuned = files.read_tensors(world.root / "out/fine_tuned" / models.WEIGHTS)
    base = models.load_backbone(world.root / "backbone")[1].state_dict()
    told = world.history()
    assert told.bn_policy == policy
    assert told.best_epoch > 0
    moved = {name for name in base if not torch.equal(tuned[f"backbone.{name}"], base[name])}
    assert all(name.startswith("features.2.") for name in moved)
    statistics = {name for name in base if "running" in name and name.startswith("features.2.")}
    assert statistics
    assert moved & statistics == (set() if policy == "frozen" else statistics)


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_how_the_classes_were_balanced_is_told_and_what_an_epoch_shows_follows(world: World, balance: str) -> None:
    table = files.read_table(world.root / "screened.parquet")
    rare = table.index[(table["label"] == "0") & (table["split"] == "train")][2:]
    files.write_table(world.root / "screened.parquet", table.drop(index=rare))
    counts = table.drop(index=rare).query("split == 'train'")["label"].value_counts().to_dict()
    world.fine_tune(epochs=1, balance=balance)
    told = world.history().balance
    assert told.by == balance
    assert sum(told.first_epoch.values()) == sum(counts.values())
    assert (told.first_epoch == counts) == (balance == "weights")
    assert balance == "weights" or told.first_epoch["0"] > counts["0"]


def test_a_preset_puts_its_values_in_place_and_says_which(world: World) -> None:
    """32 training images in batches of 8 are 4 steps an epoch, so 500 steps are 125 epochs; none is run here."""
    world.fine_tune(blocks=0, preset="bit_hyperrule")
    told = world.history().schedule
    assert (told["optimiser"], told["decay"], told["weight_decay"]) == ("sgd", "steps", 0)
    assert params(preset="bit_hyperrule").in_full(32, 8).epochs == 125
    assert params().in_full(32, 8) == params()


def test_a_preset_that_does_not_go_with_the_rest_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(
        ParamsError, match=r"fine_tune.preset is 'bit_hyperrule': mix is 'mixup'; mixed pictures are new"
    ):
        params(preset="bit_hyperrule", views=2).in_full(20_000, 32)
    assert params(preset="bit_hyperrule", views=2).in_full(19_999, 32).mix == "none"


def test_batches_of_one_image_are_refused_where_batch_norm_learns_and_nowhere_else(world: World) -> None:
    for how in ({"bn_policy": "train"}, {"bn_policy": "adapt"}, SCRATCH):
        with pytest.raises(ParamsError, match=r"compute.batch_size is 1; at least 2 where BatchNorm learns"):
            world.fine_tune(batch_size=1, **how)
    assert not (world.root / "out").exists()
    world.fine_tune(batch_size=1, bn_policy="frozen", epochs=1)
    world.fine_tune(batch_size=1, bn_policy="train", blocks=0)
    assert len(world.history().epochs) == 1


def test_a_strategy_of_no_blocks_leaves_backbone_and_head_as_they_are(world: World) -> None:
    world.fine_tune(blocks=0, balance="sampling")
    told = world.history()
    assert told.balance.first_epoch == {}, "no epoch, nothing shown"
    assert (len(told.epochs), told.best_epoch, told.trainable_blocks) == (1, 0, ("head",))
    tuned = files.read_tensors(world.root / "out/fine_tuned" / models.WEIGHTS)
    base = models.load_backbone(world.root / "backbone")[1].state_dict()
    head = models.load_head(world.root / "head", refitted=False).state_dict()
    assert all(torch.equal(tuned[f"backbone.{name}"], tensor) for name, tensor in base.items())
    assert all(torch.equal(tuned[f"head.{name}"], tensor) for name, tensor in head.items())


def test_a_head_trained_at_an_earlier_cut_is_fine_tuned_there(world: World) -> None:
    drawn = torch.Generator().manual_seed(0)
    head = {"train_only.weight": 0.1 * torch.randn(3, 64, generator=drawn), "train_only.bias": torch.zeros(3)}
    files.write_tensors(world.root / "head" / models.WEIGHTS, head)
    files.write_json(world.root / "head" / models.FACTS, TrainedFacts(("0", "1", "2"), "features.1", lineage()))
    world.fine_tune(epochs=1)
    told = world.history()
    assert (told.trainable_blocks, told.frozen_blocks) == (("features.1", "head"), ("features.0",))
    model = models.load_fine_tuned(world.root / "backbone", world.root / "out/fine_tuned")
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


SCRATCH: dict[str, Any] = {"pretrained": False, "blocks": 3, "epochs": 12, "patience": 12, "head_rate": 3e-3}


def test_from_scratch_takes_nothing_from_weights_and_head_and_learns(world: World) -> None:
    """Neither file is read: what is in their place is no safetensors at all."""
    found = world.fine_tune(to="one", **SCRATCH)
    told = world.history("one")
    assert told.epochs[told.best_epoch].val_balanced_accuracy > 0.8 > told.epochs[0].val_balanced_accuracy
    (world.root / "backbone" / models.WEIGHTS).write_bytes(b"no weights")
    (world.root / "head" / models.WEIGHTS).write_bytes(b"no head")
    assert world.fine_tune(to="other", **SCRATCH) == found
    model = models.load_fine_tuned(world.root / "backbone", world.root / "one/fine_tuned")
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


def test_from_scratch_freezes_nothing_and_every_part_learns_at_the_heads_rate(world: World) -> None:
    world.fine_tune(**{**SCRATCH, "l2_sp": 0.1, "block_decay": 0.5, "unfreeze_every": 2, "bn_policy": "frozen"})
    told = world.history()
    assert (told.bn_policy, told.frozen_blocks, told.frozen_parameters) == ("train", (), 0)
    assert told.trainable_blocks == ("features.0", "features.1", "features.2", "head")
    schedule = told.schedule
    assert schedule["backbone_rate"] == schedule["head_rate"] == SCRATCH["head_rate"]
    assert (schedule["l2_sp"], schedule["block_decay"], schedule["unfreeze_every"]) == (0.0, 1.0, 0)
    assert schedule["warmup_epochs"] == 1, "a tenth of the epochs"
    tuned = files.read_tensors(world.root / "out/fine_tuned" / models.WEIGHTS)
    seen = [tensor for name, tensor in tuned.items() if name.endswith("running_mean")]
    assert seen and all(tensor.any() for tensor in seen), "BatchNorm has made statistics of its own"


def test_from_scratch_goes_on_to_the_same_bytes_after_it_was_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, save, epochs = world.fine_tune(to="whole", **SCRATCH), checkpoints.save, []

    def stopped(*arguments: Any) -> None:
        save(*arguments)
        epochs.append(arguments)
        if len(epochs) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            world.fine_tune(to="stopped", **SCRATCH)
    assert not (world.root / "stopped").exists()
    found = checkpoints.load(lineage())
    assert found is not None and len(found.epochs) == 1 + 5
    assert world.fine_tune(to="resumed", **SCRATCH) == wanted
