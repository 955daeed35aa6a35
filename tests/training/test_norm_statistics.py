"""BatchNorm's statistics have arrived when a training is judged, whatever momentum its architecture has."""

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from steps.backbones.backbone import BATCH_NORMS, Grafted, architectures, blocks, build, skeleton, without_top
from steps.images.dataset import Batch
from steps.training import norm_statistics
from steps.training.fine_tuning import fine_tune_model
from steps.training.rivals import schedule

# One per family and momentum: 0.1, 0.01 (MobileNetV3) and 0.0003 (MNASNet).
SAMPLE = {"glyphnet", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"}
SAMPLE |= {"regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1"}
# Too large to train in a test (regnet_y_128gf: 17 GB), and but for that one without BatchNorm
HEAVY = {"convnext_base", "convnext_large", "regnet_y_128gf", "swin_b", "swin_v2_b", "vgg11", "vgg13", "vgg16", "vgg19"}
HEAVY |= {"vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"}
# Where it has to be another than 64 pixels, a rate of 1e-3 and two steps per epoch: else four steps lead nowhere, or
# the deepest layers see a pixel of each of 16 images, whose variance is uncertain
SIDE = {"inception_v3": 96, "maxvit_t": 224, "resnet152": 128, "efficientnet_v2_l": 128}
RATE = {"efficientnet_v2_l": 3e-4} | dict.fromkeys(("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"), 1e-4)
RATE |= {"maxvit_t": 1e-4, "resnet152": 1e-4}
STEPS = {"resnet152": 6, "efficientnet_v2_l": 4}


def scratch(architecture: str, side: int, network: nn.Module | None = None) -> Grafted:
    backbone, width = without_top(network or build(architecture, 2, side))
    return Grafted(backbone, nn.Linear(width, 2), blocks(backbone), "train")


def pictures(n: int, side: int) -> Batch:
    """Dark pictures are class 0 and bright ones class 1, both noisy."""
    generator, targets = torch.Generator().manual_seed(1), torch.arange(n) % 2
    images = torch.randn(n, 3, side, side, generator=generator) + (targets * 2.0 - 1).view(-1, 1, 1, 1)
    return images, targets, torch.ones(n)


def by_statistics_of(images: torch.Tensor, model: Grafted) -> torch.Tensor:
    """Return the logits with the statistics of this very batch."""
    model.eval()
    for norm in model.batch_norms():
        norm.train()
    with torch.no_grad():
        return model(images)


def test_every_norm_of_every_architecture_is_estimated() -> None:
    counts = {}
    for architecture in architectures():
        model = scratch(architecture, 224, skeleton(architecture, 2))
        counts[architecture] = len(model.batch_norms())
        assert counts[architecture] == sum(isinstance(module, BATCH_NORMS) for module in model.modules()), architecture
    normed = {architecture for architecture, count in counts.items() if count}
    assert len(normed) >= 59 and normed >= SAMPLE - {"squeezenet1_1"}
    assert {"alexnet", "squeezenet1_1", "swin_t", "vit_b_16", "convnext_tiny"}.isdisjoint(normed)


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=() if name in SAMPLE else pytest.mark.all_models)
        for name in architectures()
        if name not in HEAVY
    ],
)
def test_after_a_few_steps_from_scratch_it_answers_as_it_does_with_the_statistics_of_its_batch(
    architecture: str,
) -> None:
    side, rate, steps = SIDE.get(architecture, 64), RATE.get(architecture, 1e-3), STEPS.get(architecture, 2)
    torch.manual_seed(0)
    model, batch, epochs = scratch(architecture, side), pictures(16, side), list[int]()
    train = lambda epoch: epochs.append(epoch) or [batch] * steps  # noqa: E731
    outcome = fine_tune_model(model, train, lambda _: [batch], schedule(rate, 2, 2))
    with torch.no_grad():
        answers, wanted = model(batch[0]), by_statistics_of(batch[0], model)
    assert float((answers - wanted).norm() / (wanted - wanted.mean(0)).norm()) < 0.5
    if model.batch_norms():
        assert outcome.best_epoch > 0 and outcome.epochs[outcome.best_epoch].val_log_loss < 0.6, "chance is 0.69"
        assert epochs == [1, 1, 2, 2]
    else:
        assert epochs == [1, 2], "nothing is computed again where there is nothing to estimate"


def test_the_statistics_are_the_averages_over_whole_batches_and_the_momentum_stays() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.01)
    model = Grafted(nn.Sequential(norm, nn.AdaptiveAvgPool2d(1)), nn.Linear(3, 2), ("0",), "train")
    images, targets, weights = pictures(20, 8)
    batches = [(images[i : i + 8], targets[i : i + 8], weights[i : i + 8]) for i in (0, 8, 16)]
    norm_statistics.estimate([norm], model, model, norm_statistics.enough(batches))
    torch.testing.assert_close(norm.running_mean, images[:16].mean((0, 2, 3)))
    wanted = torch.stack([part.var((0, 2, 3)) for part in images[:16].split(8)]).mean(0)
    torch.testing.assert_close(norm.running_var, wanted)
    assert norm.momentum == 0.01 and not norm.training


@pytest.mark.parametrize(("sizes", "taken"), [((5,), 1), ((32, 3), 1), ((32, 32), 2), ((256,) * 9, 4), ((2000, 9), 1)])
def test_about_a_thousand_images_are_enough(sizes: tuple[int, ...], taken: int) -> None:
    batches: Iterable[Batch] = [(torch.zeros(n), torch.zeros(n), torch.ones(n)) for n in sizes]
    assert len(list(norm_statistics.enough(batches))) == taken


def test_blocks_that_do_not_learn_yet_keep_their_statistics() -> None:
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 3, 1), first), nn.Sequential(nn.Conv2d(3, 3, 1), second), nn.AdaptiveAvgPool2d(1)
    )
    model = Grafted(body, nn.Linear(3, 2), ("0", "1"), "train")
    batch = pictures(16, 8)
    model.activate(("1",))
    model.train()
    learnt = [norm for norm in model.batch_norms() if norm.training]
    assert learnt == [second]
    norm_statistics.estimate(learnt, model, model, [batch])
    assert first.running_mean is not None and not first.running_mean.any() and second.running_mean.any()
