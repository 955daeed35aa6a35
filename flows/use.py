"""`regraft use`: point the project at images and at a backbone, and params.yaml at the backbone's preprocessing.

What looks at the request and the images comes first, and loads no torch: a wrong folder is refused at once.
"""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.arrival import incoming, put_in_place
from flows.lost_classes import LOST, at_use, change_of_task
from flows.overview import DIGITS, Look, Overview, look, of_raw
from flows.project import editing_params
from flows.sources import BACKBONE, MEMORY, RAW, SOURCE, Source, mirror, read_source, tracked, write_source
from steps.checks.rule import FAIL
from steps.commands.wishes import AS_IT_IS, Wishes
from steps.errors import DataError, RequestError
from steps.images.manifest import look_alikes
from steps.runtime import files, params

if TYPE_CHECKING:  # torch
    from steps.backbones.models import Card
    from steps.commands.origins import Loaded

PARAMS = "params.yaml"
CARD = "card.json"  # of `backbones.models`, which loads torch
FLIPS = "fine_tune.horizontal_flip and baselines.horizontal_flip are"


@dataclass(frozen=True)
class Inputs:
    """The images and the backbone that a project uses from now on, and what was written to params.yaml.

    `weights` says how the file of weights was read, and where its preprocessing comes from.
    """

    images: str
    overview: Overview
    backbone: str
    weights: tuple[str, ...]
    params: tuple[str, ...]

    def plain(self) -> dict[str, object]:
        """Return JSON values."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Return text for a person."""
        return [
            f"images    {self.images}",
            *self.overview.lines(),
            f"backbone  {self.backbone}",
            *_below("weights", self.weights),
            *_below("params", self.params),
            "next      regraft run",
        ]


