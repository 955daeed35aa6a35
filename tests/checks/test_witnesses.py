"""Two witnesses say what the weights want, and accuse only beyond what the choice of images explains."""

import dataclasses
import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch

from steps.backbones.backbone import build
from steps.checks import witnesses
from steps.checks.reports import Evidence, Vote
from steps.checks.rules import DECLARED, SWAPPED, UNTOLD
from steps.checks.witnesses import (
    COLOUR_ORDER,
    LEAST,
    NEAR,
    NORMS,
    STATISTICS,
    TILES,
    TOP,
    Seen,
    by_block,
    by_norms,
    by_top,
    judge,
    norm_distances,
    questions,
    shuffled,
    watch,
)
from tests import made
from tests.conftest import REPOSITORY

SPEC = made.spec(20, 16)
INCEPTION, NOTHING = "mean and std of Inception", "mean and std of none"


def pixels(count: int, side: int = 16, coloured: bool = True, seed: int = 0) -> torch.Tensor:
    made = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed))
    return (made if coloured else made[:, :1].expand(-1, 3, -1, -1)).to(torch.uint8)


def test_a_block_lies_as_far_from_its_source_as_its_batch_norms_do() -> None:
    network, spread = build("resnet18", 2), 3.0
    came = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = network.conv1(came)
        network.bn1.running_mean.copy_(first.mean((0, 2, 3)))
        network.bn1.running_var.copy_(first.var((0, 2, 3)) * spread**2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    each = norm_distances(watch(network.eval(), came.split(24), has_top=True))
    found = by_block(network, each)
    assert list(found)[:5] == ["conv1", "layer1", "layer2", "layer3", "layer4"], "the input's side first"
    assert found["conv1"] == pytest.approx(np.log(spread) + (spread**-2 - 1) / 2, rel=1e-3), "of two Gaussians"
    norms = [f"layer1.{block}.bn{norm}" for block in (0, 1) for norm in (1, 2)]
    assert found["layer1"] == pytest.approx(np.mean([each[norm] for norm in norms]))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_network_without_batch_norm_and_top_has_no_witness() -> None:
    network = build("squeezenet1_1", 5).eval()
    seen = watch(network, [torch.randn(LEAST, 3, 32, 32)], has_top=False)
    assert norm_distances(seen) == {} and by_block(network, {})["features.0"] is None
    assert by_norms(seen, {"x": seen}) == by_top(seen, {"x": seen}, True, lambda _: seen) == []
    assert judge(STATISTICS, ["x"], []).account == UNTOLD


def test_the_distance_of_some_pictures_is_that_of_a_pass_over_them_alone() -> None:
    network, came = build("resnet18", 2).eval(), torch.randn(12, 3, 32, 32)
    every = watch(network, came.split(5), has_top=True)
    rows = [1, 4, 5, 11]
    alone = watch(network, [came[rows]], has_top=True)
    assert norm_distances(every.of(rows)) == pytest.approx(norm_distances(alone), rel=1e-4)
    assert torch.allclose(every.of(rows).answers, alone.answers, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [224, 225, 16, 6])
def test_shuffled_pictures_keep_their_tiles_and_lose_their_order(side: int) -> None:
    before = pixels(3, side)
    after = shuffled(before, seed=1)
    assert torch.equal(after, shuffled(before, seed=1)) and after.shape == before.shape
    tile = side // TILES
    if not tile:
        assert torch.equal(after, before)
        return
    for one, other in zip(tiles(before, tile), tiles(after, tile), strict=True):
        assert one != other and sorted(one) == sorted(other)


def tiles(pictures: torch.Tensor, side: int) -> list[list[bytes]]:
    places = list(itertools.product(range(TILES), repeat=2))
    cut = lambda p, y, x: p[:, y * side : (y + 1) * side, x * side : (x + 1) * side]  # noqa: E731
    return [[cut(picture, y, x).numpy().tobytes() for y, x in places] for picture in pictures]


def test_grey_pictures_are_not_asked_for_the_order_of_their_colours() -> None:
    assert [*questions(SPEC, pixels(4), None)[COLOUR_ORDER]] == [SWAPPED]
    asked = questions(SPEC, pixels(4, coloured=False), None)
    assert asked[COLOUR_ORDER] == {} and [*asked[STATISTICS]] == [INCEPTION, NOTHING]
    assert judge(COLOUR_ORDER, [], []).account == UNTOLD


def test_weights_that_learnt_from_grey_pictures_of_a_known_kind_are_asked_neither_question() -> None:
    source = {"mean": [0.3] * 3, "std": [0.2] * 3}
    spec = dataclasses.replace(SPEC, mean=(0.3,) * 3, std=(0.2,) * 3)
    assert questions(spec, pixels(4), source) == {COLOUR_ORDER: {}, STATISTICS: {}}
    assert judge(STATISTICS, [], []).account == DECLARED


def of_norms(distance: float, seed: int, count: int = 100, noise: float = 0.3) -> Seen:
    """Return pictures whose activations lie at some distance from remembered means of 0 and deviations of 1."""
    rng, channels = torch.Generator().manual_seed(seed), 50
    mean = math.sqrt(2 * distance) + noise * torch.randn(count, channels, generator=rng)
    source = torch.stack([torch.zeros(channels), torch.ones(channels)])
    return Seen(torch.stack([mean, 1 + mean**2], dim=1), source, (("bn", channels),), None)


@pytest.mark.parametrize(
    ("declared", "account", "vote"),
    [
        (0.12, 0.05, "for"),
        (0.05, 0.12, "against"),
        (0.06, 0.05, "silent"),  # hardly nearer: another scale is that, too
        (0.5, 0.3, "silent"),  # nearer, and still nowhere near the source
        (0.3, 0.5, "silent"),  # the declared one is not near either
    ],
)
def test_batch_norm_accuses_only_what_brings_the_pictures_near(declared: float, account: float, vote: str) -> None:
    (said,) = by_norms(of_norms(declared, 0), {"x": of_norms(account, 0)})
    assert (said.vote, said.witness) == (vote, NORMS)
    assert said.declared == pytest.approx(declared, abs=0.05) and said.figure == pytest.approx(account, abs=0.05)


def test_batch_norm_says_nothing_of_few_pictures_and_of_none_that_differ() -> None:
    assert by_norms(of_norms(0.3, 0, LEAST - 1), {"x": of_norms(0.01, 0, LEAST - 1)}) == []
    same = of_norms(0.1, 0)
    assert by_norms(same, {"x": same})[0].vote == "silent"


def test_the_choice_of_images_alone_seldom_makes_a_gain() -> None:
    """Two accounts of equal distance, their pictures drawn anew: t beyond 2.54 (one-sided 1 % of 19 degrees)."""
    t = [by_norms(of_norms(0.1, 2 * i), {"x": of_norms(0.1, 2 * i + 1)})[0].t for i in range(300)]
    assert 0.001 <= np.mean(np.abs(t) > 1.73) <= 0.17 and np.mean(np.abs(t) > 2.54) <= 0.05


def answers(sharpness: float, classes: int = 20, count: int = 100, varied: bool = True) -> Seen:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=rng)
    logits[torch.arange(count), torch.arange(count) % classes if varied else 0] += sharpness
    return Seen(torch.empty(count, 2, 0), torch.empty(2, 0), (), logits.log_softmax(1).double())


