"""The models of deepctr-torch on our inputs, to compare ours with; needs the extra ``test``."""

import sys
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from demix_lite.models import Layout


def deepctr() -> SimpleNamespace:
    """Import the parts of deepctr-torch that are compared with; ImportError if it is absent."""
    # The package asks the network for newer versions whenever it is imported: not here.
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
    """Describe our inputs in the words of deepctr-torch."""
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
    """Put our inputs side by side, in the order in which a model of deepctr-torch reads them."""
    columns = {name: inputs[name] for name in ("user", "item", "kind", "numbers")}
    columns |= {f"field{i}": ids for i, ids in enumerate(inputs["fields"].unbind(1))}
    columns |= {"hist_item": inputs["history"], "hist_kind": inputs["history_kind"]}
    columns["length"] = (inputs["history"] != 0).sum(1)
    # The tags that are set, by their number from 1; unset ones are padding.
    columns["tags"] = (inputs["tags"] > 0) * torch.arange(1, inputs["tags"].shape[1] + 1)
    order = list(theirs.feature_index)  # type: ignore[arg-type]
    return torch.cat([columns[n].reshape(len(inputs["user"]), -1).float() for n in order], 1)
