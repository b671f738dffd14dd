"""How probable a wrong label can be at most, judged by the rows whose class a model is surest of.

Suppose that labels go wrong independently of the columns. Then the share of labels of class k that
became another one is at most the share of other labels among the rows that most surely belong to k
(the anchor points of Liu and Tao, IEEE TPAMI 2016). Let that be ρ_k, and let a share η of the rows
like this one have its label. Then it is wrong with a probability of at most ρ/η, where ρ is the
largest ρ_k of the other classes: a label that a fifth of such rows have is not wrong in most of
them, if where the class is sure only one label in twenty deviates.

The very surest rows are no good evidence: a broken number far outside makes a model sure of itself,
and such rows seldom have a wrong label in addition. So ρ_k is measured on large groups.
"""

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

SUREST = (0.2, 0.3, 0.4)
"""Shares of the rows that are taken as the surest of a class; the smallest ρ of them counts."""

FEWEST = 50
"""Smallest number of surest rows from which a share is estimated."""

ONE_SIDED = 1.64
"""Standard errors that are added to a share, for an upper end of 95 %."""


def most_wrong(outputs: Tensor, labels: np.ndarray) -> np.ndarray:
    """Return the largest probability that each label is wrong, shape ``(n,)``.

    Parameters
    ----------
    outputs : Tensor
        Logits of models that were not trained on the row, shape ``(n, classes)``.
    labels : array of int
        Class of every row.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> chance = rng.choice([0.03, 0.3], 2000)
    >>> labels = (rng.random(2000) < chance).astype(int)
    >>> logits = torch.from_numpy(np.log([1 - chance, chance]).T)
    >>> bound = most_wrong(logits, labels)
    >>> [round(float(bound[(labels == 1) & (chance == c)].mean()), 1) for c in (0.03, 0.3)]
    [1.0, 0.1]
    """
    chance = torch.softmax(outputs.double(), dim=1).numpy()
    classes = range(chance.shape[1])
    deviating = np.array([_deviating(chance[:, k], labels == k) for k in classes])
    bound = np.ones(len(labels))
    for k in classes:
        mine = labels == k
        among_alike = IsotonicRegression(y_min=0, y_max=1).fit_transform(chance[:, k], mine)
        bound[mine] = np.delete(deviating, k).max() / np.maximum(among_alike[mine], 1e-9)
    return bound.clip(max=1.0)


def _deviating(chance: np.ndarray, is_class: np.ndarray) -> float:
    """Return the upper end of the share of other labels among the rows surest of a class."""
    other = ~is_class[np.argsort(-chance, kind="stable")]
    ends = [1.0]
    for count in (int(share * len(other)) for share in SUREST):
        if count >= FEWEST:
            share = (other[:count].sum() + 1) / (count + 1)
            ends.append(share + ONE_SIDED * np.sqrt(share * (1 - share) / count))
    return float(min(ends))
