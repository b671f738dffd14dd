"""What the baselines look at: the rows of a run and out-of-fold predictions, computed once."""

import weakref
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate, ParamSpec

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from demix_lite.cross_fit import held_out
from demix_lite.detector.runs import Run

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
    return run.task.label.classes


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
