"""Numbers in the wrong column: some cells of a row were moved one place to the side.

An export with an extra separator, or a paste next to the right place, keeps the numbers of a row
but puts them in the wrong columns. A single number may look right where it landed; the row does
not. The block that moved, and its rows, are found in two steps:

1. For every block of neighbouring columns, a Gaussian copula (ranks of the numbers and their
   correlations) compares how likely the rows are as they stand and moved back. The block with the
   largest gain in likelihood is chosen.
2. Boosted trees learn to separate rows from copies of other rows whose block we moved. For every
   row they predict the probability that it is such a copy. If nothing moved, they find no rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtri
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from demix_lite.cross_fit import held_out, in_bins
from demix_lite.diagnosis import expected_f1_threshold

MOST_CELLS, WIDEST = 8, 500
"""Largest number of cells in a block, and of columns in a table that is searched."""

GAIN, FEWEST = 0.02, 10
"""Least gain in log-likelihood per row and least number of moved rows; smaller values occur in tidy
tables with unusual rows."""

CELLS_LOOKED_AT, ROWS_LOOKED_AT, ROWS_LEARNED_FROM = 400_000, 4000, 8000
NEIGHBOURS = 50
"""Number of neighbours on either side of a number that are used to estimate in which of two columns
it is more common."""

SHRINKAGE = 0.05
"""Weight of the identity in the correlation matrix: even redundant columns may differ."""

SET_ASIDE = 1.5
"""This many times the share of rows that moved according to the copula is not used as examples of
rows that did not move."""

TOLD_APART = 0.7
"""Area under the ROC curve below which trees cannot separate rows from copies with moved cells."""

TREES = {"max_iter": 100, "max_leaf_nodes": 15, "early_stopping": False}
ROUNDS, FOLDS, SURE = 30, 3, 1e-9


@dataclass(frozen=True)
class MovedCells:
    """A block of neighbouring columns, and the rows in which its cells moved.

    Attributes
    ----------
    columns : tuple of str
        The block, from left to right.
    step : int
        1 if the cells moved to the right and the last one took the place of the first; -1 if they
        moved to the left.
    rows : array of bool
        True for the rows whose cells moved.
    """

    columns: tuple[str, ...]
    step: int
    rows: np.ndarray

    def moved_back(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the block with the cells moved back; whole columns keep their type.

        Examples
        --------
        >>> frame = pd.DataFrame({"a": [1, 20, 3], "b": [10, 2, 30]})
        >>> found = MovedCells(("a", "b"), 1, np.array([False, True, False]))
        >>> found.moved_back(frame).to_numpy().tolist()
        [[1, 10], [2, 20], [3, 30]]
        """
        block = frame[list(self.columns)]
        cells = block.to_numpy(dtype=float)
        back = np.where(self.rows[:, None], np.roll(cells, -self.step, axis=1), cells)
        moved = pd.DataFrame(back, block.index, block.columns)
        whole = {c: kind for c, kind in block.dtypes.items() if (moved[c] % 1 == 0).all()}
        return moved.astype(whole)


@dataclass(frozen=True)
class _Move:
    """Cells from ``start`` up to ``stop`` move ``step`` places, cyclically within the block."""

    start: int
    stop: int
    step: int

    def applied(self, values: np.ndarray) -> np.ndarray:
        moved, block = values.copy(), slice(self.start, self.stop)
        moved[:, block] = np.roll(values[:, block], self.step, axis=1)
        return moved


