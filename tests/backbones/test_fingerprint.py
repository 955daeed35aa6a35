"""The fixed pictures notice a change on any one way from a file to RGB pixels, though no other way has changed."""

import io
from collections.abc import Callable

import pytest
from PIL import Image

from steps.backbones import fingerprint
from steps.backbones.forward import Forward, Mode
from steps.backbones.models import assemble
from steps.commands import origins
from steps.images import decoding
from steps.images.preprocessing import Preprocessing

MODE = Mode(precision="float32", channels_last=False, fold_norms=False, compiled=False, device="cpu")
Ask = Callable[[], dict[str, tuple[str, int]]]


@pytest.fixture(scope="module")
def ask() -> Ask:
    card, state = origins.embedded()
    forward = Forward(assemble(card, state)[0], ["", "features.1"], MODE, 8)
    return lambda: fingerprint.cut_digests(forward, card.preprocessing)


def test_the_pictures_are_the_same_at_every_call_and_each_is_of_another_kind() -> None:
    first = fingerprint.pictures()
    fingerprint.pictures.cache_clear()
    assert fingerprint.pictures() == first
    assert sum(map(len, first)) < 100_000
    kinds = []
    for data in first:
        with Image.open(io.BytesIO(data)) as image:
            turn = decoding.TURNS.get(image.getexif().get(274, 1))
            kinds.append((image.format, image.mode, image.has_transparency_data, turn is not None, image.width > 42))
    assert set(kinds) == {
        ("JPEG", "RGB", False, False, False),
        ("PNG", "RGBA", True, False, False),
        ("PNG", "P", True, False, False),
        ("PNG", "I;16", False, False, False),
        ("TIFF", "F", False, False, False),
        ("JPEG", "CMYK", False, False, False),
        ("JPEG", "RGB", False, True, False),
        ("WEBP", "RGB", False, False, False),
        ("JPEG", "RGB", False, False, True),
    }
    assert len(kinds) == len(set(kinds))


def test_the_same_code_gives_the_same_key(ask: Ask) -> None:
    assert ask() == ask()
    assert {cut: width for cut, (_, width) in ask().items()} == {"": 512, "features.1": 64}


@pytest.mark.parametrize(("name", "other"), [("MATTE", (254, 255, 255)), ("TURNS", {})])
def test_another_matte_or_no_turning_is_another_key(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, name: str, other: object
) -> None:
    before = ask()
    monkeypatch.setattr(decoding, name, other)
    after = ask()
    assert all(after[cut] != found for cut, found in before.items())


@pytest.mark.parametrize(
    "touched",
    [
        lambda image: image.format == "WEBP",
        lambda image: image.format == "TIFF",
        lambda image: image.mode == "RGBA",
        lambda image: image.mode == "P",
        lambda image: image.mode == "I;16",
        lambda image: image.mode == "CMYK",
        lambda image: image.width > 600,
    ],
)
def test_one_kind_of_file_that_is_read_otherwise_is_another_key(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, touched: Callable[[Image.Image], bool]
) -> None:
    before, true, asked = ask(), decoding._upright, []

    def changed(pixels: Image.Image, image: Image.Image) -> Image.Image:
        asked.append(touched(image))
        found = true(pixels, image)
        return found.point(lambda level: max(level - 1, 0)) if asked[-1] else found

    monkeypatch.setattr(decoding, "_upright", changed)
    after = ask()
    assert all(after[cut] != found for cut, found in before.items())
    assert sum(asked) == 1, "one picture of all is touched"


def test_a_picture_that_is_reduced_otherwise_is_another_key(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    before, true = ask(), fingerprint.preprocess

    def reduced(image: Image.Image, spec: Preprocessing) -> object:
        return true(image.reduce(2) if image.width > 600 else image, spec)

    monkeypatch.setattr(fingerprint, "preprocess", reduced)
    after = ask()
    assert all(after[cut] != found for cut, found in before.items())
