"""Heads map features to logits. Linear, nearest neighbours, or one hidden layer; rebuilt from their tensors.

The names of the tensors identify the module, so a served model needs no pickle and no record of its kind.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

State = dict[str, torch.Tensor]
NEIGHBOURS = 10  # that vote


class Neighbours(nn.Module):
    """The k nearest training images vote, by cosine similarity to centred features (weights: a softmax over them).

    Gradients reach the features, and the sharpness can be learnt; the features of known images stay as they were, so
    training the backbone moves new features away from them. This head is for a frozen backbone.
    """

    known: torch.Tensor
    votes: torch.Tensor
    centre: torch.Tensor

    def __init__(self, known: torch.Tensor, votes: torch.Tensor, centre: torch.Tensor, sharpness: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("known", known)  # [m, width], of length 1
        self.register_buffer("votes", votes)  # [m, classes]
        self.register_buffer("centre", centre)  # [width]
        self.sharpness = nn.Parameter(sharpness)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, width] to logits [n, classes]: the logarithms of the shares of the votes."""
        alike = F.normalize(features - self.centre, dim=1) @ self.known.T
        nearest, index = alike.topk(min(NEIGHBOURS, len(self.known)), dim=1)
        weights = torch.softmax(self.sharpness * nearest, dim=1)
        return torch.log(torch.einsum("nk,nkc->nc", weights, self.votes[index]) + 1e-3)


class Mlp(nn.Module):
    """One hidden layer; differentiable, so fine-tuning continues from it as from a linear head."""

    def __init__(self, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(width, hidden), nn.Linear(hidden, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, width] to logits [n, classes]."""
        return self.output(F.relu(self.hidden(features)))  # type: ignore[no-any-return]


def rebuild(state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Rebuild a head from its tensors."""
    head: nn.Module
    if "known" in state:
        head = Neighbours(state["known"], state["votes"], state["centre"], state["sharpness"])
    elif "hidden.weight" in state:
        head = Mlp(state["hidden.weight"].shape[1], *(len(state[f"{layer}.weight"]) for layer in ("hidden", "output")))
    else:
        head = nn.Linear(state["weight"].shape[1], state["weight"].shape[0])
    head.load_state_dict(dict(state))
    return head
