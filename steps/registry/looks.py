"""Looks at the test images, pure: which model was evaluated on which, and how much of its score may be chance.

A look is a distinct pair of model and image. Each entry holds the names of images that no earlier entry named, and one
bit for every image named so far; so a set of a hundred thousand images costs its names once and a few bytes per night.
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

NAME = 6  # bytes of an image's SHA-256 that identify it: two of 100,000 images share them in 1 of 50,000 projects


@dataclass(frozen=True)
class Look:
    """One model judged on images; `payload` is the digest of the list of images, signed with the rest."""

    model: str  # digest of its weights
    payload: str
    images: int
    by: str
    at: str  # ISO 8601, UTC
    predecessor: str

    def text(self) -> str:
        """Return the canonical JSON, which is hashed and signed."""
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
    """A stored entry: the signed text of the look, and the images that it names."""

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
            yield model, [names[index] for index in np.flatnonzero(seen)]

    def has(self, model: str, images: Iterable[str]) -> bool:
        """Return whether this model has been evaluated on all of these images."""
        seen = self.seen.get(model, np.zeros(0, dtype=np.bool_))
        return all((index := self.names.get(short(i), len(seen))) < len(seen) and seen[index] for i in images)

    def count(self, images: Iterable[str]) -> int:
        """Return the number of models that a set of images has judged: the median over the images, rounded up."""
        indices = [self.names.get(short(image), -1) for image in images]
        total = np.zeros(len(self.names) + 1, dtype=np.int64)  # the last element is for images that no model has seen
        for seen in self.seen.values():
            total[: len(seen)] += seen
        return int(np.ceil(np.median(total[indices]))) if indices else 0


def short(image: str) -> str:
    """Return an image's name in the ledger: the first digits of its SHA-256."""
    return image[: 2 * NAME]


def packed(images: Sequence[str], names: dict[str, int]) -> str:
    """Encode images as text: the new names, and one bit for each image named so far; `unpacked` decodes it."""
    ours = sorted({short(image) for image in images})
    new = [name for name in ours if name not in names]
    indices = {**names, **{name: len(names) + i for i, name in enumerate(new)}}
    bits = np.zeros(len(indices), dtype=np.bool_)
    bits[[indices[name] for name in ours]] = True
    return f"{_encoded(zlib.compress(np.packbits(bits).tobytes(), 9))}.{_encoded(bytes.fromhex(''.join(new)))}"


def unpacked(payload: str, known: int) -> tuple[list[str], Bools]:
    """Return the new images that a payload names, and for each image named so far whether it was looked at."""
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
    """Walk the slots as in the ledger of decisions, and collect which model has seen which images."""
    walked, at = walk_entries(slots, verify, parse), {slot.number: slot for slot in slots}
    names: dict[str, int] = {}
    seen: dict[str, Bools] = {}
    faults = list(walked.faults)
    for number, look in walked.entries:
        payload = payloads.get(number, "")
        if digest_of(payload) != look.payload:
            faults.append(f"entry {number}: the images it names are not those that were signed")
            continue
        new, bits = unpacked(payload, len(names))
        names |= {name: len(names) + i for i, name in enumerate(new)}
        before = seen.get(look.model, np.zeros(0, dtype=np.bool_))
        bits[: len(before)] |= before
        seen[look.model] = bits
    kept = tuple(Kept(at[n].text, at[n].signature, payloads.get(n, "")) for n, _ in walked.entries)
    return Looks(walked.entries[-1][1].digest if walked.entries else "", names, seen, tuple(faults), kept)


def reread(exported: Sequence[Kept], verify: Verify) -> Looks:
    """Collect the looks of an export, whose lines are in the order of the entries."""
    slots = [Slot(number, kept.text, kept.signature) for number, kept in enumerate(exported, 1)]
    return read(slots, {number: kept.images for number, kept in enumerate(exported, 1)}, verify)


def gone(found: Looks, exported: Sequence[Kept]) -> list[str]:
    """List the exported entries that the ledger no longer holds."""
    held = {kept.text for kept in found.kept}
    return [
        f"line {number} of the export is not in the ledger: {_told(kept.text)}"
        for number, kept in enumerate(exported, 1)
        if kept.text not in held
    ]


def _told(text: str) -> str:
    try:
        look = parse(text)
    except ValueError:
        return "and it is no entry"
    return f"model {look.model[:12]} on {look.images:,} images, {look.at[:10]}"


def optimism(count: int, n: int, p: float) -> float:
    """Return the expected overestimate of the best of `count` models of true accuracy `p`.

    This is the expected maximum of k independent binomial shares of n images, minus p: the mean of a variable from 0 to
    n is the sum of its upper tails, and the distribution of the maximum is F to the power of k (David and Nagaraja
    2003, Order Statistics, ch. 2). Similar models give similar answers, which makes the maximum smaller (Slepian 1962):
    an upper bound for models of equal accuracy.
    """
    if count < 2 or n < 1:
        return 0.0
    below = binom.cdf(np.arange(n), n, p)
    return max(0.0, float((1 - below**count).sum() / n - p))


@dataclass(frozen=True)
class Standing:
    """How often the present test images were used, and the consequence."""

    count: int
    optimism: float  # share of the images, upper bound
    budget: int
    limit: int | None

    @property
    def over_budget(self) -> bool:
        """Return whether a reader must be warned."""
        return self.count > self.budget

    @property
    def exhausted(self) -> bool:
        """Return whether these images may no longer decide anything."""
        return self.limit is not None and self.count > self.limit

    @property
    def sentence(self) -> str:
        """Return the standing in words."""
        times = f"{self.count:,} {'model was' if self.count == 1 else 'models were'} judged on these test images"
        bias = f"the best of so many looks better than it is by up to {100 * self.optimism:.1f} points on average"
        usage = times if self.count < 2 else f"{times}; {bias}"
        if self.exhausted:
            return f"{usage}. More than {self.limit:,} (promote.look_limit): they decide nothing until fresh ones come"
        return f"{usage}. More than the budget of {self.budget:,} (promote.look_budget)" if self.over_budget else usage
