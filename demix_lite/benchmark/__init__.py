"""The protocol: one run of the whole line, judged on clean test rows."""

from demix_lite.benchmark.pipeline import Outcome, run_pipeline

__all__ = ["Outcome", "run_pipeline"]
