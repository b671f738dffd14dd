"""How far the verdicts can be trusted in this very table, and what is flagged therefore.

A detector compares the rows of a run with each other, so it finds the most suspicious rows of any
table, a clean one too. Whether they are *wrong* takes a yardstick of the table's own: the controls,
copies of its rows in which we broke something. If errors like ours were in a share π of the rows,
at least π times as many rows as controls would have to score as high as any level, so π is at most
the smallest such ratio. That bounds the share of label and feature errors; the probabilities are
brought down to it (their odds divided by one number) and flags are set on what is left. Where rows
and controls score alike, the detector cannot see such errors here, and nothing is flagged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from demix_lite.debugger.judging import Judgement
from demix_lite.debugger.shortcut_names import NamedShortcut
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis, expected_f1_threshold

LEVELS = {"label": (0.1, 0.25, 0.5, 0.75), "feature": (0.25, 0.5, 0.75)}
"""Shares of the controls that reach the levels at which rows and controls are compared. Wrong
labels are all of one kind; wrong features come in many: the easiest alone reach the highest."""

BLIND = 0.75
"""Rows that look like controls at least so often as controls do cannot be told from them."""

LEAST_PRECISION = {"label": 0.6, "feature": 0.85, "spurious": 0.75}
"""Share of the flags that must be right by the detector's own account. A label that is wrong and a
row that is merely unusual or goes against a true pattern differ in how easily they are confused."""

DIRTY = 0.1
"""Share of rows flagged for wrong labels or features from which a table counts as dirty. In a tidy
table, rows that go against a rule are most likely true exceptions: it takes more to flag them."""

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
        Estimated share of rows with the error and a 95 % interval.
    threshold : float
        Probability from which a row is flagged; above 1 if none is.
    found : float
        Share of the controls of this kind that would be flagged; NaN for spurious errors.
    """

    kind: str
    seen: bool
    share: float
    low: float
    high: float
    threshold: float
    found: float


def weigh(judgement: Judgement, shortcuts: list[NamedShortcut]) -> tuple[Diagnosis, list[Evidence]]:
    """Turn what the detector says into probabilities and flags that hold for this table."""
    rng = np.random.default_rng(0)
    columns: list[np.ndarray] = []
    evidence: list[Evidence] = []
    for number, kind in enumerate(ERROR_TYPES):
        p = judgement.probability[:, number]
        mine = judgement.of_controls[judgement.controls.kind == kind, number]
        if kind == "spurious":
            flagged = [q >= known.threshold for q, known in zip(columns, evidence, strict=True)]
            dirty = bool(np.any(flagged, axis=0).mean() >= DIRTY)
            p, said = _spurious(p, shortcuts, dirty, rng)
        else:
            p, said = _against_controls(kind, p, mine, rng)
        columns.append(p)
        evidence.append(said)
    thresholds = np.array([said.threshold for said in evidence])
    return Diagnosis.from_probability(np.column_stack(columns), thresholds), evidence


def largest_share(
    rows: np.ndarray, controls: np.ndarray, reached: Sequence[float] = LEVELS["label"]
) -> float:
    """Bound the share of rows that are like the controls: the smallest ratio over the levels.

    One more row counts at every level, so that a small table does not promise too much.

    Examples
    --------
    >>> rows = np.r_[np.full(900, 0.1), np.full(99, 0.9)]
    >>> round(largest_share(rows, np.full(50, 0.9)), 3)
    0.1
    """
    levels = np.quantile(controls, 1 - np.array(reached))
    more = [((rows >= x).sum() + 1) / len(rows) for x in levels]
    ratios = [share / (controls >= x).mean() for x, share in zip(levels, more, strict=True)]
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
    odds = logit(probability)
    return expit(odds - brentq(lambda shift: expit(odds - shift).mean() - share, 0, 60))


def flag_from(probability: np.ndarray, precision: float = LEAST_PRECISION["label"]) -> float:
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


def _against_controls(
    kind: str, probability: np.ndarray, controls: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, Evidence]:
    reached = LEVELS[kind]
    share = largest_share(probability, controls, reached)
    draws = [
        largest_share(_again(probability, rng), _again(controls, rng), reached)
        for _ in range(DRAWS)
    ]
    high = float(np.quantile(draws, 0.975))
    if share > BLIND:
        return probability, Evidence(kind, False, np.nan, 0.0, high, 1.1, 0.0)
    own = with_share(probability, share)
    threshold = flag_from(own, LEAST_PRECISION[kind])
    cut = probability[own >= threshold].min(initial=2.0)
    low, _ = _interval(own, rng)
    found = float((controls >= cut).mean())
    return own, Evidence(kind, True, float(own.mean()), low, max(high, low), threshold, found)


def _spurious(
    probability: np.ndarray,
    shortcuts: list[NamedShortcut],
    dirty: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, Evidence]:
    threshold = flag_from(probability, 0.0 if dirty else LEAST_PRECISION["spurious"])
    if not any(shortcut.suspected for shortcut in shortcuts):
        threshold = 1.1
    if not (probability >= threshold).any():
        return probability, Evidence("spurious", False, np.nan, 0.0, np.nan, 1.1, np.nan)
    low, high = _interval(probability, rng)
    mean = float(probability.mean())
    return probability, Evidence("spurious", True, mean, low, high, threshold, np.nan)


def _interval(probability: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return a 95 % interval of the share of errors: which rows there are, which of them err."""
    shares = [rng.binomial(1, _again(probability, rng)).mean() for _ in range(DRAWS)]
    return float(np.quantile(shares, 0.025)), float(np.quantile(shares, 0.975))


def _again(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw as many values again, with replacement."""
    return values[rng.integers(0, len(values), len(values))]
