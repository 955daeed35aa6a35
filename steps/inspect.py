"""Inspect: what the chosen model looks at, what its features hold, and which images to label next."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Interval
from PIL import Image

from steps.backbones import models
from steps.backbones.activation import heat_of, last_map, tinted
from steps.backbones.backbone import Grafted
from steps.backbones.inference import predict_probabilities
from steps.evaluation import advice, robustness
from steps.evaluation.feature_map import lay_out, nearest
from steps.evaluation.intervals import groups_of, sampled
from steps.evaluation.results import Evaluation, Robustness
from steps.images.decoding import read_image
from steps.images.manifest import TEST, TRAIN, UNLABELLED, VAL, uniform
from steps.images.preprocessing import Preprocessing, centre_crop, normalise, resized
from steps.pages import findings
from steps.pages.album import Album
from steps.pages.figures_inspect import feature_map, worse_pictures
from steps.pages.inspection import AnsweredImage, Inspection, MapFacts, Neighbour, Proposal, ShownImage, ShownProposal
from steps.pages.rendering import Picture, inline_svg, picture
from steps.runtime import artefacts, files, stage
from steps.runtime.arrays import Floats
from steps.runtime.compute import ComputeParams, configure
from steps.runtime.feature_file import Features, read_features
from steps.runtime.seeding import derive, torch_generator
from steps.training.choice import HEAD

BUDGET = 1_000_000  # characters for all pictures of the chapter
CONFIDENCE = 0.95  # of the intervals of accuracy on corrupted pictures
LEAST_MAPPED = 10  # images: with fewer there is no map
STRETCH = 4096  # rows of the pool that the head answers at a time


@dataclass(frozen=True, kw_only=True)
class InspectParams:
    """How many answers are shown, how much is drawn, and how many images are proposed for labelling."""

    answers: Annotated[int, Interval(ge=1, le=48)]
    neighbours: Annotated[int, Interval(ge=1, le=10)]
    thumbnail: Annotated[int, Interval(ge=32, le=512)]
    most_points: Annotated[int, Interval(ge=LEAST_MAPPED, le=5000)]
    perplexity: Annotated[float, Interval(ge=2, le=100)]
    robustness_images: Annotated[int, Interval(ge=0, le=1000)]
    label_next: Annotated[int, Interval(ge=1, le=5000)]
    label_pictures: Annotated[int, Interval(ge=0, le=100)]


@dataclass(frozen=True)
class Known:
    """Every image of the project with its row of cached features, at the cut where the head was trained."""

    table: pd.DataFrame
    features: Features

    def part(self, *splits: str) -> pd.DataFrame:
        """Return the rows of these splits, one per image (copies under other names are left out), sorted by path."""
        return self.table[self.table["split"].isin(splits)].sort_values("path").drop_duplicates("id")

    def of(self, part: pd.DataFrame) -> Floats:
        """Return the features of these rows, [n, d]."""
        return self.features.of(part["id"])


def inspect(
    params: InspectParams,
    seed: int,
    compute: ComputeParams,
    raw: Path,
    screened: Path,
    preprocessing: Path,
    backbone: Path,
    features: Path,
    head: Path,
    fine_tuned: Path,
    evaluation: Path,
    predictions: Path,
    inspection: Path,
    label_next: Path,
) -> None:
    """Write what the report shows of this (JSON with pictures and SVG), and the CSV of images worth a label.

    Neighbours, map and advice use the cached features of the frozen backbone, even if the fine-tuned network was
    chosen: those features cost nothing. The activation pictures are the chosen model's.
    """
    judged, table = artefacts.read(Evaluation, evaluation), files.read_table(screened)
    known = Known(table, read_features(features, models.cut_of(head)))
    chosen, classes = judged.chosen, judged.classes
    answers = files.read_table(predictions)
    answers = answers[(answers["model"] == chosen) & (answers["split"] == TEST)]
    configure(compute)

    wrong = findings.mistakes(answers, chosen, classes)
    model = models.load_head_model(backbone, head) if chosen == HEAD else models.load_fine_tuned(backbone, fine_tuned)
    spec = models.read_preprocessing(preprocessing)
    album, look = Album(raw, params.thumbnail, BUDGET, spec.grey_bits), _Looks(model, spec, raw, params.thumbnail)
    shown = _with_neighbours(look.at(wrong[: params.answers], classes, album), known, params.neighbours, album)
    right = look.at(_right(answers, classes)[: params.answers], classes, album)
    facts, svg = _map(known, {image.id for image in wrong}, params, derive(seed, "inspect", "map") % 2**32)
    if chosen == HEAD:  # the refitted one has seen the validation images
        model = Grafted(model.backbone, models.load_head(head, refitted=False)).eval()
    robust = _robustness(model, known, look, classes, params.robustness_images, compute.batch_size, seed)
    picks = _advice(known, models.load_head(head, refitted=True), classes, params, derive(seed, "labels") % 2**32)
    proposals = [ShownProposal(**vars(pick), picture=_add(album, pick)) for pick in picks[: params.label_pictures]]

    files.write_json(
        inspection,
        Inspection(
            chosen=chosen,
            block=look.block,
            wrong=shown,
            wrong_total=len(wrong),
            right=right,
            map=facts,
            svg=svg | _drawn(robust),
            robustness=robust,
            pool=len(known.part(UNLABELLED)),
            asked=len(picks),
            label_next=tuple(proposals),
        ),
    )
    columns = ["path", "predicted", "margin", "stands_for", "rank"]
    listed = pd.DataFrame(map(vars, picks), columns=columns)
    files.write_text(label_next, str(listed.to_csv(index=False, lineterminator="\n")))


def _right(answers: pd.DataFrame, classes: Sequence[str]) -> list[AnsweredImage]:
    """Return the right answers in the order of their images' hashes, so that nobody chooses."""
    right = answers[answers["label"] == answers["predicted"]]
    rows = right.assign(order=right["id"].map(uniform)).sort_values("order")
    return [
        AnsweredImage(identity, path, label, predicted=label, of_predicted=float(chances[classes.index(label)]))
        for identity, path, label, chances in zip(
            rows["id"], rows["path"], rows["label"], rows["probabilities"], strict=True
        )
    ]


