"""What was done to a picture is told from tensors alone."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from steps.checks.grey_levels import FAMILIES, done, input_distance, on_grid, other_families, pixels_of, undone
from steps.checks.reports import Account
from steps.images.preprocessing import ColourOrder, normalise, preprocess
from tests import made

SPEC = made.spec(20, 16)
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))


def colours(seed: int = 0) -> torch.Tensor:
    """Return eight pictures with structure, as the loader makes them."""
    generator = np.random.default_rng(seed)
    made = [Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 30)) for _ in range(8)]
    return torch.stack([preprocess(picture, SPEC) for picture in made])


def accounts(came: torch.Tensor) -> list[Account]:
    return [Account(name, on_grid(x, SPEC), input_distance(x, SPEC, None)) for name, x in undone(came, SPEC).items()]


FAULTS = {
    "as declared": lambda x: x,
    "not scaled": lambda x: ((x * STD + MEAN) * 255 - MEAN) / STD,
    "scaled twice": lambda x: ((x * STD + MEAN) / 255 - MEAN) / STD,
    "not normalised": lambda x: x * STD + MEAN,
    "normalised twice": lambda x: (x - MEAN) / STD,
    "colour order swapped": lambda x: x.flip(1),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_that_was_made_is_the_one_that_is_named(fault: str, seed: int) -> None:
    assert done(accounts(FAULTS[fault](colours(seed)))) == fault


def test_another_mean_is_noticed_though_no_account_of_the_list_explains_it() -> None:
    assert done(accounts(colours() + 0.1)).startswith("something else")


def test_the_distance_of_inputs_is_zero_at_the_sources_own_statistics_and_grows_with_the_fault() -> None:
    came = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 + 1
    source = {"mean": ((1 * STD + MEAN).flatten()).tolist(), "std": (2 * STD).flatten().tolist()}
    assert input_distance(came, SPEC, source) == pytest.approx(0, abs=1e-3)
    assert input_distance(came, SPEC, None) == pytest.approx(-np.log(2) + (4 + 1 - 1) / 2, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("family", "mean", "std"), [row for row in FAMILIES if row[0] != "ImageNet"])
def test_a_loader_that_uses_another_familys_mean_and_std_is_named(
    family: str, mean: tuple[float, ...], std: tuple[float, ...], seed: int
) -> None:
    other = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    came = (colours(seed) * STD + MEAN - other[0]) / other[1]
    # without mean and std the values are those of a loader that forgot to normalise: two names of one thing
    expected = {f"mean and std of {family}"} | ({"not normalised"} if family == "none" else set())
    assert done(accounts(came)) in expected


def test_families_that_differ_in_words_alone_are_one() -> None:
    spec = replace(SPEC, value_range=(-1.0, 1.0), mean=(0.0,) * 3, std=(1.0,) * 3)
    assert [*other_families(spec)] == ["mean and std of ImageNet", "mean and std of none"]
    assert [*other_families(SPEC)] == ["mean and std of Inception", "mean and std of none"]


def test_weights_whose_source_is_known_are_of_no_other_family() -> None:
    source = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert [*other_families(SPEC, source)] == []
    assert [*other_families(replace(SPEC, mean=(0.0,) * 3), source)] == ["mean and std of the source"]


@pytest.mark.parametrize("order", get_args(ColourOrder))
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_pixels_come_back_from_tensors(order: str, value_range: tuple[float, float]) -> None:
    spec = replace(SPEC, colour_order=order, value_range=value_range)
    pixels = torch.randint(0, 256, (4, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pixels_of(normalise(pixels, spec), spec), pixels)
