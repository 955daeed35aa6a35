"""Validation and test accuracy of one model: they measure the same thing, unless the splits are of two worlds."""

import math

from steps.evaluation.results import SplitGap
from steps.runtime.figure import Figure


def split_gap(validation: Figure, test: Figure) -> SplitGap:
    """Return validation minus test accuracy, with its interval from the intervals of the two independent shares.

    Newcombe 1998 (Statistics in Medicine 17:873, method 10); intervals that respect groups give one that does.
    """
    (low, high), (test_low, test_high) = validation.ends, test.ends
    difference = validation.known - test.known
    below = math.hypot(validation.known - low, test_high - test.known)
    above = math.hypot(high - validation.known, test.known - test_low)
    return SplitGap(validation, test, Figure(difference, difference - below, difference + above, "Newcombe"))
