"""A step: a value of a numeric column at which the share of a label changes all at once.

Rows that were collected by a rule, "from 40 on and ill, or younger and well", have a pattern with
an edge as sharp as the rule. By nature, a label changes gradually: its share just above a value is
close to that just below it. So a rule on a number shows as a jump between two neighbouring windows
of rows

- that is clearly larger than the differences between the windows next to them,
- that mostly remains when the windows are narrower,
- and that is by far the largest in its column.

Values that very many rows share, such as zero, and numbers that are names, such as hours and codes,
are left out: there nature has edges of its own. Which rows break the pattern then depends only on
the label and on how far it is trusted.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from demix_lite.debugger.patterns import Pattern
from demix_lite.detector.shortcuts import targets_of
from demix_lite.tasks.base import Encoder
from demix_lite.tasks.tabular import TabularTask

SIDES = np.linspace(0.1, 0.9, 17)
"""Quantiles at which a numeric label is cut in two."""

WINDOWS = (0.1, 0.05, 0.025)
"""Widths of the windows on either side that are compared, as shares of all rows: the widest to find
a jump, the narrower ones to see whether it is an edge or a slope."""

EDGE = 0.6
"""Share of a jump that must remain in the narrower windows."""

STRENGTH, ALONE, APART = 5.5, 1.75, 0.15
"""A jump exceeds the differences between the windows next to it by at least ``STRENGTH`` standard
errors. It is at least ``ALONE`` times as strong as any jump at least a share ``APART`` of the rows
away."""

HEIGHT = {"tidy": 1.5, "dirty": 0.75}
"""Least height of a jump, in log odds; wrong labels blur it. On the tables of the page of
measurements, natural jumps were below 1.2 (tidy) and 0.8 (dirty), except for one of 0.9 next to a
stronger one."""

HEAP = 0.05
"""Neither of the two narrowest windows may contain a value that a larger share of the rows has."""

LEAST_VALUES = 32
"""Least number of different values of a column apart from those: an effective number (inverse
Simpson index), computed from how often two rows agree."""

MOST_ROWS = 20_000


@dataclass(frozen=True)
class Step:
    """A jump in the share of a label between the rows below ``cut`` and those from ``cut`` on.

    ``height`` is in log odds, positive where the label ``side`` is more frequent from ``cut`` on;
    ``strength`` is in standard errors.
    """

    cut: float
    side: int
    height: float
    strength: float


def step_pattern(
    task: TabularTask,
    encoder: Encoder,
    frame: pd.DataFrame,
    wrong: np.ndarray,
    *,
    dirty: float = 0.0,
    strength: float = STRENGTH,
) -> Pattern | None:
    """Return the pattern of the strongest step of a table, or None if no column has one.

    ``wrong`` is the probability that the label of a row is wrong, ``(N,)``; ``dirty`` says how
    dirty the table is, from 0 to 1; ``strength`` is the least strength of a step.
    """
    values, categorical = encoder.columns(frame)
    labels = encoder.targets(frame[task.target]).numpy().astype(float)
    sides = targets_of(labels, np.zeros(len(labels)), task.label.classes, SIDES)
    least = (1 - dirty) * HEIGHT["tidy"] + dirty * HEIGHT["dirty"]
    rows = np.random.default_rng(0).permutation(len(frame))[:MOST_ROWS]
    found = [
        (step, numbers)
        for numbers in values.T[~categorical]
        if (step := find_step(numbers[rows], sides[rows], least=least, strength=strength))
    ]
    if not found:
        return None
    step, numbers = max(found, key=lambda each: each[0].strength)
    holds = (numbers >= step.cut) == (step.height > 0)
    likely = targets_of(labels, wrong, task.label.classes, SIDES)[:, step.side]
    # A row in which the number is missing does not break the pattern.
    return Pattern(holds, np.where(np.isnan(numbers), holds, likely))


def find_step(
    x: np.ndarray,
    sides: np.ndarray,
    *,
    least: float = HEIGHT["tidy"],
    strength: float = STRENGTH,
) -> Step | None:
    """Find the strongest step of a column; None if there is none.

    Parameters
    ----------
    x : array
        The numbers, shape ``(n,)``; missing ones are left out.
    sides : array
        For each of several binary labels, whether the row has it (0 or 1), shape ``(n, sides)``.
    least, strength : float
        Least height, in log odds, and least strength, in standard errors.

    Examples
    --------
    >>> age = np.random.default_rng(0).uniform(20, 80, 2000)
    >>> round(find_step(age, (age >= 50)[:, None]).cut)
    50
    >>> find_step(age, (age + np.random.default_rng(1).normal(0, 20, 2000) >= 50)[:, None])
    """
    known = np.flatnonzero(~np.isnan(x))
    order = known[np.argsort(x[known], kind="stable")]
    values, first, counts = np.unique(x[order], return_index=True, return_counts=True)
    n = len(order)
    width, narrow = int(WINDOWS[0] * n), int(WINDOWS[-1] * n)
    places = np.flatnonzero((first >= 2 * width) & (first <= n - 2 * width))
    gradual = _different(counts[counts <= HEAP * n]) >= LEAST_VALUES
    if narrow < 1 or not gradual or not len(places) or not sides.size:
        return None
    heights, strengths = _jumps(first[places], sides[order])
    heaped = np.r_[0, np.repeat(counts > HEAP * n, counts).cumsum()]
    heaped = heaped[first[places] + narrow] > heaped[first[places] - narrow]
    fit = strengths * ((np.abs(heights) >= least) & ~heaped[:, None])
    best, side = np.unravel_index(fit.argmax(), fit.shape)
    strongest = float(fit[best, side])
    away = np.abs(first[places] - first[places][best]) >= APART * n
    if strongest < max(strength, ALONE * strengths[away].max(initial=0.0)):
        return None
    return Step(float(values[places[best]]), int(side), float(heights[best, side]), strongest)


def _different(counts: np.ndarray) -> float:
    """Return the effective number of different values: the inverse Simpson index."""
    return float(counts.sum() ** 2 / max(np.square(counts).sum(), 1))


def _jumps(starts: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return height and strength of the jump before each start, each ``(starts, sides)``.

    ``sides`` are sorted by the number. The height is the smallest one over the window widths, and 0
    for a slope; the strength is that in the widest windows.
    """
    n, sums = len(sides), np.vstack([np.zeros(sides.shape[1]), sides.cumsum(0, dtype=float)])

    def odds(shift: int, width: int) -> np.ndarray:
        low = starts + shift * width
        share = (sums[low + width] - sums[low] + 0.5) / (width + 1)
        return np.log(share / (1 - share))

    widths = [int(window * n) for window in WINDOWS]
    jumps = np.array([odds(0, width) - odds(-1, width) for width in widths])
    lasting = np.where((np.sign(jumps) == np.sign(jumps[0])).all(0), np.abs(jumps).min(0), 0.0)
    edge = lasting > EDGE * np.abs(jumps[0])
    below, above = odds(-1, widths[0]), odds(0, widths[0])
    slope = np.maximum(
        np.abs(below - odds(-2, widths[0])),
        np.abs(odds(1, widths[0]) - above),
    )
    error = np.sqrt(sum((2 + 2 * np.cosh(o)) / widths[0] for o in (below, above)))
    strength = np.maximum(np.abs(jumps[0]) - slope, 0) / error
    return np.sign(jumps[0]) * lasting * edge, strength * (lasting > 0)
