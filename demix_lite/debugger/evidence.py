"""How far the verdicts can be trusted in this very table, and what is flagged therefore.

A detector compares the rows of a run with each other, so it finds the most suspicious rows of any
table, a clean one too. Whether they are *wrong* takes a yardstick of the table's own: the controls,
copies of its rows in which we broke something. If errors like ours were in a share π of the rows,
at least π times as many rows as controls would have to score as high as any level. So the smallest
such ratio is an estimate of π: with endless controls π could be no larger, with a few dozen it may
be. Errors are put in in several ways. One that is hard to see bounds little, so of features, which
break in many ways, the lower quartile of the estimates is the share we believe in. Labels go wrong
in one way or two, each of which may be the way of all. Numbers: we believe the median of the two.
Classes: the larger estimate, since drawn evenly most wrong ones are rare classes that nobody takes
for the right one, and hardly a row looks like that. The probabilities are brought down to the
share (their odds divided by one number) and flags are set on what is left. Where rows and controls
score alike, the detector cannot see such errors here, and nothing is flagged. Of rows that break a
shortcut there are no controls; they are a minority at most.
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
"""Shares of the controls that reach the levels at which rows and controls are compared."""

WITH_CONTROLS = ("label", "feature")

BLIND = 0.75
"""Rows that look like controls at least so often as controls do cannot be told from them."""

DIRTY_LABELS, DIRTY = 0.16, 0.35
"""A table counts as dirty if its rows look worse than controls so often: as to labels, and as to
labels and features added up. There flags are set for the largest expected F1, most of them being
right. In a tidy table most suspicious rows are true exceptions: more flags have to be right. The
numbers were chosen on the tables of the page of measurements."""

NEAR = 0.3
"""So far on either side of the line, as a share of it, a table is partly dirty: no cliff there."""

CONFUSED = 0.18
"""In a tidy table broken features cannot be told where rows look worse than controls more often
than this: rows are unusual by nature there. Of labels it is no sign: wrong ones do just that."""

ALONE, PRECISION_ALONE = 0.6, 0.3
"""A shortcut stands alone where no other explains the spurious verdicts so well, as a share of how
well it does. Patterns that a table has by nature come in company, since its columns go together.
Of the flags for one that stands alone fewer have to be right in a tidy table."""

SMALL = 500
"""Below so many rows the controls are too few to be sure that a table is dirty."""

LEAST_PRECISION = {
    "tidy": {"label": 0.7, "feature": 0.85, "spurious": 0.8},
    "dirty": {"label": 0.5, "feature": 0.5, "spurious": 0.0},
}
"""Share of the flags that must be right by the detector's own account. A label that is wrong and a
row that is merely unusual or goes against a true pattern differ in how easily they are confused."""

BELIEVED = {"class": 1.0, "number": 0.5, "feature": 0.25}
"""Quantile of the shares that the ways of putting in an error lead to, of labels by what they are.
With the median, half as many wrong labels of seven classes were believed as there were, and half as
many broken features again; with the larger of two, twice as many wrong numbers in a clean table."""

DRAWS = 200


@dataclass(frozen=True)
class Evidence:
    """What is known of one error type in this table.

    Attributes
    ----------
    kind : str
        The error type.
    seen : bool
        Whether the detector can see this error here.
    share, low, high : float
        Estimated share of rows with the error and a 95 % interval; NaN for spurious errors, of
        which there are no controls.
    threshold : float
        Probability from which a row is flagged; above 1 if none is.
    found : float
        Share of the controls of this kind that would be flagged; NaN for spurious errors.
    slips : int
        Rows with a cell that is written unlike its column, flagged whether errors are seen or not.
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
    judgement: Judgement, shortcuts: list[NamedShortcut], *, dirty: float
) -> tuple[Diagnosis, list[Evidence]]:
    """Turn what the detector says into probabilities and flags that hold for this table.

    ``dirty`` is 1 for a dirty table, 0 for a tidy one, and in between for one near the line.
    """
    said, seen = judgement.probability, []
    for number, kind in enumerate(WITH_CONTROLS):
        share = share_of(judgement, kind)
        told = kind == "label" or _looks_worse(judgement, kind) * (1 - dirty) <= CONFUSED
        seen.append(share <= BLIND and told)
        if seen[-1]:
            said[:, number] = with_share(said[:, number], share)
    # The detector learned from no larger minority: where it says more, it hears patterns that the
    # table has by nature.
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
    """Return how far a table counts as dirty, from 0 (tidy) to 1; a small one is tidy.

    It is dirty if so many rows look like controls that a large share of them must be wrong.
    """
    if judgement.by_cut.shape[1] < SMALL:
        return 0.0
    labels, features = (_looks_worse(judgement, kind) for kind in WITH_CONTROLS)
    ratio = min(labels / DIRTY_LABELS, (labels + features) / DIRTY)
    return float(np.clip((ratio - 1 + NEAR) / (2 * NEAR), 0.0, 1.0))


def _stands_alone(shortcuts: list[NamedShortcut]) -> bool:
    """Say whether one suspected shortcut explains the spurious verdicts and no other does."""
    first, second, *_ = [*(shortcut.link for shortcut in shortcuts), 0.0, 0.0]
    return any(s.suspected for s in shortcuts) and second <= ALONE * first


def _looks_worse(judgement: Judgement, kind: str) -> float:
    """Return how often a row looks more suspicious than a control; 0 for an error that is not seen.

    Where verdicts are perfect and a share π of the labels of two classes is wrong, that is π: so
    many rows are wrong, and so many controls are right, since their label was turned back. Of C
    classes few are turned back, and it is π C / (2 (C - 1)); of numbers none, and it is π / 2. That
    is made up for.
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
    """Estimate the share of an error by the controls of each way in which it was put in."""
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

    One more row counts at every level, so that a small table does not promise too much.

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
    """Divide all odds by one number so that the mean probability is ``share``, if it is larger.

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
    """Return what to take off all odds so that the mean probability is as given."""
    ends = odds.min() - logit(mean) - 1, odds.max() - logit(mean) + 1
    return brentq(lambda shift: expit(odds - shift).mean() - mean, *ends)


def flag_from(probability: np.ndarray, precision: float = 0.6) -> float:
    """Return the threshold of largest expected F1, raised until enough flags would be right.

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
    """Say how often an error occurs, and how many of its controls would be flagged."""
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
    """Return the low end of the interval: which rows there are, which of them err."""
    shares = [rng.binomial(1, _again(probability, rng)).mean() for _ in range(DRAWS)]
    return float(np.quantile(shares, 0.025))


def _again(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw as many values again, with replacement."""
    return values[rng.integers(0, len(values), len(values))]
