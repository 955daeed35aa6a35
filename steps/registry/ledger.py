"""The ledger in MLflow: versions of a registered model `NAME.ledger`, numbered by MLflow, one decision each.

MLflow numbers a model's versions consecutively and never reuses a number, on every backend and over HTTP, whereas an
alias belongs to its last writer. So a decision takes the next number, and the alias `champion` is a projection of the
last entry that any later command repairs. One registered model keeps MLflow's list of models tidy; an experiment per
decision would not.
"""

import getpass
import logging
import random
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from steps.errors import RegistryError
from steps.registry import circumstances, signing
from steps.registry.chain import ADOPT, RESTORE, Chain, Decision, Slot, differences, parse, walk
from steps.registry.model_registry import CHAMPION, Registry
from steps.runtime import files

log = logging.getLogger("regraft")
TEXT, SIGNATURE, APPLIED = "regraft.decision", "regraft.signature", "regraft.applied"
EXPORT = Path("data/ledger.jsonl")
MARKS = Path(".regraft/ledger")  # for each model the last signed entry that was read here: it has to stay
DESCRIPTION = "Every decision about who is champion; signed, append-only."
PATIENCE = 30  # seconds that an alias must differ before it counts as moved by hand
ATTEMPTS = 100  # consecutive lost races before giving up
RACES = ("UNIQUE constraint", "duplicate key", "database is locked", "deadlock detected", "Giving up after")


def of(registry: Registry) -> Registry:
    """Return the registered model that holds the ledger of a model."""
    return registry.named(f"{registry.name}.ledger")


def read(registry: Registry, since: Chain | None = None) -> Chain:
    """Read and verify the ledger of a model; an empty chain if there is none.

    With `since`, a chain read earlier, only its last entry and later ones are requested; if nothing is new, `since`
    itself is returned, and nothing is read or hashed again. An entry that was read here earlier and is gone is a fault.
    """
    mark = marked(registry)  # before the ledger: what others note meanwhile is newer than this answer
    known = since.slots if since and since.entries else ()
    first = since.last_number if since and since.entries else 1
    fresh = sorted(slots(of(registry), first)[0], key=lambda slot: slot.number)
    if since and known and fresh == [slot for slot in known if slot.number >= first]:
        return since
    chain = walk([*(slot for slot in known if slot.number < first), *fresh], signing.verifier(), registry.name)
    return _noted(registry, chain, mark)


def marked(registry: Registry) -> Slot | None:
    """Return the last entry of this model's ledger that was read in this project, whatever the registry holds now."""
    path = _mark(registry)
    try:
        return Slot(**files.read_json(path)) if path.is_file() else None
    except (ValueError, TypeError) as error:
        raise RegistryError(f"{path} is damaged ({error}): restore it from a backup, or move it away") from None


def _noted(registry: Registry, chain: Chain, mark: Slot | None) -> Chain:
    """Note a ledger's last entry, so that nobody can cut it off later; a fault if the entry noted before is gone."""
    if mark and not any((slot.number, slot.text) == (mark.number, mark.text) for slot in chain.slots):
        gone = f"entry {mark.number} was read here before, and is gone: its end was cut off, or this is another ledger"
        return replace(chain, faults=(*chain.faults, f"{gone} ({_mark(registry)} holds it)"))
    if chain.entries and not chain.faults and (mark is None or mark.number < chain.last_number):
        last = next(slot for slot in chain.slots if slot.number == chain.last_number)
        with suppress(OSError):  # a read-only project: what its data/ledger.jsonl holds has to do
            files.write_json(_mark(registry), replace(last, applied=False))
    return chain


def _mark(registry: Registry) -> Path:
    return registry.root / MARKS / f"{registry.name}.json"


def slots(ledger: Registry, first: int = 1) -> tuple[list[Slot], dict[int, dict[str, str]]]:
    """Return the slots of a ledger from number `first` on, and the tags of each.

    Raises RegistryError if the ledger exists but may not be read: MLflow's search then returns nothing, which must not
    pass for an empty ledger.
    """
    clause = f"name = '{ledger.name}' and version_number >= {first}"
    slots, tags, token = [], {}, None
    while True:
        page = ledger.client.search_model_versions(clause, max_results=1000, page_token=token)
        for v in page:
            tags[int(v.version)] = dict(v.tags)
            slots.append(Slot(int(v.version), v.tags.get(TEXT, ""), v.tags.get(SIGNATURE, ""), APPLIED in v.tags))
        token = page.token
        if not token:
            break
    if not slots:
        ledger.model()
    return slots, tags


def take(
    ledger: Registry, description: str, source: str, text: str, tags: Mapping[str, str] = MappingProxyType({})
) -> int | None:
    """Sign a text and take the next slot of a ledger with it; return its number, or None if another was first."""
    ledger.ensure(description)
    tags = {TEXT: text, SIGNATURE: signing.sign(text), **tags}
    try:
        return int(ledger.client.create_model_version(ledger.name, source, tags=tags).version)
    except RegistryError as error:
        _wait_after_race(error)
        return None


