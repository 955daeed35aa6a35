"""Every kind of head learns, is rebuilt of its tensors to the bit, and is differentiable where fine-tuning needs it."""

from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import nn

from steps.backbones.heads import NEIGHBOURS, Mlp, Neighbours, rebuild
from steps.training import head_training
from steps.training.head_training import Kind, fit_head, knn, mlp, probabilities, prototype
from steps.training.linear_probe import Labelled

PATH = (0.01, 1.0, 10.0)


def sample(n: int, seed: int, classes: int = 3, width: int = 8, spread: float = 0.6) -> Labelled:
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(classes), rng.choice(classes, n - classes, p=[0.6, 0.3, 0.1][:classes])])
    centres = np.random.default_rng(99).normal(size=(classes, width))
    features = (centres[targets] + spread * rng.normal(size=(n, width))) * 10.0 ** np.linspace(-1, 1, width) + 3
    return Labelled(features.astype(np.float32), targets, np.ones(n))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_learns_what_can_be_learnt_and_the_best_of_the_path_is_taken(kind: str) -> None:
    train, val, other = sample(150, 0), sample(60, 1), sample(200, 2)
    found = fit_head(kind, train, val, 3, PATH, seed=0)
    assert (probabilities(found.refitted, other).argmax(1) == other.targets).mean() > 0.85
    losses = [trial.val_log_loss for trial in found.path]
    assert found.chosen_c == PATH[int(np.argmin(losses))]
    assert found.validation.log_loss == pytest.approx(min(losses))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_same_features_give_the_same_bytes_and_tensors_alone_rebuild_the_head(kind: str) -> None:
    train, val = sample(60, 0), sample(30, 1)
    one, two = (fit_head(kind, train, val, 3, PATH, seed=0) for _ in range(2))
    for name, tensor in one.refitted.items():
        assert torch.equal(tensor, two.refitted[name])
    module = rebuild(one.refitted)
    assert {name: tuple(t.shape) for name, t in module.state_dict().items()} == {
        name: tuple(t.shape) for name, t in one.refitted.items()
    }
    inputs = torch.from_numpy(val.features)
    again = rebuild({name: tensor.clone() for name, tensor in module.state_dict().items()})
    assert torch.equal(module(inputs), again(inputs))


def test_the_kind_is_read_off_the_names_of_the_tensors() -> None:
    train, val = sample(60, 0), sample(30, 1)
    made = {kind: type(rebuild(fit_head(kind, train, val, 3, (1.0,), 0).refitted)) for kind in get_args(Kind)}
    assert made == {"linear": nn.Linear, "prototype": nn.Linear, "knn": Neighbours, "mlp": Mlp}


def test_prototypes_are_scikit_learn_s_nearest_centroids_on_features_scaled_within_classes() -> None:
    train, other = sample(90, 0), sample(80, 1)
    means = np.stack([train.features[train.targets == k].mean(0) for k in range(3)])
    scale = np.sqrt(((train.features - means[train.targets]) ** 2).mean(0))
    reference = NearestCentroid().fit(train.features / scale, train.targets).predict(other.features / scale)
    assert (probabilities(prototype(train, 3, 1.0, 0), other).argmax(1) == reference).all()


def test_the_vote_is_scikit_learn_s_with_balanced_classes() -> None:
    train, other = sample(90, 0), sample(80, 1)
    train = Labelled(train.features, np.arange(90) % 3, train.weights)
    centre = train.features.mean(0)
    reference = KNeighborsClassifier(NEIGHBOURS, metric="cosine").fit(train.features - centre, train.targets)
    wanted = reference.predict_proba(other.features - centre)
    found = probabilities(knn(train, 3, 1e-9, 0), other)  # no sharpness: every neighbour counts alike
    np.testing.assert_allclose(found, wanted, atol=0.01)


def test_a_large_class_does_not_win_by_its_numbers() -> None:
    train = sample(300, 0, spread=50.0)  # noise: only the shares could decide
    other = sample(300, 1, spread=50.0)
    assert np.abs(probabilities(knn(train, 3, 1e-9, 0), other).mean(0) - 1 / 3).max() < 0.1


def test_no_more_images_are_kept_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_training, "MOST_KNOWN", 25)
    assert knn(sample(60, 0), 3, 1.0, 0)["known"].shape == (25, 8)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_gradient_reaches_the_features_and_the_head(kind: str) -> None:
    train, val = sample(60, 0), sample(30, 1)
    head = rebuild(fit_head(kind, train, val, 3, (1.0,), 0).train_only)
    inputs = torch.from_numpy(val.features).requires_grad_()
    loss = nn.functional.cross_entropy(head(inputs), torch.from_numpy(val.targets))
    torch.autograd.backward(loss)
    assert inputs.grad is not None and inputs.grad.abs().sum() > 0
    grads = [parameter.grad for parameter in head.parameters()]
    assert grads and all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_the_mlp_parts_what_no_line_parts() -> None:
    rng = np.random.default_rng(0)
    features = rng.uniform(-1, 1, (300, 2)).astype(np.float32)
    data = Labelled(features, (features[:, 0] * features[:, 1] > 0).astype(np.int64), np.ones(300))
    assert (probabilities(mlp(data, 2, 10.0, 0), data).argmax(1) == data.targets).mean() > 0.97
    straight = fit_head("linear", data, data, 2, (10.0,), 0).refitted
    assert (probabilities(straight, data).argmax(1) == data.targets).mean() < 0.7
