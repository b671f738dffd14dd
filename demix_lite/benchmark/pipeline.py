"""load → inject → fit → influence → detect → repair → fit → evaluate, in one function."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd
from torch import Tensor

from demix_lite.benchmark.evaluate import Evaluation, evaluate
from demix_lite.benchmark.ledger import (
    COLUMNS,
    STAGES,
    peak_megabytes,
    provenance,
    reset_peak,
)
from demix_lite.benchmark.protocols import shipped_detector
from demix_lite.detector import Run, open_run
from demix_lite.diagnosis import Diagnosis, certain, score
from demix_lite.errors import check_count
from demix_lite.injection import Injection, check_clean_ratio, inject
from demix_lite.models.training import Trained, predict, resolve_device
from demix_lite.repair import Repaired, repair
from demix_lite.seeds import derive_seed
from demix_lite.tasks import get_task
from demix_lite.tasks.base import Encoder, Splits, Task, fit_model

STEPS = (
    *("load", "inject", "fit", "influence", "refit", "evaluate"),
    *("detect", "repair", "refit", "evaluate"),
)
"""Stages in the order in which they are announced."""


TrainFn = Callable[[pd.DataFrame, Tensor | None], tuple[Trained, Encoder]]


@dataclass(frozen=True)
class Prepared:
    """A run up to the influence vectors, and the models that do not depend on the method.

    Attributes
    ----------
    task, splits, injection, trained, run
        Results of the stages: clean rows, the errors put in, the model trained on the dirty rows,
        and the run as a detector sees it.
    outputs : Tensor
        Outputs of the trained model for the training rows.
    train : callable
        Trains the task model on given rows and weights, with the same seed and the same number of
        steps.
    evaluations : dict
        Maps ``dirty``, ``oracle`` and ``clean`` to an :class:`Evaluation`.
    facts : dict
        The entries of the ledger that do not depend on the method.
    seconds : dict
        Seconds per stage so far.
    device : str or None
        Device for training and influence, as requested.
    """

    task: Task
    splits: Splits
    injection: Injection
    trained: Trained
    run: Run
    outputs: Tensor
    train: TrainFn
    evaluations: dict[str, Evaluation]
    facts: dict[str, Any]
    seconds: dict[str, float]
    device: str | None


@dataclass(frozen=True)
class Outcome(Prepared):
    """A run and the result of a method on it; its evaluations also have ``repaired``.

    Attributes
    ----------
    diagnosis, repaired
        Results of the stages.
    row : dict
        Its line in the ledger.
    """

    diagnosis: Diagnosis
    repaired: Repaired
    row: dict[str, Any]


class Detector(Protocol):
    """The interface of a detector or a baseline for the pipeline."""

    name: str

    def predict(self, run: Run) -> Diagnosis:
        """Diagnose every row of a run."""
        ...


@dataclass
class _Clock:
    """Measure the seconds per stage; call ``announce`` when a stage begins."""

    announce: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.announce(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def run_pipeline(
    task_name: str,
    *,
    detector: Detector | None = None,
    announce: Callable[[str], None] = lambda stage: None,
    **settings: Any,
) -> Outcome:
    """Run the whole pipeline once and evaluate the result.

    Parameters
    ----------
    task_name : str
        A registered task.
    detector : ErrorDetector or baseline, optional
        The method that diagnoses the run; by default the detector shipped for the task's family.
    announce : callable
        Called with the name of each stage as it begins.
    **settings
        Source, clean ratio, architecture, seed and so on, as for :func:`prepare`.

    Returns
    -------
    Outcome

    Raises
    ------
    DemixError
        If the task, architecture or rule is unknown, the clean ratio is outside (0, 1], or the data
        or the device is missing.
    """
    prepared = prepare(task_name, announce=announce, **settings)
    detector = detector or shipped_detector(prepared.task.family)
    return judge(prepared, detector, announce=announce)


def prepare(
    task_name: str,
    *,
    source: str = "twin",
    clean_ratio: float = 0.5,
    architecture: str | None = None,
    model: str | None = None,
    seed: int = 0,
    rows: int | None = None,
    train_rows: int | None = None,
    validation: int = 256,
    rule: str | None = None,
    co_occurring: bool = False,
    device: str | None = None,
    announce: Callable[[str], None] = lambda stage: None,
) -> Prepared:
    """Inject errors, train on them, open the run, and train the models to compare with.

    Parameters
    ----------
    task_name : str
        A registered task.
    source : {"twin", "real"}
        The built-in twin or the prepared real table.
    clean_ratio : float
        Share of rows without label or feature error, in (0, 1].
    architecture : str, optional
        Task model; by default the standard one of the task.
    model : str, optional
        Another language model for a language task: a folder, or a model name on the hub.
    seed : int
        Number of the repetition; determines the errors, the initial weights and the mini-batches.
    rows : int, optional
        Use only this many rows of the table.
    train_rows : int, optional
        Train on at most this many rows, drawn by the seed; all test rows are kept.
    validation : int
        Number of validation samples per influence vector (M).
    rule : str, optional
        The spurious rule; by default drawn by the seed.
    co_occurring : bool
        Whether a row may have both a label and a feature error.
    device : str, optional
        ``"cpu"`` (default) or ``"cuda"``.
    announce : callable
        Called with the name of each stage as it begins.
    """
    task = get_task(task_name)
    task = task.with_language_model(model) if model else task
    architecture = task.check_architecture(architecture or task.architectures[0])
    check_clean_ratio(clean_ratio)
    if train_rows is not None:
        check_count(train_rows, "train_rows")
    resolve_device(device)
    reset_peak(device)
    clock = _Clock(announce)
    fit_seed = derive_seed(task.name, "fit", architecture, seed)

    def train(frame: pd.DataFrame, weights: Tensor | None = None) -> tuple[Trained, Encoder]:
        # The same number of steps as on the dirty rows: no repair should win by longer training.
        options: dict[str, Any] = {"weights": weights, "device": device, "rows": len(dirty)}
        return fit_model(task, architecture, frame, fit_seed, **options)

    with clock.stage("load"):
        splits = task.load(source, rows=rows)
        if train_rows is not None:
            splits = splits.sample(train_rows, seed=seed)
    with clock.stage("inject"):
        options: Any = {"seed": seed, "rule": rule, "co_occurring": co_occurring}
        injection = inject(task, splits, clean_ratio, **options)
    dirty = injection.train.frame
    with clock.stage("fit"):
        trained, encoder = train(dirty)
    with clock.stage("influence"):
        setting = task, architecture, encoder, trained, dirty, injection.valid.frame
        run = open_run(*setting, validation=validation, seed=seed, device=device)
    with clock.stage("refit"):
        outputs = model_outputs(run)
        known = repair(task, dirty, certain(injection.train.errors), outputs)
        models = {
            "dirty": (trained, encoder),
            "oracle": train(known.samples, known.weights),
            "clean": train(splits.train),
        }
    with clock.stage("evaluate"):
        evaluations = {
            name: evaluate(task, fitted.model, own, splits.test, injection.rule)
            for name, (fitted, own) in models.items()
        }
    facts = {
        "task": task.name,
        "architecture": f"{architecture} of {model}" if model else architecture,
        "clean_ratio": clean_ratio,
        "seed": seed,
        "source": source,
        "rule": injection.rule.name,
        "train_rows": len(dirty),
        "validation": run.sources[0].valid_count,
        "co_occurring": co_occurring,
        "metric_name": task.metric_name,
        "metric_better": "higher" if task.label.larger_is_better else "lower",
        "data_sha256": splits.card.sha256,
        "peak_mb": peak_megabytes(device),
    }
    results = task, splits, injection, trained, run, outputs, train
    return Prepared(*results, evaluations, facts, clock.seconds, device)


def judge(
    prepared: Prepared,
    method: Detector,
    *,
    protocol: str = "unified",
    announce: Callable[[str], None] = lambda stage: None,
) -> Outcome:
    """Let a method diagnose a run, repair what it found, train again and evaluate the model.

    Parameters
    ----------
    prepared : Prepared
        The run.
    method : ErrorDetector or baseline
        The method that diagnoses it.
    protocol : str
        What the method was trained on; written to the ledger.
    announce : callable
        Called with the name of each stage as it begins.
    """
    task, injection = prepared.task, prepared.injection
    reset_peak(prepared.device)  # another method may have judged this run before
    clock = _Clock(announce, dict(prepared.seconds))
    with clock.stage("detect"):
        diagnosis = method.predict(prepared.run)
    with clock.stage("repair"):
        mended = repair(task, injection.train.frame, diagnosis, prepared.outputs)
    with clock.stage("refit"):
        fitted, encoder = prepared.train(mended.samples, mended.weights)
    with clock.stage("evaluate"):
        after = evaluate(task, fitted.model, encoder, prepared.splits.test, injection.rule)
    evaluations = prepared.evaluations | {"repaired": after}
    row = {
        **prepared.facts,
        "method": method.name,
        "protocol": protocol,
        **score(diagnosis, injection.train.errors),
        **{f"metric_{name}": done.metric for name, done in evaluations.items()},
        **{f"worst_group_{name}": done.worst_group for name, done in evaluations.items()},
        **{f"seconds_{stage}": clock.seconds[stage] for stage in STAGES},
        "peak_mb": max(prepared.facts["peak_mb"], peak_megabytes(prepared.device)),
        **provenance(prepared.device),
    }
    found = {"diagnosis": diagnosis, "repaired": mended, "evaluations": evaluations}
    return Outcome(**vars(prepared) | found, row={column: row[column] for column in COLUMNS})


def model_outputs(run: Run) -> Tensor:
    """Return the dirty model's outputs for the training rows."""
    return predict(run.trained.model, run.samples[0])
