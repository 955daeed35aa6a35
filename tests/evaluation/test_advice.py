"""What to label next: the unsure, not the alike."""

import numpy as np

from steps.evaluation.advice import margins, next_labels


def pool(n: int = 400) -> tuple["np.ndarray", "np.ndarray"]:
    """Return features in four directions and two-class probabilities; the first half of the images is unsure."""
    rng = np.random.default_rng(0)
    features = np.eye(4, 8)[np.arange(n) % 4] + 0.05 * rng.normal(size=(n, 8))
    first = np.where(np.arange(n) < n // 2, 0.5 + 0.05 * rng.random(n), 0.99)
    return features, np.stack([first, 1 - first], axis=1)


def test_a_margin_is_the_likeliest_less_the_next() -> None:
    assert np.allclose(margins(np.array([[0.2, 0.5, 0.3], [0.1, 0.0, 0.9]])), [0.2, 0.8])


def test_picks_are_unsure_and_one_from_each_kind_of_image() -> None:
    features, probabilities = pool()
    picks = next_labels(features, probabilities, 4, seed=0)
    assert {pick.row % 4 for pick in picks} == {0, 1, 2, 3}, "four directions, one of each"
    assert all(pick.margin < 0.11 for pick in picks)
    assert sum(pick.stands_for for pick in picks) == 40


def test_the_same_seed_picks_the_same_and_no_image_twice() -> None:
    features, probabilities = pool()
    once, again = (next_labels(features, probabilities, 25, seed=3) for _ in range(2))
    assert once == again and len({pick.row for pick in once}) == 25


def test_a_pool_smaller_than_the_wish_is_given_whole_and_copies_once() -> None:
    features, probabilities = pool(8)
    assert sorted(pick.row for pick in next_labels(features, probabilities, 50, seed=0)) == list(range(8))
    features[1] = features[0]
    assert len(next_labels(features, probabilities, 50, seed=0)) == 7
