"""A one-sided test of the paired difference in balanced accuracy: the figure that decides about promotion.

The difference is a sum over images: an image of class k that only model a gets right adds 1 / (K n_k), one that only
model b gets right takes as much away (K classes occur, n_k images of class k).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from steps.evaluation.intervals import as_one, design_effect, effective_clusters
from steps.runtime.arrays import Floats, Ints

SIGN_FLIPS, SCORE = "exact sign-flip test", "score test"
CELLS = 2**16  # of the grid on which the distribution of the sum is computed
REACH = 9.0  # standard deviations that the grid holds; Hoeffding: beyond them lies less than 1e-17
NOISE = 1e-15  # rounding of the Fourier transform: no smaller p is known
ANGLES = 2 * np.pi / CELLS * np.arange(CELLS // 2 + 1)  # at which characteristic functions are computed
HALVINGS = 60  # of a bisection
RARE = 1e-9  # images added to each cell of a table: the likeliest shares are then inside, never at an end


@dataclass(frozen=True)
class PairedTest:
    """The one-sided p-value of the hypothesis that the difference is at most a limit, and the name of the test."""

    p: float
    test: str


def balanced(gain: Floats, targets: Ints, cluster: Ints, least: float) -> PairedTest:
    """Test whether model a is better than b by more than `least` in balanced accuracy; below 0: not as much worse.

    `gain` [n] is 1 where only a is right, -1 where only b is, otherwise 0; `targets` [n] are the classes and `cluster`
    [n] the groups, whose images are judged as one. Without a limit the signs of images or groups are flipped. With
    one the score test decides; above 0 both have to agree, because the score test is overconfident on a few images.
    """
    weights = _weights(targets)
    flipped = PairedTest(sign_flips(np.bincount(cluster, gain * weights).astype(np.float64)), SIGN_FLIPS)
    if least == 0:
        return flipped
    scored = PairedTest(score(gain, targets, cluster, least), SCORE)
    return max(scored, flipped, key=lambda tested: tested.p) if least > 0 else scored


def _weights(targets: Ints) -> Floats:
    """Return the weight of each image [n] in a mean over the classes; they add up to 1."""
    _, index, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    return np.asarray(1 / (len(sizes) * sizes[index]))


def sign_flips(parts: Floats) -> float:
    """Return the probability that `parts` [m] with random signs add up to their sum or more; 1 if all are 0.

    If neither model is better, each image (or group) favours either with the same probability: the test is exact for
    that (Fisher 1935, The Design of Experiments, section 21), and for equal images of one class it is McNemar's. If
    one model is better at one class and worse at another, the signs vary more than the difference does, and the test
    errs on the safe side. The distribution is the inverse Fourier transform of the product of the parts'
    characteristic functions. Parts are rounded to the grid, the observed sum with them: the test stays exact.
    """
    parts = parts[parts != 0]
    if not len(parts):
        return 1.0
    reach = min(float(np.abs(parts).sum()), REACH * float(np.sqrt((parts**2).sum())))
    steps = np.rint(parts / reach * 0.95 * CELLS / 2).astype(np.int64)
    lengths, counts = np.unique(np.abs(steps), return_counts=True)
    transform = np.ones(len(ANGLES), complex)
    for length, count in zip(lengths, counts, strict=True):
        transform *= np.cos(ANGLES * length) ** int(count)
    return _tail(transform, int(steps.sum()), 0)


def _tail(transform: npt.NDArray[np.complex128], observed: int, mean: int) -> float:
    """Return the probability of `observed` steps of the grid or more, of a sum with this transform and mean."""
    density = np.roll(np.fft.irfft(transform, CELLS), CELLS // 2 - mean)
    at = min(max(observed - mean + CELLS // 2, 0), CELLS)
    return float(max(density[at:].sum(), NOISE) if observed > mean else 1 - density[:at].sum())


def score(gain: Floats, targets: Ints, cluster: Ints, least: float) -> float:
    """Return the p-value of a difference of at most `least`, by the likeliest shares if the difference is exactly that.

    Tango's test of a paired difference (1998, Stat. Med. 17:891), stratified by class. The distribution of the
    difference at those shares is exact: the normal one, in his paper, promotes too often where one class is rare and
    the sum is skewed. Groups widen it by their design effect, and those that differ give the degrees of freedom of
    Student's t.
    """
    _, index, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    won, lost = (np.bincount(index, gain * sign > 0, len(sizes)).astype(np.float64) for sign in (1, -1))
    up, down = likeliest(won, lost, sizes, least)
    variance = float(((up + down - (up - down) ** 2) / sizes).sum()) / len(sizes) ** 2
    if len(np.unique(cluster)) == len(gain):
        return _above(won - lost, up, down, sizes, REACH * float(np.sqrt(variance)))
    weights = _weights(targets)
    design, degrees = _grouped(gain * weights * len(gain), cluster)
    distance = (float((gain * weights).sum()) - least) / np.sqrt(variance * design)
    return float(student.sf(distance, degrees))


def _above(net: Floats, up: Floats, down: Floats, sizes: Ints, reach: float) -> float:
    """Return the probability that images won less those lost, weighed by class, add up to what `net` [K] does or more.

    An image of class k is won with probability `up` [K] and lost with `down` [K]. `reach` is half of the grid.
    """
    lengths = np.rint(CELLS / (2 * reach * len(sizes) * sizes)).astype(np.int64)
    transform = np.ones(len(ANGLES), complex)
    for length, more, less, count in zip(lengths, up, down, sizes, strict=True):
        turn = np.exp(-1j * ANGLES * length)
        transform *= (1 - more - less + more * turn + less * turn.conj()) ** int(count)
    return _tail(transform, int(lengths @ net), int(np.rint(lengths * sizes @ (up - down))))


def _grouped(gain: Floats, cluster: Ints) -> tuple[float, float]:
    """Return the design effect of groups and the degrees of freedom of their spread.

    Where no image tells the models apart the groups' spread is unknown: each then counts as one image. Else only groups
    in which they differ tell of it.
    """
    sizes = np.bincount(np.unique(cluster, return_inverse=True)[1])
    effective = effective_clusters(sizes)
    if not gain.any():
        return float(len(gain) / as_one(sizes)), max(1.0, effective - 1)
    telling = len(np.unique(cluster[gain != 0]))
    return design_effect(gain, cluster), max(1.0, min(effective, telling) - 1)


def likeliest(won: Floats, lost: Floats, sizes: Ints, difference: float) -> tuple[Floats, Floats]:
    """Return the likeliest shares of images won and lost in each class [K] if their mean difference is this one.

    Lagrange's multiplier x of the condition gives won / (y + x), lost / (y - x) and rest / y, where y makes the three
    shares of a class add up to 1.
    """
    rest = sizes - won - lost + RARE
    won, lost = won + RARE, lost + RARE
    high = 2 * float(sizes.sum()) / (1 - abs(difference))
    low = -high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        up, down = _shares(won, lost, rest, middle)
        low, high = (middle, high) if (up - down).mean() > difference else (low, middle)
    return up, down


def _shares(won: Floats, lost: Floats, rest: Floats, x: float) -> tuple[Floats, Floats]:
    """Return the shares won and lost for a multiplier; bisects the distance of y from the pole at |x|."""
    low, high = np.zeros(len(won)), won + lost + rest
    for _ in range(HALVINGS):
        y = (low + high) / 2
        near, far = (won, lost) if x < 0 else (lost, won)  # the share whose divisor is the distance itself
        total = near / y + far / (y + 2 * abs(x)) + rest / (y + abs(x))
        low, high = np.where(total > 1, y, low), np.where(total > 1, high, y)
    near, far = near / y, far / (y + 2 * abs(x))
    return (near, far) if x < 0 else (far, near)
