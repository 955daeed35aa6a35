"""data/importance.csv: each training image's weight, written by `regraft validate --against FOLDER --reweight`.

In git, like data/decisions.csv: a weight that changes a model has an author and a date. With the header alone, all
count 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from steps.errors import DataError
from steps.runtime import files

COLUMNS = ("image", "weight")


def read(path: Path, images: pd.DataFrame) -> "pd.Series[Any]":
    """Return the factor of each row of `images` (its column id), 1 where the file does not name it.

    An image that has gone since is passed over. DataError says what is wrong with the file.
    """
    try:
        table = pd.read_csv(path, dtype={"image": str, "weight": float})
    except (ValueError, OSError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
    if tuple(table.columns) != COLUMNS:
        raise DataError(f"{path.name} has the columns {', '.join(table.columns)}; not {', '.join(COLUMNS)}")
    wrong = table["image"][~(np.isfinite(table["weight"]) & (table["weight"] > 0)) | table["image"].duplicated()]
    if len(wrong):
        raise DataError(f"{path.name}: a weight is a number above 0, and an image has one; look at {wrong.iloc[0]}")
    return images["id"].map(table.set_index("image")["weight"]).fillna(1.0).astype(np.float64)


def write(path: Path, ids: Sequence[str], weights: npt.NDArray[np.float64]) -> None:
    """Write the weights, four decimals each, sorted by id."""
    table = pd.DataFrame({"image": ids, "weight": weights.round(4)}).sort_values("image")
    files.write_text(path, str(table.to_csv(index=False, lineterminator="\n")))
