"""Isolation forest: rows that random splits separate early are unusual."""

from typing import ClassVar

import numpy as np
from sklearn.ensemble import IsolationForest as Forest

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.looks import encoded, once_per_run
from demix_lite.detector.runs import Run

TREES = 200


@once_per_run
def isolation(run: Run, samples: int) -> np.ndarray:
    """Return how early trees on ``samples`` rows isolate every encoded row, shape ``(N,)``."""
    rows = encoded(run)
    forest = Forest(n_estimators=TREES, max_samples=min(samples, len(rows)), random_state=0)
    return -forest.fit(rows).score_samples(rows)


class IsolationForest(Baseline):
    """Isolation forest on the encoded inputs; the label is not used."""

    name = "isolation_forest"
    claims = ("feature",)
    space: ClassVar = {"samples": (256, 1024)}
    reference = "Liu, Ting & Zhou (2008), Isolation Forest; scikit-learn"

    def scores(self, run: Run) -> np.ndarray:
        """Score every row by how early it is isolated."""
        return isolation(run, self.settings["samples"])
