"""`regraft history`: the ledger as text and as JSON."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from steps.promotion import release
from steps.registry.chain import Chain


@dataclass(frozen=True)
class History:
    """The ledger and its faults; with `at`, what was in production then."""

    chain: Chain
    faults: list[str]
    at: datetime | None

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        if self.at is not None:
            then = self.chain.at(self.at)
            return {"at": self.at.isoformat(), "champion": then.champion if then else None, "faults": self.faults}
        entries = [{"entry": number, **vars(decision)} for number, decision in self.chain.entries]
        return {"champion": self.chain.champion, "entries": entries, "void": self.chain.void, "faults": self.faults}

    def lines(self) -> list[str]:
        """Return text for a person, oldest entry first; with `at`, one line about that moment."""
        problems = [f"tampered with: {fault}" for fault in self.faults]
        if self.at:
            then = self.chain.at(self.at)
            what = f"version {then.champion} (since entry of {then.at})" if then and then.champion else "nothing"
            return [*problems, f"in production at {self.at.isoformat()}: {what}"]
        if not self.chain.entries:
            return [*problems, "no decision yet: `regraft run` makes the first"]
        lines = []
        for number, decision in self.chain.entries:
            champion = f"champion {decision.champion}" if decision.champion else "no champion"
            lines.append(
                f"{number:>4}  {decision.at[:19]}Z  {decision.kind:<8} version {decision.version:<4} {champion}, "
                f"by {decision.by}"
            )
            lines += [f"      {reason}" for reason in decision.reasons]
        return [*lines, *problems]


def history(root: Path, at: str | None) -> History:
    """Read the ledger; `at` is a point in time as `release.moment` reads it."""
    chain, faults = release.history(root)
    return History(chain, faults, release.moment(at) if at else None)
