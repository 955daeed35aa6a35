"""Audit from the alias back to the raw images, link by link: what a signature proves, and every gap."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from steps.errors import RegistryError, RequestError
from steps.promotion import release
from steps.promotion.dvc_cache import damaged, is_whole, listing, missing, place_of
from steps.promotion.evidence import Evidence, gather
from steps.registry import circumstances, ledger, package_loading
from steps.registry.chain import differences, silences
from steps.registry.model_registry import CHAMPION, Registry
from steps.registry.tracking import LINEAGE
from steps.runtime import files

CARD = "card.json"  # of a backbone; `backbones.models`, which owns it, loads torch


@dataclass(frozen=True)
class Link:
    """One link of the chain: its name, what was found, whether a signature proves it, and what is missing.

    `contradictions`: where a record differs from what was signed.
    """

    what: str
    found: str
    gaps: tuple[str, ...] = ()
    signed: bool = False
    contradictions: tuple[str, ...] = ()


def audit(root: Path, version: str | None, store: Path, verify: bool = False) -> tuple[str, list[Link]]:
    """Return the version (default: the champion) and the chain behind it; `store` is the folder of DVC's cache.

    `verify`: all that it holds of the version's data is hashed again. Raises RequestError if there is no such version.
    """
    registry = Registry(root)
    chain = ledger.read(registry)
    version = version or chain.champion or registry.alias(CHAMPION)
    if version is None:
        raise RequestError(f"{registry.name} has no champion to audit; `regraft run` makes one, or name a version")
    with tempfile.TemporaryDirectory() as scratch:
        held = gather(registry, chain, version, Path(scratch))
        return version, [
            *_registry(registry, held),
            *_run(held),
            *_data(held, store),
            *(_hashed(held, store) if verify else ()),
        ]


def tampered(root: Path, version: str) -> tuple[list[str], list[str]]:
    """Return the faults of the ledger, its export, and the packages of `version` and of every version in the ledger.

    The export is read from the workspace and from git's last commit. The second list holds what could not be checked.
    """
    chain, faults = release.history(root)
    registry = Registry(root)
    held = ledger.exported(root, registry.name) if (root / ledger.EXPORT).is_file() else None
    emptied, silent = silences(chain, held)
    committed = differences(chain, ledger.committed(registry))
    faults += [*emptied, *(f"{difference} (the export as committed)" for difference in committed)]
    for number in sorted({version, *(decision.version for _, decision in chain.entries)}, key=int):
        try:
            package_loading.verify(registry, number, chain.package_of(number))
        except RegistryError as error:
            faults.append(str(error))
    return faults, silent


def _registry(registry: Registry, held: Evidence) -> Iterator[Link]:
    alias, whole = registry.alias(CHAMPION), not held.chain.faults
    stray = alias != held.chain.champion
    text = f"champion is {_version(held.chain.champion)}"
    moved = (f"the alias points to {_version(alias)}, the ledger says otherwise",) if stray else ()
    yield Link("alias", text, moved, signed=whole)

    about = [(n, decision) for n, decision in held.chain.entries if decision.version == held.version]
    if about:
        number, last = about[-1]
        text = f"entry {number}: {last.kind}, by {last.by}, {last.at}: {'; '.join(last.reasons)}"
        yield Link("decision", text, signed=whole)
    else:
        yield Link("decision", "none", (f"no entry of the ledger is about version {held.version}",))

    digest = held.tags.get(LINEAGE)
    lost = [] if registry.has(held.version) else ["its files are gone"]
    lost += [] if digest else ["it carries no digest: regraft did not register it"]
    lost += [f"nothing below is proven: {held.doubt}"] if held.doubt and not lost else []
    text = f"{held.version} of {held.name} ({held.tags.get('kind', '?')}), digest {digest}"
    yield Link("version", text, tuple(lost), signed=held.proof is not None)


def _version(number: str | None) -> str:
    return f"version {number}" if number else "nothing"


def _run(held: Evidence) -> Iterator[Link]:
    if held.run is None and held.around is None:
        yield Link("run", "none", ("the run that made it is gone, and with it all that follows",))
        return
    yield _made(held)
    yield _commit(held)
    lineage, proven = held.lineage(), held.lineage_is_proven()
    there = "lineage.json" in held.told
    lost = () if there else ("lineage.json is not among the run's files",)
    spoilt = ("the run's lineage.json is not what regraft writes: it was changed",) if there and not lineage else ()
    digest = held.proof.facts.lineage if held.proof else held.run.data.tags.get(LINEAGE)
    yield Link("lineage", f"digest {digest}", lost, held.proof is not None, spoilt)
    changed = ("the run's lineage.json is not what the signed digest was made of",) if proven is False else ()
    if lineage:
        yield Link("code", f"digest {lineage['code']}", signed=bool(proven), contradictions=changed)
    gaps = () if circumstances.PARAMS in held.kept else ("params.yaml is not among the run's files",)
    values = ", ".join(f"{name}: {value}" for name, value in lineage["params"].items()) if lineage else "unknown"
    yield Link("params", values, gaps, signed=bool(proven), contradictions=changed)


def _made(held: Evidence) -> Link:
    """Describe the run: when, where and by whom, and whether its record still matches what was signed."""
    made, by = held.circumstance(circumstances.HARDWARE), held.circumstance(circumstances.BY)
    gaps = [] if made else ["it does not say where and by whom it was made (an older regraft)"]
    if held.proof and held.around is None:
        gaps.append("it was registered before regraft signed its circumstances: nothing proves what the run keeps")
    run = held.circumstance(circumstances.PREFECT)
    prefect = f", Prefect run {run}" if run else ""
    if held.run is None:
        return Link("run", f"gone; registered by {by}, {made}{prefect}", tuple(gaps), signed=True)
    text = f"{held.run.info.run_id} of stage {held.run.data.tags.get('stage')}"
    at = _moment(held.run.info.start_time)
    if held.around and held.around["run_is_older"]:
        text = f"{text}, {at}; registered later by {by}, {made}{prefect}"
    else:
        text = f"{text}, by {by or '?'}, {at}, {made}{prefect}"
    return Link("run", text, tuple(gaps), held.around is not None, tuple(held.contradictions()))


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _commit(held: Evidence) -> Link:
    commit, signed = held.circumstance(circumstances.COMMIT), held.around is not None
    if not commit:
        reason = held.circumstance(circumstances.NO_COMMIT) or "the project was in no git commit"
        gap = f"{reason}: nothing restores its code"
        return Link("commit", "none", (gap,), signed=signed)
    absent = circumstances.missing_commit(held.root, commit)
    gaps = [*([absent] if absent else []), *lost_changes(held)]
    state, patch = held.circumstance(circumstances.CHANGES), held.kept.get(circumstances.PATCH)
    dirty = "" if state == circumstances.NONE else ", with uncommitted changes"
    kept = f" ({patch.stat().st_size} bytes kept)" if patch else ""
    return Link("commit", f"{commit}{dirty}{kept}", tuple(gaps), signed=signed)


def lost_changes(held: Evidence) -> list[str]:
    """Return why the uncommitted changes of a version cannot be restored; empty if they can."""
    state = held.circumstance(circumstances.CHANGES)
    if state == circumstances.UNKNOWN:
        return ["whether the tree was clean is unknown: git failed while it was registered"]
    if state != circumstances.NONE and circumstances.PATCH not in held.kept:
        return [f"the tree was dirty and the changes are not kept ({state or 'lost'})"]
    return []


def _data(held: Evidence, store: Path) -> Iterator[Link]:
    if not held.lock():
        yield Link("data", "unknown", ("dvc.lock is not among the run's files: what it read cannot be followed",))
        return
    made, read, signed = held.made(), held.read(), held.around is not None
    yield _disagreements(held, made | read, store)
    for path, digest in sorted(made.items()):
        if path.endswith(".parquet"):
            gaps = tuple(missing(store, held.root, path, digest))
            yield Link("table", f"{path}, digest {digest}", gaps, signed=signed)
    for path, digest in read.items():
        if digest.endswith(".dir"):
            yield _input(held, store, path, digest)


def _hashed(held: Evidence, store: Path) -> Iterator[Link]:
    """Describe the bytes in DVC's cache, hashed again: a link that is not ticked where one differs."""
    if tracked := held.made() | held.read():
        faults = tuple(damaged(store, held.root, tracked))
        text = "" if faults else "all that is there was hashed again, and is what dvc.lock names"
        yield Link("cache", text, signed=held.around is not None and not faults, contradictions=faults)


