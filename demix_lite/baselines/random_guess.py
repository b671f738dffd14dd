"""Random scores: the level that every baseline has to beat."""

import numpy as np

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.retraining import run_seed
from demix_lite.detector.runs import Run


class RandomGuess(Baseline):
    """A uniform random score per row and error type, the same each time a run is judged.

    It knows only the usual share of each error.
    """

    name = "random"
    claims = ()
    reference = "chance"

    def scores(self, run: Run) -> np.ndarray:
        """Draw the scores, shape ``(N, 3)``."""
        return np.random.default_rng(run_seed(run, self.name)).random((len(run), 3))
