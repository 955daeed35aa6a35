"""`regraft audit`: the chain from alias to raw images as text and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steps.promotion import links as chain
from steps.promotion.links import Link


@dataclass(frozen=True)
class Audit:
    """The links behind a version; `faults` if the ledger or a package was tampered with (None: not checked).

    `silent`: what could not be checked.
    """

    version: str
    links: list[Link]
    faults: list[str] | None
    silent: Sequence[str] = ()

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        links = [vars(link) for link in self.links]
        return {"version": self.version, "links": links, "faults": self.faults, "silent": list(self.silent)}

    def lines(self) -> list[str]:
        """Return text for a person: every link with its mark, its problems beneath, and the totals."""
        width = max(len(link.what) for link in self.links)
        lines = []
        for link in self.links:
            lines.append(f"  {'✓' if link.signed else ' '} {link.what:<{width}}  {link.found}".rstrip())
            lines += [f"    {'':<{width}}  gap: {gap}" for gap in link.gaps]
            lines += [f"    {'':<{width}}  contradiction: {contradiction}" for contradiction in link.contradictions]
        gaps, signed = sum(len(link.gaps) for link in self.links), sum(link.signed for link in self.links)
        proven = f"{signed} proven by a signature (✓)"
        lines.append(f"version {self.version}: {len(self.links)} links, {proven}, {_count(gaps, 'gap')}")
        return lines if self.faults is None else [*lines, *_verified(self.faults), *self.silent]


def audit(root: Path, version: str | None, verify: bool, cache: Path) -> Audit:
    """Follow a version (default: the champion) to its raw images in DVC's `cache`; `verify` looks for tampering."""
    audited, links = chain.audit(root, version, cache, verify)
    if not verify:
        return Audit(audited, links, None)
    faults, silent = chain.tampered(root, audited)
    contradictions = dict.fromkeys(contradiction for link in links for contradiction in link.contradictions)
    return Audit(audited, links, [*faults, *contradictions], silent)


def _verified(faults: Sequence[str]) -> list[str]:
    return [f"fault: {fault}" for fault in faults] or [
        "verified: the ledger is whole, and every package is as it was signed"
    ]


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
