"""Methods to compare with, under one interface.

A method is a class with ``name``, ``fit(environments)`` and ``predict(run) -> Diagnosis``. It
learns from injections into the same data as the detector and sees the same run. A new baseline is
one new file and one line here.

A method that needs the true errors of the run it judges is constructed with them
(``Yardstick(errors)``), learns nothing, and is listed in the ledger as a yardstick.
"""

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.composite import Composite
from demix_lite.baselines.datalab import Datalab
from demix_lite.baselines.ddc import DDC
from demix_lite.baselines.influence_signals import (
    AverageAbsoluteInfluence,
    ClassGradient,
    DDARepair,
    MarginalInfluence,
    SelfInfluence,
)
from demix_lite.baselines.isolation_forest import IsolationForest
from demix_lite.baselines.just_train_twice import JustTrainTwice
from demix_lite.baselines.knn_shapley import KNNShapley
from demix_lite.baselines.map_d import MapD
from demix_lite.baselines.noisy_clicks import NoisyClicks
from demix_lite.baselines.random_guess import RandomGuess
from demix_lite.baselines.reward_margin import RewardMargin
from demix_lite.baselines.summary_gbm import SummaryGBM
from demix_lite.baselines.yardsticks import Ceiling, CeilingAllRows, Oracle, Yardstick

BASELINES: dict[str, type[Baseline]] = {
    method.name: method
    for method in (
        RandomGuess,
        SelfInfluence,
        AverageAbsoluteInfluence,
        MarginalInfluence,
        ClassGradient,
        DDARepair,
        MapD,
        JustTrainTwice,
        Composite,
        DDC,
        Datalab,
        IsolationForest,
        KNNShapley,
        NoisyClicks,
        RewardMargin,
    )
}
"""Baselines by name."""

YARDSTICKS: dict[str, type[Yardstick]] = {
    method.name: method for method in (Oracle, Ceiling, CeilingAllRows)
}
"""Methods that are given the true errors, by name."""

__all__ = ["BASELINES", "YARDSTICKS", "Baseline", "SummaryGBM", "Yardstick"]
