"""Yardsticks: methods that are given the true errors of the run they judge. Cheating by design.

The oracle shows what the best possible detection is worth. The ceilings show how many of the errors
are visible at all in the features and the label of a row, and so how far a method that never sees a
true error could still go.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from demix_lite.cross_fit import held_out
from demix_lite.detector.runs import Run
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis, best_threshold, certain
from demix_lite.errors import DemixError


class Yardstick(ABC):
    """A method that is given the true errors of the run it judges, aligned with the training rows.

    ``name`` is its name in the ledger.
    """

    name: ClassVar[str]

    def __init__(self, errors: pd.DataFrame) -> None:
        self.errors = errors

    @abstractmethod
    def predict(self, run: Run) -> Diagnosis:
        """Diagnose every row of the run whose errors it was given."""

    def known(self, run: Run) -> pd.DataFrame:
        """Return the true errors of a run.

        Raises
        ------
        DemixError
            If the rows of the run are not those whose errors the yardstick was given.
        """
        if not self.errors.index.equals(run.index):
            raise DemixError(f"{self.name} has to be told the true errors of the run it judges.")
        return self.errors


class Oracle(Yardstick):
    """Names every error: shows what the best possible detection is worth."""

    name = "oracle"

    def predict(self, run: Run) -> Diagnosis:
        """Return the true errors."""
        return certain(self.known(run))


class Ceiling(Yardstick):
    """Judges every row by a random forest trained on the true errors of up to 2,000 others."""

    name = "ceiling"
    folds: ClassVar[int] = 5
    most: ClassVar[int | None] = 2000

    def predict(self, run: Run) -> Diagnosis:
        """Flag at the threshold with the largest true F1."""
        columns, categorical = run.columns()
        model = self._model(categorical)
        probability, thresholds = [], []
        for known in self.known(run)[list(ERROR_TYPES)].to_numpy().astype(int).T:
            said = held_out(model, columns, known, classes=2, folds=self.folds, most=self.most)
            probability.append(said[:, 1])
            thresholds.append(best_threshold(known, said[:, 1]))
        return Diagnosis.from_probability(
            np.column_stack(probability), np.array(thresholds), index=run.index
        )

    def _model(self, categorical: np.ndarray) -> BaseEstimator:
        return RandomForestClassifier(100, min_samples_leaf=3, random_state=0)


class CeilingAllRows(Ceiling):
    """Judges every row by boosted trees trained on the true errors of two thirds of the rows."""

    name = "ceiling_all_rows"
    folds = 3
    most = None

    def _model(self, categorical: np.ndarray) -> BaseEstimator:
        return HistGradientBoostingClassifier(
            early_stopping=False, categorical_features=categorical, random_state=0
        )
