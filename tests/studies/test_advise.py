"""Labels that the advice picks teach more than random ones, on real digits."""

import numpy as np
import pytest
import torch

from tests.studies.advise import Digits, advice_against_luck, forecast_against_truth, load


@pytest.fixture(scope="module")
def digits() -> Digits:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = load()
    torch.set_num_threads(threads)
    return loaded


def test_advised_labels_beat_random_ones(digits: Digits) -> None:
    found = np.array([advice_against_luck(digits, 5, seed) for seed in range(6)])
    before, advised, random = found.T
    gained = advised - random
    assert gained.mean() > 2 * gained.std(ddof=1) / len(gained) ** 0.5, "more than twice its standard error"
    assert (advised > before).all()


def test_the_forecast_of_twice_the_labels_is_right_on_the_whole(digits: Digits) -> None:
    rows = [forecast_against_truth(digits, 10, seed) for seed in range(4)]
    told, truth = np.mean([forecast.known for forecast, _ in rows]), np.mean([gain for _, gain in rows])
    assert truth > 0 and 0.3 * truth < told < 3 * truth
