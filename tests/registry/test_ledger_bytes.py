"""Every single-byte change of a ledger's line, of its signature or of its export is found: 200 random places each."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from steps.registry import ledger, signing
from steps.registry.chain import PROMOTE, Chain, Decision, Slot, differences, walk

PLACES = 200


@pytest.fixture
def slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Slot]:
    """Six decisions, really signed; reasons with letters of several bytes and what Python takes for line ends."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("REGRAFT_KEY", raising=False)
    made: list[Slot] = []
    head, start = "", datetime(2026, 11, 1, tzinfo=UTC)
    for number in range(1, 7):
        at = (start + timedelta(days=number)).isoformat()
        found = Decision(PROMOTE, str(number), str(number), None, ("größer\u2028\x85 \ufffd",), "q", "Ada", at, head)
        made.append(Slot(number, found.text(), signing.sign(found.text())))
        head = found.digest
    return made


def flipped(text: str, rng: random.Random) -> str:
    """Change one byte; what is no UTF-8 then is as a reader finds it."""
    data = bytearray(text.encode())
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    return data.decode("utf-8", errors="surrogateescape")


def test_the_ledger_is_whole_as_it_was_written(slots: list[Slot]) -> None:
    chain = walk(slots, signing.verifier())
    assert (len(chain.entries), chain.faults) == (6, ())


@pytest.mark.parametrize("part", ["text", "signature"])
def test_every_changed_byte_of_an_entry_is_found(slots: list[Slot], part: str) -> None:
    rng, verify = random.Random(0), signing.verifier()
    for _ in range(PLACES):
        place = rng.randrange(len(slots))
        changed = flipped(getattr(slots[place], part), rng)
        parts = {"text": slots[place].text, "signature": slots[place].signature, part: changed}
        found = walk([*slots[:place], Slot(place + 1, **parts), *slots[place + 1 :]], verify)
        assert found.faults and found.faults[0].startswith(f"entry {place + 1}: its signature"), changed


def test_the_spare_bits_of_a_signatures_last_character_count(slots: list[Slot]) -> None:
    """Base64 decoders ignore them: another text for the same bytes."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    padded = [slot for slot in slots if slot.signature.endswith("=")]
    assert padded, "no signature with spare bits among six"
    for slot in padded:
        body = slot.signature.rstrip("=")
        other = letters[letters.index(body[-1]) ^ 1]
        changed = body[:-1] + other + slot.signature[len(body) :]
        assert not signing.verifier()(slot.text, changed)


def test_every_changed_byte_of_the_export_is_found(slots: list[Slot], tmp_path: Path) -> None:
    chain, rng = walk(slots, signing.verifier()), random.Random(1)
    ledger.export(chain, tmp_path)
    path = tmp_path / ledger.EXPORT
    assert differences(chain, ledger.exported(tmp_path)) == []
    whole = path.read_bytes()
    for _ in range(PLACES):
        data = bytearray(whole)
        place = rng.randrange(len(data))
        data[place] ^= rng.randrange(1, 256)
        path.write_bytes(bytes(data))
        assert differences(chain, ledger.exported(tmp_path)), f"byte {place} of {whole[place : place + 1]!r}"


def without(number: int) -> Callable[[list[Slot]], list[Slot]]:
    return lambda slots: [slot for slot in slots if slot.number != number]


def swapped(slots: list[Slot]) -> list[Slot]:
    second, third = slots[1], slots[2]
    exchanged = [Slot(2, third.text, third.signature), Slot(3, second.text, second.signature)]
    return [slots[0], *exchanged, *slots[3:]]


def repeated(slots: list[Slot]) -> list[Slot]:
    """The last entry replaced by an earlier one, which is validly signed."""
    return [*slots[:-1], Slot(6, slots[2].text, slots[2].signature)]


@pytest.mark.parametrize("tamper", [*(without(number) for number in range(1, 6)), swapped, repeated])
def test_deleted_reordered_and_repeated_entries_are_found(
    slots: list[Slot], tamper: Callable[[list[Slot]], list[Slot]]
) -> None:
    assert walk(tamper(slots), signing.verifier()).faults


@pytest.mark.parametrize("cut", range(6))
def test_a_ledger_whose_end_was_cut_off_is_found_by_its_export(slots: list[Slot], tmp_path: Path, cut: int) -> None:
    ledger.export(walk(slots, signing.verifier()), tmp_path)
    left: Chain = walk(slots[:cut], signing.verifier())
    assert not left.faults
    told = differences(left, ledger.exported(tmp_path))
    assert told == [f"the export holds 6 entries, the ledger {cut}: its end was cut off"]
