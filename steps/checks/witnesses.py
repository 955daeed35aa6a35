"""The preprocessing that the weights expect, by two witnesses: BatchNorm's statistics, and the weights' own top.

BatchNorm keeps the mean and variance of its inputs in training. A network's own top, if the file still has one, gives
firmer answers to pictures that are prepared as in its training. Neither is proof. BatchNorm's statistics come from
random resized crops, so the right evaluation preprocessing is not the one nearest to them (Touvron et al. 2019,
"Fixing the train-test resolution discrepancy"): accounts of scale, crop and filter are not tested. And for both
witnesses, pictures unlike the source's lie nearer to *some* wrong account. So a witness accuses the declared
preprocessing only if another account brings the pictures into the range of the source, and by more than the choice of
these images explains. Figures behind the limits: docs/validation.md.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import torch
from scipy import stats
from torch import nn

from steps.backbones.backbone import BATCH_NORMS, blocks
from steps.backbones.inference import channels_last
from steps.checks.grey_levels import Source, divergence, other_families
from steps.checks.reports import Evidence, Finding, Vote
from steps.checks.rules import DECLARED, SWAPPED, UNTOLD
from steps.images.preprocessing import ColourOrder, Preprocessing
from steps.runtime.arrays import Floats
from steps.runtime.seeding import torch_generator

COLOUR_ORDER, STATISTICS = "colour order", "mean and std"  # the two questions
NORMS, TOP = "BatchNorm", "top"  # the two witnesses
GROUPS = 20  # parts of the sample, left out in turn: how much a distance depends on the images
LEAST = 40  # images; with fewer, there is no evidence
LEVEL = 0.01  # one-sided significance level of a gain, over all accounts together
COLOURED = 2.0  # grey levels between red and blue on average; below, the pictures are grey
NEAR = 0.15  # nats; photographs of many kinds lie within 0.04 to 0.13 of BatchNorm's statistics, drawings from 0.16 on
CLEARLY = 0.7  # share of the declared distance under which another account is nearer than any usual difference
VARIED = 0.1  # of log(classes): information of the answers about the pictures; a top with one answer knows nothing
TILES = 7  # per side, shuffled: if their order does not matter under an account, the weights did not learn under it


@dataclass(frozen=True)
class Seen:
    """A network's outputs on n pictures, for the witnesses.

    `moments` holds mean and mean square per picture and channel at each BatchNorm, float32 [n, 2, channels];
    `source` the statistics that it keeps, float32 [2, channels]: mean and standard deviation. `norms` names the
    BatchNorms with their channels, in order; `answers` holds log-probabilities [n, classes], None without a top.
    """

    moments: torch.Tensor
    source: torch.Tensor
    norms: tuple[tuple[str, int], ...]
    answers: torch.Tensor | None

    def outputs(self) -> list[Floats]:
        """Return the mean and root mean square of each channel, and the answers, float32 [n, width] each."""
        means, squares = self.moments.unbind(1)
        return [each.numpy() for each in (means, squares.sqrt(), self.answers) if each is not None]

    def of(self, rows: Sequence[int]) -> "Seen":
        """Return the same for some of the pictures."""
        answers = None if self.answers is None else self.answers[rows]
        return replace(self, moments=self.moments[rows], answers=answers)


def watch(network: nn.Module, batches: Iterable[torch.Tensor], has_top: bool) -> Seen:
    """Pass batches [n, 3, h, w] through a network in evaluation mode; it is left unchanged."""
    kept: dict[str, list[torch.Tensor]] = {}

    def look(name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(2)  # [c, n, places]
        moments = torch.stack([values.mean(2), values.square().mean(2)])
        kept.setdefault(name, []).append(moments.permute(2, 0, 1))

    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, BATCH_NORMS) and module.track_running_stats
    }
    handles = [norm.register_forward_pre_hook(partial(look, name)) for name, norm in norms.items()]
    try:
        with torch.inference_mode():
            answers = [network(channels_last(batch)).flatten(1).log_softmax(1) for batch in batches]
    finally:
        for handle in handles:
            handle.remove()
    count = sum(map(len, answers))
    reached = {name: torch.cat(parts) for name, parts in kept.items()}
    return Seen(
        torch.cat([torch.empty(count, 2, 0), *reached.values()], dim=2),
        torch.cat([torch.empty(2, 0), *(_remembered(norms[name]) for name in reached)], dim=1),
        tuple((name, moments.shape[2]) for name, moments in reached.items()),
        torch.cat(answers) if has_top else None,
    )


def _remembered(norm: nn.Module) -> torch.Tensor:
    return torch.stack([norm.running_mean, norm.running_var.sqrt()])  # type: ignore[operator,list-item]


def norm_distances(seen: Seen) -> dict[str, float]:
    """Return BatchNorm -> the divergence of its inputs from its statistics, mean over its channels, in nats."""
    distances = _distances(seen, seen.moments.double().mean(0)[None])[0]
    return {name: float(distance) for (name, _), distance in zip(seen.norms, distances, strict=True)}


def _distances(seen: Seen, moments: torch.Tensor) -> torch.Tensor:
    """Return the distance of each BatchNorm, [k, norms], for k sets of pictures with mean moments [k, 2, channels]."""
    mean, square = moments.unbind(1)
    std = (square - mean**2).clamp_min(0).sqrt()
    each = divergence(mean, std, *seen.source.double())
    parts = torch.split(each, [width for _, width in seen.norms], dim=1)
    return torch.stack([part.mean(1) for part in parts], dim=1) if seen.norms else each


def by_block(network: nn.Module, distances: Mapping[str, float]) -> dict[str, float | None]:
    """Return block -> the mean distance of its BatchNorms, input side first; None if it has none."""
    owners = {block: {name.rpartition(".")[0] for name in names} for block, names in blocks(network).items()}
    of_block = {block: [distances[norm] for norm in distances if norm in owned] for block, owned in owners.items()}
    return {block: sum(some) / len(some) if some else None for block, some in of_block.items()}


def questions(spec: Preprocessing, pixels: torch.Tensor, source: Source | None) -> dict[str, dict[str, Preprocessing]]:
    """Return question -> the accounts that answer it differently from `spec`; pixels are uint8 RGB [n, 3, h, w].

    Swapped colours are not tested on grey pictures, nor for weights that learnt from grey ones. `source` holds
    mean and std per channel of the source's inputs in [0, 1], if they are known.
    """
    opposite = next(order for order in get_args(ColourOrder) if order != spec.colour_order)
    grey = not is_coloured(pixels) or (source is not None and len(set(source["mean"])) == 1)
    swapped = {} if grey else {SWAPPED: replace(spec, colour_order=opposite)}
    return {COLOUR_ORDER: swapped, STATISTICS: other_families(spec, source)}


def is_coloured(pixels: torch.Tensor) -> bool:
    """Return True if uint8 RGB pictures [n, 3, h, w] have colours that a swap would change visibly."""
    return float((pixels[:, 0].float() - pixels[:, 2].float()).abs().mean()) >= COLOURED


def shuffled(pixels: torch.Tensor, seed: int) -> torch.Tensor:
    """Return pictures [n, 3, h, w] with their tiles in random order: the same colours and textures, but no objects.

    Pixels at the right and lower edge that do not fill a tile stay in place.
    """
    height, width = (side // TILES for side in pixels.shape[2:])
    if not height or not width:
        return pixels
    rng, kept = torch_generator(seed, "witnesses"), pixels[:, :, : height * TILES, : width * TILES]
    tiles = kept.unfold(2, height, height).unfold(3, width, width).flatten(2, 3)  # [n, 3, tiles, height, width]
    mixed = torch.stack([picture[:, torch.randperm(TILES**2, generator=rng)] for picture in tiles])
    arranged = mixed.reshape(len(pixels), 3, TILES, TILES, height, width).permute(0, 1, 2, 4, 3, 5)
    result = pixels.clone()
    result[:, :, : height * TILES, : width * TILES] = arranged.reshape(kept.shape)
    return result


def by_norms(declared: Seen, accounts: Mapping[str, Seen]) -> list[Evidence]:
    """Return BatchNorm's evidence on each account; none without BatchNorm or with too few images."""
    if not declared.norms or len(declared.moments) < LEAST:
        return []
    ours = _left_out(declared)
    return [_of_norms(name, ours, _left_out(seen), len(accounts)) for name, seen in accounts.items()]


