r"""Per-sample gradients, stored as factors.

The gradient of sample i with respect to the weight of a linear layer is
:math:`\sum_t g_{it} \tilde a_{it}^\top`, a sum over positions t of outer products of the layer's
output gradient g and its input a (with a 1 appended for the bias). Storing a and g instead of
their products is what makes exact influence cheap. This module captures such factors for every
trainable module of a model; :mod:`demix_lite.influence.gram` multiplies them.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from demix_lite.errors import DemixError
from demix_lite.models.training import LossFn, take

FALLBACK = "(through the model)"
CHECKED_SAMPLES = (3, 4)
FALLBACK_CHUNK = 256
LOOSE = 0.02
"""Relative tolerance between the values of a sample alone and in its batch."""


@dataclass
class LinearFactor:
    """Gradient of a linear layer: inputs ``a`` (n, S, D) and output gradients ``g`` (n, S, K)."""

    a: Tensor
    g: Tensor

    def input_side(self, *, padded: bool) -> Tensor:
        """Return the inputs summed over positions; if padded, only positions with a gradient."""
        a = self.a * (self.g != 0).any(2, keepdim=True) if padded else self.a
        return a.sum(1)

    @property
    def pair_flops(self) -> int:
        """Multiplications per pair of samples if the gradients are not written out."""
        positions = self.a.shape[1]
        return positions * positions * (self.a.shape[2] + self.g.shape[2])

    @property
    def size(self) -> int:
        """Number of entries of one sample's gradient."""
        return self.a.shape[2] * self.g.shape[2]

    def dense(self) -> Tensor:
        """Return the gradients themselves, shape ``(n, D * K)``."""
        return torch.einsum("nsd,nsk->ndk", self.a, self.g).flatten(1)


@dataclass
class EmbeddingFactor:
    """Gradient of an embedding: row indices ``ids`` (n, S), output gradients ``g`` (n, S, K)."""

    ids: Tensor
    g: Tensor
    rows: int

    @property
    def pair_flops(self) -> int:
        """Multiplications per pair of samples if rows are looked up in a table."""
        return self.g[0].numel()

    @property
    def size(self) -> int:
        """Number of entries of one sample's gradient."""
        return self.rows * self.g.shape[2]

    def dense(self) -> Tensor:
        """Return the gradients themselves, shape ``(n, rows * K)``."""
        n, _, width = self.g.shape
        gradient = self.g.new_zeros(n, self.rows, width)
        gradient.scatter_add_(1, self.ids[..., None].expand_as(self.g), self.g)
        return gradient.flatten(1)

    @cached_property
    def table(self) -> tuple[Tensor, Tensor]:
        """The R row indices that occur, sorted, and their gradients, ``(R + 1, K, n)``.

        The last row is zero and stands for all other indices. Cached for the next product.
        """
        n, _, width = self.g.shape
        numbers, places = self.ids.unique(return_inverse=True)
        rows = places[..., None] * width + torch.arange(width, device=self.g.device)
        cells = rows * n + torch.arange(n, device=self.g.device)[:, None, None]
        sums = self.g.new_zeros((len(numbers) + 1) * width * n)
        sums.index_add_(0, cells.flatten(), self.g.flatten())
        return numbers, sums.view(-1, width, n)


@dataclass
class DenseFactor:
    """Gradient of any other module, materialised: ``gradient`` (n, P).

    ``layer`` holds inputs and output gradients if the module is a custom linear layer.
    """

    gradient: Tensor
    layer: LinearFactor | None = None

    def dense(self) -> Tensor:
        """Return the gradients themselves, shape ``(n, P)``."""
        return self.gradient


Factor = LinearFactor | EmbeddingFactor | DenseFactor


@dataclass
class Captured:
    """What one forward and backward pass records for a block of samples.

    Attributes
    ----------
    losses : Tensor
        Loss of every sample, shape ``(n,)``.
    factors : dict
        Maps the module name to the factor of its gradient, in the order of the modules.
    entries : dict
        Maps the module name to the number of recorded entries per sample.
    """

    losses: Tensor
    factors: dict[str, Factor]
    entries: dict[str, int]


NOTHING = torch.empty(0)


