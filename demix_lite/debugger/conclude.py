"""From what is said of a table to what holds there, for a diagnosis and its self-check alike."""

from dataclasses import replace

import numpy as np
import pandas as pd

from demix_lite.debugger.evidence import Evidence, dirtiness, weigh
from demix_lite.debugger.judging import Judgement
from demix_lite.debugger.markers import breaks_marker
from demix_lite.debugger.outliers import with_outliers
from demix_lite.debugger.shortcut_names import NamedShortcut, name_shortcuts
from demix_lite.debugger.steps import breaks_step
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis
from demix_lite.tasks.tabular import TabularTask

SLIP = 0.95
"""Probability that a row with a cell written unlike its column has a feature error."""

SURE = 1e-4
"""No row is surer to break a pattern, or not to, than by so much."""


def conclude(
    task: TabularTask, frame: pd.DataFrame, judgement: Judgement
) -> tuple[Diagnosis, list[Evidence], list[NamedShortcut]]:
    """Return the diagnosis of a judged table, what is known of each error, and the shortcuts."""
    dirty = dirtiness(judgement)
    # Half-way to dirty the detector judges alone: there many broken numbers hide each other.
    judgement = with_outliers(judgement, task, frame, weight=max(0.0, 1 - 2 * dirty))
    judgement = with_pattern(judgement, task, frame, dirty=dirty)
    encoder = judgement.parts[0][1].encoder
    named = name_shortcuts(task, encoder, frame, judgement.probability)
    return *weigh(judgement, named, dirty=dirty), named


def with_pattern(
    judgement: Judgement, task: TabularTask, frame: pd.DataFrame, *, dirty: float
) -> Judgement:
    """Let the rows that break the pattern of a marker or else of a step be the spurious ones.

    They are surer than what the detector hears of a shortcut; most tables have neither. ``dirty``
    is 1 for a dirty table, 0 for a tidy one, and in between for one near the line.
    """
    encoder = judgement.parts[0][1].encoder
    wrong = judgement.probability[:, ERROR_TYPES.index("label")]
    for breaks_pattern in (breaks_marker, breaks_step):
        broken = breaks_pattern(task, encoder, frame, wrong, dirty=dirty)
        if broken is not None:
            by_cut = judgement.by_cut.copy()
            by_cut[:, :, ERROR_TYPES.index("spurious")] = broken.clip(SURE, 1 - SURE)
            return replace(judgement, by_cut=by_cut)
    return judgement


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
