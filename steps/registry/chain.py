"""The ledger of decisions, pure: entries that each hold the digest of the previous one, and their consequences.

Two concurrent decisions write two entries with the same predecessor. The lower slot counts, the other is void: this is
the compare-and-swap that MLflow's aliases (last writer wins) do not offer.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

PROMOTE, REFUSE, PROPOSE, ROLLBACK, ADOPT, RESTORE = "promote", "refuse", "propose", "rollback", "adopt", "restore"
LATER = ("package", "model", "ledger")  # fields that older entries lack
Verify = Callable[[str, str], bool]  # text, signature -> whether a trusted key made it


@dataclass(frozen=True)
class Decision:
    """A decision about `version`, and the champion after it; all fields are signed."""

    kind: str
    version: str
    champion: str | None
    previous: str | None
    reasons: tuple[str, ...]
    question: str  # digest of everything that the answer depends on
    by: str
    at: str  # ISO 8601, UTC
    predecessor: str  # digest of the previous entry; "" for the first
    package: str | None = None  # digest of the version's package; None in older entries
    model: str | None = None  # name of the registered model; None in older entries
    ledger: str | None = None  # random id of the ledger, from its first entry on; None in older entries

    def text(self) -> str:
        """Return the canonical JSON, which is hashed and signed. What older entries lack is omitted."""
        held = {name: value for name, value in vars(self).items() if name not in LATER or value is not None}
        return json.dumps(held, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def parse(text: str) -> Decision:
    """Parse a decision's canonical JSON. Raises ValueError if it is not exactly canonical."""
    try:
        raw: dict[str, Any] = json.loads(text)
        decision = Decision(**{**raw, "reasons": tuple(raw["reasons"])})
        if decision.text() == text:
            return decision
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no decision: {error}") from None
    raise ValueError("not in canonical form")


@dataclass(frozen=True)
class Slot:
    """One numbered slot of the ledger as read: text and signature, unverified."""

    number: int
    text: str
    signature: str
    applied: bool = False  # whether the alias was seen to follow; unsigned, a hint


@dataclass(frozen=True)
class Chain:
    """The result of a walk over the slots: the entries that count, those that lost their slot, and the faults."""

    entries: tuple[tuple[int, Decision], ...]
    void: tuple[int, ...]
    faults: tuple[str, ...]
    applied: bool  # of the last entry
    slots: tuple[Slot, ...] = ()  # all that were walked

    @property
    def head(self) -> str:
        """Return the digest that the next entry has to name."""
        return self.entries[-1][1].digest if self.entries else ""

    @property
    def last_number(self) -> int:
        """Return the number of the last slot that counts."""
        return self.entries[-1][0]

    @property
    def champion(self) -> str | None:
        """Return the version in production after the last entry."""
        return self.entries[-1][1].champion if self.entries else None

    @property
    def ledger(self) -> str | None:
        """Return the id of the ledger; None if it has no entry, or only older ones."""
        return self.entries[-1][1].ledger if self.entries else None

    def at(self, moment: datetime) -> Decision | None:
        """Return the last entry made at or before `moment` (aware), or None."""
        made = [decision for _, decision in self.entries if datetime.fromisoformat(decision.at) <= moment]
        return made[-1] if made else None

    def last(self, version: str, question: str) -> Decision | None:
        """Return the last answer to this question about this version."""
        answers = [d for _, d in self.entries if d.version == version and d.question == question]
        return answers[-1] if answers else None

    def made_champion(self, version: str) -> Decision:
        """Return the last entry about this champion."""
        return [d for _, d in self.entries if d.champion == version and d.version == version][-1]

    def package_of(self, version: str | None) -> str | None:
        """Return the digest of a version's package from the first decision about it; None if no entry holds one."""
        return next((d.package for _, d in self.entries if d.version == version and d.package), None)

    def before_champion(self) -> str | None:
        """Return the champion to roll back to; one that was itself rolled back from is skipped."""
        line: list[str] = []
        for _, decision in self.entries:
            champion = decision.champion
            if champion in line:
                line = line[: line.index(champion) + 1]
            elif champion:
                line.append(champion)
        return line[-2] if len(line) > 1 else None


