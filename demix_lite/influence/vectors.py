"""Influence vectors: the effect of every training sample on every validation sample.

Sign and unit: positive means *helpful* (a gradient step on the training sample lowers the loss of
the validation sample); ``"influence"`` is the cosine of the two full loss gradients, in [-1, 1].
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map
from tqdm import tqdm

from demix_lite.errors import DemixError, check_count, refuse_unknown
from demix_lite.influence.factors import (
    CHECKED_SAMPLES,
    Captured,
    DenseFactor,
    Factor,
    FactorCapture,
    LinearFactor,
)
from demix_lite.influence.gram import inner_products, joined, prepare, squared_norms
from demix_lite.models.training import LossFn, count, move, resolve_device, take
from demix_lite.whole_file import whole_file

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
"""Names of the channels; k is the index of a linear layer, from the first (0) or last (-1)."""

LAYER_CHANNEL = re.compile(r"(input_side|output_side|influence)\[(-?\d+)\]")

BLOCK_BYTES = 2**25
"""Target working memory of the automatic block size: what fits in a processor's cache."""

PART_BYTES = 2**27
"""The same for samples grouped by length: such models run many small operations, each with a
fixed cost."""

CUDA_BYTES = 2**33
"""The same on CUDA, where many small operations leave the device idle; half of the free memory if
that is less."""

LIKE_LENGTHS = 1024
"""Samples sorted by length together, if the model has a method ``lengths``."""

TRIES = 32
"""Times that four validation samples are drawn until one of them has a gradient."""

Samples = tuple[Any, Tensor]
Features = Callable[[Any], Tensor]
Layer = str | None
"""The name of a layer; None stands for the whole model."""


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
        refuse_unknown("channel", [channel], self.channels)
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

    Gradients of linear and embedding layers are multiplied without being written out, unless that
    is cheaper. Those of other layers, and of weights that are tied or used outside of their layer,
    are written out for the M validation samples and one block of training samples: with the tied
    embedding of a language model trainable, M × vocabulary × width numbers.

    Parameters
    ----------
    model : nn.Module
        ``model(inputs)`` returns one output per sample. Moved to ``device`` and put in evaluation
        mode; a batch norm that still uses batch statistics is refused. If the model has a method
        ``lengths(inputs)``, samples of similar length are batched together.
    loss_fn : callable
        ``loss_fn(outputs, targets)`` returns the loss of every sample, shape ``(n,)``.
    train, valid : tuple
        ``(inputs, targets)``; inputs are a tensor or a nested structure of tensors whose first
        dimension is the sample.
    channels : sequence of str
        One or more of :data:`CHANNELS`. Pairwise: ``influence`` (cosine of the loss gradients),
        ``input_similarity`` (cosine of the inputs), ``label_agreement`` (equality;
        ``1 / (1 + |Δy|)`` for real labels), ``input_side[k]`` and ``output_side[k]`` (cosines of
        the inputs and of the output gradients of linear layer k, each summed over its positions; a
        1 is appended to the inputs if there is a bias), ``influence[k]`` (cosine of that layer's
        gradient).
        Constant along a row or a column: losses and gradient norms.
    block_size : int, optional
        Training samples processed at a time; by default as many as fit a memory budget. Changes
        speed and memory, not the result.
    out : path, optional
        Write the values to this ``.npy`` file (memory-mapped) instead of keeping them in memory.
        The file appears only when it is complete.
    device : str, optional
        ``"cpu"`` (default) or ``"cuda"``.
    features : callable, optional
        Maps inputs to the vectors compared by ``input_similarity``; by default all floating-point
        inputs, flattened.
    progress : bool
        Show a progress bar.

    Returns
    -------
    InfluenceVectors
        Values of shape ``(N, C, M)``, in the dtype of the model, at least single precision.

    Raises
    ------
    DemixError
        If samples are not pairs of tensors, a channel is unknown, the model mixes samples, or
        there is too little memory (the message names a remedy).

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
    _check_samples(train, "train")
    source = InfluenceSource(
        model, loss_fn, valid, channels, partners=count(train[0]), device=device, features=features
    )
    shape = (count(train[0]), len(source.channels), source.valid_count)
    source.check_memory(shape[0], keep=out is None)
    blocks = source.blocks(train, block_size=block_size, progress=progress)
    if out is not None:
        return InfluenceVectors(_write(Path(out), shape, source.dtype, blocks), source.channels)
    values = torch.empty(shape, dtype=source.dtype)
    for rows, block in blocks:
        values[rows] = block
    return InfluenceVectors(values, source.channels)


