"""Few gross errors: numbers far outside, which a model trained on them hardly feels.

A detector reads what a row does to a model. Where one row in twenty is broken badly, the scaler and
the weights swallow it and its influence looks like that of any row. How far a number lies from the
others is seen without a model. The controls say how much that is worth in this table: a logistic
regression tells them from the rows by both, and where distance does not help, it counts nothing. In
a dirty table the detector is at home, and many broken numbers hide each other; there it judges
alone.
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
"""A number is outlying if it lies further out than so many of the rows on that side of its column,
by more than so much of the way from the typical row to there: a long tail is no error."""

SMALLEST_SPREAD = 1e-9
LEAST_SLOPE = 0.25
"""The detector's own verdict counts at least so much, against 1 where it is right about odds."""


def outlyingness(task: TabularTask, frame: pd.DataFrame, reference: pd.DataFrame) -> np.ndarray:
    """Say how far the most extreme number of every row lies outside, shape ``(n,)``.

    The distance from the median on a logarithmic scale, beyond where a number is outlying on that
    side of its column in the reference; 0 for rows without such a number.

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

    With ``weight`` by so much of that; 0 leaves the judgement as it is.
    Rows keep the mean probability that the detector gave them; the order of the rows changes only
    where outlying numbers tell controls from rows better than the verdicts alone.
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
    """Return what a unit of distance is worth in the detector's odds, by telling controls apart."""
    both = np.vstack([rows, broken])
    spread = both.std(axis=0)
    if not len(broken) or spread.min() < SMALLEST_SPREAD:
        return 0.0
    is_control = np.repeat([0, 1], [len(rows), len(broken)])
    model = LogisticRegression(class_weight="balanced").fit(both / spread, is_control)
    verdict, distance = model.coef_[0] / spread
    return float(distance / max(verdict, LEAST_SLOPE))
