"""Recipes of the literature by name: the values that they put in place of those under `fine_tune`. Pure."""

import math
from dataclasses import dataclass

from steps.training.fine_tuning import Recipe

BIT = "bit_hyperrule"
RATE, BATCH = 0.003, 512  # of BiT
STEPS = ((20_000, 500), (500_000, 10_000), (math.inf, 20_000))  # fewer images than this: so many steps
MIXED_FROM = 20_000  # images


@dataclass(frozen=True, kw_only=True)
class Preset(Recipe):
    """A recipe, and how it mixes pictures."""

    mix: str
    mix_alpha: float


def bit_hyperrule(images: int, batch_size: int) -> Preset:
    """Return BiT-HyperRule's values for a training set of so many images (Kolesnikov et al. 2020, ECCV, section 3.3).

    SGD with momentum 0.9 from 0.003, a tenth of it after 30, 60 and 90 % of the steps; steps and MixUp by the size of
    the set; no decay of weights. The rate is that of a batch of 512 and goes with the batch (Goyal et al. 2017,
    section 2.1); steps are rounded up to whole epochs, after each of which validation looks.
    """
    steps = next(steps for fewer, steps in STEPS if images < fewer)
    epochs, rate = math.ceil(steps / math.ceil(images / batch_size)), RATE * batch_size / BATCH
    return Preset(
        optimiser="sgd",
        decay="steps",
        epochs=epochs,
        patience=epochs,
        warmup_epochs=0,
        unfreeze_every=0,
        head_rate=rate,
        backbone_rate=rate,
        block_decay=1.0,
        weight_decay=0.0,
        l2_sp=0.0,
        label_smoothing=0.0,
        ema=0.0,
        mix="mixup" if images >= MIXED_FROM else "none",
        mix_alpha=0.1,
    )


PRESETS = {BIT: bit_hyperrule}