def _check_samples(samples: Any, name: str) -> None:
    """Raise unless ``samples`` is ``(inputs, targets)`` of tensors with equally many samples."""
    if not isinstance(samples, tuple | list) or len(samples) != 2:
        raise DemixError(
            f"{name} must be (inputs, targets), two torch tensors, not a {type(samples).__name__}; "
            "of a TensorDataset these are its .tensors."
        )
    parts = tree_leaves(samples)
    other = [part for part in parts if not isinstance(part, Tensor)]
    if other:
        remedy = "torch.as_tensor makes one of it"
        if other[0] is None:
            remedy = "leave it out"
        elif isinstance(other[0], Mapping):
            remedy = "dict makes a dict of tensors of it"
        raise DemixError(
            f"{name} must hold torch tensors, not {type(other[0]).__name__}; {remedy}."
        )
    if not isinstance(samples[1], Tensor):
        raise DemixError(
            f"{name} must have one tensor of targets, not a {type(samples[1]).__name__}; put "
            "several side by side into one, or among the inputs for a model that passes them on."
        )
    if any(part.dim() == 0 for part in parts):
        raise DemixError(f"{name} holds a single number; every tensor needs one row a sample.")
    counts = [len(part) for part in parts]
    if len(set(counts)) > 1:
        raise DemixError(f"{name} has inputs and targets of different lengths: {counts}.")


def _write(
    path: Path, shape: tuple[int, ...], dtype: torch.dtype, blocks: Iterator[tuple[slice, Tensor]]
) -> np.memmap:
    """Write the blocks to a file that appears under its name only when it is complete."""
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    needed = math.prod(shape) * kind.itemsize
    try:
        free = psutil.disk_usage(str(path.resolve().parent)).free
        if needed > free:
            raise DemixError(
                f"{path} would take {needed / 1e9:.1f} GB but only {free / 1e9:.1f} GB are free "
                "there; use fewer validation samples or channels, or stream the blocks "
                "(InfluenceSource)."
            )
        with whole_file(path) as part:
            values = np.lib.format.open_memmap(part, mode="w+", dtype=kind, shape=shape)
            for rows, block in blocks:
                values[rows] = block.numpy()
            values.flush()
    except OSError as error:
        raise DemixError(f"cannot write {path}: {error.strerror or error}.") from error
    return np.lib.format.open_memmap(path, mode="r+")


