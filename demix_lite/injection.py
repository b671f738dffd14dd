"""Inject mixed errors into clean rows and record exactly where.

This stage chooses *which* rows get an error; the task defines *how* a label or a feature is
corrupted. The order follows the paper: first the spurious rule (rows that break it are dropped
until they are a small minority), then label errors, then feature errors.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from demix_lite.errors import DemixError
from demix_lite.seeds import generator
from demix_lite.tasks.base import FeatureErrorPlan, Rule, Splits, Task


@dataclass(frozen=True)
class Corrupted:
    """Rows with errors and the exact record of them.

    Attributes
    ----------
    frame : DataFrame
        The rows as a user would have them.
    original : DataFrame
        The same rows without label and feature errors.
    errors : DataFrame
        Boolean columns ``label``, ``feature``, ``spurious``, aligned with ``frame``.
    cells : DataFrame
        True for every changed cell, aligned with ``frame``.
    """

    frame: pd.DataFrame
    original: pd.DataFrame
    errors: pd.DataFrame
    cells: pd.DataFrame


@dataclass(frozen=True)
class Injection:
    """One draw of errors: the same rule and kinds of error in training and validation rows."""

    train: Corrupted
    valid: Corrupted
    rule: Rule
    plan: FeatureErrorPlan


def inject(
    task: Task,
    splits: Splits,
    clean_ratio: float = 0.5,
    *,
    seed: object = 0,
    co_occurring: bool = False,
    rule: str | None = None,
) -> Injection:
    """Corrupt the training and validation rows of ``splits``; the test rows stay untouched.

    Parameters
    ----------
    task : Task
        Defines how labels and features are corrupted and which spurious rules exist.
    splits : Splits
        Clean rows.
    clean_ratio : float
        Share of rows with neither a label nor a feature error, in (0, 1] (more if they co-occur).
        Half of the rest gets a label error, half a feature error. At 1 nothing is changed.
    seed : object
        Seeds the draw; the same seed gives the same errors.
    co_occurring : bool
        Draw label and feature errors independently, so that a row may have both.
    rule : str, optional
        Name of the spurious rule; drawn at random by default. All other random choices are the same
        for every rule.

    Returns
    -------
    Injection

    Raises
    ------
    DemixError
        If ``clean_ratio`` is outside (0, 1], the rule is unknown, or none fits the table.
    """
    check_clean_ratio(clean_ratio)
    rng = generator(task.name, "inject", "plan", seed)
    rules = task.rules_for(splits.train)
    if not rules:
        raise DemixError(f"no spurious rule of {task.name} fits this table; ask for more rows.")
    drawn = rules[rng.integers(len(rules))]
    chosen = drawn if rule is None else task.rule(rule)
    if lacking := sorted(chosen.condition.keys() - set(splits.train.columns)):
        raise DemixError(f"this table lacks {', '.join(lacking)}, which {chosen.name!r} needs.")
    plan = task.plan_feature_errors(splits.train, rng)
    how = task, chosen, plan, clean_ratio, co_occurring
    train = _corrupt(splits.train, *how, generator(task.name, "inject", "train", seed))
    valid = _corrupt(splits.valid, *how, generator(task.name, "inject", "valid", seed))
    return Injection(train, valid, chosen, plan)


def check_clean_ratio(clean_ratio: float) -> None:
    """Raise :class:`DemixError` unless ``clean_ratio`` lies in (0, 1].

    Examples
    --------
    >>> check_clean_ratio(0.5)
    """
    if not 0 < clean_ratio <= 1:
        raise DemixError(f"the clean ratio must lie in (0, 1], not {clean_ratio:g}.")


def _corrupt(
    frame: pd.DataFrame,
    task: Task,
    rule: Rule,
    plan: FeatureErrorPlan,
    clean_ratio: float,
    co_occurring: bool,
    rng: np.random.Generator,
) -> Corrupted:
    if clean_ratio < 1:
        frame = _drop_minority(frame, task.minority(frame, rule), task.minority_share, rng)
    original = frame.reset_index(drop=True)
    units = plan.order(original) if plan.order else None
    share = (1 - clean_ratio) / 2
    label_rows, feature_rows = _draw_rows(len(original), share, co_occurring, rng, units)
    dirty = original.copy()
    if len(label_rows):
        labels = original.loc[label_rows, task.target]
        dirty.loc[label_rows, task.target] = task.wrong_labels(labels, rng)
    if len(feature_rows):
        wrong = task.corrupt_features(original.loc[feature_rows], plan, rng)
        columns = list(plan.columns)
        dirty.loc[feature_rows, columns] = wrong[columns]
    same = (dirty == original).fillna(False).astype(bool) | (dirty.isna() & original.isna())
    cells = ~same
    errors = pd.DataFrame(
        {
            "label": cells[task.target],
            "feature": cells.drop(columns=task.target).any(axis=1),
            "spurious": task.minority(original, rule) & (clean_ratio < 1),
        }
    )
    return Corrupted(dirty, original, errors, cells)


def _drop_minority(
    frame: pd.DataFrame, minority: np.ndarray, share: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Drop minority rows at random until they make up ``share`` of the remaining rows."""
    rows = np.flatnonzero(minority)
    keep = min(len(rows), round(share / (1 - share) * (len(frame) - len(rows))))
    dropped = rng.permutation(rows)[keep:]
    return frame.iloc[np.delete(np.arange(len(frame)), dropped)]


def _draw_rows(
    n: int,
    share: float,
    co_occurring: bool,
    rng: np.random.Generator,
    units: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the rows with label errors and with feature errors, a ``share`` of all rows each."""
    count = round(share * n)
    order = rng.permutation(n)
    if units is not None:
        feature_rows = _whole_units(units, count)
        others = order if co_occurring else order[~np.isin(order, feature_rows)]
        return others[:count], feature_rows
    others = rng.permutation(n) if co_occurring else order[count:]
    return order[:count], others[:count]


def _whole_units(units: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of whole units, taken in order as long as they fit into ``count`` rows.

    Examples
    --------
    >>> _whole_units(np.array([1, 1, 1, 0, 2, 2]), 3).tolist()
    [3, 4, 5]
    """
    chosen, left = [], count
    for unit, size in enumerate(np.bincount(units)):
        if size <= left:
            chosen.append(unit)
            left -= size
    return np.flatnonzero(np.isin(units, chosen))
