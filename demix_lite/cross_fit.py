"""Cross-fitting: every row is predicted by a model that was fitted on other rows."""

from functools import cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold
from threadpoolctl import ThreadpoolController

FOLDS = 5
WORTH_THREADS = 5000
"""Number of rows from which fitting a model gains from more than one thread."""


def held_out(
    model: BaseEstimator,
    x: np.ndarray,
    y: np.ndarray,
    *,
    classes: int = 0,
    weights: np.ndarray | None = None,
    folds: int = FOLDS,
    most: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Predict every row by a clone of the model fitted on rows of the other folds.

    Parameters
    ----------
    model : estimator
        A scikit-learn classifier or regressor; it stays unfitted.
    x, y : array
        Features, shape ``(n, d)``, and target, shape ``(n,)``.
    classes : int
        Number of classes, which ``y`` numbers from 0; 0 for a numeric target.
    weights : array, optional
        Sample weights of the rows.
    folds : int
        Number of folds.
    most : int, optional
        Maximum number of rows to fit on, drawn at random.
    seed : int
        Fixes the folds and the draws.

    Returns
    -------
    array
        Probabilities, shape ``(n, classes)``, with 0 for a class missing from the other folds; or
        predictions, shape ``(n,)``.

    Examples
    --------
    >>> from sklearn.dummy import DummyRegressor
    >>> held_out(DummyRegressor(), np.zeros((3, 1)), np.array([0.0, 0.0, 6.0]), folds=3).tolist()
    [3.0, 3.0, 0.0]
    """
    said = np.zeros((len(x), classes) if classes else len(x))
    draw = np.random.default_rng(seed)
    splits = KFold(folds, shuffle=True, random_state=seed % 2**32).split(x)
    # With few rows, the threads of boosting spend more time waiting than working.
    with _threads().limit(limits=1 if len(x) < WORTH_THREADS else None, user_api="openmp"):
        for others, held in splits:
            rows = draw.permutation(others)[:most]
            weighted = {} if weights is None else {"sample_weight": weights[rows]}
            fitted: Any = clone(model).fit(
                without_empty(x[rows], weighted.get("sample_weight")), y[rows], **weighted
            )
            if classes:
                known = fitted.classes_.astype(int)
                # Boosting returns two columns even if it has seen only one class.
                said[np.ix_(held, known)] = fitted.predict_proba(x[held])[:, : len(known)]
            else:
                said[held] = fitted.predict(x[held])
    return said


@cache
def _threads() -> ThreadpoolController:
    """Return the control of all threads; finding the libraries takes as long as a small fit."""
    return ThreadpoolController()


def without_empty(x: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Fill columns with zero if they are missing in all rows of positive weight.

    Boosting learns nothing from such columns, and scikit-learn 1.9 cannot bin them.

    Examples
    --------
    >>> without_empty(np.array([[1.0, np.nan], [np.nan, np.nan]])).tolist()
    [[1.0, 0.0], [nan, 0.0]]
    """
    counts = slice(None) if weights is None else weights > 0
    empty = np.isnan(x[counts]).all(axis=0)
    return np.where(empty, 0.0, x) if empty.any() else x


def in_bins(x: np.ndarray, most: int = 255) -> np.ndarray:
    """Replace columns of more than ``most`` distinct numbers by quantile bin numbers.

    Boosting bins its columns itself, but with sample weights that takes longer than all the rest.
    Missing numbers stay missing.

    Examples
    --------
    >>> in_bins(np.array([[5.0], [7.0], [1.0], [9.0], [np.nan]]), most=2).ravel().tolist()
    [0.0, 1.0, 0.0, 1.0, nan]
    """
    binned = x.astype(float)
    for column in binned.T:
        known = ~np.isnan(column)
        if len(np.unique(column[known])) > most:
            edges = np.quantile(column[known], np.linspace(0, 1, most + 1)[1:-1])
            column[known] = np.searchsorted(edges, column[known], side="right")
    return binned
