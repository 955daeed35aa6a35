"""The ledger's walk, against every way to tamper with it; signing is a digest with a secret here."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.registry.chain import PROMOTE, REFUSE, Chain, Decision, Slot, differences, parse, silences, walk

START = datetime(2026, 11, 1, tzinfo=UTC)
kinds = st.sampled_from([PROMOTE, REFUSE])


def signature(text: str) -> str:
    return hashlib.sha256(b"secret" + text.encode()).hexdigest()


def verify(text: str, found: str) -> bool:
    return signature(text) == found


def decision(number: int, champion: str | None, predecessor: str, kind: str = PROMOTE, **other: str) -> Decision:
    at = (START + timedelta(days=number)).isoformat()
    question, package = other.get("question", ""), other.get("package")
    return Decision(kind, champion or "9", champion, None, ("why",), question, "Ada", at, predecessor, package)


def slot(number: int, made: Decision) -> Slot:
    return Slot(number, made.text(), signature(made.text()))


def ledger_of(*champions: str | None) -> list[Slot]:
    slots: list[Slot] = []
    head = ""
    for number, champion in enumerate(champions, start=1):
        made = decision(number, champion, head)
        slots.append(slot(number, made))
        head = made.digest
    return slots


def champions(chain: Chain) -> list[str | None]:
    return [found.champion for _, found in chain.entries]


def test_entries_that_follow_each_other_count_in_any_order_of_arrival() -> None:
    slots = ledger_of("1", "1", "3")
    assert champions(walk(slots[::-1], verify)) == ["1", "1", "3"]
    assert walk(slots, verify).champion == "3"
    assert walk([], verify) == Chain((), (), (), True)


def test_of_two_that_decide_at_once_the_lower_slot_wins_and_the_other_is_void() -> None:
    slots = ledger_of("1")
    head = decision(1, "1", "").digest
    first, second = decision(2, "2", head), decision(3, "3", head)
    chain = walk([*slots, slot(2, first), slot(3, second)], verify)
    assert (champions(chain), chain.void, chain.faults) == (["1", "2"], (3,), ())
    again = walk([*slots, slot(2, first), slot(3, second), slot(4, decision(4, "3", first.digest))], verify)
    assert champions(again) == ["1", "2", "3"], "the loser decides anew, after the winner"


@given(st.lists(st.sampled_from("123"), min_size=2, max_size=6), st.data())
def test_every_changed_character_is_found(held: list[str], data: st.DataObject) -> None:
    slots = ledger_of(*held)
    victim = data.draw(st.integers(0, len(slots) - 1))
    field = data.draw(st.sampled_from(["text", "signature"]))
    text: str = getattr(slots[victim], field)
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]
    slots[victim] = replace(slots[victim], **{field: changed})
    assert any(f"entry {victim + 1}" in fault for fault in walk(slots, verify).faults)


@given(st.integers(2, 6), st.data())
def test_a_deleted_entry_is_found_unless_it_is_the_last(length: int, data: st.DataObject) -> None:
    slots = ledger_of(*map(str, range(length)))
    victim = data.draw(st.integers(0, length - 2))
    chain = walk(slots[:victim] + slots[victim + 1 :], verify)
    assert chain.faults[0] == f"entry {victim + 1} is missing: deleted"


def test_a_truncated_end_is_found_by_the_export() -> None:
    slots = ledger_of("1", "2", "3")
    texts = [found.text for found in slots]
    assert differences(walk(slots, verify), texts) == []
    assert differences(walk(slots, verify), texts[:2]) == [], "an export may be older than the ledger"
    assert differences(walk(slots[:2], verify), texts) == [
        "the export holds 3 entries, the ledger 2: its end was cut off"
    ]
    assert differences(walk(slots, verify), [texts[0], texts[1] + " "]) == ["entry 2 differs from line 2 of the export"]


def test_swapped_entries_are_found() -> None:
    first, second, third = ledger_of("1", "2", "3")
    swapped = [first, replace(third, number=2), replace(second, number=3)]
    chain = walk(swapped, verify)
    assert chain.faults == ("entry 2: follows an entry that is not in the ledger",)


def test_an_entry_signed_with_another_key_is_refused() -> None:
    first, second = ledger_of("1", "2")
    chain = walk([first, replace(second, signature=signature(second.text + "other"))], verify)
    assert champions(chain) == ["1"]
    assert chain.faults == (
        "entry 2: its signature does not verify: changed, or signed with a key that is not trusted here",
    )


def test_what_was_in_production_at_a_moment() -> None:
    chain = walk(ledger_of("1", "2"), verify)
    held = [chain.at(START + timedelta(days=days)) for days in (0.5, 1, 1.5, 2, 9)]
    assert [found and found.champion for found in held] == [None, "1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("held", "back"),
    [(["1"], None), (["1", "2"], "1"), (["1", "2", "3", "2"], "1"), (["1", "2", "1"], None), (["1", None, "2"], "1")],
)
def test_the_champion_to_go_back_to(held: list[str | None], back: str | None) -> None:
    assert walk(ledger_of(*held), verify).before_champion() == back


def test_the_last_answer_to_a_question_is_recalled() -> None:
    first = decision(1, "1", "", question="q")
    second = decision(2, "1", first.digest, kind=REFUSE, question="q")
    chain = walk([slot(1, first), slot(2, second)], verify)
    found = chain.last("1", "q")
    assert found and found.kind == REFUSE
    assert chain.last("1", "other") is None
    assert chain.last("2", "q") is None


@given(kinds, st.text(max_size=40))
def test_a_decision_survives_its_text(kind: str, reason: str) -> None:
    made = replace(decision(1, "1", "", kind=kind), reasons=(reason,))
    assert parse(made.text()) == made


def test_an_entry_from_before_packages_were_named_keeps_its_text_and_its_digest() -> None:
    old = (
        '{"at":"2026-11-02T00:00:00+00:00","by":"Ada","champion":"1","kind":"promote","predecessor":"","previous":null,'
        '"question":"","reasons":["why"],"version":"1"}'
    )
    assert parse(old).text() == old
    assert parse(old).digest == hashlib.sha256(old.encode()).hexdigest()
    with pytest.raises(ValueError, match="not in canonical form"):
        parse(old.replace('"predecessor"', '"package":null,"predecessor"'))
    assert parse(replace(parse(old), package="ab").text()).package == "ab"


def test_the_package_of_a_version_is_the_one_first_decided_about() -> None:
    first = decision(1, "1", "", package="ab")
    second = decision(2, "1", first.digest, package="cd")
    chain = walk([slot(1, first), slot(2, second)], verify)
    assert (chain.package_of("1"), chain.package_of("2"), chain.package_of(None)) == ("ab", None, None)


def test_an_export_that_says_too_little_is_named() -> None:
    slots = ledger_of("1", "2", "3")
    chain, texts = walk(slots, verify), [found.text for found in slots]
    assert silences(chain, texts) == ([], [])
    assert silences(chain, []) == (["the export is empty, the ledger is not"], [])
    (told,) = silences(chain, texts[:2])[1]
    assert told.startswith("the export ends at entry 2 of 3: it is older than the ledger, or was cut off")
    (told,) = silences(chain, None)[1]
    assert told.startswith("there is no export to hold the ledger against")
    assert silences(walk([], verify), None) == ([], [])


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"kind": 1}', decision(1, "1", "").text() + " "])
def test_what_is_no_decision_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)
