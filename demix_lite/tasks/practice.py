"""Practice tasks: the same table with another label and a randomly drawn shortcut.

A detector that practises on a handful of tasks memorises their labels and rules. But any column of
a table may serve as its label, and any condition on the others may falsely predict it. What a
detector learns from many such tasks it can use on a table it has never seen.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from demix_lite.tasks.base import Interval, Rule, Splits
from demix_lite.tasks.labels import Classes, Label, Number
from demix_lite.tasks.tabular import TabularTask

COVERAGE = (0.03, 0.6)
"""Range of the share of rows that meet a drawn condition, have its target, or break the rule."""

MOST_CLASSES = 7
LEAST_CLASS = 0.02
"""Least share of rows with a category or a range for it to become a class."""

BINNED = 0.5
"""Probability that a numeric column is binned into classes instead of predicted as a number."""

MOST_FREQUENT = 0.5
"""A numeric column with one value more frequent than this is not used as a label."""

NARROWED, MERGED = 0.2, 0.4
"""Probability that a condition has a second column, and that it combines several categories."""

OWN_LABEL = 0.4
"""Probability that the label stays as it is and only the rule is drawn."""

EXCHANGED = 0.5
"""Probability that wrong labels are those of other rows. If they were always drawn evenly, nearly
all rare values of a skewed label would be wrong ones."""

OTHER = "other"
ATTEMPTS = 200


def practice_task(
    task: TabularTask, splits: Splits, rng: np.random.Generator
) -> tuple[TabularTask, Splits]:
    """Draw another label and a rule for a table.

    The label column, its type, the way wrong labels are drawn, and the rule are random. Returns the
    task, with one rule, and the rows that have a label in it; both are unchanged if nothing
    suitable is found.

    Examples
    --------
    >>> from demix_lite.tasks.tables import ADULT
    >>> other, rows = practice_task(ADULT, ADULT.load(rows=2000), np.random.default_rng(0))
    >>> other.target != ADULT.target, len(other.rules)
    (True, 1)
    """
    for _ in range(ATTEMPTS):
        question = _question(task, splits.train, rng)
        if question is None:
            continue
        asked, answer = question
        parts = {p: answer(getattr(splits, p)) for p in ("train", "valid", "test")}
        rule = random_rule(asked, parts["train"], rng)
        if rule is not None:
            exchanges = bool(rng.random() < EXCHANGED)
            drawn = replace(asked, rules=(rule,), exchanges_labels=exchanges)
            return drawn, replace(splits, **parts)
    return task, splits


def _question(
    task: TabularTask, frame: pd.DataFrame, rng: np.random.Generator
) -> tuple[TabularTask, Callable[[pd.DataFrame], pd.DataFrame]] | None:
    """Draw the label: the table's own, another column, or another form of either."""
    if rng.random() < OWN_LABEL:
        return task, lambda rows: rows
    target = str(rng.choice([task.target, *task.features]))
    numeric = target in task.numeric or (target == task.target and not task.label.classes)
    drawn = (_number_question if numeric else _category_question)(frame[target], rng)
    if drawn is None:
        return None
    label, answer = drawn

    def answered(rows: pd.DataFrame) -> pd.DataFrame:
        labelled = rows.assign(**{target: answer(rows[target])})
        return labelled.dropna(subset=[target]).reset_index(drop=True)

    return replace(_without(task, target), target=target, label=label, rules=()), answered


Answer = Callable[[pd.Series], pd.Series]
"""Maps the cells of a column to labels, missing where a row has none."""


def _category_question(values: pd.Series, rng: np.random.Generator) -> tuple[Label, Answer] | None:
    """Draw a label with all frequent categories as classes, or one of them against the rest."""
    shares = values.value_counts(normalize=True)
    frequent = [str(name) for name in shares.index[shares >= LEAST_CLASS][:MOST_CLASSES]]
    if len(frequent) < 2:
        return None
    if len(frequent) == 2 or rng.random() < 0.5:
        return Classes(tuple(frequent)), lambda cells: cells.where(cells.isin(frequent))
    one = str(rng.choice(frequent))
    return Classes((OTHER, one)), lambda cells: cells.where(cells == one, OTHER)


