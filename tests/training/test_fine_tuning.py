"""Fine-tuning keeps its best epoch, stops when it stops helping, and repeats itself to the byte."""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from steps.backbones.backbone import Grafted, architectures, blocks, digest, skeleton, without_top
from steps.errors import IntegrityError
from steps.images.dataset import Batch
from steps.training.fine_tuning import Progress, Recipe, _groups, fine_tune_model, validation_scores
from steps.training.histories import Epoch, Epochs

SCHEDULE = Recipe(
    optimiser="adamw",
    decay="cosine",
    epochs=6,
    patience=6,
    warmup_epochs=0,
    unfreeze_every=0,
    head_rate=0.05,
    backbone_rate=0.02,
    block_decay=1.0,
    weight_decay=0.01,
    l2_sp=0.0,
    label_smoothing=0.0,
    ema=0.0,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Tiny(nn.Sequential):
    """Two blocks, the second with the parts that misbehave: BatchNorm and dropout."""

    def __init__(self) -> None:
        first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        second = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2))
        super().__init__(first, second, nn.AdaptiveAvgPool2d(1))


def tiny() -> Grafted:
    torch.manual_seed(0)
    return Grafted(Tiny(), nn.Linear(6, 2), ("1",))


def pictures(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Dark pictures are class 0 and bright ones class 1, both noisy."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % 2
    images = torch.randn(n, 3, 8, 8, generator=generator) + (targets * 2.0 - 1).view(-1, 1, 1, 1)
    return images, targets


def batches(images: torch.Tensor, targets: torch.Tensor, size: int = 8) -> list[Batch]:
    weights = torch.ones(len(targets))
    return [(images[i : i + size], targets[i : i + size], weights[i : i + size]) for i in range(0, len(targets), size)]


TRAIN, VAL = pictures(32, 1), pictures(20, 2)


def honest(epoch: int) -> Iterable[Batch]:
    torch.manual_seed(epoch)  # as the loader does: dropout draws from the global generator
    return batches(*TRAIN)


def flipped(epoch: int) -> Iterable[Batch]:
    torch.manual_seed(epoch)
    return batches(TRAIN[0], 1 - TRAIN[1])


def run(model: Grafted, train: Any, schedule: Recipe) -> tuple[Epochs, list[str]]:
    """Fine-tune, and note the fingerprint of the whole model whenever it is validated."""
    prints: list[str] = []

    def val(_: int) -> Iterable[Batch]:
        prints.append(digest(model.state_dict()))
        return batches(*VAL)

    with torch.random.fork_rng(devices=[]):
        return fine_tune_model(model, train, val, schedule), prints


def test_it_learns() -> None:
    found, _ = run(tiny(), honest, SCHEDULE)
    assert found.best_epoch >= 1
    assert found.epochs[found.best_epoch].val_log_loss < 0.5 * found.epochs[0].val_log_loss
    assert found.epochs[found.best_epoch].val_accuracy >= 0.9
    assert [row.epoch for row in found.epochs] == list(range(len(found.epochs)))


def test_the_model_is_left_at_its_best_epoch_and_not_at_its_last() -> None:
    model = tiny()
    found, prints = run(model, lambda epoch: (honest if epoch <= 2 else flipped)(epoch), SCHEDULE)
    assert found.best_epoch == 2, "the labels are turned round from the third epoch on"
    assert len(found.epochs) == 7
    assert digest(model.state_dict()) == prints[2] != prints[-1]
    losses = [row.val_log_loss for row in found.epochs]
    assert found.best_epoch == losses.index(min(losses))
    again = validation_scores(model, batches(*VAL))
    assert again == found.best(len(VAL[0]))
    assert not model.training


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_where_no_epoch_is_better_the_probe_remains_and_patience_ends_it(patience: int) -> None:
    model = tiny()
    run(model, honest, SCHEDULE)  # a good probe to start from
    before = digest(model.state_dict())
    found, _ = run(model, flipped, replace(SCHEDULE, patience=patience))
    assert found.best_epoch == 0
    assert len(found.epochs) == 1 + patience
    assert digest(model.state_dict()) == before


def test_an_epoch_that_is_only_as_good_does_not_displace_the_one_before() -> None:
    still = replace(SCHEDULE, head_rate=0.0, backbone_rate=0.0, patience=3)
    found, prints = run(tiny(), honest, still)
    assert len({row.val_log_loss for row in found.epochs}) == len(set(prints)) == 1
    assert (found.best_epoch, len(found.epochs)) == (0, 4)


def test_epoch_zero_is_the_model_as_it_came() -> None:
    model = tiny()
    wanted = validation_scores(model, batches(*VAL))
    found, _ = run(model, honest, replace(SCHEDULE, epochs=1))
    assert found.epochs[0] == Epoch(0, None, wanted.accuracy, wanted.balanced_accuracy, wanted.log_loss)


def test_rates_start_at_their_peaks_and_follow_half_a_cosine() -> None:
    seen: list[list[float]] = []

    def note(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        seen.append([group["lr"] for group in optimiser.param_groups])
        assert isinstance(optimiser, torch.optim.AdamW)
        for group in optimiser.param_groups:  # norms and biases are not decayed
            for parameter in group["params"]:
                assert group["weight_decay"] == (SCHEDULE.weight_decay if parameter.dim() > 1 else 0.0)

    hook = register_optimizer_step_pre_hook(note)
    try:
        run(tiny(), honest, SCHEDULE)
    finally:
        hook.remove()
    factors = [0.5 * (1 + math.cos(math.pi * epoch / 6)) for epoch in range(6) for _ in range(4)]  # 4 batches an epoch
    assert len(seen) == 24
    np.testing.assert_allclose(seen, [[0.05 * f, 0.05 * f, 0.02 * f, 0.02 * f] for f in factors], rtol=1e-12)
    assert seen[0] == [0.05, 0.05, 0.02, 0.02]


def test_in_every_architecture_weight_decay_applies_to_weights_of_layers_alone() -> None:
    """Not to norms, biases, position tables, class tokens, layer_scale and logit_scale."""
    kept_away: set[str] = set()
    for architecture in architectures():
        backbone, _ = without_top(skeleton(architecture, 2))
        model = Grafted(backbone, nn.Linear(2, 2), blocks(backbone), "train")
        decayed = {id(p) for group in _groups(model, SCHEDULE) if group["weight_decay"] for p in group["params"]}
        for name, parameter in model.named_parameters():
            owner, _, own = name.rpartition(".")
            layer = isinstance(model.get_submodule(owner), nn.Linear | nn.Conv2d | nn.Conv3d | nn.MultiheadAttention)
            assert (id(parameter) in decayed) is (layer and own.endswith("weight")), (architecture, name)
            kept_away |= {own} if id(parameter) not in decayed and parameter.dim() > 1 else set()
    tables = {"class_token", "layer_scale", "logit_scale", "pos_embedding", "relative_position_bias_table"}
    assert kept_away == tables


def test_the_same_run_gives_the_same_bytes() -> None:
    one, two = tiny(), tiny()
    first, second = run(one, honest, SCHEDULE), run(two, honest, SCHEDULE)
    assert first == second
    assert digest(one.state_dict()) == digest(two.state_dict())


def test_only_what_may_learn_has_moved_and_dropout_was_on_while_it_did() -> None:
    model, still = tiny(), tiny()
    sealed = digest(model.frozen_state())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(model, honest, SCHEDULE)
    assert digest(model.frozen_state()) == sealed
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    still.backbone[1][3].p = 0.0
    run(still, honest, SCHEDULE)
    assert digest(still.state_dict()) != digest(model.state_dict())


def test_the_first_training_loss_is_the_weighted_cross_entropy_of_the_model_as_it_came() -> None:
    model = tiny()
    model.backbone[1][3].p = 0.0
    images, targets = TRAIN
    weights = torch.linspace(0.1, 3, len(targets))
    with torch.no_grad():
        chances = torch.softmax(model.eval()(images).double(), dim=1).numpy()
    wanted = log_loss(targets.numpy(), chances, sample_weight=weights.numpy())
    found, _ = run(model, lambda _: [(images, targets, weights)], replace(SCHEDULE, epochs=1))
    assert found.epochs[1].train_loss == pytest.approx(wanted, rel=1e-5)


def test_an_image_of_weight_zero_is_an_image_that_is_not_there() -> None:
    """All in one batch, no dropout: whatever the extra images show must not matter."""
    plain, padded = tiny(), tiny()
    for model in (plain, padded):
        model.backbone[1][3].p = 0.0
    images, targets = TRAIN
    more = torch.cat([images, 50 * images[:4]])
    weights = torch.cat([torch.ones(len(images)), torch.zeros(4)])
    run(plain, lambda _: [(images, targets, torch.ones(len(images)))], SCHEDULE)
    run(padded, lambda _: [(more, torch.cat([targets, 1 - targets[:4]]), weights)], SCHEDULE)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(padded.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)


def test_a_batch_in_which_nothing_counts_does_no_harm() -> None:
    nothing = (*pictures(3, 9), torch.zeros(3))
    with_it, without = tiny(), tiny()
    for model in (with_it, without):
        model.backbone[1][3].p = 0.0
    found, _ = run(with_it, lambda epoch: [*honest(epoch), nothing], SCHEDULE)
    wanted, _ = run(without, honest, SCHEDULE)
    assert all(torch.isfinite(tensor).all() for tensor in with_it.state_dict().values())
    assert found.epochs[1].train_loss == pytest.approx(wanted.epochs[1].train_loss)


def test_validation_scores_are_those_of_the_model_in_service() -> None:
    model = tiny().train()
    images, targets = VAL
    found = validation_scores(model, batches(images, targets, size=7))
    with torch.no_grad():
        chances = torch.softmax(model.eval()(images).double(), dim=1).numpy()
    assert found.n == 20
    assert found.log_loss == pytest.approx(log_loss(targets.numpy(), chances), rel=1e-5)
    assert found.accuracy == np.mean(chances.argmax(axis=1) == targets.numpy())
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(targets.numpy(), chances.argmax(axis=1)))


def test_training_leaves_the_network_it_was_copied_from_alone() -> None:
    network = Tiny()
    before = digest(network.state_dict())
    run(Grafted(copy.deepcopy(network), nn.Linear(6, 2), ("1",)), honest, replace(SCHEDULE, epochs=1))
    assert digest(network.state_dict()) == before


# What may be switched on


def rates(schedule: Recipe, model: Grafted) -> list[list[float]]:
    seen: list[list[float]] = []
    hook = register_optimizer_step_pre_hook(lambda o, *_: seen.append([g["lr"] for g in o.param_groups]))
    try:
        run(model, lambda _: [(*TRAIN, torch.ones(32))], schedule)  # one step an epoch
    finally:
        hook.remove()
    return seen


def test_rates_rise_for_the_warm_up_and_fall_from_their_peak_after_it() -> None:
    seen = rates(replace(SCHEDULE, warmup_epochs=2), tiny())
    shares = [1 / 3, 2 / 3, *(0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4))]
    np.testing.assert_allclose([row[0] for row in seen], [0.05 * share for share in shares], rtol=1e-12)


