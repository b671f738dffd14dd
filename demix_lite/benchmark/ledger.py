"""The ledger: one line per finished run, with everything needed to check or repeat it."""

import csv
import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from filelock import FileLock

from demix_lite import report
from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.errors import DemixError
from demix_lite.models.training import resolve_device
from demix_lite.whole_file import whole_file

RESULTS_LEFT_OUT = ":(top,exclude)book/results"
PROCESSOR = f"{platform.system()} {platform.machine()} CPU"
VARIANTS = tuple(report.VARIANTS)
STAGES = ("load", "inject", "fit", "influence", "detect", "repair", "refit", "evaluate")
KEY = ("task", "method", "architecture", "clean_ratio", "seed", "protocol", "source")
COLUMNS = (
    *KEY,
    *("rule", "train_rows", "validation"),
    *(f"f1_{kind}" for kind in (*ERROR_TYPES, "macro", "any")),
    *(f"ap_{kind}" for kind in (*ERROR_TYPES, "any")),
    *("metric_name", "metric_better"),
    *(f"metric_{variant}" for variant in VARIANTS),
    *(f"worst_group_{variant}" for variant in VARIANTS),
    *(f"seconds_{stage}" for stage in STAGES),
    *("peak_mb", "device", "cores", "versions", "commit", "data_sha256"),
)
"""Columns of the ledger; the first seven identify a run."""


def append_row(path: str | Path, row: dict[str, Any]) -> None:
    """Append one finished run to a ledger, unless another process has finished the same run."""
    append_rows(path, [row], key=KEY)


def append_rows(
    path: str | Path,
    rows: Sequence[dict[str, Any]],
    columns: Sequence[str] = COLUMNS,
    *,
    key: Sequence[str] = (),
) -> None:
    """Append finished rows, all of them or none; several processes may append to the same file.

    Rows have a value for every column; other keys are ignored. With ``key``, the columns that
    identify a row, rows that are already in the file are not written again.

    Raises
    ------
    DemixError
        If a row lacks a column, or the file has different columns.
    """
    missing = sorted({column for row in rows for column in columns if column not in row})
    if missing:
        raise DemixError(f"the result lacks the ledger column(s) {', '.join(missing)}.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ",".join(columns)
    with FileLock(lock_of(path)):
        check_columns(path, columns)
        there = keys_of(path, key) if key else set()
        new = [row for row in rows if tuple(str(row[column]) for column in key) not in there]
        lines = path.read_text(encoding="utf-8") if path.exists() else header + "\n"
        with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            file.write(lines if lines.endswith("\n") else lines + "\n")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([row[column] for column in columns] for row in new)


def keys_of(path: Path, key: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the values, as text, that identify the rows of a file; empty if there is no file.

    Raises
    ------
    DemixError
        If a line of the file has too few or too many values.

    Examples
    --------
    >>> keys_of(Path("no-such-ledger.csv"), KEY)
    set()
    """
    if not path.exists():
        return set()
    header, *lines = _lines(path)
    places = [header.index(column) for column in key]
    return {tuple(line[place] for place in places) for line in lines}


def _lines(path: Path) -> list[list[str]]:
    """Return the values of every line, header first; raise an error if their number differs."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if not header:
        raise DemixError(f"{path} is empty: take it away, and the same command begins anew.")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise DemixError(
                f"line {number} of {path} has {len(line)} values instead of {len(header)}; "
                "take it out, and the same command runs it again."
            )
    return [header, *lines]


def check_columns(path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Raise :class:`DemixError` if an existing ledger has different columns."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        if file.readline().rstrip("\n") != ",".join(columns):
            raise DemixError(
                f"{path} has other columns than this version of demix_lite writes; "
                "move it away or name another file."
            )


def lock_of(path: Path) -> str:
    """Return the name of the lock file of a ledger, in the temporary folder."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return str(Path(tempfile.gettempdir()) / f"demix_lite-{name}.lock")


def read_ledger(path: str | Path) -> pd.DataFrame:
    """Read a ledger; a missing file is an empty ledger.

    Raises
    ------
    DemixError
        If a line has too few or too many values.

    Examples
    --------
    >>> read_ledger("no-such-ledger.csv").empty
    True
    """
    path = Path(path)
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    _lines(path)  # pandas would pad a line that is too short
    return pd.read_csv(path, dtype={"commit": str})  # 1e12345 is a commit, not a number


def reset_peak(device: str | None) -> None:
    """Forget the peak memory use so far, where the system allows it (Linux, CUDA)."""
    if resolve_device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(resolve_device(device))
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes(device: str | None) -> float:
    """Return the peak memory use since :func:`reset_peak`, in MB (on CUDA: of the device)."""
    if resolve_device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(resolve_device(device)) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: with it, a child process starts with the peak of its parent.
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 / 1e6
    if platform.system() == "Darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss) / 1e6


def provenance(device: str | None) -> dict[str, Any]:
    """Return device, number of cores, package versions and commit of this run.

    Examples
    --------
    >>> provenance(None)["device"] != ""
    True
    """
    place = resolve_device(device)
    named = torch.cuda.get_device_name(place) if place.type == "cuda" else PROCESSOR
    packages = ("torch", "numpy", "pandas", "scikit-learn")
    versions = [f"{package} {version(package)}" for package in packages]
    return {
        "device": named,
        "cores": torch.get_num_threads(),
        "versions": " ".join([f"python {platform.python_version()}", *versions]),
        "commit": _commit(),
    }


def _commit() -> str:
    """Return the commit of the code, followed by "-dirty" if the code was changed since."""
    # If the package is installed inside another repository, that one's commit is not meant.
    if not shutil.which("git") or not _git("ls-files", Path(__file__).name):
        return "unknown"
    name = _git("describe", "--always", "--exclude", "*")
    # Result files are left out: rows that a run has just written do not change what is measured.
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", RESULTS_LEFT_OUT)
    return f"{name}-dirty" if name and changed else name or "unknown"


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent
    asked = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
    return asked.stdout.strip()