class _Looks:
    """Pictures as the network gets them, overlaid with the activations for its answer."""

    def __init__(self, model: Grafted, spec: Preprocessing, raw: Path, side: int) -> None:
        self.model, self.spec, self.raw, self.side = model, spec, raw, side
        self.block = last_map(model, spec.crop)

    def at(self, images: Sequence[AnsweredImage], classes: Sequence[str], album: Album) -> tuple[ShownImage, ...]:
        """Add a picture to each image and, if the network has feature maps, the region it answers from."""
        return tuple(
            ShownImage(**vars(image), picture=_add(album, image), heat=self._heat(image, classes, album))
            for image in images
        )

    def pixels(self, path: str, identity: str) -> torch.Tensor:
        """Return an image as the network gets it before normalisation, uint8 [3, crop, crop]."""
        return centre_crop(resized(read_image(self.raw, path, identity, self.spec.grey_bits), self.spec), self.spec)

    def _heat(self, image: AnsweredImage, classes: Sequence[str], album: Album) -> Picture | None:
        if self.block is None or album.budget <= 0:
            return None
        pixels = self.pixels(image.path, image.id)
        target = torch.tensor([classes.index(image.predicted)])
        heat = heat_of(self.model, self.block, normalise(pixels, self.spec)[None], target)[0]
        shown = picture(Image.fromarray(tinted(pixels, heat).permute(1, 2, 0).numpy()), self.side)
        album.budget -= len(shown.uri)
        return shown


def _add(album: Album, image: AnsweredImage | Proposal) -> Picture | None:
    return album.add(image.path, image.id)


