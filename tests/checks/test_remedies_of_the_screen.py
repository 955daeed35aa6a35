"""What the screen prints as its remedy is done as printed, and the next run passes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from steps.checks.feature_rules import ScreenSeverity
from steps.errors import DataError
from steps.runtime import files
from steps.runtime.feature_file import read_features, write_features
from tests.checks.world import printed
from tests.stages.test_screen import COPY, Screened


class Sheet(NamedTuple):
    """A finding of `screen`, the severity that makes it refuse, and what is done of its remedy."""

    rule: str
    fault: str
    plant: Callable[[Screened], object]
    severity: str
    piece: str


def two_labels(project: Screened) -> None:
    table = files.read_table(project.root / "accepted.parquet")
    files.write_table(
        project.root / "accepted.parquet", table.assign(label=table["label"].where(table["path"] != COPY[1], "1"))
    )


def nothing_more(_: Screened) -> None:
    """The screen's own table has two images that are alike in test and training."""


def other_test(project: Screened) -> None:
    ids, rows = read_features(project.root / "features.safetensors")
    table = files.read_table(project.root / "accepted.parquet")
    tested = {*table["id"][table["split"] == "test"]}
    moved = np.array([identity in tested for identity in ids])
    write_features(project.root / "features.safetensors", ids, {"": np.array(rows) + 5 * moved[:, None]})


DROP_SUSPECTS, DROP_LIKE = "`screen.drop_suspects: true`", "`screen.drop_leaking: true`"
WARN = "`screen.severity.domain_shift: warn`"
KEEP = "`PATH,keep,,`"
SCREEN = (
    Sheet("labels are credible", "9 wrong labels of 120", Screened.mislabel, "label_errors", DROP_SUSPECTS),
    Sheet("labels are credible", "the same", Screened.mislabel, "label_errors", KEEP),
    Sheet("no like image in two splits", "alike in test and training", nothing_more, "like_images", DROP_LIKE),
    Sheet("no like image in two splits", "the same", nothing_more, "like_images", KEEP),
    Sheet("splits look alike", "test images of another look", other_test, "domain_shift", WARN),
    Sheet("like images, one label", "alike, with two labels", two_labels, "like_images", KEEP),
)
AGAINST = ("training looks like the reference", "a folder of outlines", WARN)


@pytest.mark.parametrize("case", SCREEN, ids=lambda case: f"{case.rule}: {case.piece}")
def test_the_printed_remedy_of_the_screen_is_carried_out_and_the_next_run_passes(case: Sheet, tmp_path: Path) -> None:
    project = Screened(tmp_path)
    project.lay_out()
    case.plant(project)
    off = ScreenSeverity(label_errors="off", like_images="off", domain_shift="off")
    severity = replace(off, **{case.severity: "fail"})
    with pytest.raises(DataError) as refused:
        project.run(severity=severity)
    broken = printed(str(refused.value))[case.rule]
    assert refused.value.exit_code == 3 and case.piece in broken.remedy
    changes = {}
    if case.piece == KEEP:
        project.decide(*(KEEP.strip("`").replace("PATH", path) for path in broken.where))
    elif case.piece == WARN:
        severity = replace(severity, domain_shift="warn")
    else:
        changes = {case.piece.strip("`").removeprefix("screen.").removesuffix(": true"): True}
    project.run(severity=severity, **changes)
