"""A version's prediction for one picture, as its package returns it and as JSON holds it."""

from typing import NotRequired, TypedDict


class Prediction(TypedDict):
    """The class, its probability, those of all classes, whether the model abstains, whether the picture is unfamiliar.

    The package's other columns (its `version`) are passed through.
    """

    label: str
    probability: float
    probabilities: list[float]
    abstain: bool
    unfamiliar: NotRequired[bool]  # older packages do not say
