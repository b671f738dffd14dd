"""The benchmark as a grid: which method judges which run; it resumes where it stopped.

A *cell* is one run (task × architecture × clean ratio × seed); every method judges the same run.
Rows are written to the ledger one by one as they are finished.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from joblib import delayed

from demix_lite.baselines import BASELINES, YARDSTICKS, SummaryGBM
from demix_lite.benchmark.ledger import KEY, append_row, check_columns, keys_of, lock_of
from demix_lite.benchmark.pipeline import Prepared, judge, prepare
from demix_lite.benchmark.processes import side_by_side
from demix_lite.benchmark.protocols import (
    OTHER_FAMILY,
    PRACTISING,
    Curriculum,
    curriculum_for,
    detector_for,
    environment_bank,
    family_tasks,
    train_detectors,
)
from demix_lite.data.store import data_home
from demix_lite.errors import DemixError, refuse_unknown
from demix_lite.models.training import resolve_device
from demix_lite.tasks import get_task
from demix_lite.whole_file import whole_file

SEEDS = range(5)
RATIOS = (0.4, 0.6, 0.7, 0.8)
MAIN = ("demix_lite", "summary_gbm", "ddc", "dda_repair", "random", "oracle")
"""Methods that are also evaluated at other clean ratios and on other architectures."""

OF_DETECTORS = ("demix_lite", "demix_paper")
"""Methods that are detectors, trained under a protocol."""

TUNING_ROWS, TUNING_INJECTIONS = 3000, 6
PROTOCOLS = ("in-task", "leave-one-task-out", "unified")
"""Protocols of every family; practised and other-family are added where such detectors exist."""

Entry = tuple[str, str]
"""A method and the protocol it was trained under."""


@dataclass(frozen=True)
class Cell:
    """One run and the methods that judge it."""

    task: str
    architecture: str
    clean_ratio: float
    seed: int
    entries: tuple[Entry, ...]

    def key(self, entry: Entry, source: str) -> tuple[Any, ...]:
        """Return the ledger's key of one method's row."""
        method, protocol = entry
        run = self.architecture, self.clean_ratio, self.seed
        return (self.task, method, *run, protocol, source)


def suite(family: str, *, quick: bool = False, tasks: Collection[str] = ()) -> list[Cell]:
    """Return the grid of a family, or of some of its tasks; ``quick`` returns a small part of it.

    At a clean ratio of 0.5 and with the first architecture, every method judges every run under
    every protocol it has. At other ratios and with other architectures, only the main methods do.

    Raises
    ------
    DemixError
        If the family is unknown or has no such task.

    Examples
    --------
    >>> cells = suite("tabular")
    >>> len(cells), len(suite("tabular", quick=True))
    (210, 1)
    """
    known = family_tasks(family)
    refuse_unknown(f"task of the suite {family}", tasks, known)
    asked = tuple(task for task in known if task in tasks)
    tasks = asked or known
    standard, *others = get_task(tasks[0]).architectures
    fitting = (name for name, kind in BASELINES.items() if kind.applies_to(get_task(tasks[0])))
    more = {"practised": family in PRACTISING, "other-family": family in OTHER_FAMILY}
    ours = (*PROTOCOLS, *(protocol for protocol, there in more.items() if there))
    everyone = (
        *(("demix_lite", protocol) for protocol in ours),
        *((name, "in-task") for name in ("demix_paper", "summary_gbm", *fitting, *YARDSTICKS)),
    )
    if quick:
        few = (("demix_lite", "unified"), ("composite", "in-task"), ("random", "in-task"))
        entries = (*few, ("oracle", "in-task"))
        return [Cell(task, standard, 0.5, 0, entries) for task in asked or known[:1]]
    main = tuple(
        entry for entry in everyone if entry[0] in MAIN and entry[1] in ("in-task", "unified")
    )
    left_out = ("demix_lite", "leave-one-architecture-out")
    grid = [
        (standard, 0.5, everyone),
        *((standard, ratio, main) for ratio in RATIOS),
        *((model, 0.5, (*main, left_out)) for model in others),
    ]
    return [
        Cell(task, architecture, ratio, seed, entries)
        for architecture, ratio, entries in grid
        for seed in SEEDS
        for task in tasks
    ]


def some(
    cells: Sequence[Cell],
    *,
    methods: Collection[str] | None = None,
    protocols: Collection[str] | None = None,
) -> list[Cell]:
    """Keep the part of a grid with these methods and protocols; None means all.

    Raises
    ------
    DemixError
        If the grid has no such method or protocol, or nothing is left.
    """
    for kind, asked, place in (("method", methods, 0), ("protocol", protocols, 1)):
        known = sorted({entry[place] for cell in cells for entry in cell.entries})
        refuse_unknown(kind, asked or (), known)

    def wanted(cell: Cell, entry: Entry) -> bool:
        method, protocol = entry
        return (not methods or method in methods) and (not protocols or protocol in protocols)

    kept = list(_with_entries(cells, wanted))
    if not kept:
        raise DemixError("no row of the grid has these methods under these protocols.")
    return kept


def _with_entries(cells: Iterable[Cell], wanted: Callable[[Cell, Entry], bool]) -> Iterator[Cell]:
    """Yield the cells that have wanted entries, with only these entries."""
    for cell in cells:
        entries = tuple(entry for entry in cell.entries if wanted(cell, entry))
        if entries:
            yield replace(cell, entries=entries)


def run_suite(
    cells: Sequence[Cell],
    ledger: Path,
    *,
    source: str = "real",
    train_rows: int | None = None,
    jobs: int | None = None,
    device: str | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> None:
    """Add the missing rows of a grid to the ledger; nothing is run twice.

    Rows are appended as they are finished. ``train_rows`` is the largest number of training rows of
    a run (by default that of the task). ``jobs`` is the number of parallel processes, with one
    thread each, for cells and for environments (by default one per core). Models are trained and
    influence is computed on ``device``, by default the CPU.
    """
    resolve_device(device)
    check_columns(ledger)
    todo = list(_missing(cells, ledger, source))
    announce(f"{sum(len(c.entries) for c in todo)} rows to run, in {len(todo)} runs")
    if not todo:
        return
    how: dict[str, Any] = {"source": source, "device": device, "jobs": jobs}
    _train_missing(todo, announce=announce, **how)
    for task in dict.fromkeys(cell.task for cell in todo):
        names = {name for cell in todo if cell.task == task for name, _ in cell.entries}
        fit_methods(task, names, announce=announce, **how)
    _record_tuning(ledger.parent / "tuning.csv", source)
    work = [delayed(_run_cell)(cell, ledger, source, train_rows, device) for cell in todo]
    for _ in side_by_side(work, "runs", jobs):
        pass


def _missing(cells: Sequence[Cell], ledger: Path, source: str) -> Iterator[Cell]:
    done = keys_of(ledger, KEY)
    return _with_entries(
        cells, lambda cell, entry: tuple(map(str, cell.key(entry, source))) not in done
    )


def _run_cell(
    cell: Cell, ledger: Path, source: str, train_rows: int | None, device: str | None
) -> None:
    """Let the methods judge one run; skip rows that another process has finished meanwhile."""
    torch.set_num_threads(1)
    if not any(_missing([cell], ledger, source)):
        return
    prepared = prepare(
        cell.task,
        source=source,
        clean_ratio=cell.clean_ratio,
        architecture=cell.architecture,
        seed=cell.seed,
        train_rows=train_rows or get_task(cell.task).judged_rows,
        device=device,
    )
    for name, protocol in cell.entries:
        entry = replace(cell, entries=((name, protocol),))
        if any(_missing([entry], ledger, source)):
            method = _method(name, protocol, prepared, source)
            append_row(ledger, judge(prepared, method, protocol=protocol).row)


def _method(name: str, protocol: str, prepared: Prepared, source: str) -> Any:
    """Return a method, trained or tuned, that can judge a run."""
    task = prepared.task.name
    if name in YARDSTICKS:
        return YARDSTICKS[name](prepared.injection.train.errors)
    if name in OF_DETECTORS:
        return detector_for(_learned(name, protocol), task, prepared.facts["architecture"])
    kind = SummaryGBM if name == SummaryGBM.name else BASELINES[name]
    return kind.load(_kept(name, task, source))


def _learned(name: str, protocol: str) -> str:
    """Return the protocol that a detector was trained under; the paper's detector has its own."""
    return "paper" if name == "demix_paper" else protocol


