"""`regraft audit`: the chain from alias to raw images as people and programs read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steps.promotion import links as chain
from steps.promotion.links import Link


@dataclass(frozen=True)
class Audit:
    """The links behind a version; `faults` where the ledger or a package was tampered with (None: not looked for).

    `silent`: what could not be looked at.
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
        told = []
        for link in self.links:
            told.append(f"  {'✓' if link.signed else ' '} {link.what:<{width}}  {link.found}".rstrip())
            told += [f"    {'':<{width}}  gap: {gap}" for gap in link.gaps]
            told += [f"    {'':<{width}}  contradiction: {one}" for one in link.contradictions]
        gaps, signed = sum(len(link.gaps) for link in self.links), sum(link.signed for link in self.links)
        proven = f"{signed} proven by a signature (✓)"
        told.append(f"version {self.version}: {len(self.links)} links, {proven}, {_count(gaps, 'gap')}")
        return told if self.faults is None else [*told, *_verified(self.faults), *self.silent]


def audit(root: Path, version: str | None, verify: bool, cache: Path) -> Audit:
    """Follow a version (default: the champion) to its raw images in DVC's `cache`; `verify` looks for tampering."""
    found, links = chain.audit(root, version, cache)
    if not verify:
        return Audit(found, links, None)
    faults, silent = chain.tampered(root, found)
    contradictions = dict.fromkeys(one for link in links for one in link.contradictions)
    return Audit(found, links, [*faults, *contradictions], silent)


def _verified(faults: Sequence[str]) -> list[str]:
    return [f"fault: {fault}" for fault in faults] or [
        "verified: the ledger is whole, and every package is as it was signed"
    ]


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
