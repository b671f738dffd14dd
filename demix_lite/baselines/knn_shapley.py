"""Exact KNN-Shapley values: the value of a row to a nearest-neighbour model."""

from typing import ClassVar

import numpy as np

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.looks import class_count, encoded, once_per_run, targets
from demix_lite.detector.runs import Run
from demix_lite.seeds import generator

MOST_VALID = 1000
CHUNK = 64


class KNNShapley(Baseline):
    """Shapley value on the encoded inputs, averaged over validation rows; low is suspicious.

    For classes, the utility of a set of rows is the share of the right label among the ``k``
    nearest. For numbers, it is minus the squared error of the mean of the ``k`` nearest, with
    centred targets. At most 1,000 validation rows are used, drawn at random.
    """

    name = "knn_shapley"
    claims = ("label",)
    space: ClassVar = {"k": (5, 10, 20)}
    reference = "Jia et al. (2019), Efficient Task-Specific Data Valuation for Nearest Neighbors"

    def scores(self, run: Run) -> np.ndarray:
        """Score every row by minus its value."""
        k = self.settings["k"]
        together = tuple(sorted({*self.space["k"], k}))
        return -_run_values(run, together)[together.index(k)]


@once_per_run
def _run_values(run: Run, ks: tuple[int, ...]) -> np.ndarray:
    draw = generator("knn_shapley", len(run.valid)).permutation(len(run.valid))[:MOST_VALID]
    inputs, wanted = run.encoder.transform(run.valid.iloc[draw], run.task.target)
    valid = run.sources[0].features(inputs).cpu().numpy()
    own, classes = targets(run), bool(class_count(run))
    return shapley_values(encoded(run), own, valid, wanted.numpy(), ks, classes=classes)


def shapley_values(
    x: np.ndarray,
    y: np.ndarray,
    x_valid: np.ndarray,
    y_valid: np.ndarray,
    ks: tuple[int, ...],
    *,
    classes: bool,
) -> np.ndarray:
    """Return the Shapley value of every training row, averaged over validation rows.

    The result has shape ``(len(ks), len(x))``, one line per number of neighbours. Numeric targets
    (not ``classes``) are centred on the training mean. Ties in distance are broken by row order.

    Examples
    --------
    >>> x, y = np.array([[0.0], [1.0], [5.0]]), np.array([1, 0, 0])
    >>> shapley_values(x, y, x[:1], y[:1], (1,), classes=True).tolist()
    [[1.0, 0.0, 0.0]]
    """
    if not classes:
        y, y_valid = y.astype(float) - y.mean(dtype=float), y_valid - y.mean(dtype=float)
    total = np.zeros((len(ks), len(x)))
    for start in range(0, len(x_valid), CHUNK):
        part = slice(start, start + CHUNK)
        distances = np.square(x).sum(1) - 2 * x_valid[part] @ x.T
        order = np.argsort(distances, axis=1, kind="stable")
        for n, k in enumerate(ks):
            if classes:
                values = class_values(y[order] == y_valid[part, None], k)
            else:
                values = number_values(y[order], y_valid[part, None], k)
            total[n] += np.bincount(order.ravel(), values.ravel(), minlength=len(x))
    return total / len(x_valid)


def class_values(hits: np.ndarray, k: int) -> np.ndarray:
    """Return the values of neighbours, ``(V, N)``; ``hits``: right label or not, nearest first."""
    hits = hits.astype(float)
    rank = np.arange(1, hits.shape[1])
    steps = -np.diff(hits, axis=1) * np.minimum(k, rank) / (k * rank)
    return _from_the_farthest(hits[:, -1:] / max(k, hits.shape[1]), steps)


def number_values(near: np.ndarray, wanted: np.ndarray, k: int) -> np.ndarray:
    """Return the values of neighbours from their targets ``(V, N)``, nearest first.

    ``wanted`` holds the targets of the V validation rows. The utility of a set is minus the squared
    error of the sum of its k nearest targets divided by k.
    """
    n = near.shape[1]
    rank = np.arange(1, n + 1)
    among = np.minimum(k, rank)
    # Expected share of two given rows that are both among the k nearest of a random set.
    pair = among * (among - 1) / np.maximum(rank * (rank - 1), 1)
    nearer = np.cumsum(near, axis=1) - near
    weighted = near[:, 1:] * pair[:-1]
    farther = weighted.sum(axis=1, keepdims=True) - np.cumsum(weighted, axis=1)

    first, second = near[:, :-1], near[:, 1:]
    both = (among / rank)[:-1] * ((first + second) / k - 2 * wanted)
    rest = (pair[:-1] * nearer[:, :-1] + farther) / k
    last = among[-1] * (near[:, -1:] / k - 2 * wanted) + n * pair[-1] * nearer[:, -1:] / k
    return _from_the_farthest(-near[:, -1:] / (k * n) * last, (second - first) / k * (both + rest))


def _from_the_farthest(last: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Accumulate the steps between neighbours, from the value of the farthest to the nearest."""
    return np.cumsum(np.hstack([last, steps[:, ::-1]]), axis=1)[:, ::-1]
