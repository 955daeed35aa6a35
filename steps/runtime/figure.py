"""A figure with its uncertainty: the form in which every measured value is computed, written and shown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A value, the ends of its interval and the interval's method; None if there was nothing to measure."""

    value: float | None
    low: float | None
    high: float | None
    method: str

    @property
    def known(self) -> float:
        """The value; ValueError if there was nothing to measure."""
        if self.value is None:
            raise ValueError(f"nothing was measured ({self.method})")
        return self.value

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval; ValueError if there is none."""
        if self.low is None or self.high is None:
            raise ValueError(f"there is no interval ({self.method})")
        return self.low, self.high

    def above(self, bound: float) -> bool:
        """Return whether the whole interval lies above `bound`; False without an interval."""
        return self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        """Return whether the whole interval lies below `bound`; False without an interval."""
        return self.high is not None and self.high < bound
