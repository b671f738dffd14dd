"""What a good practitioner does without influence: the best simple signal per error type."""

from typing import ClassVar

import numpy as np

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.isolation_forest import isolation
from demix_lite.baselines.looks import class_count, doubt, label_bins, out_of_fold
from demix_lite.detector.runs import Run


class Composite(Baseline):
    """Cross-fitted boosting for labels, isolation forest for features, rare or unsure for groups.

    - A label is suspicious if its out-of-fold probability is low (for numbers: if the residual is
      large).
    - Features are suspicious if an isolation forest isolates the row early.
    - A row may belong to the minority of a shortcut if its label is rare or its out-of-fold
      prediction is unsure; ``group`` selects which of the two counts.
    """

    name = "composite"
    space: ClassVar = {"group": ("rare or unsure", "rare", "unsure")}
    reference = "cross-fitted gradient boosting and isolation forest (scikit-learn)"

    def scores(self, run: Run) -> np.ndarray:
        """Score every row for label, feature and spurious errors, shape ``(N, 3)``."""
        wanted = self.settings["group"]
        group = np.zeros(len(run))
        if "rare" in wanted:
            group += rare_label(run)
        if "unsure" in wanted:
            group += unsure(run)
        return np.column_stack([doubt(run), isolation(run, 256), group])


def rare_label(run: Run) -> np.ndarray:
    """Return True for rows whose class (or fifth of the range) is rarer than average."""
    bins = label_bins(run)
    rows = np.bincount(bins)
    return (rows < len(bins) / np.count_nonzero(rows))[bins]


def unsure(run: Run) -> np.ndarray:
    """Return 1 − the largest out-of-fold probability; for numbers the absolute residual."""
    return 1 - out_of_fold(run).max(axis=1) if class_count(run) else doubt(run)
