"""From what is said of a table to what holds there, for a diagnosis and its self-check alike."""

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
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis
from demix_lite.tasks.tabular import TabularTask

SLIP = 0.95
"""Probability that a row with a cell written unlike its column has a feature error."""

BEYOND_DOUBT = 8.0
"""A step of so many standard errors is believed before a marker. Where a rule collected the rows,
its column is nearly all that tells the label, and another one that goes with it a little may look
like a marker; but by a marker, too, a column may get a small step (at most 5.8 on the tables of the
page of measurements)."""

SURE = 1e-4
"""No row is surer to break a pattern, or not to, than by so much."""


def conclude(
    task: TabularTask, frame: pd.DataFrame, judgement: Judgement
) -> tuple[Diagnosis, list[Evidence], list[NamedShortcut]]:
    """Return the diagnosis of a judged table, what is known of each error, and the shortcuts."""
    dirty = dirtiness(judgement)
    # Half-way to dirty the detector judges alone: there many broken numbers hide each other.
    judgement = with_outliers(judgement, task, frame, weight=max(0.0, 1 - 2 * dirty))
    pattern = find_pattern(judgement, task, frame, dirty=dirty)
    if pattern is not None:
        judgement = with_pattern(judgement, pattern)
    encoder = judgement.parts[0][1].encoder
    named = name_shortcuts(task, encoder, frame, judgement.probability, pattern)
    return *weigh(judgement, named, dirty=dirty), named


def find_pattern(
    judgement: Judgement, task: TabularTask, frame: pd.DataFrame, *, dirty: float
) -> Pattern | None:
    """Return the pattern of a step beyond doubt, else of a marker, else of a step; mostly None.

    ``dirty`` is 1 for a dirty table, 0 for a tidy one, and in between for one near the line.
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
    """Let the rows that break a pattern be the spurious ones.

    They are surer than what the detector hears of a shortcut.
    """
    by_cut = judgement.by_cut.copy()
    by_cut[:, :, ERROR_TYPES.index("spurious")] = pattern.broken.clip(SURE, 1 - SURE)
    return replace(judgement, by_cut=by_cut)


def with_slips(
    diagnosis: Diagnosis, evidence: list[Evidence], slips: np.ndarray
) -> tuple[Diagnosis, list[Evidence]]:
    """Flag the rows with a slip, boolean, shape ``(n,)``, whatever the detector says of the rest.

    It judged the rows after the slips were mended, so its share comes on top of theirs.
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
