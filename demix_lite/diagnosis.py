"""The diagnosis of every training row, and how to score it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, f1_score

ERROR_TYPES = ("label", "feature", "spurious")
"""The three error types, in the order of every table and every array of this package."""


@dataclass(frozen=True)
class Diagnosis:
    """A probability and a flag per training row and error type.

    Attributes
    ----------
    probability : DataFrame
        Columns ``label``, ``feature``, ``spurious``; values in [0, 1].
    flag : DataFrame
        The same columns, boolean.
    unsure : DataFrame
        True where the probability is too close to the threshold to decide; such a row is not
        flagged.
    """

    probability: pd.DataFrame
    flag: pd.DataFrame
    unsure: pd.DataFrame

    @classmethod
    def from_probability(
        cls,
        probability: np.ndarray,
        thresholds: np.ndarray | None = None,
        *,
        margin: float = 0.0,
        index: pd.Index | None = None,
    ) -> "Diagnosis":
        """Flag probabilities that reach their threshold; abstain within ``margin`` of it.

        Parameters
        ----------
        probability : array
            Shape ``(n, 3)``.
        thresholds : array, optional
            One per error type; by default those with the largest expected F1.
        margin : float
            Half-width of the band around the threshold in which rows are unsure.
        index : Index, optional
            Row labels; numbers from 0 by default.

        Examples
        --------
        >>> said = Diagnosis.from_probability(np.array([[0.9, 0.2, 0.5]]), np.full(3, 0.5))
        >>> said.flag.iloc[0].tolist()
        [True, False, True]
        """
        if thresholds is None:
            thresholds = np.array([expected_f1_threshold(p) for p in probability.T])

        def table(values: np.ndarray) -> pd.DataFrame:
            return pd.DataFrame(values, columns=list(ERROR_TYPES), index=index)

        unsure = np.abs(probability - thresholds) < margin
        flag = (probability >= thresholds) & ~unsure
        return cls(table(probability), table(flag), table(unsure))


def certain(errors: pd.DataFrame) -> Diagnosis:
    """Return the diagnosis of the oracle, which knows the true errors.

    Examples
    --------
    >>> truth = pd.DataFrame([[True, False, False]], columns=list(ERROR_TYPES))
    >>> certain(truth).flag.equals(truth)
    True
    """
    known = errors[list(ERROR_TYPES)].to_numpy()
    return Diagnosis.from_probability(known.astype(float), np.full(3, 0.5), index=errors.index)


def score(diagnosis: Diagnosis, errors: pd.DataFrame) -> dict[str, float]:
    """Compare a diagnosis with the true errors.

    Returns
    -------
    dict
        ``f1_*`` and ``ap_*`` (average precision) per error type and for ``any`` error at all, and
        ``f1_macro``, the mean F1 over the types; all in [0, 1]. NaN for an error type that does not
        occur, and then for ``f1_macro``.
    """
    flags = diagnosis.flag.assign(any=diagnosis.flag.any(axis=1))
    chances = diagnosis.probability.assign(any=1 - (1 - diagnosis.probability).prod(axis=1))
    truths = errors[list(ERROR_TYPES)].assign(any=errors[list(ERROR_TYPES)].any(axis=1))
    result: dict[str, float] = {}
    for kind, truth in truths.items():
        known = truth.any()
        f1 = f1_score(truth, flags[kind], zero_division=0) if known else np.nan
        precision = average_precision_score(truth, chances[kind]) if known else np.nan
        result |= {f"f1_{kind}": float(f1), f"ap_{kind}": float(precision)}
    result["f1_macro"] = float(np.mean([result[f"f1_{kind}"] for kind in ERROR_TYPES]))
    return result


def compare(known: pd.DataFrame, flags: pd.DataFrame) -> pd.DataFrame:
    """Compare flags with known errors: precision and recall.

    Returns one line per known error type: ``precision`` and ``recall`` (NaN if there is nothing to
    count), ``errors`` and ``rows`` (numbers of errors and of rows whose truth is known).

    Examples
    --------
    >>> truth = pd.DataFrame({"label": [1.0, 1.0, 0.0, np.nan]})
    >>> said = pd.DataFrame({"label": [True, False, True, True]})
    >>> compare(truth, said).loc["label"].tolist()
    [0.5, 0.5, 2.0, 3.0]
    """
    looked, wrong = known.notna(), known.eq(1)
    flagged = flags[list(known)] & looked
    hits, errors = (wrong & flagged).sum(), wrong.sum()
    shares = {"precision": hits / flagged.sum(), "recall": hits / errors}
    return pd.DataFrame({**shares, "errors": errors, "rows": looked.sum()})


def best_threshold(truth: np.ndarray, probability: np.ndarray) -> float:
    """Return the threshold in {0.02, 0.03, ..., 0.98} with the largest F1.

    Examples
    --------
    >>> 0.2 < best_threshold(np.array([0, 0, 1]), np.array([0.1, 0.2, 0.7])) <= 0.7
    True
    """
    candidates = np.linspace(0.02, 0.98, 97)
    flagged = probability[:, None] >= candidates
    f1 = 2 * (truth.astype(float) @ flagged) / np.maximum(truth.sum() + flagged.sum(axis=0), 1)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(candidates[best[len(best) // 2]])


def expected_f1_threshold(probability: np.ndarray) -> float:
    """Return the threshold with the largest expected F1, given calibrated probabilities.

    The k most probable rows contain Σ_{top k} p errors in expectation, of Σ p in all, so F1 is
    about 2 Σ_{top k} p / (k + Σ p). The true errors are not needed.

    Examples
    --------
    >>> expected_f1_threshold(np.array([0.9, 0.8, 0.1, 0.05]))
    0.8
    """
    ranked = np.sort(probability)[::-1]
    hits = ranked.cumsum()
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
    return float(ranked[f1.argmax()]) or 1.0  # all probabilities are 0: flag nothing
