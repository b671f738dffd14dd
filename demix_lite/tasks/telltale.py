"""Columns that predict the label alone: a shortcut, a copy of the label, or the cause itself.

A column that was filled in after the label, or that is correlated with it only where the rows were
collected, misleads a model even if every cell is right. One small tree shows how well it predicts.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

APART, EXPLAINED = 0.9, 0.95
"""Least area under the ROC curve for classes, and least explained share of variance for numbers."""

MOST_ROWS, FOLDS, LEAVES = 4000, 2, 32


def tells_alone(column: pd.Series, labels: pd.Series, *, is_class: bool) -> float:
    """Return how well a column alone predicts the label of held-out rows; 1 at best.

    For classes it is the area under the ROC curve (mean over each class against the others), for
    numbers the explained share of variance; NaN if there are too few rows.

    Examples
    --------
    >>> labels = pd.Series(["no"] * 50 + ["yes"] * 50)
    >>> tells_alone(pd.Series(range(100)), labels, is_class=True) > 0.95
    True
    """
    drawn = labels.sample(min(len(labels), MOST_ROWS), random_state=0)
    known = drawn.groupby(drawn).transform("size") >= 2 * FOLDS if is_class else drawn.notna()
    chosen = drawn.index[known]
    x, y = _as_numbers(column)[chosen].to_numpy(float)[:, None], labels[chosen]
    if len(y) < 2 * FOLDS or y.nunique() < 2:
        return np.nan
    kind = DecisionTreeClassifier if is_class else DecisionTreeRegressor
    tree = kind(max_leaf_nodes=LEAVES, min_samples_leaf=3, random_state=0)
    if not is_class:
        return float(r2_score(y, cross_val_predict(tree, x, y, cv=FOLDS)))
    said = cross_val_predict(tree, x, y, cv=FOLDS, method="predict_proba")
    said = said[:, 1] if said.shape[1] == 2 else said
    return float(roc_auc_score(y, said, multi_class="ovr"))


def is_telltale(column: pd.Series, labels: pd.Series, *, is_class: bool) -> bool:
    """Return whether a column alone predicts the label so well that one should ask why.

    Examples
    --------
    >>> labels = pd.Series(["no", "yes"] * 50)
    >>> is_telltale(pd.Series(range(100)), labels, is_class=True)
    False
    """
    return tells_alone(column, labels, is_class=is_class) >= (APART if is_class else EXPLAINED)


def missed_alone(column: pd.Series, side: pd.Series) -> float:
    """Return the share of held-out rows whose side a column alone gets wrong; NaN if one is rare.

    Examples
    --------
    >>> weight = pd.Series(range(100))
    >>> missed_alone(weight, weight < 40) < 0.05
    True
    """
    chosen = side.sample(min(len(side), MOST_ROWS), random_state=0).index
    x, y = _as_numbers(column)[chosen].to_numpy(float)[:, None], side[chosen].to_numpy()
    if min(y.sum(), (~y).sum()) < 2 * FOLDS:
        return np.nan
    tree = DecisionTreeClassifier(max_leaf_nodes=LEAVES, min_samples_leaf=3, random_state=0)
    return float((cross_val_predict(tree, x, y, cv=FOLDS) != y).mean())


def _as_numbers(column: pd.Series) -> pd.Series:
    is_number = pd.api.types.is_numeric_dtype(column.dtype)
    return column if is_number else pd.Series(pd.factorize(column)[0], column.index)
