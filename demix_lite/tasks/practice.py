"""Practice tasks: another question asked of the same table, with a shortcut drawn at random.

A detector that practises on a handful of tasks learns their labels and their rules by heart. Any
column of a table may serve as its label, and any condition on the others may falsely announce it:
what a detector learns from many such questions, it can use on a table it never saw.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from demix_lite.tasks.base import Interval, Rule, Splits
from demix_lite.tasks.labels import Classes, Label, Number
from demix_lite.tasks.tabular import TabularTask

COVERAGE = (0.03, 0.6)
"""Share of rows that a drawn condition or target holds for."""

MOST_CLASSES = 7
LEAST_CLASS = 0.02
"""Share of rows below which a category or a range does not become a class."""

BINNED = 0.5
"""How often a column of numbers becomes classes, and not a number to predict."""

MOST_FREQUENT = 0.5
"""A column of numbers with one value more frequent than this is no label."""

NARROWED, MERGED = 0.2, 0.4
"""How often a second column narrows a condition, and several categories share one."""

OWN_LABEL = 0.4
"""How often the label stays as it is, and only the rule is drawn."""

EXCHANGED = 0.5
"""How often wrong labels are those of other rows: spread evenly over a skewed label, nearly all of
its rare values would be wrong ones."""

OTHER = "other"
ATTEMPTS = 200


def practice_task(
    task: TabularTask, splits: Splits, rng: np.random.Generator
) -> tuple[TabularTask, Splits]:
    """Draw another label and a rule for a table.

    Drawn are the label column, what kind of label it becomes, how it goes wrong, and the rule.
    Returns the task, with one rule, and the rows that have one of its labels; both as they were if
    nothing suitable is found.

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
    """Draw what is asked of the table: its own label, or another column or form of it."""
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
"""Turns the cells of a column into labels; missing where a row has none."""


def _category_question(values: pd.Series, rng: np.random.Generator) -> tuple[Label, Answer] | None:
    """Ask which of the frequent categories, or whether it is a certain one."""
    shares = values.value_counts(normalize=True)
    frequent = [str(name) for name in shares.index[shares >= LEAST_CLASS][:MOST_CLASSES]]
    if len(frequent) < 2:
        return None
    if len(frequent) == 2 or rng.random() < 0.5:
        return Classes(tuple(frequent)), lambda cells: cells.where(cells.isin(frequent))
    one = str(rng.choice(frequent))
    return Classes((OTHER, one)), lambda cells: cells.where(cells == one, OTHER)


def _number_question(values: pd.Series, rng: np.random.Generator) -> tuple[Label, Answer] | None:
    """Ask how large a number is, or which of a few ranges it is in."""
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
    """Return the task with its own label among the features, in place of a column."""
    if column == task.target:
        return task
    numbers, categories = (
        tuple(c for c in columns if c != column) for columns in (task.numeric, task.categorical)
    )
    if task.label.classes:
        return replace(task, numeric=numbers, categorical=(*categories, task.target))
    return replace(task, numeric=(*numbers, task.target), categorical=categories)


def random_rule(task: TabularTask, frame: pd.DataFrame, rng: np.random.Generator) -> Rule | None:
    """Draw a rule "where this holds, the label is that" whose minority is neither rare nor common.

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
    """Draw the low end, the high end or a middle part of a column."""
    share = rng.uniform(*COVERAGE)
    start = float(rng.choice([0.0, 1 - share, rng.uniform(0, 1 - share)], p=[0.3, 0.5, 0.2]))
    low, high = values.quantile([start, min(start + share, 1.0)])
    return float(low), float(high)
