"""The FT-Transformer (Gorishniy et al., 2021) behind the one-hot encoding of the other models."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from demix_lite.errors import DemixError

try:
    from rtdl_revisiting_models import FTTransformer
except ImportError as error:  # pragma: no cover - depends on the installed extras
    raise DemixError(
        "the FT-Transformer needs the package rtdl_revisiting_models; "
        'install it with: pip install "demix_lite[tabular]".'
    ) from error


class OneHotFTTransformer(nn.Module):
    """An FT-Transformer that reads standardised numbers followed by one-hot categories.

    Parameters
    ----------
    numbers : int
        Number of numeric columns, which come first.
    cardinalities : sequence of int
        Number of categories of each categorical column, in order.
    outputs : int
        Width of the output.
    """

    def __init__(self, numbers: int, cardinalities: Sequence[int], outputs: int):
        super().__init__()
        self.numbers = numbers
        self.cardinalities = list(cardinalities)
        self.transformer = FTTransformer(
            n_cont_features=numbers,
            cat_cardinalities=[c + 1 for c in cardinalities],
            d_out=outputs,
            n_blocks=2,
            d_block=64,
            attention_n_heads=4,
            attention_dropout=0.0,
            ffn_d_hidden=None,
            ffn_d_hidden_multiplier=4 / 3,
            ffn_dropout=0.0,
            residual_dropout=0.0,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, width)`` to ``(n, outputs)``."""
        numbers, *one_hot = x.split([self.numbers, *self.cardinalities], dim=-1)
        # An unseen category is encoded as all zeros: it gets the last id of its column.
        ids = [torch.cat([b, 1.0 - b.sum(-1, keepdim=True)], -1).argmax(-1) for b in one_hot]
        return self.transformer(
            numbers if self.numbers else None, torch.stack(ids, dim=-1) if ids else None
        )
