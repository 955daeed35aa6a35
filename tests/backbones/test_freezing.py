"""What Lightning's BackboneFinetuning (2.6.6) was measured to get wrong cannot happen here, nor its relatives."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from steps.backbones.backbone import Grafted, digest
from steps.errors import IntegrityError
from steps.images.dataset import Batch
from steps.training.fine_tuning import check_optimiser, fine_tune_model
from tests.training.test_fine_tuning import SCHEDULE, TRAIN, VAL, Tiny, batches, honest


def grafted(trainable: tuple[str, ...] = (), bn_policy: str = "frozen") -> Grafted:
    torch.manual_seed(0)
    return Grafted(Tiny(), nn.Linear(6, 2), trainable, bn_policy)


def shifted(_: int) -> list[Batch]:
    """Pictures far from what the statistics of the frozen part were made for."""
    return [(5 * images + 7, targets, weights) for images, targets, weights in batches(*TRAIN)]


def test_in_the_frozen_phase_neither_scale_nor_statistics_of_batch_norm_move() -> None:
    """There: the scale moved by 0.0192 and the running mean by 1.570, and `requires_grad` stayed true."""
    model = grafted()
    before = copy.deepcopy(model.backbone.state_dict())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    fine_tune_model(model, shifted, lambda _: batches(*VAL), replace(SCHEDULE, weight_decay=0.5))
    assert digest(model.backbone.state_dict()) == digest(before)


def test_the_frozen_part_normalises_in_training_as_it_does_in_service() -> None:
    """There: frozen buffers, but the batch's own statistics; a gap of 3.88 to what the deployed model gives."""
    model = grafted(("1",))
    images = shifted(0)[0][0]
    with torch.no_grad():
        served = model.eval().backbone[0](images)
        assert torch.equal(model.train().backbone[0](images), served)
        nn.Module.train(model)
        assert (model.backbone[0](images) - served).abs().max() > 1, "the toy would not show the defect"


def test_parameters_that_are_equal_in_value_are_all_trained() -> None:
    """There: a second all-zero bias of equal shape was taken for the first, dropped, and never trained."""
    model = grafted(("0", "1"))
    biases = [model.backbone[1][0].bias, model.backbone[1][1].bias]
    assert biases[0].shape == biases[1].shape
    for bias in biases:
        nn.init.zeros_(bias)
    fine_tune_model(model, honest, lambda _: batches(*VAL), replace(SCHEDULE, epochs=1))
    assert all(bias.abs().sum() > 0 for bias in biases)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda held: held[1:], "holds 5 .* 6 may"),
        (lambda held: [*held, nn.Parameter(torch.zeros(6))], "holds 7 .* 6 may"),
        (lambda held: [*held[1:], held[0].detach().clone()], "5 are both"),
    ],
)
def test_an_optimiser_that_holds_other_tensors_than_may_learn_is_refused(change: Any, told: str) -> None:
    model = grafted(("1",))
    learning = [p for p in model.parameters() if p.requires_grad]
    check_optimiser(model, torch.optim.AdamW(learning))
    with pytest.raises(IntegrityError, match=told):
        check_optimiser(model, torch.optim.AdamW(change(learning)))


def test_blocks_that_wait_are_frozen_in_every_respect_and_learn_from_their_epoch_on() -> None:
    model = grafted(("0", "1"), bn_policy="train")
    waiting = {name: tensor.clone() for name, tensor in model.backbone[0].state_dict().items()}
    stood: list[bool] = []

    def note(_: int) -> list[Batch]:
        stood.append(all(torch.equal(tensor, waiting[n]) for n, tensor in model.backbone[0].state_dict().items()))
        return batches(*VAL)

    fine_tune_model(model, honest, note, replace(SCHEDULE, epochs=4, unfreeze_every=2))
    assert stood == [True, True, True, False, False]  # as it came, after 1 and 2; it learns in 3 and 4


@pytest.mark.parametrize("trainable", [(), ("1",), ("0", "1")])
def test_the_halves_one_after_the_other_are_the_network_and_share_its_tensors(trainable: tuple[str, ...]) -> None:
    model = grafted(trainable).eval()
    frozen, rest = model.halves()
    images = TRAIN[0][:5]
    with torch.no_grad():
        assert torch.equal(rest(frozen(images)), model(images))
        assert not [p for p in frozen.parameters() if p.requires_grad]
        for parameter in model.parameters():
            parameter.mul_(1.5)
        assert torch.equal(rest(frozen(images)), model(images))
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    assert learning <= {id(p) for p in rest.parameters()}
