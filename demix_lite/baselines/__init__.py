"""Methods to compare with, under one contract.

A baseline is a class with ``name``, ``fit(environments)`` and ``predict(run) -> Diagnosis``; it
learns from the same environments as the detector and sees the same run. A new one is one new file
and one line here.
"""

from typing import Protocol, Self

from demix_lite.baselines.summary_gbm import SummaryGBM
from demix_lite.detector.runs import Run
from demix_lite.detector.training import Environment
from demix_lite.diagnosis import Diagnosis


class Baseline(Protocol):
    """What every baseline answers."""

    name: str

    def fit(self, environments: list[Environment]) -> Self:
        """Learn from runs with known errors."""
        ...

    def predict(self, run: Run) -> Diagnosis:
        """Diagnose every row of a run."""
        ...


BASELINES: dict[str, type[Baseline]] = {method.name: method for method in (SummaryGBM,)}

__all__ = ["BASELINES", "Baseline", "SummaryGBM"]
