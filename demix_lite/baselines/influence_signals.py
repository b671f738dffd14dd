"""Influence signals: one number per row, computed from inner products of loss gradients.

Positive influence means helpful. All signals use TracIn (Pruthi et al., 2020): products are summed
over the checkpoints of a run before the signal is computed. The cosine of a row with itself is
always 1, so self-influence is unnormalised.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from demix_lite.baselines.base import Baseline
from demix_lite.detector.runs import Run
from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.influence import InfluenceSource

BLOCK = 512
PRODUCT = ("influence", "train_gradient_norm", "valid_gradient_norm")
STUDY = (
    "signal of A Comparative Analysis of Influence Signals for Data Debugging (2024), "
    "arXiv:2506.11584"
)


class InfluenceSignal(Baseline):
    """A signal that summarises a row's influence on the validation samples.

    ``checkpoints`` selects the sum over the early and the trained model (``"both"``), or the
    trained model alone (``"final"``). The product of the ``channels`` is summed: inner products of
    gradients, or their cosines. ``samples`` limits the number of validation samples.
    """

    claims: ClassVar[tuple[str, ...]] = ("label",)
    space: ClassVar = {"checkpoints": ("both", "final")}
    reference = STUDY
    channels: ClassVar[tuple[str, ...]] = PRODUCT
    samples: ClassVar[int | None] = None

    @abstractmethod
    def signal(self, influence: Tensor, groups: Tensor) -> Tensor:
        """Reduce influence ``(n, M)`` to a signal ``(n,)``, given label groups ``(M,)``."""

    def product(self, block: Tensor) -> Tensor:
        """Return the influence under one checkpoint from its channels ``(n, C, M)``."""
        return block.prod(1)

    def scores(self, run: Run) -> np.ndarray:
        """Return the signal of every row, shape ``(N,)``."""
        groups = _label_groups(run)
        final, early = run.trained.model, run.trained.early
        models = [final] if self.settings["checkpoints"] == "final" else [early, final]
        streams = [self._blocks(run, model) for model in models]
        start = torch.zeros(())
        summed = (sum(map(self.product, b), start) for b in zip(*streams, strict=True))
        return torch.cat([self.signal(block, groups) for block in summed]).numpy()

    def _blocks(self, run: Run, model: nn.Module) -> Iterator[Tensor]:
        """Yield raw channels of all rows, block by block, in order, shape ``(n, C, M)``."""
        chosen = run.valid.loc[run.valid_index[: self.samples]]
        source = InfluenceSource(
            model,
            run.task.loss,
            run.encoder.transform(chosen, run.task.target),
            self.channels,
            partners=len(run),
            device=run.sources[0].device,
        )
        return (block for _, block in source.blocks(run.samples, block_size=BLOCK))


def _label_groups(run: Run) -> Tensor:
    """Number the label groups of the validation samples."""
    target = run.task.target
    labels = run.valid.loc[run.valid_index, target]
    groups = run.task.label.groups(labels, run.train[target])
    return torch.from_numpy(np.unique(groups.to_numpy(), return_inverse=True)[1])


class SelfInfluence(InfluenceSignal):
    """The squared norm of a row's own gradient, large for memorised and mislabelled rows.

    The publications are Koh and Liang (2017) and Pruthi et al. (2020).
    """

    name = "self_influence"
    channels = ("train_gradient_norm",)
    samples = 1  # the norm does not depend on the validation sample

    def product(self, block: Tensor) -> Tensor:
        """Return the squared norms."""
        return block[:, 0].square()

    def signal(self, influence: Tensor, groups: Tensor) -> Tensor:
        """Return the influence of every row on itself, given as one column."""
        return influence[:, 0]


class AverageAbsoluteInfluence(InfluenceSignal):
    """The mean absolute influence of a row: helpful and harmful influence do not cancel.

    Examples
    --------
    >>> influence = torch.tensor([[1.0, -1.0], [0.5, 0.5]])
    >>> AverageAbsoluteInfluence().signal(influence, torch.tensor([0, 1]))
    tensor([1.0000, 0.5000])
    """

    name = "average_absolute_influence"

    def signal(self, influence: Tensor, groups: Tensor) -> Tensor:
        """Return the mean absolute influence."""
        return influence.abs().mean(1)


class MarginalInfluence(InfluenceSignal):
    """How harmful a row is to all validation samples together: minus the sum of its influence.

    Examples
    --------
    >>> influence = torch.tensor([[1.0, -1.0], [-0.5, -0.5]])
    >>> MarginalInfluence().signal(influence, torch.tensor([0, 1]))
    tensor([-0., 1.])
    """

    name = "marginal_influence"

    def signal(self, influence: Tensor, groups: Tensor) -> Tensor:
        """Return minus the summed influence."""
        return -influence.sum(1)


class ClassGradient(InfluenceSignal):
    """How harmful a row is to the label group it harms most (GD-class).

    Groups are the classes, or quintiles of a numeric label. Influence is summed over the validation
    samples of a group, so a larger group counts more; the authors take equally many of each.

    Examples
    --------
    >>> influence = torch.tensor([[1.0, -1.0], [0.5, 0.5]])
    >>> ClassGradient().signal(influence, torch.tensor([0, 1]))
    tensor([ 1.0000, -0.5000])
    """

    name = "class_gradient"
    reference = (
        "GD-class of Nguyen-Duc et al. (2023), Class based Influence Functions for Error "
        "Detection, ACL, arXiv:2305.01384"
    )

    def signal(self, influence: Tensor, groups: Tensor) -> Tensor:
        """Return minus the smallest of the influences summed by label group."""
        members = (groups[:, None] == groups.unique()).to(influence.dtype)
        return -(influence @ members).min(1).values


class DDARepair(InfluenceSignal):
    """Minus the mean cosine of a row's gradient with those of the validation samples.

    Data attribution by one scalar. Unlike marginal influence, it uses directions only: rows or
    validation samples with a large gradient norm do not count more than others. One scalar cannot
    name the error type; its flags go through the same repair as those of every other method.
    """

    name = "dda_repair"
    claims = ERROR_TYPES
    space: ClassVar = {"checkpoints": ("final", "both")}
    reference = "debugging by data attribution; influence: Pruthi et al. (2020), arXiv:2002.08484"
    channels = ("influence",)

    def signal(self, influence: Tensor, groups: Tensor) -> Tensor:
        """Return minus the mean influence."""
        return -influence.mean(1)
