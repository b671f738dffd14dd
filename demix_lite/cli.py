"""The command line, for example ``demix-lite run adult``."""

import argparse
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any

import shtab
from tqdm import tqdm

from demix_lite import __version__
from demix_lite.errors import DemixError, check_count, refuse_unknown
from demix_lite.whole_file import check_writable, whole_file

EXAMPLES = """
examples:
  demix-lite diagnose train.csv --target income     your own table: what is wrong, row by row
  demix-lite run adult                              the built-in twin, no download
  demix-lite run adult --clean-ratio 0.8 --seed 3   fewer errors, another draw
  demix-lite run adult --source real --json a.json  after: python -m data_scripts adult
  demix-lite bench --suite tabular --quick          a small slice of the benchmark
  demix-lite train-detector tabular --again         the shipped weights, trained again
"""

TASKS = """\
adult          tabular         accuracy             models: mlp1, mlp2, ft_transformer
bank           tabular         accuracy             models: mlp1, mlp2, ft_transformer
credit         tabular         accuracy             models: mlp1, mlp2, ft_transformer
covertype      tabular         accuracy             models: mlp1, mlp2, ft_transformer
bike           tabular         MSE                  models: mlp1, mlp2, ft_transformer
air            tabular         MSE                  models: mlp1, mlp2, ft_transformer
movielens      recommendation  AUC                  models: din, dien
amazon         recommendation  AUC                  models: din, dien
yelp           recommendation  AUC                  models: din, dien
ultrafeedback  alignment       preference accuracy  models: lora, last
capybara       alignment       preference accuracy  models: lora, last"""
"""The registry as text, so that ``tasks`` need not import PyTorch."""

