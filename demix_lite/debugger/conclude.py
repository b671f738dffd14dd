"""Turn the detector's verdicts on a table into a diagnosis; shared with the self-check."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from demix_lite.debugger.evidence import Evidence, dirtiness, share_of, weigh, with_share
from demix_lite.debugger.judging import Judgement
from demix_lite.debugger.markers import marker_pattern
from demix_lite.debugger.outliers import with_outliers
from demix_lite.debugger.patterns import Pattern
from demix_lite.debugger.shortcut_names import NamedShortcut, name_shortcuts
from demix_lite.debugger.steps import step_pattern
from demix_lite.debugger.surest import most_wrong
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis
from demix_lite.tasks.tabular import TabularTask

SLIP = 0.95
"""Least probability of a feature error for a row with a slip: a cell written unlike its column."""

BEYOND_DOUBT = 8.0
"""A step of at least this many standard errors takes precedence over a marker. If the rows were
collected by a rule on a numeric column, that column nearly determines the label, and another column
that is weakly correlated with it may look like a marker. A marker can also cause a small step in
another column, but on the tables of the page of measurements it was at most 5.8."""

SURE = 1e-4
"""Probabilities of breaking a pattern are clipped to [SURE, 1 - SURE]."""


def conclude(
    task: TabularTask, frame: pd.DataFrame, judgement: Judgement
) -> tuple[Diagnosis, list[Evidence], list[NamedShortcut]]:
    """Return the diagnosis of a judged table, the evidence on each error, and the shortcuts."""
    dirty = dirtiness(judgement)
    # From half-way to dirty on, the detector judges alone: many broken numbers hide each other.
    judgement = with_outliers(judgement, task, frame, weight=max(0.0, 1 - 2 * dirty))
    pattern = find_pattern(judgement, task, frame, dirty=dirty)
    if pattern is not None:
        judgement = with_pattern(judgement, pattern)
    encoder = judgement.parts[0][1].encoder
    named = name_shortcuts(task, encoder, frame, judgement.probability, pattern)
    bound: np.ndarray | float = 1.0
    if task.label.classes:
        bound = most_wrong(judgement.outputs, task.label.encode(frame[task.target]).numpy())
    return *weigh(judgement, named, dirty=dirty, most_wrong=bound), named


def find_pattern(
    judgement: Judgement, task: TabularTask, frame: pd.DataFrame, *, dirty: float
) -> Pattern | None:
    """Return the pattern of a very strong step, else of a marker, else of a step; usually None.

    ``dirty`` is 1 for a dirty table, 0 for a tidy one, and in between near the limit.
    """
    encoder = judgement.parts[0][1].encoder
    raw = judgement.probability[:, ERROR_TYPES.index("label")]
    wrong = with_share(raw, share_of(judgement, "label"))
    for find in (partial(step_pattern, strength=BEYOND_DOUBT), marker_pattern, step_pattern):
        pattern = find(task, encoder, frame, wrong, dirty=dirty)
        if pattern is not None:
            return pattern
    return None


def with_pattern(judgement: Judgement, pattern: Pattern) -> Judgement:
    """Replace the spurious probabilities by the probability that a row breaks the pattern.

    This is more reliable than the detector's own verdict on a shortcut.
    """
    by_cut = judgement.by_cut.copy()
    by_cut[:, :, ERROR_TYPES.index("spurious")] = pattern.broken.clip(SURE, 1 - SURE)
    return replace(judgement, by_cut=by_cut)


def with_slips(
    diagnosis: Diagnosis, evidence: list[Evidence], slips: np.ndarray
) -> tuple[Diagnosis, list[Evidence]]:
    """Flag every row with a slip (boolean array, shape ``(n,)``) as a feature error.

    The detector judged the rows after the slips were mended, so its estimated share is added to
    the share of rows with slips.
    """
    kind = "feature"
    chance, flag = diagnosis.probability.copy(), diagnosis.flag.copy()
    chance.loc[slips, kind] = chance.loc[slips, kind].clip(lower=SLIP)
    flag[kind] |= slips
    sure = float(slips.mean())

    def beside(said: Evidence) -> Evidence:
        shares = {s: sure + (1 - sure) * getattr(said, s) for s in ("share", "low", "high")}
        return replace(said, **shares, slips=int(slips.sum())) if said.kind == kind else said

    return replace(diagnosis, probability=chance, flag=flag), [beside(said) for said in evidence]
