"""Repair each error type in its own way: relabel or hedge, impute, up-weight."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor

from demix_lite.cross_fit import in_bins, without_empty
from demix_lite.diagnosis import Diagnosis
from demix_lite.errors import DemixError, refuse_unknown
from demix_lite.tasks.base import Task

SPURIOUS_WEIGHT = 2.0
"""Weight of a row that breaks the shortcut, against 1 for the others (the paper: 1 against 0.5)."""

SMALLEST_WEIGHT = 0.01
SMALLEST_CHANCE = 0.05
LEAST_CERTAINTY = 0.05
TREES = {"max_leaf_nodes": 6, "min_samples_leaf": 60, "max_iter": 40, "learning_rate": 0.15}
"""Few splits: a shortcut is a simple condition, and the verdicts are noisy."""
WAYS = {"labels": ("hedge", "flip"), "features": ("impute", "hedge")}


@dataclass(frozen=True)
class Repaired:
    """Training rows after repair.

    Attributes
    ----------
    frame : DataFrame
        The repaired table, one line per row: flagged labels are changed, broken cells imputed.
    samples : DataFrame
        What to train on: the same rows, but a row may occur once with each of its two labels and,
        if features are hedged, once as it is and once imputed (the index identifies the row).
        Samples with a weight close to zero are left out.
    weights : Tensor
        Training weight of every sample, mean 1, shape ``(len(samples),)``.
    cells : DataFrame
        True for every feature cell that was imputed, aligned with ``frame``.
    relabelled : Index
        Rows of ``frame`` whose label was changed.
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
    features: Literal["impute", "hedge"] = "impute",
    spurious_weight: float = SPURIOUS_WEIGHT,
) -> Repaired:
    """Repair the rows that a diagnosis suspects.

    - Labels: flagged labels are changed by the task (with two classes: flipped).
    - Features: the extreme cells of rows with feature errors are imputed from rows of the same
      class without label or feature error.
    - Spurious errors: rows that break the shortcut are weighted up.

    Besides the flag, a task may require a minimum probability before it changes a label
    (``label.least_doubt``) or features (``least_broken``).

    With more than two classes, and for numeric labels, the new label is the dirty model's
    prediction. ``frame`` shows it as a suggestion; training on it would only teach the errors
    again.

    Parameters
    ----------
    task : Task
        Defines how to relabel and impute.
    frame : DataFrame
        Dirty training rows.
    diagnosis : Diagnosis
        Aligned with ``frame``.
    outputs : Tensor
        Outputs of the dirty model for all rows, in the order of ``frame``.
    labels : {"hedge", "flip"}
        ``"hedge"`` trains on both of two labels, each weighted by its probability, so that a hard
        row is not turned into what the model predicts. Where more labels are possible, it trains
        on the recorded one, weighted by the probability that it is right. ``"flip"`` changes the
        flagged labels and trains on the result.
    features : {"impute", "hedge"}
        What happens to rows with feature errors. ``"impute"`` imputes flagged rows. ``"hedge"``
        trains on every row both as it is and imputed, each weighted by its probability, whether
        flagged or not.
    spurious_weight : float
        Weight of minority rows relative to the others, at least 1.

    Returns
    -------
    Repaired

    Raises
    ------
    DemixError
        If ``labels`` or ``features`` is not one of these options, ``diagnosis`` or ``outputs`` has
        another number of rows than ``frame``, its index repeats a value, or nothing is left to
        train on.
    """
    for name, other_rows in (("diagnosis", len(diagnosis.flag)), ("outputs", len(outputs))):
        if other_rows != len(frame):
            raise DemixError(f"{name}: {other_rows} rows, but the frame has {len(frame)}.")
    if not frame.index.is_unique:
        raise DemixError("several rows of the frame have the same index: reset the index first.")
    for part, way in (("labels", labels), ("features", features)):
        refuse_unknown(f"way to repair {part}", [way], WAYS[part])
    flag, chance = diagnosis.flag, diagnosis.probability["feature"].to_numpy()
    wrong = (flag["label"] & (diagnosis.probability["label"] >= task.label.least_doubt)).to_numpy()
    broken = (flag["feature"] & (chance >= task.least_broken)).to_numpy()
    other = task.relabel(frame[task.target], outputs)
    relabelled = frame.assign(**{task.target: frame[task.target].where(~wrong, other)})
    doubted = broken | (chance >= SMALLEST_CHANCE) if features == "hedge" else broken
    imputed, cells = _impute(task, relabelled, doubted, ~broken & ~wrong)
    repaired = relabelled.copy()
    repaired.loc[broken] = imputed.loc[broken]
    versions = [(repaired, np.ones(len(frame)))]
    if features == "hedge":
        share = np.where(cells.any(axis=1), chance, 0.0)
        versions = [(relabelled, 1 - share), (imputed, share)]
    said = [(repaired[task.target], np.where(flag["spurious"], spurious_weight, 1.0))]
    if labels == "hedge":
        said = _hedged_labels(task, frame, other, diagnosis, spurious_weight)
    samples = pd.concat(
        [f.assign(**{task.target: label}) for f, _ in versions for label, _ in said]
    )
    weights = np.concatenate([share * weight for _, share in versions for _, weight in said])
    used = weights >= SMALLEST_WEIGHT
    if not used.any():
        raise DemixError("every label is surely wrong, so no row is left to train on.")
    mean_one = torch.tensor(weights[used] / weights[used].mean()).float()
    cells[~broken] = False
    return Repaired(repaired, samples[used], mean_one, cells, frame.index[wrong])


