import unicodedata

import pytest
import torch

from steps.runtime.seeding import torch_generator
from tests.studies.glyphs import BLOCK, CHARACTERS, FONTS, glyphs, render


@pytest.fixture(scope="module")
def rendered() -> tuple[torch.Tensor, torch.Tensor]:
    return render(3000, torch_generator(0, "test"))


def test_no_source_character_is_a_digit_or_stands_for_a_number() -> None:
    assert len(CHARACTERS) > 100
    for character in CHARACTERS:
        assert unicodedata.category(character)[0] != "N", character
        assert not unicodedata.normalize("NFKC", character).isnumeric(), (
            character
        )  # neither a superscript nor a circled


def test_every_character_is_a_class_of_its_own_in_several_fonts_and_every_font_is_used() -> None:
    source = glyphs()
    assert len(set(CHARACTERS)) == len(CHARACTERS)
    assert int(torch.bincount(source.labels, minlength=len(CHARACTERS)).min()) >= 3
    assert set(source.fonts.tolist()) == set(range(len(FONTS)))


def test_no_glyph_is_blank_or_touches_the_edge_of_its_canvas() -> None:
    ink = glyphs().fields > 0
    assert ink.flatten(1).any(1).all()
    assert not ink[:, [0, -1]].any()
    assert not ink[:, :, [0, -1]].any()


def test_no_character_is_drawn_as_the_fonts_box_for_missing_characters() -> None:
    source = glyphs()
    for font in range(len(FONTS)):
        fields = source.fields[source.fonts == font].flatten(1)
        same = torch.unique(fields, dim=0, return_counts=True)[1]
        assert int(same.max()) <= 4, FONTS[font]  # O is in four scripts; a box would recur more often


def test_the_same_generator_renders_the_same_bytes_and_another_does_not(
    rendered: tuple[torch.Tensor, torch.Tensor],
) -> None:
    again, other = render(3000, torch_generator(0, "test")), render(3000, torch_generator(1, "test"))
    assert torch.equal(again[0], rendered[0])
    assert torch.equal(again[1], rendered[1])
    assert not torch.equal(other[0], rendered[0])


def test_renderings_look_like_the_digits(rendered: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = rendered
    assert images.shape == (3000, 8, 8)
    assert images.dtype == torch.uint8
    levels = {round(count * 255 / BLOCK**2) for count in range(BLOCK**2 + 1)}
    assert set(images.unique().tolist()) == levels
    assert int(images.flatten(1).amax(1).min()) > 0, "a blank rendering"
    assert 0 <= int(labels.min()) <= int(labels.max()) < len(CHARACTERS)
    # The real digits: mean 0.305, standard deviation 0.376, of [0, 1].
    assert abs(float(images.double().mean()) / 255 - 0.305) < 0.06
    assert abs(float(images.double().std()) / 255 - 0.376) < 0.06