class _Call(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor = NOTHING
    gradient: Tensor = NOTHING

    @property
    def input(self) -> Any:
        """The first argument, positional or keyword."""
        return next(iter((*self.args, *self.kwargs.values())))

    @property
    def tensors(self) -> list[Tensor]:
        """All arguments that are tensors."""
        leaves = tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class _WithLoss(nn.Module):
    """A model and its loss as one module, since a loss may use parameters of the model too."""

    def __init__(self, model: nn.Module, loss_fn: LossFn):
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, inputs: Any, targets: Tensor) -> Tensor:
        return self.loss_fn(self.model(inputs), targets)


class FactorCapture:
    """Capture gradient factors of one model, each parameter by the cheapest exact rule.

    - Linear, embedding and norm modules have rules of their own.
    - For a module that is linear in its input and has a method
      ``sample_gradients(inputs, output_gradients)``, that method is called.
    - Any other module with parameters is differentiated on its own, sample by sample, from its
      recorded input and output gradient.

    On the first call, a few samples are checked against their full gradients. Parameters that the
    rules do not reproduce (a tied weight, a parameter used outside its module, a module that is not
    called with one row per sample) are differentiated through the whole model with ``vmap(grad)``.
    A rule whose gradients are all zero on these samples is not checked and counts as such; pass
    samples with a gradient first (see :meth:`has_gradient`). Parameters that the loss does not
    depend on are left out.
    In every batch, one sample also goes through the model alone and must give the same values, up
    to a small tolerance.

    Factors and gradients are in the dtype of the model, at least single precision: squares of
    gradients in half precision would vanish.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode; ``model(inputs)`` returns one output per sample. Parameters with
        ``requires_grad=False`` are left out.
    loss_fn : callable
        ``loss_fn(outputs, targets)`` returns the loss of every sample, shape ``(n,)``.

    Raises
    ------
    DemixError
        If the model mixes samples (for example by batch norm in training mode), reorders them
        internally or is random, if no parameter is trainable, if the loss is not one number per
        sample, or if modules are called or skipped depending on the samples.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn):
        refuse_batch_statistics(model)
        self.model = model
        self.loss_fn = loss_fn
        self.whole = _WithLoss(model, loss_fn)
        # A module under two names counts once; a parameter in two modules counts twice.
        # Both are looked up once: doing so for every batch would cost as much as a layer.
        self.modules = dict(model.named_modules())
        self.held = {name: _trainable(name, module) for name, module in self.modules.items()}
        self.parameters = {name: p for own in self.held.values() for name, p in own.items()}
        if not self.parameters:
            raise DemixError("the model has no trainable parameter, so nothing has an influence.")
        times = Counter(map(id, self.parameters.values()))
        once = {
            name: {n for n, p in own.items() if times[id(p)] == 1}
            for name, own in self.held.items()
        }
        # Modules with a rule, and the parameters whose gradients the rule gives.
        self.ruled = {name: own for name, own in once.items() if own}
        self.fallback: set[str] | None = None
        self.unused: dict[str, nn.Parameter] = {}
        self.unseen_layers: list[str] = []
        # Many models squeeze a batch of one; a single sample then goes through them twice.
        self.company = 1
        # Whether outputs must be copied, and whether vmap works, is found out on the way.
        self.copies = False
        self.batched = True
        # In evaluation mode, cuDNN's recurrent layers have no backward pass; PyTorch's own do.
        recurrent = any(isinstance(module, nn.RNNBase) for module in self.modules.values())
        self.kernels = torch.backends.cudnn.flags if recurrent else nullcontext

    def __call__(self, inputs: Any, targets: Tensor) -> Captured:
        """Return losses and factors of a block of samples."""
        with self.kernels():
            if self.fallback is None:
                self.fallback = self._unexplained(inputs, targets)
            if len(targets) >= self.company:
                return self._captured(inputs, targets)
            twice = torch.tensor([0, 0])
            both = self._captured(take(inputs, twice), targets[twice])
        first = {name: _mapped(factor, lambda x: x[:1]) for name, factor in both.factors.items()}
        return replace(both, losses=both.losses[:1], factors=first)

    def has_gradient(self, inputs: Any, targets: Tensor) -> bool:
        """Return whether the gradient of any of these samples differs from zero."""
        with self.kernels(), torch.enable_grad():
            total = self._losses(inputs, targets).sum()
        found = torch.autograd.grad(total, list(self.parameters.values()), allow_unused=True)
        return any(gradient is not None and bool(gradient.any()) for gradient in found)

    @torch.no_grad()
    def activations(self, inputs: Any, targets: Tensor) -> int:
        """Return how many numbers all modules give out per sample, frozen ones included."""
        seen = 0

        def add(_: nn.Module, __: Any, output: Any) -> None:
            nonlocal seen
            seen += sum(x.numel() for x in tree_leaves(output) if isinstance(x, Tensor))

        leaves = [m for m in self.modules.values() if next(m.children(), None) is None]
        handles = [module.register_forward_hook(add) for module in leaves]
        try:
            with self.kernels():
                self.loss_fn(self.model(inputs), targets)
        finally:
            for handle in handles:
                handle.remove()
        return seen // len(targets)

    def _captured(self, inputs: Any, targets: Tensor) -> Captured:
        losses, calls = self._record(inputs, targets)
        self._refuse_routing(calls, len(targets))
        self._refuse_other_company(inputs, targets, losses, calls)
        factors = {name: self._factor(name, calls[name]) for name in calls}
        if self.fallback:
            factors[FALLBACK] = DenseFactor(self._through_model(inputs, targets, self.fallback))
        factors = {name: _mapped(factor, _at_least_single) for name, factor in factors.items()}
        entries = {name: sum(map(_recorded, calls[name])) for name in calls}
        return Captured(losses, factors, entries)

    def _forward(self, inputs: Any, targets: Tensor) -> tuple[Tensor, dict[str, list[_Call]]]:
        """Run the model; keep inputs and outputs of its modules."""
        calls: dict[str, list[_Call]] = {}
        versions: list[tuple[Tensor, int]] = []

        def record(name: str, _: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            if not isinstance(output, Tensor) or not output.requires_grad:
                return output
            values, named = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
            calls.setdefault(name, []).append(_Call(values, named, output))
            # Pass a copy on, so that an in-place operation cannot overwrite the record.
            passed_on = output.clone() if self.copies else output
            versions.append((output, output._version))
            return passed_on

        handles = [
            self.modules[name].register_forward_hook(partial(record, name), with_kwargs=True)
            for name in self.ruled
        ]
        try:
            with torch.enable_grad():
                losses = self._losses(inputs, targets)
        finally:
            for handle in handles:
                handle.remove()
        if any(output._version != version for output, version in versions):
            self.copies = True
            return self._forward(inputs, targets)
        return losses, calls

    def _record(self, inputs: Any, targets: Tensor) -> tuple[Tensor, dict[str, list[_Call]]]:
        """Run the model forward and backward; keep inputs and output gradients of its modules."""
        losses, calls = self._forward(inputs, targets)
        outputs = [call.output for made in calls.values() for call in made]
        with torch.enable_grad():
            total = losses.sum()
        asked = [*outputs, *self.unused.values()]
        found = torch.autograd.grad(total, asked, allow_unused=True) if asked else ()
        for name, gradient in zip(self.unused, found[len(outputs) :], strict=True):
            if gradient is not None:
                raise _routed(name.rpartition(".")[0] or name)
        pairs = zip(outputs, found, strict=False)
        gradients = (torch.zeros_like(o) if found is None else found for o, found in pairs)
        return losses.detach(), {
            name: [_Call(call.args, call.kwargs, gradient=next(gradients)) for call in made]
            for name, made in calls.items()
        }

    def _refuse_routing(self, calls: dict[str, list[_Call]], n: int) -> None:
        odd = calls.keys() ^ self.ruled.keys()
        odd |= {name for name in calls if any(len(call.gradient) != n for call in calls[name])}
        if odd:
            raise _routed(min(odd))

    def _refuse_other_company(
        self, inputs: Any, targets: Tensor, losses: Tensor, calls: dict[str, list[_Call]]
    ) -> None:
        """Raise if one sample gives different values without the rest of its batch.

        It is run as a batch of two copies, because many models squeeze a batch of one.
        """
        row = len(targets) // 2
        twice = torch.tensor([row, row])
        alone, again = self._forward(take(inputs, twice), targets[twice])
        _refuse_mixing(losses[row], alone.detach()[0], losses)
        for name, made in calls.items():
            for call, other in zip(made, again.get(name, []), strict=False):
                if not all(map(partial(_same_row, row), call.tensors, other.tensors)):
                    raise DemixError(
                        f"module {name!r} does not see the samples in their order, or sees them "
                        "mixed; a model must treat every sample by itself (and not sort them by "
                        "length, say)."
                    )

    def _losses(self, inputs: Any, targets: Tensor) -> Tensor:
        losses = self.loss_fn(self.model(inputs), targets)
        if not isinstance(losses, Tensor):
            raise DemixError(
                f"the loss must return a tensor with one number per sample, not a "
                f"{type(losses).__name__}."
            )
        if losses.shape != (len(targets),):
            remedy = "average over the other dimensions" if losses.ndim else "use reduction='none'"
            raise DemixError(
                f"the loss must return one number per sample, shape ({len(targets)},), "
                f"not {tuple(losses.shape)}; {remedy}."
            )
        if not losses.requires_grad:
            raise DemixError(
                "the losses have no gradient with respect to any parameter; run this outside of "
                "torch.inference_mode(), and forward() without torch.no_grad()."
            )
        return losses

    @torch.no_grad()
    def _factor(self, name: str, calls: list[_Call]) -> Factor:
        module = self.modules[name]
        own = {full.rpartition(".")[2] for full in self.ruled[name]}
        if type(module) is nn.Linear:
            return _linear_factor(calls, own)
        if type(module) is nn.Embedding and not module.scale_grad_by_freq:
            return _embedding_factor(module, calls)
        if hasattr(module, "sample_gradients"):
            layer = _linear_factor(calls, {"weight"})
            return DenseFactor(module.sample_gradients(layer.a, layer.g), layer)
        rms = type(module).__name__.endswith("RMSNorm") and own == {"weight"}
        rule = _norm_gradient if rms or type(module) is nn.LayerNorm else _local_gradient
        return DenseFactor(torch.stack([rule(module, call, own) for call in calls]).sum(0))

    def _through_model(self, inputs: Any, targets: Tensor, names: set[str]) -> Tensor:
        """Per-sample gradients of the named parameters through the whole model."""
        once = {id(self.parameters[name]): name for name in sorted(names)}
        chosen = {name: self.parameters[name].detach() for name in once.values()}
        alias = {name: once[id(self.parameters[name])] for name in names}

        def loss_of_one(parameters: dict[str, Tensor], x: Any, y: Tensor) -> Tensor:
            single = tree_map(lambda tensor: torch.stack([tensor] * self.company), (x, y))
            tied = {f"model.{name}": parameters[one] for name, one in alias.items()}
            return functional_call(self.whole, tied, single, tie_weights=False)[0]

        per_sample = vmap(grad(loss_of_one), in_dims=(None, 0, 0), chunk_size=FALLBACK_CHUNK)
        if self.batched:
            try:
                with _without_notes_on_speed():
                    found = per_sample(chosen, inputs, targets)
                return _rows({name: found[name].detach() for name in chosen})
            except RuntimeError:
                # Some operations (such as fused recurrent cells) cannot be batched by vmap.
                self.batched = False
        alone = (torch.tensor([row] * self.company) for row in range(len(targets)))
        each = [self._one_by_one(take(inputs, row), targets[row], chosen) for row in alone]
        return torch.cat([_rows(one)[:1] for one in each])

    def _one_by_one(self, inputs: Any, targets: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Per-sample gradients of the named parameters, one backward pass per sample."""
        chosen = {name: self.parameters[name] for name in names}
        with torch.enable_grad():
            losses = list(self._losses(inputs, targets))
        rows = [
            torch.autograd.grad(
                loss, list(chosen.values()), retain_graph=True, materialize_grads=True
            )
            for loss in losses
        ]
        columns = (torch.stack([g.to_dense() for g in one]) for one in zip(*rows, strict=True))
        return dict(zip(chosen, columns, strict=True))

    def _unexplained(self, inputs: Any, targets: Tensor) -> set[str]:
        """Names of the parameters whose per-sample gradients the rules do not reproduce."""
        earlier, watched, called = NOTHING, set(self.ruled), set[str]()
        self.company = 1 if self._accepts_one(inputs, targets) else 2
        self._leave_out_unused(inputs, targets)
        for size in CHECKED_SAMPLES:
            # With two batch sizes, the sample dimension cannot be confused with another dimension
            # that happens to have the same length.
            few = torch.arange(size) % len(targets)
            some, labels = take(inputs, few), targets[few]
            wanted = self._one_by_one(some, labels, self.parameters)
            losses, calls = self._record(some, labels)
            called |= calls.keys()
            for before, now in zip(earlier, losses, strict=False):
                _refuse_mixing(before, now, losses)
            earlier = losses
            for name, own in list(self.ruled.items()):
                gradients = _rows({full: wanted[full] for full in own})
                if not self._explains(name, calls.get(name), gradients):
                    del self.ruled[name]
        left = self.parameters.keys() - self.unused.keys() - set().union(*self.ruled.values())
        if left:
            once = {id(self.parameters[name]): name for name in sorted(left)}
            gradients = _rows({name: wanted[name] for name in once.values()})
            self.batched = _agree(self._through_model(some, labels, left), gradients)
        skipped = watched - called
        self.unseen_layers = [n for n in self.modules if n not in skipped and self._is_unseen(n)]
        return left

    def _accepts_one(self, inputs: Any, targets: Tensor) -> bool:
        """Return whether model and loss can be called with a single sample."""
        one = torch.tensor([0])
        try:
            return self._losses(take(inputs, one), targets[one]).shape == (1,)
        except Exception:  # whatever a user's model raises where its batch dimension is gone
            return False

    def _leave_out_unused(self, inputs: Any, targets: Tensor) -> None:
        """Drop modules that the loss does not depend on, such as a head for another purpose."""
        few = torch.arange(max(CHECKED_SAMPLES)) % len(targets)
        with torch.enable_grad():
            total = self._losses(take(inputs, few), targets[few]).sum()
        found = torch.autograd.grad(total, list(self.parameters.values()), allow_unused=True)
        pairs = zip(self.parameters.items(), found, strict=True)
        self.unused = {name: p for (name, p), gradient in pairs if gradient is None}
        for name, own in list(self.ruled.items()):
            if own <= self.unused.keys():
                del self.ruled[name]

    def _is_unseen(self, name: str) -> bool:
        """Return whether a module is a trainable linear layer without factors."""
        module = self.modules[name]
        trained = any(parameter.requires_grad for parameter in module.parameters())
        seen = type(module) is nn.Linear and self.held[name].keys() == self.ruled.get(name)
        return isinstance(module, nn.Linear) and trained and not seen

    def _explains(self, name: str, calls: list[_Call] | None, wanted: Tensor) -> bool:
        """Return whether a module's factors reproduce the inner products of its true gradients."""
        if not calls or not wanted.any():  # zero gradients would agree with any rule
            return False
        try:
            found = self._factor(name, calls).dense()
        except Exception:
            # A user's module may raise anything when it is differentiated alone, per sample.
            return False
        return len(found) == len(wanted) and _agree(
            found, wanted, *(call.gradient.dtype for call in calls)
        )


