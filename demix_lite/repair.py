"""Repair each error in its own way: relabel, impute or drop, up-weight."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from demix_lite.tasks.base import Encoder, Task

SPURIOUS_WEIGHT = 2.0
"""Weight of a row that breaks the shortcut, against 1 for the others (the paper: 1 against 0.5)."""


@dataclass(frozen=True)
class Repaired:
    """Training rows after repair.

    Attributes
    ----------
    frame : DataFrame
        The repaired rows; rows that were dropped are gone, the index tells which stayed.
    weights : Tensor
        Training weight of every kept row, mean 1, shape ``(len(frame),)``.
    cells : DataFrame
        True for every feature cell that was imputed.
    relabelled : Index
        Rows that got another label.
    """

    frame: pd.DataFrame
    weights: Tensor
    cells: pd.DataFrame
    relabelled: pd.Index


def repair(
    task: Task,
    frame: pd.DataFrame,
    flag: pd.DataFrame,
    outputs: Tensor,
    encoder: Encoder,
    *,
    features: Literal["impute", "drop"] = "impute",
    spurious_weight: float = SPURIOUS_WEIGHT,
) -> Repaired:
    """Repair the flagged rows.

    Label errors are relabelled by the task (two classes: flipped); the extreme cells of rows with
    feature errors are imputed from rows of the same class without label or feature error, or the
    rows are dropped; rows that break the shortcut are weighted up.

    Parameters
    ----------
    task : Task
        Knows how to relabel and impute.
    frame : DataFrame
        Dirty training rows.
    flag : DataFrame
        Boolean columns ``label``, ``feature``, ``spurious``, aligned with ``frame``.
    outputs : Tensor
        Outputs of the dirty model for all rows, in the order of ``frame``.
    encoder : Encoder
        Fitted on the dirty rows.
    features : {"impute", "drop"}
        What happens to rows with feature errors.
    spurious_weight : float
        Weight of flagged minority rows relative to the others, at least 1.

    Returns
    -------
    Repaired
    """
    repaired = frame.copy()
    wrong = flag["label"].to_numpy()
    if wrong.any():
        labels = task.relabel(frame.loc[wrong, task.target], outputs[torch.tensor(wrong)], encoder)
        repaired.loc[wrong, task.target] = labels
    cells = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    broken = flag["feature"].to_numpy()
    if broken.any() and features == "impute":
        suspects, touched = task.impute(repaired[broken], repaired[~broken & ~wrong])
        repaired.loc[broken] = suspects
        cells.loc[broken, touched.columns] = touched
    weights = np.where(flag["spurious"], spurious_weight, 1.0)
    if features == "drop":
        repaired, weights, cells = repaired[~broken], weights[~broken], cells[~broken]
    mean_one = torch.from_numpy(weights / weights.mean()).float()
    return Repaired(repaired, mean_one, cells, frame.index[wrong])
