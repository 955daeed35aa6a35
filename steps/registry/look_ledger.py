"""The ledger of looks in MLflow: versions of the registered model `regraft.looks`, signed and chained as decisions are.

It is kept where the models are, under one name whatever the models are called, so that no deleted report, no other
name and no other checkout makes anybody forget. What each slot names travels in its tags, because those are in the
database and artifacts are files that a broom reaches. `data/looks.jsonl` is a copy outside of the registry.
"""

import getpass
import json
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from steps.errors import RegistryError, RequestError
from steps.evaluation.results import Evaluation
from steps.images.manifest import TEST
from steps.registry import ledger, signing, tracking, versions
from steps.registry.looks import Kept, Look, Looks, Standing, digest_of, gone, optimism, packed, reread
from steps.registry.looks import read as gathered
from steps.runtime import artefacts, files, params

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("regraft")
NAME, OF_OLD = "regraft.looks", ".looks"  # of old, each registered model had a ledger of looks under its own name
CARRIED = "regraft.carried"  # tag of such a ledger, once its looks stand in this one
EXPORT = Path("data/looks.jsonl")
IMAGES = "regraft.images."  # tags with this prefix hold what an entry names, in pieces
PIECE = 7500  # characters; MLflow takes 8000
SOURCE = "regraft://looks/none"  # MLflow asks for one, its server for one with a path; nothing lies there
TOLD = "Every look at test images; signed, append-only."


def record(models: Iterable[str], images: Iterable[str]) -> Looks:
    """Record that models (digests of their weights) are about to be judged on images (SHA-256 of their bytes).

    Returns all looks. A model that was judged on all of the images before leaves no entry. Raises RegistryError where
    the ledger of looks was tampered with, or lacks what was exported from it: whoever sees figures has left a trace,
    or sees none.
    """
    mlflow, root, wanted = tracking.client(), files.project_root(), list(images)
    exported = _exported(root)
    versions.ensure_model(mlflow, NAME, TOLD)
    found = _reconciled(mlflow, exported)
    for digest in dict.fromkeys(models):
        found = _recorded(mlflow, found, digest, wanted)
    if [one.text for one in exported] != [one.text for one in found.kept]:
        files.write_text(root / EXPORT, "".join(json.dumps(vars(one)) + "\n" for one in found.kept))
    return found


def count(images: Iterable[str]) -> int:
    """Return how many models these images have judged; see `steps.registry.looks.Looks.count`."""
    return whole(read(tracking.client(), NAME)).count(images)


def standing(root: Path) -> Standing:
    """Return how often the present test images of the project were looked at, and with what consequence.

    Models that `evaluate` has judged and the ledger lacks are recorded first: figures that exist were looked at.
    """
    table = files.read_table(root / "data/screened.parquet")
    evaluation, rules = artefacts.read(Evaluation, root / "data/reports/evaluation.json"), params.read(root)["promote"]
    images = table["id"][table["split"] == TEST].tolist()
    looked = record(evaluation.weights.values(), images).count(images)
    # The accuracy seen is what luck may have lifted; from the lower end, luck has room even where nothing was wrong
    by_luck = optimism(looked, evaluation.judgement.n, evaluation.judgement.accuracy.ends[0])
    return Standing(looked, by_luck, rules["look_budget"], rules["look_limit"])


def exhausted(root: Path) -> str | None:
    """Return why the test images may decide no more, if so. RequestError if they are missing."""
    if not (root / "data/screened.parquet").is_file():
        raise RequestError(
            "data/screened.parquet is not here: nothing says how often its test images were looked at; "
            "`dvc pull`, or `regraft run`"
        )
    found = standing(root)
    return found.sentence if found.exhausted else None


def read(mlflow: "MlflowClient", name: str) -> Looks:
    """Read and verify a ledger of looks."""
    slots, tags = ledger.slots(mlflow, name)
    payloads = {number: "".join(of[key] for key in sorted(of) if key.startswith(IMAGES)) for number, of in tags.items()}
    return gathered(slots, payloads, signing.verifier())


def whole(found: Looks, faults: Sequence[str] = ()) -> Looks:
    """Return the looks if they have no faults; otherwise RegistryError names all of them."""
    if faults := (*found.faults, *faults):
        raise RegistryError(
            "the ledger of looks was tampered with:\n  "
            + "\n  ".join(faults)
            + f"\nNo test image is looked at on it. Was {EXPORT} exported from another registry, move it away."
        )
    return found


def _reconciled(mlflow: "MlflowClient", exported: Sequence[Kept]) -> Looks:
    """Read the ledger, hold it against its last export, and carry into it what older ledgers hold.

    A registry that holds none of the exported looks was emptied, or is another one: those looks were taken all the
    same, so they are recorded again, signed anew, as often as a kill or an older export asks for it. Whoever changed
    the export could as well have deleted it.
    """
    found = whole(read(mlflow, NAME))
    held = {one.text for one in found.kept}
    if any(one.text in held for one in exported):
        found = whole(found, gone(found, exported))
    elif exported:
        found = _carried(mlflow, found, whole(reread(exported, lambda *_: True)))
        log.warning("the registry held no look of %s: the looks of %d models stand in it now", EXPORT, len(found.seen))
    for model in mlflow.search_registered_models(f"name LIKE '%{OF_OLD}'"):
        if model.name != NAME and CARRIED not in model.tags:
            older = read(mlflow, model.name)
            if older.kept or not older.faults:  # where no entry at all is ours, it is somebody else's
                found = _carried(mlflow, found, whole(older))
                mlflow.set_registered_model_tag(model.name, CARRIED, "yes")
    return found


def _carried(mlflow: "MlflowClient", found: Looks, other: Looks) -> Looks:
    for model, images in other.pairs():
        found = _recorded(mlflow, found, model, images)
    return found


def _recorded(mlflow: "MlflowClient", found: Looks, model: str, images: list[str]) -> Looks:
    for _ in range(ledger.ATTEMPTS):
        if found.has(model, images):
            return found
        _append(mlflow, found, model, images)
        found = whole(read(mlflow, NAME))
    raise RegistryError(f"{ledger.ATTEMPTS} looks were recorded first, one after another; run again")


def _append(mlflow: "MlflowClient", found: Looks, model: str, images: list[str]) -> None:
    payload = packed(images, found.names)
    pieces = {f"{IMAGES}{place:010}": payload[place : place + PIECE] for place in range(0, len(payload), PIECE)}
    look = Look(
        model=model,
        payload=digest_of(payload),
        images=len(images),
        by=getpass.getuser(),
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        predecessor=found.head,
    )
    ledger.take(mlflow, NAME, TOLD, SOURCE, look.text(), pieces)


def _exported(root: Path) -> list[Kept]:
    """Return the lines of the last export; RegistryError if one is not a look."""
    path = root / EXPORT
    try:
        return [Kept(**json.loads(line)) for line in path.read_bytes().splitlines()] if path.is_file() else []
    except (ValueError, TypeError) as error:
        raise RegistryError(
            f"{EXPORT} holds a line that is no entry ({error}); restore it from git, or move it away"
        ) from None
