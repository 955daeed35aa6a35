"""Predict: a version's answers to many pictures, one row per picture. Not a stage: nothing is trained on them.

An answer depends only on its picture and the version, so a killed run can begin again and gives the same bytes; earlier
answers are looked up.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from steps.errors import RegistryError, UndecodableError
from steps.images import decoding
from steps.images.named_pictures import Named
from steps.registry.model_registry import CHAMPION, Registry
from steps.registry.production import chosen
from steps.runtime.compute import processors
from steps.runtime.progress import track
from steps.serving import served_version
from steps.serving.answer_store import FOLDER, AnswerStore
from steps.serving.prediction import Prediction
from steps.serving.served_version import Served

READERS = 8  # at most: each may hold a picture of `images.MAX_PIXELS`


class Answer(NamedTuple):
    """One file's answer; if there is none, `error` gives the reason and the other fields are None."""

    path: str
    sha256: str | None
    label: str | None
    probability: float | None
    abstain: bool | None
    unfamiliar: bool | None  # None too if the version does not say
    version: str
    digest: str
    error: str | None
    probabilities: list[float] | None


def load(root: Path, version: str | None) -> Served:
    """Load a version, or the champion that the ledger names, whatever the alias says.

    RequestError if there is none, RegistryError if ledger or version is damaged, or not the one decided on.
    """
    registry = Registry(root)
    return served_version.load(registry, *chosen(registry, version or CHAMPION))


def predict(root: Path, served: Served, found: Sequence[Named], threads: int | None = None) -> Iterator[Answer]:
    """Yield one row per file, in order, in constant memory; a file that is not a picture has the reason in its row."""
    import PIL
    import torch

    torch.set_num_threads(1)  # pictures already run in parallel; more threads would give other bytes on another machine
    key = {"version": served.digest, "torch": torch.__version__, "pillow": PIL.__version__}
    with closing(AnswerStore(root / FOLDER, key)) as store:
        answers = decoding.parallel(partial(_row, served, store), found, threads or min(READERS, processors()))
        yield from track(answers, len(found), "predicting")


def _row(served: Served, store: AnswerStore, file: Named) -> Answer:
    def row(identity: str | None = None, said: Prediction | None = None, error: str | None = None) -> Answer:
        return Answer(
            path=file.name,
            sha256=identity,
            label=said["label"] if said else None,
            probability=said["probability"] if said else None,
            abstain=said["abstain"] if said else None,
            unfamiliar=said.get("unfamiliar") if said else None,
            version=served.number,
            digest=served.digest,
            error=error,
            probabilities=said["probabilities"] if said else None,
        )

    if file.fault:
        return row(error=file.fault)
    try:
        data = decoding.read_bytes(file.path)
    except UndecodableError as error:
        return row(error=error.reason)
    except OSError as error:
        return row(error=f"cannot be read: {error.strerror}")
    identity = hashlib.sha256(data).hexdigest()
    try:
        return row(identity, _answer(served, store, identity, data))
    except UndecodableError as error:
        return row(identity, error=error.reason)
    except RegistryError as error:  # the version's own code cannot read what today's decoder can
        return row(identity, error=str(error))


def _answer(served: Served, store: AnswerStore, identity: str, data: bytes) -> Prediction:
    known = store.get(identity)
    if known is not None:
        return known
    said = served.answer(data)
    answer = Prediction(
        label=said["label"],
        probability=said["probability"],
        probabilities=said["probabilities"],
        abstain=said["abstain"],
    )
    if "unfamiliar" in said:
        answer["unfamiliar"] = said["unfamiliar"]
    store.put(identity, answer)
    return answer
