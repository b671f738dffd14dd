"""The ceiling: trees trained on the true errors of the very run they judge. Cheating by design.

It says how much of the errors can be seen at all in the features and the label of a row, and so how
far a method that never sees a true error could still go.
"""

from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from demix_lite.baselines.oracle import Yardstick
from demix_lite.cross_fit import held_out
from demix_lite.detector.runs import Run
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis, best_threshold


class Ceiling(Yardstick):
    """Every row is judged by a random forest that knows the true errors of 2,000 other rows."""

    name = "ceiling"
    folds: ClassVar[int] = 5
    most: ClassVar[int | None] = 2000

    def predict(self, run: Run) -> Diagnosis:
        """Flag at the threshold with the largest true F1."""
        columns, categorical = run.columns()
        model = self._model(categorical)
        truth = self.known(run)[list(ERROR_TYPES)].to_numpy().astype(int)
        probability = np.column_stack(
            [
                held_out(model, columns, known, classes=2, folds=self.folds, most=self.most)[:, 1]
                for known in truth.T
            ]
        )
        pairs = zip(truth.T, probability.T, strict=True)
        thresholds = np.array([best_threshold(known, said) for known, said in pairs])
        return Diagnosis.from_probability(probability, thresholds, index=run.index)

    def _model(self, categorical: np.ndarray) -> BaseEstimator:
        return RandomForestClassifier(100, min_samples_leaf=3, random_state=0)


class CeilingAllRows(Ceiling):
    """Every row is judged by boosted trees that know the true errors of two thirds of the rows."""

    name = "ceiling_all_rows"
    folds = 3
    most = None

    def _model(self, categorical: np.ndarray) -> BaseEstimator:
        return HistGradientBoostingClassifier(
            early_stopping=False, categorical_features=categorical, random_state=0
        )