def _disagreements(held: Evidence, known: dict[str, str], store: Path) -> Link:
    """Compare the inputs in the run's lineage with the bytes that its dvc.lock names: two records of the same thing."""
    gaps, agreed = [], 0
    for path, digest in held.lineage().get("inputs", {}).items():
        cached = place_of(store, known.get(path, ""))
        if path not in known:
            gaps.append(f"{path} was read, and dvc.lock does not know it")
        elif cached.is_file() and not known[path].endswith(".dir"):
            agreed += 1
            if files.sha256_of(cached) != digest:
                gaps.append(f"{path}: lineage and dvc.lock name different bytes")
    if not agreed and not gaps:
        gaps.append("no input could be hashed again: none is in DVC's cache")
    text = f"{agreed} files hashed again, lineage and dvc.lock agree" if not gaps else ""
    return Link("inputs", text, tuple(gaps), signed=bool(held.lineage_is_proven()) and not gaps)


def _input(held: Evidence, store: Path, path: str, digest: str) -> Link:
    gaps, signed = tuple(missing(store, held.root, path, digest)), held.around is not None
    entries = listing(store, digest)
    card = place_of(store, entries.get(CARD, ""))
    if not card.is_file() or not is_whole(card, entries[CARD]):
        return Link("images", f"{path}, digest {digest}, {len(entries)} files", gaps, signed=signed)
    facts = files.read_json(card)
    weights = f"{facts['name']} ({facts['source']}; licence: {facts['licence']}), weights {facts['sha256']}"
    pinned = held.proof.facts.backbone_sha256 if held.proof else None
    contradictions = (f"its card in DVC's cache pins other weights than those that were signed, {pinned}",)
    agrees = pinned == facts["sha256"]
    return Link("backbone", weights, gaps, agrees, () if agrees or held.proof is None else contradictions)


def missing_inputs(held: Evidence, store: Path) -> list[str]:
    """Return what DVC's cache lacks of a replay's input data."""
    folders = {path: digest for path, digest in held.read().items() if digest.endswith(".dir")}
    return [gap for path, digest in folders.items() for gap in missing(store, held.root, path, digest)]
