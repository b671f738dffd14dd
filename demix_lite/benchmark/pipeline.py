"""load → inject → fit → influence → detect → repair → fit → evaluate, in one function."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from torch import Tensor

from demix_lite.benchmark.evaluate import Evaluation, evaluate
from demix_lite.benchmark.ledger import STAGES, peak_megabytes, provenance
from demix_lite.detector import ErrorDetector, Run, open_run
from demix_lite.diagnosis import Diagnosis, certain, score
from demix_lite.injection import Injection, check_clean_ratio, inject
from demix_lite.models.training import Trained, fit, predict, resolve_device
from demix_lite.repair import Repaired, repair
from demix_lite.seeds import derive_seed
from demix_lite.tasks import get_task
from demix_lite.tasks.base import Encoder, Splits, Task, seeded_model


@dataclass(frozen=True)
class Outcome:
    """Everything a run produced; ``row`` is its line of the ledger.

    Attributes
    ----------
    injection, run, diagnosis, repaired
        Results of the stages.
    evaluations : dict
        ``dirty``, ``repaired``, ``oracle`` and ``clean`` to :class:`Evaluation`.
    row : dict
        The ledger's columns.
    """

    task: Task
    splits: Splits
    injection: Injection
    trained: Trained
    encoder: Encoder
    run: Run
    diagnosis: Diagnosis
    repaired: Repaired
    evaluations: dict[str, Evaluation]
    row: dict[str, Any]


class Detector(Protocol):
    """What the pipeline needs of a detector or a baseline."""

    name: str

    def predict(self, run: Run) -> Diagnosis:
        """Diagnose every row of a run."""
        ...


@dataclass
class _Clock:
    """Seconds per stage; tells ``announce`` when a stage begins."""

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
    source: str = "twin",
    clean_ratio: float = 0.5,
    architecture: str = "mlp1",
    seed: int = 0,
    rows: int | None = None,
    validation: int = 256,
    rule: str | None = None,
    co_occurring: bool = False,
    detector: Detector | None = None,
    device: str | None = None,
    home: Path | None = None,
    announce: Callable[[str], None] = lambda stage: None,
) -> Outcome:
    """Run the whole line once and judge it.

    Parameters
    ----------
    task_name : str
        A registered task.
    source : {"twin", "real"}
        The built-in twin or the prepared real table.
    clean_ratio : float
        Share of rows without label or feature error, in (0, 1].
    architecture : str
        Task model.
    seed : int
        Repeat; names the errors, the weights and the batches.
    rows : int, optional
        Use only so many rows of the table.
    validation : int
        Validation samples per influence vector (M).
    rule : str, optional
        The spurious rule; drawn by the seed by default.
    co_occurring : bool
        Let label and feature errors meet in one row.
    detector : ErrorDetector or baseline, optional
        Whatever diagnoses a run; the weights shipped for the task by default.
    device : str, optional
        ``"cpu"`` (default) or ``"cuda"``.
    home : path, optional
        Folder of the prepared tables.
    announce : callable
        Called with the name of each stage as it begins.

    Returns
    -------
    Outcome

    Raises
    ------
    DemixError
        Unknown task, architecture or rule, a ratio outside (0, 1], missing data or device.
    """
    task = get_task(task_name)
    task.check_architecture(architecture)
    check_clean_ratio(clean_ratio)
    resolve_device(device)
    clock = _Clock(announce)
    detector = detector or ErrorDetector.shipped(task.name)
    fit_seed = derive_seed(task.name, "fit", architecture, seed)

    def train(frame: pd.DataFrame, encoder: Encoder, weights: Tensor | None = None) -> Trained:
        model = seeded_model(task, architecture, encoder, fit_seed)
        samples = encoder.transform(frame, task.target)
        return fit(model, task.loss, *samples, weights=weights, seed=fit_seed, device=device)

    with clock.stage("load"):
        splits = task.load(source, rows=rows, home=home)
    with clock.stage("inject"):
        injection = inject(
            task, splits, clean_ratio, seed=seed, rule=rule, co_occurring=co_occurring
        )
    dirty = injection.train.frame
    with clock.stage("fit"):
        encoder = task.encoder(dirty)
        trained = train(dirty, encoder)
    with clock.stage("influence"):
        run = open_run(
            task,
            encoder,
            trained,
            dirty,
            injection.valid.frame,
            validation=validation,
            seed=seed,
            device=device,
        )
    with clock.stage("detect"):
        diagnosis = detector.predict(run)
    with clock.stage("repair"):
        outputs = predict(trained.model, run.samples[0])
        mended = {
            name: repair(task, dirty, said, outputs, encoder)
            for name, said in (
                ("repaired", diagnosis),
                ("oracle", certain(injection.train.errors)),
            )
        }
    frames: dict[str, tuple[pd.DataFrame, Tensor | None]] = {
        name: (fixed.samples, fixed.weights) for name, fixed in mended.items()
    }
    frames["clean"] = (splits.train, None)
    models = {"dirty": (trained, encoder)}
    with clock.stage("refit"):
        for name, (frame, weights) in frames.items():
            own_encoder = task.encoder(frame)
            models[name] = (train(frame, own_encoder, weights), own_encoder)
    with clock.stage("evaluate"):
        evaluations = {
            name: evaluate(task, fitted.model, own, splits.test, injection.rule)
            for name, (fitted, own) in models.items()
        }
    row = {
        "task": task.name,
        "method": detector.name,
        "architecture": architecture,
        "clean_ratio": clean_ratio,
        "seed": seed,
        "protocol": "in-task",
        "source": source,
        "rule": injection.rule.name,
        "train_rows": len(dirty),
        "validation": run.sources[0].valid_count,
        **score(diagnosis, injection.train.errors),
        "metric_name": task.metric_name,
        **{f"metric_{name}": done.metric for name, done in evaluations.items()},
        **{f"worst_group_{name}": done.worst_group for name, done in evaluations.items()},
        **{f"seconds_{stage}": clock.seconds[stage] for stage in STAGES},
        "peak_mb": peak_megabytes(device),
        **provenance(device),
        "data_sha256": splits.card.sha256,
    }
    return Outcome(
        task,
        splits,
        injection,
        trained,
        encoder,
        run,
        diagnosis,
        mended["repaired"],
        evaluations,
        row,
    )
