"""Training of heads on cached features: each kind in seconds, whatever an epoch of images would cost.

Beside the linear head: class means, nearest neighbours, one hidden layer. Each is a function of labelled features and
one number, tried along a path: the inverse L2 strength of an MLP, the sharpness of prototypes and of a vote.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from steps.backbones.heads import Mlp, State, rebuild
from steps.training.linear_probe import Fitted, Labelled, Linear, fit_probe, search

MOST_KNOWN = 20_000  # training images that a k-NN head may hold: 160 MB at 2048 features
HIDDEN = 128  # units of the MLP
STEPS = 300  # of full-batch L-BFGS, at most


def prototype(data: Labelled, classes: int, c: float, seed: int) -> State:  # noqa: ARG001
    """Return the nearest class mean as a linear layer: logits are -c/2 times the squared distance, less a constant.

    Distances are in units of each feature's deviation within its class (Snell et al. 2017, arXiv 1703.05175, eq. 8).
    """
    weights = data.weights[:, None]
    means = np.stack(
        [
            np.average(data.features[data.targets == k], axis=0, weights=data.weights[data.targets == k])
            for k in range(classes)
        ]
    )
    spread = np.sqrt((weights * (data.features - means[data.targets]) ** 2).sum(axis=0) / weights.sum())
    spread[spread < 1e-8] = np.inf  # a dead feature has no say
    weight = c * means / spread**2
    bias = -0.5 * c * ((means / spread) ** 2).sum(axis=1)
    return _layer(Linear((weight - weight.mean(axis=0)).astype(np.float32), (bias - bias.mean()).astype(np.float32)))


def knn(data: Labelled, classes: int, c: float, seed: int) -> State:
    """Keep the training features, at most `MOST_KNOWN` drawn by `seed`; `c` is the sharpness of the vote.

    A class's votes are scaled by the inverse of its weight: a large class must not win by its size.
    """
    kept = np.sort(np.random.default_rng(seed).permutation(len(data.targets))[:MOST_KNOWN])
    targets, weights = data.targets[kept], data.weights[kept]
    share = np.bincount(targets, weights, minlength=classes)
    votes = np.eye(classes)[targets] * (weights / np.maximum(share[targets], 1e-12))[:, None] * share.mean()
    centre = np.average(data.features, axis=0, weights=data.weights)
    known = F.normalize(torch.from_numpy((data.features[kept] - centre).astype(np.float32)), dim=1)
    return {
        "known": known,
        "votes": torch.from_numpy(votes.astype(np.float32)),
        "centre": torch.from_numpy(centre.astype(np.float32)),
        "sharpness": torch.tensor(float(c)),
    }


def mlp(data: Labelled, classes: int, c: float, seed: int) -> State:
    """Fit one hidden layer to the weighted cross-entropy plus |weights|^2 / (2 c n), by full-batch L-BFGS."""
    mean = np.average(data.features, axis=0, weights=data.weights)
    scale = np.sqrt(np.average((data.features - mean) ** 2, axis=0, weights=data.weights))
    scale[scale < 1e-8] = 1.0
    inputs = torch.from_numpy(((data.features - mean) / scale).astype(np.float32))
    targets, n = torch.from_numpy(data.targets.astype(np.int64)), len(data.targets)
    share = np.bincount(data.targets, data.weights, minlength=classes)[data.targets]
    weights = torch.from_numpy((data.weights * data.weights.sum() / (classes * share)).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Mlp(inputs.shape[1], HIDDEN, classes)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        size = model.hidden.weight.square().sum() + model.output.weight.square().sum()
        loss = (losses * weights).mean() + size / (2 * c * n)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    weight = state["hidden.weight"].double() / torch.from_numpy(scale)  # fold the scaling in, as the linear head does
    bias = state["hidden.bias"].double() - weight @ torch.from_numpy(mean).double()
    return {**state, "hidden.weight": weight.float(), "hidden.bias": bias.float()}


Fit = Callable[[Labelled, int, float, int], State]
LINEAR = "linear"
FITS: dict[str, Fit] = {"prototype": prototype, "knn": knn, "mlp": mlp}
Kind = Literal["linear", "prototype", "knn", "mlp"]


def fit_head(
    kind: str, train: Labelled, val: Labelled, classes: int, path: Sequence[float], seed: int
) -> Fitted[State]:
    """Fit a head of `kind` for each number of the path, choose by validation log-loss, refit on train + val."""
    if kind == LINEAR:
        probe = fit_probe(train, val, classes, path)
        layers = _layer(probe.train_only), _layer(probe.refitted)
        return Fitted(*layers, probe.chosen_c, probe.path, probe.validation)
    return search(
        lambda data, strengths: [FITS[kind](data, classes, c, seed) for c in strengths], probabilities, train, val, path
    )


def probabilities(state: State, data: Labelled) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the head's probabilities for the features, float64 [n, classes]."""
    with torch.inference_mode():
        logits = rebuild(state)(torch.from_numpy(np.asarray(data.features, dtype=np.float32)))
        return torch.softmax(logits.double(), dim=1).numpy()


def _layer(head: Linear) -> State:
    return {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}