SETTINGS = (
    *("source", "clean_ratio", "architecture", "model", "seed", "rows"),
    *("validation", "rule", "co_occurring", "device"),
)
"""Options of ``run`` that are passed to the pipeline."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (2 for a user error)."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack "→", or a letter of the file
    try:
        _import(options.needs)
        options.command(options)
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DemixError, OSError) as error:  # also a full disk, a read-only folder
        print(f"demix-lite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demix-lite: stopped; nothing half-written was left behind.", file=sys.stderr)
        return 130
    return 0


def _import(modules: Sequence[str]) -> None:
    """Import what a command needs; an interruption stops it afterwards, a second one at once.

    Compiled libraries clear every exception while they register their types, or abort the process.
    """
    raised = signal.getsignal(signal.SIGINT)
    here = threading.current_thread() is threading.main_thread()
    if not (here and callable(raised)):  # no handler, or not the main thread
        return
    stopped = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            raised(number, frame)
        stopped = True

    signal.signal(signal.SIGINT, remember)
    try:
        for name in modules:
            importlib.import_module(name)
    finally:
        signal.signal(signal.SIGINT, raised)
    if stopped:
        raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demix-lite",
        description="Find, name and repair mixed errors in training data.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"demix-lite {__version__}")
    parser.set_defaults(command=lambda _: parser.print_help(), needs=())
    commands = parser.add_subparsers(metavar="COMMAND")
    _add_diagnose(commands)
    _add_run(commands)
    _add_bench(commands)
    _add_train(commands)
    _add_about(commands)
    return parser


def _add_diagnose(commands: Any) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="your own CSV or Parquet file: which rows are wrong, and what is wrong with each",
        description=(
            "Find the rows that have a wrong label, have wrong features, or go against a shortcut. "
            "Write diagnosis.csv and report.html to a folder; your file is not changed."
        ),
    )
    add = diagnose.add_argument
    words = "CSV (commas, semicolons, tabs, bars or blanks) or Parquet file"
    add("file", type=Path, help=words).complete = shtab.FILE
    add("--target", required=True, metavar="COLUMN", help="the label column")
    add("--out", type=Path, metavar="DIR", help="where to write (default: NAME-diagnosis)")
    add(
        "--kind",
        choices=["auto", "classification", "regression"],
        default="auto",
        help="what the label is (default: auto; numbers with many values are a regression)",
    )
    words = "validation rows of your own, with the same columns"
    add("--validation", type=Path, metavar="FILE", help=words).complete = shtab.FILE
    words = (
        "errors you know of, to see how many flags are right: one line per row, any of the columns "
        "label, feature, spurious (1, 0 or empty)"
    )
    add("--known", type=Path, metavar="FILE", help=words).complete = shtab.FILE
    add("--repaired", action="store_true", help="also write a copy of the file with repairs")
    words = "also put known errors into your rows and report how many are found (takes longer)"
    add("--self-check", action="store_true", help=words)
    words = "encoding of a text file, such as latin-1; others may be utf-8 (default: utf-8)"
    add("--encoding", help=words)
    words = "random seed of the cuts and weights (default: 0)"
    add("--seed", type=int, default=0, help=words)
    add("--detector", type=Path, help="detector to use instead of the shipped one")
    add("--json", action="store_true", help="print the result as JSON")
    diagnose.set_defaults(command=_diagnose, needs=["demix_lite.diagnose"])


def _add_about(commands: Any) -> None:
    tasks = commands.add_parser("tasks", help="list the built-in tasks")
    tasks.set_defaults(command=lambda _: print(TASKS))
    info = commands.add_parser("info", help="versions, device and folders, for a bug report")
    info.set_defaults(command=_info)
    completion = commands.add_parser(
        "completion",
        help="print a script that lets your shell complete these commands",
        description='Complete with the tab key in bash: eval "$(demix-lite completion bash)"',
    )
    completion.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    completion.set_defaults(command=lambda asked: print(shtab.complete(_parser(), asked.shell)))


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="the whole pipeline once: inject, train, detect, repair, retrain, evaluate",
        description=(
            "Put known errors into a task's training and validation rows, train a model on\n"
            "them, find and name the errors from the influence vectors, repair them, train\n"
            "again, and evaluate every model on clean test rows."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = run.add_argument
    add("task", help="which data set: adult or another one that demix-lite tasks lists")
    words = "twin: built-in stand-in, no download; real: the prepared real table (default: twin)"
    add("--source", default="twin", help=words)
    words = "share of rows without label or feature error, in (0, 1] (default: 0.5)"
    add("--clean-ratio", type=float, default=0.5, metavar="A", help=words)
    add(
        "--architecture",
        help=(
            "task model; tables: mlp1 (256-128-64), mlp2 (64-32) or ft_transformer; "
            "recommendation: din or dien; preference pairs: lora or last (default: the first)"
        ),
    )
    words = "for preference pairs: another causal language model, a folder or a name on the hub"
    add("--model", metavar="NAME", help=words)
    words = "random seed of the errors and weights (default: 0)"
    add("--seed", type=int, default=0, help=words)
    add("--rows", type=int, help="use only this many rows of the table")
    words = "validation samples per influence vector (default: 256)"
    add("--validation", type=int, default=256, metavar="M", help=words)
    add("--rule", help="the spurious rule (default: drawn by the seed)")
    words = "let a row have both a label and a feature error"
    add("--co-occurring", action="store_true", help=words)
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--detector", type=Path, help="detector to use instead of the shipped one")
    add("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    run.set_defaults(command=_run, needs=["demix_lite.benchmark.pipeline"])


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="run or resume the benchmark: every method on every task (hours)",
        description=(
            "Run the rows of the benchmark that the ledger lacks, and append each when it is "
            "finished. Stop it at any time: the same command goes on where it stopped. Detectors "
            "and baselines that are missing are trained first."
        ),
    )
    add = bench.add_argument
    add("--suite", default="tabular", help="family of tasks (default: tabular)")
    add("--quick", action="store_true", help="a small slice, on the built-in twin")
    words = "the CSV file to fill (default: the book's; for twins and --quick, one in _build/)"
    add("--ledger", type=Path, help=words)
    add("--source", help="twin or real (default: real; twin with --quick)")
    add("--tasks", nargs="+", metavar="TASK", help="only these tasks")
    add("--methods", nargs="+", metavar="NAME", help="only these methods")
    add("--protocols", nargs="+", metavar="NAME", help="only these protocols")
    words = "instead of the grid: what each repair is worth, and F1 by validation samples"
    add("--studies", action="store_true", help=words)
    words = "instead of the grid: the detector without each of its parts (choose with --methods)"
    add("--ablation", action="store_true", help=words)
    add("--jobs", type=int, help="runs side by side (default: one per core)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    bench.set_defaults(command=_bench, needs=["demix_lite.benchmark.suite"])


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train-detector",
        help="train the detectors of a family on many injections (hours)",
        description=(
            "Train the detectors that ship with the package: the unified one, the practised one "
            "for tables of your own, and those that never saw one of the tasks. A detector that "
            "already exists is not trained again."
        ),
    )
    add = train.add_argument
    add("family", help="family of tasks, such as tabular")
    add("--source", default="real", help="twin or real (default: real)")
    add("--only", nargs="+", metavar="NAME", help="only these detectors")
    add("--injections", type=int, metavar="N", help="injections per task (default: 48)")
    add("--all", action="store_true", help="also those that only the benchmark needs")
    add("--again", action="store_true", help="also those that already exist")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    train.set_defaults(command=_train, needs=["demix_lite.benchmark.protocols"])


def _diagnose(options: argparse.Namespace) -> None:
    from demix_lite.detector import ErrorDetector
    from demix_lite.diagnose import check_folder, diagnose_file, write_outcome

    folder = options.out or Path(f"{options.file.stem}-diagnosis")
    check_folder(folder)
    with tqdm(bar_format="{desc} ({elapsed})", leave=False, disable=None) as bar:
        outcome = diagnose_file(
            options.file,
            options.target,
            validation_file=options.validation,
            known_file=options.known,
            kind=options.kind,
            encoding=options.encoding,
            with_self_check=options.self_check,
            detector=ErrorDetector.load(options.detector) if options.detector else None,
            seed=options.seed,
            announce=bar.set_description_str,
        )
    suffix = (options.file.suffix.lower() or ".csv") if options.repaired else ""
    written = write_outcome(outcome, folder, repaired=suffix)
    if options.json:
        files = {"written": [str(path) for path in written]}
        print(json.dumps(outcome.summary | files, indent=2, allow_nan=False))
        return
    print(outcome)
    for path in written:
        print(f"written: {path}")
    if suffix in (".parquet", ".pq") and folder / "repaired.parquet" not in written:
        print("note: Parquet cannot hold the repaired table, so it is a CSV file.")
    for path in sorted(set(folder.glob("repaired.*")) - set(written)):
        print(f"note: {path} is left from an earlier run.")


def _info(options: argparse.Namespace) -> None:
    import platform

    from demix_lite.benchmark.ledger import provenance
    from demix_lite.data.store import data_home

    print(f"demix_lite {__version__}, Python {platform.python_version()}, {platform.system()}")
    for name, value in provenance(None).items():
        print(f"{name}: {value}")
    print(f"data: {data_home()}")


def _run(options: argparse.Namespace) -> None:
    from demix_lite.benchmark.pipeline import STEPS, run_pipeline
    from demix_lite.detector import ErrorDetector
    from demix_lite.report import run_report

    check_writable(options.json)
    with tqdm(total=len(STEPS), unit="stage", leave=False, disable=None) as bar:

        def announce(stage: str) -> None:
            bar.set_description(stage)
            bar.update(1 if bar.n or stage != STEPS[0] else 0)

        detector = ErrorDetector.load(options.detector) if options.detector else None
        settings = {name: getattr(options, name) for name in SETTINGS}
        outcome = run_pipeline(options.task, detector=detector, announce=announce, **settings)
    card = outcome.splits.card
    flagged = {kind: int(count) for kind, count in outcome.diagnosis.flag.sum().items()}
    print(run_report(outcome.row, data=f"{card.title}, {card.rows:,} rows", flagged=flagged))
    if options.json:
        named = str(options.detector) if options.detector else None
        asked = {"co_occurring": options.co_occurring, "rows": options.rows, "detector": named}
        write_json(options.json, outcome.row | asked | {"flagged": flagged})
        print(f"written: {options.json}")


def _bench(options: argparse.Namespace) -> None:
    from demix_lite.benchmark.ablation import chosen_variants, run_ablation
    from demix_lite.benchmark.protocols import family_tasks
    from demix_lite.benchmark.studies import run_studies
    from demix_lite.benchmark.suite import run_suite, some, suite
    from demix_lite.data.store import check_source
    from demix_lite.models.training import resolve_device
    from demix_lite.tasks import get_task

    _check_bench(options)
    source = options.source or ("twin" if options.quick else "real")
    check_source(source)
    resolve_device(options.device)
    wanted = [get_task(name).name for name in options.tasks or ()]
    cells = suite(options.suite, quick=options.quick, tasks=wanted)
    if options.ablation:
        chosen_variants(options.methods)
    else:
        cells = some(cells, methods=options.methods, protocols=options.protocols)
    # No file or folder is created before all requested names are checked.
    ledger = options.ledger or _default_ledger(source, quick=options.quick)
    check_writable(ledger)
    names, folder = wanted or family_tasks(options.suite), ledger.parent
    how: dict[str, Any] = {"source": source, "jobs": options.jobs}
    if options.studies:
        run_studies(names, folder, **how)
        written = f"{folder}/repair.csv and samples.csv"
    elif options.ablation:
        path = folder / "ablation.csv"
        run_ablation(names, path, names=options.methods, announce=tqdm.write, **how)
        written = f"{path}"
    else:
        written = f"{ledger}"
        run_suite(cells, ledger, device=options.device, announce=tqdm.write, **how)
    tqdm.write(f"written: {written}")


def _check_bench(options: argparse.Namespace) -> None:
    """Raise for options of ``bench`` that would be ignored, or make no sense."""
    if options.jobs is not None:
        check_count(options.jobs, "jobs")
    if options.studies and options.ablation:
        raise DemixError("--studies and --ablation are separate runs: leave one of them out.")
    if options.quick and (options.studies or options.ablation):
        raise DemixError("--quick is a slice of the grid: leave it or the other option out.")
    if options.device != "cpu" and (options.studies or options.ablation):
        raise DemixError("--studies and --ablation run on the CPU: leave --device out.")
    if options.studies and (options.methods or options.protocols):
        raise DemixError("--studies has no such choice: leave --methods and --protocols out.")
    if options.ablation and options.protocols:
        raise DemixError("--ablation has its own protocol: leave --protocols out.")


def _default_ledger(source: str, *, quick: bool) -> Path:
    """Return the book's ledger for the grid on real tables, else a trial ledger."""
    if source == "real" and not quick:
        return Path("book/results/ledger.csv")
    folder = Path("_build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "ledger.csv"


def _train(options: argparse.Namespace) -> None:
    from demix_lite.benchmark.protocols import INJECTIONS, curricula, train_detectors

    known = curricula(options.family)
    refuse_unknown("detector", options.only or (), known)
    names = options.only or [n for n, plan in known.items() if plan.shipped or options.all]
    train_detectors(
        [known[name] for name in names],
        source=options.source,
        injections=INJECTIONS if options.injections is None else options.injections,
        again=options.again,
        device=options.device,
        announce=tqdm.write,
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write one JSON object atomically; NaN becomes null."""
    known = {key: None if value != value else value for key, value in content.items()}
    written = json.dumps(known, indent=2, allow_nan=False)
    with whole_file(path) as part:
        part.write_text(f"{written}\n", encoding="utf-8")
