"""The head is scikit-learn's own logistic regression, with the scaling folded into its weights."""

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steps.runtime.arrays import Floats
from steps.training.histories import Scores
from steps.training.linear_probe import Labelled, Linear, fit, fit_probe

PATH = (1e-3, 1e-2, 0.1, 1.0, 10.0)


def sample(n: int, classes: int, seed: int, width: int = 12, spread: float = 1.5) -> Labelled:
    """Draw overlapping classes of unequal size, on features of very different scales."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1, classes + 1) / sum(range(1, classes + 1))
    targets = np.concatenate([np.arange(classes), rng.choice(classes, n - classes, p=shares)])
    centres = np.random.default_rng(99).normal(size=(classes, width))
    features = centres[targets] + spread * rng.normal(size=(n, width))
    scales = 10.0 ** np.linspace(-3, 3, width)
    return Labelled(((features + np.linspace(-5, 5, width)) * scales).astype(np.float32), targets, np.ones(n))


def reference(data: Labelled, c: float, features: Floats) -> Floats:
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=2000, tol=1e-6)
    ).fit(data.features.astype(np.float64), data.targets)
    return np.asarray(model.predict_proba(features.astype(np.float64)))


def rows(data: Labelled, index: Sequence[int] | np.ndarray) -> Labelled:  # type: ignore[type-arg]
    return Labelled(data.features[index], data.targets[index], data.weights[index])


@pytest.mark.parametrize("c", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_probabilities_are_those_of_a_plain_scikit_learn_pipeline(classes: int, c: float) -> None:
    train, other = sample(200, classes, 0), sample(100, classes, 1)
    found = fit(train, classes, c)
    assert found.converged
    assert found.weight.shape == (classes, 12)
    assert found.bias.shape == (classes,)
    assert found.weight.dtype == found.bias.dtype == np.float32
    np.testing.assert_allclose(found.probabilities(other.features), reference(train, c, other.features), atol=1e-6)


def test_probabilities_are_the_softmax_of_the_linear_map() -> None:
    head = Linear(np.array([[1, 2], [0, -1], [3, 0]], np.float32), np.array([0.5, 0, -1], np.float32))
    logits = np.array([[1 * 2 + 2 * 3 + 0.5, -3, 3 * 2 - 1]])
    wanted = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(head.probabilities(np.array([[2.0, 3.0]])), wanted, rtol=1e-12)
    huge = head.probabilities(np.array([[1e6, -1e6]]))
    assert np.isfinite(huge).all()
    assert huge.sum() == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 4])
def test_separable_classes_are_separated(classes: int) -> None:
    train, other = sample(150, classes, 0, spread=0.05), sample(150, classes, 1, spread=0.05)
    found = fit(train, classes, 10.0)
    assert (found.probabilities(other.features).argmax(axis=1) == other.targets).all()


@pytest.mark.parametrize("value", [0.0, 3.7, -1e4])
def test_a_constant_feature_changes_nothing(value: float) -> None:
    train, other = sample(120, 3, 0), sample(50, 3, 1)

    def widened(data: Labelled) -> Labelled:
        column = np.full((len(data.features), 1), value, np.float32)
        return Labelled(np.hstack([data.features, column]), data.targets, data.weights)

    plain = fit(train, 3, 0.1).probabilities(other.features)
    found = fit(widened(train), 3, 0.1)
    assert np.abs(found.weight[:, -1]).max() < 1e-6
    np.testing.assert_allclose(found.probabilities(widened(other).features), plain, atol=1e-6)


def test_the_rounding_of_a_dead_feature_is_not_blown_up() -> None:
    """Trained on 1e-10 of rounding, shown 1e-6: in units of the rounding that would be ten thousand deviations."""
    train, other = sample(120, 3, 0), sample(50, 3, 1)
    jitter = 1e-10 * np.random.default_rng(0).integers(-1, 2, (120, 1))

    def widened(data: Labelled, column: Floats) -> Labelled:
        return Labelled(np.hstack([data.features, column]).astype(np.float32), data.targets, data.weights)

    plain = fit(train, 3, 0.1).probabilities(other.features)
    found = fit(widened(train, jitter), 3, 0.1).probabilities(widened(other, np.full((50, 1), 1e-6)).features)
    np.testing.assert_allclose(found, plain, atol=1e-5)


def test_classes_weigh_alike_however_many_images_they_have() -> None:
    """Twice the images of one class, as copies, must not move the head: that is what `balanced` claims."""
    train = sample(120, 3, 0)
    scaled = Labelled((train.features - train.features.mean(0)) / train.features.std(0), train.targets, train.weights)
    copies = np.concatenate([np.arange(120), np.flatnonzero(train.targets == 2)])
    # Without regularisation to speak of and on the same scale, the optimum depends on the balance of classes alone.
    one, two = fit(scaled, 3, 1e3), fit(rows(scaled, copies), 3, 1e3)
    np.testing.assert_allclose(one.probabilities(scaled.features), two.probabilities(scaled.features), atol=1e-2)
    shares = fit(rows(scaled, copies), 3, 1e3).probabilities(scaled.features)
    assert [shares[scaled.targets == k].mean(axis=0).argmax() for k in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("classes", [2, 3])
def test_an_image_of_weight_zero_is_an_image_that_is_not_there(classes: int) -> None:
    train, other = sample(80, classes, 0), sample(40, classes, 1)
    absurd = Labelled(train.features[:9] * 100, train.targets[:9][::-1], np.zeros(9))
    padded = Labelled(
        np.concatenate([train.features, absurd.features]),
        np.concatenate([train.targets, absurd.targets]),
        np.concatenate([train.weights, absurd.weights]),
    )
    wanted = fit(train, classes, 0.1).probabilities(other.features)
    np.testing.assert_allclose(fit(padded, classes, 0.1).probabilities(other.features), wanted, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_an_image_of_weight_two_is_the_image_twice(classes: int) -> None:
    train, other = sample(80, classes, 0), sample(40, classes, 1)
    twice = np.concatenate([np.arange(80), np.arange(0, 80, 3)])
    weights = np.where(np.arange(80) % 3 == 0, 2.0, 1.0)
    wanted = fit(rows(train, twice), classes, 0.1).probabilities(other.features)
    weighted = fit(Labelled(train.features, train.targets, weights), classes, 0.1)
    np.testing.assert_allclose(weighted.probabilities(other.features), wanted, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_strength_with_the_least_validation_loss_is_chosen_and_refitted_on_both_splits(seed: int) -> None:
    train, val, other = sample(60, 3, seed), sample(40, 3, seed + 10), sample(50, 3, seed + 20)
    probe = fit_probe(train, val, 3, PATH)

    losses = [log_loss(val.targets, reference(train, c, val.features), labels=range(3)) for c in PATH]
    assert probe.chosen_c == PATH[int(np.argmin(losses))]
    assert [trial.c for trial in probe.path] == list(PATH)
    np.testing.assert_allclose([trial.val_log_loss for trial in probe.path], losses, atol=1e-4)

    chosen = probe.path[PATH.index(probe.chosen_c)]
    assert probe.validation == Scores(chosen.val_accuracy, chosen.val_balanced_accuracy, chosen.val_log_loss, 40)
    both = Labelled(
        np.concatenate([train.features, val.features]), np.concatenate([train.targets, val.targets]), np.ones(100)
    )
    for head, data in ((probe.train_only, train), (probe.refitted, both)):
        wanted = reference(data, probe.chosen_c, other.features)
        np.testing.assert_allclose(head.probabilities(other.features), wanted, atol=1e-6)


def test_stronger_regularisation_fits_the_training_images_less() -> None:
    probe = fit_probe(sample(100, 4, 0), sample(50, 4, 1), 4, PATH)
    losses = [trial.train_log_loss for trial in probe.path]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(PATH)


def test_the_same_features_give_the_same_bytes() -> None:
    one, two = (fit_probe(sample(90, 3, 0), sample(30, 3, 1), 3, PATH) for _ in range(2))
    assert one.refitted.weight.tobytes() == two.refitted.weight.tobytes()
    assert one.path == two.path