class InfluenceSource:
    """Influence channels against a fixed validation set, one block of training samples at a time.

    The validation gradients are captured once; :meth:`blocks` streams the vectors, so that any
    number of training samples is processed in bounded memory. :func:`influence_vectors` is the
    convenience function that collects them.

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
        _check_samples(valid, "valid")
        self.device = resolve_device(device)
        self.channels = tuple(dict.fromkeys([channels] if isinstance(channels, str) else channels))
        self.features = features or flat_inputs
        self.valid_count = count(valid[0])
        if not self.channels or not self.valid_count:
            raise DemixError("influence needs at least one channel and one validation sample.")
        layered = {name: LAYER_CHANNEL.fullmatch(name) for name in self.channels}
        for name, match in layered.items():
            if match:
                continue
            refuse_unknown("channel", [name], CHANNELS)
            if name.endswith("[k]"):
                first = name.replace("[k]", "[0]")
                raise DemixError(f"{name} needs the index of a linear layer for k: {first!r}.")
        if not isinstance(model, nn.Module):
            raise DemixError(f"the model must be a torch.nn.Module, not a {type(model).__name__}.")
        model = getattr(model, "_orig_mod", model)  # a compiled model hides its modules from hooks
        self.model = model.to(self.device)
        # Returns the length of every sample, if the model has such a method.
        lengths = getattr(self.model, "lengths", None)
        self._lengths: Callable[[Any], Tensor] | None = lengths if callable(lengths) else None
        on_cuda = self.device.type == "cuda"
        self._room = min(CUDA_BYTES, self._free() // 2) if on_cuda else 0
        self.capture = FactorCapture(self.model, loss_fn)
        dtype = next(p.dtype for p in model.parameters() if p.requires_grad)
        self.dtype = torch.promote_types(dtype, torch.float32)
        if "label_agreement" in self.channels and valid[1][0].numel() != 1:
            raise DemixError("label_agreement compares one label a sample; leave that channel out.")
        self._valid_samples = valid
        self._partners = partners or self.valid_count
        self._asked: list[tuple[str, Layer]] = []
        some = self._some_with_gradient()
        few = self._side(some)
        self._activations = self.capture.activations(*move(some, self.device))
        self._captured_bytes = self._numbers(few) * self.dtype.itemsize
        kept = self.valid_count * few.entries * self.dtype.itemsize
        working = min(self._part_size(), self.valid_count) * self._captured_bytes
        _check_free(kept + working, self._free())
        self._asked = [
            (match[1], few.layer(int(match[2]))) if match else (name, None)
            for name, match in layered.items()
        ]

    def _some_with_gradient(self) -> Samples:
        """Return a few validation samples, with a gradient if such are found, to check rules on."""
        self.model.eval()
        spread = torch.linspace(0, self.valid_count - 1, max(CHECKED_SAMPLES)).long()
        for start in range(TRIES):
            some = take(self._valid_samples, (spread + start) % self.valid_count)
            if self.capture.has_gradient(*move(some, self.device)):
                return some
        return take(self._valid_samples, spread)

    @cached_property
    def _valid(self) -> "_Side":
        """Return the factors of the validation samples, the large part of a source."""
        parts = self._parts(self._valid_samples[0])
        if self._lengths is None:
            parts = torch.arange(self.valid_count).split(self._part_size())
        sides = [self._side(take(self._valid_samples, rows)) for rows in parts]
        return sides[0] if len(sides) == 1 else _together(sides, torch.cat(parts).argsort())

    def __getstate__(self) -> dict[str, Any]:
        """Leave the factors out of a pickle; they are computed again when needed."""
        return {name: value for name, value in vars(self).items() if name != "_valid"}

    def release(self) -> None:
        """Free the memory of the factors; they are computed again when needed."""
        vars(self).pop("_valid", None)

    def block(
        self, inputs: Any, targets: Tensor, *, done: Callable[[int], object] = lambda samples: None
    ) -> Tensor:
        """Return the channels of a block of training samples, shape ``(n, C, M)``, on the CPU.

        ``done`` is called with the number of samples finished since the last call.
        """
        parts, found = self._parts(inputs), []
        for rows in parts:
            found.append(self._channels(*take((inputs, targets), rows)))
            done(len(rows))
        return found[0] if len(found) == 1 else torch.cat(found)[torch.cat(parts).argsort()]

    def _parts(self, inputs: Any) -> tuple[Tensor, ...]:
        """Return which samples go through the model together: all, or those of similar length.

        A batch is padded to its longest sample, so that similar lengths need little padding.
        """
        rows = torch.arange(count(inputs))
        if self._lengths is None:
            return (rows,)
        if len(rows) > self._part_size():
            rows = self._lengths(inputs).argsort(stable=True)
        return rows.split(self._part_size())

    def _part_size(self) -> int:
        room = max(PART_BYTES, self._room)
        return int(max(1, min(LIKE_LENGTHS, room // self._captured_bytes)))

    def _channels(self, inputs: Any, targets: Tensor) -> Tensor:
        valid = self._valid
        train = self._side((inputs, targets), valid)
        multiplied = {layer for kind, layer in self._asked if kind == "influence"}
        products = _products(train, valid, multiplied)
        found = [_channel(*asked, train, valid, products) for asked in self._asked]
        shape = (len(targets), self.valid_count)
        return torch.stack([values.to(self.dtype).expand(shape) for values in found], dim=1).cpu()

    def blocks(
        self, train: Samples, *, block_size: int | None = None, progress: bool = False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield ``(rows, values)`` with values of shape ``(len(rows), C, M)``, in order."""
        inputs, targets = train
        n = count(inputs)
        size = self._block_size() if block_size is None else block_size
        check_count(size, "block_size")
        with tqdm(
            total=n, desc="influence", unit="sample", disable=not progress, leave=False
        ) as bar:
            for start in range(0, n, size):
                rows = slice(start, min(start + size, n))
                yield rows, self.block(take(inputs, rows), targets[rows], done=bar.update)

    def check_memory(self, partners: int, *, keep: bool) -> int:
        """Estimate the memory still needed, in bytes, or raise if it is not there.

        Parameters
        ----------
        partners : int
            Number of training samples.
        keep : bool
            Whether all vectors are kept in memory.
        """
        row = len(self.channels) * self.valid_count * self.dtype.itemsize
        kept = partners * row if keep else 0
        at_once = self._block_size() if self._lengths is None else self._part_size()
        working = min(at_once, partners) * self._bytes_per_sample()
        available = psutil.virtual_memory().available
        if self.device.type == "cuda":
            _check_free(working, self._free())
            _check_free(kept, available)
        else:
            _check_free(kept + working, available)
        return kept + working

    def _free(self) -> int:
        if self.device.type != "cuda":
            return psutil.virtual_memory().available
        # Memory that PyTorch has reserved but not allocated is free, too.
        reserved = torch.cuda.memory_reserved(self.device)
        kept = reserved - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + kept

    def _block_size(self) -> int:
        if self._lengths is not None:
            return LIKE_LENGTHS
        room = max(BLOCK_BYTES, self._room)
        return int(max(16, min(4096, room // self._bytes_per_sample())))

    def _bytes_per_sample(self) -> int:
        # What capturing takes, and a few rows of M entries.
        rows = self.valid_count * (len(self.channels) + 4)
        return (self._numbers(self._valid) + rows) * self.dtype.itemsize

    def _numbers(self, side: "_Side") -> int:
        """Estimate how many numbers capturing one sample keeps in memory."""
        # Factors with their autograd graph (about three copies), or all activations if more.
        return max(3 * side.entries, self._activations)

    def _side(self, samples: Samples, other: "_Side | None" = None) -> "_Side":
        """Return what the channels need of some samples, in the same form as the other side."""
        self.model.eval()  # a caller that streams during training must call train() again
        inputs, targets = move(samples, self.device)
        captured = self.capture(inputs, targets)
        if other is None:
            factors = {
                n: prepare(f, self._partners, self.valid_count) for n, f in captured.factors.items()
            }
        else:
            # Materialised once here, not once for the norms and again for the products.
            factors = {
                n: DenseFactor(f.dense()) if isinstance(other.factors[n], DenseFactor) else f
                for n, f in captured.factors.items()
            }
        squared = {n: squared_norms(factor) for n, factor in factors.items()}
        whole = torch.stack(list(squared.values())).sum(0).sqrt()
        features, linear = self.features(inputs), _linear(captured)
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if shape[:-1] != (len(targets),):
            raise DemixError(
                f"features must return one vector per sample, a tensor of shape ({len(targets)}, "
                f"d), not {shape}."
            )
        padded = self._lengths is not None
        compared: dict[str, Callable[[Any], Tensor]] = {
            "input_similarity": lambda _: features,
            "input_side": lambda layer: linear[layer].input_side(padded=padded),
            "output_side": lambda layer: linear[layer].g.sum(1),
        }
        return _Side(
            factors,
            captured.losses,
            targets,
            norms={n: square.sqrt() for n, square in squared.items()} | {None: whole},
            directions={
                (kind, layer): F.normalize(compared[kind](layer), dim=1)
                for kind, layer in self._asked
                if kind in compared
            },
            linear=list(linear),
            unseen=self.capture.unseen_layers,
            entries=features.shape[1]
            + sum(max(captured.entries.get(n, 0), _entries(f)) for n, f in factors.items()),
        )


def _check_free(needed: int, free: int) -> None:
    if needed > free:
        raise DemixError(
            f"these vectors need about {needed / 1e9:.1f} GB but {free / 1e9:.1f} GB are free; "
            "use fewer validation samples or channels, pass out='vectors.npy' to keep them on "
            "disk, or stream the blocks (InfluenceSource)."
        )


@dataclass
class _Side:
    """One side of the product: what the channels need of a block of samples."""

    factors: dict[str, Factor]
    losses: Tensor
    targets: Tensor
    norms: dict[Layer, Tensor]
    directions: dict[tuple[str, Layer], Tensor]
    """By channel and layer: vectors of unit length, compared by their cosine."""
    linear: list[str]
    unseen: list[str]
    """Linear layers without factors of their own, so that layers cannot be counted."""
    entries: int

    def layer(self, index: int) -> str:
        """Return the name of a linear layer by its index, which may be negative."""
        if self.unseen:
            raise DemixError(
                f"a channel asks for linear layer {index}, but layers cannot be counted here: "
                f"{self.unseen[0]!r} shares or computes its weight, or is not called with "
                "one row a sample."
            )
        if not -len(self.linear) <= index < len(self.linear):
            raise DemixError(
                f"a channel asks for linear layer {index}, but the model has {len(self.linear)} of "
                "them."
            )
        return self.linear[index]


def _together(sides: Sequence[_Side], order: Tensor) -> _Side:
    """Join the samples of several sides into one, in the given order."""

    def put(*parts: Any) -> Any:
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)[order]
        return joined(parts, order)

    by_sample = ("factors", "losses", "targets", "norms", "directions")
    whole = tree_map(put, *({name: getattr(s, name) for name in by_sample} for s in sides))
    return replace(sides[0], **whole, entries=max(side.entries for side in sides))


def _linear(captured: Captured) -> dict[str, LinearFactor]:
    """Return inputs and output gradients of the linear layers."""
    factors = {n: getattr(f, "layer", f) for n, f in captured.factors.items()}
    return {n: f for n, f in factors.items() if isinstance(f, LinearFactor)}


def _entries(factor: Factor) -> int:
    return sum(t[0].numel() for t in vars(factor).values() if isinstance(t, Tensor))


def flat_inputs(inputs: Any) -> Tensor:
    """Return all floating-point inputs, flattened and concatenated to ``(n, width)``.

    Examples
    --------
    >>> flat_inputs({"a": torch.zeros(2, 3), "b": torch.zeros(2, 2, 2)}).shape
    torch.Size([2, 7])
    """
    parts = [x.reshape(len(x), -1) for x in tree_leaves(inputs) if x.is_floating_point()]
    if not parts:
        n = count(inputs)
        return torch.zeros(n, 1, device=tree_leaves(inputs)[0].device)
    return torch.cat(parts, dim=1)


def _products(train: _Side, valid: _Side, wanted: set[Layer]) -> dict[Layer, Tensor]:
    """Return the inner products of the wanted layers' gradients, each computed once."""
    whole = train.norms[None].new_zeros(len(train.losses), len(valid.losses))
    found: dict[Layer, Tensor] = {None: whole}
    for layer, factor in train.factors.items():
        if wanted & {layer, None}:
            product = inner_products(factor, valid.factors[layer])
            if None in wanted:
                whole += product
            if layer in wanted:
                found[layer] = product
    return found


def _channel(
    kind: str, layer: Layer, train: _Side, valid: _Side, products: dict[Layer, Tensor]
) -> Tensor:
    """Return one channel, of shape ``(n, m)`` or one that broadcasts to it."""
    if kind == "influence":
        return _cosine(products[layer], train.norms[layer], valid.norms[layer])
    if (kind, layer) in train.directions:
        return train.directions[kind, layer] @ valid.directions[kind, layer].T
    if kind == "label_agreement":
        return label_agreement(train.targets, valid.targets)
    side = train if kind.startswith("train") else valid
    values = side.losses if kind.endswith("loss") else side.norms[None]
    return values[:, None] if side is train else values


def label_agreement(train: Tensor, valid: Tensor) -> Tensor:
    """Return 1 where classes agree and 0 elsewhere; 1 / (1 + |Δy|) for real-valued labels.

    Examples
    --------
    >>> label_agreement(torch.tensor([0, 1]), torch.tensor([1, 1, 0]))
    tensor([[0., 0., 1.],
            [1., 1., 0.]])
    """
    train, valid = train.flatten(), valid.flatten()
    if train.is_floating_point():
        return 1.0 / (1.0 + (train[:, None] - valid[None]).abs())
    return (train[:, None] == valid[None]).to(torch.get_default_dtype())


def _cosine(products: Tensor, train_norms: Tensor, valid_norms: Tensor) -> Tensor:
    # A sample with a zero gradient has no influence: its cosine is 0, not NaN.
    rows, columns = (torch.where(n > 0, 1 / n, 0.0) for n in (train_norms, valid_norms))
    return (products * rows[:, None]).mul_(columns).clamp_(-1, 1)