def test_rates_that_fall_in_steps_are_a_tenth_after_each() -> None:
    seen = rates(replace(SCHEDULE, decay="steps", epochs=10, patience=10), tiny())
    np.testing.assert_allclose([row[0] for row in seen], [0.05 * 0.1**k for k in (0, 0, 0, 1, 1, 1, 2, 2, 2, 3)])


def test_sgd_is_torchs_with_momentum() -> None:
    """Against the formula: v <- 0.9 v + g, w <- w - rate * v, on the head's bias."""
    model, seen = tiny(), list[torch.Tensor]()
    model.backbone[1][3].p = 0.0
    start = model.head.bias.detach().clone()

    def note(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        assert isinstance(optimiser, torch.optim.SGD)
        seen.append(model.head.bias.grad.clone())

    hook = register_optimizer_step_pre_hook(note)
    try:
        run(model, honest, replace(SCHEDULE, optimiser="sgd", epochs=1, weight_decay=0.0))
    finally:
        hook.remove()
    velocity, wanted = torch.zeros(2), start
    for gradient in seen:
        velocity = 0.9 * velocity + gradient
        wanted = wanted - 0.05 * velocity
    assert len(seen) == 4
    torch.testing.assert_close(model.head.bias.detach(), wanted)


def test_blocks_further_from_the_output_learn_at_lower_rates() -> None:
    torch.manual_seed(0)
    model = Grafted(Tiny(), nn.Linear(6, 2), ("0", "1"))
    assert rates(replace(SCHEDULE, block_decay=0.5), model)[0] == [0.05, 0.05, 0.02, 0.02, 0.01, 0.01]


def test_the_average_is_what_is_judged_and_kept() -> None:
    """Against torch's own running average, step by step."""
    model, reference = tiny(), tiny()
    averaged = AveragedModel(reference, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=False)
    averaged.update_parameters(reference)  # the first call copies
    hook = register_optimizer_step_post_hook(lambda *_: averaged.update_parameters(reference))
    try:
        run(reference, honest, replace(SCHEDULE, epochs=1))
    finally:
        hook.remove()
    found, _ = run(model, honest, replace(SCHEDULE, epochs=1, ema=0.8))
    assert found.best_epoch == 1
    wanted = dict(averaged.module.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], atol=1e-6, rtol=1e-5)


