"""The second pass: what the first verdicts say about similar rows of the same run.

The first pass judges every row by its influence vector alone. Its mistakes differ from row to row,
while the errors of one run share their cause: the same broken columns, the same shortcut. A model
of the first verdicts on the encoded rows and labels, cross-fitted within the run, averages the
mistakes away and keeps the cause. It sees no true error.
"""

import numpy as np
from joblib import Parallel, delayed
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

FOLDS = 2


def consensus(features: np.ndarray, verdicts: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Predict the verdict on every row from the verdicts on the other rows of the run.

    Parameters
    ----------
    features : array
        Encoded inputs and label of every row, shape ``(N, width)``.
    verdicts : array
        First-pass probabilities, shape ``(N, 3)``.
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
    splits = list(KFold(FOLDS, shuffle=True, random_state=seed % 2**32).split(features))
    jobs = [(rest, held, kind) for rest, held in splits for kind in range(verdicts.shape[1])]
    predictions = Parallel(n_jobs=-1, prefer="threads")(
        delayed(_predict)(features[rest], verdicts[rest, kind], features[held])
        for rest, held, kind in jobs
    )
    result = np.empty_like(verdicts)
    for (_, held, kind), prediction in zip(jobs, predictions, strict=True):
        result[held, kind] = prediction
    return result.clip(0.0, 1.0)


def _predict(features: np.ndarray, verdicts: np.ndarray, held: np.ndarray) -> np.ndarray:
    # One thread a model: the models already run side by side.
    with threadpool_limits(1, "openmp"):
        model = HistGradientBoostingRegressor(min_samples_leaf=10, early_stopping=False)
        return model.fit(features, verdicts).predict(held)


def normal_ranks(values: np.ndarray) -> np.ndarray:
    """Replace every value by the normal score of its rank within its column.

    Examples
    --------
    >>> normal_ranks(np.array([[3.0], [1.0], [2.0]])).round(2).ravel().tolist()
    [0.97, -0.97, 0.0]
    """
    return ndtri((rankdata(values, axis=0) - 0.5) / len(values))
