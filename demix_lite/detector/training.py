"""Environments and the training of the first pass.

An environment is a run whose true errors are known because we put them there. Training draws rows
of one injection at a time, seen through two architectures, and applies both interventions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from demix_lite.detector.interventions import alignment_loss, contrastive_loss, validation_view
from demix_lite.detector.runs import Run, open_run
from demix_lite.detector.set_transformer import SetTransformer
from demix_lite.injection import inject
from demix_lite.models.training import fit
from demix_lite.seeds import derive_seed
from demix_lite.tasks.base import Splits, Task, seeded_model

FOCUS = 1.0
"""Exponent of the focal loss (Lin et al., 2017)."""


@dataclass(frozen=True)
class Environment:
    """A run with known errors.

    Attributes
    ----------
    injection : str
        Name of the injection; environments of the same injection share their rows.
    run : Run
        The run.
    errors : array
        True errors, boolean, shape ``(N, 3)``.
    """

    injection: str
    run: Run
    errors: np.ndarray


def make_environment(
    task: Task,
    splits: Splits,
    *,
    architecture: str,
    clean_ratio: float,
    seed: object,
    co_occurring: bool = False,
    validation: int = 256,
) -> Environment:
    """Inject errors, train a model on the dirty rows and open the run.

    Examples
    --------
    >>> from demix_lite.tasks import get_task
    >>> task = get_task("adult")
    >>> environment = make_environment(
    ...     task, task.load(rows=1000), architecture="mlp2", clean_ratio=0.5, seed="doc"
    ... )
    >>> environment.errors.shape[1]
    3
    """
    injection = inject(task, splits, clean_ratio, seed=seed, co_occurring=co_occurring)
    train, valid = injection.train.frame, injection.valid.frame
    encoder = task.encoder(train)
    fit_seed = derive_seed(task.name, "fit", architecture, seed)
    model = seeded_model(task, architecture, encoder, fit_seed)
    samples = encoder.transform(train, task.target)
    trained = fit(model, task.loss, *samples, seed=fit_seed)
    run = open_run(task, encoder, trained, train, valid, validation=validation, seed=seed)
    return Environment(f"{task.name} {seed}", run, injection.train.errors.to_numpy())


CLEAN_RATIOS = (0.5, 0.4, 0.5, 0.6, 0.5, 0.7, 0.5, 0.8)
"""Clean ratios of successive training injections: every second one is the standard 0.5."""


def training_environments(
    task: Task,
    splits: Splits,
    injections: int,
    *,
    architectures: Sequence[str] = ("mlp1", "mlp2"),
    progress: bool = False,
) -> list[Environment]:
    """Make environments for a detector; every fourth injection lets errors co-occur.

    The seeds are named ``train 0``, ``train 1``, ...: no benchmark ever uses these names.
    """
    return [
        make_environment(
            task,
            splits,
            architecture=architecture,
            clean_ratio=CLEAN_RATIOS[number % len(CLEAN_RATIOS)],
            seed=f"train {number}",
            co_occurring=number % 4 == 3,
        )
        for number in tqdm(range(injections), desc="environments", disable=not progress)
        for architecture in architectures
    ]


class FirstPass(nn.Module):
    """Set transformer, run-relative embedding and one output per error type."""

    def __init__(self, channels: int, agreement: int, width: int = 64):
        super().__init__()
        self.encoder = SetTransformer(channels, agreement, width=width)
        self.trunk = nn.Sequential(
            nn.Linear(self.encoder.embedding, 2 * width), nn.GELU(), nn.Dropout(0.2)
        )
        self.heads = nn.Linear(2 * width, 3)
        self.projection = nn.Linear(2 * width, 32)

    def judge(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden features and logits of embeddings that are relative to their run."""
        hidden = self.trunk(embedding)
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


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the first pass; the defaults are those of the shipped weights."""

    rows: int = 1024
    batch: int = 256
    elements: int = 160
    epochs: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
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
    """Train in place; return the mean loss of every epoch."""
    draw = torch.Generator().manual_seed(settings.seed)
    sets = _sample_rows(environments, settings, draw, progress)
    positive_weight = _positive_weight(environments)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = settings.epochs * len(sets) * max(1, settings.rows // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps)
    losses, done = [], 0
    with tqdm(total=steps, desc="train detector", disable=not progress) as bar:
        while done < steps:
            views, errors = _draw_batch(sets, settings, draw)
            loss = _step_loss(network, views, errors, positive_weight, settings, draw)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            done += 1
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}")
    network.eval()
    per_epoch = max(1, steps // settings.epochs)
    return [float(np.mean(losses[i : i + per_epoch])) for i in range(0, steps, per_epoch)]


RowSet = tuple[list[Tensor], Tensor]
"""Vectors of the same rows, one tensor per architecture, and their true errors."""


def _sample_rows(
    environments: Sequence[Environment],
    settings: TrainingSettings,
    draw: torch.Generator,
    progress: bool,
) -> list[RowSet]:
    """Take the vectors of some rows of every injection, half precision, all architectures."""
    by_injection: dict[str, list[Environment]] = {}
    for environment in environments:
        by_injection.setdefault(environment.injection, []).append(environment)
    sets: list[RowSet] = []
    for group in tqdm(by_injection.values(), desc="vectors", disable=not progress):
        rows = torch.randperm(len(group[0].run), generator=draw)[: settings.rows]
        vectors = [environment.run.vectors(rows).half() for environment in group]
        sets.append((vectors, torch.from_numpy(group[0].errors[rows.numpy()]).float()))
    return sets


def _positive_weight(environments: Sequence[Environment]) -> Tensor:
    share = np.concatenate([environment.errors for environment in environments]).mean(0)
    share = share.clip(1e-3, 1 - 1e-3)
    return torch.from_numpy((1 - share) / share / 2).float()


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
    network.train()
    loss = torch.zeros(())
    hidden = []
    for vectors in through:
        pair = []
        for _ in range(2 if settings.contrastive else 1):
            elements = torch.randperm(vectors.shape[-1], generator=draw)[: settings.elements]
            view = validation_view(vectors[..., elements].float(), draw)
            features, logits = network.judge(relative(network.encoder(view)))
            loss = loss + focal_loss(logits, errors, positive_weight)
            pair.append(features)
        if settings.contrastive:
            projected = (network.projection(features) for features in pair)
            loss = loss + settings.contrastive * contrastive_loss(*projected)
        hidden.append(pair[0])
    if settings.alignment and len(hidden) == 2:
        loss = loss + settings.alignment * alignment_loss(hidden[0], hidden[1], errors)
    return loss / len(through)
