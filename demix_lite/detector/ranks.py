"""Ranks within a run."""

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata


def normal_ranks(values: np.ndarray) -> np.ndarray:
    """Replace every value by the normal score of its rank within its column.

    Examples
    --------
    >>> normal_ranks(np.array([[3.0], [1.0], [2.0]])).round(2).ravel().tolist()
    [0.97, -0.97, 0.0]
    """
    return ndtri((rankdata(values, axis=0) - 0.5) / len(values))
