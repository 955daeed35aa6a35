"""Self-contained HTML pages: figures become inline SVG, pictures data URIs, and every label stays text."""

import base64
import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from steps.errors import visible

if TYPE_CHECKING:  # the page of an outcome is text alone; it must not wait for matplotlib
    from matplotlib.figure import Figure
    from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
ABSENT = "–"
SIGN = "\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Picture:
    """A small copy of an image: its data URI and its size in pixels."""

    uri: str
    width: int
    height: int


def inline_svg(figure: "Figure", name: str, title: str) -> Markup:
    """Turn a figure into SVG for the inside of a page: its ids start with `name`, its colours follow the page.

    The same figure gives the same text. `title` is what a screen reader reads instead of the figure.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser has the letters that matplotlib's font lacks
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = ElementTree.fromstring(buffer.getvalue())  # noqa: S314  # matplotlib wrote it a line above
    for group in svg.iter():
        for child in [c for c in group if _local(c.tag) in ("metadata", "style")]:
            group.remove(child)  # the style would reach every other figure of the page
    for node in svg.iter():
        node.tag = _local(node.tag)
        node.attrib = {_local(key): _rewritten(_local(key), value, name) for key, value in node.attrib.items()}
    _describe(svg, name, title)
    return Markup(visible(ElementTree.tostring(svg, encoding="unicode")))  # noqa: S704  # ElementTree escaped the labels


def _printable(value: Any) -> Any:
    """Spell out control characters in the text of a page, also those that would turn the direction of what follows."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _rewritten(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return f"{prefix}-{value}"
    if key != "style":
        return value.replace("#", f"#{prefix}-")  # href="#m1", clip-path="url(#p1)"
    from steps.pages.figures import COLOURS

    kept = [rule for rule in value.split("; ") if not rule.startswith("font-family")]
    style = "; ".join(kept)
    for name, colour in COLOURS.items():
        style = style.replace(colour, f"var(--{name})")
    return style


def _describe(svg: ElementTree.Element, name: str, title: str) -> None:
    from steps.pages.figures import printable

    width, height = (float(number) for number in svg.attrib["viewBox"].split()[2:])
    svg.attrib = {
        "viewBox": svg.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{name}-title",
        # From 0.85 (a small telephone) to 1.4 times the drawn size; a wider figure scrolls inside its frame
        "style": f"min-width: {0.85 * width:.0f}px; max-width: {1.4 * width:.0f}px; "
        f"aspect-ratio: {width:.0f} / {height:.0f}",
    }
    described = ElementTree.Element("title", {"id": f"{name}-title"})
    described.text = printable(title)
    svg.insert(0, described)


def picture(image: "Image.Image", side: int) -> Picture:
    """Shrink an RGB image into a square of `side` pixels; never enlarges. Same image, same text."""
    shown = image.copy()
    shown.thumbnail((side, side))
    shown.info = {}  # comments and profiles of the original: weight, and nobody's business
    tiny = max(shown.size) <= 64  # here JPEG's artefacts would be seen, and PNG costs little
    buffer = io.BytesIO()
    shown.save(buffer, **({"format": "PNG"} if tiny else {"format": "JPEG", "quality": 80, "optimize": True}))
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/{'png' if tiny else 'jpeg'};base64,{encoded}", *shown.size)


def percent(share: float | None) -> str:
    """Format a share in [0, 1] as a percentage with one decimal; a dash for None or NaN."""
    return ABSENT if share is None or math.isnan(share) else f"{100 * share:.1f}{SIGN}"


def decimal(number: float | None) -> str:
    """Format a number with three decimals, or with none in the thousands; a dash for None or NaN."""
    if number is None or math.isnan(number):
        return ABSENT
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3f}"


