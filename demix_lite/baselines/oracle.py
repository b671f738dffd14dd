"""Yardsticks: methods that are told the true errors of the run they judge. Cheating by design."""

from abc import ABC, abstractmethod
from typing import ClassVar

import pandas as pd

from demix_lite.detector.runs import Run
from demix_lite.diagnosis import Diagnosis, certain
from demix_lite.errors import DemixError


class Yardstick(ABC):
    """A method that is told the true errors of the run it judges, aligned with the training rows.

    Attributes
    ----------
    name : str
        Name in the ledger.
    """

    name: ClassVar[str]

    def __init__(self, errors: pd.DataFrame) -> None:
        self.errors = errors

    @abstractmethod
    def predict(self, run: Run) -> Diagnosis:
        """Diagnose every row of the run whose errors it was told."""

    def known(self, run: Run) -> pd.DataFrame:
        """Return the true errors of a run.

        Raises
        ------
        DemixError
            If they belong to another run.
        """
        if not self.errors.index.equals(run.index):
            raise DemixError(f"{self.name} has to be told the true errors of the run it judges.")
        return self.errors


class Oracle(Yardstick):
    """Names every error: what the best possible detection is worth."""

    name = "oracle"

    def predict(self, run: Run) -> Diagnosis:
        """Return the true errors."""
        return certain(self.known(run))
