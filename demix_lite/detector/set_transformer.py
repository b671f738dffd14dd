"""A set transformer: reads any number of elements of an influence vector, in any order."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, POOLS, POINTS = 4, 8, 32
"""Attention heads, pooling queries and inducing points."""

DROPOUT = 0.1


class AttentionBlock(nn.Module):
    """Queries attend to a set: multi-head attention and a small network, both with a residual.

    Source: the multihead attention block (MAB) of Lee et al., Set Transformer (ICML 2019).
    """

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.mix = nn.Linear(width, width)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, queries: Tensor, elements: Tensor) -> Tensor:
        """Map queries ``(B, Q, width)`` and elements ``(B, M, width)`` to ``(B, Q, width)``."""
        q = self._split(self.query(queries))
        k, v = (self._split(part) for part in self.key_value(elements).chunk(2, dim=-1))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        queries = self.before(queries + self.mix(seen))
        return self.after(queries + self.feed(queries))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


Pooling = Literal["attention", "isab", "mean", "none"]
"""How a set is pooled: by learned queries; by learned queries after two induced attention blocks
(as in the paper); by the mean of its elements (deep sets); or not at all, which leaves only its
summaries."""

LEVELS = 9
"""Quantiles in a summary, from the smallest to the largest element."""

SUMMARIES = LEVELS + 4


class InducedBlock(nn.Module):
    """Elements attend to each other through a few inducing points (ISAB of Lee et al., 2019)."""

    def __init__(self, width: int):
        super().__init__()
        self.points = nn.Parameter(torch.randn(1, POINTS, width) / width**0.5)
        self.gather, self.spread = AttentionBlock(width), AttentionBlock(width)

    def forward(self, elements: Tensor) -> Tensor:
        """Map elements ``(B, M, width)`` to the same shape."""
        seen = self.gather(self.points.expand(len(elements), -1, -1), elements)
        return self.spread(elements, seen)


class SetTransformer(nn.Module):
    """Embed influence vectors ``(B, C, M)`` as ``(B, embedding)``, invariant to the order of the M.

    Learned queries pool the elements by attention and then attend to each other. The embedding
    concatenates their output, ``pooled`` numbers, with the :func:`summaries` of every channel.

    Parameters
    ----------
    channels : int
        Number of channels C.
    agreement : int
        Index of the label-agreement channel.
    width : int
        Width of the network, a multiple of the number of attention heads.
    pooling : str
        ``"attention"``; ``"isab"``, ``"mean"`` and ``"none"`` are for comparison.
    summarise : bool
        Whether the embedding contains the summaries.

    Examples
    --------
    >>> net = SetTransformer(3, 2, width=8, pooling="attention", summarise=True).eval()
    >>> x = torch.randn(5, 3, 20)
    >>> torch.allclose(net(x), net(x.flip(-1)), atol=1e-5)
    True
    """

    def __init__(
        self, channels: int, agreement: int, *, width: int, pooling: Pooling, summarise: bool
    ):
        super().__init__()
        self.agreement = agreement
        self.pooling = pooling
        self.summarise = summarise
        if pooling != "none":
            self.element = nn.Sequential(
                nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
            )
        if pooling == "isab":
            self.element.extend(InducedBlock(width) for _ in range(2))
        if pooling in ("attention", "isab"):
            self.queries = nn.Parameter(torch.randn(1, POOLS, width) / width**0.5)
            self.gather, self.exchange = AttentionBlock(width), AttentionBlock(width)
        self.dropout = nn.Dropout(DROPOUT)
        widths = {"attention": POOLS * width, "isab": POOLS * width, "mean": width, "none": 0}
        self.pooled = widths[pooling]
        self.embedding = self.pooled + summarise * SUMMARIES * channels

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the embedding, shape ``(B, embedding)``: first the pooled part, then summaries."""
        return torch.cat([self.pool(vectors), self.summaries(vectors)], dim=1)

    def pool(self, vectors: Tensor) -> Tensor:
        """Return the learned pooling of the set, shape ``(B, pooled)``."""
        if self.pooling == "none":
            return vectors.new_zeros(len(vectors), 0)
        elements = self.element(vectors.transpose(1, 2))
        if self.pooling == "mean":
            return self.dropout(elements.mean(1))
        found = self.gather(self.queries.expand(len(vectors), -1, -1), elements)
        return self.dropout(self.exchange(found, found).flatten(1))

    def summaries(self, vectors: Tensor) -> Tensor:
        """Return the summaries of every channel, shape ``(B, embedding - pooled)``."""
        if not self.summarise:
            return vectors.new_zeros(len(vectors), 0)
        return summaries(vectors, self.agreement)


def summaries(vectors: Tensor, agreement: int) -> Tensor:
    """Summarise vectors ``(n, C, M)`` by ``(n, 13 * C)`` numbers, invariant to the order of the M.

    Per channel: nine quantiles, the mean, the standard deviation, and the means over the validation
    samples with the same label and with another label.

    Examples
    --------
    >>> x = torch.randn(4, 3, 50)
    >>> torch.equal(summaries(x, agreement=0), summaries(x.flip(-1), agreement=0))
    True
    """
    # Summed in double precision and rounded, so that the order of the samples does not matter.
    exact = vectors.double()
    same = (exact[:, agreement, None] > 0).double()
    parts = [
        *_quantiles(vectors),
        exact.mean(-1),
        exact.std(-1, correction=0),
        *((exact * part).sum(-1) / part.sum(-1).clamp(min=1) for part in (same, 1 - same)),
    ]
    return torch.cat(parts, dim=1).to(vectors.dtype)


def _quantiles(vectors: Tensor) -> Tensor:
    """Return evenly spaced quantiles, shape ``(LEVELS, n, C)``, like torch.quantile but faster."""
    # NumPy sorts short rows in single precision many times faster than torch.
    ordered = torch.from_numpy(np.sort(vectors.numpy(), axis=-1))
    places = torch.linspace(0, vectors.shape[-1] - 1, LEVELS)
    below = places.long()
    above = (below + 1).clamp(max=vectors.shape[-1] - 1)
    low, high = ordered[..., below], ordered[..., above]
    return torch.lerp(low, high, (places - below).to(vectors.dtype)).movedim(-1, 0)
