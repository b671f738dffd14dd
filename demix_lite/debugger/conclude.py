"""From what is said of a table to what holds there, for a diagnosis and its self-check alike."""

import pandas as pd

from demix_lite.debugger.evidence import Evidence, weigh
from demix_lite.debugger.judging import Judgement
from demix_lite.debugger.outliers import with_outliers
from demix_lite.debugger.shortcut_names import NamedShortcut, name_shortcuts
from demix_lite.diagnosis import Diagnosis
from demix_lite.tasks.tabular import TabularTask


def conclude(
    task: TabularTask, frame: pd.DataFrame, judgement: Judgement
) -> tuple[Diagnosis, list[Evidence], list[NamedShortcut]]:
    """Return the diagnosis of a judged table, what is known of each error, and the shortcuts."""
    judgement = with_outliers(judgement, task, frame)
    encoder = judgement.parts[0][1].encoder
    named = name_shortcuts(task, encoder, frame, judgement.probability)
    return *weigh(judgement, named), named
