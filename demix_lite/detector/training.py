"""Training of the first pass, with both interventions of the paper.

A step draws rows of one injection, seen through two architectures and through validation sets of
which a part was dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from demix_lite.detector.environments import Environment
from demix_lite.detector.interventions import alignment_loss, contrastive_loss, validation_view
from demix_lite.detector.runs import CHANNELS
from demix_lite.detector.set_transformer import Pooling, SetTransformer
from demix_lite.errors import unknown_name

FOCUS = 1.0
"""Exponent of the focal loss (Lin et al., 2017)."""

ASYMMETRIC_FOCUS = 4.0
ASYMMETRIC_MARGIN = 0.05


class FirstPass(nn.Module):
    """Set transformer, run-relative embedding and one output per error type.

    Parameters
    ----------
    channels : sequence of str
        The channels it may look at; the others are set to zero.
    width : int
        Width of the set transformer.
    pooling : str
        How the elements are pooled, one of ``set_transformer.Pooling``.
    relative : bool
        Whether embeddings are standardised within their run.
    """

    mask: Tensor

    def __init__(
        self,
        channels: Sequence[str] = CHANNELS,
        width: int = 64,
        pooling: Pooling = "attention",
        relative: bool = True,
    ):
        super().__init__()
        self.relative = relative
        for name in channels:
            if name not in CHANNELS:
                raise unknown_name("channel", name, CHANNELS)
        mask = torch.tensor([float(name in channels) for name in CHANNELS])
        self.register_buffer("mask", mask[:, None], persistent=False)
        agreement = CHANNELS.index("label_agreement")
        self.encoder = SetTransformer(len(CHANNELS), agreement, width=width, pooling=pooling)
        self.trunk = nn.Sequential(
            nn.Linear(self.encoder.embedding, 2 * width), nn.GELU(), nn.Dropout(0.2)
        )
        self.heads = nn.Linear(2 * width, 3)
        self.projection = nn.Linear(2 * width, 32)

    def embed(self, vectors: Tensor) -> Tensor:
        """Embed vectors ``(B, C, M)``; each row by itself."""
        return self.encoder(vectors * self.mask)

    def judge(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden features and logits of all the embeddings of one run."""
        hidden = self.trunk(relative(embedding) if self.relative else embedding)
        return hidden, self.heads(hidden)


def relative(embedding: Tensor) -> Tensor:
    """Standardise the embeddings of one run: what counts is how a row differs from its run.

    Examples
    --------
    >>> x = torch.randn(100, 3) * 5 + 2
    >>> torch.allclose(relative(x).mean(0), torch.zeros(3), atol=1e-5)
    True
    """
    centred = embedding - embedding.mean(0)
    return (centred / (embedding.std(0, correction=0) + 1e-3)).clamp(-5.0, 5.0)


def focal_loss(logits: Tensor, truth: Tensor, positive_weight: Tensor) -> Tensor:
    """Binary focal loss, summed over error types, averaged over rows."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    surprise = (torch.sigmoid(logits) - truth).abs() ** FOCUS
    weight = torch.where(truth > 0, positive_weight, torch.ones_like(positive_weight))
    return (weight * surprise * entropy).sum(1).mean()


def asymmetric_loss(logits: Tensor, truth: Tensor, positive_weight: Tensor) -> Tensor:
    """Return the asymmetric loss of Ridnik et al. (ICCV 2021): easy negatives hardly count."""
    probability = torch.sigmoid(logits)
    negative = (probability - ASYMMETRIC_MARGIN).clamp(min=0)
    hit = truth * F.logsigmoid(logits)
    miss = (1 - truth) * negative**ASYMMETRIC_FOCUS * torch.log1p(-negative.clamp(max=1 - 1e-6))
    return -(hit + miss).sum(1).mean()


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the first pass; the defaults are those of the shipped weights.

    Attributes
    ----------
    rows, batch : int
        Rows kept of every injection, and rows of one step.
    elements : int
        Validation samples of one step, before some are dropped.
    steps : int
        Optimiser steps.
    loss : {"focal", "asymmetric"}
        Classification loss.
    validation_intervention, model_intervention : bool
        Whether validation samples are dropped at random and the views compared; whether several
        architectures are shown and their centroids aligned.
    contrastive, alignment : float
        Weights of the two intervention losses.
    """

    rows: int = 768
    batch: int = 256
    elements: int = 80
    steps: int = 1000
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    loss: Literal["focal", "asymmetric"] = "focal"
    validation_intervention: bool = True
    model_intervention: bool = True
    contrastive: float = 0.1
    alignment: float = 0.1
    seed: int = 0


