"""Just Train Twice: what a briefly trained model gets wrong is the minority of a shortcut."""

from typing import ClassVar

import numpy as np

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.retraining import retrain, row_losses
from demix_lite.detector.runs import Run


class JustTrainTwice(Baseline):
    """The loss under an identification model that was trained for a few epochs only.

    With two classes a row is misclassified exactly when its loss exceeds log 2, so the loss ranks
    the error set of the publication first. With more classes and with numeric labels, the same
    score is used. The second training, with these rows weighted up, is the repair of spurious
    errors. ``epochs`` is the T of the publication.
    """

    name = "just_train_twice"
    claims = ("spurious",)
    space: ClassVar = {"epochs": (1, 2, 4)}
    reference = "Liu et al. (2021), Just Train Twice, ICML, arXiv:2107.09044"

    def scores(self, run: Run) -> np.ndarray:
        """Return the loss of every row under the identification model, shape ``(N,)``."""
        model = retrain(run, run.samples, self.name, epochs=self.settings["epochs"])
        return row_losses(run, model, run.samples)
