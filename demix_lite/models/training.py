"""Train a task model: short, deterministic, and the same for every task."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from demix_lite.errors import DemixError

LossFn = Callable[[Tensor, Tensor], Tensor]


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the requested device, by default the CPU; raise :class:`DemixError` if unavailable.

    Examples
    --------
    >>> resolve_device(None)
    device(type='cpu')
    """
    try:
        resolved = torch.device(device or "cpu")
    except RuntimeError:
        resolved = torch.device("meta")
    if resolved.type not in ("cpu", "cuda"):
        raise DemixError(f"unknown device {str(device)!r}; use cpu, cuda or cuda:0.")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if resolved.type == "cuda" and (resolved.index or 0) >= found:
        raise DemixError(
            f"device {str(device)!r} was asked for, but PyTorch sees no such CUDA device here."
        )
    return resolved


@dataclass(frozen=True)
class Trained:
    """A trained model, and a copy of it from early in training.

    Attributes
    ----------
    model : nn.Module
        The model after the last epoch, in evaluation mode.
    early : nn.Module
        A copy taken after the first epoch; it holds what is learned first, above all shortcuts.
    losses : list of float
        Mean weighted training loss of every epoch.
    """

    model: nn.Module
    early: nn.Module
    losses: list[float]


def count(data: Any) -> int:
    """Return the number of samples in a tensor or a nested structure of tensors."""
    return len(tree_leaves(data)[0])


def take(data: Any, index: Any) -> Any:
    """Select samples from a tensor or a nested structure of tensors."""
    return tree_map(lambda tensor: tensor[index], data)


def move(data: Any, device: torch.device) -> Any:
    """Move a tensor or a nested structure of tensors to a device."""
    return tree_map(lambda tensor: tensor.to(device), data)


def fit(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    rows: int | None = None,
    epochs: int = 8,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    seed: int = 0,
    device: str | torch.device | None = None,
    after_epoch: Callable[[nn.Module], None] | None = None,
) -> Trained:
    """Train ``model`` with AdamW on the mean of the weighted per-sample losses.

    Parameters
    ----------
    model : nn.Module
        Trained in place.
    loss_fn : callable
        ``loss_fn(outputs, targets)`` returns the loss of every sample, shape ``(n,)``.
    inputs, targets : tensors
        Tensors, or nested structures of tensors, whose first dimension is the sample.
    weights : tensor, optional
        Non-negative weight of every sample; 1 by default.
    rows : int, optional
        Number of rows that the samples represent, if a repair added copies or dropped rows. The
        batch size is scaled so that the number of steps is the same as for ``rows`` samples. By
        default the number of samples.
    epochs, batch_size : int
        Passes over the samples, and rows per step.
    learning_rate, weight_decay : float
        Settings of AdamW; the learning rate falls to zero along a cosine.
    seed : int
        Fixes the order of the batches and the random draws of dropout.
    device : optional
        Device to train on; see :func:`resolve_device`.
    after_epoch : callable, optional
        Called with the model, in evaluation mode, after every epoch.

    Returns
    -------
    Trained
        The model, an early copy of it and the losses.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> trained = fit(nn.Linear(1, 1), lambda o, t: (o[:, 0] - t) ** 2, x, 2 * x[:, 0], epochs=2)
    >>> len(trained.losses)
    2
    """
    place = resolve_device(device)
    n = count(inputs)
    if n == 0:
        raise DemixError("there are no training samples left to train on.")
    weights = torch.ones(n) if weights is None else weights.to(torch.float32)
    inputs, targets, weights = move((inputs, targets, weights), place)
    model.to(place).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    order = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    early = model
    batch_size = max(1, round(batch_size * n / (rows or n)))
    # Dropout draws from the global generator: seed it here, and restore its state afterwards.
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            total = 0.0
            for batch in torch.randperm(n, generator=order).split(batch_size):
                batch = batch.to(place)
                optimizer.zero_grad(set_to_none=True)
                sample_losses = loss_fn(model(take(inputs, batch)), targets[batch]) * weights[batch]
                sample_losses.mean().backward()
                optimizer.step()
                total += float(sample_losses.detach().sum())
            schedule.step()
            losses.append(total / n)
            if epoch == 0:
                early = copy.deepcopy(model)
            if after_epoch:
                after_epoch(model.eval())
                model.train()
    return Trained(model.eval(), early.eval(), losses)


def minimise(
    network: nn.Module,
    losses: Iterable[Tensor],
    steps: int,
    *,
    learning_rate: float = 2e-3,
    weight_decay: float,
    clip: float | None = None,
) -> list[float]:
    """Train in place with AdamW and a one-cycle schedule, one step per loss; return the losses.

    ``losses`` is consumed lazily: each loss is computed after the step on the previous one.

    Examples
    --------
    >>> line = nn.Linear(1, 1)
    >>> losses = (line(torch.ones(1, 1)).square().sum() for _ in range(20))
    >>> found = minimise(line, losses, 20, learning_rate=0.1, weight_decay=0.0)
    >>> found[-1] < found[0]
    True
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    network.train()
    values: list[float] = []
    for loss in losses:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        schedule.step()
        values.append(float(loss.detach()))
    network.eval()
    return values


@torch.no_grad()
def predict(model: nn.Module, inputs: Any, *, batch_size: int = 8192) -> Tensor:
    """Return the outputs of ``model`` for all samples, as a tensor on the CPU.

    Examples
    --------
    >>> predict(nn.Linear(3, 2), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    place = next(model.parameters()).device
    chunks = torch.arange(count(inputs)).split(batch_size)
    return torch.cat([model(move(take(inputs, rows), place)).cpu() for rows in chunks])
