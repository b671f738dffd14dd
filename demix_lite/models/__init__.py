"""Task models: plain PyTorch modules."""

from demix_lite.models.mlp import MLP
from demix_lite.models.training import Trained, fit, predict

__all__ = ["MLP", "Trained", "fit", "predict"]
