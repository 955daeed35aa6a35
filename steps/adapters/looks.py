"""The ledger of looks in MLflow: versions of a registered model `NAME.looks`, signed and chained as decisions are.

It is kept where the models are, so that no deleted report and no other checkout makes anybody forget. What each slot
names travels in its tags, because those are in the database and artifacts are files that a broom reaches.
"""

import getpass
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from steps.adapters import files, ledger, params, signing, tracking
from steps.core.looks import Look, Looks, Standing, digest_of, optimism, packed
from steps.core.looks import read as gathered
from steps.core.manifest import TEST
from steps.errors import RegistryError, RequestError

if TYPE_CHECKING:
    from mlflow import MlflowClient

IMAGES = "regraft.images."  # tags with this prefix hold what an entry names, in pieces
PIECE = 7500  # characters; MLflow takes 8000
SOURCE = "regraft://looks"  # MLflow asks for one; nothing lies there
TOLD = "Every look at test images; signed, append-only."


def record(models: Iterable[str], images: Iterable[str]) -> None:
    """Record that models (digests of their weights) are about to be judged on images (SHA-256 of their bytes).

    A model that was judged on all of them before leaves no entry. Raises RegistryError where the ledger of looks was
    tampered with: whoever sees figures has left a trace, or sees none.
    """
    mlflow, name, wanted = tracking.client(), _name(files.project_root()), list(images)
    for digest in dict.fromkeys(models):
        for _ in range(ledger.ATTEMPTS):
            found = whole(read(mlflow, name))
            if found.has(digest, wanted):
                break
            _append(mlflow, name, found, digest, wanted)
        else:
            raise RegistryError(f"{ledger.ATTEMPTS} looks were recorded first, one after another; run again")


def count(root: Path, images: Iterable[str]) -> int:
    """Return how many models these images have judged; see `steps.core.looks.Looks.count`."""
    return whole(read(tracking.client(), _name(root))).count(images)


def standing(root: Path) -> Standing:
    """Return how often the present test images of the project were looked at, and with what consequence."""
    table = files.read_table(root / "data/screened.parquet")
    told = files.read_json(root / "data/reports/evaluation.json")
    judged, rules = told["test"][told["chosen"]], params.read(root)["promote"]
    looked = count(root, table["id"][table["split"] == TEST])
    # The accuracy seen is what luck may have lifted; from the lower end, luck has room even where nothing was wrong
    by_luck = optimism(looked, judged["n"], judged["accuracy"]["low"])
    return Standing(looked, by_luck, rules["look_budget"], rules["look_limit"])


def exhausted(root: Path) -> str | None:
    """Say why the test images may decide nothing more, if that is so. RequestError where they are not here."""
    if not (root / "data/screened.parquet").is_file():
        raise RequestError("data/screened.parquet is not here: nothing says how often its test images were looked at; "
                           "`dvc pull`, or `regraft run`")  # fmt: skip
    found = standing(root)
    return found.sentence if found.exhausted else None


def read(mlflow: "MlflowClient", name: str) -> Looks:
    """Read and verify the ledger of looks."""
    slots, tags = ledger.slots(mlflow, name)
    payloads = {number: "".join(of[key] for key in sorted(of) if key.startswith(IMAGES)) for number, of in tags.items()}
    return gathered(slots, payloads, signing.verifier())


def whole(found: Looks) -> Looks:
    """Return the looks where nothing is wrong with them; RegistryError names every fault."""
    if found.faults:
        raise RegistryError("the ledger of looks was tampered with:\n  " + "\n  ".join(found.faults))
    return found


def _append(mlflow: "MlflowClient", name: str, found: Looks, model: str, images: list[str]) -> None:
    payload = packed(images, found.names)
    pieces = {f"{IMAGES}{place:010}": payload[place : place + PIECE] for place in range(0, len(payload), PIECE)}
    look = Look(
        model=model, payload=digest_of(payload), images=len(images), by=getpass.getuser(),
        at=datetime.now(UTC).isoformat(timespec="milliseconds"), predecessor=found.head,
    )  # fmt: skip
    ledger.take(mlflow, name, TOLD, SOURCE, look.text(), pieces)


def _name(root: Path) -> str:
    return f"{params.read(root)['register']['model_name']}.looks"