@pytest.mark.parametrize(
    ("declared", "account", "without_order", "coloured", "vote"),
    [
        (answers(3), answers(6), answers(1), True, "for"),
        (answers(6), answers(3), answers(1), True, "against"),
        (answers(3), answers(3), answers(1), True, "silent"),
        (answers(3), answers(6), answers(6), True, "silent"),  # the order of the parts means nothing: texture alone
        (answers(3), answers(6), answers(1), False, "silent"),  # grey pictures, coloured source
        (answers(3, varied=False), answers(6, varied=False), answers(1), True, "silent"),  # it says one thing of all
    ],
)
def test_the_top_accuses_only_where_it_recognises_the_pictures(
    declared: Seen, account: Seen, without_order: Seen, coloured: bool, vote: str
) -> None:
    (said,) = by_top(declared, {"x": account}, coloured, lambda _: without_order)
    assert (said.vote, said.witness) == (vote, TOP)


@pytest.mark.parametrize("side", [16, 32, 224, 240])
def test_a_top_that_sees_colours_alone_is_believed_at_no_size_of_picture(side: int) -> None:
    """Its answers follow the mean colour, so the order of the parts means nothing to it."""
    levels = torch.randint(20, 236, (100, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    noise = torch.randint(-20, 20, (100, 3, side, side), generator=torch.Generator().manual_seed(1))
    pictures = (levels + noise).to(torch.uint8)

    def seen(pixels: torch.Tensor, sharpness: float) -> Seen:
        means = pixels.float().mean((2, 3)) / 255
        return Seen(torch.empty(100, 2, 0), torch.empty(2, 0), (), (sharpness * means).log_softmax(1))

    declared, account = seen(pictures, 10), seen(pictures, 20)
    (found,) = by_top(declared, {"x": account}, True, lambda _: seen(shuffled(pictures, 0), 20))
    assert found.t > 10 and found.vote == "silent"


def said(account: str, witness: str, vote: Vote, figure: float = 0.05) -> Evidence:
    assert vote in get_args(Vote)
    return Evidence(account, witness, 0.1, figure, 5.0, vote)


@pytest.mark.parametrize(
    ("question", "evidence", "answer"),
    [
        (COLOUR_ORDER, [said(SWAPPED, TOP, "for")], SWAPPED),
        (COLOUR_ORDER, [said(SWAPPED, TOP, "against")], DECLARED),
        (COLOUR_ORDER, [said(SWAPPED, TOP, "silent")], UNTOLD),
        (COLOUR_ORDER, [said(SWAPPED, NORMS, "for")], UNTOLD),  # a set's own colours move its statistics alike
        (COLOUR_ORDER, [said(SWAPPED, NORMS, "silent"), said(SWAPPED, TOP, "for")], SWAPPED),
        (COLOUR_ORDER, [said(SWAPPED, NORMS, "against"), said(SWAPPED, TOP, "for")], UNTOLD),
        (COLOUR_ORDER, [said(SWAPPED, NORMS, "silent", 2 * NEAR), said(SWAPPED, TOP, "for")], UNTOLD),
        (STATISTICS, [said(INCEPTION, NORMS, "for"), said(NOTHING, NORMS, "silent")], INCEPTION),
        (STATISTICS, [said(INCEPTION, NORMS, "for", 0.1), said(NOTHING, NORMS, "for", 0.04)], NOTHING),
        (STATISTICS, [said(INCEPTION, NORMS, "for"), said(NOTHING, TOP, "for")], UNTOLD),
        (STATISTICS, [said(INCEPTION, NORMS, "against"), said(NOTHING, NORMS, "against")], DECLARED),
        (STATISTICS, [said(INCEPTION, NORMS, "against"), said(NOTHING, NORMS, "silent")], UNTOLD),
        (STATISTICS, [said(INCEPTION, NORMS, "against", 2 * NEAR), said(INCEPTION, TOP, "for")], UNTOLD),
        (
            STATISTICS,
            [
                said(INCEPTION, NORMS, "for"),
                said(INCEPTION, TOP, "against"),
                said(NOTHING, NORMS, "against"),
                said(NOTHING, TOP, "against"),
            ],
            UNTOLD,
        ),
    ],
)
def test_what_one_witness_says_and_another_denies_cannot_be_told(
    question: str, evidence: list[Evidence], answer: str
) -> None:
    found = judge(question, list(dict.fromkeys(one.account for one in evidence)), evidence)
    assert (found.question, found.account) == (question, answer) and found.why


def test_the_docs_state_the_limits_that_hold() -> None:
    page = (REPOSITORY / "docs/validation.md").read_text(encoding="utf-8")
    for told in (
        f"at most {witnesses.NEAR:g} nats and less than {witnesses.CLEARLY:g} of the declared one's",
        f"over {witnesses.GROUPS} groups of them, one-sided {100 * witnesses.LEVEL:g} %",
        f"at least {witnesses.VARIED:g} of log(classes)",
        f"Fewer than {witnesses.LEAST} images",
    ):
        assert told in page
