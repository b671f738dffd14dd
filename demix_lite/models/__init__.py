"""Task models: plain PyTorch modules."""

from demix_lite.models.dien import DIEN
from demix_lite.models.din import DIN, Layout
from demix_lite.models.mlp import MLP
from demix_lite.models.training import Trained, fit, predict

__all__ = ["DIEN", "DIN", "MLP", "Layout", "Trained", "fit", "predict"]
