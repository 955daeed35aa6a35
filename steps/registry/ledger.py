"""The ledger in MLflow: versions of a registered model `NAME.ledger`, numbered by MLflow, one decision each.

MLflow numbers the versions of a model one after another and gives no number twice, on every backend and over HTTP;
an alias it sets for whoever comes last. So a decision is made by taking the next number, and the alias `champion`
is a projection of the last entry, which any later command repairs. One registered model keeps the page of models
tidy; an experiment for each decision would not.
"""

import getpass
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from steps.errors import RegistryError
from steps.registry import signing, versions
from steps.registry.chain import ADOPT, RESTORE, Chain, Decision, Slot, differences, walk
from steps.registry.versions import CHAMPION
from steps.runtime import files

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("regraft")
T = TypeVar("T")
TEXT, SIGNATURE, APPLIED = "regraft.decision", "regraft.signature", "regraft.applied"
EXPORT = Path("data/ledger.jsonl")
TOLD = "Every decision about who is champion; signed, append-only."
PATIENCE = 30  # seconds that an alias has to stand elsewhere before it counts as moved by hand
ATTEMPTS = 100  # lost races in a row before one gives up


def name_of(model: str) -> str:
    """Return the name of the registered model that holds the ledger of `model`."""
    return f"{model}.ledger"


def read(mlflow: "MlflowClient", model: str, since: Chain | None = None) -> Chain:
    """Read and verify the ledger of a model; an empty chain if there is none.

    With `since`, a chain that was read a moment ago, only its last entry and what came after it are asked for; where
    nothing did, that very chain is returned, and nothing is read or hashed again.
    """
    known = since.slots if since and since.entries else ()
    first = since.last_number if since and since.entries else 1
    found = sorted(slots(mlflow, name_of(model), first)[0], key=lambda slot: slot.number)
    if since and known and found == [slot for slot in known if slot.number >= first]:
        return since
    return walk([*(slot for slot in known if slot.number < first), *found], signing.verifier())


def slots(mlflow: "MlflowClient", name: str, first: int = 1) -> tuple[list[Slot], dict[int, dict[str, str]]]:
    """Return the slots of a ledger from number `first` on, and the tags of each.

    Raises RegistryError where the ledger is there and may not be read: MLflow's search shows nothing of it then, and
    nobody may take it for an empty one.
    """
    clause = f"name = '{name}' and version_number >= {first}"
    found, tags, token = [], {}, None
    while True:
        page = mlflow.search_model_versions(clause, max_results=1000, page_token=token)
        for v in page:
            tags[int(v.version)] = dict(v.tags)
            found.append(Slot(int(v.version), v.tags.get(TEXT, ""), v.tags.get(SIGNATURE, ""), APPLIED in v.tags))
        token = page.token
        if not token:
            break
    if not found:
        versions.model(mlflow, name)
    return found, tags


def take(
    mlflow: "MlflowClient", name: str, told: str, source: str, text: str, tags: Mapping[str, str] = MappingProxyType({})
) -> int | None:
    """Sign a text and take the next slot of the ledger `name` with it; its number, or None where others were first."""
    versions.ensure_model(mlflow, name, told)
    tags = {TEXT: text, SIGNATURE: signing.sign(text), **tags}
    made = _unless_lost(lambda: mlflow.create_model_version(name, source, tags=tags))
    return None if made is None else int(made.version)


def whole(chain: Chain, exported: Sequence[str] = ()) -> Chain:
    """Return the chain if it has no faults; otherwise RegistryError names all of them."""
    faults = [*chain.faults, *differences(chain, exported)]
    if faults:
        raise RegistryError(
            "the ledger of decisions was tampered with:\n  "
            + "\n  ".join(faults)
            + f"\nNothing is decided on it. Was {EXPORT} exported from another registry, move it away."
        )
    return chain


def package_of(mlflow: "MlflowClient", model: str, version: str) -> str | None:
    """Return the digest of a version's package as it was first decided about; None where no entry holds one.

    Raises RegistryError where the ledger was tampered with.
    """
    return whole(read(mlflow, model)).package_of(version)


def append(
    mlflow: "MlflowClient",
    model: str,
    chain: Chain,
    kind: str,
    version: str,
    champion: str | None,
    reasons: Sequence[str],
    question: str = "",
    by: str = "",
    package: str | None = None,
) -> bool:
    """Sign a decision that follows `chain` and take the next slot; say whether it counts (False: another was first).

    `package`: the digest of the version's package, as it was verified; default: what an earlier entry says of it.
    """
    decision = Decision(
        kind=kind,
        version=version,
        champion=champion,
        previous=chain.champion,
        reasons=tuple(reasons),
        question=question,
        by=by or getpass.getuser(),
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        predecessor=chain.head,
        package=package or chain.package_of(version),
    )
    made = take(mlflow, name_of(model), TOLD, f"models:/{model}/{version}", decision.text())
    return made is not None and any(slot == made for slot, _ in read(mlflow, model, chain).entries)


