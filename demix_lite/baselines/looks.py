"""Shared inputs of the baselines: rows of a run and out-of-fold predictions, computed once."""

from collections.abc import Callable, Hashable
from functools import wraps
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from demix_lite.cross_fit import held_out
from demix_lite.detector.runs import Run

LABEL_BINS = 5

# Small trees with a low learning rate do not memorise wrong labels.
BOOSTING = {"max_leaf_nodes": 8, "learning_rate": 0.05, "early_stopping": False}

OfRun = Callable[..., np.ndarray]


def once_per_run(compute: OfRun) -> OfRun:
    """Cache a result per run (and further hashable arguments) for as long as the run exists."""
    kept: WeakKeyDictionary[Run, dict[tuple[Hashable, ...], np.ndarray]] = WeakKeyDictionary()

    @wraps(compute)
    def remembered(run: Run, *more: Hashable) -> np.ndarray:
        mine = kept.setdefault(run, {})
        if more not in mine:
            mine[more] = compute(run, *more)
            mine[more].setflags(write=False)
        return mine[more]

    return remembered


@once_per_run
def out_of_fold(run: Run) -> np.ndarray:
    """Predict every label of a run by gradient boosting on the features of the other folds.

    Returns class probabilities, shape ``(N, classes)``, or predictions of the scaled number, shape
    ``(N,)``.
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
    """Return 1 − the out-of-fold probability of the recorded label, or the absolute residual."""
    said, own = out_of_fold(run), targets(run)
    return 1 - said[np.arange(len(own)), own] if class_count(run) else np.abs(said - own)


def label_bins(run: Run) -> np.ndarray:
    """Return the class, or the fifth of the range that the number lies in, counted from 0."""
    own = targets(run)
    return own if class_count(run) else (own * LABEL_BINS).astype(int).clip(0, LABEL_BINS - 1)