def _number_question(values: pd.Series, rng: np.random.Generator) -> tuple[Label, Answer] | None:
    """Draw a label that is the number itself, or one of a few ranges as classes."""
    known = values.dropna()
    if known.nunique() < 10 or known.value_counts(normalize=True).iloc[0] > MOST_FREQUENT:
        return None
    if rng.random() >= BINNED:
        low, high = (float(known.quantile(q)) for q in (0.005, 0.995))
        return Number(low, high), lambda cells: cells.where(cells.between(low, high))
    count = int(rng.choice([2, 2, 2, 3, 4, 5, 6, 7]))
    cuts = np.sort(rng.uniform(0.1, 0.9, size=count - 1))
    edges = [-np.inf, *np.unique(known.quantile(cuts)), np.inf]
    names = [f"range {number}" for number in range(1, len(edges))]
    if pd.cut(known, edges, labels=names).value_counts(normalize=True).min() < LEAST_CLASS:
        return None
    label = Classes(tuple(names))
    return label, lambda cells: pd.cut(cells, edges, labels=names).astype("object")


def _without(task: TabularTask, column: str) -> TabularTask:
    """Return the task without a column, and with its own label among the features instead."""
    if column == task.target:
        return task
    numbers, categories = (
        tuple(c for c in columns if c != column) for columns in (task.numeric, task.categorical)
    )
    if task.label.classes:
        return replace(task, numeric=numbers, categorical=(*categories, task.target))
    return replace(task, numeric=(*numbers, task.target), categorical=categories)


def random_rule(task: TabularTask, frame: pd.DataFrame, rng: np.random.Generator) -> Rule | None:
    """Draw a rule whose condition, target and minority are neither too rare nor too common.

    Examples
    --------
    >>> from demix_lite.tasks.tables import BANK
    >>> rule = random_rule(BANK, BANK.load(rows=2000).train, np.random.default_rng(0))
    >>> len(rule.condition) in (1, 2)
    True
    """
    label, labels = task.label, frame[task.target]
    for _ in range(ATTEMPTS):
        count = min(1 + (rng.random() < NARROWED), len(task.features))
        columns = rng.choice(task.features, size=count, replace=False)
        condition = {str(c): _some_of(frame[c], c in task.numeric, rng) for c in columns}
        target = str(rng.choice(label.names)) if label.classes else _range(labels, rng)
        rule = Rule("drawn", condition, target)
        shares = rule.holds(frame).mean(), rule.matches_target(labels).mean()
        minority = task.minority(frame, rule).mean()
        if all(COVERAGE[0] <= s <= COVERAGE[1] for s in (*shares, minority)):
            return rule
    return None


def _some_of(
    values: pd.Series, numeric: bool, rng: np.random.Generator
) -> frozenset[str] | Interval:
    """Draw a range of numbers, a category, or a few of them."""
    if numeric:
        return _range(values, rng)
    shares = values.value_counts(normalize=True)
    count = 1 if rng.random() >= MERGED else int(rng.integers(2, 4))
    drawn = rng.choice(shares.index.to_numpy(dtype=object), size=min(count, len(shares)))
    return frozenset(map(str, drawn))


def _range(values: pd.Series, rng: np.random.Generator) -> Interval:
    """Draw an interval at the low end, at the high end or in the middle of a column."""
    share = rng.uniform(*COVERAGE)
    start = float(rng.choice([0.0, 1 - share, rng.uniform(0, 1 - share)], p=[0.3, 0.5, 0.2]))
    low, high = values.quantile([start, min(start + share, 1.0)])
    return float(low), float(high)