def _below(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{'' if i else head:10}{line}" for i, line in enumerate(lines)]


def use(
    root: Path,
    images: str,
    backbone: str | None,
    weights: str | None,
    accept: bool,
    packed: bool | None = None,
    wishes: Wishes = AS_IT_IS,
    labels: str | None = None,
    follow_links: bool | None = None,
) -> Inputs:
    """Set images and backbone; return what is set.

    `images` is a folder, a CSV or Parquet listing, or `digits`; `accept` allows other weights under the name of the
    current backbone; `packed`, `labels` and `follow_links` as in `Source`; `wishes` are about the weights. Raises
    RequestError or DataError, with nothing changed, if one of them does not exist or does not fit.
    """
    put_in_place(root)
    _check(root, images, backbone, weights, wishes)
    shown = None if images == DIGITS else look(root, images, packed, labels, follow_links)
    made = _backbone(images, backbone, weights, wishes)
    with incoming(root) as new:  # everything is checked in here, before anything changes
        if made:
            _prepare_backbone(new / BACKBONE, root / BACKBONE, *made, accept)
            shutil.copyfile(root / PARAMS, new / PARAMS)
            _write_params(new, made[0])
        _prepare_images(new, root, shown)
    tracked(root, shown.source if shown else None).close()
    return _inputs(root, images, shown.overview if shown else of_raw(root / RAW), made is not None)


def _check(root: Path, images: str, backbone: str | None, weights: str | None, wishes: Wishes) -> None:
    """Refuse options that do not fit one another, and images that would be lost."""
    if backbone is None and not (root / BACKBONE / CARD).exists() and images != DIGITS:
        raise RequestError(
            "which backbone? e.g. --backbone resnet18 (any classification model of torchvision, or timm:NAME)"
        )
    if weights and backbone is None:
        raise RequestError("--weights needs --backbone: which architecture are they for?")
    if wishes != AS_IT_IS and backbone is None:
        raise RequestError("--preprocessing and --weights-part need --backbone")
    _refuse_to_lose(root)


def _refuse_to_lose(root: Path) -> None:
    raw = root / RAW
    known = (root / f"{RAW}.dvc").exists() or (root / SOURCE).exists()
    if raw.is_dir() and any(raw.iterdir()) and not known:
        raise RequestError(f"{RAW} holds files that regraft did not put there; move them elsewhere and `use` them")


def _backbone(images: str, name: str | None, weights: str | None, wishes: Wishes) -> "Loaded | None":
    from steps.commands import origins

    if name is None:
        return origins.embedded() if images == DIGITS else None
    return origins.named(name, weights, wishes)


def _prepare_backbone(new: Path, old: Path, card: "Card", state: dict[str, Any], accept: bool) -> None:
    from steps.backbones import models

    files.write_tensors(new / models.WEIGHTS, state)
    card = replace(card, sha256=files.sha256_of(new / models.WEIGHTS))
    models.write_card(new, card)
    if not accept:
        _check_pin(old, card)


def _check_pin(folder: Path, card: "Card") -> None:
    """Refuse other weights under the same name: the first use of a name pins its weights.

    The name is that of the backbone and its origin: torchvision's weights entry, the name of a local file
    without its folder, or the version in the registry.
    """
    from steps.backbones import models

    if not (folder / CARD).exists():
        return
    pinned = models.read_card(folder)
    if (pinned.name, pinned.source) == (card.name, card.source) and pinned.sha256 != card.sha256:
        raise RequestError(
            f"{card.name} ({card.source}) is pinned to digest {pinned.sha256[:12]}, these weights have "
            f"{card.sha256[:12]}; bring back the file that was used first, give the new one a name of its own, or say "
            "--accept-new-weights"
        )


def _flips(card: "Card") -> bool:
    """Return True if a mirrored image shows the same thing: of photographs, not of the characters of our own."""
    return card.architecture != "glyphnet"


def _write_params(root: Path, card: "Card") -> None:
    """Write the params that depend on the backbone into params.yaml, keeping its comments."""
    with editing_params(root) as document:
        section = document["validate"]["preprocessing"]
        for name, value in card.preprocessing.to_dict().items():
            if isinstance(value, list):
                section[name][:] = value
            else:
                section[name] = value
        for name in ("fine_tune", "baselines"):
            document[name]["horizontal_flip"] = _flips(card)


def _prepare_images(new: Path, root: Path, shown: Look | None) -> None:
    """Put images and source into `new`; if the source is the current one, mirror it in place, as each run does."""
    source = shown.source if shown else None
    raw = (root if source and _is_current(source, root) else new) / RAW
    if shown is None:
        from steps.embedded.digits import write_digits

        write_digits(raw, seed=0)
    else:
        mirror(shown.source, raw, root / MEMORY, shown.seen)
    _refuse_look_alikes(root, raw)
    write_source(new, source, at_use(root, raw))
    files.write_json(new / LOST, [])


def _refuse_look_alikes(root: Path, raw: Path) -> None:
    """Refuse classes whose names look alike at once, if the gate would; a folder that cannot be read is `ingest`'s."""
    from steps.checks.rules import ALIKE_REMEDY
    from steps.ingest import label_counts

    severity = params.read(root)["validate"]["severity"]
    with suppress(DataError):
        if severity.get("alike_labels") == FAIL and (alike := look_alikes(label_counts(raw))):
            raise RequestError(f"classes look alike: {'; '.join(alike)}: one class or two? {ALIKE_REMEDY}")


def _is_current(source: Source, root: Path) -> bool:
    try:
        current = read_source(root)
    except RequestError:  # gone or damaged: it is about to be replaced
        return False
    if current is None:
        return False
    return replace(current, packed=source.packed) == source


def _inputs(root: Path, images: str, seen: Overview, changed: bool) -> Inputs:
    from steps.backbones import models
    from steps.commands.origin_words import sentences
    from steps.images import shards

    source, card = read_source(root), models.read_card(root / BACKBONE)
    seen = replace(seen, notes=(*seen.notes, *change_of_task(root, seen.classes)))
    count = sum(p.is_file() for p in (root / RAW).rglob("*"))
    packed = shards.opened(root / RAW)
    held = f"{len(packed.paths)} files, packed in {RAW}" if packed else f"{count} files in {RAW}"
    where = f"mirrored from {source.path}" if source else f"the embedded example {images!r}"
    top = ", without its top" if card.cut is not None else ""
    read = tuple(sentences(card)) if changed else ()
    written = _written(card) if changed else ()
    return Inputs(f"{held}, {where}", seen, f"{card.name}, digest {card.sha256[:12]}{top}", read, written)


def _written(card: "Card") -> tuple[str, str]:
    """Return what `_write_params` wrote, in words."""
    flips = "true; false where a mirrored image means another thing (text, left and right)"
    return (
        "validate.preprocessing follows the backbone's card",
        f"{FLIPS} {flips if _flips(card) else 'false: a mirrored character is another one'}",
    )
