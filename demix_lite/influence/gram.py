"""Exact inner products of per-sample gradients, never writing out more than pays.

For factors with S positions, ⟨∇_i, ∇_j⟩ = Σ_tt' (a_it · a_jt')(g_it · g_jt'). Each layer takes the
cheaper of this *factorised* route and of the *materialised* one, which writes out the layer's
gradients and multiplies them; the choice is made by counting multiplications.
"""

import torch
from torch import Tensor

from demix_lite.influence.factors import DenseFactor, EmbeddingFactor, Factor, LinearFactor

PAIR_WORKSPACE = 2**25
"""Most entries of a positions × positions product held at once (128 MB in float32)."""


def prepare(factor: Factor, partners: int) -> Factor:
    """Return the form of ``factor`` that is cheaper to multiply with ``partners`` samples.

    Parameters
    ----------
    factor : Factor
        Factor of ``n`` samples.
    partners : int
        Number of samples on the other side.

    Examples
    --------
    A layer seen at one position stays factorised; one seen at many positions is written out.

    >>> one = LinearFactor(torch.ones(4, 1, 50), torch.ones(4, 1, 50))
    >>> many = LinearFactor(torch.ones(4, 90, 5), torch.ones(4, 90, 5))
    >>> type(prepare(one, 100)).__name__, type(prepare(many, 100)).__name__
    ('LinearFactor', 'DenseFactor')
    """
    if isinstance(factor, DenseFactor):
        return factor
    n, positions, width = factor.g.shape
    rows = factor.a.shape[2] if isinstance(factor, LinearFactor) else 1
    building = (n + partners) * positions * rows * width
    materialised = building + n * partners * factor.size
    return factor if n * partners * factor.pair_flops <= materialised else DenseFactor(factor.dense())


def inner_products(one: Factor, other: Factor) -> Tensor:
    """Return all inner products ⟨∇_i, ∇_j⟩ of one module's gradients, shape ``(n, m)``.

    ``other`` decides the route: if it is written out, ``one`` is written out too.
    """
    if isinstance(one, DenseFactor) or isinstance(other, DenseFactor):
        return one.dense() @ other.dense().T
    if isinstance(one, LinearFactor) and one.g.shape[1] == other.g.shape[1] == 1:
        return (one.a[:, 0] @ other.a[:, 0].T) * (one.g[:, 0] @ other.g[:, 0].T)
    return _over_positions(one, other)


def _over_positions(one: Factor, other: Factor) -> Tensor:
    n, m = len(one.g), len(other.g)
    per_sample = one.g.shape[1] * m * other.g.shape[1]
    step = max(1, PAIR_WORKSPACE // per_sample)
    result = one.g.new_empty(n, m)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        g = torch.einsum("nsk,mtk->nsmt", one.g[rows], other.g)
        result[rows] = (g * _input_products(one, other, rows)).sum((1, 3))
    return result


def _input_products(one: Factor, other: Factor, rows: slice) -> Tensor:
    if isinstance(one, EmbeddingFactor):
        return one.ids[rows, :, None, None] == other.ids
    return torch.einsum("nsd,mtd->nsmt", one.a[rows], other.a)


def squared_norms(factor: Factor) -> Tensor:
    """Return ‖∇_i‖² of one module's gradients, shape ``(n,)``."""
    if isinstance(factor, DenseFactor):
        return factor.gradient.square().sum(1)
    n, positions, width = factor.g.shape
    rows = factor.a.shape[2] if isinstance(factor, LinearFactor) else 1
    if positions * (rows + width) > rows * width and isinstance(factor, LinearFactor):
        return factor.dense().square().sum(1)
    g = factor.g @ factor.g.transpose(1, 2)
    if isinstance(factor, EmbeddingFactor):
        same = factor.ids[:, :, None] == factor.ids[:, None, :]
    else:
        same = factor.a @ factor.a.transpose(1, 2)
    return (g * same).sum((1, 2))
