"""Reward-margin screening: how far the trained model agrees with the recorded preferences."""

from typing import ClassVar

import numpy as np

from demix_lite.baselines.base import Baseline
from demix_lite.detector.runs import Run
from demix_lite.models.training import predict
from demix_lite.tasks.labels import Preference


class RewardMargin(Baseline):
    """Position of a pair in the distribution of the margins of preferred over other answers.

    At the low end, the model contradicts the record: a swapped preference, or a pair that breaks
    what the others agree on. Near zero, it sees no difference: the texts may be broken. The margins
    are those at the end of training (``"final"``) or after the first epoch (``"early"``).
    """

    name = "reward_margin"
    claims = ("label",)
    space: ClassVar = {"model": ("final", "early")}
    reference = (
        "Xu et al. (2025), RLTHF: Targeted Human Feedback for LLM Alignment, arXiv:2502.13417: "
        "its screening by the distribution of reward margins, without the human"
    )
    judges = Preference

    def scores(self, run: Run) -> np.ndarray:
        """Score every pair for label, feature and spurious errors, shape ``(N, 3)``."""
        label, (inputs, targets) = run.task.label, run.samples
        assert isinstance(label, Preference)
        trained = run.trained.model if self.settings["model"] == "final" else run.trained.early
        margin = label.margin(predict(trained, inputs), targets.cpu()).double().numpy()
        return np.column_stack([-margin, -np.abs(margin), -margin])
