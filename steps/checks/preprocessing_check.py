"""The preprocessing as declared, and as observed on a sample that passes through the real loader and network."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from steps.backbones import models
from steps.backbones.backbone import without_top
from steps.backbones.finite import refuse_infinite
from steps.checks import grey_levels, witnesses
from steps.checks.grey_levels import rounded
from steps.checks.reports import Account, FieldAgreement, Observation, Pictured, SupportedFinding
from steps.checks.rules import DECLARED
from steps.checks.witnesses import Seen
from steps.images.dataset import Images
from steps.images.manifest import TRAIN, VAL
from steps.images.preprocessing import Preprocessing, normalise
from steps.runtime.progress import track

COUNTED = 32  # images, approximately, whose grey levels are counted: a fault of the loader affects every image
FIELDS = {witnesses.COLOUR_ORDER: ("colour_order",), witnesses.STATISTICS: ("value_range", "mean", "std")}
SHOWN = 4  # pictures that a page shows as stored and as an account would have them


def contract(pipeline: Preprocessing, backbone: Preprocessing) -> tuple[FieldAgreement, ...]:
    """Compare field by field what the pipeline will do with what the backbone expects."""
    ours, theirs = pipeline.to_dict(), backbone.to_dict()
    return tuple(FieldAgreement(name, ours[name], theirs[name], ours[name] == theirs[name]) for name in ours)


def observe(images: Images, backbone: Path, sample: int, seed: int, ask: bool = True) -> Observation:
    """Return the observations on a sample of training and validation images.

    What the weights recognise is tested only with `ask`, and only if the images were processed as declared. Raises
    RequestError if the network's outputs are not finite.
    """
    card, network = models.load_with_top(backbone)
    table = images.part(TRAIN, VAL).sort_values("id").head(sample)
    spec, some = images.spec, replace(images, table=table)
    pixels, counted = _loaded(some, max(1, len(table) // COUNTED))
    accounts = [
        Account(name, grey_levels.on_grid(x, spec), grey_levels.input_distance(x, spec, card.input_statistics))
        for name, x in grey_levels.undone(counted, spec).items()
    ]
    done = grey_levels.done(accounts)
    shown = Sample(network, pixels, spec, images.compute.batch_size, card.cut is None, seed)
    refuse_infinite(table.sort_values("path")["path"].tolist(), shown.seen(spec).outputs(), "float32")
    asked = witnesses.questions(spec, pixels, card.input_statistics) if ask and done == DECLARED else {}
    colourful = (pixels[:, 0].int() - pixels[:, 2].int()).abs().float().mean((1, 2)).argsort(descending=True)[:SHOWN]
    most_colourful = table.sort_values("path").iloc[colourful.tolist()]
    wanted = tuple(shown.finding(question, of) for question, of in asked.items())
    return Observation(
        done=done,
        accounts=tuple(Account(a.account, rounded(a.on_grid), rounded(a.inputs)) for a in accounts),
        wanted=wanted,
        source_divergence=_by_block(card, network, shown.seen(spec)),
        shown=tuple(Pictured(*row) for row in most_colourful[["path", "id"]].itertuples(index=False, name=None)),
    )


def _by_block(card: models.Card, network: nn.Module, seen: Seen) -> dict[str, float | None]:
    """Cut the top off in place, if the network has one: whatever uses the top has to run before."""
    backbone = network if card.cut is not None else without_top(network)[0]
    nats = witnesses.by_block(backbone, witnesses.norm_distances(seen))
    return {block: None if value is None else rounded(value) for block, value in nats.items()}


def _loaded(images: Images, every: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loader's output as pixels, uint8 RGB [n, 3, h, w], and every `every`-th of its own tensors."""
    pixels, kept, start = [], [], 0
    for tensors, _, _ in images.batches(TRAIN, VAL):
        pixels.append(grey_levels.pixels_of(tensors, images.spec))  # batch by batch: it uses float64
        kept.append(tensors[-start % every :: every])
        start += len(tensors)
    return torch.cat(pixels), torch.cat(kept)


@dataclass(frozen=True, eq=False)
class Sample:
    """The network under test, and the pictures that it is tested on: uint8 RGB [n, 3, h, w]."""

    network: nn.Module
    pixels: torch.Tensor
    declared: Preprocessing
    batch_size: int
    has_top: bool
    seed: int
    kept: dict[tuple[Preprocessing, bool], Seen] = field(default_factory=dict)

    def seen(self, spec: Preprocessing, shuffled: bool = False) -> Seen:
        """Return the network's outputs for the pictures, prepared as `spec` says, optionally with shuffled tiles."""
        if (spec, shuffled) not in self.kept:
            pixels = witnesses.shuffled(self.pixels, self.seed) if shuffled else self.pixels
            self.kept[spec, shuffled] = witnesses.watch(self.network, self._batches(pixels, spec), self.has_top)
        return self.kept[spec, shuffled]

    def _batches(self, pixels: torch.Tensor, spec: Preprocessing) -> Iterator[torch.Tensor]:
        batches = (normalise(batch, spec) for batch in torch.split(pixels, self.batch_size))
        return track(batches, len(pixels), "observing the preprocessing", self.batch_size)

    def finding(self, question: str, accounts: dict[str, Preprocessing]) -> SupportedFinding:
        """Return the finding on one question, with the evidence behind it."""
        coloured = witnesses.is_coloured(self.pixels)
        finding, evidence = witnesses.answer(question, self.declared, accounts, coloured, self.seen)
        wants = accounts[finding.account].to_dict() if finding.account in accounts else {}
        return SupportedFinding(
            **vars(finding),
            wants={name: wants[name] for name in FIELDS[question] if wants},
            evidence=tuple(
                replace(row, declared=rounded(row.declared), figure=rounded(row.figure), t=rounded(row.t))
                for row in evidence
            ),
        )
