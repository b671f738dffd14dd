"""A marker: a column that goes with the label and has nothing else to say.

Rows that were collected by their label come with where they came from: the sick from one hospital,
the healthy from another. The place goes with the label, and of the other columns it knows only what
they know of the label. So the others have one and the same thing to say of both: what they say of
the label, and the label itself, tell the place as well as they could by themselves; what they say
of the place, and the place itself, tell the label as well. A pattern that a table has by nature
goes its own ways: the others know more of a column than its bearing on the label, or less. Who
breaks the pattern of a marker is then a matter of the label alone and of the trust in it.
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
"""Values of a column that may be a marker, at most."""

FEWEST_ROWS, WIDEST = 4000, 500
"""Rows of a table in which a marker is sought, at least, and columns, at most. On fewer rows trees
do not see what the other columns know beside the label."""

SIDES = np.linspace(0.05, 0.95, 37)
"""Where a label that is a number is cut in two, as quantiles."""

LINK, TRIED = (0.15, 0.8), 3
"""A marker goes with the label so far (correlation), and is one of the columns that do most. What
goes with it further is the label in other words."""

ONE_SIGNAL = {"tidy": 1.1, "dirty": 1.3}
"""The others may tell marker and label so much better than one signal does, as a ratio of the
log-likelihood gained; labels that are wrong blur it. On the tables of the page of measurements it
was at most 1.03 and 1.2 for the marker of a script (bank, dirty: up to 1.6), and at least 1.18 and
1.5 for the columns that the tables have by nature."""

LEAST_KNOWN = 0.002
"""The others say so much of marker and label each, in nats a row. Where they say nothing, there is
no signal to share: a treatment given by lot is no marker."""

CELLS, MOST_ROWS = 400_000, 8000
FEW_TREES = {"max_iter": 20, "max_leaf_nodes": 6, "learning_rate": 0.15, "early_stopping": False}
TREES = FEW_TREES | {"max_iter": 30, "max_leaf_nodes": 8}
"""Few for a signal, which many columns tell together; more for what each of them knows."""

FOLDS, SURE = 3, 1e-4


def marker_pattern(
    task: TabularTask,
    encoder: Encoder,
    frame: pd.DataFrame,
    wrong: np.ndarray,
    *,
    dirty: float = 0.0,
) -> Pattern | None:
    """Return the pattern of the marker of a table, None if no column is one.

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
            return Pattern(holds if link > 0 else ~holds, likely)
    return None


def _leading(
    values: np.ndarray, categorical: np.ndarray, sides: np.ndarray
) -> list[tuple[float, int, np.ndarray, int]]:
    """List the columns that go with the label most: correlation, column, condition, side."""
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
    """Say how much better the other columns tell two yes-or-no variables than one signal does.

    1 if they know one thing of both; infinite if there is nothing that they know of both.
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
    """Say of every row how likely the variable is true, by trees that did not see the row."""
    model = HistGradientBoostingClassifier(**trees, random_state=0)
    said = held_out(model, x, variable.astype(int), classes=2, folds=FOLDS)
    return said[:, 1].clip(SURE, 1 - SURE)


def _gain(variable: np.ndarray, said: np.ndarray) -> float:
    """Return how much likelier a variable is by what is said than by its mean, in nats a row."""
    plain = np.full(len(variable), variable.mean())
    return float(log_loss(variable, plain) - log_loss(variable, said))
