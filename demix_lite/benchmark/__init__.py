"""The benchmark: runs of the whole pipeline, evaluated on clean test rows."""

from demix_lite.benchmark.ledger import COLUMNS, append_row, read_ledger
from demix_lite.benchmark.pipeline import Outcome, Prepared, judge, prepare, run_pipeline

__all__ = [
    "COLUMNS",
    "Outcome",
    "Prepared",
    "append_row",
    "judge",
    "prepare",
    "read_ledger",
    "run_pipeline",
]
