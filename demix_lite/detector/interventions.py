"""The two interventions of the paper, as losses on embeddings.

They make the embedding depend on the error and not on the set-up, that is, not on which validation
samples were drawn or which architecture was trained.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.1


def validation_view(m: int, generator: torch.Generator) -> Tensor:
    """Return the indices of the validation samples that are kept; 0 to 50 % of ``m`` are dropped.

    Examples
    --------
    >>> view = validation_view(100, torch.Generator().manual_seed(0))
    >>> 50 <= len(view) <= 100
    True
    """
    kept = m - int(torch.randint(0, m // 2 + 1, (1,), generator=generator))
    return torch.randperm(m, generator=generator)[:kept]


def contrastive_loss(one: Tensor, other: Tensor) -> Tensor:
    """InfoNCE between two views of the same rows, ``(B, d)``: a row's positive is itself.

    Examples
    --------
    >>> views = torch.eye(4)
    >>> bool(contrastive_loss(views, views) < contrastive_loss(views, views.roll(1, 0)))
    True
    """
    logits = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / TEMPERATURE
    same = torch.arange(len(one))
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


def alignment_loss(one: Tensor, other: Tensor, errors: Tensor) -> Tensor:
    """Squared distance between the centroids of two architectures, per error type and class.

    ``one`` and ``other`` embed the same rows, ``(B, d)``, whose true errors are ``(B, 3)``.

    Examples
    --------
    >>> x = torch.randn(8, 5)
    >>> float(alignment_loss(x, x, torch.ones(8, 3)))
    0.0
    """
    gap = one - other
    distances = []
    for group in (errors.T, 1 - errors.T):
        share = group / group.sum(1, keepdim=True).clamp(min=1.0)
        distances.append((share @ gap).square().mean())
    return torch.stack(distances).mean()
