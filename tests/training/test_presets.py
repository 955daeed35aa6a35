"""The presets are those of their papers."""

import pytest

from steps.training.presets import bit_hyperrule


@pytest.mark.parametrize(
    ("images", "steps", "mix"),
    [
        (100, 500, "none"),
        (19_999, 500, "none"),
        (20_000, 10_000, "mixup"),
        (499_999, 10_000, "mixup"),
        (500_000, 20_000, "mixup"),
    ],
)
def test_bit_hyperrule_has_steps_and_mixup_by_the_size_of_the_set(images: int, steps: int, mix: str) -> None:
    found = bit_hyperrule(images, 512)
    an_epoch = -(-images // 512)
    assert (found["epochs"] - 1) * an_epoch < steps <= found["epochs"] * an_epoch
    assert found["mix"] == mix
    assert found["head_rate"] == found["backbone_rate"] == 0.003
    assert found["patience"] == found["epochs"], "nothing stops it early"


def test_the_rate_goes_with_the_batch() -> None:
    assert bit_hyperrule(1000, 32)["head_rate"] == pytest.approx(0.003 / 16)
