"""Two small studies: what each repair is worth, and how many validation samples are needed."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from joblib import delayed
from torch import Tensor

from demix_lite.benchmark.evaluate import evaluate
from demix_lite.benchmark.ledger import append_rows, check_columns, keys_of, provenance
from demix_lite.benchmark.pipeline import Prepared, prepare
from demix_lite.benchmark.processes import side_by_side
from demix_lite.benchmark.suite import SEEDS
from demix_lite.detector import ErrorDetector, open_run
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis, certain, score
from demix_lite.repair import repair
from demix_lite.tasks import get_task

RUN = ("task", "architecture", "clean_ratio", "seed", "source", "rule", "train_rows", "validation")
WHERE = ("device", "cores", "versions", "commit", "data_sha256")
REPAIR_COLUMNS = (
    *RUN, "co_occurring", "diagnosis", "variant", "metric_name", "metric_better",
    "metric_dirty", "metric", "metric_clean", "worst_group_dirty", "worst_group", *WHERE,
)  # fmt: skip
SAMPLES_COLUMNS = (
    *RUN, "share", *(f"f1_{kind}" for kind in (*ERROR_TYPES, "macro", "any")),
    "seconds_influence_and_detect", *WHERE,
)  # fmt: skip
REPAIR_KEY = (*RUN, "co_occurring", "diagnosis", "variant")
SAMPLES_KEY = (*RUN, "share")
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


def only(*kinds: str) -> Callable[[Diagnosis], Diagnosis]:
    """Return a function that keeps these error types of a diagnosis and drops the others.

    Examples
    --------
    >>> truth = pd.DataFrame([[True, True, False]], columns=list(ERROR_TYPES))
    >>> only("label")(certain(truth)).flag.iloc[0].tolist()
    [True, False, False]
    """

    def keep(said: Diagnosis) -> Diagnosis:
        known = [float(kind in kinds) for kind in ERROR_TYPES]
        return replace(said, probability=said.probability * known, flag=said.flag * known > 0)

    return keep


def misnamed(said: Diagnosis) -> Diagnosis:
    """Rename every error type to the next one: label, feature, spurious, label.

    Examples
    --------
    >>> truth = pd.DataFrame([[True, False, False]], columns=list(ERROR_TYPES))
    >>> misnamed(certain(truth)).flag.iloc[0].tolist()
    [False, True, False]
    """

    def turn(table: pd.DataFrame) -> pd.DataFrame:
        order = [ERROR_TYPES[-1], *ERROR_TYPES[:-1]]
        return table[order].set_axis(list(ERROR_TYPES), axis=1)

    return Diagnosis(turn(said.probability), turn(said.flag), turn(said.unsure))


REPAIRS: dict[str, tuple[Callable[[Diagnosis], Diagnosis], dict[str, Any]]] = {
    "each in its own way": (only(*ERROR_TYPES), {}),
    "features hedged too": (only(*ERROR_TYPES), {"features": "hedge"}),
    "labels flipped": (only(*ERROR_TYPES), {"labels": "flip"}),
    "label only": (only("label"), {}),
    "feature only": (only("feature"), {}),
    "spurious only": (only("spurious"), {}),
    "wrongly named": (misnamed, {}),
}
"""How the diagnosis is changed, and the options of the repair, by name."""

DROP = "drop every flagged row"


def repair_study(prepared: Prepared, detector: ErrorDetector) -> Iterator[dict[str, Any]]:
    """Repair one run in many ways, with our diagnosis and with the true errors."""
    task, injection = prepared.task, prepared.injection
    dirty, before = injection.train.frame, prepared.evaluations["dirty"]
    fixed = {
        **prepared.facts,
        **provenance(prepared.device),
        "metric_dirty": before.metric,
        "worst_group_dirty": before.worst_group,
        "metric_clean": prepared.evaluations["clean"].metric,
    }
    told = {"demix_lite": detector.predict(prepared.run), "oracle": certain(injection.train.errors)}
    for source, said in told.items():
        kept = dirty[~said.flag.any(axis=1)]
        frames: dict[str, tuple[pd.DataFrame, Tensor | None]] = {DROP: (kept, None)}
        for name, (change, options) in REPAIRS.items():
            mended = repair(task, dirty, change(said), prepared.outputs, **options)
            frames[name] = (mended.samples, mended.weights)
        for name, (frame, weights) in frames.items():
            fitted, encoder = prepared.train(frame, weights)
            after = evaluate(task, fitted.model, encoder, prepared.splits.test, injection.rule)
            found = {"metric": after.metric, "worst_group": after.worst_group}
            yield {**fixed, "diagnosis": source, "variant": name, **found}


def samples_study(prepared: Prepared, detector: ErrorDetector) -> Iterator[dict[str, Any]]:
    """Diagnose the same run with a growing share of the validation samples."""
    run, seed = prepared.run, prepared.facts["seed"]
    seen = run.task, run.architecture, run.encoder, run.trained, run.train, run.valid
    for share in SHARES:
        few, start = round(share * len(run.valid)), time.perf_counter()
        opened = open_run(*seen, validation=few, seed=seed, device=prepared.device)
        said = detector.predict(opened)
        spent = time.perf_counter() - start
        yield {
            **prepared.facts,
            **provenance(prepared.device),
            **score(said, prepared.injection.train.errors),
            "validation": few,
            "share": share,
            "seconds_influence_and_detect": spent,
        }


def run_studies(
    tasks: Sequence[str], folder: Path, *, source: str = "real", jobs: int | None = None
) -> None:
    """Write ``repair.csv`` and ``samples.csv``; runs that the files have are skipped.

    Raises
    ------
    DemixError
        If one of the files has different columns.
    """
    repairs, samples = folder / "repair.csv", folder / "samples.csv"
    check_columns(repairs, REPAIR_COLUMNS)
    check_columns(samples, SAMPLES_COLUMNS)
    settings = (
        {"clean_ratio": 0.5, "co_occurring": False},
        {"clean_ratio": 0.8, "co_occurring": False},
        {"clean_ratio": 0.5, "co_occurring": True},
    )
    repaired: list[dict[str, Any]] = []
    sampled: list[dict[str, Any]] = []
    for seed in SEEDS:
        runs = [{"task": name, "source": source, "seed": seed} for name in tasks]
        repaired += [run | setting for setting in settings for run in runs]
        sampled += runs
    repairing = repair_study, repairs, REPAIR_COLUMNS, REPAIR_KEY
    sampling = samples_study, samples, SAMPLES_COLUMNS, SAMPLES_KEY
    work = [delayed(_study)(*repairing, run) for run in repaired]
    work += [delayed(_study)(*sampling, run) for run in sampled]
    for _ in side_by_side(work, "studies", jobs):
        pass


def _study(
    study: Callable[..., Iterator[dict[str, Any]]],
    path: Path,
    columns: Sequence[str],
    key: Sequence[str],
    run: dict[str, Any],
) -> None:
    """Append the results of a study of one run to its file, unless it has them."""
    torch.set_num_threads(1)
    if tuple(map(str, run.values())) in keys_of(path, tuple(run)):
        return
    name, setting = run["task"], {key: value for key, value in run.items() if key != "task"}
    prepared = prepare(name, train_rows=get_task(name).judged_rows, **setting)
    rows = study(prepared, ErrorDetector.shipped(prepared.task.family))
    append_rows(path, list(rows), columns, key=key)
