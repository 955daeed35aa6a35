"""What the backbone sees is, bit for bit, what torchvision's own presets would have shown it."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import models

from steps.checks.preprocessing_check import contract
from steps.commands.published import preprocessing_of
from steps.images.preprocessing import Preprocessing, centre_crop, normalise, preprocess, resized
from steps.runtime.params import faults_of
from tests.made import spec

SPEC = spec(32, 24)
OF_THE_BACKBONE = {field.name for field in fields(Preprocessing)} - {"grey_bits"}  # which belongs to the images
ENTRIES = [
    entry
    for name in models.list_models(module=models)
    for entry in models.get_model_weights(name)  # torchvision.models alone: the classifiers
]
SAMPLE = [
    models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    models.ResNet50_Weights.IMAGENET1K_V2,
    models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,
    models.EfficientNet_B0_Weights.IMAGENET1K_V1,
    models.Swin_T_Weights.IMAGENET1K_V1,
    models.Swin_V2_T_Weights.IMAGENET1K_V1,
    models.Inception_V3_Weights.IMAGENET1K_V1,
]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise shows every difference between two filters; a photograph hides most of them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(37, 53), (53, 37), (224, 224), (225, 331), (500, 233), (1, 1), (257, 255)])
@pytest.mark.parametrize("entry", SAMPLE, ids=str)
def test_odd_sizes_come_out_bit_equal_to_torchvisions_preset(entry: Any, size: tuple[int, int]) -> None:
    image = noise(*size)
    assert torch.equal(preprocess(image, preprocessing_of(entry)), entry.transforms()(image))


def test_every_weights_entry_of_torchvision_is_reproduced_bit_for_bit() -> None:
    image = noise(61, 83)
    specs = {str(entry): preprocessing_of(entry) for entry in ENTRIES}
    assert len(ENTRIES) >= 100
    assert {name: faults(spec) for name, spec in specs.items()} == {name: [] for name in specs}
    unequal = [
        str(entry)
        for entry in ENTRIES
        if not torch.equal(preprocess(image, specs[str(entry)]), entry.transforms()(image))
    ]
    assert unequal == []


def test_each_detail_of_a_preset_matters() -> None:
    """Were one of these without effect, bit equality would not have tested it."""
    image = noise(61, 83)
    changed = {
        "resize": 40,
        "crop": 23,
        "interpolation": "bicubic",
        "antialias": False,
        "colour_order": "BGR",
        "value_range": (-1.0, 1.0),
        "mean": (0.485, 0.456, 0.4),
        "std": (0.229, 0.224, 0.2),
    }
    assert set(changed) == OF_THE_BACKBONE
    base = preprocess(image, SPEC)
    for name, value in changed.items():
        other = preprocess(image, replace(SPEC, **{name: value}))
        assert other.shape != base.shape or not torch.equal(other, base), name


def test_bgr_is_the_same_picture_with_its_first_and_last_channel_swapped_before_normalising() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8))
    swapped = pixels[:, [2, 1, 0]]
    bgr = replace(SPEC, colour_order="BGR")
    assert torch.equal(normalise(pixels, bgr), normalise(swapped, SPEC))
    assert not torch.equal(normalise(pixels, bgr), normalise(pixels, SPEC))


numbers = st.floats(-300, 300)
three = st.tuples(numbers, numbers, numbers)
positive = st.tuples(*[st.floats(0.01, 300)] * 3)


@settings(deadline=None)
@given(st.tuples(numbers, st.floats(0.01, 500)), three, positive, st.sampled_from(["RGB", "BGR"]), st.integers(0, 99))
def test_normalise_is_the_formula(
    bounds: tuple[float, float], mean: tuple[float, ...], std: tuple[float, ...], order: str, seed: int
) -> None:
    low, high = bounds[0], bounds[0] + bounds[1]
    spec = replace(SPEC, value_range=(low, high), mean=mean, std=std, colour_order=order)
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)  # [h, w, channel], RGB

    channels = pixels[..., ::-1] if order == "BGR" else pixels
    wanted = ((channels / 255.0) * (high - low) + low - np.array(mean)) / np.array(std)

    given_pixels = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    before = given_pixels.clone()
    found = normalise(given_pixels, spec)
    assert found.dtype == torch.float32
    scale = (np.abs(bounds).max() + np.abs(mean).max() + 1) / np.min(std)  # of the terms, not of their difference
    np.testing.assert_allclose(found.numpy().transpose(1, 2, 0), wanted, rtol=1e-5, atol=1e-6 * scale)
    assert torch.equal(given_pixels, before), "the caller's pixels were written to"


def bilinear_by_hand(pixels: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """Resample [h, w] with two taps an axis, pixel centres at half steps, edges repeated."""

    def taps(size: int, wanted: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        at = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, None)
        low = np.minimum(at.astype(int), size - 1)
        return low, np.minimum(low + 1, size - 1), at - low

    top, bottom, down = taps(pixels.shape[0], height)
    left, right, along = taps(pixels.shape[1], width)
    rows = pixels[top] * (1 - down)[:, None] + pixels[bottom] * down[:, None]
    return rows[:, left] * (1 - along) + rows[:, right] * along  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (16, 20), (75, 41)])
def test_without_antialiasing_two_taps_an_axis_are_all_there_is(size: tuple[int, int]) -> None:
    image = noise(*size)
    found = resized(image, replace(SPEC, antialias=False)).numpy()
    short = min(size)
    assert found.shape == (3, int(32 * size[1] / short), int(32 * size[0] / short))
    for channel in range(3):
        wanted = bilinear_by_hand(np.asarray(image)[..., channel].astype(float), *found.shape[1:])
        assert np.abs(found[channel] - wanted).max() <= 1, "more than a rounding apart"


def test_antialiasing_averages_what_the_bare_filter_picks_from() -> None:
    stripes = Image.fromarray(
        np.tile(np.array([[0, 0, 0, 255]], np.uint8).repeat(3, 0).T, (64, 64, 1)).reshape(64, 256, 3)
    )
    spec = replace(SPEC, resize=16, crop=16)
    averaged = resized(stripes, spec).float()
    assert averaged[:, :, 4:-4].sub(255 / 4).abs().max() < 12
    assert resized(stripes, replace(spec, antialias=False)).unique().tolist() == [0]


@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 8))
def test_the_crop_is_the_centred_window(height: int, width: int, side: int) -> None:
    pixels = torch.arange(height * width).reshape(1, height, width).expand(3, -1, -1).to(torch.int32)
    found = centre_crop(pixels, replace(SPEC, crop=side))
    top, left = round((height - side) / 2), round((width - side) / 2)
    assert torch.equal(found, pixels[:, top : top + side, left : left + side])


any_spec = st.builds(
    Preprocessing,
    resize=st.sampled_from([32, 256]),
    crop=st.sampled_from([24, 32]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    antialias=st.booleans(),
    colour_order=st.sampled_from(["RGB", "BGR"]),
    value_range=st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]),
    mean=st.sampled_from([(0.5, 0.5, 0.5), (0.5, 0.5, 0.4)]),
    std=st.sampled_from([(1.0, 1.0, 1.0), (0.5, 0.5, 0.5)]),
)


@given(any_spec, any_spec)
def test_the_contract_names_exactly_the_fields_that_differ(ours: Preprocessing, theirs: Preprocessing) -> None:
    rows = contract(ours, theirs)
    assert [row.field for row in rows] == [
        field.name for field in fields(Preprocessing) if field.name in OF_THE_BACKBONE
    ]
    for row in rows:
        mine, other = getattr(ours, row.field), getattr(theirs, row.field)
        assert row.agree == (mine == other)
        assert (row.pipeline, row.backbone) == (ours.to_dict()[row.field], theirs.to_dict()[row.field])
    assert all(row.agree for row in rows) == (ours == theirs)


def test_the_dictionary_holds_what_json_and_yaml_can_hold() -> None:
    assert SPEC.to_dict() == {
        "resize": 32,
        "crop": 24,
        "interpolation": "bilinear",
        "antialias": True,
        "colour_order": "RGB",
        "value_range": [0.0, 1.0],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def faults(spec: Preprocessing) -> list[str]:
    return list(faults_of(Preprocessing, spec.to_dict(), "spec"))


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"crop": 0}, "crop is 0; 1 to 4096"),
    ({"crop": 33}, "crop is 33 and resize is 32; crop at most resize"),
    ({"resize": 4097}, "resize is 4097; 1 to 4096"),
    ({"interpolation": "lanczos"}, "interpolation is 'lanczos'; one of nearest, bilinear, bicubic"),
    ({"colour_order": "rgb"}, "colour_order is 'rgb'; one of RGB, BGR"),
    ({"value_range": (1.0, 1.0)}, "value_range is [1.0, 1.0]; two numbers, the lower first"),
    ({"value_range": (0.0,)}, "value_range is [0.0]; two numbers"),
    ({"value_range": (0.0, 1.0, 2.0)}, "value_range is [0.0, 1.0, 2.0]; two numbers"),
    ({"mean": (0.5,)}, "mean is [0.5]; three numbers"),
    ({"std": ()}, "std is []; three numbers above 0"),
    ({"std": (1.0, 0.0, 1.0)}, "std is [1.0, 0.0, 1.0]; three numbers above 0"),
]


@pytest.mark.parametrize(("change", "sentence"), FAULTS)
def test_each_impossible_value_is_named_with_its_rule(change: dict[str, Any], sentence: str) -> None:
    assert faults(replace(SPEC, **change)) == [f"spec.{sentence}"]


def test_all_faults_are_told_at_once_and_a_sound_specification_has_none() -> None:
    assert faults(SPEC) == []
    wrong = replace(SPEC, crop=0, interpolation="?", colour_order="?", value_range=(), std=())
    assert [fault.split()[0] for fault in faults(wrong)] == [
        "spec.crop",
        "spec.interpolation",
        "spec.colour_order",
        "spec.value_range",
        "spec.std",
    ]
