"""The preprocessing as observed, with weights that have learnt from photographs: right data pass, faults are named.

A short slice of `python -m tests.studies.observed`; its tables stand in docs/validation.md.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from steps.checks.rules import DECLARED, SWAPPED, UNTOLD
from steps.checks.witnesses import COLOUR_ORDER, NORMS, STATISTICS
from steps.images.preprocessing import Preprocessing
from tests.conftest import Project
from tests.studies import observed as study

pytestmark = pytest.mark.real_data

SQUEEZENET, MOBILENET, GLYPHNET = range(3)
ROWS = [*range(96)]


@cache
def photographs() -> list[Image.Image]:
    classes = study.photographs("hymenoptera", 2 * len(ROWS)).values()
    return [picture for pair in zip(*classes, strict=True) for picture in pair][: len(ROWS)]


@cache
def pool(which: int) -> study.Pool:
    card, network = [*study.networks().values()][which]
    return study.pool(card, network, photographs())


def card_of(which: int) -> Preprocessing:
    return pool(which).card.preprocessing


@pytest.mark.parametrize(
    ("which", "colours", "statistics"),
    [(SQUEEZENET, DECLARED, DECLARED), (MOBILENET, UNTOLD, DECLARED), (GLYPHNET, UNTOLD, DECLARED)],
)
def test_right_photographs_are_accused_by_no_backbone(which: int, colours: str, statistics: str) -> None:
    assert pool(which).findings(ROWS, card_of(which)) == {COLOUR_ORDER: colours, STATISTICS: statistics}


@pytest.mark.parametrize(("which", "answer"), [(SQUEEZENET, SWAPPED), (MOBILENET, UNTOLD)])
def test_files_written_as_bgr_are_named_where_the_file_has_a_top(which: int, answer: str) -> None:
    found = pool(which).findings(ROWS, card_of(which), swapped=True)
    assert found[COLOUR_ORDER] == answer and found[STATISTICS] in (DECLARED, UNTOLD)


def test_batch_norm_leans_towards_a_swap_and_is_not_believed_alone() -> None:
    found, (said,) = pool(MOBILENET).answers(ROWS, card_of(MOBILENET), swapped=True)[COLOUR_ORDER]
    assert (said.witness, said.account) == (NORMS, SWAPPED) and said.t > 3
    assert found.account == UNTOLD and "no top" in found.why


@pytest.mark.parametrize("which", [SQUEEZENET, MOBILENET])
@pytest.mark.parametrize("family", [study.INCEPTION, study.NOTHING])
def test_another_familys_mean_and_std_in_card_and_params_alike_are_named(
    which: int, family: tuple[tuple[float, ...], tuple[float, ...]]
) -> None:
    found = pool(which).findings(ROWS, study.of_family(card_of(which), family))
    assert found[STATISTICS] == "mean and std of ImageNet"


@pytest.mark.parametrize("which", [SQUEEZENET, MOBILENET])
@pytest.mark.parametrize("change", [study.outlines, study.grey, study.dark])
def test_pictures_far_from_the_source_are_accused_of_nothing(
    which: int, change: Callable[[Image.Image], Image.Image]
) -> None:
    card, network = [*study.networks().values()][which]
    seen = study.pool(card, network, [change(picture) for picture in photographs()[:48]])
    assert set(seen.findings(range(48), card.preprocessing).values()) <= {DECLARED, UNTOLD}


def test_validate_takes_photographs_with_weights_that_have_batch_norm_and_no_top(
    new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project")
    images, weights = Path(os.environ["REGRAFT_DATASETS"], "hymenoptera"), Path(os.environ["REGRAFT_WEIGHTS"])
    told = project.must(
        "regraft",
        "use",
        str(images),
        "--backbone",
        "mobilenet_v2",
        "--weights",
        str(weights / "mobilenet_v2-imagenet-features.safetensors"),
    )
    assert "without its top" in told
    found = project.must("regraft", "validate")
    assert "pass  the weights know such inputs: colour order: cannot be told; mean and std: as declared" in found
