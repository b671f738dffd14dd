"""The second pass: what the first verdicts say about similar rows of the same run.

The first pass judges every row by its influence vector alone. Its mistakes differ from row to row,
while the errors of one run share their cause: the same broken columns, the same shortcut. A model
of the first verdicts on rows and labels, cross-fitted within the run, averages the mistakes away
and keeps the cause. A second model predicts the label itself, from the rows in proportion to the
trust that the first verdicts leave in them: it says how well each label is supported once the
likely wrong ones count less. Neither sees a true error.
"""

import numpy as np
from joblib import Parallel, delayed
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

FOLDS = 2
SUPPORT_FOLDS = 3
LEAST_TRUST = 0.02
SMALLEST = 1e-4
LABEL_BINS = 20
SUPPORTS = 6
"""Columns of :func:`label_support`."""


def consensus(
    columns: np.ndarray,
    verdicts: np.ndarray,
    *,
    categorical: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Predict the verdict on every row from the verdicts on the other rows of the run.

    Parameters
    ----------
    columns : array
        Features and label of every row, categories as codes, shape ``(N, d)``.
    verdicts : array
        First-pass probabilities, shape ``(N, 3)``.
    categorical : array, optional
        Which columns hold categories, boolean, shape ``(d,)``.
    seed : int
        Fixes the folds.

    Returns
    -------
    array
        Cross-fitted predictions in [0, 1], shape ``(N, 3)``.

    Examples
    --------
    Verdicts that follow a column survive; noise in them does not.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(600, 2))
    >>> truth = (x[:, 0] > 1).astype(float)[:, None]
    >>> noisy = np.clip(truth + rng.normal(scale=0.4, size=(600, 1)), 0, 1)
    >>> better = consensus(x, noisy)
    >>> bool(np.square(better - truth).mean() < np.square(noisy - truth).mean())
    True
    """
    splits = list(KFold(FOLDS, shuffle=True, random_state=seed % 2**32).split(columns))
    jobs = [(rest, held, kind) for rest, held in splits for kind in range(verdicts.shape[1])]
    predictions = Parallel(n_jobs=-1, prefer="threads")(
        delayed(_predict)(columns[rest], verdicts[rest, kind], columns[held], categorical)
        for rest, held, kind in jobs
    )
    result = np.empty_like(verdicts)
    for (_, held, kind), prediction in zip(jobs, predictions, strict=True):
        result[held, kind] = prediction
    return result.clip(0.0, 1.0)


def _predict(
    columns: np.ndarray, verdicts: np.ndarray, held: np.ndarray, categorical: np.ndarray | None
) -> np.ndarray:
    # One thread a model: the models already run side by side.
    with threadpool_limits(1, "openmp"):
        model = HistGradientBoostingRegressor(
            min_samples_leaf=10, early_stopping=False, categorical_features=categorical
        )
        return model.fit(columns, verdicts).predict(held)


def label_support(
    columns: np.ndarray,
    trust: np.ndarray,
    *,
    classes: int,
    categorical: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Say how well the label of every row is supported by the other rows, weighted by trust.

    Parameters
    ----------
    columns : array
        Features and, last, the label of every row, shape ``(N, d + 1)``.
    trust : array
        Probability that the label of a row is right, shape ``(N,)``.
    classes : int
        Number of classes; 0 if the label is a number.
    categorical : array, optional
        Which columns hold categories, boolean, shape ``(d + 1,)``.
    seed : int
        Fixes the folds.

    Returns
    -------
    array
        Support of the label, its rarity, and within-run normal scores of support, rarity, the
        rarity of its best rival (a number: the label) and the prediction's own side of it, shape
        ``(N, 6)``.

    Examples
    --------
    >>> x = np.repeat([0.0, 1.0], 60)
    >>> label = x.copy()
    >>> label[0] = 1
    >>> support = label_support(np.c_[x, label], np.ones(120), classes=2)
    >>> int(support[:, 0].argmin())
    0
    """
    weights = np.clip(trust, LEAST_TRUST, 1.0)
    said = _predict_labels(columns, weights, classes, categorical, seed)
    describe = _class_support if classes else _number_support
    return describe(said, columns[:, -1], weights)


def _class_support(said: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows, own = np.arange(len(labels)), labels.astype(int)
    share = np.bincount(own, weights, minlength=said.shape[1]) / weights.sum()
    others = said.copy()
    others[rows, own] = 0
    rival = others.argmax(axis=1)
    support = np.log(said[rows, own].clip(SMALLEST)) - np.log(others.max(axis=1).clip(SMALLEST))
    support = support.clip(-6, 6)
    rarity, rival_rarity = (-np.log(share[code] + 1e-3) for code in (own, rival))
    ranks = normal_ranks(np.column_stack([support, rarity, rival_rarity, -np.abs(support)]))
    return np.column_stack([support, rarity, ranks])


def _number_support(said: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    counts, edges = np.histogram(labels, LABEL_BINS, weights=weights)
    place = np.digitize(labels, edges[1:-1])
    rarity = -np.log(counts[place] / weights.sum() + 1e-3)
    ranks = normal_ranks(np.column_stack([-np.abs(labels - said), rarity, labels, said]))
    return np.column_stack([2 * ranks[:, 0], rarity, ranks])


def _predict_labels(
    columns: np.ndarray,
    weights: np.ndarray,
    classes: int,
    categorical: np.ndarray | None,
    seed: int,
) -> np.ndarray:
    """Predict every label from the rows of the other folds: probabilities, or numbers."""
    x, y = columns[:, :-1], columns[:, -1]
    kinds = None if categorical is None else categorical[:-1]
    said = np.zeros((len(y), classes) if classes else len(y))

    def predict(others: np.ndarray, held: np.ndarray) -> None:
        # Small trees do not learn wrong labels by heart.
        settings = {"max_leaf_nodes": 8, "max_iter": 60, "early_stopping": False}
        kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        with threadpool_limits(1, "openmp"):
            model = kind(**settings, categorical_features=kinds)
            model.fit(x[others], y[others], sample_weight=weights[others])
            if classes:
                known = model.classes_.astype(int)
                said[np.ix_(held, known)] = model.predict_proba(x[held])[:, : len(known)]
            else:
                said[held] = model.predict(x[held])

    splits = KFold(SUPPORT_FOLDS, shuffle=True, random_state=seed % 2**32).split(x)
    Parallel(n_jobs=-1, prefer="threads", require="sharedmem")(
        delayed(predict)(others, held) for others, held in splits
    )
    return said


def normal_ranks(values: np.ndarray) -> np.ndarray:
    """Replace every value by the normal score of its rank within its column.

    Examples
    --------
    >>> normal_ranks(np.array([[3.0], [1.0], [2.0]])).round(2).ravel().tolist()
    [0.97, -0.97, 0.0]
    """
    return ndtri((rankdata(values, axis=0) - 0.5) / len(values))
