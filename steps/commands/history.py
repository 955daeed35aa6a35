"""The ledger as people and programs read it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from steps.registry.chain import Chain


def plain(chain: Chain, faults: Sequence[str], at: datetime | None) -> dict[str, Any]:
    """Return the ledger as JSON values; with `at`, what was in production then."""
    entries = [{"entry": number, **vars(decision)} for number, decision in chain.entries]
    found = {"champion": chain.champion, "entries": entries, "void": chain.void, "faults": list(faults)}
    if at is None:
        return found
    then = chain.at(at)
    return {"at": at.isoformat(), "champion": then.champion if then else None, "faults": list(faults)}


def lines(chain: Chain, faults: Sequence[str], at: datetime | None) -> list[str]:
    """Return the ledger as lines of text, oldest first; with `at`, one line about that moment."""
    problems = [f"tampered with: {fault}" for fault in faults]
    if at:
        then = chain.at(at)
        what = f"version {then.champion} (since entry of {then.at})" if then and then.champion else "nothing"
        return [*problems, f"in production at {at.isoformat()}: {what}"]
    if not chain.entries:
        return [*problems, "no decision yet: `regraft run` makes the first"]
    told = []
    for number, decision in chain.entries:
        champion = f"champion {decision.champion}" if decision.champion else "no champion"
        told.append(
            f"{number:>4}  {decision.at[:19]}Z  {decision.kind:<8} version {decision.version:<4} {champion}, "
            f"by {decision.by}"
        )
        told += [f"      {reason}" for reason in decision.reasons]
    return [*told, *problems]
