"""The self-check: errors that we put into a user's own table, and how many of them are found."""

from dataclasses import replace

import numpy as np
import pandas as pd

from demix_lite.data.store import Card
from demix_lite.debugger.conclude import conclude
from demix_lite.debugger.judging import Announce, judge_table
from demix_lite.detector import ErrorDetector
from demix_lite.diagnosis import compare
from demix_lite.injection import inject
from demix_lite.seeds import generator
from demix_lite.tasks.base import Rule, Splits
from demix_lite.tasks.practice import random_rule
from demix_lite.tasks.tabular import TabularTask

CLEAN_RATIO = 0.7
MOST_ROWS = 2000
TRIALS = 2
NO_CARD = Card("own", "own", "", "", "", 0, "", (), (), "")


def self_check(
    task: TabularTask,
    frame: pd.DataFrame,
    detector: ErrorDetector,
    *,
    seed: object,
    announce: Announce,
) -> pd.DataFrame:
    """Put known errors into some of the rows, diagnose them, and compare.

    Label and feature errors go into 15 % of the rows each; a random rule over the columns becomes
    a shortcut that 15 % of the rows break. Errors that were there before count as false positives,
    so the result errs on the side of caution. It has one line per error type, over two trials:
    ``precision`` (share of the flags that are right), ``recall`` (share of the errors found) and
    ``errors`` (how many were put in). A share with denominator zero is NaN.
    """
    flags, errors = [], []
    for trial in range(TRIALS):
        name = (task.name, "self-check", seed, trial)
        chosen = np.sort(generator(*name).permutation(len(frame))[:MOST_ROWS])
        rows = frame.iloc[chosen].reset_index(drop=True)
        drawn = random_rule(task, rows, generator(*name, "rule"))
        rule = drawn or Rule("none", {task.features[0]: frozenset()}, "")  # no row breaks it
        practice = replace(task, rules=(rule,))
        injected = inject(practice, Splits(rows, rows, rows, NO_CARD), CLEAN_RATIO, seed=name)
        dirty = injected.train.frame
        announce(f"self-check {trial + 1} of {TRIALS}")
        judged = judge_table(practice, dirty, detector, repeats=1, seed=name, announce=announce)
        flags.append(conclude(practice, dirty, judged)[0].flag)
        errors.append(injected.train.errors)
    known, said = (pd.concat(trials, ignore_index=True) for trials in (errors, flags))
    return compare(known, said).drop(columns="rows")
