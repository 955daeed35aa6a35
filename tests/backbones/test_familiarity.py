"""Familiarity: the distance to the nearest training image, and a limit that validation sets at the stated rate."""

import numpy as np
import pytest
import torch

from steps.backbones.familiarity import distances, fitted, from_tensors


def drawn(n: int, seed: int) -> torch.Tensor:
    """Features near one direction, as those of pictures of one subject are."""
    return torch.eye(16)[0] + 0.2 * torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("rate", "held", "most"), [(0.0, 50, 0), (0.01, 50, 0), (0.01, 100, 1), (0.05, 99, 4), (0.05, 100, 5), (0.2, 1, 0)]
)
def test_at_most_the_stated_share_of_validation_images_is_unfamiliar(rate: float, held: int, most: int) -> None:
    validation = drawn(held, 1)
    assert fitted(drawn(40, 0), validation, rate).unfamiliar(validation).sum() == most


def test_new_pictures_of_the_same_kind_are_called_unfamiliar_about_as_often_as_stated() -> None:
    shares = [
        fitted(drawn(200, 3 * i), drawn(400, 3 * i + 1), 0.05).unfamiliar(drawn(400, 3 * i + 2)).mean()
        for i in range(20)
    ]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.01)


def test_a_picture_of_something_else_is_unfamiliar_whatever_its_brightness() -> None:
    measure = fitted(drawn(40, 0), drawn(40, 1), 0.05)
    for scale in (0.1, 1.0, 10.0):
        assert measure.unfamiliar(scale * torch.eye(16)[1:4]).all()
        assert not measure.unfamiliar(scale * torch.eye(16)[:1]).any()


def test_a_known_picture_is_at_no_distance_and_a_batch_changes_none() -> None:
    rows, features = fitted(drawn(40, 0), drawn(40, 1), 0.05).known, drawn(64, 2)
    assert distances(rows, rows) == pytest.approx(np.zeros(40), abs=1e-6)
    alone = [float(distances(row[None], rows)[0]) for row in features]
    assert distances(features, rows) == pytest.approx(alone, abs=1e-12)


def test_what_was_written_measures_the_same() -> None:
    measure, features = fitted(drawn(40, 0), drawn(40, 1), 0.05), drawn(500, 2)
    again = from_tensors(measure.tensors())
    assert again.threshold == measure.threshold
    assert (again.unfamiliar(features) == measure.unfamiliar(features)).all() and measure.unfamiliar(features).any()
