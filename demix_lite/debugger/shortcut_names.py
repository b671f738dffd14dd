"""Name the shortcuts behind the verdicts: which condition goes with which label.

The candidate rules of the detector are arrays without names. A name is read off the rows where a
condition holds.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from sklearn.metrics import jaccard_score

from demix_lite.debugger.patterns import Pattern
from demix_lite.detector.shortcuts import Candidates, candidates, quality
from demix_lite.tasks.base import Encoder, Rule, Task
from demix_lite.tasks.telltale import is_telltale, missed_alone

MOST_NAMED = 3
ALIKE = 0.7
LEAST_LINK = 0.5
"""Spurious verdicts count if their correlation with breaking a rule that has a name is at least
this."""

MOST_BROKEN = 0.36
"""A rule that a larger share of the rows breaks is not suspected. The detector was trained with
minorities of up to 0.15 and with up to 0.3 wrong labels, together 0.36; of more rows it would name
most wrongly."""

SURE_LABEL = 0.4
"""Probabilities of a label error are clipped to this, so that a soft target above 1/2 always means
that the row has the label."""


@dataclass(frozen=True)
class NamedShortcut:
    """A suspected shortcut: a rule and the rows that break it.

    ``breaks`` is true for these rows, and ``link`` is the correlation between breaking the rule and
    the spurious verdicts, at most 1.
    """

    rule: Rule
    link: float
    breaks: np.ndarray

    @property
    def suspected(self) -> bool:
        """Whether the rule explains the spurious verdicts well enough to be believed."""
        return self.link >= LEAST_LINK and bool(self.breaks.mean() <= MOST_BROKEN)


def name_shortcuts(
    task: Task,
    encoder: Encoder,
    frame: pd.DataFrame,
    probability: np.ndarray,
    pattern: Pattern | None = None,
) -> list[NamedShortcut]:
    """Name the rules that explain the spurious verdicts ``(N, 3)`` best, the best first.

    The condition of a ``pattern`` is one of them, with its exact value.
    """
    values, categorical = encoder.columns(frame)
    labels = encoder.targets(frame[task.target]).numpy().astype(float)
    verdicts = probability.copy()
    verdicts[:, 0] = verdicts[:, 0].clip(max=SURE_LABEL)
    found = candidates(
        np.column_stack([values, labels]),
        verdicts,
        categorical=np.append(categorical, task.label.classes > 0),
        classes=task.label.classes,
    )
    if pattern is not None:
        conditions = np.column_stack([found.conditions, pattern.holds.astype(np.float32)])
        found = replace(found, conditions=conditions)
    links = quality(found, verdicts[:, 2])

    @cache
    def tells(column: str) -> bool:
        return is_telltale(frame[column], frame[task.target], is_class=task.label.classes > 0)

    cells = {str(name): _Cells.of(column) for name, column in frame.items()}
    named: list[NamedShortcut] = []
    for chosen in np.argsort(-links)[:50]:
        condition, target = divmod(int(chosen), found.targets.shape[1])
        rule = _rule(task, cells, found, condition, target)
        if rule is None:
            continue
        holds, wanted = rule.holds(frame), rule.matches_target(frame[task.target])
        if wanted[holds].mean() <= wanted[~holds].mean():
            continue  # with a rare label most rows would agree with any rule
        breaks = holds != wanted
        breaks = ~breaks if breaks.mean() > 0.5 else breaks
        (column,) = rule.condition
        # If no row breaks a rule, its correlation is rounding noise.
        if not breaks.any() or (tells(column) and _is_coarse(frame[column], holds, wanted, breaks)):
            continue
        if all(
            column not in other.rule.condition and jaccard_score(breaks, other.breaks) < ALIKE
            for other in named
        ):
            named.append(NamedShortcut(rule, float(links[chosen]), breaks))
        if len(named) == MOST_NAMED:
            break
    return named


def _is_coarse(
    values: pd.Series, holds: np.ndarray, wanted: np.ndarray, breaks: np.ndarray
) -> bool:
    """Return whether a rule is a poor copy of a link by which its column predicts the label anyway.

    It is if more rows break the rule than meet both its condition and its target, or if cuts at
    other ``values`` of the column leave less than half as many rows on the wrong side.
    """
    missed = missed_alone(values, pd.Series(wanted, values.index))
    return bool((holds & wanted).sum() < breaks.sum() or missed < breaks.mean() / 2)


@dataclass(frozen=True)
class _Cells:
    """The known cells of a column: where they are, their numbers or codes, the names of the codes.

    Read from pandas once per column, not once per rule.
    """

    known: np.ndarray
    values: np.ndarray
    names: pd.Index | None

    @classmethod
    def of(cls, column: pd.Series) -> "_Cells":
        known = column.notna().to_numpy()
        if pd.api.types.is_numeric_dtype(column.dtype):
            return cls(known, column.to_numpy(dtype=float, na_value=np.nan), None)
        return cls(known, *pd.factorize(column))

    def claim(self, holds: np.ndarray) -> "frozenset[str] | tuple[float, float] | None":
        """Return the values that these rows have and no other row has, or None."""
        inside, outside = self.values[holds & self.known], self.values[~holds & self.known]
        if not len(inside) or not len(outside):
            return None
        if self.names is not None:
            codes = np.unique(inside)
            return None if np.isin(codes, outside).any() else frozenset(self.names[codes])
        if inside.min() > outside.max() or inside.max() < outside.min():
            return float(inside.min()), float(inside.max())
        return None


def _rule(
    task: Task, cells: dict[str, _Cells], found: Candidates, condition: int, target: int
) -> Rule | None:
    """Read a rule off the rows; a rule that says the opposite is negated."""
    holds = found.conditions[:, condition] > 0.5
    wanted = found.targets[:, target] > 0.5
    if (holds != wanted).mean() > 0.5:  # the condition goes with the other labels
        if task.label.classes > 2:  # "all labels but one" has no name
            holds = ~holds
        else:
            wanted = ~wanted
    label = cells[task.target].claim(wanted)
    if label is None or (isinstance(label, frozenset) and len(label) > 1):
        return None
    for column, values in cells.items():
        claim = None if column == task.target else values.claim(holds)
        if claim is not None:
            value = label if isinstance(label, tuple) else next(iter(label))
            return Rule(column, {column: claim}, value)
    return None
