"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers of the given widths with ReLU between them.

    Examples
    --------
    >>> import torch
    >>> MLP(3, (8, 4), 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int):
        super().__init__()
        widths = [inputs, *hidden]
        layers = [m for pair in pairwise(widths) for m in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs)`` to ``(n, outputs)``."""
        return self.layers(x)
