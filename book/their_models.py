"""The models of deepctr-torch on our inputs, for comparison; needs the extra ``test``."""

import sys
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from demix_lite.models import DIN, Layout
from demix_lite.models.din import LocalActivation
from demix_lite.models.mlp import MLP

Pairs = Iterator[tuple[Tensor, Tensor]]
"""Corresponding weights of our model and of theirs, as views of their parameters."""


def deepctr() -> SimpleNamespace:
    """Import the parts of deepctr-torch to compare with; ImportError if it is not installed."""
    # The package checks online for newer versions when it is imported; this prevents it.
    silent = ModuleType("deepctr_torch.utils")
    vars(silent)["check_version"] = lambda version: None
    sys.modules.setdefault("deepctr_torch.utils", silent)
    from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
    from deepctr_torch.models.dien import DIEN
    from deepctr_torch.models.din import DIN

    return SimpleNamespace(
        DIN=DIN, DIEN=DIEN, one=SparseFeat, many=VarLenSparseFeat, number=DenseFeat
    )


def their_columns(layout: Layout, length: int, dim: int) -> list:
    """Describe our inputs as feature columns of deepctr-torch."""
    kinds = deepctr()

    def history(name: str, size: int) -> object:
        feature = kinds.one(f"hist_{name}", size, dim, embedding_name=name)
        return kinds.many(feature, length, length_name="length")

    fields = [kinds.one(f"field{i}", size, dim) for i, size in enumerate(layout.fields)]
    tags = kinds.many(kinds.one("tags", layout.tags + 1, dim), layout.tags, combiner="mean")
    return [
        *(kinds.one("user", layout.users, dim), *fields),
        *(kinds.one("item", layout.items, dim), kinds.one("kind", layout.kinds, dim)),
        *(history("item", layout.items), history("kind", layout.kinds)),
        *([tags] if layout.tags else []),
        *([kinds.number("numbers", layout.numbers)] if layout.numbers else []),
    ]


def their_inputs(theirs: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Concatenate our inputs in the order in which a model of deepctr-torch reads them."""
    columns = {name: inputs[name] for name in ("user", "item", "kind", "numbers")}
    columns |= {f"field{i}": ids for i, ids in enumerate(inputs["fields"].unbind(1))}
    columns |= {"hist_item": inputs["history"], "hist_kind": inputs["history_kind"]}
    columns["length"] = (inputs["history"] != 0).sum(1)
    # Tags that are set get their number, from 1; unset ones are padding.
    columns["tags"] = (inputs["tags"] > 0) * torch.arange(1, inputs["tags"].shape[1] + 1)
    order = list(theirs.feature_index)  # type: ignore[arg-type]
    return torch.cat([columns[n].reshape(len(inputs["user"]), -1).float() for n in order], 1)


def same_din(ours: DIN, theirs: nn.Module) -> Pairs:
    """Yield corresponding weights of our DIN and of theirs."""
    parts: Any = theirs
    yield from same_embeddings(ours.embeddings, parts.embedding_dict)
    yield from same_attention(ours.attention, parts.attention.local_att)
    embeddings = ours.embeddings
    first, *hidden, last = linear(ours.head)
    # Our order is attributes, numbers, interest; theirs is attributes, interest, numbers.
    width, other = embeddings.interest_width, parts.dnn.linears[0]
    start = width // 2 * (3 + len(embeddings.fields) + (embeddings.tags is not None))
    end = embeddings.attributes_width
    yield first.weight[:, :start], other.weight[:, :start]
    yield first.weight[:, start:end], other.weight[:, start + width :]
    yield first.weight[:, end:], other.weight[:, start : start + width]
    yield first.bias, other.bias
    yield from same_layers(hidden, parts.dnn.linears[1:])
    yield last.weight, parts.dnn_linear.weight
    yield last.bias, parts.out.bias


def same_embeddings(ours: Any, theirs: Any) -> Pairs:
    """Yield corresponding embeddings; theirs have one more, for no tag, which has no effect."""
    yield ours.user.weight, theirs["user"].weight
    yield ours.item.weight, theirs["item"].weight
    yield ours.kind.weight, theirs["kind"].weight
    for i, field in enumerate(ours.fields):
        yield field.weight, theirs[f"field{i}"].weight
    if ours.tags is not None:
        yield ours.tags.weight.T, theirs["tags"].weight[1:]


def same_attention(ours: LocalActivation, theirs: Any) -> Pairs:
    """Yield corresponding weights of the local activation units."""
    yield from same_layers(linear(ours.mlp), [*theirs.dnn.linears, theirs.dense])


def same_layers(ours: Sequence[nn.Linear], theirs: Sequence[nn.Linear]) -> Pairs:
    """Yield corresponding weights and biases of linear layers."""
    for mine, other in zip(ours, theirs, strict=True):
        yield mine.weight, other.weight
        yield mine.bias, other.bias


def linear(network: MLP) -> list[nn.Linear]:
    """Return the linear layers of one of our networks."""
    return [layer for layer in network.layers if isinstance(layer, nn.Linear)]
