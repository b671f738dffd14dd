"""A pattern that most rows of a table follow: a condition that goes with a label."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pattern:
    """A condition on a column that goes with a label.

    Attributes
    ----------
    holds : array
        Whether the condition holds, shape ``(N,)``.
    likely : array
        Probability that the true label of a row is the one that goes with the condition, shape
        ``(N,)``.

    Examples
    --------
    >>> Pattern(np.array([True, True, False]), np.array([0.9, 0.2, 0.2])).broken.round(1).tolist()
    [0.1, 0.8, 0.2]
    """

    holds: np.ndarray
    likely: np.ndarray

    @property
    def broken(self) -> np.ndarray:
        """Probability that a row has the condition without the label, or the label without it."""
        return np.where(self.holds, 1 - self.likely, self.likely)
