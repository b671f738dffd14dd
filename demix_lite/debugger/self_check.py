"""The self-check: errors that we put into somebody's own table, and how many of them are found."""

from dataclasses import replace

import numpy as np
import pandas as pd

from demix_lite.data.store import Card
from demix_lite.debugger.evidence import weigh
from demix_lite.debugger.judging import Announce, judge_table
from demix_lite.debugger.shortcut_names import name_shortcuts
from demix_lite.detector import ErrorDetector
from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.injection import inject
from demix_lite.seeds import generator
from demix_lite.tasks.base import Rule, Splits, Task

CLEAN_RATIO = 0.7
MOST_ROWS = 2000
TRIALS = 2


def self_check(
    task: Task, frame: pd.DataFrame, detector: ErrorDetector, *, seed: object, announce: Announce
) -> pd.DataFrame:
    """Put known errors into some of the rows, diagnose them, and compare.

    Label and feature errors go into 15 % of the rows each; a random rule over the columns becomes
    a shortcut that 15 % of the rows break. Errors that were there before count as false alarms, so
    that the table errs on the side of caution.

    Returns
    -------
    DataFrame
        A line per error type: ``precision`` (share of the flags that are right), ``recall`` (share
        of the errors found), ``errors`` (how many were put in), over two trials.
    """
    counts = np.zeros((3, 3))
    for trial in range(TRIALS):
        name = (task.name, "self-check", seed, trial)
        chosen = np.sort(generator(*name).permutation(len(frame))[:MOST_ROWS])
        rows = frame.iloc[chosen].reset_index(drop=True)
        rule = random_rule(task, rows, generator(*name, "rule"))
        practice = replace(task, rules=(rule,))  # type: ignore[type-var]  # every task is one
        injected = inject(practice, Splits(rows, rows, rows, _NO_CARD), CLEAN_RATIO, seed=name)
        dirty, truth = injected.train.frame, injected.train.errors.to_numpy()
        announce(f"self-check {trial + 1} of {TRIALS}")
        judged = judge_table(practice, dirty, detector, repeats=1, seed=name, announce=announce)
        encoder = judged.parts[0][1].encoder
        named = name_shortcuts(practice, encoder, dirty, judged.probability)
        flag = weigh(judged, named)[0].flag.to_numpy()
        counts += np.array([(flag & truth).sum(0), flag.sum(0), truth.sum(0)])
    hits, flags, errors = counts
    table = {"precision": hits / np.maximum(flags, 1), "recall": hits / np.maximum(errors, 1)}
    return pd.DataFrame(table | {"errors": errors.astype(int)}, index=list(ERROR_TYPES))


_NO_CARD = Card("own", "own", "", "", "", 0, "", (), (), "")


def random_rule(task: Task, frame: pd.DataFrame, rng: np.random.Generator) -> Rule:
    """Draw a condition on one column and a target, both true of some rows and not of others."""
    columns = [c for c in frame.columns.drop(task.target) if frame[c].nunique() > 1]
    column = str(rng.choice(columns))
    return Rule(
        f"{column} (drawn at random)",
        {column: _some_values(frame[column], rng, condition=True)},
        _some_values(frame[task.target], rng, condition=False),
    )


def _some_values(values: pd.Series, rng: np.random.Generator, *, condition: bool):  # type: ignore[no-untyped-def]
    """Draw a category, or an interval at the upper or the lower end."""
    if not pd.api.types.is_numeric_dtype(values.dtype):
        counts = values.value_counts()
        name = str(rng.choice(counts.index[: max(2, len(counts) // 2)]))
        return frozenset([name]) if condition else name
    ordered = np.unique(values.dropna())
    cut = float(np.quantile(values.dropna(), rng.uniform(0.3, 0.7)))
    cut = min(max(cut, float(ordered[1])), float(ordered[-1]))
    return cut, float(ordered[-1])
