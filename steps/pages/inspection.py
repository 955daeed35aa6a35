"""The results of `inspect`, as in inspect.json, pictures and figures included."""

from dataclasses import dataclass, field

from steps.evaluation.results import Robustness
from steps.pages.rendering import Picture
from steps.runtime.artefacts import OPTIONAL


@dataclass(frozen=True)
class AnsweredImage:
    """A test image and its answer, with the probability of the answer and, if it is wrong, of the true class."""

    id: str
    path: str
    label: str
    predicted: str
    of_predicted: float
    of_label: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Neighbour:
    """A training image whose features lie near those of a test image; `likeness` is their cosine."""

    id: str
    path: str
    label: str
    likeness: float
    picture: Picture | None


@dataclass(frozen=True, kw_only=True)
class ShownImage(AnsweredImage):
    """An answer with its picture, its activation map and, if it is wrong, the nearest training images."""

    picture: Picture | None
    heat: Picture | None
    neighbours: tuple[Neighbour, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class MapFacts:
    """How well clusters found without labels agree with the classes, on `images` of the `of` labelled ones."""

    images: int
    of: int
    clusters: int
    agreement: float
    explained: float


@dataclass(frozen=True)
class Proposal:
    """An image of the pool worth a label; see `evaluation.advice`."""

    id: str
    path: str
    predicted: str
    margin: float
    stands_for: int
    rank: int


@dataclass(frozen=True)
class ShownProposal(Proposal):
    """A proposal with its picture."""

    picture: Picture | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """inspect.json: `block` outputs the network's last feature map, `svg` maps a figure's name to its text."""

    chosen: str
    block: str | None
    wrong: tuple[ShownImage, ...]
    wrong_total: int
    right: tuple[ShownImage, ...]
    map: MapFacts | None
    svg: dict[str, str]
    robustness: Robustness | None
    pool: int
    asked: int
    label_next: tuple[ShownProposal, ...]
