"""What a version says of one picture, as its package returns it and as JSON carries it."""

from typing import TypedDict


class Prediction(TypedDict):
    """The class, its probability, the probabilities of all classes, and whether the model abstains.

    The package's other columns (its `version`) are carried along.
    """

    label: str
    probability: float
    probabilities: list[float]
    abstain: bool
