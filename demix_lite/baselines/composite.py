"""The good practitioner without influence: the best simple signal for every error type."""

from typing import ClassVar

import numpy as np

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.isolation_forest import isolation
from demix_lite.baselines.looks import class_count, doubt, label_bins, out_of_fold
from demix_lite.detector.runs import Run


class Composite(Baseline):
    """Cross-fitted boosting for labels, isolation forest for features, rare or unsure for groups.

    A label is suspicious where its own out-of-fold probability is low (a number: where the residual
    is large), a row's features where an isolation forest says so. A row may belong to the minority
    of a shortcut where its label is rare or the out-of-fold prediction is unsure: ``group`` says
    which of the two counts.
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
    """Return True for rows whose class, or fifth of the range, is rarer than the average one."""
    bins = label_bins(run)
    rows = np.bincount(bins)
    return (rows < len(bins) / np.count_nonzero(rows))[bins]


def unsure(run: Run) -> np.ndarray:
    """Return 1 − the largest out-of-fold probability; of a number the absolute residual."""
    return 1 - out_of_fold(run).max(axis=1) if class_count(run) else doubt(run)
