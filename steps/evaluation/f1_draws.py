"""Draws of the mean F1 from the posterior of a confusion matrix; `intervals.macro_f1` gives the reasons."""

import numpy as np
from scipy.sparse import csr_array

from steps.runtime.arrays import Bools, Floats, Ints

CELLS = 20_000_000  # of a matrix of draws held in memory at a time
TINY = np.finfo(np.float64).tiny
MOST_DENSE = 100  # classes; with more, cells that no image fell into are drawn together (1,000 classes: minutes)


def mean_f1(matrices: Floats, present: Bools) -> Floats:
    """Return the mean F1 of [draws, classes, classes] over the classes that are present."""
    right = np.diagonal(matrices, axis1=1, axis2=2)
    f1 = 2 * right / np.maximum(matrices.sum(axis=1) + matrices.sum(axis=2), 1e-12)
    return np.asarray(f1[:, present].mean(axis=1))


def influence_on_f1(targets: Ints, predicted: Ints, matrix: Ints) -> Floats:
    """Return what each image adds to the sum of the classes' F1, to first order, [n]."""
    both = np.maximum(matrix.sum(axis=0) + matrix.sum(axis=1), 1)
    f1 = 2 * np.diagonal(matrix) / both
    return np.asarray(2 * (targets == predicted) / both[targets] - (f1 / both)[predicted])


def drawn_f1(matrix: Ints, weight: Floats, prior: Floats, draws: int, rng: np.random.Generator) -> tuple[Floats, float]:
    """Return the mean F1 of each draw, [draws], and by how much their mean exceeds that of the expected matrix.

    The cells of row k of `matrix` [classes, classes] have gamma distributions of shape count x `weight`[k] +
    `prior`[k]; each row is scaled to its number of images.
    """
    classes, sizes, present = len(matrix), matrix.sum(axis=1), matrix.sum(axis=1) > 0
    shape = (matrix * weight[:, None] + prior[:, None])[present]
    expected = np.zeros((1, classes, classes))
    expected[0, present] = shape / shape.sum(axis=1, keepdims=True) * sizes[present][:, None]
    shown = (
        _dense(shape, sizes, present, draws, rng)
        if classes <= MOST_DENSE
        else _sparse(matrix, weight, prior, draws, rng)
    )
    return shown, float(shown.mean() - mean_f1(expected, present)[0])


def _dense(shape: Floats, sizes: Ints, present: Bools, draws: int, rng: np.random.Generator) -> Floats:
    classes, shown = len(sizes), []
    step = max(1, CELLS // classes**2)
    for start in range(0, draws, step):
        drawn = rng.standard_gamma(np.broadcast_to(shape, (min(step, draws - start), *shape.shape)))
        whole = np.zeros((len(drawn), classes, classes))
        whole[:, present] = drawn / np.maximum(drawn.sum(axis=2, keepdims=True), TINY) * sizes[present][:, None]
        shown.append(mean_f1(whole, present))
    return np.concatenate(shown)


def _sparse(matrix: Ints, weight: Floats, prior: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Draw the diagonal and the cells that hold images; the others of a row as one, spread evenly over the columns.

    A sum of gammas of one scale is a gamma of the summed shape; only its spread over the columns is an approximation.
    """
    classes, sizes = len(matrix), matrix.sum(axis=1)
    present = np.flatnonzero(sizes)
    index, column = np.nonzero(matrix[present] + np.eye(classes)[present])
    row = present[index]
    shape, diagonal = matrix[row, column] * weight[row] + prior[row], np.flatnonzero(row == column)
    rest = (classes - np.bincount(index)) * prior[present]
    to_column = csr_array((np.ones(len(column)), (np.arange(len(column)), column)), shape=(len(column), classes))
    starts, shown = np.searchsorted(index, np.arange(len(present))), []
    step = max(1, CELLS // len(shape))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        cells = rng.standard_gamma(np.broadcast_to(shape, (count, len(shape))))
        others = rng.standard_gamma(np.broadcast_to(rest, (count, len(rest))))
        scale = sizes[present] / np.maximum(np.add.reduceat(cells, starts, axis=1) + others, TINY)
        cells *= scale[:, index]
        answered = cells @ to_column + (others * scale).sum(axis=1, keepdims=True) / classes
        shown.append((2 * cells[:, diagonal] / (answered + sizes)[:, present]).mean(axis=1))
    return np.concatenate(shown)
