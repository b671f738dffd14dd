"""Random scores: what every baseline has to beat."""

import numpy as np

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.retraining import run_seed
from demix_lite.detector.runs import Run


class RandomGuess(Baseline):
    """A uniform random score for every row and error type, the same whenever a run is judged.

    It knows the usual share of each error, nothing else.
    """

    name = "random"
    claims = ()
    reference = "chance"

    def scores(self, run: Run) -> np.ndarray:
        """Draw the scores, shape ``(N, 3)``."""
        return np.random.default_rng(run_seed(run, self.name)).random((len(run), 3))
