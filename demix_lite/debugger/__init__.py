"""Diagnose a user's own table: a scikit-learn-like estimator around the detector."""

from demix_lite.debugger.estimator import DataDebugger, Score
from demix_lite.debugger.evidence import Evidence
from demix_lite.debugger.shortcut_names import NamedShortcut

__all__ = ["DataDebugger", "Evidence", "NamedShortcut", "Score"]
