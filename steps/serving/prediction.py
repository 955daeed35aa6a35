"""A version's prediction for one picture, as its package returns it and as JSON holds it."""

from typing import TypedDict


class Prediction(TypedDict):
    """The class, its probability, the probabilities of all classes, and whether the model abstains.

    The package's other columns (its `version`) are passed through.
    """

    label: str
    probability: float
    probabilities: list[float]
    abstain: bool