def find_moved_cells(frame: pd.DataFrame, columns: Sequence[str]) -> MovedCells | None:
    """Find the block of neighbouring columns whose cells moved in some rows; None if there is none.

    Tables with more than 500 numeric columns are not searched.

    Parameters
    ----------
    frame : DataFrame
        Rows with numbers.
    columns : sequence of str
        The numeric columns, in their order in the table.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> age, height = rng.normal(40, 12, 600), rng.normal(170, 10, 600)
    >>> people = pd.DataFrame({"age": age, "height": height, "weight": height / 2 + age / 4})
    >>> people.loc[:29, ["age", "weight"]] = people.loc[:29, ["weight", "age"]].to_numpy()
    >>> found = find_moved_cells(people[["height", "age", "weight"]], ["height", "age", "weight"])
    >>> found.columns, bool(found.rows[:30].all()), bool(found.rows[30:].mean() < 0.01)
    (('age', 'weight'), True, True)
    """
    if not 2 <= len(columns) <= WIDEST:
        return None
    count = min(ROWS_LOOKED_AT, CELLS_LOOKED_AT // len(columns))
    few = frame.iloc[np.random.default_rng(0).permutation(len(frame))[:count]]
    gained = (_gained(*each) for each in _ratios(few[list(columns)].to_numpy(dtype=float)))
    gain, share, move = max(gained, key=lambda found: found[0])
    if gain < GAIN or share * len(few) < FEWEST:
        return None
    left = max(0, move.start - MOST_CELLS)
    near = frame[list(columns[left : move.stop + MOST_CELLS])].to_numpy(dtype=float)
    chance = _told_by_trees(near, _Move(move.start - left, move.stop - left, move.step), share)
    if (chance > 0.5).sum() < FEWEST:
        return None
    rows = chance >= expected_f1_threshold(chance)
    return MovedCells(tuple(columns[move.start : move.stop]), move.step, rows)


def _gained(move: _Move, ratio: np.ndarray) -> tuple[float, float, _Move]:
    """Return the gain in log-likelihood per row, the share of rows that moved, and the move."""
    share, _ = _mixture(ratio)
    return float(np.logaddexp(np.log1p(-share), np.log(share) + ratio).mean()), share, move


def _moves(width: int) -> Iterator[_Move]:
    for start in range(width - 1):
        for stop in range(start + 2, min(width, start + MOST_CELLS) + 1):
            yield _Move(start, stop, 1)
            if stop > start + 2:  # with two cells both directions are the same swap
                yield _Move(start, stop, -1)


def _ratios(values: np.ndarray) -> Iterator[tuple[_Move, np.ndarray]]:
    """Yield every move with the log-likelihood ratio of each row, moved back against as it is.

    The ratios have shape ``(N,)``. The density of a row is that of its normal scores (zero mean,
    correlated) times the density of each number in its column.
    """
    scores = np.column_stack([_normal_scores(column, column) for column in values.T])
    width = values.shape[1]
    with np.errstate(invalid="ignore"):  # a constant column has no correlations
        alike = (1 - SHRINKAGE) * np.nan_to_num(np.corrcoef(scores.T))
    coupling = np.linalg.inv(alike + (1 - alike.diagonal()) * np.eye(width)) - np.eye(width)
    pull = scores @ coupling

    @cache
    def placed(own: int, other: int) -> tuple[np.ndarray, np.ndarray]:
        """Return density ratios and normal scores of a column's numbers if moved to another."""
        column, there = values[:, own], values[:, other]
        return _log_density_ratio(column, there), _normal_scores(column, there)

    for move in _moves(width):
        to = np.arange(move.start, move.stop)
        cells = [placed(*pair) for pair in zip(np.roll(to, -move.step), to, strict=True)]
        usual = np.sum([ratio for ratio, _ in cells], axis=0)
        change = np.column_stack([score for _, score in cells]) - scores[:, to]
        within = (change @ coupling[np.ix_(to, to)] * change).sum(1)
        yield move, usual - (change * pull[:, to]).sum(1) - within / 2


def _normal_scores(numbers: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the normal scores of numbers by their ranks in a column; 0 if missing."""
    known = np.sort(column[~np.isnan(column)])
    ends = [np.searchsorted(known, numbers, side=side) for side in ("left", "right")]
    place = (np.mean(ends, axis=0) + 0.5) / (len(known) + 1)
    return np.where(np.isnan(numbers), 0.0, ndtri(place.clip(max=1 - 0.5 / (len(known) + 1))))


def _log_density_ratio(column: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the log ratio of two columns' densities, ``other`` to ``column``, at its numbers.

    Densities are estimated from the nearest neighbours.
    """
    known = [np.sort(c[~np.isnan(c)]) for c in (other, column)]
    both = np.sort(np.concatenate(known))
    if not len(both):
        return np.zeros(len(column))
    at, last = np.searchsorted(both, column), len(both) - 1
    low, high = (both[(at + side).clip(0, last)] for side in (-NEIGHBOURS, NEIGHBOURS))
    there, here = (
        np.searchsorted(k, high, side="right") - np.searchsorted(k, low, side="left") for k in known
    )
    missing = np.log(np.divide(*(np.isnan(c).sum() + 0.5 for c in (other, column))))
    return np.where(np.isnan(column), missing, np.log((there + 0.5) / (here + 0.5)))


def _mixture(ratio: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the share of rows that moved and the probability of each, from their log-ratios.

    Expectation-maximisation on the share alone (Saerens, Latinne and Decaestecker, 2002).

    Examples
    --------
    >>> share, chance = _mixture(np.r_[np.full(10, 9.0), np.full(90, -9.0)])
    >>> round(share, 3), chance.round(2)[[0, -1]].tolist()
    (0.1, [1.0, 0.0])
    """
    share = 0.05
    for _ in range(ROUNDS):
        chance = expit(ratio + logit(share))
        share = float(chance.mean().clip(SURE, 1 - SURE))
    return share, chance


def _told_by_trees(values: np.ndarray, move: _Move, share: float) -> np.ndarray:
    """Return the probability that each row moved, by trees that separate rows from moved copies."""
    copies = move.applied(values)
    x = in_bins(np.vstack([_with_steps(rows) for rows in (values, copies)]))
    is_copy = np.repeat([0, 1], len(values))
    model = HistGradientBoostingClassifier(**TREES, random_state=0)
    learn = partial(held_out, model, x, is_copy, classes=2, folds=FOLDS, most=2 * ROWS_LEARNED_FROM)
    said = learn()[:, 1]
    if roc_auc_score(is_copy, said) < TOLD_APART:
        return np.zeros(len(values))
    # Rows that did move must not serve as examples of rows that did not.
    kept = max(0.0, 1 - SET_ASIDE * share)
    example = said[: len(values)] < np.quantile(said[: len(values)], kept)
    if example.sum() < FEWEST:
        return np.zeros(len(values))
    said = learn(weights=np.tile(example, 2).astype(float))[:, 1]
    _, chance = _mixture(logit(said[: len(values)].clip(SURE, 1 - SURE)))
    changes = ((copies != values) & ~(np.isnan(copies) & np.isnan(values))).any(axis=1)
    return np.where(changes, chance, 0.0)


def _with_steps(values: np.ndarray) -> np.ndarray:
    """Return the numbers and their differences, on a log scale, to the next two on the left."""
    logs = np.sign(values) * np.log1p(np.abs(values))
    return np.hstack([values, *(logs[:, gap:] - logs[:, :-gap] for gap in (1, 2))])
