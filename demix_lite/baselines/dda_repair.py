"""DDA-repair: data attribution by one scalar, harmful rows flagged and repaired."""

from typing import ClassVar

from torch import Tensor

from demix_lite.baselines.influence_signals import InfluenceSignal
from demix_lite.diagnosis import ERROR_TYPES


class DDARepair(InfluenceSignal):
    """Minus the mean cosine of a row's gradient with those of the validation samples.

    Unlike marginal influence it looks at directions only: a row with a long gradient, or a
    validation sample with one, has no more say than others. One scalar cannot name the error; what
    it flags goes through the same repair as the flags of every other method.

    Parameters
    ----------
    checkpoints : {"final", "both"}
        Attribute by the trained model alone, or add up the early and the trained one as TracIn
        does.
    """

    name = "dda_repair"
    claims = ERROR_TYPES
    space: ClassVar = {"checkpoints": ("final", "both")}
    reference = "debugging by data attribution; influence: Pruthi et al. (2020), arXiv:2002.08484"
    channels = ("influence",)

    def signal(self, influence: Tensor, groups: Tensor) -> Tensor:
        """Return minus the mean influence."""
        return -influence.mean(1)
