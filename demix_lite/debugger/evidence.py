"""How far the verdicts can be trusted in this table, and which rows are flagged as a result.

A detector compares the rows of a run with each other, so it ranks some rows as the most suspicious
in any table, even in a clean one. Whether they are *wrong* is measured with the controls: copies of
the table's own rows in which we broke something.

1. Estimate the share π of rows with an error. If a share π of the rows had errors like ours, then
   at any score level the share of rows above it would be at least π times the share of controls
   above it. So the smallest such ratio estimates π. With infinitely many controls it would be an
   upper bound; with a few dozen, π may be larger.
2. Combine the estimates of the different ways of putting in an error. A way that is hard to see
   bounds π only weakly. Features break in many ways: we use the lower quartile of the estimates.
   Labels go wrong in one way or two, and either may be the way of all errors. For numbers we use
   the median of the two. For classes we use the larger one: wrong classes that are drawn evenly are
   mostly rare ones, which nobody mistakes for the right class, and hardly any row looks like that.
3. Lower the probabilities until their mean is π, by dividing all odds by one number, and set the
   flags on the result.
4. In a tidy table a label is not more probably wrong than the rows whose class is sure allow (see
   :mod:`~demix_lite.debugger.surest`).

Where rows and controls score alike, the detector cannot see such errors here, and nothing is
flagged. There are no controls for rows that break a shortcut; their share is limited to that of a
minority.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from demix_lite.debugger.judging import Judgement
from demix_lite.debugger.shortcut_names import NamedShortcut
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis, expected_f1_threshold
from demix_lite.tasks.tabular import TabularTask

LEVELS = (0.1, 0.25, 0.5, 0.75)
"""Rows and controls are compared at the scores that these shares of the controls reach."""

WITH_CONTROLS = ("label", "feature")

BLIND = 0.75
"""If the estimated share of an error is larger, rows cannot be distinguished from controls, and the
detector is blind to the error in this table."""

DIRTY_LABELS, DIRTY = 0.16, 0.35
"""A table counts as dirty if its rows look worse than controls at least this often: for labels, and
for the sum over labels and features. In a dirty table flags are set for the largest expected F1,
and most of them are right. In a tidy table most suspicious rows are correct exceptions, so a higher
precision is required. The numbers were chosen on the tables of the page of measurements."""

NEAR = 0.3
"""Within this relative distance of the limit a table counts as partly dirty, which makes the
transition gradual."""

CONFUSED = 0.18
"""If rows of a tidy table look worse than controls more often than this, broken features cannot be
recognised: the rows are unusual by nature. This does not apply to labels, since wrong labels have
exactly this effect."""

ALONE, PRECISION_ALONE = 0.6, 0.3
"""A shortcut stands alone if the second best explains the spurious verdicts at most ``ALONE`` times
as well (ratio of correlations). Patterns that a table has by nature come in groups, since its
columns are correlated. For a shortcut that stands alone the precision required in a tidy table is
only ``PRECISION_ALONE``."""

SMALL = 500
"""With fewer rows there are too few controls to be sure that a table is dirty."""

LEAST_PRECISION = {
    "tidy": {"label": 0.7, "feature": 0.85, "spurious": 0.8},
    "dirty": {"label": 0.5, "feature": 0.5, "spurious": 0.0},
}
"""Required precision of the flags, computed from the detector's own probabilities. It depends on
how easily each error is confused with a correct row that is unusual or contradicts a true pattern.
"""

BELIEVED = {"class": 1.0, "number": 0.5, "feature": 0.25}
"""Quantile, over the ways of putting in an error, of the estimated shares; for labels it depends on
their type. With the median, half as many wrong labels of seven classes were believed as there were,
and one and a half times as many broken features; with the larger of two estimates, twice as many
wrong numbers in a clean table."""

DRAWS = 200


@dataclass(frozen=True)
class Evidence:
    """What is known about one error type in this table.

    Attributes
    ----------
    kind : str
        The error type.
    seen : bool
        Whether the detector can see this error here.
    share, low, high : float
        Estimated share of rows with the error and a 95 % interval; NaN for spurious errors, which
        have no controls.
    threshold : float
        Probability from which on a row is flagged; above 1 if no row is.
    found : float
        Share of the controls of this kind that would be flagged; NaN for spurious errors.
    slips : int
        Number of rows with a cell that is written unlike its column. They are flagged even if the
        detector cannot see this error here.
    """

    kind: str
    seen: bool
    share: float
    low: float
    high: float
    threshold: float
    found: float
    slips: int = 0


def weigh(
    judgement: Judgement,
    shortcuts: list[NamedShortcut],
    *,
    dirty: float,
    most_wrong: np.ndarray | float = 1.0,
) -> tuple[Diagnosis, list[Evidence]]:
    """Turn the detector's verdicts into probabilities and flags that hold for this table.

    ``dirty`` is 1 for a dirty table, 0 for a tidy one, and in between near the limit.
    ``most_wrong`` is the largest probability of a wrong label for every row of a tidy table.
    """
    said, seen = judgement.probability, []
    for number, kind in enumerate(WITH_CONTROLS):
        share = share_of(judgement, kind)
        told = kind == "label" or _looks_worse(judgement, kind) * (1 - dirty) <= CONFUSED
        seen.append(share <= BLIND and told)
        if seen[-1]:
            said[:, number] = with_share(said[:, number], share)
    said[:, 0] = np.minimum(said[:, 0], dirty + (1 - dirty) * most_wrong)
    # The detector was trained with no larger minority: a larger share means that it reacts to
    # patterns that the table has by nature.
    said[:, -1] = with_share(said[:, -1], TabularTask.minority_share)
    tidy, worst = LEAST_PRECISION["tidy"], LEAST_PRECISION["dirty"]
    least = {kind: (1 - dirty) * tidy[kind] + dirty * worst[kind] for kind in ERROR_TYPES}
    if _stands_alone(shortcuts):
        least["spurious"] = min(least["spurious"], PRECISION_ALONE)
    thresholds = [flag_from(p, least[kind]) for kind, p in zip(ERROR_TYPES, said.T, strict=True)]
    named = any(shortcut.suspected for shortcut in shortcuts)
    seen.append(named and bool((said[:, -1] >= thresholds[-1]).any()))
    thresholds = [t if can else 1.1 for t, can in zip(thresholds, seen, strict=True)]
    said[:, ~np.array(seen)] = 0.0  # a repair has nothing to go by
    rng = np.random.default_rng(0)
    evidence = [
        _evidence(judgement, *about, rng)
        for about in zip(ERROR_TYPES, said.T, thresholds, seen, strict=True)
    ]
    return Diagnosis.from_probability(said, np.array(thresholds)), evidence


def dirtiness(judgement: Judgement) -> float:
    """Return how dirty a table is, from 0 (tidy) to 1 (dirty); a small table counts as tidy.

    It is dirty if so many rows look like controls that a large share of the rows must be wrong.
    """
    if judgement.by_cut.shape[1] < SMALL:
        return 0.0
    labels, features = (_looks_worse(judgement, kind) for kind in WITH_CONTROLS)
    ratio = min(labels / DIRTY_LABELS, (labels + features) / DIRTY)
    return float(np.clip((ratio - 1 + NEAR) / (2 * NEAR), 0.0, 1.0))


def _stands_alone(shortcuts: list[NamedShortcut]) -> bool:
    """Return whether one suspected shortcut explains the spurious verdicts and no other does."""
    first, second, *_ = [*(shortcut.link for shortcut in shortcuts), 0.0, 0.0]
    return any(s.suspected for s in shortcuts) and second <= ALONE * first


def _looks_worse(judgement: Judgement, kind: str) -> float:
    """Return how often a row looks more suspicious than a control; 0 if the error is not seen.

    The raw value is the area under the ROC curve of rows against controls. Suppose that verdicts
    are perfect and a share π of the labels is wrong. With two classes the value is π: a share π of
    the rows is wrong, and a share π of the controls is right, since breaking a wrong label turns it
    back. With C classes few labels are turned back, and the value is π C / (2 (C - 1)). With
    numbers none are, and it is π / 2. Label values are corrected for this.
    """
    if share_of(judgement, kind) > BLIND:
        return 0.0
    number = ERROR_TYPES.index(kind)
    rows = judgement.by_cut[:, :, number].ravel()
    controls = judgement.of_controls[judgement.controls.kind == kind, number]
    is_row = np.repeat([1, 0], [len(rows), len(controls)])
    often = float(roc_auc_score(is_row, np.concatenate([rows, controls])))
    classes = judgement.outputs.shape[1]
    correction = 2.0 if classes == 1 else 2 * (classes - 1) / classes
    return often * (correction if kind == "label" else 1.0)


def share_of(
    judgement: Judgement, kind: str, draw: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> float:
    """Estimate the share of an error from the controls of each way in which it was put in.

    ``draw`` resamples rows and controls, for a bootstrap interval.
    """
    controls, number = judgement.controls, ERROR_TYPES.index(kind)
    rows = draw(judgement.by_cut[:, :, number].T).ravel()  # a row is drawn with all its cuts
    ways = [(controls.kind == kind) & (controls.way == w) for w in np.unique(controls.way)]
    found = [
        largest_share(rows, draw(judgement.of_controls[way, number])) for way in ways if way.any()
    ]
    if kind == "label":
        kind = "number" if judgement.outputs.shape[1] == 1 else "class"
    return float(np.quantile(found, BELIEVED[kind]))


def largest_share(rows: np.ndarray, controls: np.ndarray) -> float:
    """Estimate the share of rows that are like the controls: the smallest ratio over the levels.

    One verdict is added to the count at every level, so that the estimate for a small table is not
    too low.

    Examples
    --------
    >>> rows = np.r_[np.full(900, 0.1), np.full(99, 0.9)]
    >>> round(largest_share(rows, np.full(50, 0.9)), 3)
    0.1
    """
    levels = np.quantile(controls, 1 - np.array(LEVELS))
    ratios = [((rows >= x).sum() + 1) / len(rows) / (controls >= x).mean() for x in levels]
    return float(min(1.0, *ratios))


def with_share(probability: np.ndarray, share: float) -> np.ndarray:
    """Lower the mean probability to ``share`` by dividing all odds by one number.

    Probabilities whose mean is not larger stay as they are.

    Examples
    --------
    >>> with_share(np.array([0.9, 0.5, 0.1]), 0.2).mean().round(3)
    np.float64(0.2)
    """
    share = max(share, 1e-5)
    if probability.mean() <= share:
        return probability
    odds = logit(probability.clip(1e-6, 1 - 1e-6))
    return expit(odds - shift_to(odds, share))


def shift_to(odds: np.ndarray, mean: float) -> float:
    """Return what to subtract from all log odds so that the mean probability is ``mean``."""
    ends = odds.min() - logit(mean) - 1, odds.max() - logit(mean) + 1
    return brentq(lambda shift: expit(odds - shift).mean() - mean, *ends)


def flag_from(probability: np.ndarray, precision: float = 0.6) -> float:
    """Return the threshold of largest expected F1, raised to reach the expected ``precision``.

    It is 1.1, so that nothing is flagged, if no threshold reaches it.

    Examples
    --------
    >>> flag_from(np.array([0.9, 0.8, 0.1])), flag_from(np.array([0.2, 0.3])) > 1
    (0.8, True)
    """
    ranked = np.sort(probability)[::-1]
    right = ranked.cumsum() / np.arange(1, len(ranked) + 1)
    enough = np.flatnonzero(right >= precision)
    if not len(enough):
        return 1.1
    return max(float(ranked[enough[-1]]), expected_f1_threshold(probability))


def _evidence(
    judgement: Judgement,
    kind: str,
    probability: np.ndarray,
    threshold: float,
    seen: bool,
    rng: np.random.Generator,
) -> Evidence:
    """Return how often an error occurs, and which share of its controls would be flagged."""
    if kind not in WITH_CONTROLS:
        return Evidence(kind, seen, np.nan, np.nan, np.nan, threshold, np.nan)
    low, share = _at_least(probability, rng), float(probability.mean())
    drawn = [share_of(judgement, kind, partial(_again, rng=rng)) for _ in range(DRAWS)]
    high = max(low, share, float(np.quantile(drawn, 0.975)))
    number = ERROR_TYPES.index(kind)
    cut = judgement.probability[probability >= threshold, number].min(initial=2.0)
    mine = judgement.controls.kind == kind
    found = float((judgement.of_controls[mine, number] >= cut).mean())
    if not seen:
        return Evidence(kind, False, np.nan, 0.0, np.nan, 1.1, found)
    return Evidence(kind, True, share, low, high, threshold, found)


def _at_least(probability: np.ndarray, rng: np.random.Generator) -> float:
    """Return the low end of the interval: resample the rows, then draw which of them are wrong."""
    shares = [rng.binomial(1, _again(probability, rng)).mean() for _ in range(DRAWS)]
    return float(np.quantile(shares, 0.025))


def _again(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a bootstrap sample of the same size."""
    return values[rng.integers(0, len(values), len(values))]
