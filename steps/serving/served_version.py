"""The version being served, and the watcher that follows production: it loads the new version, then swaps it in."""

import io
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import pandas as pd
from PIL import Image

from steps.errors import RegistryError, without_passwords
from steps.images import decoding
from steps.registry import package_loading
from steps.registry.model_registry import Registry
from steps.registry.package_loading import Package
from steps.registry.production import Named
from steps.serving.prediction import Prediction

log = logging.getLogger("regraft")
AGAIN = 30.0  # seconds until a version that could not be loaded is tried again


@dataclass(frozen=True)
class Served:
    """A verified version, loaded; each answer depends on its picture alone, not on other requests at that time."""

    package: Package

    @cached_property
    def _python_model(self) -> Any:
        """Return the model inside MLflow's wrapper; the wrapper's checks would take half of a small network's time."""
        return self.package.model.unwrap_python_model()

    @property
    def number(self) -> str:
        """Return the registry's number."""
        return self.package.version

    @property
    def digest(self) -> str:
        """Return the digest under which the version is registered."""
        return self.package.digest

    @property
    def classes(self) -> list[str]:
        """Return the classes, in the order of an answer's probabilities."""
        return list(self._python_model.classes)

    @property
    def name(self) -> dict[str, str]:
        """Return the fields of an answer that identify the version."""
        return {"number": self.number, "digest": self.digest}

    def answer(self, picture: bytes) -> Prediction:
        """Return the package's output columns for the bytes of one image file.

        Raises UndecodableError if they are not an image, RegistryError if the package fails on a sound picture.
        """
        try:
            columns = self._python_model.predict(None, pd.DataFrame({"image": [picture]})).to_dict("list")
        except Exception as error:  # last year's code, with exceptions of its own
            decoding.decode(picture)
            raise RegistryError(f"version {self.number} failed on a sound picture: {_one_line(error)}") from error
        return cast(Prediction, {column: _plain(values[0]) for column, values in columns.items()})


def load(registry: Registry, number: str, decided: str | None = None) -> Served:
    """Load a version; RegistryError if it is not as registered, signed and decided, or fails to answer."""
    return warm(Served(package_loading.load(registry, number, decided)))


def warm(served: Served) -> Served:
    """Run a version once before requests reach it; RegistryError if it fails."""
    stream = io.BytesIO()
    Image.new("RGB", (256, 256), (127, 127, 127)).save(stream, "PNG")
    answer = served.answer(stream.getvalue())
    if not all(math.isfinite(value) for value in answer["probabilities"]):
        raise RegistryError(
            f"version {served.number} answers with {answer['probabilities']}, which are not probabilities"
        )
    return served


class Follower:
    """Keeps the named version loaded: `current`, to be read once per request, is replaced in one step.

    The old version keeps answering if the new one cannot be loaded or is not what was signed, if none is named any
    more, if the ledger was tampered with, or if the registry does not answer; `problem` then holds a sentence, as it
    does if the alias was moved by hand.
    """

    def __init__(self, first: Served, find: Callable[[], Named], load: Callable[[str], Served], every: float) -> None:
        """Start with a loaded version; `find`, called every `every` seconds, names the one to serve."""
        self._find, self._load, self._every = find, load, every
        self._failed: tuple[str, float, str] = ("", 0.0, "")  # a version, when to try it again, what was wrong
        self.current, self.since, self.problem = first, time.time(), ""
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def stop(self) -> None:
        """Stop polling."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.look()

    def look(self) -> None:
        """Poll once; a failure here leaves the serving version untouched."""
        try:
            number, remark = self._find()
            problem = remark if number is None else self._followed(number) or remark
        except Exception as error:  # a dead watcher would silently serve an old version forever
            problem = _one_line(error)
        if problem and problem != self.problem:
            log.warning("version %s is still being served: %s", self.current.number, problem)
        self.problem = problem

    def _followed(self, number: str) -> str:
        """Swap if another version is named; return the reason if that fails."""
        if number == self.current.number:
            return ""
        failed, again, problem = self._failed
        if number == failed and time.monotonic() < again:
            return problem
        try:
            self.current, self.since = self._load(number), time.time()
        except Exception as error:  # its own code runs while it loads; it is tried again later, not at every poll
            problem = f"version {number} cannot be served: {_one_line(error)}"
            self._failed = (number, time.monotonic() + AGAIN, problem)
            return problem
        log.info("version %s answers from now on", number)
        return ""


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _one_line(error: Exception) -> str:
    text = str(error).partition("[SQL:")[0]  # what a database was asked is for the log, not for strangers
    return without_passwords(" ".join(text.split()))[:500] or type(error).__name__
