"""Audit: from the alias back to the raw images, link by link, with every gap named."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps import release
from steps.adapters import circumstances, files, ledger, packages, params, registry, tracking
from steps.adapters.tracking import LINEAGE
from steps.core.ledger import Chain
from steps.errors import RegistryError, RequestError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CARD = "card.json"  # of a backbone; its owner `adapters.models` loads torch


@dataclass(frozen=True)
class Link:
    """One link of the chain: what it is, what was found, and what is missing there."""

    what: str
    found: str
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What the registry and the run hold about one version; `kept` are the run's files by name."""

    root: Path
    chain: Chain
    name: str
    version: str
    tags: dict[str, str]
    run: Any
    kept: dict[str, Path]

    def lineage(self) -> dict[str, Any]:
        """Return the run's identity: stage, code, params and inputs; empty where it is lost."""
        return dict(files.read_json(self.kept["lineage.json"])) if "lineage.json" in self.kept else {}

    def lock(self) -> dict[str, Any]:
        """Return the stages of the run's dvc.lock; empty where it is lost."""
        if circumstances.LOCK not in self.kept:
            return {}
        return dict(files.read_yaml(self.kept[circumstances.LOCK])["stages"])

    def read(self) -> dict[str, str]:
        """Return the data that the run read from outside of the graph: path -> digest of DVC."""
        made = self.made()
        deps = {dep["path"]: dep["md5"] for stage in self.lock().values() for dep in stage["deps"]}
        return {p: digest for p, digest in sorted(deps.items()) if p.startswith("data/") and p not in made}

    def made(self) -> dict[str, str]:
        """Return what the run's stages made: path -> digest of DVC."""
        return {out["path"]: out["md5"] for stage in self.lock().values() for out in stage.get("outs", ())}


def audit(root: Path, version: str | None, store: Path) -> tuple[str, list[Link]]:
    """Return the version (default: the champion) and the chain behind it; `store` is the folder of DVC's cache.

    Raises RequestError where there is no such version.
    """
    mlflow, name = tracking.client(), str(params.read(root)["register"]["model_name"])
    chain = ledger.read(mlflow, name)
    version = version or chain.champion or registry.alias_version(mlflow, name, registry.CHAMPION)
    if version is None:
        raise RequestError(f"{name} has no champion to audit; `regraft run` makes one, or name a version")
    with tempfile.TemporaryDirectory() as scratch:
        held = gather(mlflow, root, chain, name, version, Path(scratch))
        return version, [*_registry(mlflow, held), *_run(held), *_data(held, store)]


def tampered(root: Path, version: str) -> list[str]:
    """Return what is wrong with the ledger, its export, and the packages of every version that they or you name."""
    chain, faults = release.history(root)
    mlflow, name = tracking.client(), str(params.read(root)["register"]["model_name"])
    for number in sorted({version, *(decision.version for _, decision in chain.entries)}, key=int):
        try:
            packages.verify(mlflow, name, number)
        except RegistryError as error:
            faults.append(str(error))
    return faults


def gather(mlflow: "MlflowClient", root: Path, chain: Chain, name: str, version: str, folder: Path) -> Evidence:
    """Collect what is known of a version, the run's files copied into `folder`; RequestError where it is unknown."""
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow.get_model_version(name, version)
    except MlflowException:
        raise RequestError(f"{name} has no version {version}") from None
    try:
        run = mlflow.get_run(found.run_id)
    except MlflowException:
        return Evidence(root, chain, name, version, dict(found.tags), None, {})
    return Evidence(root, chain, name, version, dict(found.tags), run, tracking.fetch(mlflow, found.run_id, folder))


def _registry(mlflow: "MlflowClient", held: Evidence) -> Iterator[Link]:
    alias = registry.alias_version(mlflow, held.name, registry.CHAMPION)
    stray = alias != held.chain.champion
    told = f"champion is {_version(held.chain.champion)}"
    yield Link("alias", told, (f"the alias points to {_version(alias)}, the ledger says otherwise",) if stray else ())

    about = [(n, decision) for n, decision in held.chain.entries if decision.version == held.version]
    if about:
        number, last = about[-1]
        yield Link("decision", f"entry {number}: {last.kind}, by {last.by}, {last.at}: {'; '.join(last.reasons)}")
    else:
        yield Link("decision", "none", (f"no entry of the ledger is about version {held.version}",))

    digest = held.tags.get(LINEAGE)
    lost = [] if registry.has_version(mlflow, held.name, held.version) else ["its files are gone"]
    lost += [] if digest else ["it carries no digest: regraft did not register it"]
    yield Link("version", f"{held.version} of {held.name} ({held.tags.get('kind', '?')}), digest {digest}", tuple(lost))


def _version(number: str | None) -> str:
    return f"version {number}" if number else "nothing"