def _impute(
    task: Task, frame: pd.DataFrame, doubted: np.ndarray, trusted: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return all rows, with the doubted ones imputed from the trusted, and the changed cells."""
    imputed = frame.copy()
    cells = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    if doubted.any():
        suspects, touched = task.impute(frame[doubted], frame[trusted])
        imputed.loc[doubted] = suspects
        cells.loc[doubted, touched.columns] = touched
    return imputed, cells


def _hedged_labels(
    task: Task, frame: pd.DataFrame, other: pd.Series, diagnosis: Diagnosis, spurious_weight: float
) -> list[tuple[pd.Series, np.ndarray]]:
    """Return the possible labels of every row, each with its expected weight.

    Whether a row breaks the shortcut depends on its true label. With two classes, the two labels of
    a row are on opposite sides of the shortcut; otherwise nothing is known about the other side.
    """
    wrong = diagnosis.probability["label"].to_numpy()
    wrong = np.where(wrong < task.label.least_doubt, 0.0, wrong)
    breaks = breaks_relabelled = diagnosis.probability["spurious"].to_numpy()
    # A diagnosis that suspects no shortcut says nothing of its sides.
    if task.label.two_sided and breaks.any():
        breaks = _breaks_as_recorded(task, frame, diagnosis)
        breaks_relabelled = 1 - breaks
    extra = spurious_weight - 1
    said = [(frame[task.target], (1 - wrong) * (1 + extra * breaks))]
    if task.label.other_known:
        said.append((other, wrong * (1 + extra * breaks_relabelled)))
    return said


def _breaks_as_recorded(task: Task, frame: pd.DataFrame, diagnosis: Diagnosis) -> np.ndarray:
    """Probability that a row breaks the shortcut if its recorded label is right.

    Let t be this probability and p that of a label error: P(spurious) = t (1 − p) + (1 − t) p.
    Solved for t row by row, the result is noisy, and undefined where p is one half. But t is the
    same function of the columns and the recorded label for all rows, so small trees are fitted to
    the solutions, with weight (1 − 2p)², to average out the noise. Rows whose errors are certain
    keep their own solution.
    """
    wrong = diagnosis.probability["label"].to_numpy()
    spurious = diagnosis.probability["spurious"].to_numpy()
    certainty = 1 - 2 * wrong
    usable = np.abs(certainty) > LEAST_CERTAINTY
    solved = np.zeros(len(frame))
    solved[usable] = ((spurious - wrong)[usable] / certainty[usable]).clip(-1, 2)
    sure = (wrong % 1 == 0) & (spurious % 1 == 0)
    if sure.all() or not usable.any():
        return solved
    label = pd.factorize(frame[task.target])[0]
    columns = np.column_stack([in_bins(task.encoder(frame).columns(frame)[0]), label])
    trees = HistGradientBoostingRegressor(**TREES, random_state=0)
    weights = certainty[usable] ** 2
    trees.fit(without_empty(columns[usable]), solved[usable], sample_weight=weights)
    return np.where(sure, solved, trees.predict(columns).clip(0, 1))