def _with_neighbours(images: tuple[ShownImage, ...], known: Known, count: int, album: Album) -> tuple[ShownImage, ...]:
    """Add to each image the most similar training images: the model may have learned its answer from them."""
    train = known.part(TRAIN)
    if not images or train.empty:
        return tuple(replace(image, neighbours=()) for image in images)
    order, cosines = nearest(known.of(train), known.of(pd.DataFrame(map(vars, images))), count)

    def neighbour(index: int, cosine: float) -> Neighbour:
        identity, path, label = train[["id", "path", "label"]].iloc[index]
        return Neighbour(identity, path, label, round(float(cosine), 4), album.add(path, identity))

    return tuple(
        replace(image, neighbours=tuple(map(neighbour, indices, alike)))
        for image, indices, alike in zip(images, order, cosines, strict=True)
    )


def _map(known: Known, wrong: set[str], params: InspectParams, seed: int) -> tuple[MapFacts | None, dict[str, str]]:
    """Return two flat views of the labelled images' features as figures, and how well clusters match the classes."""
    part = known.part(TRAIN, TEST)
    part = part.assign(order=part["id"].map(uniform)).sort_values("order")[: params.most_points]
    if len(part) < LEAST_MAPPED or part["label"].nunique() < 2:
        return None, {}
    labels = part["label"].tolist()
    layout = lay_out(known.of(part), np.unique(labels, return_inverse=True)[1], params.perplexity, seed)
    rings = part["id"].isin(wrong).tolist()
    words = f"{len(part)} images on a flat map of their features, {{}}; a mark for each class, a ring on wrong answers"
    views = {"pca": (layout.pca, "principal components"), "tsne": (layout.tsne, "t-SNE")}
    svg: dict[str, str] = {
        f"inspect-{name}": inline_svg(feature_map(positions, labels, rings), f"inspect-{name}", words.format(how))
        for name, (positions, how) in views.items()
    }
    facts = MapFacts(
        images=len(part),
        of=len(known.part(TRAIN, TEST)),
        clusters=int(layout.clusters.max()) + 1,
        agreement=round(layout.agreement, 4),
        explained=round(layout.explained, 4),
    )
    return facts, svg


def _robustness(
    model: Grafted, known: Known, look: _Looks, classes: Sequence[str], most: int, batch_size: int, seed: int
) -> Robustness | None:
    """Return the robustness of the answers to some validation images under corruptions; None without such images.

    Validation images, because this must not be a look at the test set.
    """
    part = known.part(VAL)
    part = part.assign(order=part["id"].map(uniform)).sort_values("order")[:most]
    if part.empty:
        return None
    pixels = torch.stack([look.pixels(path, identity) for path, identity in zip(part["path"], part["id"], strict=True)])
    targets = np.searchsorted(classes, part["label"].tolist()).astype(np.int64)
    rng = torch_generator(seed, "inspect", "robustness")
    cluster = sampled(targets, groups_of(part)).cluster
    return robustness.look(model, pixels, targets, cluster, look.spec, rng, batch_size, CONFIDENCE)


def _drawn(result: Robustness | None) -> dict[str, str]:
    if result is None:
        return {}
    figure, words = worse_pictures(result.rows)
    return {"inspect-robustness": inline_svg(figure, "inspect-robustness", words)}


def _advice(
    known: Known, head: torch.nn.Module, classes: Sequence[str], params: InspectParams, seed: int
) -> list[Proposal]:
    """Return the images of the pool most worth a label, with the head's answers; none if there is no pool."""
    pool = known.part(UNLABELLED)
    if pool.empty:
        return []
    rows = known.of(pool)
    stretches = (torch.from_numpy(rows[start : start + STRETCH]) for start in range(0, len(rows), STRETCH))
    probabilities = np.concatenate([predict_probabilities(head, stretch) for stretch in stretches])
    return [
        Proposal(
            id=pool["id"].iloc[pick.row],
            path=pool["path"].iloc[pick.row],
            predicted=classes[int(probabilities[pick.row].argmax())],
            margin=round(pick.margin, 4),
            stands_for=pick.stands_for,
            rank=rank,
        )
        for rank, pick in enumerate(advice.next_labels(rows, probabilities, params.label_next, seed), 1)
    ]


if __name__ == "__main__":
    stage.main(inspect)