def _run(held: Evidence) -> Iterator[Link]:
    if held.run is None:
        yield Link("run", "none", ("the run that made it is gone, and with it all that follows",))
        return
    tags = held.run.data.tags
    made = tags.get(circumstances.HARDWARE, "")
    gaps = [] if made else ["it does not say where and by whom it was made (an older regraft)"]
    prefect = f", Prefect run {tags[circumstances.PREFECT]}" if circumstances.PREFECT in tags else ""
    by = tags.get(circumstances.BY, "?")
    at = _moment(held.run.info.start_time)
    told = f"{held.run.info.run_id} of stage {tags.get('stage')}, by {by}, {at}, {made}{prefect}"
    yield Link("run", told, tuple(gaps))
    yield _commit(held, tags)
    lineage = held.lineage()
    lost = () if lineage else ("lineage.json is not among the run's files",)
    yield Link("lineage", f"digest {tags.get(LINEAGE)}", lost)
    if lineage:
        yield Link("code", f"digest {lineage['code']}")
    yield _params(held, lineage)


def _moment(milliseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _commit(held: Evidence, tags: dict[str, str]) -> Link:
    commit, state = tags.get(circumstances.COMMIT), tags.get(circumstances.CHANGES)
    if not commit:
        return Link("commit", "none", ("the project was in no git commit: nothing restores its code",))
    gaps = []
    if not circumstances.has_commit(held.root, commit):
        gaps.append(f"commit {commit[:12]} is not in this repository: fetch it")
    if state != circumstances.NONE and circumstances.PATCH not in held.kept:
        gaps.append(f"the tree was dirty and the changes are not kept ({state or 'lost'})")
    dirty = "" if state == circumstances.NONE else ", with uncommitted changes"
    kept = f" ({held.kept[circumstances.PATCH].stat().st_size} bytes kept)" if circumstances.PATCH in held.kept else ""
    return Link("commit", f"{commit}{dirty}{kept}", tuple(gaps))


def _params(held: Evidence, lineage: dict[str, Any]) -> Link:
    gaps = () if circumstances.PARAMS in held.kept else ("params.yaml is not among the run's files",)
    if not lineage:
        return Link("params", "unknown", gaps)
    told = ", ".join(f"{name}: {value}" for name, value in lineage["params"].items())
    return Link("params", told, gaps)


def _data(held: Evidence, store: Path) -> Iterator[Link]:
    if not held.lock():
        yield Link("data", "unknown", ("dvc.lock is not among the run's files: what it read cannot be followed",))
        return
    made, read = held.made(), held.read()
    yield _disagreements(held, made | read, store)
    for path, digest in sorted(made.items()):
        if path.endswith(".parquet"):
            yield Link("table", f"{path}, digest {digest}", tuple(_missing(store, held.root, path, digest)))
    for path, digest in read.items():
        if digest.endswith(".dir"):
            yield _input(held, store, path, digest)


def _disagreements(held: Evidence, known: dict[str, str], store: Path) -> Link:
    """Hold the inputs of the run's lineage against the bytes that its dvc.lock names: two accounts of one thing."""
    gaps, agreed = [], 0
    for path, digest in held.lineage().get("inputs", {}).items():
        place = place_of(store, known.get(path, ""))
        if path not in known:
            gaps.append(f"{path} was read, and dvc.lock does not know it")
        elif place.is_file() and not known[path].endswith(".dir"):
            agreed += 1
            if files.sha256_of(place) != digest:
                gaps.append(f"{path}: lineage and dvc.lock name different bytes")
    if not agreed and not gaps:
        gaps.append("no input could be hashed again: none is in DVC's cache")
    return Link("inputs", f"{agreed} files hashed again, lineage and dvc.lock agree" if not gaps else "", tuple(gaps))


def _input(held: Evidence, store: Path, path: str, digest: str) -> Link:
    gaps = tuple(_missing(store, held.root, path, digest))
    listed = place_of(store, digest)
    entries = {e["relpath"]: e["md5"] for e in files.read_json(listed)} if listed.is_file() else {}
    card = place_of(store, entries.get(CARD, ""))
    if not card.is_file():
        return Link("images", f"{path}, digest {digest}, {len(entries)} files", gaps)
    told = files.read_json(card)
    weights = f"{told['name']} ({told['source']}; licence: {told['licence']}), weights {told['sha256']}"
    return Link("backbone", weights, gaps)


def missing_inputs(held: Evidence, store: Path) -> list[str]:
    """Return what DVC's cache lacks of the data that a replay begins with."""
    folders = {path: digest for path, digest in held.read().items() if digest.endswith(".dir")}
    return [gap for path, digest in folders.items() for gap in _missing(store, held.root, path, digest)]


def place_of(store: Path, digest: str) -> Path:
    """Return where DVC's cache keeps the bytes of a digest."""
    return store / "files" / "md5" / digest[:2] / digest[2:]


def _missing(store: Path, root: Path, path: str, digest: str) -> Iterator[str]:
    """Yield what of a tracked file or folder DVC's cache lacks; whether the project's folder has it is said, too."""
    listed = place_of(store, digest)
    if not listed.is_file():
        here = f"{path} in the workspace may be another" if (root / path).exists() else "nor in the workspace"
        yield f"{path} is not in DVC's cache ({here}); `dvc fetch` where it was pushed"
    elif digest.endswith(".dir"):
        entries = files.read_json(listed)
        gone = [entry["relpath"] for entry in entries if not place_of(store, entry["md5"]).is_file()]
        if gone:
            shown = ", ".join(f"{path}/{name}" for name in gone[:3])
            yield f"{len(gone)} of {len(entries)} files are not in DVC's cache: {shown}{' ...' if gone[3:] else ''}"
