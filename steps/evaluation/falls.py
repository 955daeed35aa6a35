"""Parts of the test images on which one model is worse than another by more than chance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from steps.evaluation.intervals import clustered_variance
from steps.runtime.arrays import Bools, Floats, Ints


@dataclass(frozen=True)
class Change:
    """A class or slice: images that only the first model gets right (won), and only the second (lost)."""

    part: str
    n: int
    won: int
    lost: int
    effective: float  # number of independent images: fewer than n if the images of a group agree

    @property
    def drop(self) -> float:
        """Return by how much the share of right answers fell."""
        return (self.lost - self.won) / self.n


def changes(parts: Iterable[tuple[str, Bools]], a: Bools, b: Bools, cluster: Ints) -> list[Change]:
    """Return the change on each part (its name and members [n]); `a` and `b` are the models' correctness [n]."""
    gain = a.astype(float) - b
    return [
        Change(
            part=name,
            n=int(members.sum()),
            won=int((gain[members] > 0).sum()),
            lost=int((gain[members] < 0).sum()),
            effective=_effective(gain[members], cluster[members]),
        )
        for name, members in parts
    ]


def _effective(gain: Floats, cluster: Ints) -> float:
    """Return the effective number of images for the mean gain: their number over the design effect."""
    clusters = len(np.unique(cluster))
    if clusters in (1, len(gain)) or np.ptp(gain) == 0:
        return float(clusters)
    n, plain = len(gain), float(gain.var()) / len(gain)
    return n / max(1.0, clustered_variance((gain - gain.mean()) / n, cluster) / plain)


def shown(found: Sequence[Change], limit: float, level: float) -> list[tuple[Change, float]]:
    """Return the parts that fell significantly by more than `limit`, each with its p-value after Holm's correction.

    If no part fell by more, the chance of returning any is at most `level`, whatever the number of parts.
    """
    if not found:
        return []
    adjusted = multipletests([chance(change, limit) for change in found], method="holm")[1]
    return [(change, float(p)) for change, p in zip(found, adjusted, strict=True) if p < level]


def chance(one: Change, limit: float) -> float:
    """Return the one-sided p-value of a fall by at most `limit`: the larger of two tests, as each has a weakness.

    Tango's score test uses the limit, but is overconfident on a few images (Tango 1998, Stat. Med. 17:891);
    McNemar's exact test is not, but tests only whether there was a fall at all (McNemar 1947).
    """
    if one.drop <= limit:
        return 1.0
    scale = one.effective / one.n
    n, lost, won = one.effective, one.lost * scale, one.won * scale
    b = (2 * n - lost + won) * limit - lost - won
    c = won * limit * (1 - limit)
    rare = (np.sqrt(b**2 + 8 * n * c) - b) / (4 * n)  # the likeliest share of images won, given a fall by `limit`
    score = (lost - won - n * limit) / np.sqrt(n * (2 * rare + limit * (1 - limit)))
    return max(float(norm.sf(score)), float(betainc(lost, won + 1, 0.5)))
