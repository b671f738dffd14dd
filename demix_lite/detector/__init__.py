"""The detector: a set classifier over influence vectors."""

from demix_lite.detector.classifier import DetectorSettings, ErrorDetector
from demix_lite.detector.environments import Environment, make_environment
from demix_lite.detector.runs import CHANNELS, Run, open_run
from demix_lite.detector.training import TrainingSettings

__all__ = [
    "CHANNELS",
    "DetectorSettings",
    "Environment",
    "ErrorDetector",
    "Run",
    "TrainingSettings",
    "make_environment",
    "open_run",
]
