"""The measured rates in short: gross faults are found and clean data is not accused."""

import pytest

from steps.runtime.seeding import numpy_generator
from tests.conftest import REPOSITORY
from tests.studies import detect


@pytest.fixture(scope="module")
def faults() -> dict[str, detect.Alarm]:
    return detect.faults()


GROSS = (
    "loader does not scale",
    "loader normalises twice",
    "loader swaps colours after normalising",
    "mean off by 0.05",
    "one class of ten starved (0.5 % of the images)",
    "a source of 20 images, all of one class",
    "production 0.1 brighter (150 training images, 100 of the reference)",
    "production sees outlines (the same numbers)",
)


@pytest.mark.parametrize("name", GROSS)
def test_a_gross_fault_is_found_each_time_and_clean_data_is_not_accused(
    faults: dict[str, detect.Alarm], name: str
) -> None:
    alarm = faults[name]
    assert all(alarm(numpy_generator(number, name), True) for number in range(5))
    assert not any(alarm(numpy_generator(number, name), False) for number in range(5))


def test_the_table_of_the_docs_has_a_row_for_each_fault(faults: dict[str, detect.Alarm]) -> None:
    text = (REPOSITORY / "docs/validation.md").read_text(encoding="utf-8")
    table = text.partition("| fault | found, % |")[2].partition("\n\n")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
    assert [name for name in rows if not name.startswith("photographs: ")] == list(faults)