def _of_norms(name: str, ours: torch.Tensor, theirs: torch.Tensor, tests: int) -> Evidence:
    gains = (ours - theirs)[1:]
    error = math.sqrt((GROUPS - 1) / GROUPS * float((gains - gains.mean()).square().sum()))  # the jackknife's
    declared, figure = float(ours[0]), float(theirs[0])
    t = (declared - figure) / error if error else 0.0
    limit = stats.t.isf(LEVEL / tests, GROUPS - 1)
    vote: Vote = "silent"
    if t > limit and figure <= NEAR and figure < CLEARLY * declared:
        vote = "for"
    elif t < -limit and declared <= NEAR:
        vote = "against"
    return Evidence(name, NORMS, declared, figure, t, vote)


def _left_out(seen: Seen) -> torch.Tensor:
    """Return the distance of all pictures, then of all without each of the groups, [1 + groups]."""
    group = torch.arange(len(seen.moments)) % GROUPS
    sums = torch.stack([seen.moments[group == index].double().sum(0) for index in range(GROUPS)])
    counts = torch.bincount(group, minlength=GROUPS)
    total, count = sums.sum(0), len(seen.moments)
    means = torch.cat([total[None] / count, (total - sums) / (count - counts).view(-1, 1, 1)])
    return _distances(seen, means).mean(1)


