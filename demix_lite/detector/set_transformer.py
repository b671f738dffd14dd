"""A set transformer: reads the elements of an influence vector in any order and any number."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionBlock(nn.Module):
    """Queries look at a set: multi-head attention and a small network, both with a residual.

    Source: the block MAB of Lee et al., Set Transformer (ICML 2019).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
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
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


Pooling = Literal["attention", "isab", "mean", "moments"]
"""How a set is pooled: by learned queries, the same after two induced attention blocks (as in the
paper), by the mean of its elements (deep sets), or by the plain moments of its channels alone."""


class InducedBlock(nn.Module):
    """Elements look at each other through a few inducing points (ISAB of Lee et al., 2019)."""

    def __init__(self, width: int, heads: int, points: int = 32):
        super().__init__()
        self.points = nn.Parameter(torch.randn(1, points, width) / width**0.5)
        self.gather, self.spread = AttentionBlock(width, heads), AttentionBlock(width, heads)

    def forward(self, elements: Tensor) -> Tensor:
        """Map elements ``(B, M, width)`` to the same shape."""
        seen = self.gather(self.points.expand(len(elements), -1, -1), elements)
        return self.spread(elements, seen)


class SetTransformer(nn.Module):
    """Embed influence vectors ``(B, C, M)`` as ``(B, embedding)``, whatever the order of the M.

    Learned queries pool the elements by attention and then look at each other. The embedding joins
    what they found with the plain moments of every channel: its mean, its standard deviation and
    its mean over the validation samples of the same label.

    Parameters
    ----------
    channels : int
        Number of channels C.
    agreement : int
        Index of the label-agreement channel.
    width, heads, pools : int
        Width, attention heads and pooling queries.
    pooling : str
        ``"attention"``; ``"isab"``, ``"mean"`` and ``"moments"`` are there to compare with.

    Examples
    --------
    >>> net = SetTransformer(3, agreement=2, width=8, heads=2).eval()
    >>> x = torch.randn(5, 3, 20)
    >>> torch.allclose(net(x), net(x.flip(-1)), atol=1e-5)
    True
    """

    def __init__(
        self,
        channels: int,
        agreement: int,
        *,
        width: int = 64,
        heads: int = 4,
        pools: int = 8,
        pooling: Pooling = "attention",
        dropout: float = 0.1,
    ):
        super().__init__()
        self.agreement = agreement
        self.pooling = pooling
        self.element = nn.Sequential(
            nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        if pooling == "isab":
            self.element.extend(InducedBlock(width, heads) for _ in range(2))
        if pooling in ("attention", "isab"):
            self.pools = nn.Parameter(torch.randn(1, pools, width) / width**0.5)
            self.pool = AttentionBlock(width, heads)
            self.exchange = AttentionBlock(width, heads)
        self.dropout = nn.Dropout(dropout)
        pooled = {"attention": pools * width, "isab": pools * width, "mean": width, "moments": 0}
        self.embedding = pooled[pooling] + 3 * channels

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the embedding, shape ``(B, embedding)``."""
        moments = _moments(vectors, self.agreement)
        if self.pooling == "moments":
            return moments
        elements = self.element(vectors.transpose(1, 2))
        if self.pooling == "mean":
            pooled = elements.mean(1)
        else:
            pooled = self.pool(self.pools.expand(len(vectors), -1, -1), elements)
            pooled = self.exchange(pooled, pooled).flatten(1)
        return torch.cat([self.dropout(pooled), moments], dim=1)


def _moments(vectors: Tensor, agreement: int) -> Tensor:
    """Return mean, deviation and mean over samples of the same label, shape ``(B, 3 C)``."""
    same = (vectors[:, agreement] > 0).to(vectors.dtype)
    share = same.sum(-1, keepdim=True).clamp(min=1.0)
    among_same = torch.einsum("bcm,bm->bc", vectors, same) / share
    return torch.cat([vectors.mean(-1), vectors.std(-1, correction=0), among_same], dim=1)
