"""Ablation: what each part of the detector is worth, by training with one part changed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from demix_lite.benchmark.ledger import append_rows, check_columns, keys_of, provenance
from demix_lite.benchmark.protocols import environment_bank, family_tasks
from demix_lite.benchmark.suite import SEEDS
from demix_lite.detector import (
    CHANNELS,
    DetectorSettings,
    Environment,
    ErrorDetector,
    TrainingSettings,
    make_environment,
)
from demix_lite.diagnosis import ERROR_TYPES, score
from demix_lite.errors import refuse_unknown
from demix_lite.tasks import get_task

STEPS = 600
JUDGED_ROWS = 2500
AUXILIARY = (
    "input_similarity",
    "label_agreement",
    "train_loss",
    "train_gradient_norm",
    "valid_loss",
    "early train_loss",
    "early valid_loss",
)
LAYERS = tuple(name for name in CHANNELS if "[" in name)
KEY = ("variant", "task", "architecture", "seed", "source")
COLUMNS = (
    *KEY, "validation",
    *(f"f1_{kind}" for kind in (*ERROR_TYPES, "macro", "any")),
    "device", "cores", "versions", "commit",
)  # fmt: skip


def variants() -> dict[str, DetectorSettings]:
    """Return the settings of the detectors to compare, by variant; two have a second pass.

    Examples
    --------
    >>> variants()["no relative values"].relative
    False
    """
    training = TrainingSettings(steps=STEPS)
    base = DetectorSettings(rounds=0, training=training)

    def without(*names: str) -> DetectorSettings:
        return replace(base, channels=tuple(c for c in CHANNELS if c not in names))

    def trained(start: DetectorSettings = base, **changes: object) -> DetectorSettings:
        return replace(start, training=replace(training, **changes))  # type: ignore[arg-type]

    absolute = replace(base, relative=False)

    return {
        "all, and the second pass": replace(base, rounds=2),
        "the second pass without plain support": replace(base, rounds=2, plain_support=False),
        "all": base,
        "no validation intervention": trained(validation_intervention=False),
        "no model intervention": trained(model_intervention=False),
        "neither intervention": trained(validation_intervention=False, model_intervention=False),
        "no relative values": absolute,
        "no relative values, no validation intervention": trained(
            absolute, validation_intervention=False
        ),
        "no relative values, no model intervention": trained(absolute, model_intervention=False),
        "no layer channels": without(*LAYERS),
        "no auxiliary channels": without(*AUXILIARY),
        "no early checkpoint": without(*(c for c in CHANNELS if c.startswith("early"))),
        "asymmetric loss": trained(loss="asymmetric"),
        "deep sets": replace(base, pooling="mean"),
        "summaries alone": replace(base, pooling="none"),
        "attention alone": replace(base, summarise=False),
        "induced blocks": replace(base, pooling="isab"),
    }


def chosen_variants(names: Sequence[str] | None) -> dict[str, DetectorSettings]:
    """Return the variants with these names, by default all; raise an error for an unknown one.

    Examples
    --------
    >>> list(chosen_variants(["deep sets"]))
    ['deep sets']
    """
    every = variants()
    refuse_unknown("variant", names or (), every)
    return {name: every[name] for name in names or every}


def new_architecture(task: str) -> str:
    """Return the architecture that no variant is trained on: the last one of the task's family.

    Examples
    --------
    >>> new_architecture("adult"), new_architecture("yelp")
    ('ft_transformer', 'dien')
    """
    return get_task(task).architectures[-1]


def run_ablation(
    tasks: Sequence[str],
    path: Path,
    *,
    source: str = "real",
    names: Sequence[str] | None = None,
    jobs: int | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> None:
    """Train every variant on the unified environments without one architecture; evaluate it.

    It is trained on all tasks of the family, also where only some are judged. Each variant judges
    runs of an architecture that it was trained on and of one that it was not; their validation sets
    are always new. A variant is skipped if the file has all tasks.
    Environments are made in ``jobs`` parallel processes, by default one per core.

    Raises
    ------
    DemixError
        If a variant is unknown.
    """
    chosen = chosen_variants(names)
    check_columns(path, COLUMNS)
    done = keys_of(path, ("variant", "task", "source"))
    todo = {
        name: settings
        for name, settings in chosen.items()
        if any((name, task, source) not in done for task in tasks)
    }
    if not todo:
        return
    every = family_tasks(get_task(tasks[0]).family)
    trained = get_task(tasks[0]).architectures[:-1]
    bank = environment_bank(every, source=source, architectures=trained, jobs=jobs)
    known = [environment for name in every for environment in bank[name]]
    judged = _judged(tasks, source)
    for name, settings in todo.items():
        detector = ErrorDetector(settings).fit(known)
        rows = [_row(name, seed, source, detector, e) for seed, e in judged]
        append_rows(path, rows, COLUMNS, key=KEY)
        announce(f"{name}: done")


def _judged(tasks: Sequence[str], source: str) -> list[tuple[int, Environment]]:
    """Return the runs that all variants judge, with their seeds; they are not used in training."""
    both = get_task(tasks[0]).architectures[0], new_architecture(tasks[0])
    work = [(n, s, a) for n in tasks for s in SEEDS for a in both]
    judged = []
    for name, seed, architecture in tqdm(work, desc="judged runs", disable=None):
        task = get_task(name)
        splits = task.load(source).sample(JUDGED_ROWS, seed=f"ablation {seed}")
        environment = make_environment(
            task, splits, architecture=architecture, clean_ratio=0.5, seed=f"ablation {seed}"
        )
        judged.append((seed, environment))
    return judged


def _row(
    name: str, seed: int, source: str, detector: ErrorDetector, environment: Environment
) -> dict[str, Any]:
    run = environment.run
    diagnosis = detector.predict(run)
    run.release()  # the factors of a transformer take 100 MB a run
    return {
        "variant": name,
        "task": run.task.name,
        "architecture": environment.architecture,
        "seed": seed,
        "source": source,
        "validation": run.sources[0].valid_count,
        **score(diagnosis, environment.truth),
        **provenance(None),
    }
