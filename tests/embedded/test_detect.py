"""The measured rates in short: gross faults are found and clean data is not accused."""

import pytest

from steps.core.seeding import numpy_generator
from steps.embedded import detect


@pytest.fixture(scope="module")
def faults() -> dict[str, detect.Alarm]:
    return detect.faults()


GROSS = ("unscaled", "normalised twice", "BGR after normalisation", "mean off by 0.05", "one class starved",
         "source of one class alone", "shifted brightness (+ 0.1)", "shifted domain (outlines)")  # fmt: skip


@pytest.mark.parametrize("name", GROSS)
def test_a_gross_fault_is_found_each_time_and_clean_data_is_not_accused(
    faults: dict[str, detect.Alarm], name: str
) -> None:
    alarm = faults[name]
    assert all(alarm(numpy_generator(number, name), True) for number in range(5))
    assert not any(alarm(numpy_generator(number, name), False) for number in range(5))
