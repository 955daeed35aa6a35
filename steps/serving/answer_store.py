"""A version's earlier answers, by the picture's SHA-256. A cache: deleting it changes time, never bytes."""

import json
import sqlite3
from pathlib import Path
from threading import Lock
from typing import Any

from steps.errors import IntegrityError
from steps.runtime.stage import digest_of
from steps.serving.prediction import Prediction

FOLDER = Path(".regraft", "answers")  # under the project's root


class AnswerStore:
    """Answers of one version on one set of libraries, in an SQLite file that survives a kill at any moment.

    Every answer is a transaction of its own, so a killed run loses none of its answers. Threads and processes may share
    the file. Raises IntegrityError if the file is damaged or the disk is full.
    """

    def __init__(self, folder: Path, key: dict[str, str]) -> None:
        self.path, self._lock = folder / f"{digest_of(key)[:32]}.sqlite", Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        self._execute("PRAGMA journal_mode = WAL")
        self._execute("PRAGMA synchronous = NORMAL")  # with WAL: a power cut may cost the last answers, never the file
        self._execute("CREATE TABLE IF NOT EXISTS answers (picture TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID")

    def get(self, picture: str) -> Prediction | None:
        """Return the answer to the picture of this SHA-256 (hexadecimal), if there is one."""
        rows = self._execute("SELECT answer FROM answers WHERE picture = ?", picture)
        return json.loads(rows[0][0]) if rows else None

    def put(self, picture: str, answer: Prediction) -> None:
        """Keep an answer; the first one stays."""
        self._execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", picture, json.dumps(answer))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _execute(self, statement: str, *values: str) -> list[Any]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise IntegrityError(f"{self.path}: {error}; the file is a cache, delete it if it is damaged") from None
