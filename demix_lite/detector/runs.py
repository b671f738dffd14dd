"""A run as the detector sees it: one dirty training set seen through one trained model.

Everything here is computed from what a user has: the dirty rows, the dirty validation rows and the
model trained on them. Values are made relative to their own run, so that a detector transfers from
one run, architecture or data set to another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

from demix_lite.errors import check_count
from demix_lite.influence import InfluenceSource
from demix_lite.influence.vectors import Samples
from demix_lite.models.training import Trained, count, take
from demix_lite.seeds import derive_seed
from demix_lite.tasks.base import Encoder, Task

FINAL_CHANNELS = (
    "influence",
    "input_similarity",
    "label_agreement",
    "influence[0]",
    "influence[1]",
    "influence[-1]",
    "input_side[1]",
    "input_side[-1]",
    "output_side[0]",
    "train_loss",
    "train_gradient_norm",
    "valid_loss",
)
"""Channels of the trained model."""

EARLY_CHANNELS = ("influence", "train_loss", "valid_loss")
"""Channels of the model after the first epoch."""

CHANNELS = (*FINAL_CHANNELS, *(f"early {name}" for name in EARLY_CHANNELS))
"""All channels of the detector, in order."""

QUANTILES = 256
REFERENCE_ROWS = 512
BLOCK = 128
"""Rows worked on at once: large temporary tensors leave holes in memory that nothing fills."""


def normal_ranks(values: np.ndarray) -> np.ndarray:
    """Replace every value by the normal score of its rank within its column.

    Examples
    --------
    >>> normal_ranks(np.array([[3.0], [1.0], [2.0]])).round(2).ravel().tolist()
    [0.97, -0.97, 0.0]
    """
    return ndtri((rankdata(values, axis=0) - 0.5) / len(values))


class RelativeScale:
    """Replaces every value by the normal score of its rank within its run and channel.

    ``reference`` holds the vectors of a sample of the run's training rows, shape ``(n, C, M)``. The
    ``grid[None]`` of a scale, used as reference, gives the same scale again.

    Examples
    --------
    >>> values = torch.arange(1000.0).reshape(100, 1, 10) ** 3
    >>> scores = RelativeScale(values)(values)
    >>> bool(scores.mean().abs() < 0.01), bool((scores.std() - 1).abs() < 0.02)
    (True, True)
    >>> torch.equal(RelativeScale(RelativeScale(values).grid[None])(values), scores)
    True
    """

    def __init__(self, reference: Tensor):
        flat = reference.transpose(0, 1).flatten(1).float().numpy()
        values = torch.from_numpy(np.sort(flat))  # ten times as fast as PyTorch's
        steps = ((torch.arange(QUANTILES) + 0.5) / QUANTILES * values.shape[1]).long()
        self.grid = values[:, steps].contiguous()
        self.scores = torch.stack([_normal_scores(row) for row in self.grid])

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the scores of vectors ``(n, C, M)``, about standard normal per channel."""
        values = vectors.transpose(0, 1).float()
        place = torch.searchsorted(self.grid, values.flatten(1).contiguous())
        return self.scores.gather(1, place).reshape(values.shape).transpose(0, 1)


def _normal_scores(grid: Tensor) -> Tensor:
    """Score of every place in the grid; tied values share the middle of their ranks."""
    left = torch.searchsorted(grid, grid)
    right = torch.searchsorted(grid, grid, right=True)
    rank = torch.cat([(left + right) / 2, torch.tensor([float(QUANTILES)])])
    # Values beyond the last grid point get one more place, with the largest score.
    return torch.from_numpy(ndtri((rank.clamp(0.5, QUANTILES - 0.5) / QUANTILES).numpy())).float()


