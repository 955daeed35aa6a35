"""A short race of promotions with kills; the whole is `python -m tests.studies.raced`."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.exhaustive
@pytest.mark.postgresql
@pytest.mark.alone
def test_kills_in_a_race_of_promotions_lose_no_decision() -> None:
    command = [sys.executable, "-m", "tests.studies.raced", "3", "4"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| sqlite", "| http"] and all(row[1] == "1" for row in rows)
