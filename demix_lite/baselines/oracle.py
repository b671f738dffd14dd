"""Yardsticks: methods that are told the true errors of the run they judge. Cheating by design."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import pandas as pd

from demix_lite.detector.environments import Environment
from demix_lite.detector.runs import Run
from demix_lite.diagnosis import Diagnosis, certain
from demix_lite.errors import DemixError


class Yardstick(ABC):
    """A method that has to be told the true errors of a run before it judges it.

    Attributes
    ----------
    name : str
        Name in the ledger.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.errors: pd.DataFrame | None = None

    def told(self, errors: pd.DataFrame) -> Self:
        """Return a copy that knows the true errors, aligned with the training rows."""
        knowing = copy.copy(self)
        knowing.errors = errors
        return knowing

    def fit(self, environments: Sequence[Environment]) -> Self:
        """Learn nothing."""
        return self

    @abstractmethod
    def predict(self, run: Run) -> Diagnosis:
        """Diagnose every row of the run whose errors it was told."""

    def known(self, run: Run) -> pd.DataFrame:
        """Return the true errors of a run.

        Raises
        ------
        DemixError
            If they were not told, or belong to another run.
        """
        if self.errors is None or not self.errors.index.equals(run.index):
            raise DemixError(f"{self.name} has to be told the true errors of the run it judges.")
        return self.errors


class Oracle(Yardstick):
    """Names every error: what the best possible detection is worth."""

    name = "oracle"

    def predict(self, run: Run) -> Diagnosis:
        """Return the true errors."""
        return certain(self.known(run))