@dataclass(frozen=True, eq=False)
class Run:
    """One dirty training set seen through one trained model.

    This is all that a detector or a baseline may use:

    - the rows as the user has them, errors included (``train``, ``valid``);
    - the ``encoder`` and the ``trained`` model, both fitted on ``train``;
    - the encoded training ``samples``;
    - ``sources``, which compute the influence on the validation samples ``valid_index`` under the
      trained and the early model;
    - the ``scale`` that makes these values relative to this run.
    """

    task: Task
    architecture: str
    encoder: Encoder
    trained: Trained
    train: pd.DataFrame
    valid: pd.DataFrame
    samples: Samples
    sources: tuple[InfluenceSource, InfluenceSource]
    scale: RelativeScale
    valid_index: pd.Index

    @property
    def index(self) -> pd.Index:
        """Row labels of the training frame."""
        return self.train.index

    def __len__(self) -> int:
        """Return the number of training rows."""
        return len(self.samples[1])

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features and target for tree models, and which columns are categorical.

        The values have shape ``(N, d + 1)``, with the target as the last column.
        """
        values, categorical = self.encoder.columns(self.train)
        targets = self.samples[1]
        together = np.column_stack([values, targets.cpu().numpy()])
        return together, np.append(categorical, not targets.is_floating_point())

    def vectors(self, rows: Tensor) -> Tensor:
        """Return the relative vectors of some rows, shape ``(len(rows), C, M)``."""
        return self.scale(_raw_vectors(self.sources, take(self.samples, rows)))

    def raw_vectors(self, rows: int) -> Tensor:
        """Return the vectors of the first ``rows`` rows, not made relative."""
        return _raw_vectors(self.sources, take(self.samples, slice(rows)))

    def blocks(self, *, size: int = 512) -> Iterator[Tensor]:
        """Yield the relative vectors of all rows, block by block, in order."""
        return map(self.vectors, torch.arange(len(self)).split(size))

    def release(self) -> None:
        """Free what the sources keep in memory; the next vectors take a little longer."""
        for source in self.sources:
            source.release()


def _raw_vectors(sources: tuple[InfluenceSource, InfluenceSource], samples: Samples) -> Tensor:
    return torch.cat([source.block(*samples) for source in sources], dim=1)


def open_run(
    task: Task,
    architecture: str,
    encoder: Encoder,
    trained: Trained,
    train: pd.DataFrame,
    valid: pd.DataFrame,
    *,
    validation: int = 256,
    seed: object = 0,
    device: Any = None,
) -> Run:
    """Prepare the influence vectors of a dirty training set.

    Parameters
    ----------
    task, architecture
        The task and the name of its model's architecture.
    encoder, trained
        The encoder and the model, both fitted on ``train``.
    train, valid : DataFrame
        Training and validation rows as the user has them, errors included.
    validation : int
        Number M of validation samples, drawn with ``seed``; all if there are fewer.
    seed : object
        Seeds the draw of the validation samples and of the reference rows of the scale.
    device : optional
        Device for computing influence; the CPU by default.
    """
    check_count(validation, "validation")
    draw = torch.Generator().manual_seed(derive_seed(task.name, "run", seed))
    samples = encoder.transform(train, task.target)
    chosen = torch.randperm(len(valid), generator=draw)[:validation]
    valid_samples = take(encoder.transform(valid, task.target), chosen)
    features = getattr(encoder, "features", None)
    options: dict[str, Any] = {"partners": len(train), "device": device, "features": features}
    sources = (
        InfluenceSource(trained.model, task.loss, valid_samples, FINAL_CHANNELS, **options),
        InfluenceSource(trained.early, task.loss, valid_samples, EARLY_CHANNELS, **options),
    )
    reference = torch.randperm(count(samples[0]), generator=draw)[:REFERENCE_ROWS]
    scale = RelativeScale(_raw_vectors(sources, take(samples, reference)))
    valid_index = valid.index[chosen.numpy()]
    return Run(
        task, architecture, encoder, trained, train, valid, samples, sources, scale, valid_index
    )
