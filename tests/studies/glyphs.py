"""What the embedded backbone learns from: characters of matplotlib's fonts, distorted until they look handwritten.

A glyph is kept as its signed distance field, in pixels, positive inside the ink: bending it is one resampling, and
the width of the pen is one threshold. The last step is the one by which the real digits came to be: a 32 x 32 bitmap
counted in blocks of 4 x 4, hence 17 grey levels.
"""

import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

CANVAS = 64  # side of a distance field, pixels
GLYPH = 44  # longer side of the glyph on it: room to rotate and to thicken
BITMAP, BLOCK = 32, 4  # side of the binary picture, and of the blocks that are counted in it
BATCH = 2048  # glyphs bent at a time: 64 MB

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmb10",
    "cmr10",
    "cmss10",
    "cmti10",
    "cmtt10",
)
LETTERS_ONLY = "cm"  # Computer Modern puts other signs in place of the punctuation: ¿ for >, for one
# Latin, Latin with its own shapes, Greek, Cyrillic, Armenian, Hebrew, Georgian: inclusive ends.
RANGES = ("!~", "Αω", "Ая", "ԱՖ", "աֆ", "את", "აჰ")
MORE = "ßæøœþðđħŋſ£¥§¶¿€"
TOO_PLAIN = frozenset(".,:;'\"`_-~^|!")  # a stroke or two: at 8 x 8 they are one another, or a 1


@dataclass(frozen=True)
class Distortion:
    """How far a glyph is bent; each value is drawn evenly, up to the bound or between the two."""

    rotation: float = 0.2  # radians
    shear: float = 0.3  # horizontal, per unit of height
    stretch: float = 0.2  # log of the width's factor
    elastic: float = 0.1  # standard deviation of a 4 x 4 grid of shifts, in half canvases
    pen: tuple[float, float] = (3.0, 6.5)  # half the stroke, in canvas pixels: about one or two pixels of 8
    thickest: float = 4.0  # most that is added to a stroke's side
    thinnest: float = 0.6  # most that is taken off, as a share of the widest half stroke: thin lines must not break
    narrow: tuple[float, float] = (0.9, 1.2)  # width of the cut over the glyph's height: digits are narrow
    wide: float = 1.25  # ... but at least this much over the glyph's width
    flat: float = 0.75  # height of the cut, at least this much over the glyph's width
    margin: tuple[float, float] = (0.98, 1.08)  # height of the cut over the glyph's
    shift: tuple[float, float] = (0.7, 0.2)  # of the cut, horizontal and vertical, in pixels of 8


@dataclass(frozen=True)
class Glyphs:
    """Undistorted glyphs: float32 fields [m, 64, 64], the class [m] and the font [m] of each."""

    fields: torch.Tensor
    labels: torch.Tensor
    fonts: torch.Tensor


def _characters() -> tuple[str, ...]:
    inside = [chr(code) for ends in RANGES for code in range(ord(ends[0]), ord(ends[1]) + 1)]
    return tuple(c for c in [*inside, *MORE] if unicodedata.category(c)[0] in "LPS" and c not in TOO_PLAIN)


CHARACTERS = _characters()  # one class each: letters, punctuation and symbols; no digit and no other number


@cache
def glyphs() -> Glyphs:
    """Return every character in every font that has it."""
    found = [
        (_field(character, font), label, number)
        for number, (name, font, known) in enumerate(_fonts())
        for label, character in enumerate(CHARACTERS)
        if ord(character) in known
        and (not name.startswith(LETTERS_ONLY) or (character.isascii() and character.isalpha()))
    ]
    fields, labels, fonts = zip(*found, strict=True)
    return Glyphs(torch.from_numpy(np.stack(fields)), torch.tensor(labels), torch.tensor(fonts))


def _fonts() -> list[tuple[str, ImageFont.FreeTypeFont, set[int]]]:
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    paths = [folder / f"{name}.ttf" for name in FONTS]
    # The basic layout: with libraqm present Pillow would shape the text, and other machines would draw other pixels.
    return [(p.stem, ImageFont.truetype(p, 160, layout_engine=ImageFont.Layout.BASIC), _known(p)) for p in paths]


def _known(path: Path) -> set[int]:
    return set(FT2Font(path).get_charmap())


