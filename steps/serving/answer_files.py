"""Answers on disk: CSV or Parquet, written row by row; the file appears only when it is complete."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from steps.errors import RequestError
from steps.images.decoding import batched
from steps.runtime.files import replacing

GROUP = 4096  # rows of Parquet in memory at a time
SUFFIXES = (".csv", ".parquet")
Values = Sequence[Any]


def check(path: Path) -> None:
    """Raise RequestError if no answers can be written to `path`."""
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"--output {path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    folder = path.absolute().parent
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise RequestError(f"--output {path}: not a file that can be written; does the folder {folder} exist?")


def write(path: Path, columns: Sequence[str], rows: Iterable[Values]) -> None:
    """Write the rows atomically; the same rows give the same bytes."""
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            _write_parquet(temporary, columns, rows)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                write_csv(file, columns, rows)


def write_csv(file: TextIO, columns: Sequence[str], rows: Iterable[Values]) -> None:
    """Write CSV with a header; None becomes an empty field."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def _write_parquet(path: Path, columns: Sequence[str], rows: Iterable[Values]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {"probability": pa.float64(), "abstain": pa.bool_(), "unfamiliar": pa.bool_()}
    schema = pa.schema(
        [(name, types.get(name, pa.float64() if name.startswith("probability_") else pa.string())) for name in columns]
    )
    with ParquetWriter(path, schema, compression="zstd") as writer:
        for group in batched(rows, GROUP):
            values = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(
                pa.Table.from_arrays([pa.array(v, t) for v, t in zip(values, schema.types, strict=True)], schema=schema)
            )
