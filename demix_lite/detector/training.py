"""Training of the first pass, with both interventions of the paper.

A step draws rows of several injections, seen through two architectures and against validation sets
from which a part was dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from demix_lite.detector.environments import Environment
from demix_lite.detector.interventions import alignment_loss, contrastive_loss, validation_view
from demix_lite.detector.runs import BLOCK, CHANNELS, normal_ranks
from demix_lite.detector.set_transformer import Pooling, SetTransformer
from demix_lite.errors import refuse_unknown
from demix_lite.models.training import minimise

VIEWS = 4
"""Random validation sets per environment."""

DECIMALS = 4

FOCUS = 1.0
"""Exponent of the focal loss (Lin et al., 2017)."""

ASYMMETRIC_FOCUS = 4.0
ASYMMETRIC_MARGIN = 0.05


class FirstPass(nn.Module):
    """Set transformer, run-relative summaries and one output per error type.

    Channels not in ``channels`` are set to zero; ``relative`` says whether summaries are replaced
    by normal scores within their run. The other parameters are as in
    :class:`~demix_lite.detector.set_transformer.SetTransformer`.
    """

    mask: Tensor

    def __init__(
        self,
        channels: Sequence[str] = CHANNELS,
        width: int = 64,
        pooling: Pooling = "attention",
        relative: bool = True,
        summarise: bool = True,
    ):
        super().__init__()
        self.relative = relative
        refuse_unknown("channel", channels, CHANNELS)
        mask = torch.tensor([float(name in channels) for name in CHANNELS])
        self.register_buffer("mask", mask[:, None], persistent=False)
        agreement = CHANNELS.index("label_agreement")
        self.encoder = SetTransformer(
            len(CHANNELS), agreement, width=width, pooling=pooling, summarise=summarise
        )
        self.trunk = nn.Sequential(
            *(nn.Linear(self.encoder.embedding, 2 * width), nn.GELU(), nn.Dropout(0.2)),
            *(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Dropout(0.2)),
        )
        self.heads = nn.Linear(2 * width, 3)
        self.projection = nn.Linear(2 * width, 32)

    def embed(self, vectors: Tensor) -> Tensor:
        """Embed vectors ``(B, C, M)``, each row independently."""
        return self.encoder(vectors * self.mask)

    def judge(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden features and logits for all embeddings of one run."""
        pooled, summary = embedding.tensor_split([self.encoder.pooled], dim=1)
        return self.decide(pooled, self.compare(summary))

    def pool(self, vectors: Tensor) -> Tensor:
        """Return the learned part of the embedding."""
        return self.encoder.pool(vectors * self.mask)

    def summarise(self, vectors: Tensor) -> Tensor:
        """Return the summaries of all rows of a run, as normal scores within it."""
        blocks = (block.float() * self.mask for block in vectors.split(BLOCK))
        return self.compare(torch.cat([self.encoder.summaries(block) for block in blocks]))

    def compare(self, summary: Tensor) -> Tensor:
        """Replace the summaries of a run by normal scores of their ranks within it."""
        if not self.relative or not summary.shape[1]:
            return summary
        # Rounded, so that rounding errors do not give equal values different ranks.
        return torch.from_numpy(normal_ranks(summary.numpy().round(DECIMALS))).float()

    def decide(self, pooled: Tensor, summary: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden features and logits, each row independently."""
        hidden = self.trunk(torch.cat([pooled, summary], dim=1))
        return hidden, self.heads(hidden)


def focal_loss(logits: Tensor, truth: Tensor, positive_weight: Tensor) -> Tensor:
    """Binary focal loss, summed over error types, averaged over rows."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    surprise = (torch.sigmoid(logits) - truth).abs() ** FOCUS
    weight = torch.where(truth > 0, positive_weight, 1.0)
    return (weight * surprise * entropy).sum(1).mean()


def asymmetric_loss(logits: Tensor, truth: Tensor, positive_weight: Tensor) -> Tensor:
    """Return the asymmetric loss of Ridnik et al. (ICCV 2021): easy negatives hardly count.

    ``positive_weight`` is ignored; it is there to share the signature of the focal loss.
    """
    probability = torch.sigmoid(logits)
    negative = (probability - ASYMMETRIC_MARGIN).clamp(min=0)
    hit = truth * F.logsigmoid(logits)
    miss = (1 - truth) * negative**ASYMMETRIC_FOCUS * torch.log1p(-negative.clamp(max=1 - 1e-6))
    return -(hit + miss).sum(1).mean()


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the first pass; the shipped weights use the defaults, except for ``steps``.

    Attributes
    ----------
    rows : int
        Rows used per injection.
    batch, mixed : int
        Rows per step, and the number of injections they come from.
    elements : int
        Validation samples that attention reads per step.
    validation_intervention, model_intervention : bool
        Whether validation samples are dropped at random and the views contrasted; whether several
        architectures are used and their centroids aligned.
    contrastive, alignment : float
        Weights of the two intervention losses.
    steps : int
        Optimizer steps.
    learning_rate, weight_decay : float
        Settings of AdamW; the learning rate is the maximum of its schedule.
    loss : {"focal", "asymmetric"}
        The loss of the error types.
    seed : int
        Seeds the initial weights and the random draws of every step.
    """

    rows: int = 768
    batch: int = 256
    mixed: int = 16
    elements: int = 48
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
    network: FirstPass, environments: Sequence[Environment], settings: TrainingSettings
) -> list[float]:
    """Train in place; return the loss of every step."""
    draw = torch.Generator().manual_seed(settings.seed)
    sets = _row_sets(network, environments, settings, draw)
    seen = [len(view.samples) for rows in sets for views in rows.views for view in views]
    settings = replace(settings, elements=min([settings.elements, *seen]))
    weight = _positive_weight(sets)
    losses = (
        _step_loss(network, *_draw_batch(sets, settings, draw), weight, settings)
        for _ in range(settings.steps)
    )
    return minimise(
        network,
        tqdm(losses, total=settings.steps, desc="train detector", disable=None),
        settings.steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        clip=1.0,
    )


@dataclass(frozen=True)
class View:
    """A subset of the validation samples: their indices, and the summaries of rows over them."""

    samples: Tensor
    summary: Tensor


@dataclass(frozen=True)
class RowSet:
    """Rows of one injection: vectors ``(n, C, M)``, views per architecture, errors ``(n, 3)``."""

    vectors: list[Tensor]
    views: list[list[View]]
    errors: Tensor


Look = tuple[Tensor, Tensor]
"""What the network reads for some rows: elements for attention, and run-relative summaries."""


def _row_sets(
    network: FirstPass,
    environments: Sequence[Environment],
    settings: TrainingSettings,
    draw: torch.Generator,
) -> list[RowSet]:
    """Collect the vectors of some rows of every injection, under all its architectures."""
    by_injection: dict[str, list[Environment]] = {}
    for environment in environments:
        by_injection.setdefault(environment.injection, []).append(environment)
    sets: list[RowSet] = []
    for group in tqdm(by_injection.values(), desc="vectors", disable=None):
        through = group if settings.model_intervention else group[:1]
        vectors, errors = zip(*(e.sample(settings.rows) for e in through), strict=True)
        views = [_views(network, v, settings, draw) for v in vectors]
        sets.append(RowSet(list(vectors), views, errors[0]))
    return sets


def _views(
    network: FirstPass, vectors: Tensor, settings: TrainingSettings, draw: torch.Generator
) -> list[View]:
    """Draw validation sets and summarise the rows over each."""
    kept = [torch.arange(vectors.shape[-1])]
    if settings.validation_intervention:
        kept = [validation_view(len(kept[0]), draw) for _ in range(VIEWS)]
    return [View(k, network.summarise(vectors[..., k]).half()) for k in kept]


def _positive_weight(sets: Sequence[RowSet]) -> Tensor:
    share = torch.cat([s.errors for s in sets]).mean(0).clamp(1e-3, 1 - 1e-3)
    return (1 - share) / share / 2


def _draw_batch(
    sets: list[RowSet], settings: TrainingSettings, draw: torch.Generator
) -> tuple[list[Look], Tensor]:
    """Draw rows of several injections; return up to three looks at them.

    The looks are: through one architecture; through another (model intervention); and through the
    first one again, over other validation samples (validation intervention).
    """
    rows = settings.batch // settings.mixed
    looks: list[list[Look]] = []
    errors = []
    for number in torch.randint(len(sets), (settings.mixed,), generator=draw).tolist():
        chosen = sets[number]
        picked = torch.randint(len(chosen.errors), (rows,), generator=draw)
        one, other = _two(len(chosen.vectors), draw)
        first, second = _two(len(chosen.views[one]), draw)
        pairs = [(one, first)]
        if settings.model_intervention:
            pairs.append((other, first))
        if settings.validation_intervention:
            pairs.append((one, second))
        looks.append([_look(chosen, picked, pair, settings, draw) for pair in pairs])
        errors.append(chosen.errors[picked])
    joined = [
        (torch.cat([elements for elements, _ in same]), torch.cat([summary for _, summary in same]))
        for same in zip(*looks, strict=True)
    ]
    return joined, torch.cat(errors)


def _two(count: int, draw: torch.Generator) -> tuple[int, int]:
    """Draw two different numbers below ``count``, or 0 twice if ``count`` is 1."""
    drawn = torch.randperm(count, generator=draw)[:2].tolist()
    return drawn[0], drawn[-1]


def _look(
    chosen: RowSet,
    rows: Tensor,
    pair: tuple[int, int],
    settings: TrainingSettings,
    draw: torch.Generator,
) -> Look:
    architecture, number = pair
    view = chosen.views[architecture][number]
    seen = view.samples[torch.randperm(len(view.samples), generator=draw)[: settings.elements]]
    elements = chosen.vectors[architecture][rows[:, None], :, seen[None]].transpose(1, 2)
    return elements.float(), view.summary[rows].float()


def _step_loss(
    network: FirstPass,
    looks: list[Look],
    errors: Tensor,
    positive_weight: Tensor,
    settings: TrainingSettings,
) -> Tensor:
    """Return the mean loss over the looks plus the weighted losses of the interventions."""
    judge_loss = focal_loss if settings.loss == "focal" else asymmetric_loss
    hidden, loss = [], torch.zeros(())
    for elements, summary in looks:
        features, logits = network.decide(network.pool(elements), summary)
        loss = loss + judge_loss(logits, errors, positive_weight) / len(looks)
        hidden.append(features)
    if settings.validation_intervention and settings.contrastive:
        projected = (network.projection(features) for features in (hidden[0], hidden[-1]))
        loss = loss + settings.contrastive * contrastive_loss(*projected)
    if settings.model_intervention and settings.alignment:
        loss = loss + settings.alignment * alignment_loss(hidden[0], hidden[1], errors)
    return loss
