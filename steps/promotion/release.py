"""Manual decisions about production: approve a proposal, roll back, read the history."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from steps.errors import RequestError
from steps.registry import ledger, package_loading, production
from steps.registry.chain import ADOPT, PROMOTE, PROPOSE, REFUSE, ROLLBACK, Chain, Decision, differences
from steps.registry.model_registry import Registry
from steps.runtime import params


@dataclass(frozen=True)
class Turn:
    """A person's decision: the version that it is about, the champion after it, and the reasons."""

    version: str
    champion: str | None
    reasons: tuple[str, ...]
    question: str = ""


def approve(root: Path, version: str, by: str, reason: str) -> Decision:
    """Make a proposed version champion; return the entry.

    Raises RequestError if the version was not proposed, if it was proposed against another champion, or if the test
    images have been looked at too often to decide anything.
    """

    def target(chain: Chain) -> Turn:
        proposal = _proposal(chain, version)
        _must_decide(root)
        return Turn(version, version, (f"approved: {reason}", *proposal.reasons[1:]), proposal.question)

    return _decide(root, PROMOTE, by, target)


def _must_decide(root: Path) -> None:
    """Refuse if the test images that proved the version may no longer prove anything (promote.look_limit)."""
    if params.read(root)["promote"]["look_limit"] is None:
        return
    from steps.registry import look_ledger  # SciPy is slow to import

    if reason := look_ledger.exhausted(root):
        raise RequestError(reason)


def decline(root: Path, version: str, by: str, reason: str) -> Decision:
    """Refuse a proposed version: the same proposal is not made again. Raises RequestError as `approve` does."""

    def target(chain: Chain) -> Turn:
        proposal = _proposal(chain, version)
        return Turn(version, chain.champion, (f"declined: {reason}", *proposal.reasons[1:]), proposal.question)

    return _decide(root, REFUSE, by, target)


def _proposal(chain: Chain, version: str) -> Decision:
    """Return the proposal that waits for an answer; RequestError if there is none, or if it is stale."""
    about = [decision for _, decision in chain.entries if decision.version == version]
    if not about or about[-1].kind != PROPOSE:
        waiting = proposals(chain)
        state = f"waiting: {', '.join(waiting)}" if waiting else "nothing is"
        raise RequestError(f"version {version} is not waiting for approval ({state})")
    if about[-1].champion != chain.champion:
        raise RequestError(
            f"version {version} was proposed in place of {_named(about[-1].champion)}, but production is now "
            f"{_named(chain.champion)}: `regraft run` compares the two and proposes again if it is better"
        )
    return about[-1]


def rollback(root: Path, to: str | None, by: str, reason: str) -> Decision:
    """Restore an earlier champion (default: the previous one); return the entry.

    Raises RequestError if there is none, or if `to` was never champion.
    """

    def target(chain: Chain) -> Turn:
        held = sorted({d.champion for _, d in chain.entries if d.champion and d.champion != chain.champion}, key=int)
        back = to or chain.before_champion()
        if back is None:
            raise RequestError(f"there is no champion before {_named(chain.champion)} to go back to")
        if back not in held:
            known = ", ".join(held) or "none"
            raise RequestError(f"version {back} was never champion, or is now; earlier champions: {known}")
        return Turn(back, back, (reason,))

    return _decide(root, ROLLBACK, by, target)


def adopt(root: Path, version: str, by: str, reason: str) -> Decision:
    """Make a version champion where none can be compared with it, because a person says so; return the entry.

    That is so if the ledger holds no decision (an older project, another registry, an emptied ledger), or if its
    champion is lost. Raises RequestError otherwise: then a gate or an earlier decision counts.
    """
    registry = Registry(root)
    if not ledger.read(registry).slots:
        why = ledger.emptied(registry).partition(":")[0]
        if not why:
            raise RequestError(f"{registry.name} has no champion yet: `regraft run` makes one, or says why not")
        package = _proven(registry, Chain((), (), (), True), version)
        before = ledger.begin(registry, version, (reason, why), by, package)
        return _carried_out(registry, before, ADOPT)

    def target(chain: Chain) -> Turn:
        why = production.lost(registry, chain)
        if not why:
            stands = f"the champion is {_named(chain.champion)}, and nothing is lost"
            raise RequestError(f"{stands}: `regraft run` decides, `regraft rollback --reason TEXT` goes back")
        return Turn(version, version, (reason, why.partition(";")[0]))

    return _decide(root, ADOPT, by, target)


def _decide(root: Path, kind: str, by: str, target: Callable[[Chain], Turn]) -> Decision:
    registry = Registry(root)
    ledger.reconcile(registry)
    for before in ledger.attempts(registry):
        turn = target(before)
        package = _proven(registry, before, turn.version)
        if ledger.append(
            registry, before, kind, turn.version, turn.champion, turn.reasons, turn.question, by=by, package=package
        ):
            break
    return _carried_out(registry, before, kind)


def _carried_out(registry: Registry, before: Chain, kind: str) -> Decision:
    """Let alias, export and tags follow the decision that was made after `before`; return it."""
    chain = ledger.restore_alias(registry, before)
    ledger.export(chain, registry.root)
    made = next(d for _, d in chain.entries if d.predecessor == before.head)  # others may have decided since
    registry.tag_verdict(made.version, kind, made.reasons, made.previous)
    return made


def _proven(registry: Registry, chain: Chain, version: str) -> str:
    """Return the digest of a version's package; checks that it exists, is as signed, and is the one decided on."""
    if not registry.has(version):
        raise RequestError(f"version {version} of {registry.name} is no longer in the registry, or its files are gone")
    return package_loading.verify(registry, version, chain.package_of(version))


def history(root: Path) -> tuple[Chain, list[str]]:
    """Return the verified ledger and all its faults, including differences from the last export."""
    registry = Registry(root)
    chain = ledger.read(registry)
    return chain, [*chain.faults, *differences(chain, ledger.exported(root, registry.name))]


def moment(text: str) -> datetime:
    """Parse a point in time (ISO 8601, UTC if it names no zone; a date alone means its end)."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(f"{text!r} is no point in time; for instance 2026-11-01 or 2026-11-01T08:30+01:00") from None
    if len(text) == len("2026-11-01"):
        parsed = parsed.replace(hour=23, minute=59, second=59, microsecond=999999)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def proposals(chain: Chain) -> list[str]:
    """Return the versions that wait for approval to replace the present champion."""
    last = {decision.version: decision for _, decision in chain.entries}
    return [v for v, d in last.items() if d.kind == PROPOSE and d.champion == chain.champion]


def _named(champion: str | None) -> str:
    return f"version {champion}" if champion else "no champion"
