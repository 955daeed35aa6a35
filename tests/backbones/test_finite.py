"""Outputs that are not finite are refused before anything trains, with the images, the cause and the way out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steps.backbones import models
from steps.backbones.finite import LARGEST, refuse_infinite
from steps.errors import RequestError
from steps.runtime import files
from steps.runtime.feature_file import STRETCH
from tests.checks.world import CARD, STATE, World

PATHS = [f"{number}.png" for number in range(8)]


def refusal(rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]], precision: str = "float32") -> str:
    with pytest.raises(RequestError) as caught:
        refuse_infinite([f"{number}.png" for number in range(len(rows))], [np.zeros((len(rows), 2)), rows], precision)
    return str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e16, -3e38])
def test_some_images_are_named_and_may_be_dropped(value: float) -> None:
    rows = np.zeros((8, 3), np.float32)
    rows[[2, 5], 1] = value
    said = refusal(rows)
    assert "for 2 of 8 images" in said and "(2.png; 5.png)" in said and "`PATH,drop,,`" in said


def test_where_all_images_are_wrong_the_weights_are_to_blame_and_five_are_named() -> None:
    said = refusal(np.full((8, 3), np.nan, np.float32))
    assert "for 8 of 8 images" in said and "(0.png; 1.png; 2.png; 3.png; 4.png; ...)" in said
    assert "PATH,drop" not in said and "regraft use FOLDER --backbone NAME" in said


def test_another_precision_is_named_where_it_may_help() -> None:
    assert "`extract_features.precision: float32`" in refusal(np.full((8, 3), np.inf, np.float32), "bfloat16")


def test_the_last_of_many_rows_is_looked_at() -> None:
    rows = np.zeros((STRETCH + 2, 1), np.float32)
    rows[-1] = np.nan
    assert f"({STRETCH + 1}.png)" in refusal(rows)


def test_large_finite_features_pass() -> None:
    refuse_infinite(PATHS, [np.full((8, 2), LARGEST / 10)], "float32")


SPOILT = {
    "every tensor is scaled up": lambda name, tensor: tensor * 1e12,
    "a variance is negative": lambda name, tensor: -tensor if name.endswith("running_var") else tensor,
    "a variance is NaN": lambda name, tensor: tensor * torch.nan if name.endswith("running_var") else tensor,
}


@pytest.mark.parametrize("fault", SPOILT)
def test_the_gate_refuses_weights_that_overflow(fault: str, tmp_path: Path) -> None:
    """Field trial B32's kind: a traceback of json or scikit-learn, after all features were there."""
    world = World(tmp_path)
    state = {
        name: SPOILT[fault](name, tensor) if tensor.is_floating_point() else tensor for name, tensor in STATE.items()
    }
    files.write_tensors(tmp_path / "backbone" / models.WEIGHTS, state)
    world.write_card(CARD)
    code, said = world.run()
    assert code == RequestError.exit_code and "32 of 32 images are NaN, infinite" in said
