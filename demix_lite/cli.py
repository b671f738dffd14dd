"""The command line: ``demix-lite run adult`` and friends."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demix_lite import __version__
from demix_lite.errors import DemixError

EXAMPLES = """
examples:
  demix-lite run adult                              the built-in twin, no download
  demix-lite run adult --clean-ratio 0.8 --seed 3   fewer errors, another draw
  demix-lite run adult --source real --json a.json  after: python -m data_scripts adult
  demix-lite train-detector adult --source real     the shipped weights, trained again
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (2 for a mistake in what was asked)."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except DemixError as error:
        print(f"demix-lite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demix-lite: stopped; nothing half-written was left behind.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demix-lite",
        description="Find, name and repair mixed errors in training data.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"demix-lite {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_train(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="the whole line once: inject, train, detect, repair, retrain, evaluate",
        description=(
            "Put known errors into a task's training and validation rows, train a model on them, "
            "find and name the errors from the influence vectors, repair them, train again, and "
            "judge every model on clean test rows."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("task", help="which data set (adult)")
    run.add_argument(
        "--source",
        default="twin",
        help="twin: built-in stand-in, no download; real: the prepared real table (default: twin)",
    )
    run.add_argument(
        "--clean-ratio",
        type=float,
        default=0.5,
        metavar="A",
        help="share of rows without label or feature error, in (0, 1] (default: 0.5)",
    )
    run.add_argument(
        "--architecture",
        default="mlp1",
        help="task model: mlp1 (256-128-64), mlp2 (64-32) or ft_transformer (default: mlp1)",
    )
    run.add_argument(
        "--seed", type=int, default=0, help="another seed, other errors and weights (default: 0)"
    )
    run.add_argument("--rows", type=int, help="use only so many rows of the table")
    run.add_argument(
        "--validation",
        type=int,
        default=256,
        metavar="M",
        help="validation samples per influence vector (default: 256)",
    )
    run.add_argument("--rule", help="the spurious rule (default: drawn by the seed)")
    run.add_argument(
        "--co-occurring", action="store_true", help="let label and feature errors meet in one row"
    )
    run.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    run.add_argument("--detector", type=Path, help="weights to use instead of the shipped ones")
    run.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    run.set_defaults(command=_run)


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train-detector",
        help="train a task's detector on many injections (tens of minutes)",
        description="Train the detector on many injections of one task and save its weights.",
    )
    train.add_argument("task", help="which data set (adult)")
    train.add_argument("--source", default="real", help="twin or real (default: real)")
    train.add_argument(
        "--injections", type=int, default=72, help="training injections (default: 72)"
    )
    train.add_argument("--out", type=Path, help="where to save (default: the shipped weights)")
    train.set_defaults(command=_train)


def _run(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from demix_lite.benchmark import run_pipeline
    from demix_lite.benchmark.ledger import STAGES
    from demix_lite.detector import ErrorDetector
    from demix_lite.report import run_report

    check_writable(options.json)
    with tqdm(total=len(STAGES), unit="stage", leave=False, disable=None) as bar:

        def announce(stage: str) -> None:
            bar.set_description(stage)
            bar.update(1 if bar.n or stage != STAGES[0] else 0)

        outcome = run_pipeline(
            options.task,
            source=options.source,
            clean_ratio=options.clean_ratio,
            architecture=options.architecture,
            seed=options.seed,
            rows=options.rows,
            validation=options.validation,
            rule=options.rule,
            co_occurring=options.co_occurring,
            detector=ErrorDetector.load(options.detector) if options.detector else None,
            device=options.device,
            announce=announce,
        )
    print(run_report(outcome.row))
    if options.json:
        write_json(options.json, outcome.row)
        print(f"written: {options.json}")


def _train(options: argparse.Namespace) -> None:
    from demix_lite.benchmark.ledger import provenance
    from demix_lite.detector import ErrorDetector
    from demix_lite.detector.classifier import SHIPPED
    from demix_lite.detector.training import training_environments
    from demix_lite.tasks import get_task

    task = get_task(options.task)
    splits = task.load(options.source)
    environments = training_environments(task, splits, options.injections, progress=True)
    facts = {
        "task": task.name,
        "source": options.source,
        "injections": options.injections,
        "data_sha256": splits.card.sha256,
        **provenance(None),
    }
    out = options.out or SHIPPED / task.name
    ErrorDetector().fit(environments, facts=facts, progress=True).save(out)
    print(f"saved: {out}.safetensors and {out}.json")


def check_writable(path: Path | None) -> None:
    """Refuse an output file that could not be written, before the work begins."""
    if path is None:
        return
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DemixError(f"cannot write {path}: choose a file in a folder that exists.")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write one JSON object, whole or not at all; what is not a number becomes null."""
    known = {key: None if value != value else value for key, value in content.items()}
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(known, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    raise SystemExit(main())
