"""Batches are the images that the manifest names, in an order that threads cannot change."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

from steps.backbones.backbone import Grafted
from steps.errors import IntegrityError, ParamsError
from steps.images.dataset import Batch, Images
from steps.images.packing import pack
from steps.images.preprocessing import preprocess
from steps.runtime.compute import ComputeParams, configure
from steps.training.batches import augmentation, mixing, refuse_single_images, tracked
from tests.made import spec

SPEC = spec(12, 10, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
CLASSES = ["ant", "bee", "wasp"]


@pytest.fixture
def images(tmp_path: Path) -> Images:
    rows = []
    for number in range(23):
        label, split = CLASSES[number % 3 if number < 18 else 0], ("val" if number % 4 == 3 else "train")
        path = f"{label}/{(number * 7) % 23:02}.png"
        (tmp_path / label).mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (14 + number % 3, 17, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / path)
        identity = hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()
        rows.append({"id": identity, "path": path, "label": label, "split": split, "weight": 1.0 + number % 2})
    return Images(tmp_path, pd.DataFrame(rows), CLASSES, SPEC, ComputeParams(threads=2, batch_size=4))


def joined(batches: Iterable[Batch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels, targets, weights = zip(*batches, strict=True)
    return torch.cat(pixels), torch.cat(targets), torch.cat(weights)


def test_batches_are_the_preprocessed_images_of_the_split_in_order_of_path(images: Images) -> None:
    wanted = images.table[images.table["split"] == "train"].sort_values("path")
    batches = list(images.batches("train"))
    assert [len(targets) for _, targets, _ in batches] == [4, 4, 4, 4, 2]
    pixels, targets, weights = joined(batches)
    assert [CLASSES[i] for i in targets] == wanted["label"].tolist()
    assert weights.tolist() == [1.0] * 18
    for found, path in zip(pixels, wanted["path"], strict=True):
        assert torch.equal(found, preprocess(Image.open(images.raw / path).convert("RGB"), SPEC))


def test_two_splits_come_mixed_in_order_of_path_and_none_gives_none(images: Images) -> None:
    assert images.part("train", "val")["path"].tolist() == sorted(images.table["path"])
    assert list(images.batches("test")) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_neither_order_nor_luck_depends_on_the_number_of_threads(images: Images, threads: int) -> None:
    other = replace(images, compute=ComputeParams(threads=threads, batch_size=4))
    augment = augmentation(SPEC, "crop", 0.3, True)
    for one, two in zip(joined(images.augmented(augment, 5, 2)), joined(other.augmented(augment, 5, 2)), strict=True):
        assert torch.equal(one, two)


def test_each_epoch_shows_every_training_image_once_in_another_order_and_cut_otherwise(images: Images) -> None:
    augment = augmentation(SPEC, "crop", 0.3, False)
    (first, labels, _), (second, others, _) = (joined(images.augmented(augment, 5, epoch)) for epoch in (1, 2))
    assert first.shape == second.shape == (18, 3, 10, 10)
    assert sorted(labels.tolist()) == sorted(others.tolist()) == sorted(images.targets(images.part("train")).tolist())
    assert labels.tolist() != others.tolist()
    assert not torch.equal(first, second)
    torch.manual_seed(99)  # whatever was drawn before
    assert torch.equal(joined(images.augmented(augment, 5, 1))[0], first)
    assert not torch.equal(joined(images.augmented(augment, 6, 1))[0], first)


def test_without_a_cut_and_a_mirror_augmentation_is_the_resized_picture(images: Images) -> None:
    square = replace(SPEC, resize=10)
    augment = augmentation(square, "crop", 1.0, False)
    pixels = torch.randint(0, 256, (3, 10, 10), dtype=torch.uint8)
    assert torch.equal(augment(pixels), pixels)


def test_mirroring_happens_to_about_half_and_only_where_it_is_allowed() -> None:
    pixels = torch.randint(0, 256, (3, 10, 10), dtype=torch.uint8)
    square = replace(SPEC, resize=10)
    torch.manual_seed(0)
    mirrored = sum(
        bool(torch.equal(augmentation(square, "crop", 1.0, True)(pixels), pixels.flip(-1))) for _ in range(200)
    )
    assert 70 <= mirrored <= 130


def test_without_augmentation_training_sees_what_evaluation_sees(images: Images) -> None:
    shown = joined(images.augmented(augmentation(SPEC, "none", 0.3, True), 5, 1, shuffle=False))[0]
    assert torch.equal(shown, joined(images.batches("train"))[0])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_targets_and_weights_are_blended_by_the_share_of_the_pixels(kind: str) -> None:
    torch.manual_seed(0)
    targets = torch.tensor([0, 1, 2, 0])
    weights = torch.tensor([1.0, 2.0, 3.0, 0.5])
    flat = torch.tensor([10.0, 20.0, 30.0, 40.0])
    pixels, found, sums = mixing(kind, 1.0, 3)((flat.view(-1, 1, 1, 1).expand(4, 3, 20, 20).clone(), targets, weights))
    share = float((pixels[1].mean() - 10) / 10)  # of the second picture's own pixels: the rest is the first's
    assert 0 < share < 1
    torch.testing.assert_close(pixels.mean((1, 2, 3)), share * flat + (1 - share) * flat.roll(1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sums, share * weights + (1 - share) * weights.roll(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    wanted = torch.tensor([(1 - share) * 1.0, share * 2.0, 0.0]) / sums[1]
    torch.testing.assert_close(found[1], wanted, rtol=1e-4, atol=1e-4)


def test_trivial_augment_changes_more_than_a_crop_does() -> None:
    square = replace(SPEC, resize=10)
    pixels = torch.randint(0, 256, (3, 10, 10), dtype=torch.uint8)
    torch.manual_seed(0)
    shown = [augmentation(square, "trivial", 1.0, False)(pixels) for _ in range(20)]
    assert all(view.shape == pixels.shape and view.dtype == torch.uint8 for view in shown)
    assert sum(not torch.equal(view, pixels) for view in shown) > 10


def test_every_class_weighs_the_same_in_the_loss_whatever_its_images_weigh(images: Images) -> None:
    part = images.part("train")
    weights = images.loss_weights(part).double().numpy()
    assert weights.dtype == np.float64
    sums = pd.Series(weights).groupby(part["label"].to_numpy()).sum()
    np.testing.assert_allclose(sums, sums.mean(), rtol=1e-6)
    within = weights / part["weight"].to_numpy()
    assert pd.Series(within).groupby(part["label"].to_numpy()).nunique().tolist() == [1, 1, 1]

    plain = part.assign(weight=1.0)
    np.testing.assert_allclose(images.loss_weights(plain), compute_sample_weight("balanced", plain["label"]), rtol=1e-6)


def test_targets_are_places_in_the_list_of_classes(images: Images) -> None:
    part = pd.DataFrame({"label": ["wasp", "ant", "bee", "ant"]})
    assert images.targets(part).tolist() == [2, 0, 1, 0]
    assert images.targets(part).dtype == torch.int64


def test_an_image_that_has_changed_since_ingest_stops_the_run(images: Images) -> None:
    path = images.part("val")["path"].iloc[1]
    (images.raw / path).write_bytes((images.raw / images.part("train")["path"].iloc[0]).read_bytes())
    with pytest.raises(IntegrityError, match=f"{path} has changed since ingest"):
        list(images.batches("val"))


def test_the_machine_is_set_up_as_the_params_say() -> None:
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        for threads in (1, 2):
            configure(ComputeParams(threads=threads, batch_size=1))
            assert torch.get_num_threads() == threads
            assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)


def test_balanced_sampling_draws_each_class_alike_and_an_image_by_its_own_weight(images: Images) -> None:
    drawn = replace(images, balance="sampling")
    part = drawn.part("train")
    assert part["label"].value_counts().max() >= 1.5 * part["label"].value_counts().min()
    seen = pd.Series([place for epoch in range(400) for place in drawn.order(5, epoch)]).value_counts(normalize=True)
    wanted = part["weight"] / part.groupby("label")["weight"].transform("sum") / len(CLASSES)
    np.testing.assert_allclose(seen.sort_index(), wanted, rtol=0.15)
    assert drawn.order(5, 1) == drawn.order(5, 1) != drawn.order(5, 2)
    assert len(drawn.order(5, 1)) == len(part)


def test_what_the_draw_has_balanced_the_loss_does_not_balance_again(images: Images) -> None:
    drawn, plain = replace(images, balance="sampling"), replace(images, balance="none")
    part = drawn.part("train")
    assert drawn.loss_weights(part).tolist() == [1.0] * len(part)
    assert plain.loss_weights(part).tolist() == part["weight"].tolist()
    assert plain.order(5, 1) == images.order(5, 1)
    pixels, targets, weights = joined(drawn.augmented(augmentation(SPEC, "none", 1.0, False), 5, 1))
    assert [CLASSES[i] for i in targets] == part["label"].iloc[drawn.order(5, 1)].tolist()
    assert len(pixels) == len(weights) == len(part)


def test_an_image_without_weight_is_never_drawn(images: Images) -> None:
    table = images.table.assign(weight=images.table["weight"].where(images.table.index != 0, 0.0))
    drawn = replace(images, table=table, balance="sampling")
    nowhere = drawn.part("train")["weight"].tolist().index(0.0)
    assert nowhere not in {place for epoch in range(200) for place in drawn.order(5, epoch)}


def test_packed_images_make_the_same_batches_as_loose_ones(images: Images, tmp_path: Path) -> None:
    pack({path: images.raw / path for path in images.table["path"]}, tmp_path / "packed", tmp_path / "memory")
    packed, augment = replace(images, raw=tmp_path / "packed"), augmentation(SPEC, "trivial", 0.3, True)
    for form in (lambda held: held.batches("train", "val"), lambda held: held.augmented(augment, 5, 1)):
        for one, two in zip(joined(form(images)), joined(form(packed)), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("policy", "norm", "trainable", "kept", "refused"),
    [
        ("train", True, True, [4, 4, 4, 4], True),
        ("adapt", True, True, [4, 4, 4, 4, 1], True),
        ("frozen", True, True, [4, 4, 4, 4, 1], False),
        ("train", True, False, [4, 4, 4, 4, 1], False),
        ("train", False, True, [4, 4, 4, 4, 1], False),
    ],
)
def test_a_last_single_image_is_left_out_only_where_batch_norm_learns_from_it(
    images: Images, policy: str, norm: bool, trainable: bool, kept: list[int], refused: bool
) -> None:
    layers = [nn.Conv2d(3, 2, 3), *([nn.BatchNorm2d(2)] if norm else []), nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(*layers)
    model = Grafted(network, nn.Linear(2, 3), [name for name, _ in network.named_children()] * trainable, policy)
    few = replace(images, table=images.table[images.table["split"] == "train"].sort_values("path")[:17])
    assert [len(targets) for _, targets, _ in tracked(few.batches("train"), few, model, "an epoch")] == kept
    refuse_single_images(model, images.compute)
    if not refused:
        refuse_single_images(model, ComputeParams(threads=1, batch_size=1))
        return
    with pytest.raises(ParamsError, match=r"compute.batch_size is 1; at least 2 where BatchNorm learns"):
        refuse_single_images(model, ComputeParams(threads=1, batch_size=1))
