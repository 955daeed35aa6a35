"""Every option of params.yaml leads to a verdict or a sentence: a slice of the study."""

import pytest
import torch

from tests.studies import every_option

SEEDS = (1, 4, 7, 8)  # each one crashed once: one image of a class, classes and images of weight 0, few groups


@pytest.fixture(scope="module")
def outcomes() -> dict[int, str]:
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with every_option.bench() as made:
        ended = {seed: made.run(seed) for seed in SEEDS}
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
    return ended


def test_no_drawn_manifest_ends_with_a_traceback(outcomes: dict[int, str]) -> None:
    assert [outcome for outcome in outcomes.values() if every_option.crashed(outcome)] == []


def test_some_end_with_a_report_and_a_refusal_names_what_helps(outcomes: dict[int, str]) -> None:
    refused = [outcome for outcome in outcomes.values() if outcome != "report"]
    assert len(refused) < len(outcomes)
    assert all("remedy" in outcome for outcome in refused if outcome.startswith(("validate", "screen")))
