"""Recipes from the literature by name: the values that replace those under `fine_tune`. Pure."""

import math
from typing import Any

from steps.training.fine_tuning import OFF

BIT = "bit_hyperrule"
RATE, BATCH = 0.003, 512  # of BiT
STEPS = ((20_000, 500), (500_000, 10_000), (math.inf, 20_000))  # (n, steps): steps for fewer than n images
MIXED_FROM = 20_000  # images


def bit_hyperrule(images: int, batch_size: int) -> dict[str, Any]:
    """Return BiT-HyperRule's values for a training set of this size (Kolesnikov et al. 2020, ECCV, section 3.3).

    SGD with momentum 0.9 from 0.003, a tenth of it after 30, 60 and 90 % of the steps; steps and MixUp depend on the
    size of the set; no weight decay. The rate is for a batch of 512 and scales with the batch (Goyal et al. 2017,
    section 2.1); steps are rounded up to whole epochs, because validation follows each. Steps are not multiplied: at a
    batch of 32, rate times steps is a sixteenth of the paper's, and only `compute.batch_size: 512` is its schedule.
    """
    steps = next(steps for fewer, steps in STEPS if images < fewer)
    epochs, rate = math.ceil(steps / math.ceil(images / batch_size)), RATE * batch_size / BATCH
    return {
        **vars(OFF),
        "optimiser": "sgd",
        "decay": "steps",
        "epochs": epochs,
        "patience": epochs,
        "head_rate": rate,
        "backbone_rate": rate,
        "mix": "mixup" if images >= MIXED_FROM else "none",
        "mix_alpha": 0.1,
    }


PRESETS = {BIT: bit_hyperrule}
