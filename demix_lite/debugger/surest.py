"""How probable a wrong label can be at most, judged by the rows whose class a model is surest of.

Suppose that labels go wrong independently of the columns. Then the share of labels of class k that
became another one is at most the share of other labels among the rows that most surely belong to k
(the anchor points of Liu and Tao, IEEE TPAMI 2016). Let ρ be the largest such share of the classes
other than the label of a row, and let a share η of the rows like it have that label. At most
(1 - η) / (1 - ρ) of them truly belong to another class, and at most a share ρ of these got this
label. So it is wrong with a probability of at most ρ (1 - η) / (η (1 - ρ)): a label that a fifth of
such rows have is not wrong in most of them, if only one label in twenty deviates where the class is
sure.

The very surest rows are no good evidence: a broken number far outside makes a model sure of itself,
and such rows seldom have a wrong label in addition. So ρ is measured on large groups.
"""

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

SUREST = (0.2, 0.3, 0.4)
"""Shares of the rows that are taken as the surest of a class; the smallest result counts."""

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
        mine, other = labels == k, np.delete(deviating, k).max()
        if mine.any() and other < 1:
            alike = IsotonicRegression(y_min=0, y_max=1).fit_transform(chance[:, k], mine)[mine]
            bound[mine] = other * (1 - alike) / (1 - other) / alike.clip(min=1e-9)
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
