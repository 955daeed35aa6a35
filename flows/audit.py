"""`regraft audit`: the chain from alias to raw images as people and programs read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.graph import cache
from steps import audit as chain
from steps.audit import Link


@dataclass(frozen=True)
class Audit:
    """The links behind a version; `faults` where the ledger or a package was tampered with (None: not looked for)."""

    version: str
    links: list[Link]
    faults: list[str] | None

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"version": self.version, "links": [vars(link) for link in self.links], "faults": self.faults}

    def lines(self) -> list[str]:
        """Return text for a person: every link, its gaps beneath it, and the sum of both."""
        width = max(len(link.what) for link in self.links)
        told = []
        for link in self.links:
            told.append(f"  {link.what:<{width}}  {link.found}".rstrip())
            told += [f"  {'':<{width}}  gap: {gap}" for gap in link.gaps]
        gaps = sum(len(link.gaps) for link in self.links)
        told.append(f"version {self.version}: {len(self.links)} links, {_count(gaps, 'gap')}")
        return told if self.faults is None else [*told, *_verified(self.faults)]


def audit(root: Path, version: str | None, verify: bool) -> Audit:
    """Follow a version (default: the champion) to its raw images; with `verify`, look for tampering as well."""
    found, links = chain.audit(root, version, cache(root))
    return Audit(found, links, chain.tampered(root, found) if verify else None)


def _verified(faults: Sequence[str]) -> list[str]:
    return [f"fault: {fault}" for fault in faults] or [
        "verified: the ledger is whole, and every package is as it was signed"
    ]


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
