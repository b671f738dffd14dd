"""What every ingredient of the detector is worth: the same training with one part changed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from demix_lite.benchmark.ledger import append_rows, provenance
from demix_lite.benchmark.protocols import environment_bank
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
from demix_lite.tasks import get_task

STEPS = 600
JUDGED_ROWS = 2500
NEW_ARCHITECTURE = "ft_transformer"
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
COLUMNS = (
    "variant", "task", "architecture", "seed", "source", "validation",
    *(f"f1_{kind}" for kind in (*ERROR_TYPES, "macro", "any")),
    "device", "cores", "versions", "commit",
)  # fmt: skip


def variants() -> dict[str, DetectorSettings]:
    """Return the detectors to compare, by what is different; none has a second pass but one.

    Examples
    --------
    >>> variants()["no relative values"].relative
    False
    """
    training = TrainingSettings(steps=STEPS)
    base = DetectorSettings(rounds=0, training=training)

    def without(*names: str) -> DetectorSettings:
        return replace(base, channels=tuple(c for c in CHANNELS if c not in names))

    def trained(**changes: object) -> DetectorSettings:
        return replace(base, training=replace(training, **changes))  # type: ignore[arg-type]

    return {
        "all, and the second pass": replace(base, rounds=2),
        "all": base,
        "no validation intervention": trained(validation_intervention=False),
        "no model intervention": trained(model_intervention=False),
        "neither intervention": trained(validation_intervention=False, model_intervention=False),
        "no relative values": replace(base, relative=False),
        "no layer channels": without(*LAYERS),
        "no auxiliary channels": without(*AUXILIARY),
        "no early checkpoint": without(*(c for c in CHANNELS if c.startswith("early"))),
        "asymmetric loss": trained(loss="asymmetric"),
        "deep sets": replace(base, pooling="mean"),
        "summaries alone": replace(base, pooling="none"),
        "attention alone": replace(base, summarise=False),
        "induced blocks": replace(base, pooling="isab"),
    }


def run_ablation(
    tasks: Sequence[str],
    path: Path,
    *,
    source: str = "real",
    names: Sequence[str] | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> None:
    """Train every variant on the unified environments, without one architecture, and judge it.

    Each variant judges runs of an architecture it knows and of one it does not know; their
    validation sets are always new. A variant that is in the file is not run again.
    """
    done = set(pd.read_csv(path)["variant"]) if path.exists() else set()
    todo = {n: s for n, s in variants().items() if n in (names or variants()) and n not in done}
    if not todo:
        return
    bank = environment_bank(tasks, source=source)
    known = [e for name in tasks for e in bank[name] if e.architecture != NEW_ARCHITECTURE]
    judged = _judged(tasks, source)
    for name, settings in todo.items():
        detector = ErrorDetector(settings).fit(known)
        append_rows(path, [_row(name, seed, source, detector, e) for seed, e in judged], COLUMNS)
        announce(f"{name}: done")


def _judged(tasks: Sequence[str], source: str) -> list[tuple[int, Environment]]:
    """Return the runs that all variants judge, with their seeds; no training ever sees them."""
    seen = get_task(tasks[0]).architectures[0]
    work = [(n, s, a) for n in tasks for s in SEEDS for a in (seen, NEW_ARCHITECTURE)]
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
    errors = pd.DataFrame(environment.errors, columns=list(ERROR_TYPES), index=run.index)
    return {
        "variant": name,
        "task": run.task.name,
        "architecture": environment.architecture,
        "seed": seed,
        "source": source,
        "validation": run.sources[0].valid_count,
        **score(detector.predict(run), errors),
        **provenance(None),
    }
