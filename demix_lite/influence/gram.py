"""Exact inner products of per-sample gradients, materialised only where that is cheaper.

For factors with S positions, ⟨∇_i, ∇_j⟩ = Σ_tt' (a_it · a_jt')(g_it · g_jt'). Each layer takes the
cheaper of two routes: this *factorised* one, or the *materialised* one, which writes out the
layer's gradients and multiplies them. The choice is made by counting multiplications.

The positions of an embedding need not be compared in pairs: the gradients of one side are summed
into a table by row index, and the other side looks its rows up in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from demix_lite.influence.factors import DenseFactor, EmbeddingFactor, Factor, LinearFactor

PAIR_WORKSPACE = 2**25
"""Maximum entries of a positions × positions product or of a table (128 MB in float32)."""


def prepare(factor: Factor, partners: int, samples: int | None = None) -> Factor:
    """Return the form of ``factor`` that is cheaper to multiply with ``partners`` samples.

    Parameters
    ----------
    factor : Factor
        Factor of ``n`` samples.
    partners : int
        Number of samples on the other side.
    samples : int, optional
        Number of samples that the factor is a part of; by default ``n``.

    Examples
    --------
    A layer seen at one position stays factorised; one seen at many positions is written out.

    >>> one = LinearFactor(torch.ones(4, 1, 50), torch.ones(4, 1, 50))
    >>> many = LinearFactor(torch.ones(4, 90, 5), torch.ones(4, 90, 5))
    >>> type(prepare(one, 100)).__name__, type(prepare(many, 100)).__name__
    ('LinearFactor', 'DenseFactor')
    """
    if isinstance(factor, DenseFactor):
        return DenseFactor(factor.gradient)
    n, positions, width = factor.g.shape
    n = samples or n
    rows = factor.a.shape[2] if isinstance(factor, LinearFactor) else 1
    factorised = n * partners * factor.pair_flops
    materialised = (n + partners) * positions * rows * width + n * partners * factor.size
    return factor if factorised <= materialised else DenseFactor(factor.dense())


def joined(factors: Sequence[Factor], order: Tensor) -> Factor:
    """Join the factors of several blocks of samples into one, in the given order.

    Blocks may have different numbers of positions; they are padded, and padding has no gradient.
    If one block is materialised, the whole is.

    Examples
    --------
    >>> blocks = [LinearFactor(torch.ones(2, s, 3), torch.ones(2, s, 1)) for s in (1, 2)]
    >>> joined(blocks, torch.arange(4)).dense()[:, 0]
    tensor([1., 1., 2., 2.])
    """
    if any(isinstance(factor, DenseFactor) for factor in factors):
        return DenseFactor(torch.cat([factor.dense() for factor in factors])[order])
    first: Any = factors[0]
    sides = {
        name: pad_sequence([row for f in factors for row in getattr(f, name)], batch_first=True)
        for name in ("a" if isinstance(first, LinearFactor) else "ids", "g")
    }
    return replace(first, **{name: side[order] for name, side in sides.items()})


def inner_products(one: Factor, other: Factor) -> Tensor:
    """Return all inner products ⟨∇_i, ∇_j⟩ of one module's gradients, shape ``(n, m)``.

    If either side is materialised, the other is materialised too.
    """
    if isinstance(one, LinearFactor) and isinstance(other, LinearFactor):
        if one.g.shape[1] == other.g.shape[1] == 1:
            return (one.a[:, 0] @ other.a[:, 0].T).mul_(one.g[:, 0] @ other.g[:, 0].T)
        return _over_positions(
            one.g, other.g, lambda rows: torch.einsum("nsd,mtd->nsmt", one.a[rows], other.a)
        )
    if isinstance(one, EmbeddingFactor) and isinstance(other, EmbeddingFactor):
        if _table_pays(one, other):
            return _through_tables(one, other)
        return _over_positions(
            one.g, other.g, lambda rows: one.ids[rows, :, None, None] == other.ids
        )
    return one.dense() @ other.dense().T


def _over_positions(one: Tensor, other: Tensor, inputs: Callable[[slice], Tensor]) -> Tensor:
    """Sum, over all pairs of positions, the products of output gradients times those of inputs."""
    n, positions, _ = one.shape
    step = max(1, PAIR_WORKSPACE // (positions * len(other) * other.shape[1]))
    result = one.new_empty(n, len(other))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        g = torch.einsum("nsk,mtk->nsmt", one[rows], other)
        result[rows] = (g * inputs(rows)).sum((1, 3))
    return result


def _table_pays(one: EmbeddingFactor, other: EmbeddingFactor) -> bool:
    """Return whether a table of rows is cheaper than comparing all pairs of positions."""
    (n, positions), (m, others) = one.ids.shape, other.ids.shape
    return n * positions * others > n * positions + min(other.rows, m * others)


def _through_tables(one: EmbeddingFactor, other: EmbeddingFactor) -> Tensor:
    """Look up the rows of one side in tables of the other, each of at most PAIR_WORKSPACE."""
    _, positions, width = other.g.shape
    # A table has a row for each index that occurs: at most all of them, or one per position.
    if_all_occur = PAIR_WORKSPACE // (other.rows * width)
    samples = max(1, if_all_occur, isqrt(PAIR_WORKSPACE // (positions * width)))
    if samples >= len(other.g):
        return _looked_up(one, other.table)
    parts = zip(other.ids.split(samples), other.g.split(samples), strict=True)
    tables = (EmbeddingFactor(ids, g, other.rows).table for ids, g in parts)
    return torch.cat([_looked_up(one, table) for table in tables], dim=1)


def _looked_up(factor: EmbeddingFactor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Multiply the gradients of an embedding with those in a table."""
    (numbers, sums), width = table, factor.g.shape[2]
    absent = len(numbers)
    places = torch.searchsorted(numbers, factor.ids).clamp_(max=absent - 1)
    places = torch.where(numbers[places] == factor.ids, places, absent)
    rows = places[..., None] * width + torch.arange(width, device=places.device)
    # A weighted sum of table rows per sample, without copying the rows.
    weights = factor.g.flatten(1)
    return F.embedding_bag(
        rows.flatten(1), sums.flatten(0, 1), mode="sum", per_sample_weights=weights
    )


def squared_norms(factor: Factor) -> Tensor:
    """Return ‖∇_i‖² of one module's gradients, shape ``(n,)``."""
    if isinstance(factor, DenseFactor):
        return factor.gradient.square().sum(1)
    if isinstance(factor, EmbeddingFactor):
        a = factor.ids[:, :, None] == factor.ids[:, None, :]
    elif factor.pair_flops > factor.g.shape[1] * factor.size:
        return factor.dense().square().sum(1)
    else:
        a = factor.a @ factor.a.transpose(1, 2)
    return (a * (factor.g @ factor.g.transpose(1, 2))).sum((1, 2))
