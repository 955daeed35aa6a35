"""Looks at the test images, pure: which model was evaluated on which, and how much of its score may be chance.

A look is a distinct pair of model and image. Each entry names the images that no entry before it named, and a bit for
every image named so far; so a set of a hundred thousand images costs its names once and a few bytes a night.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from steps.registry.chain import Slot, Verify, walk_entries
from steps.runtime.arrays import Bools

NAME = 6  # bytes of an image's SHA-256 that stand for it: two of 100,000 images share them once in 50,000 projects


@dataclass(frozen=True)
class Look:
    """One model judged on images; `payload` is the digest of which ones, and is signed with the rest."""

    model: str  # digest of its weights
    payload: str
    images: int
    by: str
    at: str  # ISO 8601, UTC
    predecessor: str

    def text(self) -> str:
        """Return the canonical JSON: what is hashed and signed."""
        return json.dumps(vars(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def parse(text: str) -> Look:
    """Parse a look's canonical JSON. Raises ValueError if it is not exactly canonical."""
    try:
        raw: dict[str, Any] = json.loads(text)
        look = Look(**raw)
        if look.text() == text:
            return look
    except (TypeError, AttributeError) as error:
        raise ValueError(f"no look: {error}") from None
    raise ValueError("not in canonical form")


@dataclass(frozen=True)
class Kept:
    """An entry as it is kept: the signed text of the look, and the images that it names."""

    text: str
    signature: str
    images: str


@dataclass(frozen=True)
class Looks:
    """All looks that count: the images in the order of their first look, and which of them each model has seen."""

    head: str
    names: dict[str, int]
    seen: dict[str, Bools]
    faults: tuple[str, ...]
    kept: tuple[Kept, ...] = ()

    def pairs(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each model with the short names of the images that it was judged on."""
        names = list(self.names)
        for model, seen in self.seen.items():
            yield model, [names[place] for place in np.flatnonzero(seen)]

    def has(self, model: str, images: Iterable[str]) -> bool:
        """Return whether this model has been evaluated on all of these images."""
        seen = self.seen.get(model, np.zeros(0, dtype=np.bool_))
        return all((place := self.names.get(short(i), len(seen))) < len(seen) and seen[place] for i in images)

    def count(self, images: Iterable[str]) -> int:
        """Return the number of models that a set of images has judged: the median over the images, rounded up."""
        places = [self.names.get(short(image), -1) for image in images]
        total = np.zeros(len(self.names) + 1, dtype=np.int64)  # the last place is for images that nobody has looked at
        for seen in self.seen.values():
            total[: len(seen)] += seen
        return int(np.ceil(np.median(total[places]))) if places else 0


def short(image: str) -> str:
    """Return the name under which the ledger knows an image: the first digits of its SHA-256."""
    return image[: 2 * NAME]


def packed(images: Sequence[str], names: dict[str, int]) -> str:
    """Write these images as text: what is new, and one bit for each image known then; `unpacked` undoes it."""
    ours = sorted({short(image) for image in images})
    new = [name for name in ours if name not in names]
    places = {**names, **{name: len(names) + i for i, name in enumerate(new)}}
    bits = np.zeros(len(places), dtype=np.bool_)
    bits[[places[name] for name in ours]] = True
    return f"{_encoded(zlib.compress(np.packbits(bits).tobytes(), 9))}.{_encoded(bytes.fromhex(''.join(new)))}"


def unpacked(payload: str, known: int) -> tuple[list[str], Bools]:
    """Return the images that a payload names anew, and whether each of those known by then was looked at."""
    members, _, added = payload.partition(".")
    raw = base64.b64decode(added).hex()
    new = [raw[start : start + 2 * NAME] for start in range(0, len(raw), 2 * NAME)]
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(members)), dtype=np.uint8))
    return new, bits[: known + len(new)].astype(np.bool_)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def digest_of(payload: str) -> str:
    """Return the SHA-256 of a payload, which the signed entry holds."""
    return hashlib.sha256(payload.encode()).hexdigest()


def read(slots: Sequence[Slot], payloads: dict[int, str], verify: Verify) -> Looks:
    """Walk the slots as the ledger of decisions is walked, and collect who has looked at what."""
    found, at = walk_entries(slots, verify, parse), {slot.number: slot for slot in slots}
    names: dict[str, int] = {}
    seen: dict[str, Bools] = {}
    faults = list(found.faults)
    for number, look in found.entries:
        payload = payloads.get(number, "")
        if digest_of(payload) != look.payload:
            faults.append(f"entry {number}: the images it names are not those that were signed")
            continue
        new, bits = unpacked(payload, len(names))
        names |= {name: len(names) + i for i, name in enumerate(new)}
        before = seen.get(look.model, np.zeros(0, dtype=np.bool_))
        bits[: len(before)] |= before
        seen[look.model] = bits
    kept = tuple(Kept(at[n].text, at[n].signature, payloads.get(n, "")) for n, _ in found.entries)
    return Looks(found.entries[-1][1].digest if found.entries else "", names, seen, tuple(faults), kept)


def reread(exported: Sequence[Kept], verify: Verify) -> Looks:
    """Gather the looks of an export, whose lines stand in the order of the entries."""
    slots = [Slot(number, one.text, one.signature) for number, one in enumerate(exported, 1)]
    return read(slots, {number: one.images for number, one in enumerate(exported, 1)}, verify)


def gone(found: Looks, exported: Sequence[Kept]) -> list[str]:
    """Name the exported entries that the ledger does not hold any more."""
    held = {one.text for one in found.kept}
    return [
        f"line {number} of the export is not in the ledger: {_told(one.text)}"
        for number, one in enumerate(exported, 1)
        if one.text not in held
    ]


def _told(text: str) -> str:
    try:
        look = parse(text)
    except ValueError:
        return "and it is no entry"
    return f"model {look.model[:12]} on {look.images:,} images, {look.at[:10]}"


def optimism(count: int, n: int, p: float) -> float:
    """Return the expected overestimate of the best of `count` models of true accuracy `p`.

    The expected maximum of k independent binomial shares of n images, less p: the mean of a variable from 0 to n is
    the sum of its upper tails, and the maximum's distribution is F to the power of k (David and Nagaraja 2003, Order
    Statistics, ch. 2). Models that are alike answer alike, which makes the maximum smaller (Slepian 1962): an upper
    figure for models of one accuracy.
    """
    if count < 2 or n < 1:
        return 0.0
    below = binom.cdf(np.arange(n), n, p)
    return max(0.0, float((1 - below**count).sum() / n - p))


@dataclass(frozen=True)
class Standing:
    """How often the present test images were used, and the consequence."""

    count: int
    optimism: float  # share of the images, upper figure
    budget: int
    limit: int | None

    @property
    def over_budget(self) -> bool:
        """Return whether a reader has to be warned."""
        return self.count > self.budget

    @property
    def exhausted(self) -> bool:
        """Return whether these images may decide no more."""
        return self.limit is not None and self.count > self.limit

    @property
    def sentence(self) -> str:
        """Return it in words."""
        times = f"{self.count:,} {'model was' if self.count == 1 else 'models were'} judged on these test images"
        bias = f"the best of so many looks better than it is by up to {100 * self.optimism:.1f} points on average"
        told = times if self.count < 2 else f"{times}; {bias}"
        if self.exhausted:
            return f"{told}. More than {self.limit:,} (promote.look_limit): they decide nothing until fresh ones come"
        return f"{told}. More than the budget of {self.budget:,} (promote.look_budget)" if self.over_budget else told