def whole(chain: Chain, exported: Sequence[str] = ()) -> Chain:
    """Return the chain if it has no faults; otherwise RegistryError names all of them."""
    faults = [*chain.faults, *differences(chain, exported)]
    if faults and not chain.slots:
        raise RegistryError(
            f"the ledger of decisions is empty, and was not: {'; '.join(faults)}. Nothing is decided or served until a "
            "person says which version is in production: `regraft adopt VERSION --reason TEXT`"
        )
    if faults:
        raise RegistryError(
            "the ledger of decisions was tampered with:\n  "
            + "\n  ".join(faults)
            + f"\nNothing will be decided until this is resolved. If {EXPORT} was exported from another registry, "
            "move it away."
        )
    return chain


def package_of(registry: Registry, version: str) -> str | None:
    """Return the digest of a version's package from the first decision about it; None if no entry holds one.

    Raises RegistryError if the ledger was tampered with.
    """
    return whole(read(registry)).package_of(version)


def append(
    registry: Registry,
    chain: Chain,
    kind: str,
    version: str,
    champion: str | None,
    reasons: Sequence[str],
    question: str = "",
    by: str = "",
    package: str | None = None,
) -> bool:
    """Sign a decision that follows `chain` and take the next slot; return whether it counts (False: another was first).

    `package`: the verified digest of the version's package; default: the digest in an earlier entry.
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
        model=registry.name,
        ledger=chain.ledger or secrets.token_hex(16),
    )
    number = take(of(registry), DESCRIPTION, f"models:/{registry.name}/{version}", decision.text())
    return number is not None and any(slot == number for slot, _ in read(registry, chain).entries)


def _wait_after_race(error: RegistryError) -> None:
    """Wait a moment if a database reports concurrent writers; raise every other error.

    MLflow turns all database errors into one type, so only the message tells them apart: the full message, not only the
    line shown to the user.
    """
    if not any(word in f"{error} {error.__context__}" for word in RACES):
        raise error
    time.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - so that the writers do not collide again


def attempts(registry: Registry) -> Iterator[Chain]:
    """Yield the present chain to decide on; after each lost race, yield it again with the winner's entry.

    The caller appends at most one entry per chain and leaves the loop once it counts or there is nothing to decide;
    `restore_alias` then moves the alias.
    """
    chain = restore_alias(registry)
    for _ in range(ATTEMPTS):
        yield chain
        chain = whole(read(registry, chain))
    raise RegistryError(f"{ATTEMPTS} decisions about {registry.name} came first, one after another; run again")


def restore_alias(registry: Registry, chain: Chain | None = None) -> Chain:
    """Restore the alias `champion` to the last entry, whether it was moved or a kill prevented its move.

    Reading again after setting ensures that the last writer has seen the last entry. An alias that had followed its
    entry and now points elsewhere was moved by hand: that is recorded as an entry of its own.
    """
    while True:
        chain = _begun(registry, read(registry, chain))
        if not chain.entries:
            return chain
        alias = registry.alias(CHAMPION)
        if chain.applied and (alias == chain.champion or _deleted(registry, alias, chain)):
            return chain
        if chain.applied and not _is_still(registry, alias, chain):
            continue
        if chain.applied:
            stood = f"version {alias}" if alias else "nothing"
            reason = f"the alias champion stood on {stood}, moved by hand or by a run that was killed; set back"
            append(registry, chain, RESTORE, chain.champion or str(alias), chain.champion, [reason])
        else:
            _follow(registry, chain, alias)


def _deleted(registry: Registry, alias: str | None, chain: Chain) -> bool:
    """Return whether the champion was deleted in MLflow, and its alias with it: there is nothing to restore."""
    return alias is None and registry.version(str(chain.champion)) is None


def _follow(registry: Registry, chain: Chain, alias: str | None) -> None:
    """Set the alias, and repeat while others decide: our slow write must not undo a faster one of theirs.

    A write is retried here while the database is busy: an old alias left behind would look like one moved by hand, to
    other processes and to this one.
    """
    ledger = of(registry)
    for _ in range(ATTEMPTS):
        try:
            if alias != chain.champion and not _deleted(registry, alias, chain):
                registry.point(CHAMPION, chain.champion)
            now = read(registry, chain)
            if now.head == chain.head:
                ledger.client.set_model_version_tag(ledger.name, str(now.last_number), APPLIED, "yes")
                return
            chain, alias = now, None
        except RegistryError as error:
            _wait_after_race(error)
    raise RegistryError(f"the alias {CHAMPION} could not be set: the registry was busy {ATTEMPTS} times; run again")


def _begun(registry: Registry, chain: Chain) -> Chain:
    """Return a chain that is whole, and empty only if nothing says that it ever held a decision."""
    if not chain.slots and (sentence := emptied(registry)):
        raise RegistryError(sentence)
    return whole(chain, exported(registry.root, registry.name) if chain.entries else ())


def emptied(registry: Registry) -> str:
    """Return why a ledger without entries is no new one, and the way on; "" if it is new, or has entries.

    What speaks against a new one is asked first: another process may make the first decision meanwhile.
    """
    evidence = list(_evidence(registry))
    if not evidence or read(registry).slots:
        return ""
    version = _last_known(registry)
    command = f"`regraft adopt {version or 'VERSION'} --reason TEXT`"
    return (
        f"the ledger of {registry.name} holds no decision, but {', and '.join(evidence)}: it was emptied, or this is "
        "another registry. Nothing is decided until a person says which version is in production: "
        f"{command if version else f'`regraft run` registers the models, then {command}'}"
    )


def _last_known(registry: Registry) -> str | None:
    """Return the version that holds the last champion's package by the export or the entry noted here.

    If nothing names one, the version of the alias or the newest, for a person to judge; None if there is no version.
    """
    mark = marked(registry)
    lines = exported(registry.root, registry.name) or committed(registry) or ([mark.text] if mark else [])
    with suppress(ValueError):
        entries = tuple(enumerate(map(parse, lines), 1))
        package = Chain(entries, (), (), True).package_of(entries[-1][1].champion) if entries else None
        if package and (version := registry.find(package)):
            return version
    alias = registry.alias(CHAMPION)
    return alias if alias and registry.has(alias) else registry.newest()


def _evidence(registry: Registry) -> Iterator[str]:
    """Yield what says that there was a champion, outside of the ledger."""
    if mark := marked(registry):
        yield f"its entry {mark.number} was read here before ({MARKS}/{registry.name}.json)"
    if lines := exported(registry.root, registry.name):
        yield f"{EXPORT} holds {len(lines)}"
    elif lines := committed(registry):
        yield f"{EXPORT} as committed holds {len(lines)}"
    if judged := registry.judged():
        yield f"{len(judged)} of its versions carry a verdict"
    if alias := registry.alias(CHAMPION):
        yield f"the alias {CHAMPION}, which nobody signs, stands on version {alias}"


def begin(registry: Registry, version: str, reasons: Sequence[str], by: str, package: str) -> Chain:
    """Begin an empty ledger with the champion that a person names; return the empty chain that it follows.

    What was noted here of another ledger no longer counts; an export of it is kept under another name. Raises
    RegistryError if another decision came first.
    """
    _mark(registry).unlink(missing_ok=True)
    chain = read(registry)
    if chain.slots or not append(registry, chain, ADOPT, version, version, reasons, by=by, package=package):
        raise RegistryError(f"another decision about {registry.name} came first; see `regraft history`")
    _set_aside(registry.root)
    return chain


def _set_aside(root: Path) -> None:
    """Keep an export of another ledger under another name."""
    path = root / EXPORT
    if path.is_file():
        kept = path.with_name(f"ledger-{files.sha256_of(path)[:8]}.jsonl")
        path.replace(kept)
        log.warning("%s held another ledger: kept as data/%s", EXPORT, kept.name)


def _is_still(registry: Registry, alias: str | None, chain: Chain) -> bool:
    """Poll the alias: give a slow process time to finish before calling it tampering."""
    for _ in range(PATIENCE):
        time.sleep(1)
        if registry.alias(CHAMPION) != alias or read(registry, chain).head != chain.head:
            return False
    return True


def reconcile(registry: Registry) -> None:
    """Compare the ledger with its last export, and with what was read here before, before anything is decided.

    Raises RegistryError if an entry is changed or gone, or if a ledger without entries is not a new one.
    """
    of(registry).ensure(DESCRIPTION)
    _begun(registry, read(registry))


def export(chain: Chain, root: Path) -> None:
    """Write the entries that count to data/ledger.jsonl, one signed text per line: evidence outside of the registry.

    An export of another model's ledger is kept under another name.
    """
    lines = [decision.text() for _, decision in chain.entries]
    if lines and exported(root) and not exported(root, chain.entries[-1][1].model):
        _set_aside(root)
    files.write_text(root / EXPORT, "".join(f"{line}\n" for line in lines))


def exported(root: Path, model: str | None = None) -> list[str]:
    """Return the texts of the last export; none if it is another model's (None: whichever it is).

    Invalid UTF-8 is kept as surrogates, which match no entry.
    """
    path = root / EXPORT
    return _of_model(texts(path.read_bytes()), model) if path.is_file() else []


def committed(registry: Registry) -> list[str]:
    """Return the texts of the export in git's last commit; none if it is another model's."""
    return _of_model(texts(circumstances.committed(registry.root, EXPORT) or b""), registry.name)


def _of_model(lines: list[str], model: str | None) -> list[str]:
    """Return the lines of an export, or none if they were signed for another model; older ones name none."""
    with suppress(ValueError):
        if model and lines and parse(lines[-1]).model not in (None, model):
            return []
    return lines


def texts(export: bytes) -> list[str]:
    """Return the lines of an export, split at newlines only: a reason may hold other line separators of Python's."""
    text = export.decode("utf-8", errors="surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []
