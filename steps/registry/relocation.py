"""Artifact addresses in the project's own MLflow database. They are absolute: a moved or copied project changes them.

MLflow writes the address of every run, model and version when it is made. After `mv`, a copy, a restored backup or
another mount point they name a folder that is gone, or, worse, the folder of the original.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from steps.errors import RegistryError

log = logging.getLogger("regraft")
ARTIFACTS = ".regraft/mlartifacts"
MODELS = ("logged_models", "artifact_location")
COLUMNS = (
    MODELS,
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def follow(root: Path) -> None:
    """Replace addresses under another project folder by those under `root`, in one transaction.

    Does nothing if there are none. Raises RegistryError if none of the models of such a folder is in `root`, or if the
    database cannot be written.
    """
    database = root / ".regraft" / "mlflow.db"
    if not database.is_file():
        return
    here = (root / ARTIFACTS).as_uri()
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=30)) as held:
            elsewhere = sorted({address for _, _, address in _addresses(held)} - {here})
            for former in elsewhere:
                _refuse_absent(root, former, [*_models(held, former)])
        if elsewhere:
            _rewrite(database, elsewhere, here)
    except sqlite3.Error as error:
        raise RegistryError(
            f"{database} cannot be used ({error}). Its models lie in another folder than it says: make it writable, "
            "and run again"
        ) from None


def _rewrite(database: Path, elsewhere: list[str], here: str) -> None:
    with closing(sqlite3.connect(database, timeout=30)) as held, held:
        for former in elsewhere:
            for table, column in _columns(held):
                held.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "  # noqa: S608 - names of `COLUMNS`
                    f"where substr({column}, 1, ?) = ? and substr({column}, ?, 1) in ('', '/')",
                    (here, len(former) + 1, len(former), former, len(former) + 1),
                )
    log.warning(
        "the project was moved or copied from %s: its models are now read and written here", _project(elsewhere[0])
    )


def _columns(held: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Yield the columns of `COLUMNS` that this release of MLflow has."""
    for table, column in COLUMNS:
        if column in {row[1] for row in held.execute(f"pragma table_info({table})")}:
            yield table, column


def _addresses(held: sqlite3.Connection) -> Iterator[tuple[str, str, str]]:
    """Yield table, column and artifact root of every address below the `.regraft` folder of any project."""
    for table, column in _columns(held):
        for (address,) in held.execute(f"select distinct {column} from {table} where {column} like 'file:%'"):  # noqa: S608
            before, mark, after = str(address).rpartition(f"/{ARTIFACTS}")
            if mark and after[:1] in ("", "/"):
                yield table, column, before + mark


def _models(held: sqlite3.Connection, former: str) -> Iterator[str]:
    """Yield the paths of the models below an artifact root, relative to it."""
    table, column = MODELS
    for (address,) in held.execute(
        f"select {column} from {table} where substr({column}, 1, ?) = ?",  # noqa: S608
        (len(former) + 1, f"{former}/"),
    ):
        yield unquote(str(address)[len(former) + 1 :])


def _refuse_absent(root: Path, former: str, models: list[str]) -> None:
    """Refuse if no model is here, or if one is still there alone: the new address would lead to nothing."""
    here, there = root / ARTIFACTS, Path(_path(former))
    absent = [model for model in models if not (here / model / "MLmodel").is_file()]
    if models and (len(absent) == len(models) or any((there / model / "MLmodel").is_file() for model in absent)):
        raise RegistryError(
            f"models of this project are not in {root / ARTIFACTS}, and its database says that they are in "
            f"{_path(former)}: copy that folder to {root / ARTIFACTS}, then run again"
        )


def _path(address: str) -> str:
    return unquote(urlsplit(address).path)


def _project(address: str) -> str:
    return _path(address).removesuffix(f"/{ARTIFACTS}")