def _routed(module: str) -> DemixError:
    return DemixError(
        f"module {module!r} is not called with every sample of every batch; a model that sends "
        "samples different ways is not supported."
    )


def _at_least_single(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mapped(factor: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of a factor, those of its layer included."""
    parts = {k: v for k, v in vars(factor).items() if isinstance(v, Tensor | LinearFactor)}
    changed = {
        k: change(v) if isinstance(v, Tensor) else _mapped(v, change) for k, v in parts.items()
    }
    return replace(factor, **changed)


def _agree(found: Tensor, wanted: Tensor, *kinds: torch.dtype) -> bool:
    """Return whether two sets of gradients have the same inner products, where finite."""
    # The rounding of a half-precision model must not count as a failed rule.
    precision = max(torch.finfo(kind).eps for kind in (wanted.dtype, *kinds))
    known = wanted.isfinite().all(dim=1)
    found, wanted = found[known].double(), wanted[known].double()
    gap = (found @ found.T - wanted @ wanted.T).abs()
    norms = wanted.norm(dim=1)
    norms = norms.clamp_min(10 * precision * norms.max()) if len(norms) else norms
    return bool((gap <= precision**0.5 * norms[:, None] * norms).all())


@contextmanager
def _without_notes_on_speed() -> Iterator[None]:
    """Silence PyTorch's warning about operations without a batching rule for vmap."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield


def _rows(gradients: dict[str, Tensor]) -> Tensor:
    """Write the gradients of several parameters side by side, shape ``(n, P)``."""
    return torch.cat([g.reshape(len(g), -1) for g in gradients.values()], dim=1)


def _refuse_mixing(loss: Tensor, alone: Tensor, losses: Tensor) -> None:
    """Raise if the loss of a sample changes with the other samples of its batch."""
    share = max(LOOSE, torch.finfo(losses.dtype).eps ** 0.5)
    if (loss - alone).abs() > share * losses.nan_to_num(0, 0, 0).abs().max():
        raise DemixError(
            "the loss of a sample depends on the samples beside it, or on chance; influence needs "
            "a model and a loss that treat every sample by itself, without dropout."
        )


def _same_row(row: int, together: Tensor, alone: Tensor) -> bool:
    """Return whether a module gets the same input in a batch as for the sample alone.

    ``alone`` holds the sample twice. Inputs padded to another length, or without a sample
    dimension, cannot be compared and count as the same.
    """
    by_sample = together.dim() and len(alone) == 2 < len(together) > row
    if not by_sample or together.shape[1:] != alone.shape[1:]:
        return True
    first, second = together[row], alone[0]
    if not first.is_floating_point():
        return torch.equal(first, second)
    gap = (first - second).double().norm()
    share = max(LOOSE, 2 * torch.finfo(first.dtype).eps ** 0.5)
    return not gap > share * second.double().norm()


def _trainable(prefix: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters that the module itself holds, by full name."""
    own = module.named_parameters(prefix, recurse=False, remove_duplicate=False)
    return {name: parameter for name, parameter in own if parameter.requires_grad}


def _recorded(call: _Call) -> int:
    return sum(tensor.numel() for tensor in (*call.tensors, call.gradient)) // len(call.gradient)


def refuse_batch_statistics(model: nn.Module) -> None:
    """Raise :class:`DemixError` if a module in training mode would mix the samples of a batch.

    Examples
    --------
    >>> refuse_batch_statistics(nn.BatchNorm1d(3).eval())
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or not module.track_running_stats
        ):
            raise DemixError(
                f"module {name or type(module).__name__!r} normalises over the batch, so the "
                "gradient of one sample depends on the others; call model.eval() first."
            )


def _side_by_side(calls: list[Tensor]) -> Tensor:
    """Join tensors (n, ..., width) along one dimension of positions; a single one is not copied."""
    parts = [x.flatten(1, -2) if x.dim() > 2 else x[:, None] for x in calls]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _linear_factor(calls: list[_Call], own: set[str]) -> LinearFactor:
    # Repeated calls are joined as further positions, which also covers their cross terms.
    a = _side_by_side([call.input for call in calls])
    g = _side_by_side([call.gradient for call in calls])
    ones = a.new_ones(*a.shape[:2], 1)
    if own == {"bias"}:
        a = ones
    elif "bias" in own:
        a = torch.cat([a, ones], dim=-1)
    return LinearFactor(a, g)


def _embedding_factor(module: nn.Embedding, calls: list[_Call]) -> EmbeddingFactor:
    ids = torch.cat([call.input.reshape(len(call.gradient), -1) for call in calls], dim=1)
    g = _side_by_side([call.gradient for call in calls])
    if module.padding_idx is not None:
        g = g * (ids != module.padding_idx)[..., None]
    return EmbeddingFactor(ids, g, module.num_embeddings)


def _norm_gradient(module: Any, call: _Call, own: set[str]) -> Tensor:
    if type(module) is nn.LayerNorm:
        normal = F.layer_norm(call.input, module.normalized_shape, eps=module.eps)
    else:
        # Whatever the normalisation, the output is affine in the weight.
        weight = module.weight.detach()
        one, zero = (
            functional_call(module, {"weight": like(weight)}, call.args, call.kwargs)
            for like in (torch.ones_like, torch.zeros_like)
        )
        normal = one - zero
    whole = {"weight": call.gradient * normal, "bias": call.gradient}
    shape = (len(call.gradient), -1, *module.weight.shape)
    parts = [whole[name].reshape(shape).sum(1).flatten(1) for name in whole if name in own]
    return torch.cat(parts, dim=1)


def _local_gradient(module: nn.Module, call: _Call, own: set[str]) -> Tensor:
    """Differentiate one module alone, sample by sample, from its recorded call."""
    parameters = {n: p.detach() for n, p in module.named_parameters(recurse=False) if n in own}

    def gradient_of_one(given: tuple, output_gradient: Tensor) -> dict[str, Tensor]:
        args, kwargs = tree_map_only(Tensor, lambda x: x[None], given)
        pull_back = vjp(lambda p: functional_call(module, p, args, kwargs), parameters)[1]
        return pull_back(output_gradient[None])[0]

    given = call.args, call.kwargs
    in_dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, given)
    with _without_notes_on_speed():
        return _rows(vmap(gradient_of_one, in_dims=(in_dims, 0))(given, call.gradient))