def _unless_lost(write: Callable[[], T]) -> T | None:
    """Return the write's result; None if it lost a race and wrote nothing."""
    try:
        return write()
    except RegistryError as error:
        if versions.lost_race(error):
            return None
        raise


def decide(mlflow: "MlflowClient", model: str, turn: Callable[[Chain], bool]) -> Chain:
    """Call `turn` with the present chain until it is done, then update the aliases.

    `turn` appends at most one entry and returns whether it counted, or True where there was nothing to decide.
    A turn that lost its slot is called again with the winner's entry in the chain: it decides anew.
    """
    chain = restore_alias(mlflow, model)
    for _ in range(ATTEMPTS):
        if turn(chain):
            return restore_alias(mlflow, model, chain)
        chain = whole(read(mlflow, model, chain))
    raise RegistryError(f"{ATTEMPTS} decisions about {model} came first, one after another; run again")


def restore_alias(mlflow: "MlflowClient", model: str, chain: Chain | None = None) -> Chain:
    """Restore the alias `champion` to the last entry, whoever moved it or was killed before moving it.

    Setting and then reading again means that whoever sets last has seen the last entry. An alias that had followed
    its entry and points elsewhere now was moved by hand: that becomes an entry of its own.
    """
    while True:
        chain = whole(read(mlflow, model, chain))
        if not chain.entries:
            return _adopt(mlflow, model, chain)
        found = versions.alias_version(mlflow, model, CHAMPION)
        if found == chain.champion and chain.applied:
            return chain
        if chain.applied and not _is_still(mlflow, model, found, chain):
            continue
        if chain.applied:
            stood = f"version {found}" if found else "nothing"
            told = f"the alias champion stood on {stood}, moved by hand or by a run that was killed; set back"
            append(mlflow, model, chain, RESTORE, chain.champion or str(found), chain.champion, [told])
        else:
            _follow(mlflow, model, chain, found)


def _follow(mlflow: "MlflowClient", model: str, chain: Chain, found: str | None) -> None:
    """Set the alias, and again while others decide: a slow write of ours must not undo a quick one of theirs.

    A write that finds the database busy is made again here: leaving an old alias behind would look, to the others
    and to this process itself, like one moved by hand.
    """
    for _ in range(ATTEMPTS):
        if found == chain.champion or _written(partial(versions.point_alias, mlflow, model, CHAMPION, chain.champion)):
            now = read(mlflow, model, chain)
            if now.head != chain.head:
                chain, found = now, None
            elif _written(partial(mlflow.set_model_version_tag, name_of(model), str(now.last_number), APPLIED, "yes")):
                return
    raise RegistryError(f"the alias {CHAMPION} could not be set: the registry was busy {ATTEMPTS} times; run again")


def _written(write: Callable[[], object]) -> bool:
    """Return whether a write succeeded; False if it lost a race."""
    return _unless_lost(lambda: (write(),)) is not None


def _adopt(mlflow: "MlflowClient", model: str, chain: Chain) -> Chain:
    """Begin the ledger with the champion that is there already, of a project older than its ledger."""
    champion = versions.alias_version(mlflow, model, CHAMPION)
    if champion is None:
        return chain
    package = versions.digest(mlflow, model, champion)
    append(mlflow, model, chain, ADOPT, champion, champion, ["was champion before there was a ledger"], package=package)
    return restore_alias(mlflow, model)


def _is_still(mlflow: "MlflowClient", model: str, found: str | None, chain: Chain) -> bool:
    """Poll the alias: give a slow process time to finish before calling it tampering."""
    for _ in range(PATIENCE):
        time.sleep(1)
        same_alias = versions.alias_version(mlflow, model, CHAMPION) == found
        if not (same_alias and read(mlflow, model, chain).head == chain.head):
            return False
    return True


def reconcile(mlflow: "MlflowClient", model: str, root: Path) -> None:
    """Hold the ledger against its last export, before anything is decided.

    Raises RegistryError where an exported entry is changed or gone. A registry that is empty altogether was wiped or
    is another one: the export is kept under another name, and a new ledger begins.
    """
    versions.ensure_model(mlflow, name_of(model), TOLD)
    chain, path = whole(read(mlflow, model)), root / EXPORT
    if chain.entries:
        whole(chain, exported(root))
    elif path.is_file():
        kept = path.with_name(f"ledger-{files.sha256_of(path)[:8]}.jsonl")
        path.replace(kept)
        log.warning("the registry holds no decision, data/ledger.jsonl did: kept as data/%s", kept.name)


def export(chain: Chain, root: Path) -> None:
    """Write the entries that count to data/ledger.jsonl, one signed text a line: evidence outside of the registry."""
    lines = "".join(decision.text() + "\n" for _, decision in chain.entries)
    files.write_text(root / EXPORT, lines)


def exported(root: Path) -> list[str]:
    """Return the texts of the last export; bytes that are no UTF-8 stay in them, as something that no entry holds."""
    path = root / EXPORT
    return texts(path.read_bytes()) if path.is_file() else []


def texts(export: bytes) -> list[str]:
    """Return the lines of an export; a reason may hold what Python also takes for the end of one."""
    text = export.decode("utf-8", errors="surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []
