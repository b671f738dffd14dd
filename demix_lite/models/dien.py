"""The deep interest evolution network (Zhou et al., 2019), with cells made of linear layers.

A fused recurrent layer hides its single steps, and packed sequences mix the samples of a batch.
Here every step calls the same linear layer, so that per-sample gradients follow exactly from the
inputs and output gradients of these calls.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from demix_lite.models.din import Embeddings, Layout, LocalActivation
from demix_lite.models.mlp import MLP


class AttentionGRU(nn.Module):
    """A gated recurrent unit whose update gate is scaled by attention (AUGRU).

    With attention 1 at every step it is a GRU; a step with attention 0 leaves the state unchanged.
    Inputs and state have the same width.

    Examples
    --------
    >>> AttentionGRU(4)(torch.zeros(5, 9, 4), torch.ones(5, 9)).shape
    torch.Size([5, 9, 4])
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.from_input = nn.Linear(width, 3 * width)
        self.from_state = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """Map ``(n, L, width)`` and attention ``(n, L)`` to the states, ``(n, L, width)``."""
        parts = [2 * self.width, self.width]
        gates, news = self.from_input(x).split(parts, dim=-1)
        # unbind instead of indexing: the gradient of each x[:, step] would be as large as x.
        steps = zip(gates.unbind(1), news.unbind(1), attention[..., None].unbind(1), strict=True)
        states, state = [], torch.zeros_like(x[:, 0])
        for gate_in, new_in, attended in steps:
            gate_back, new_back = self.from_state(state).split(parts, dim=-1)
            reset, update = torch.sigmoid(gate_in + gate_back).chunk(2, dim=-1)
            new = torch.tanh(new_in + reset * new_back)
            state = torch.lerp(state, new, attended * update)
            states.append(state)
        return torch.stack(states, dim=1)


class DIEN(nn.Module):
    """A deep interest evolution network: models how the interest in the candidate evolved.

    One recurrent layer extracts an interest at every entry of the history. A second one follows
    the interests relevant to the candidate; its last state is the input of the head. The auxiliary
    loss of the paper, which needs items that were not clicked, is left out, and relevance is scored
    by the attention network of :class:`~demix_lite.models.din.DIN` instead of a bilinear form. The
    parameters are those of DIN.

    Examples
    --------
    >>> from demix_lite.models.din import blank_inputs
    >>> layout = Layout(users=9, items=7, kinds=3, fields=(4, 2), tags=5, numbers=1)
    >>> DIEN(layout)(blank_inputs(layout, samples=6, length=10)).shape
    torch.Size([6, 1])
    """

    def __init__(
        self,
        layout: Layout,
        *,
        dim: int = 8,
        hidden: Sequence[int] = (64, 32),
        attention: Sequence[int] = (64, 32),
    ):
        super().__init__()
        self.embeddings = Embeddings(layout, dim)
        width = self.embeddings.interest_width
        self.extraction = AttentionGRU(width)
        self.attention = LocalActivation(width, attention)
        self.evolution = AttentionGRU(width)
        self.head = MLP(self.embeddings.attributes_width + width, hidden, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Map a batch of n samples to its logits, ``(n, 1)``."""
        batch = self.embeddings(inputs)
        interests = self.extraction(batch.history, batch.real.to(batch.history.dtype))
        attention = softmax_over(batch.real, self.attention(batch.candidate, interests))
        interest = self.evolution(interests, attention)[:, -1]
        return self.head(torch.cat([batch.attributes, interest], dim=-1))


def softmax_over(real: Tensor, scores: Tensor) -> Tensor:
    """Return the softmax over the real scores; the others, or all if none is real, get 0.

    Examples
    --------
    >>> softmax_over(torch.tensor([[True, True, False], [False] * 3]), torch.zeros(2, 3))
    tensor([[0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    # Not minus infinity: its softmax is NaN if no score is real.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~real, lowest).softmax(-1) * real