def _kept(name: str, task: str, source: str) -> Path:
    suffix = "joblib" if name == SummaryGBM.name else "json"
    return data_home() / "baselines" / f"{task}-{source}-{name}.{suffix}"


def _train_missing(cells: Iterable[Cell], **options: Any) -> None:
    """Train the detectors that the cells need and that do not exist yet."""
    wanted: dict[str, Curriculum] = {}
    for cell in cells:
        for name, protocol in cell.entries:
            if name in OF_DETECTORS:
                plan = curriculum_for(_learned(name, protocol), cell.task, cell.architecture)
                wanted[plan.name] = plan
    train_detectors(list(wanted.values()), **options)


def fit_methods(
    task: str,
    names: Iterable[str],
    *,
    announce: Callable[[str], None] = lambda line: None,
    source: str = "real",
    **how: Any,
) -> None:
    """Tune the baselines of a task on its training environments and save them.

    ``how`` has options of :func:`environment_bank`, such as ``device`` and ``jobs``.
    """
    methods = (SummaryGBM.name, *BASELINES)
    missing = [n for n in methods if n in names and not _kept(n, task, source).exists()]
    if SummaryGBM.name in missing:
        environments = environment_bank([task], source=source, **how)[task]
        SummaryGBM().fit(environments).save(_kept(SummaryGBM.name, task, source))
        missing.remove(SummaryGBM.name)
    if not missing:
        return
    environments = environment_bank(
        [task],
        source=source,
        injections=TUNING_INJECTIONS,
        rows=TUNING_ROWS,
        architectures=get_task(task).architectures[:1],
        sample=None,
        **how,
    )[task]
    for name in missing:
        announce(f"{name}: tuned on {len(environments)} environments of {task}")
        BASELINES[name]().fit(environments).save(_kept(name, task, source))


def _record_tuning(path: Path, source: str) -> None:
    """Write the results of the search; keep those of other baselines, sources and machines."""
    found, key = tuning_table(source), ["task", "method", "source"]
    with FileLock(lock_of(path)):
        if path.exists():
            found = pd.concat([pd.read_csv(path), found])
            found = found.drop_duplicates(key, keep="last").sort_values(key)
        with whole_file(path) as part:
            found.to_csv(part, index=False, lineterminator="\n")


def tuning_table(source: str = "real") -> pd.DataFrame:
    """Return the settings found for every baseline and task, next to the settings searched."""
    rows = []
    for file in sorted((data_home() / "baselines").glob(f"*-{source}-*.json")):
        task, name = file.stem.split(f"-{source}-")
        if name in BASELINES:
            kind = BASELINES[name]
            settings = kind.load(file).settings
            rows.append((task, name, source, kind.reference, kind.space, settings))
    columns = ["task", "method", "source", "reference", "searched", "found"]
    return pd.DataFrame(rows, columns=columns)
