"""Who has looked at what, counted by hand; and the luck that many looks buy, against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.registry.chain import Slot
from steps.registry.looks import Look, Looks, Standing, digest_of, gone, optimism, packed, parse, read, reread, unpacked

IMAGES = [f"{i:064x}"[::-1] for i in range(40)]


class Chain:
    """A ledger in memory, written and read with the functions of the real one."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.payloads: dict[int, str] = {}

    def read(self) -> Looks:
        return read(self.slots, self.payloads, lambda text, signature: signature == f"signed {text}")

    def look(self, model: str, images: list[str]) -> None:
        before, number = self.read(), len(self.slots) + 1
        payload = packed(images, before.names)
        text = Look(model, digest_of(payload), len(images), "ada", "2026-11-01", before.head).text()
        self.slots.append(Slot(number, text, f"signed {text}"))
        self.payloads[number] = payload


def test_the_count_is_the_median_over_the_images() -> None:
    chain = Chain()
    for model in range(25):
        chain.look(f"model {model}", IMAGES[:20])
    assert chain.read().count(IMAGES[:20]) == 25
    assert chain.read().count([*IMAGES[:20], IMAGES[30]]) == 25, "one new image does not reset it"
    chain.look("model 26", [*IMAGES[:20], IMAGES[30]])
    assert chain.read().count(IMAGES[:20]) == 26
    assert chain.read().count(IMAGES[:31]) == 26, "a median: of 31 images 20 were seen 26 times"
    assert chain.read().count(IMAGES[20:40]) == 0, "fresh images were not looked at"
    assert chain.read().count([]) == 0


def test_the_same_model_again_is_no_look_and_on_more_images_is_one_on_those_alone() -> None:
    chain = Chain()
    chain.look("a", IMAGES[:10])
    assert chain.read().has("a", IMAGES[:10]) and chain.read().has("a", IMAGES[3:5])
    assert not chain.read().has("a", IMAGES[:11]) and not chain.read().has("b", IMAGES[:10])
    chain.look("a", IMAGES[5:15])
    assert (chain.read().count(IMAGES[:10]), chain.read().count(IMAGES[:15])) == (1, 1)
    assert chain.read().has("a", IMAGES[:15])


@given(st.lists(st.sets(st.integers(0, 39), min_size=1), min_size=1, max_size=8))
def test_what_is_packed_is_unpacked(looks: list[set[int]]) -> None:
    names: dict[str, int] = {}
    for places in looks:
        images = [IMAGES[i] for i in places]
        new, bits = unpacked(packed(images, names), len(names))
        assert not set(new) & set(names)
        names |= {name: len(names) + i for i, name in enumerate(new)}
        known = list(names)
        assert {known[i] for i in np.flatnonzero(bits)} == {image[:12] for image in images}


def test_a_night_on_known_images_costs_no_more_than_a_line() -> None:
    images = [f"{digest_of(str(i))}" for i in range(10_000)]
    names = {image[:12]: i for i, image in enumerate(images)}
    assert len(packed(images, names)) < 100
    assert len(packed(images, {})) < 90_000, "eight characters an image, once"


def test_tampering_is_seen() -> None:
    chain = Chain()
    for model in "abc":
        chain.look(model, IMAGES[:5])
    whole = chain.read()
    assert whole.faults == ()
    chain.payloads[2] = packed(IMAGES[:1], {})
    assert chain.read().faults == ("entry 2: the images it names are not those that were signed",)
    del chain.slots[1]
    assert "entry 2 is missing: deleted" in chain.read().faults
    with pytest.raises(ValueError, match="no look"):
        parse('{"model": "a"}')


def test_a_copy_of_the_entries_tells_the_same_looks_and_which_of_them_are_gone() -> None:
    chain = Chain()
    for model, images in (("a", IMAGES[:5]), ("b", IMAGES[3:9]), ("a", IMAGES[9:12])):
        chain.look(model, images)
    whole = chain.read()
    again = reread(whole.kept, lambda *_: True)
    assert again.faults == () and again.head == whole.head
    assert dict(again.pairs()) == {
        "a": [i[:12] for i in (*IMAGES[:5], *IMAGES[9:12])],
        "b": [i[:12] for i in IMAGES[3:9]],
    }
    chain.slots.pop()
    assert gone(chain.read(), whole.kept) == [
        "line 3 of the export is not in the ledger: model a on 3 images, 2026-11-01"
    ]
    assert gone(whole, whole.kept[:2]) == []
    assert reread(whole.kept[1:], lambda *_: True).faults


@pytest.mark.parametrize(("looks", "n", "p"), [(25, 153, 0.93), (5, 60, 0.7), (200, 600, 0.98)])
def test_optimism_is_what_the_best_of_so_many_gains_by_luck(looks: int, n: int, p: float) -> None:
    drawn = np.random.default_rng(0).binomial(n, p, size=(20_000, looks)).max(axis=1) / n
    assert optimism(looks, n, p) == pytest.approx(drawn.mean() - p, abs=4 * drawn.std() / 20_000**0.5)


def test_one_look_buys_nothing_and_a_perfect_model_cannot_gain() -> None:
    assert optimism(0, 100, 0.9) == optimism(1, 100, 0.9) == 0
    assert optimism(50, 100, 1.0) == 0
    assert optimism(26, 153, 0.93) > optimism(25, 153, 0.93) > 0.03


def test_a_standing_says_it_in_words() -> None:
    told = Standing(26, 0.038, budget=20, limit=200)
    assert (told.over_budget, told.exhausted) == (True, False)
    assert told.sentence == (
        "26 models were judged on these test images; the best of so many looks better than it is by up to 3.8 points "
        "on average. More than the budget of 20 (promote.look_budget)"
    )
    assert "they decide nothing until fresh ones come" in Standing(201, 0.05, 20, 200).sentence
    assert Standing(1, 0.0, 20, 200).sentence == "1 model was judged on these test images"