def by_top(
    declared: Seen, accounts: Mapping[str, Seen], coloured: bool, without_order: Callable[[str], Seen]
) -> list[Evidence]:
    """Return the top's evidence on each account; none without a top or with too few images.

    `without_order` returns the network's outputs under an account for pictures with their tiles `shuffled`. Grey
    pictures are unlike any coloured source: on them the top's figures are reported, but it does not vote.
    """
    if declared.answers is None or len(declared.moments) < LEAST:
        return []
    ours = _flatness(declared.answers)
    evidence = []
    for name, seen in accounts.items():
        theirs = _flatness(_answers(seen))
        t = _paired(ours - theirs)
        limit = stats.t.isf(LEVEL / len(accounts), len(ours) - 1)
        nearer = name if t > limit else DECLARED
        vote: Vote = "silent"
        if abs(t) > limit and coloured and _knows(seen if t > 0 else declared, without_order(nearer)):
            vote = "for" if t > 0 else "against"
        evidence.append(Evidence(name, TOP, float(ours.mean()), float(theirs.mean()), t, vote))
    return evidence


def _answers(seen: Seen) -> torch.Tensor:
    if seen.answers is None:
        raise ValueError("the network has no top")
    return seen.answers


def _flatness(answers: torch.Tensor) -> torch.Tensor:
    """Return the mean log-probability of all classes per picture, [n]: at most 0, and lower for firmer answers.

    It is minus the cross-entropy of the answer with the uniform one. Compared with entropy, the largest logit and the
    like, it best separates right from swapped colours (t of 5 to 17 in 160 photographs; entropy 2 to 12).
    """
    return answers.double().mean(1)


def _knows(seen: Seen, without_order: Seen) -> bool:
    """Return True if the top recognises the pictures: its answers differ between them and need the order of tiles."""
    answers = _answers(seen).double()
    mean = answers.exp().mean(0)
    entropy = -(answers.exp() * answers).sum(1).mean()
    information = float(-(mean * mean.clamp_min(1e-30).log()).sum() - entropy)
    t = _paired(_flatness(_answers(without_order)) - _flatness(answers))
    return information >= VARIED * math.log(answers.shape[1]) and t > stats.t.isf(LEVEL, len(answers) - 1)


def _paired(differences: torch.Tensor) -> float:
    error = float(differences.std() / math.sqrt(len(differences)))
    return float(differences.mean()) / error if error else 0.0


def answer(
    question: str,
    declared: Preprocessing,
    accounts: Mapping[str, Preprocessing],
    coloured: bool,
    seen: Callable[[Preprocessing, bool], Seen],
) -> tuple[Finding, list[Evidence]]:
    """Put one question to both witnesses; return the finding, and the evidence on each account.

    `seen` returns the network's outputs for the pictures under a preprocessing, optionally with tiles `shuffled`.
    """
    ours, theirs = seen(declared, False), {name: seen(spec, False) for name, spec in accounts.items()}
    specs = {DECLARED: declared, **accounts}
    evidence = [*by_norms(ours, theirs), *by_top(ours, theirs, coloured, lambda name: seen(specs[name], True))]
    return judge(question, accounts, evidence), evidence


def judge(question: str, accounts: Iterable[str], evidence: Sequence[Evidence]) -> Finding:
    """Combine the evidence on one question: if the witnesses contradict each other, it is "cannot be told"."""
    names = [*accounts]
    if not names and question == STATISTICS:
        return Finding(question, DECLARED, "they are those of the source, as the card knows it")
    if why := _unheard(question, names, evidence):
        return Finding(question, UNTOLD, why)
    votes = {name: {item.vote for item in evidence if item.account == name} for name in names}
    far = {item.account for item in evidence if item.witness == NORMS and item.figure > NEAR}
    accusers = [item for item in evidence if item.vote == "for" and item.account not in far]
    best = [
        min((item for item in accusers if item.witness == witness), key=lambda item: item.figure)
        for witness in dict.fromkeys(item.witness for item in accusers)
    ]
    if len({item.account for item in best}) > 1 or any("against" in votes[item.account] for item in best):
        return Finding(question, UNTOLD, "the witnesses disagree")
    if best:
        said = " and ".join(f"{item.witness}, t {item.t:.1f}" for item in best)
        return Finding(question, best[0].account, f"the pictures fit the weights better so ({said})")
    if all("against" in said and "for" not in said for said in votes.values()):
        return Finding(question, DECLARED, "every other account fits worse")
    return Finding(question, UNTOLD, "the pictures are not near enough to what the weights have learnt from")


def _unheard(question: str, names: Sequence[str], evidence: Sequence[Evidence]) -> str:
    """Return why a question cannot be put to the witnesses; "" if it can.

    The colours of a set move BatchNorm's statistics as a swap does, so BatchNorm alone cannot decide their order.
    """
    if not names:
        return "the pictures are grey, or those of the source were"
    if not evidence:
        return "the weights have neither BatchNorm nor a top, or there are too few images"
    if question == COLOUR_ORDER and all(item.witness != TOP for item in evidence):
        return "the file has no top; BatchNorm alone cannot tell a swap from the colours of a set"
    return ""
