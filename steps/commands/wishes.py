"""What a user says about a file of weights. Loads no torch: `use` refuses a wrong folder before it is imported."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wishes:
    """What a user says about a file of weights: its preprocessing (an entry or a file), and which part of it to use."""

    preprocessing: str | None
    part: str | None


AS_IT_IS = Wishes(None, None)
