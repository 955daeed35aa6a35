"""The ledger of looks in MLflow: versions of the registered model `regraft.looks`, signed and chained as decisions are.

It is kept beside the models, under one name for all of them, so that deleting a report, renaming a model or using
another checkout loses no look. What each slot names is stored in its tags: those are in the database, whereas artifacts
are files that a clean-up may delete. `data/looks.jsonl` is a copy outside of the registry.
"""

import getpass
import json
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from steps.errors import RegistryError, RequestError
from steps.evaluation.results import Evaluation
from steps.images.manifest import TEST, in_use
from steps.registry import signing
from steps.registry.ledger import ATTEMPTS, take
from steps.registry.ledger import slots as slots_of
from steps.registry.looks import Kept, Look, Looks, Standing, digest_of, gone, optimism, packed, reread
from steps.registry.looks import read as gathered
from steps.registry.model_registry import Registry
from steps.runtime import artefacts, files, params

log = logging.getLogger("regraft")
NAME, OF_OLD = "regraft.looks", ".looks"  # formerly, each registered model had a ledger of looks under its own name
CARRIED = "regraft.carried"  # tag of such a ledger once its looks are copied into this one
EXPORT = Path("data/looks.jsonl")
IMAGES = "regraft.images."  # tags with this prefix hold what an entry names, in pieces
PIECE = 7500  # characters; MLflow takes 8000
SOURCE = "regraft://looks/none"  # MLflow requires a source, its server one with a path; nothing is stored there
DESCRIPTION = "Every look at test images; signed, append-only."


def of_project() -> Registry:
    """Return the registered model that holds the ledger of looks."""
    return Registry(files.project_root(), NAME)


def record(models: Iterable[str], images: Iterable[str]) -> Looks:
    """Record that models (digests of their weights) are about to be judged on images (SHA-256 of their bytes).

    Returns all looks. A model already judged on all of the images adds no entry. Raises RegistryError if the ledger of
    looks was tampered with or lacks an exported entry: nobody sees figures without leaving a trace.
    """
    ledger, wanted = of_project(), list(images)
    exported = _exported(ledger.root)
    ledger.ensure(DESCRIPTION)
    looks = _reconciled(ledger, exported)
    for digest in dict.fromkeys(models):
        looks = _recorded(ledger, looks, digest, wanted)
    if [kept.text for kept in exported] != [kept.text for kept in looks.kept]:
        files.write_text(ledger.root / EXPORT, "".join(json.dumps(vars(kept)) + "\n" for kept in looks.kept))
    return looks


def count(images: Iterable[str]) -> int:
    """Return how many models these images have judged; see `steps.registry.looks.Looks.count`."""
    return whole(read(of_project())).count(images)


def standing(root: Path) -> Standing:
    """Return how often the present test images of the project were looked at, and the consequence.

    Models that `evaluate` has judged but the ledger lacks are recorded first: figures that exist were looked at.
    """
    table = files.read_table(root / "data/screened.parquet")
    evaluation, rules = artefacts.read(Evaluation, root / "data/reports/evaluation.json"), params.read(root)["promote"]
    images = in_use(table, TEST)["id"].tolist()
    looked = record(evaluation.weights.values(), images).count(images)
    # Chance may have raised the observed accuracy; its lower end leaves room for that even if no answer was wrong
    by_luck = optimism(looked, evaluation.judgement.n, evaluation.judgement.accuracy.ends[0])
    return Standing(looked, by_luck, rules["look_budget"], rules["look_limit"])


def exhausted(root: Path) -> str | None:
    """Return why the test images may no longer decide anything, if so. RequestError if they are missing."""
    if not (root / "data/screened.parquet").is_file():
        raise RequestError(
            "data/screened.parquet is not here: nothing says how often its test images were looked at; "
            "`dvc pull`, or `regraft run`"
        )
    state = standing(root)
    return state.sentence if state.exhausted else None


def read(ledger: Registry) -> Looks:
    """Read and verify a ledger of looks."""
    slots, tags = slots_of(ledger)
    payloads = {number: "".join(of[key] for key in sorted(of) if key.startswith(IMAGES)) for number, of in tags.items()}
    return gathered(slots, payloads, signing.verifier())


def whole(found: Looks, faults: Sequence[str] = ()) -> Looks:
    """Return the looks if they have no faults; otherwise RegistryError names all of them."""
    if faults := (*found.faults, *faults):
        raise RegistryError(
            "the ledger of looks was tampered with:\n  "
            + "\n  ".join(faults)
            + f"\nNo test image will be evaluated until this is resolved. If {EXPORT} was exported from another "
            "registry, move it away."
        )
    return found


def _reconciled(ledger: Registry, exported: Sequence[Kept]) -> Looks:
    """Read the ledger, compare it with its last export, and copy in the entries of older ledgers.

    A registry that holds none of the exported looks was emptied or is a different one. Those looks still happened, so
    they are recorded again with new signatures, as often as a kill or an older export requires it. The export's
    signatures are not verified: whoever changed it could as well have deleted it.
    """
    looks = whole(read(ledger))
    held = {kept.text for kept in looks.kept}
    if any(kept.text in held for kept in exported):
        looks = whole(looks, gone(looks, exported))
    elif exported:
        looks = _carried(ledger, looks, whole(reread(exported, lambda *_: True)))
        log.warning("the registry held no look of %s: the looks of %d models stand in it now", EXPORT, len(looks.seen))
    for model in ledger.client.search_registered_models(f"name LIKE '%{OF_OLD}'"):
        if model.name != NAME and CARRIED not in model.tags:
            older = read(ledger.named(model.name))
            if older.kept or not older.faults:  # a ledger without any entry of ours is somebody else's
                looks = _carried(ledger, looks, whole(older))
                ledger.client.set_registered_model_tag(model.name, CARRIED, "yes")
    return looks


def _carried(ledger: Registry, looks: Looks, carried: Looks) -> Looks:
    for model, images in carried.pairs():
        looks = _recorded(ledger, looks, model, images)
    return looks


def _recorded(ledger: Registry, looks: Looks, model: str, images: list[str]) -> Looks:
    for _ in range(ATTEMPTS):
        if looks.has(model, images):
            return looks
        _append(ledger, looks, model, images)
        looks = whole(read(ledger))
    raise RegistryError(f"{ATTEMPTS} looks were recorded first, one after another; run again")


def _append(ledger: Registry, looks: Looks, model: str, images: list[str]) -> None:
    payload = packed(images, looks.names)
    pieces = {f"{IMAGES}{start:010}": payload[start : start + PIECE] for start in range(0, len(payload), PIECE)}
    look = Look(
        model=model,
        payload=digest_of(payload),
        images=len(images),
        by=getpass.getuser(),
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        predecessor=looks.head,
    )
    take(ledger, DESCRIPTION, SOURCE, look.text(), pieces)


def _exported(root: Path) -> list[Kept]:
    """Return the lines of the last export; RegistryError if a line is not a look."""
    path = root / EXPORT
    try:
        return [Kept(**json.loads(line)) for line in path.read_bytes().splitlines()] if path.is_file() else []
    except (ValueError, TypeError) as error:
        raise RegistryError(
            f"{EXPORT} holds a line that is no entry ({error}); restore it from git, or move it away"
        ) from None
