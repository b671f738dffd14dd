"""Influence vectors: what every training sample does to every validation sample.

Sign and unit: positive means *helpful* (a gradient step on the training sample lowers the loss of
the validation sample); ``"influence"`` is the cosine of the two full loss gradients, in [-1, 1].
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from demix_lite.errors import DemixError, unknown_name
from demix_lite.influence.factors import Captured, FactorCapture, LinearFactor, LossFn
from demix_lite.influence.gram import inner_products, prepare, squared_norms
from demix_lite.models.training import count, move, resolve_device, take

CHANNELS = (
    "influence",
    "input_similarity",
    "label_agreement",
    "train_loss",
    "valid_loss",
    "train_gradient_norm",
    "valid_gradient_norm",
    "input_side[k]",
    "output_side[k]",
    "influence[k]",
)
"""Names of the channels; k counts the linear layers from the first (0) or from the last (-1)."""

BLOCK_BYTES = 2**28
"""Working memory that the automatic block size aims at."""

Samples = tuple[Any, Tensor]
Features = Callable[[Any], Tensor]


@dataclass(frozen=True)
class InfluenceVectors:
    """Channels of influence between N training and M validation samples.

    Attributes
    ----------
    values : Tensor or numpy.memmap
        Shape ``(N, C, M)``.
    channels : tuple of str
        Names of the C channels.
    """

    values: Any
    channels: tuple[str, ...]

    def __getitem__(self, channel: str) -> Any:
        """Return one channel, shape ``(N, M)``."""
        if channel not in self.channels:
            raise unknown_name("channel", channel, self.channels)
        return self.values[:, self.channels.index(channel)]


def influence_vectors(
    model: nn.Module,
    loss_fn: LossFn,
    train: Samples,
    valid: Samples,
    *,
    channels: Sequence[str] = ("influence",),
    block_size: int | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    features: Features | None = None,
    progress: bool = False,
) -> InfluenceVectors:
    """Compute the influence of every training sample on every validation sample, exactly.

    Parameters
    ----------
    model : nn.Module
        ``model(inputs)`` returns one output per sample. Evaluated in evaluation mode.
    loss_fn : callable
        ``loss_fn(outputs, targets)`` returns the loss of every sample, shape ``(n,)``.
    train, valid : tuple
        ``(inputs, targets)``; inputs are a tensor or a nest of tensors counted by their first
        dimension.
    channels : sequence of str
        Any of :data:`CHANNELS`. Pairwise: ``influence`` (cosine of the loss gradients),
        ``input_similarity`` (cosine of the inputs), ``label_agreement`` (equality; 1 / (1 + |Δy|)
        for real labels), ``input_side[k]`` and ``output_side[k]`` (cosines of the inputs and of
        the output gradients of linear layer k), ``influence[k]`` (cosine of that layer's
        gradient). Constant along a row or a column: losses and gradient norms.
    block_size : int, optional
        Training samples handled at a time; chosen to fit :data:`BLOCK_BYTES` by default. Changes
        speed and memory, not the result.
    out : path, optional
        Write the values to this ``.npy`` file (memory-mapped) instead of keeping them in memory.
    device : str, optional
        ``"cpu"`` (default) or ``"cuda"``.
    features : callable, optional
        Maps inputs to the vectors compared by ``input_similarity``; by default all inputs of
        floating type, flattened.
    progress : bool
        Show a progress bar.

    Returns
    -------
    InfluenceVectors
        Values of shape ``(N, C, M)``, float type of the model.

    Raises
    ------
    DemixError
        Unknown channel, a model that mixes samples, too little memory (with the remedy).

    Notes
    -----
    The gradient products follow ⟨∇_i, ∇_j⟩ = Σ_layers Σ_tt' (ã_it · ã_jt')(g_it · g_jt'), so
    nothing of size N × parameters is ever built.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    >>> loss = lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none")
    >>> vectors = influence_vectors(nn.Linear(3, 2), loss, (x, y), (x, y))
    >>> vectors.values.shape
    torch.Size([6, 1, 6])
    >>> torch.allclose(vectors["influence"].diagonal(), torch.ones(6))
    True
    """
    source = InfluenceSource(
        model, loss_fn, valid, channels, partners=count(train[0]), device=device, features=features
    )
    shape = (count(train[0]), len(source.channels), source.valid_count)
    source.check_memory(shape[0], keep=out is None)
    blocks = source.blocks(train, block_size=block_size, progress=progress)
    if out is None:
        values: Any = torch.empty(shape, dtype=source.dtype)
        for rows, block in blocks:
            values[rows] = block
    else:
        values = _memory_map(Path(out), shape, source.dtype)
        for rows, block in blocks:
            values[rows] = block.numpy()
        values.flush()
    return InfluenceVectors(values, source.channels)


def _memory_map(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> np.memmap:
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    needed = int(np.prod(shape)) * kind.itemsize
    try:
        free = psutil.disk_usage(str(path.resolve().parent)).free
    except OSError as error:
        raise DemixError(f"cannot write {path}: its folder does not exist.") from error
    if needed > free:
        raise DemixError(
            f"{path} would take {needed / 1e9:.1f} GB but only {free / 1e9:.1f} GB are free there; "
            "use fewer validation samples or channels, or stream the blocks (InfluenceSource)."
        )
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


class InfluenceSource:
    """Influence channels against a fixed validation set, one block of training samples at a time.

    The validation gradients are captured once; :meth:`blocks` streams the vectors, so that any
    number of training samples is judged in bounded memory. :func:`influence_vectors` is the
    convenient form that collects them.

    Parameters
    ----------
    model, loss_fn, valid, channels, device, features
        As for :func:`influence_vectors`.
    partners : int, optional
        Number of training samples to expect; lets each layer choose its cheaper route.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        valid: Samples,
        channels: Sequence[str] = ("influence",),
        *,
        partners: int | None = None,
        device: str | torch.device | None = None,
        features: Features | None = None,
    ):
        self.device = resolve_device(device)
        self.model = model.to(self.device).eval()
        self.channels = tuple(dict.fromkeys(channels))
        self.capture = FactorCapture(self.model, loss_fn)
        self.features = features or flat_inputs
        self.dtype = next(p.dtype for p in model.parameters() if p.requires_grad)
        self.valid_count = count(valid[0])
        if not self.channels or not self.valid_count:
            raise DemixError("influence needs at least one channel and one validation sample.")
        self._valid = self._side(*move(valid, self.device), partners=partners or self.valid_count)

    def block(self, inputs: Any, targets: Tensor) -> Tensor:
        """Return the channels of a block of training samples, shape ``(n, C, M)``, on the CPU."""
        train = self._side(*move((inputs, targets), self.device))
        shape = (len(targets), self.valid_count)
        found = [_channel(name, train, self._valid).expand(shape) for name in self.channels]
        return torch.stack(found, dim=1).to(self.dtype).cpu()

    def blocks(
        self, train: Samples, *, block_size: int | None = None, progress: bool = False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield ``(rows, values)`` with values of shape ``(len(rows), C, M)``, in order."""
        inputs, targets = train
        n = count(inputs)
        size = block_size or self._block_size()
        if size < 1:
            raise DemixError(f"block_size must be at least 1, not {size}.")
        with tqdm(
            total=n, desc="influence", unit="sample", disable=not progress, leave=False
        ) as bar:
            for start in range(0, n, size):
                rows = slice(start, min(start + size, n))
                yield rows, self.block(take(inputs, rows), targets[rows])
                bar.update(rows.stop - rows.start)

    def check_memory(self, partners: int, *, keep: bool) -> int:
        """Estimate the memory still needed, in bytes, or raise if it is not there.

        Parameters
        ----------
        partners : int
            Number of training samples.
        keep : bool
            Whether all vectors are kept in memory.
        """
        item = torch.empty(0, dtype=self.dtype).element_size()
        kept = partners * len(self.channels) * self.valid_count * item if keep else 0
        working = min(self._block_size(), partners) * self._bytes_per_sample()
        free = psutil.virtual_memory().available
        if self.device.type == "cuda":
            on_device = torch.cuda.mem_get_info(self.device)[0]
            free = min(free, on_device) if not keep else free
        if kept + working > free:
            raise DemixError(
                f"these vectors need about {(kept + working) / 1e9:.1f} GB but "
                f"{free / 1e9:.1f} GB are free; pass out='vectors.npy' to keep them on disk, "
                "use fewer validation samples or channels, or stream the blocks (InfluenceSource)."
            )
        return kept + working

    def _block_size(self) -> int:
        return int(max(16, min(4096, BLOCK_BYTES // self._bytes_per_sample())))

    def _bytes_per_sample(self) -> int:
        # Factors with their autograd graph (about three copies) and a few rows of M entries.
        item = torch.empty(0, dtype=self.dtype).element_size()
        return item * (3 * self._valid.entries + self.valid_count * (len(self.channels) + 4))

    def _side(self, inputs: Any, targets: Tensor, partners: int | None = None) -> "_Side":
        captured = self.capture(inputs, targets)
        return _Side(captured, self.features(inputs), targets, partners, self.channels)


class _Side:
    """One side of the product: what the channels need of a block of samples."""

    def __init__(
        self,
        captured: Captured,
        features: Tensor,
        targets: Tensor,
        partners: int | None,
        channels: Sequence[str],
    ):
        self.losses = captured.losses
        self.targets = targets
        self.features = F.normalize(features, dim=1) if "input_similarity" in channels else features
        self.linear = [n for n, f in captured.factors.items() if isinstance(f, LinearFactor)]
        self.pooled = {
            n: (f.a.sum(1), f.g.sum(1))
            for n, f in captured.factors.items()
            if isinstance(f, LinearFactor)
        }
        self.squared_norms = {n: squared_norms(f) for n, f in captured.factors.items()}
        self.norms = torch.stack(list(self.squared_norms.values())).sum(0).sqrt()
        self.factors = captured.factors
        if partners is not None:
            self.factors = {n: prepare(f, partners) for n, f in captured.factors.items()}
        per_sample = [t[0].numel() for f in captured.factors.values() for t in vars(f).values()
                      if isinstance(t, Tensor)]
        self.entries = sum(per_sample) + features.shape[1]

    def layer(self, name: str, channel: str) -> str:
        index = int(re.findall(r"-?\d+", name)[0])
        if not -len(self.linear) <= index < len(self.linear):
            raise DemixError(
                f"channel {channel!r} asks for linear layer {index}, but the model has "
                f"{len(self.linear)} of them."
            )
        return self.linear[index]


def flat_inputs(inputs: Any) -> Tensor:
    """Return all floating-point inputs side by side, flattened to ``(n, width)``.

    Examples
    --------
    >>> flat_inputs({"a": torch.zeros(2, 3), "b": torch.zeros(2, 2, 2)}).shape
    torch.Size([2, 7])
    """
    parts = [leaf.flatten(1) for leaf in tree_leaves(inputs) if leaf.is_floating_point()]
    if not parts:
        n = count(inputs)
        return torch.zeros(n, 1, device=tree_leaves(inputs)[0].device)
    return torch.cat(parts, dim=1)


def _channel(name: str, train: _Side, valid: _Side) -> Tensor:
    """Return one channel, of shape ``(n, m)`` or one that broadcasts to it."""
    if name == "influence":
        products = [inner_products(train.factors[n], valid.factors[n]) for n in train.factors]
        return _cosine(torch.stack(products).sum(0), train.norms, valid.norms)
    if name == "input_similarity":
        return train.features @ valid.features.T
    if name == "label_agreement":
        return label_agreement(train.targets, valid.targets)
    if name in ("train_loss", "train_gradient_norm"):
        return (train.losses if name == "train_loss" else train.norms)[:, None]
    if name in ("valid_loss", "valid_gradient_norm"):
        return (valid.losses if name == "valid_loss" else valid.norms)[None]
    match = re.fullmatch(r"(input_side|output_side|influence)\[(-?\d+)\]", name)
    if not match:
        raise unknown_name("channel", name, CHANNELS)
    layer = train.layer(match[2], name)
    if match[1] == "influence":
        products = inner_products(train.factors[layer], valid.factors[layer])
        own = (side.squared_norms[layer].sqrt() for side in (train, valid))
        return _cosine(products, *own)
    side = 0 if match[1] == "input_side" else 1
    one, other = train.pooled[layer][side], valid.pooled[layer][side]
    return F.normalize(one, dim=1) @ F.normalize(other, dim=1).T


def label_agreement(train: Tensor, valid: Tensor) -> Tensor:
    """Return 1 where classes agree and 0 elsewhere; 1 / (1 + |Δy|) for real-valued labels.

    Examples
    --------
    >>> label_agreement(torch.tensor([0, 1]), torch.tensor([1, 1, 0]))
    tensor([[0., 0., 1.],
            [1., 1., 0.]])
    """
    if train.is_floating_point():
        return 1.0 / (1.0 + (train[:, None] - valid[None]).abs())
    return (train[:, None] == valid[None]).to(torch.get_default_dtype())


def _cosine(products: Tensor, train_norms: Tensor, valid_norms: Tensor) -> Tensor:
    # A sample without any gradient influences nothing: its cosine is 0, not NaN.
    scale = torch.outer(train_norms, valid_norms)
    return torch.where(scale > 0, products / scale, torch.zeros_like(products))
