"""The rival from scratch gets a least number of steps, unless they would cost more than the budget."""

import pytest

from steps.training.rivals import Duration, lengthened

CHEAP = 1e6  # FLOPs of an epoch


@pytest.mark.parametrize(
    ("images", "epoch_flops", "wanted"),
    [
        (146, CHEAP, Duration(20, 5)),  # 5 batches of 32: 20 epochs are 100 steps
        (50, CHEAP, Duration(50, 13)),
        (10, CHEAP, Duration(100, 25)),
        (5000, CHEAP, Duration(20, 5)),
        (50, 5e12 / 30.5, Duration(30, 8)),  # the budget ends it
        (183, 3 * 183 * 0.7e9, Duration(20, 5)),  # SqueezeNet on 398 photographs: no dearer than before
        (50, 1e15, Duration(20, 5)),  # never fewer than the usual epochs
    ],
)
def test_epochs_and_patience_grow_where_they_are_few_steps(images: int, epoch_flops: float, wanted: Duration) -> None:
    steps = -(-images // 32)
    assert lengthened(Duration(20, 5), steps, epoch_flops, least_steps=100, budget_flops=5e12) == wanted
