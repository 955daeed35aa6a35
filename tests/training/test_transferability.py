"""The scores against their definitions, computed another way; the probe against what it may not see."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from steps.runtime.arrays import Floats, Ints
from steps.training.linear_probe import Labelled, fit
from steps.training.transferability import first_share, folds_of, h_score, hash_bits, logme, probe


def sample(n: int, width: int, classes: int = 3, spread: float = 1.0, seed: int = 0) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % classes
    centres = rng.normal(size=(classes, width))
    return (centres[targets] + spread * rng.normal(size=(n, width))).astype(np.float32), targets


def test_the_bits_of_a_hash_are_those_of_the_number_it_spells() -> None:
    hashes = ["8000000000000001", "00ff00ff00ff00ff", "0123456789abcdef"]
    found = hash_bits(hashes)
    assert found.shape == (3, 64)
    assert ["".join(str(int(bit)) for bit in row) for row in found] == [f"{int(text, 16):064b}" for text in hashes]


@pytest.mark.parametrize(("n", "width"), [(40, 5), (30, 60)])
def test_logme_is_the_largest_marginal_likelihood_that_a_search_finds(n: int, width: int) -> None:
    """By definition: y ~ N(0, I / beta + F F' / alpha), maximised over both precisions by a general optimiser."""
    features, targets = sample(n, width)
    kernel = features.astype(np.float64) @ features.T.astype(np.float64)

    def largest(column: Floats) -> float:
        def negative(logs: Floats) -> float:
            alpha, beta = np.exp(np.clip(logs, -30, 30))
            covariance = np.eye(n) / beta + kernel / alpha
            return -float(multivariate_normal(np.zeros(n), covariance).logpdf(column))

        starts = [np.array([a, b]) for a in (0.0, 3.0) for b in (0.0, 3.0)]
        return -min(minimize(negative, s, method="Nelder-Mead", options={"xatol": 1e-6}).fun for s in starts) / n

    wanted = np.mean([largest((targets == label).astype(np.float64)) for label in range(3)])
    assert logme(features, targets) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("score", [logme, h_score])
@pytest.mark.parametrize(("n", "width"), [(300, 20), (60, 200)])
def test_features_that_separate_the_classes_better_score_higher(score, n, width) -> None:  # type: ignore[no-untyped-def]
    found = [score(*sample(n, width, spread=spread)) for spread in (0.5, 2.0, 8.0)]
    assert found == sorted(found, reverse=True)
    noise = np.random.default_rng(1).normal(size=(n, width)).astype(np.float32)
    assert score(noise, np.arange(n) % 3) < found[0]


def test_the_h_score_of_many_images_is_the_paper_s_trace() -> None:
    features, targets = sample(20_000, 6)
    covariance = np.cov(features.T.astype(np.float64), bias=True)
    centred = features - features.mean(axis=0)
    means = np.stack([centred[targets == label].mean(axis=0) for label in range(3)])[targets]
    wanted = np.trace(np.linalg.solve(covariance, np.cov(means.T, bias=True)))
    assert h_score(features, targets) == pytest.approx(wanted, rel=0.01)


def test_with_fewer_images_than_features_the_h_score_still_tells_signal_from_noise() -> None:
    """The plain score is 2 for both: with more directions than images some direction always parts three classes."""
    signal, targets = sample(30, 300, spread=0.5)
    noise = np.random.default_rng(1).normal(size=(30, 300)).astype(np.float32)
    assert h_score(noise, targets) < 0.5 * h_score(signal, targets) < 1.0


def test_a_dead_feature_changes_no_score() -> None:
    features, targets = sample(90, 12)
    widened = np.hstack([features, np.zeros((90, 2), np.float32)])
    assert h_score(widened, targets) == pytest.approx(h_score(features, targets))
    assert logme(widened, targets) == pytest.approx(logme(features, targets))


def test_every_image_is_held_out_once_and_groups_stay_together() -> None:
    targets, groups = np.arange(60) % 3, np.arange(60) // 6
    folds = folds_of(targets, groups, 5, seed=0)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(60))
    for train, held in folds:
        assert not set(groups[train]) & set(groups[held])


def test_the_probe_answers_with_heads_that_have_not_seen_the_image() -> None:
    """Labels by chance on features that identify each image: to have seen it is to know it."""
    rng = np.random.default_rng(0)
    data = Labelled(rng.normal(size=(60, 200)), rng.permutation(np.arange(60) % 2), np.ones(60))
    seen = fit(data, 2, 1.0).probabilities(data.features).argmax(axis=1) == data.targets
    found = probe(data, 2, folds_of(data.targets, np.arange(60), 5, seed=0), (1.0,))
    assert seen.all()
    assert found.correct.mean() < 0.7


def test_of_the_regularisations_the_one_with_the_least_held_out_loss_answers() -> None:
    features, targets = sample(80, 40, spread=3.0)
    data, folds = Labelled(features, targets, np.ones(80)), folds_of(targets, np.arange(80), 4, seed=0)
    single = [probe(data, 3, folds, (c,)) for c in (1e-3, 1e-2, 1.0)]
    found = probe(data, 3, folds, (1e-3, 1e-2, 1.0))
    assert found.loss.mean() == min(held.loss.mean() for held in single)
    assert found.scores().log_loss == pytest.approx(found.loss.mean())


def test_a_share_takes_the_first_of_each_class_and_at_least_one() -> None:
    targets = np.array([0, 1, 0, 0, 1, 0])
    assert list(first_share(targets, np.arange(6), 0.5)) == [0, 2, 1]
    assert list(first_share(targets, np.arange(6), 0.01)) == [0, 1]
    assert sorted(first_share(targets, np.arange(6), 1.0)) == list(range(6))


@pytest.mark.parametrize("count", range(2, 12))
def test_two_halves_of_a_class_share_no_image_whatever_its_size(count: int) -> None:
    first, second = (first_share(np.zeros(count, int), np.arange(count), 0.5, draw) for draw in (0, 1))
    assert len(first) == len(second) == count // 2 and not {*first} & {*second}


def test_a_class_that_leaves_with_its_group_leaves_the_others_to_be_answered() -> None:
    features, targets = sample(30, 4)
    targets = np.where(np.arange(30) < 3, 2, targets % 2)
    folds = [(np.arange(3, 30), np.arange(3)), (np.arange(15), np.arange(15, 30))]
    found = probe(Labelled(features, targets, np.ones(30)), 3, folds, (0.1,))
    assert found.correct[:3].sum() == 0
    assert np.allclose(found.probabilities[:3, 2], 0)
