"""From what is said of a table to what holds there, for a diagnosis and its self-check alike."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from demix_lite.debugger.evidence import Evidence, dirtiness, weigh
from demix_lite.debugger.judging import Judgement
from demix_lite.debugger.outliers import with_outliers
from demix_lite.debugger.shortcut_names import NamedShortcut, name_shortcuts
from demix_lite.diagnosis import Diagnosis
from demix_lite.tasks.tabular import TabularTask

NEAR = 0.3
"""So far from the line, as a share of it, chance decides whether a table counts as dirty."""

SLIP = 0.95
"""Probability that a row with a cell written unlike its column has a feature error."""


@dataclass(frozen=True)
class Conclusion:
    """What holds in a table, given what the detector says of it.

    Attributes
    ----------
    diagnosis : Diagnosis
        Probabilities and flags of every row.
    evidence : list of Evidence
        What is known of each error type.
    shortcuts : list of NamedShortcut
        Rules that would explain the spurious verdicts, the best first.
    close_call : {"", "dirty", "tidy"}
        What the table was taken for, where another draw of controls may decide otherwise.
    """

    diagnosis: Diagnosis
    evidence: list[Evidence]
    shortcuts: list[NamedShortcut]
    close_call: str


def conclude(task: TabularTask, frame: pd.DataFrame, judgement: Judgement) -> Conclusion:
    """Decide whether a judged table is dirty or tidy, and what is wrong with its rows therefore."""
    how_dirty = dirtiness(judgement)
    dirty = how_dirty >= 1
    if not dirty:
        judgement = with_outliers(judgement, task, frame)
    encoder = judgement.parts[0][1].encoder
    named = name_shortcuts(task, encoder, frame, judgement.probability)
    taken_for = "dirty" if dirty else "tidy"
    close_call = taken_for if abs(how_dirty - 1) <= NEAR else ""
    return Conclusion(*weigh(judgement, named, dirty=dirty), named, close_call)


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