def train_first_pass(
    network: FirstPass,
    environments: Sequence[Environment],
    settings: TrainingSettings,
    *,
    progress: bool = False,
) -> list[float]:
    """Train in place; return the loss of every step."""
    draw = torch.Generator().manual_seed(settings.seed)
    sets = _row_sets(environments, settings, progress)
    positive_weight = _positive_weight(sets)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, settings.steps
    )
    losses: list[float] = []
    network.train()
    with tqdm(total=settings.steps, desc="train detector", disable=not progress) as bar:
        for _ in range(settings.steps):
            views, errors = _draw_batch(sets, settings, draw)
            loss = _step_loss(network, views, errors, positive_weight, settings, draw)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}")
    network.eval()
    return losses


RowSet = tuple[list[Tensor], Tensor]
"""Vectors of the same rows, one tensor per architecture, and their true errors."""


def _row_sets(
    environments: Sequence[Environment], settings: TrainingSettings, progress: bool
) -> list[RowSet]:
    """Take the vectors of some rows of every injection through all its architectures."""
    by_injection: dict[str, list[Environment]] = {}
    for environment in environments:
        by_injection.setdefault(environment.injection, []).append(environment)
    sets: list[RowSet] = []
    for group in tqdm(by_injection.values(), desc="vectors", disable=not progress):
        through = group if settings.model_intervention else group[:1]
        taken = [environment.sample(settings.rows) for environment in through]
        sets.append(([vectors for vectors, _ in taken], taken[0][1]))
    return sets


def _positive_weight(sets: Sequence[RowSet]) -> Tensor:
    share = torch.cat([errors for _, errors in sets]).mean(0).clamp(1e-3, 1 - 1e-3)
    return (1 - share) / share / 2


def _draw_batch(sets: list[RowSet], settings: TrainingSettings, draw: torch.Generator) -> RowSet:
    """Draw rows of one injection, through at most two of its architectures."""
    vectors, errors = sets[int(torch.randint(len(sets), (1,), generator=draw))]
    rows = torch.randperm(len(errors), generator=draw)[: settings.batch]
    chosen = torch.randperm(len(vectors), generator=draw)[:2]
    return [vectors[int(i)][rows] for i in chosen], errors[rows]


def _step_loss(
    network: FirstPass,
    through: list[Tensor],
    errors: Tensor,
    positive_weight: Tensor,
    settings: TrainingSettings,
    draw: torch.Generator,
) -> Tensor:
    """Sum the losses of one view per architecture and of a second view of the first one."""
    judge_loss = focal_loss if settings.loss == "focal" else asymmetric_loss
    compare = settings.validation_intervention and settings.contrastive > 0
    views = [*through, through[0]] if compare else through
    hidden, loss = [], torch.zeros(())
    for vectors in views:
        elements = torch.randperm(vectors.shape[-1], generator=draw)[: settings.elements]
        view = vectors[..., elements].float()
        if settings.validation_intervention:
            view = validation_view(view, draw)
        features, logits = network.judge(network.embed(view))
        loss = loss + judge_loss(logits, errors, positive_weight) / len(views)
        hidden.append(features)
    if compare:
        projected = (network.projection(features) for features in (hidden[0], hidden[-1]))
        loss = loss + settings.contrastive * contrastive_loss(*projected)
    if settings.alignment and len(through) == 2:
        loss = loss + settings.alignment * alignment_loss(hidden[0], hidden[1], errors)
    return loss
