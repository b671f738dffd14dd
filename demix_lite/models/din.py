"""The deep interest network (Zhou et al., 2018), with one call per module and no batch statistics.

The original uses the activation Dice, whose batch norm mixes the samples of a batch: the gradient
of one sample would depend on the others. ReLU is used instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from demix_lite.models.mlp import MLP

INITIAL_SCALE = 0.1
"""Standard deviation of the initial embeddings: a larger one trains more slowly, a smaller one
memorises."""


@dataclass(frozen=True)
class Layout:
    """The inputs of a recommendation model and their sizes.

    Attributes
    ----------
    users, items, kinds : int
        Vocabulary sizes of users, of items and of the main categories of items; index 0 stands for
        unknown and for padding.
    fields : tuple of int
        Vocabulary sizes of the other single-valued attributes of users and items.
    tags : int
        Width of the multi-valued attributes; each row sums to 1 (or to 0).
    numbers : int
        Number of numeric attributes, standardised.
    """

    users: int
    items: int
    kinds: int
    fields: tuple[int, ...] = ()
    tags: int = 0
    numbers: int = 0


@dataclass(frozen=True)
class Embedded:
    """An embedded batch: concatenated attributes, the candidate, the history and its mask."""

    attributes: Tensor
    candidate: Tensor
    history: Tensor
    real: Tensor


class Embeddings(nn.Module):
    """Embeds a batch in vectors of width ``dim``; candidate and history share their embeddings.

    Examples
    --------
    >>> embedded = Embeddings(Layout(3, 5, 2), dim=4)(blank_inputs(Layout(3, 5, 2), 6, 7))
    >>> embedded.attributes.shape, embedded.candidate.shape, embedded.history.shape
    (torch.Size([6, 12]), torch.Size([6, 1, 8]), torch.Size([6, 7, 8]))
    """

    def __init__(self, layout: Layout, dim: int):
        super().__init__()
        self.user, self.item, self.kind = (
            _embedding(size, dim) for size in (layout.users, layout.items, layout.kinds)
        )
        self.fields = nn.ModuleList(_embedding(size, dim) for size in layout.fields)
        self.tags = nn.Linear(layout.tags, dim, bias=False) if layout.tags else None
        self.interest_width = 2 * dim
        singles = 3 + len(layout.fields) + bool(layout.tags)
        self.attributes_width = singles * dim + layout.numbers

    def forward(self, inputs: dict[str, Tensor]) -> Embedded:
        """Embed all inputs of a batch."""
        items = self.item(_candidate_first(inputs["item"], inputs["history"]))
        kinds = self.kind(_candidate_first(inputs["kind"], inputs["history_kind"]))
        both = torch.cat([items, kinds], dim=-1)
        candidate, history = both[:, :1], both[:, 1:]
        fields = zip(self.fields, inputs["fields"].unbind(1), strict=True)
        attributes = [
            self.user(inputs["user"]),
            *(embedding(ids) for embedding, ids in fields),
            candidate[:, 0],
            *([self.tags(inputs["tags"])] if self.tags else []),
            inputs["numbers"],
        ]
        return Embedded(torch.cat(attributes, dim=-1), candidate, history, inputs["history"] != 0)


class LocalActivation(nn.Module):
    """Scores how relevant each history entry is to the candidate, both of width ``width``.

    Examples
    --------
    >>> LocalActivation(4, (8,))(torch.zeros(5, 1, 4), torch.zeros(5, 9, 4)).shape
    torch.Size([5, 9])
    """

    def __init__(self, width: int, hidden: Sequence[int]):
        super().__init__()
        self.mlp = MLP(4 * width, hidden, 1)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Map ``(n, 1, width)`` and ``(n, L, width)`` to ``(n, L)``."""
        query = query.expand_as(keys)
        seen_together = torch.cat([query, keys, query - keys, query * keys], dim=-1)
        return self.mlp(seen_together).squeeze(-1)


class DIN(nn.Module):
    """A deep interest network: the history, weighted by its relevance to the candidate.

    Parameters
    ----------
    layout : Layout
        Description of the inputs.
    dim : int
        Width of one embedding.
    hidden : sequence of int
        Widths of the hidden layers of the head.
    attention : sequence of int
        Widths of the hidden layers of the local activation unit.

    Examples
    --------
    >>> layout = Layout(users=9, items=7, kinds=3, fields=(4, 2), tags=5, numbers=1)
    >>> DIN(layout)(blank_inputs(layout, samples=6, length=10)).shape
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
        self.attention = LocalActivation(width, attention)
        self.head = MLP(self.embeddings.attributes_width + width, hidden, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Map a batch of n samples to its logits, ``(n, 1)``."""
        batch = self.embeddings(inputs)
        weights = self.attention(batch.candidate, batch.history) * batch.real
        interest = (weights[:, None] @ batch.history)[:, 0]
        return self.head(torch.cat([batch.attributes, interest], dim=-1))


def blank_inputs(layout: Layout, samples: int, length: int) -> dict[str, Tensor]:
    """Return all-zero inputs of ``samples`` samples with histories of one length.

    Examples
    --------
    >>> inputs = blank_inputs(Layout(users=9, items=7, kinds=3, tags=5), samples=6, length=10)
    >>> inputs["history"].shape, inputs["tags"].shape, inputs["numbers"].shape
    (torch.Size([6, 10]), torch.Size([6, 5]), torch.Size([6, 0]))
    """
    ids = {"user": (), "item": (), "kind": (), "fields": (len(layout.fields),)}
    ids |= {"history": (length,), "history_kind": (length,)}
    numbers = {"tags": (layout.tags,), "numbers": (layout.numbers,)}
    return {
        **{name: torch.zeros(samples, *shape, dtype=torch.long) for name, shape in ids.items()},
        **{name: torch.zeros(samples, *shape) for name, shape in numbers.items()},
    }


def _embedding(size: int, dim: int) -> nn.Embedding:
    """Return an embedding with small random weights whose first row stays zero."""
    weight = INITIAL_SCALE * torch.randn(size, dim)
    weight[0] = 0
    return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=0)


def _candidate_first(candidate: Tensor, history: Tensor) -> Tensor:
    """Put the candidate before its history, so that both are looked up in one call."""
    return torch.cat([candidate[:, None], history], dim=1)