def _field(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    page = Image.new("L", (320, 320))
    ImageDraw.Draw(page).text((160, 160), character, fill=255, font=font, anchor="mm")
    glyph = page.crop(page.getbbox())
    scale = GLYPH / max(glyph.size)
    glyph = glyph.resize((_side(glyph.width, scale), _side(glyph.height, scale)), Image.Resampling.BOX)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(glyph, ((CANVAS - glyph.width) // 2, (CANVAS - glyph.height) // 2))
    ink = np.asarray(canvas) > 127
    return np.asarray(distance_transform_edt(ink) - distance_transform_edt(~ink), dtype=np.float32)


def _side(pixels: int, scale: float) -> int:
    return max(1, round(pixels * scale))


def render(
    count: int, generator: torch.Generator, distortion: Distortion | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `count` distorted glyphs, uint8 [count, 8, 8] (white on black), and their classes [count].

    Classes are drawn evenly, then one of the fonts that have the character. The same generator, the same bytes.
    """
    source = glyphs()
    classes = len(CHARACTERS)
    order = torch.argsort(source.labels, stable=True)
    sizes = torch.bincount(source.labels, minlength=classes)
    starts = torch.cumsum(sizes, 0) - sizes
    labels = torch.randint(classes, (count,), generator=generator)
    picks = order[starts[labels] + (torch.rand(count, generator=generator) * sizes[labels]).long()]
    bent = [distort(source.fields[b], generator, distortion or Distortion()) for b in torch.split(picks, BATCH)]
    return torch.cat(bent), labels


def distort(fields: torch.Tensor, generator: torch.Generator, distortion: Distortion) -> torch.Tensor:
    """Bend, write with another pen, fit to the frame and count the ink: [n, 64, 64] -> uint8 [n, 8, 8]."""
    written = _pen(_bend(fields, generator, distortion), generator, distortion)
    cut = _frame(written, generator, distortion)
    grid = F.affine_grid(cut, [len(fields), 1, BITMAP, BITMAP], align_corners=False)
    ink = F.grid_sample(written[:, None], grid, padding_mode="border", align_corners=False) > 0
    shades = F.avg_pool2d(ink.float(), BLOCK)[:, 0]  # multiples of 1/16
    return torch.round(shades * 255).to(torch.uint8)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def _bend(fields: torch.Tensor, generator: torch.Generator, d: Distortion) -> torch.Tensor:
    n = len(fields)
    angle, shear = (_uniform(n, -bound, bound, generator) for bound in (d.rotation, d.shear))
    stretch = torch.exp(_uniform(n, -d.stretch, d.stretch, generator))
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [cos * stretch, shear * cos - sin, sin * stretch, cos + shear * sin]
    affine = F.pad(torch.stack(rows, 1).view(n, 2, 2), (0, 1))
    grid = F.affine_grid(affine, [n, 1, CANVAS, CANVAS], align_corners=False)
    shifts = torch.randn(n, 2, 4, 4, generator=generator) * d.elastic
    smooth = F.interpolate(shifts, size=(CANVAS, CANVAS), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(fields[:, None], grid + smooth, padding_mode="border", align_corners=False)[:, 0]


def _pen(fields: torch.Tensor, generator: torch.Generator, d: Distortion) -> torch.Tensor:
    widest = fields.flatten(1).amax(1)
    off = (widest - _uniform(len(fields), *d.pen, generator)).clamp(min=-d.thickest).minimum(widest * d.thinnest)
    return fields - off[:, None, None]


def _frame(fields: torch.Tensor, generator: torch.Generator, d: Distortion) -> torch.Tensor:
    """Return the affine maps [n, 2, 3] from the frame to the canvas: as high as the glyph, and about as wide."""
    n, ink = len(fields), fields > 0
    (left, right), (top, bottom) = _ends(ink.any(1)), _ends(ink.any(2))
    width, height = right - left, bottom - top
    across = torch.maximum(height * _uniform(n, *d.narrow, generator), width * d.wide)
    down = torch.maximum(height, width * d.flat) * _uniform(n, *d.margin, generator)
    cells = BITMAP // BLOCK
    aside, up = (_uniform(n, -s, s, generator) * (2 / cells) for s in d.shift)
    maps = torch.zeros(n, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1] = across / CANVAS, down / CANVAS
    maps[:, 0, 2] = (left + right) / CANVAS - 1 + aside * across / CANVAS
    maps[:, 1, 2] = (top + bottom) / CANVAS - 1 + up * down / CANVAS
    return maps


def _ends(inked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return first and one past the last true position of bool [n, 64], as float32 [n]."""
    places = torch.arange(CANVAS, dtype=torch.float32)
    first = torch.where(inked, places, CANVAS).amin(1)
    return first, torch.where(inked, places, -1.0).amax(1) + 1
