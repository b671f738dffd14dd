"""What a model says of rows it has not seen: out-of-fold predictions, computed once per run."""

import weakref
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from demix_lite.detector.runs import Run
from demix_lite.tasks.labels import Classes

FOLDS = 5
LABEL_BINS = 5

# Shallow and slow trees do not learn wrong labels by heart.
BOOSTING = {"max_leaf_nodes": 8, "learning_rate": 0.05, "early_stopping": False}

More = ParamSpec("More")


def once_per_run(
    compute: Callable[Concatenate[Run, More], np.ndarray],
) -> Callable[Concatenate[Run, More], np.ndarray]:
    """Remember what was computed for a run (and further hashable arguments) while the run lives."""
    kept: dict[int, dict[Hashable, np.ndarray]] = {}

    @wraps(compute)
    def remembered(run: Run, *args: More.args, **kwargs: More.kwargs) -> np.ndarray:
        if id(run) not in kept:
            kept[id(run)] = {}
            weakref.finalize(run, kept.pop, id(run), None)
        mine, key = kept[id(run)], (args, tuple(sorted(kwargs.items())))
        if key not in mine:
            mine[key] = compute(run, *args, **kwargs)
            mine[key].setflags(write=False)
        return mine[key]

    return remembered


def held_out(
    model: BaseEstimator,
    x: np.ndarray,
    y: np.ndarray,
    *,
    classes: int = 0,
    folds: int = FOLDS,
    most: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Let every row be judged by a model fitted on rows of the other folds.

    Parameters
    ----------
    model : estimator
        Cloned for every fold.
    x, y : array
        Inputs and targets; classes are numbered from 0.
    classes : int
        Number of classes; 0 if the target is a number.
    folds : int
        Number of folds.
    most : int, optional
        Fit on at most so many rows, drawn at random.
    seed : int
        Names the folds and the draw.

    Returns
    -------
    array
        Probabilities, shape ``(n, classes)``, 0 for a class missing from the other folds; or
        predictions, shape ``(n,)``.

    Examples
    --------
    >>> from sklearn.dummy import DummyRegressor
    >>> held_out(DummyRegressor(), np.zeros((3, 1)), np.array([0.0, 0.0, 6.0]), folds=3).tolist()
    [3.0, 3.0, 0.0]
    """
    said = np.zeros((len(x), classes) if classes else len(x))
    draw = np.random.default_rng(seed)
    with threadpool_limits(1):
        for others, held in KFold(folds, shuffle=True, random_state=seed % 2**32).split(x):
            others = draw.permutation(others)[:most]
            fitted: Any = clone(model).fit(x[others], y[others])
            if classes:
                known = fitted.classes_
                # Boosting answers two columns even where it has seen one class only.
                said[np.ix_(held, known)] = fitted.predict_proba(x[held])[:, : len(known)]
            else:
                said[held] = fitted.predict(x[held])
    return said


@once_per_run
def out_of_fold(run: Run) -> np.ndarray:
    """Predict every label of a run by gradient boosting on the features of the other folds.

    Returns
    -------
    array
        Probabilities of the task's classes, shape ``(N, classes)``; or predictions of the scaled
        number, shape ``(N,)``.
    """
    columns, categorical = run.columns()
    classes = class_count(run)
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    model = kind(**BOOSTING, categorical_features=categorical[:-1], random_state=0)
    return held_out(model, columns[:, :-1], targets(run), classes=classes)


def class_count(run: Run) -> int:
    """Return the number of classes; 0 if the label is a number."""
    label = run.task.label
    return len(label.names) if isinstance(label, Classes) else 0


def targets(run: Run) -> np.ndarray:
    """Return class numbers, or numbers scaled to [0, 1], shape ``(N,)``."""
    return run.samples[1].cpu().numpy()


def encoded(run: Run) -> np.ndarray:
    """Return the encoded inputs of the training rows, flat, shape ``(N, width)``."""
    return run.sources[0].features(run.samples[0]).cpu().numpy()


def doubt(run: Run) -> np.ndarray:
    """Return 1 − out-of-fold probability of the own label, or the absolute residual."""
    said, own = out_of_fold(run), targets(run)
    return 1 - said[np.arange(len(own)), own] if class_count(run) else np.abs(said - own)


def label_bins(run: Run) -> np.ndarray:
    """Return the class, or the fifth of the range that the number lies in, counted from 0."""
    own = targets(run)
    return own if class_count(run) else (own * LABEL_BINS).astype(int).clip(0, LABEL_BINS - 1)