def interval(figure: Any, confidence: float) -> str:
    """Format the interval of a share for a reader in a hurry: "95 % interval 87.6 to 95.9"; empty if unknown."""
    low, high = figure.low, figure.high
    if low is None or high is None:
        return ""
    return f"{100 * confidence:g}{SIGN} interval {100 * low:.1f} to {100 * high:.1f}"


def ticks(start: float, stop: float, least: int = 3) -> list[float]:
    """Return the roundest numbers of an axis from `start` to `stop`, both included: `least` of them or a few more.

    Multiples of 1, 2 or 5 times a power of ten; the widest step that gives enough.
    """
    power = math.ceil(math.log10(stop - start))
    for exponent in range(power, power - 4, -1):
        for step in (5 * 10.0**exponent, 2 * 10.0**exponent, 10.0**exponent):
            first, last = math.ceil(start / step - 1e-9), math.floor(stop / step + 1e-9)
            if last - first + 1 >= least:
                return [round(multiple * step, 12) for multiple in range(first, last + 1)]
    raise ValueError(f"no axis from {start} to {stop}")


def bounds(figure: Any, confidence: float, share: bool = True, method: bool = True) -> str:
    """Format the interval of a figure: "87.6 to 95.9, Wilson 95 %", or its ends alone; empty if unknown."""
    low, high = figure.low, figure.high
    if low is None or high is None:
        return ""
    ends = " to ".join(f"{100 * end:.1f}" if share else f"{end:.3f}" for end in (low, high))
    if not method:
        return ends
    return f"{ends}, {figure.method} {100 * confidence:g}{SIGN}"


def points(share: float | None) -> str:
    """Format a difference of shares in percentage points, with its sign: "+0.8 points"; a dash for None or NaN."""
    return ABSENT if share is None or math.isnan(share) else f"{100 * share:+.1f} points"


def between(figure: Any) -> str:
    """Format the interval of a difference of shares: "-0.3 to +1.9"."""
    return " to ".join(ABSENT if end is None else f"{100 * end:+.1f}" for end in (figure.low, figure.high))


def chance(p: float) -> str:
    """Format a p-value: "< 0.001", three decimals if it is small, two otherwise."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def sentence(text: str) -> str:
    """Capitalise a sentence's first letter; the rest stays unchanged."""
    return text[:1].upper() + text[1:]


def markdown(text: str) -> Markup:
    """Escape a text for Markdown, table cells included, so that nothing in it becomes markup."""
    return Markup(re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", " ".join(text.split())))  # noqa: S704  # escaped right here


def coded(text: str) -> Markup:
    """Escape a text for HTML and set what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # escaped right here


def plain(value: object) -> str:
    """Format any JSON value for a reader: 4 significant digits, yes or no, lists and mappings with commas.

    Thousands are separated, and only numbers very close to zero are written as powers of ten.
    """
    if value is None or isinstance(value, bool):
        return {None: ABSENT, True: "yes", False: "no"}[value]
    if isinstance(value, int | float):
        return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(of_key)}" for key, of_key in value.items()) or ABSENT
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or ABSENT
    return str(value)


def few(names: Sequence[str], limit: int = 12) -> str:
    """List names with commas, at most `limit` of them: "ants, bees and 3 more"."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def counted(n: int, one: str, many: str = "") -> str:
    """Count things in words: "1 image", "1,024 images"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(disabled_extensions=["md"], default=True),  # there an apostrophe is no markup
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        percent=percent,
        decimal=decimal,
        bounds=bounds,
        interval=interval,
        points=points,
        between=between,
        chance=chance,
        sentence=sentence,
        markdown=markdown,
        coded=coded,
        plain=plain,
        few=few,
        counted=counted,
        grouped="{:,}".format,
    )
    environment.globals["ticks"] = ticks
    return environment


def render(template: str, **values: object) -> str:
    """Fill a template of `steps/pages/templates`; a missing name is an error.

    In HTML all values are escaped; in Markdown only those that pass through `markdown`, as every user's text must.
    """
    return _environment().get_template(template).render(values)
