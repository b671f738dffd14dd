"""Few gross errors: numbers far outside, which hardly affect a model trained on them.

A detector sees what a row does to a model. Where one row in twenty is badly broken, the scaler and
the weights absorb it, and its influence looks like that of any other row. But how far a number lies
from the others can be seen without a model.

The controls show how much this distance is worth in the table at hand: a logistic regression
separates controls from rows by the verdict and the distance. If the distance does not help, it gets
no weight. In a dirty table many broken numbers hide each other, and the detector was made for such
tables; there it judges alone.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from demix_lite.debugger.evidence import shift_to
from demix_lite.debugger.judging import Judgement
from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.tasks.tabular import TabularTask

USUAL, MARGIN = 0.9, 0.5
"""A number is outlying if it lies beyond the ``USUAL`` quantile of the rows on its side of the
median by more than ``MARGIN`` times the distance from the typical row to that quantile. So a long
tail is no error."""

SMALLEST_SPREAD = 1e-9
LEAST_SLOPE = 0.25
"""Least coefficient of the detector's log odds; it is 1 where they are calibrated."""


def outlyingness(task: TabularTask, frame: pd.DataFrame, reference: pd.DataFrame) -> np.ndarray:
    """Return how far the most extreme number of every row lies outside, shape ``(n,)``.

    This is the distance from the median on a logarithmic scale, minus the distance from which on a
    number is outlying on that side of its column in ``reference``; 0 for rows without an outlying
    number.

    Examples
    --------
    >>> from demix_lite.tasks import get_task
    >>> task = get_task("adult")
    >>> rows = task.load("twin", rows=300).train
    >>> near, far = outlyingness(task, rows.iloc[[0, 0]].assign(age=[40, 4000]), rows)
    >>> bool(far > near)
    True
    """
    furthest = np.zeros(len(frame))
    for column in task.numeric:
        known, values = (rows[column].to_numpy(dtype=float) for rows in (reference, frame))
        middle = np.nanmedian(known)
        for side in (known > middle, known < middle):
            if not side.any():
                continue
            spread = np.median(known[side] - middle)  # negative below the middle
            typical, usual = np.quantile(np.log1p((known[side] - middle) / spread), [0.5, USUAL])
            away = np.log1p(np.maximum((values - middle) / spread, 0.0))
            np.fmax(furthest, away - usual - MARGIN * (usual - typical), out=furthest)
    return furthest


def with_outliers(
    judgement: Judgement, task: TabularTask, frame: pd.DataFrame, *, weight: float = 1.0
) -> Judgement:
    """Let outlying numbers raise the suspicion of feature errors, as far as the controls warrant.

    ``weight`` scales the effect; 0 leaves the judgement as it is. The mean probability over the
    rows stays that of the detector. The order of the rows changes only if outlying numbers separate
    controls from rows better than the verdicts alone.
    """
    number = ERROR_TYPES.index("feature")
    broken = judgement.controls.kind == "feature"
    said = logit(judgement.by_cut[:, :, number]), logit(judgement.of_controls[:, number])
    far = [outlyingness(task, rows, frame) for rows in (frame, judgement.controls.frame)]
    rows = np.column_stack([said[0].ravel(), np.tile(far[0], len(said[0]))])
    slope = _slope(rows, np.column_stack([said[1], far[1]])[broken])
    if weight * slope <= 0:
        return judgement
    odds = [
        verdict + weight * slope * distance for verdict, distance in zip(said, far, strict=True)
    ]
    shift = shift_to(odds[0].mean(axis=0), judgement.probability[:, number].mean())
    by_cut, of_controls = judgement.by_cut.copy(), judgement.of_controls.copy()
    by_cut[:, :, number], of_controls[:, number] = (expit(o - shift) for o in odds)
    return replace(judgement, by_cut=by_cut, of_controls=of_controls)


def _slope(rows: np.ndarray, broken: np.ndarray) -> float:
    """Return what a unit of distance is worth in log odds of the detector, from the controls."""
    both = np.vstack([rows, broken])
    spread = both.std(axis=0)
    if not len(broken) or spread.min() < SMALLEST_SPREAD:
        return 0.0
    is_control = np.repeat([0, 1], [len(rows), len(broken)])
    model = LogisticRegression(class_weight="balanced").fit(both / spread, is_control)
    verdict, distance = model.coef_[0] / spread
    return float(distance / max(verdict, LEAST_SLOPE))
