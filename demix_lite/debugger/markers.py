"""A marker: a column that goes with the label and carries no other information.

Rows that were collected by their label carry a trace of where they came from: the sick from one
hospital, the healthy from another. The place is then correlated with the label, and with the other
columns only through the label. So the other columns contain one common signal for both:

- what they predict for the label, together with the label itself, predicts the place as well as the
  columns themselves do;
- what they predict for the place, together with the place itself, predicts the label as well as the
  columns themselves do.

A pattern that a table has by nature is different: the other columns know more about such a column
than its relation to the label, or less. Which rows break the pattern of a marker then depends only
on the label and on how far it is trusted.
"""

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss

from demix_lite.cross_fit import held_out, in_bins
from demix_lite.debugger.patterns import Pattern
from demix_lite.detector.shortcuts import conditions_of, targets_of
from demix_lite.tasks.base import Encoder
from demix_lite.tasks.tabular import TabularTask

MOST_GROUPS = 12
"""Largest number of different values of a column that may be a marker."""

FEWEST_ROWS, WIDEST = 4000, 500
"""Least number of rows and largest number of columns of a table in which a marker is sought. With
fewer rows, trees cannot see what the other columns know apart from the label."""

SIDES = np.linspace(0.05, 0.95, 37)
"""Quantiles at which a numeric label is cut in two."""

LINK, TRIED = (0.15, 0.8), 3
"""Range of the absolute correlation of a marker with the label, and number of columns tried, the
most correlated first. A column with a higher correlation is the label in other words."""

ONE_SIGNAL = {"tidy": 1.1, "dirty": 1.3}
"""Largest ratio by which the other columns may predict marker and label better than one common
signal does (ratio of gains in log-likelihood); wrong labels blur it. On the tables of the page of
measurements it was at most 1.03 (tidy) and 1.2 (dirty) for the marker put in by a script (bank,
dirty: up to 1.6), and at least 1.18 and 1.5 for the columns that the tables have by nature."""

LEAST_KNOWN = 0.002
"""Least information of the other columns about the marker and about the label, in nats per row.
Where they have none, there is no common signal: a randomised treatment is not a marker."""

CELLS, MOST_ROWS = 400_000, 8000
FEW_TREES = {"max_iter": 20, "max_leaf_nodes": 6, "learning_rate": 0.15, "early_stopping": False}
TREES = FEW_TREES | {"max_iter": 30, "max_leaf_nodes": 8}
"""Few trees for the signal, which many columns carry together; more for what each column adds."""

FOLDS, SURE = 3, 1e-4


def marker_pattern(
    task: TabularTask,
    encoder: Encoder,
    frame: pd.DataFrame,
    wrong: np.ndarray,
    *,
    dirty: float = 0.0,
) -> Pattern | None:
    """Return the pattern of the marker of a table, or None if no column is a marker.

    ``wrong`` is the probability that the label of a row is wrong, ``(N,)``; ``dirty`` says how
    dirty the table is, from 0 to 1.
    """
    if len(frame) < FEWEST_ROWS or len(task.features) > WIDEST:
        return None
    values, categorical = encoder.columns(frame)
    labels = encoder.targets(frame[task.target]).numpy().astype(float)
    sure = targets_of(labels, np.zeros(len(labels)), task.label.classes, SIDES)
    columns = in_bins(values)
    enough = max(FEWEST_ROWS, min(MOST_ROWS, CELLS // columns.shape[1]))
    rows = np.random.default_rng(0).permutation(len(frame))[:enough]
    most = (1 - dirty) * ONE_SIGNAL["tidy"] + dirty * ONE_SIGNAL["dirty"]
    for link, column, holds, target in _leading(values, categorical, sure):
        others = np.delete(columns, column, axis=1)[rows]
        wanted = sure[:, target] > 0.5
        if others.shape[1] and _signals(others, holds[rows], wanted[rows]) <= most:
            likely = targets_of(labels, wrong, task.label.classes, SIDES)[:, target]
            empty = frame[[*task.numeric, *task.categorical][column]].isna().to_numpy()
            told_by_empty = (holds == empty).all() or (holds == ~empty).all()
            holds = holds if link > 0 else ~holds
            # An empty cell breaks no pattern, unless being empty is its condition.
            return Pattern(holds, likely if told_by_empty else np.where(empty, holds, likely))
    return None


def _leading(
    values: np.ndarray, categorical: np.ndarray, sides: np.ndarray
) -> list[tuple[float, int, np.ndarray, int]]:
    """List the columns most correlated with the label: correlation, column, condition, side."""
    found = []
    for column, numbers in enumerate(values.T):
        groups = np.unique(numbers[~np.isnan(numbers)])
        if not 2 <= len(groups) <= MOST_GROUPS:
            continue
        only = values[:, [column]], categorical[[column]]
        conditions = conditions_of(*only, np.zeros(len(values)))
        if not conditions.size or not sides.size:
            continue
        links = np.corrcoef(conditions.T, sides.T)[: conditions.shape[1], conditions.shape[1] :]
        best = np.unravel_index(np.abs(links).argmax(), links.shape)
        found.append((float(links[best]), column, conditions[:, best[0]] > 0.5, int(best[1])))
    found.sort(key=lambda leading: -abs(leading[0]))
    least, most = LINK
    return [leading for leading in found if least <= abs(leading[0]) <= most][:TRIED]


def _signals(others: np.ndarray, one: np.ndarray, two: np.ndarray) -> float:
    """Return how much better the other columns predict two binary variables than one signal does.

    It is a ratio of gains in log-likelihood, the geometric mean over both variables: 1 if the
    columns have one common signal for both, infinite if they know nothing about one of them.
    """
    of_one, of_two = (_chance(others, variable) for variable in (one, two))
    if min(_gain(one, of_one), _gain(two, of_two)) < LEAST_KNOWN:
        return np.inf
    ratios = []
    for variable, partner, signal in ((one, two, of_two), (two, one, of_one)):
        shared = np.column_stack([signal, partner])
        told = _gain(variable, _chance(shared, variable))
        if told <= 0:
            return np.inf
        ratios.append(_gain(variable, _chance(np.hstack([others, shared]), variable, TREES)) / told)
    return float(np.sqrt(np.prod(np.maximum(ratios, 0))))


def _chance(x: np.ndarray, variable: np.ndarray, trees: dict = FEW_TREES) -> np.ndarray:
    """Return the cross-fitted probability, by boosted trees, that the variable is true."""
    model = HistGradientBoostingClassifier(**trees, random_state=0)
    said = held_out(model, x, variable.astype(int), classes=2, folds=FOLDS)
    return said[:, 1].clip(SURE, 1 - SURE)


def _gain(variable: np.ndarray, said: np.ndarray) -> float:
    """Return the gain in log-likelihood of predictions over the mean, in nats per row."""
    plain = np.full(len(variable), variable.mean())
    return float(log_loss(variable, plain) - log_loss(variable, said))
