"""Outputs of a backbone that no head can learn from: refused where they are made, before anything trains on them."""

from collections.abc import Iterable, Sequence

import numpy as np

from steps.errors import RequestError
from steps.runtime.feature_file import STRETCH, Rows

LARGEST = 1e15  # sums of squares of larger values leave float32, so distances between images become infinite
SHOWN = 5  # images named
OTHER_WEIGHTS = (
    "The weights overflow: a damaged file, or one whose tensors were scaled. `regraft use FOLDER --backbone NAME` "
    "takes torchvision's own, `--weights FILE` another file."
)
FULL_PRECISION = "With `extract_features.precision: float32` in params.yaml they may fit. Otherwise: "
SOME = "Where only these are wrong, write a line `PATH,drop,,` for each into data/decisions.csv. Otherwise: "


def refuse_infinite(paths: Sequence[str], outputs: Iterable[Rows], precision: str) -> None:
    """Raise RequestError if images have outputs that are NaN, infinite or too large to compute with.

    `paths` names the images, each of `outputs` is [n, width] in their order; `precision` is that of the network.
    """
    wrong = np.zeros(len(paths), dtype=bool)
    for rows in outputs:
        for start in range(0, len(paths), STRETCH):
            stretch = slice(start, start + STRETCH)
            wrong[stretch] |= ~(np.abs(rows[stretch]) <= LARGEST).all(axis=1)  # a comparison with NaN is false
    if not wrong.any():
        return
    named = sorted(path for path, is_wrong in zip(paths, wrong, strict=True) if is_wrong)
    more = "; ..." if len(named) > SHOWN else ""
    raise RequestError(
        f"the backbone's outputs for {len(named):,} of {len(paths):,} images are NaN, infinite or above {LARGEST:g} "
        f"({'; '.join(named[:SHOWN])}{more}). "
        f"{FULL_PRECISION if precision != 'float32' else ''}{SOME if len(named) < len(paths) else ''}{OTHER_WEIGHTS}"
    )
