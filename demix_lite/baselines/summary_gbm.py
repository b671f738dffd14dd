"""The plain baseline: gradient boosting on quantile summaries of the same channels.

Every channel of a row's influence vector is summarised by its quantiles, mean, standard deviation
and its means over validation samples with the same and with another label; every summary is ranked
within its run. There is no set transformer, no intervention and no second pass: this is what a
detector must beat.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import joblib
import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from demix_lite.detector.environments import Environment
from demix_lite.detector.runs import CHANNELS, Run, normal_ranks
from demix_lite.detector.set_transformer import summaries
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis
from demix_lite.whole_file import whole_file

AGREEMENT = CHANNELS.index("label_agreement")


class SummaryGBM:
    """Gradient boosting on run-ranked summaries, one model per error type.

    It learns from ``rows`` rows of every training environment.
    """

    name: ClassVar[str] = "summary_gbm"

    def __init__(self, rows: int = 768):
        self.rows = rows
        self.models: list[HistGradientBoostingClassifier] = []

    def fit(self, environments: Sequence[Environment]) -> Self:
        """Fit on a sample of rows of every environment, ranked within that sample."""
        samples = [environment.sample(self.rows) for environment in environments]
        x = np.vstack([normal_ranks(summaries(v.float(), AGREEMENT).numpy()) for v, _ in samples])
        y = np.vstack([errors.numpy() for _, errors in samples])
        self.models = [
            HistGradientBoostingClassifier(
                max_iter=200,
                learning_rate=0.06,
                min_samples_leaf=40,
                l2_regularization=1.0,
                random_state=0,
            ).fit(x, y[:, kind])
            for kind in range(len(ERROR_TYPES))
        ]
        return self

    def save(self, path: Path) -> None:
        """Write the fitted models to ``path``, a file of the local cache."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            joblib.dump(self.models, part)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote; load only files that you trust, since they are pickles."""
        method = cls()
        method.models = joblib.load(path)
        return method

    def predict(self, run: Run) -> Diagnosis:
        """Flag at the threshold with the largest expected F1, as the detector does."""
        x = normal_ranks(torch.cat([summaries(block, AGREEMENT) for block in run.blocks()]).numpy())
        probability = np.column_stack([model.predict_proba(x)[:, 1] for model in self.models])
        return Diagnosis.from_probability(probability, index=run.index)