class Entry(Protocol):
    """The content of a slot of any chained ledger."""

    @property
    def predecessor(self) -> str:
        """Return the digest of the previous entry; "" for the first."""
        ...

    @property
    def digest(self) -> str:
        """Return the digest that the next entry names."""
        ...


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class Walked(Generic[E]):
    """The numbered entries that count, the slots that lost a race, the faults, and the last entry's `applied` mark."""

    entries: tuple[tuple[int, E], ...]
    void: tuple[int, ...]
    faults: tuple[str, ...]
    applied: bool


def walk(slots: Iterable[Slot], verify: Verify, model: str | None = None) -> Chain:
    """Walk the ledger of decisions about a model (None: whichever it is)."""
    slots = tuple(sorted(slots, key=lambda slot: slot.number))
    walked = walk_entries(slots, verify, parse)
    faults = (*walked.faults, *_foreign(walked.entries, model))
    return Chain(walked.entries, walked.void, faults, walked.applied, slots)


def _foreign(entries: Sequence[tuple[int, Decision]], model: str | None) -> Iterator[str]:
    """Yield the entries that were signed for another model or ledger; older entries name neither, and come first."""
    known = None
    for number, decision in entries:
        if model and decision.model not in (None, model):
            yield f"entry {number}: it was signed for the model {decision.model}, not for {model}"
        elif known and decision.ledger != known:
            yield f"entry {number}: it was signed for another ledger than the entries before it"
        known = known or decision.ledger


def walk_entries(slots: Sequence[Slot], verify: Verify, read: Callable[[str], E]) -> Walked[E]:
    """Walk the slots by number. An entry counts if it is signed and names the digest of the last that counted.

    An entry that names an earlier counted one lost its race and is void. Everything else is a fault: a missing slot, a
    signature that does not verify, a changed text, an unknown predecessor.
    """
    entries: list[tuple[int, E]] = []
    void: list[int] = []
    faults: list[str] = []
    heads, applied, expected = [""], True, 1
    for slot in sorted(slots, key=lambda slot: slot.number):
        if slot.number != expected:
            faults.append(f"{_missing(expected, slot.number - 1)} missing: deleted")
        expected = slot.number + 1
        try:
            entry = _checked(slot, verify, read)
        except ValueError as error:
            faults.append(f"entry {slot.number}: {error}")
            continue
        if entry.predecessor == heads[-1]:
            entries.append((slot.number, entry))
            heads.append(entry.digest)
            applied = slot.applied
        elif entry.digest in heads:
            faults.append(f"entry {slot.number}: repeats an earlier one")
        elif entry.predecessor in heads:
            void.append(slot.number)
        else:
            faults.append(f"entry {slot.number}: follows an entry that is not in the ledger")
    return Walked(tuple(entries), tuple(void), tuple(faults), applied)


def _checked(slot: Slot, verify: Verify, read: Callable[[str], E]) -> E:
    if not verify(slot.text, slot.signature):
        raise ValueError("its signature does not verify: changed, or signed with a key that is not trusted here")
    return read(slot.text)


def _missing(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"


def silences(chain: Chain, exported: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the faults of an export that is too short (None: no export), and what it leaves unchecked.

    A short export may be older than the last decisions; an empty one is never legitimate.
    """
    count = len(chain.entries)
    if exported is None:
        return [], ["there is no export to hold the ledger against: its end could have been cut off"] if count else []
    if count and not exported:
        return ["the export is empty, the ledger is not"], []
    if len(exported) < count:
        ending = f"the export ends at entry {len(exported)} of {count}: it is older than the ledger, or was cut off"
        return [], [f"{ending}; nothing says that no later entry is missing"]
    return [], []


def differences(chain: Chain, exported: Sequence[str]) -> list[str]:
    """Compare the ledger with the texts of an earlier export: each exported text must still be there, in order."""
    texts = [decision.text() for _, decision in chain.entries]
    faults = []
    for index, text in enumerate(exported):
        if index >= len(texts):
            faults.append(f"the export holds {len(exported)} entries, the ledger {len(texts)}: its end was cut off")
            break
        if text != texts[index]:
            faults.append(f"entry {chain.entries[index][0]} differs from line {index + 1} of the export")
    return faults
