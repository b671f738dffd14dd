"""Repair each error in its own way: relabel, impute or drop, up-weight."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from demix_lite.diagnosis import Diagnosis
from demix_lite.tasks.base import Task

SPURIOUS_WEIGHT = 2.0
"""Weight of a row that breaks the shortcut, against 1 for the others (the paper: 1 against 0.5)."""

PRIOR_STRENGTH = 0.25
SMALLEST_WEIGHT = 0.01


@dataclass(frozen=True)
class Repaired:
    """Training rows after repair.

    Attributes
    ----------
    frame : DataFrame
        The repaired table, one line a row: flagged labels are changed, broken cells imputed.
    samples : DataFrame
        What to train on: the same rows, but one whose label is uncertain stands there twice, once
        with each label (the index tells which row it is).
    weights : Tensor
        Training weight of every sample, mean 1, shape ``(len(samples),)``.
    cells : DataFrame
        True for every feature cell that was imputed, aligned with ``frame``.
    relabelled : Index
        Rows of ``frame`` that got another label.
    """

    frame: pd.DataFrame
    samples: pd.DataFrame
    weights: Tensor
    cells: pd.DataFrame
    relabelled: pd.Index


def repair(
    task: Task,
    frame: pd.DataFrame,
    diagnosis: Diagnosis,
    outputs: Tensor,
    *,
    labels: Literal["hedge", "flip"] = "hedge",
    features: Literal["impute", "drop"] = "impute",
    spurious_weight: float = SPURIOUS_WEIGHT,
) -> Repaired:
    """Repair the rows that a diagnosis suspects.

    Flagged labels are changed by the task (two classes: flipped); the extreme cells of rows with
    feature errors are imputed from rows of the same class without label or feature error, or the
    rows are dropped; rows that break the shortcut are weighted up.

    Parameters
    ----------
    task : Task
        Knows how to relabel and impute.
    frame : DataFrame
        Dirty training rows.
    diagnosis : Diagnosis
        Aligned with ``frame``.
    outputs : Tensor
        Outputs of the dirty model for all rows, in the order of ``frame``.
    labels : {"hedge", "flip"}
        ``"hedge"`` trains on both labels, each weighted by its probability: a row that the model
        finds hard is not turned into what the model believes. ``"flip"`` believes the flags.
    features : {"impute", "drop"}
        What happens to rows with feature errors.
    spurious_weight : float
        Weight of minority rows relative to the others, at least 1.

    Returns
    -------
    Repaired
    """
    flag = diagnosis.flag
    wrong, broken = flag["label"].to_numpy(), flag["feature"].to_numpy()
    other = task.relabel(frame[task.target], outputs)
    repaired = frame.copy()
    repaired[task.target] = frame[task.target].where(~wrong, other)
    cells = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    kept = np.ones(len(frame), dtype=bool)
    if features == "drop":
        kept = ~broken
    elif broken.any():
        suspects, touched = task.impute(repaired[broken], repaired[~broken & ~wrong])
        repaired.loc[broken] = suspects
        cells.loc[broken, touched.columns] = touched
    if labels == "flip":
        samples = repaired[kept]
        weights = np.where(flag["spurious"], spurious_weight, 1.0)[kept]
    else:
        samples, weights = _hedge(task, frame, repaired, other, diagnosis, kept, spurious_weight)
    mean_one = torch.tensor(weights / weights.mean()).float()
    return Repaired(repaired[kept], samples, mean_one, cells[kept], frame.index[wrong & kept])


def _hedge(
    task: Task,
    frame: pd.DataFrame,
    repaired: pd.DataFrame,
    other: pd.Series,
    diagnosis: Diagnosis,
    kept: np.ndarray,
    spurious_weight: float,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Stand every row there with both labels, each with the weight it has in expectation.

    Whether a row breaks the shortcut depends on its true label. With two classes the two labels of
    a row belong to opposite sides of the shortcut; otherwise nothing is known of the other side.
    """
    wrong = diagnosis.probability["label"].to_numpy()
    breaks = diagnosis.probability["spurious"].to_numpy()
    breaks_relabelled = breaks
    if task.label.two_sided:
        breaks = _breaks_as_recorded(frame[task.target], diagnosis)
        breaks_relabelled = 1 - breaks
    extra = spurious_weight - 1
    as_recorded = repaired.assign(**{task.target: frame[task.target]})
    relabelled = repaired.assign(**{task.target: other})
    weights = np.concatenate(
        [(1 - wrong) * (1 + extra * breaks), wrong * (1 + extra * breaks_relabelled)]
    )
    used = np.concatenate([kept, kept]) & (weights >= SMALLEST_WEIGHT)
    return pd.concat([as_recorded, relabelled])[used], weights[used]


def _breaks_as_recorded(labels: pd.Series, diagnosis: Diagnosis) -> np.ndarray:
    """Probability that a row breaks the shortcut if its recorded label is right.

    With t this probability and p that of a label error, P(spurious) = t (1 − p) + (1 − t) p. Solved
    for t by least squares, drawn towards the mean of the rows with the same label where p is near
    one half and the equation says nothing.
    """
    wrong = diagnosis.probability["label"].to_numpy()
    certainty = 1 - 2 * wrong
    told = (diagnosis.probability["spurious"].to_numpy() - wrong) * certainty
    table = pd.DataFrame({"told": told, "known": certainty**2}).set_axis(labels.index)
    classes = labels if not pd.api.types.is_numeric_dtype(labels) else np.zeros(len(labels))
    sums = table.groupby(np.asarray(classes)).transform("sum")
    usual = (sums["told"] / sums["known"].clip(lower=1e-9)).clip(0, 1).to_numpy()
    doubt = PRIOR_STRENGTH * (1 - certainty**2)
    return ((told + doubt * usual) / (certainty**2 + doubt).clip(min=1e-9)).clip(0, 1)