def test_l2_sp_holds_the_backbone_near_where_it_started_and_not_the_head() -> None:
    start = tiny().state_dict()
    far, near = tiny(), tiny()
    run(far, honest, SCHEDULE)
    run(near, honest, replace(SCHEDULE, l2_sp=10.0))

    def moved(model: Grafted, part: str) -> float:
        return sum(float((t - start[n]).abs().sum()) for n, t in model.state_dict().items() if n.startswith(part))

    assert moved(near, "backbone.") < 0.5 * moved(far, "backbone.")
    assert moved(near, "head.") > 0.5 * moved(far, "head.")


def test_smoothed_labels_are_torchs() -> None:
    model = tiny()
    model.backbone[1][3].p = 0.0
    images, targets = TRAIN
    with torch.no_grad():
        wanted = nn.functional.cross_entropy(model.eval()(images), targets, label_smoothing=0.3)
    schedule = replace(SCHEDULE, epochs=1, label_smoothing=0.3)
    found, _ = run(model, lambda _: [(images, targets, torch.ones(32))], schedule)
    assert found.epochs[1].train_loss == pytest.approx(float(wanted), rel=1e-5)


def test_adapted_statistics_are_those_of_the_training_images_and_then_stand_still() -> None:
    torch.manual_seed(0)
    model = Grafted(Tiny(), nn.Linear(6, 2), ("1",), "adapt")
    model.backbone[1][3].p = 0.0
    with torch.no_grad():
        maps = model.eval().backbone[1][0](model.backbone[0](TRAIN[0]))
    wanted = torch.stack([part.mean((0, 2, 3)) for part in maps.split(8)]).mean(0)
    run(model, honest, replace(SCHEDULE, epochs=3, head_rate=1e-2, backbone_rate=1e-5))
    torch.testing.assert_close(model.backbone[1][1].running_mean, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("stop", "optimiser"), [(1, "adamw"), (2, "adamw"), (3, "adamw"), (1, "sgd"), (2, "sgd")])
