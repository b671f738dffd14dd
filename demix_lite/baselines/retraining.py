"""Helpers for baselines that train the run's model again."""

from collections.abc import Callable

import numpy as np
from torch import nn

from demix_lite.detector.runs import Run
from demix_lite.influence.vectors import Samples
from demix_lite.models.training import fit, predict
from demix_lite.seeds import derive_seed
from demix_lite.tasks.base import seeded_model


def run_seed(run: Run, name: str) -> int:
    """Return a seed that is fixed by the baseline ``name`` and the run."""
    return derive_seed(name, run.task.name, len(run), *run.valid_index[:8])


def retrain(
    run: Run,
    samples: Samples,
    name: str,
    *,
    epochs: int | None = None,
    after_epoch: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Train the architecture of a run from fresh weights, as the run's own model was trained.

    ``name``, the name of the baseline, seeds the weights and the order of the batches. By default
    there are as many epochs as for the run's own model.
    """
    seed = run_seed(run, name)
    model = seeded_model(run.task, run.architecture, run.encoder, seed)
    settings = {**run.task.training, "epochs": epochs or len(run.trained.losses), "seed": seed}
    place = run.sources[0].device
    return fit(
        model, run.task.loss, *samples, **settings, device=place, after_epoch=after_epoch
    ).model


def row_losses(run: Run, model: nn.Module, samples: Samples) -> np.ndarray:
    """Return the loss of every sample, shape ``(n,)``."""
    inputs, targets = samples
    return run.task.loss(predict(model, inputs), targets).double().numpy()
