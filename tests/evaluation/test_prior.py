"""Rare classes: probabilities state the shares that were seen, answers follow `evaluate.answers`."""

from dataclasses import dataclass

import numpy as np
import pytest

from steps.evaluation import calibration
from steps.evaluation.calibration import Scale
from steps.evaluation.comparison import VerdictRules, sign_test, transfer
from steps.evaluation.intervals import sampled
from steps.training.linear_probe import Labelled, Linear, fit_probe
from steps.training.metrics import balanced_accuracy

SPREAD, SEEDS = 0.5, 4


@dataclass(frozen=True)
class World:
    """Two classes `apart` standard deviations, the second of them with a share of `rare`; a head with equal weights."""

    rare: float
    apart: float

    def draw(self, n: int, rng: np.random.Generator) -> Labelled:
        targets = (rng.random(n) < self.rare).astype(np.int64)
        features = rng.normal(size=(n, 32)).astype(np.float32)
        features[:, 0] += self.apart * targets
        return Labelled(features, targets, np.ones(n))


def logits(head: Linear, data: Labelled) -> np.ndarray:
    return data.features.astype(float) @ head.weight.T.astype(float) + head.bias


def served(world: World, seed: int, balanced: bool = True) -> tuple[Scale, np.ndarray, np.ndarray]:
    """Return the scale from 200 validation images, and logits and classes of 4,000 test images."""
    rng = np.random.default_rng(seed)
    train, val, test = (world.draw(n, rng) for n in (600, 200, 4000))
    probe = fit_probe(train, val, 2, [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
    seen = np.concatenate([train.targets, val.targets])
    shift = calibration.prior_shift(seen, np.ones(len(seen)), 2)
    scale = calibration.fit_scale(logits(probe.train_only, val), val.targets, shift, shift, SPREAD, balanced)
    return scale, logits(probe.refitted, test), test.targets


# share of the rare class, distance; log-loss with shares and temperature by hand, and with the temperature alone
WORLDS = [(0.05, 1.5, 0.184, 0.425), (0.10, 1.5, 0.266, 0.473), (0.30, 1.0, 0.538, 0.603)]


@pytest.mark.parametrize(("rare", "apart", "reference", "uncorrected"), WORLDS)
def test_probabilities_state_the_share_of_a_rare_class(
    rare: float, apart: float, reference: float, uncorrected: float
) -> None:
    found, shares, tempered = [], [], []
    for seed in range(SEEDS):
        scale, of_test, targets = served(World(rare, apart), seed)
        probabilities = scale.probabilities(of_test)
        found.append(calibration.losses(probabilities, targets)[:, 0].mean())
        tempered.append(calibration.losses(calibration.tempered(of_test, scale.temperature), targets)[:, 0].mean())
        shares.append(probabilities[:, 1].mean() - targets.mean())
    assert np.mean(found) <= reference + 0.02
    assert np.mean(tempered) > np.mean(found) + 0.03, f"{uncorrected} with the temperature alone"
    assert abs(np.mean(shares)) <= 0.02


@pytest.mark.parametrize("factor", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("rare", [0.05, 0.10])
def test_a_network_that_is_too_certain_states_the_share_too(rare: float, factor: float) -> None:
    """Logits of the right answer for equal shares, times a factor: the temperature must not divide the shares away."""
    apart, found, right, shares = 1.5, [], [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        seen, test = (World(rare, apart).draw(n, rng) for n in (1000, 4000))
        ideal, of_test = (
            np.stack([np.zeros(len(data.targets)), apart * (data.features[:, 0] - apart / 2)], axis=1)
            for data in (seen, test)
        )
        shift = calibration.prior_shift(seen.targets, seen.weights, 2)
        scale = calibration.fit_scale(factor * ideal, seen.targets, shift, shift, SPREAD, balanced=True)
        probabilities = scale.probabilities(factor * of_test)
        found.append(calibration.losses(probabilities, test.targets)[:, 0].mean())
        right.append(calibration.losses(calibration.tempered(of_test, 1.0, shift), test.targets)[:, 0].mean())
        shares.append(probabilities[:, 1].mean() - test.targets.mean())
    assert np.mean(found) <= np.mean(right) + 0.02
    assert abs(np.mean(shares)) <= 0.02


def test_a_network_trained_on_the_shares_as_seen_answers_for_equal_ones_too() -> None:
    world, rng = World(0.1, 1.5), np.random.default_rng(0)
    seen, test = (world.draw(n, rng) for n in (1000, 4000))
    prior = calibration.prior_shift(seen.targets, seen.weights, 2)
    of_seen, of_test = (
        np.stack([np.zeros(len(data.targets)), 1.5 * (data.features[:, 0] - 0.75)], axis=1) + prior
        for data in (seen, test)
    )
    scale = calibration.fit_scale(of_seen, seen.targets, np.zeros(2), prior, SPREAD, balanced=True)
    likeliest = scale.probabilities(of_test).argmax(axis=1)
    assert balanced_accuracy(test.targets, scale.answered(of_test)) > balanced_accuracy(test.targets, likeliest) + 0.1


def test_the_classwise_error_sees_wrong_class_shares_and_the_error_of_the_answers_does_not() -> None:
    scale, of_test, targets = served(World(0.1, 1.5), 0)
    balanced, sample = calibration.tempered(of_test, scale.temperature), sampled(targets)
    assert calibration.calibration_error(balanced, targets, 10, sample, 0.95).known < 0.05
    assert calibration.classwise_error(balanced, targets, 10, sample, 0.95).above(0.15)
    mended = calibration.classwise_error(scale.probabilities(of_test), targets, 10, sample, 0.95)
    assert mended.known < 0.05


def test_with_two_classes_and_one_answer_both_errors_are_one() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.5, 1, 400)
    targets = (rng.random(400) > chance).astype(int)
    probabilities = np.stack([chance, 1 - chance], axis=1)
    errors = [
        error(probabilities, targets, 10, sampled(targets), 0.95)
        for error in (calibration.calibration_error, calibration.classwise_error)
    ]
    assert errors[0].known == pytest.approx(errors[1].known)


def test_answers_are_balanced_as_before_or_the_likeliest_class() -> None:
    for seed in range(2):
        scale, of_test, targets = served(World(0.1, 1.5), seed)
        likely = served(World(0.1, 1.5), seed, balanced=False)[0]
        assert (scale.answered(of_test) == of_test.argmax(axis=1)).all(), "those of the head as it was fitted"
        assert (likely.answered(of_test) == likely.probabilities(of_test).argmax(axis=1)).all()
        right = {name: one.answered(of_test) for name, one in (("balanced", scale), ("likely", likely))}
        assert balanced_accuracy(targets, right["balanced"]) > balanced_accuracy(targets, right["likely"]) + 0.05
        assert (right["likely"] == targets).mean() > (right["balanced"] == targets).mean() + 0.05


def test_classes_of_one_size_are_not_shifted() -> None:
    targets = np.repeat([0, 1, 2], 40)
    shift = calibration.prior_shift(targets, np.ones(120), 3)
    assert shift == pytest.approx([0, 0, 0], abs=1e-15)
    weighted = calibration.prior_shift(targets, np.where(targets == 0, 0.0, 1.0), 3)
    assert np.isfinite(weighted).all(), "a class without weight counts as half an image"


def test_a_model_for_rare_classes_is_judged_by_what_it_was_fitted_for() -> None:
    """By plain accuracy the majority class wins: transfer would hurt by 4.7 to 13.7 points."""
    scale, of_test, targets = served(World(0.1, 1.5), 0)
    part = slice(0, 300)
    verdict = transfer(
        targets[part],
        scale.probabilities(of_test[part]) * scale.weights,
        {"majority": [np.zeros(300, int)]},
        sampled(targets[part]),
        VerdictRules(0.95, 0.8, 1000),
        np.random.default_rng(0),
    )
    assert verdict.verdict == "helps"


def test_signs_of_unequal_weight_reject_as_often_as_stated_and_see_the_rare_class() -> None:
    rng, weights = np.random.default_rng(1), np.repeat([0.55, 5.0], [90, 10])
    alarms = [sign_test(rng.choice([-1, 0, 1], 100, p=[0.2, 0.6, 0.2]), weights) < 0.05 for _ in range(1000)]
    assert np.mean(alarms) <= 0.05
    won = np.concatenate([np.zeros(90), np.ones(10)])
    assert sign_test(won, weights) < 0.01 and sign_test(-won, weights) == sign_test(won, weights)
    assert sign_test(np.zeros(100), weights) == 1.0