def test_going_on_from_any_epoch_gives_the_weights_of_a_run_that_was_never_interrupted(
    stop: int, optimiser: str
) -> None:
    schedule = replace(SCHEDULE, optimiser=optimiser, epochs=4, unfreeze_every=2, ema=0.5, warmup_epochs=1)
    kept: list[Progress] = []

    def build() -> Grafted:
        torch.manual_seed(0)
        return Grafted(Tiny(), nn.Linear(6, 2), ("0", "1"), "train").to(memory_format=torch.channels_last)

    def fit(model: Grafted, resume: Progress | None = None) -> Epochs:
        with torch.random.fork_rng(devices=[]):
            val = lambda _: batches(*VAL)  # noqa: E731
            return fine_tune_model(model, honest, val, schedule, resume=resume, on_epoch=kept.append)

    whole, resumed = build(), build()
    wanted = fit(whole)
    assert fit(resumed, kept[stop - 1]) == wanted
    assert digest(resumed.state_dict()) == digest(whole.state_dict())


@pytest.mark.parametrize("bn_policy", ["frozen", "train"])
def test_a_loss_that_is_no_longer_finite_ends_the_training_with_the_best_epoch_before(bn_policy: str) -> None:
    def exploding(epoch: int) -> Iterable[Batch]:
        return [(images * (math.nan if epoch == 3 else 1), *rest) for images, *rest in honest(epoch)]

    model, reference = (Grafted(*parts(), bn_policy) for _ in range(2))
    told = fine_tune_model(model, exploding, lambda _: batches(*VAL), SCHEDULE)
    wanted = fine_tune_model(reference, honest, lambda _: batches(*VAL), replace(SCHEDULE, patience=6, epochs=6))
    assert told.diverged == 3 and told.epochs == wanted.epochs[:3]
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def parts() -> tuple[nn.Module, nn.Linear, tuple[str, ...]]:
    torch.manual_seed(0)
    return Tiny(), nn.Linear(6, 2), ("1",)


def test_a_model_that_starts_with_answers_that_are_not_finite_is_refused() -> None:
    model = tiny()
    nn.init.constant_(model.head.weight, math.nan)
    with pytest.raises(IntegrityError, match="no finite numbers"):
        fine_tune_model(model, honest, lambda _: batches(*VAL), SCHEDULE)
