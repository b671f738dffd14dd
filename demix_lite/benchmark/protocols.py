"""Which environments a detector learns from: the protocols of the benchmark.

- *unified*: all tasks of the family; the detector for the data sets of this benchmark.
- *practised*: all tasks, and as many other questions asked of their tables (see
  :mod:`demix_lite.tasks.practice`); the detector for tables of your own.
- *leave-one-task-out*: the same without the judged task; it has never seen the data set.
- *in-task*: the judged task alone, with other errors, as in the paper.
- *leave-one-architecture-out*: all tasks, but never the judged architecture.
- *paper*: in-task with the four channels and the network of the paper, to compare with.
- *other-family*: the unified detector of another family, as it is.

The validation set is new in every judged run, whatever the protocol: errors, rows and the choice of
the M samples are drawn from the run's own seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

from demix_lite.benchmark.ledger import provenance
from demix_lite.data.store import data_home
from demix_lite.detector import DetectorSettings, Environment, ErrorDetector, TrainingSettings
from demix_lite.detector.classifier import SHIPPED
from demix_lite.detector.environments import injection_environments
from demix_lite.errors import DemixError, unknown_name
from demix_lite.tasks import TASKS, get_task
from demix_lite.tasks.base import Splits

INJECTIONS = 48
STEPS = {
    "unified": 5000,
    "practised": 4000,
    "leave-one-task-out": 1500,
    "leave-one-architecture-out": 1500,
    "in-task": 1500,
    "paper": 400,
}
"""Training steps of the first pass by protocol."""

OTHER_FAMILY = {"recommendation": "tabular", "alignment": "tabular"}
"""Family to the one whose unified detector is tried on it under the protocol other-family."""

BEGINS_WITH = {"alignment": "tabular"}
"""Family whose environments are dear to the one whose shipped detector its own ones begin with."""

HEAD_START = 4
"""How many times fewer steps a detector takes that begins with another one."""

PRACTISING = ("tabular",)
"""Families of whose data other questions can be asked."""

WHOLE_RUNS = {"unified": 60, "practised": 60, "in-task": 60}
"""Whole runs judged for the second pass by protocol; 30 for the others, of which there are many."""


@dataclass(frozen=True)
class Curriculum:
    """What one detector learns from.

    Attributes
    ----------
    name : str
        File name of the detector.
    protocol : str
        The protocol it belongs to.
    tasks, architectures : tuple of str
        The tasks and the task models of its environments.
    settings : DetectorSettings
        Settings of the detector.
    begins_with : str, optional
        The shipped detector whose first pass it goes on from.
    """

    name: str
    protocol: str
    tasks: tuple[str, ...]
    architectures: tuple[str, ...]
    settings: DetectorSettings = field(default_factory=DetectorSettings)
    begins_with: str | None = None

    @property
    def shipped(self) -> bool:
        """Whether the detector comes with the package."""
        return self.protocol in ("unified", "practised", "leave-one-task-out")

    @property
    def practises(self) -> bool:
        """Whether it also learns from other questions asked of its tables."""
        return self.protocol in ("practised", "leave-one-task-out")

    @property
    def path(self) -> Path:
        """Where the detector is kept, without the extension."""
        return (SHIPPED if self.shipped else data_home() / "detectors") / self.name


def family_tasks(family: str) -> tuple[str, ...]:
    """Return the names of the tasks of a family.

    Examples
    --------
    >>> family_tasks("tabular")[0]
    'adult'
    """
    names = tuple(name for name, task in TASKS.items() if task.family == family)
    if not names:
        raise unknown_name("family", family, sorted({task.family for task in TASKS.values()}))
    return names


def curricula(family: str) -> dict[str, Curriculum]:
    """Return every detector of a family by name.

    Examples
    --------
    >>> curricula("tabular")["tabular-without-adult"].protocol
    'leave-one-task-out'
    """
    tasks = family_tasks(family)
    every = TASKS[tasks[0]].architectures
    plans = [Curriculum(family, "unified", tasks, every)]
    if family in PRACTISING:
        plans.append(Curriculum(f"{family}-practised", "practised", tasks, every))
    for task in tasks:
        others = tuple(t for t in tasks if t != task)
        plans.append(Curriculum(f"{family}-without-{task}", "leave-one-task-out", others, every))
    plans.extend(Curriculum(f"{family}-only-{task}", "in-task", (task,), every) for task in tasks)
    plans.extend(Curriculum(f"{family}-paper-{task}", "paper", (task,), every) for task in tasks)
    for left_out in every[1:]:
        kept = tuple(a for a in every if a != left_out)
        name = f"{family}-without-{left_out}"
        plans.append(Curriculum(name, "leave-one-architecture-out", tasks, kept))
    return {plan.name: _with_settings(plan, BEGINS_WITH.get(family)) for plan in plans}


def _with_settings(plan: Curriculum, start: str | None) -> Curriculum:
    settings = _settings(plan.protocol)
    if start is None or plan.protocol == "paper":
        return replace(plan, settings=settings)
    fewer = replace(settings.training, steps=settings.training.steps // HEAD_START)
    return replace(plan, settings=replace(settings, training=fewer), begins_with=start)


PAPER_CHANNELS = ("influence", "input_similarity", "label_agreement", "train_loss")


def _settings(protocol: str) -> DetectorSettings:
    training = TrainingSettings(steps=STEPS[protocol])
    if protocol == "paper":
        # The paper's channels and network: absolute values, induced blocks, no second pass.
        return DetectorSettings(
            name="demix_paper",
            channels=PAPER_CHANNELS,
            relative=False,
            pooling="isab",
            summarise=False,
            rounds=0,
            training=training,
        )
    return DetectorSettings(whole_runs=WHOLE_RUNS.get(protocol, 30), training=training)


def detector_name(family: str, protocol: str, task: str, architecture: str) -> str:
    """Return the name of the detector that judges a task under a protocol.

    Raises
    ------
    DemixError
        If the protocol is unknown, or the family has none such.

    Examples
    --------
    >>> detector_name("tabular", "in-task", "bank", "mlp1")
    'tabular-only-bank'
    >>> detector_name("recommendation", "other-family", "yelp", "din")
    'tabular'
    """
    names = {
        "unified": family,
        "leave-one-task-out": f"{family}-without-{task}",
        "in-task": f"{family}-only-{task}",
        "leave-one-architecture-out": f"{family}-without-{architecture}",
        "paper": f"{family}-paper-{task}",
    }
    if family in PRACTISING:
        names["practised"] = f"{family}-practised"
    if family in OTHER_FAMILY:
        names["other-family"] = OTHER_FAMILY[family]
    if protocol not in names:
        raise unknown_name("protocol", protocol, names)
    return names[protocol]


def curriculum_for(protocol: str, task_name: str, architecture: str) -> Curriculum:
    """Return what the detector that judges a task under a protocol learns from.

    Raises
    ------
    DemixError
        If the protocol is unknown, or the task's family has none such.

    Examples
    --------
    >>> curriculum_for("other-family", "yelp", "din").protocol
    'unified'
    """
    family = get_task(task_name).family
    name = detector_name(family, protocol, task_name, architecture)
    return curricula(OTHER_FAMILY[family] if protocol == "other-family" else family)[name]


def shipped_detector(family: str) -> ErrorDetector:
    """Load the unified detector of a family, or of another one while it has none of its own.

    Examples
    --------
    >>> shipped_detector("tabular").settings.name
    'demix_lite'
    """
    own = (SHIPPED / family).with_suffix(".json").exists()
    return ErrorDetector.shipped(family if own else OTHER_FAMILY.get(family, family))


def detector_for(protocol: str, task_name: str, architecture: str) -> ErrorDetector:
    """Load the detector that judges a task under a protocol.

    Raises
    ------
    DemixError
        If the protocol is unknown or its detector was not trained yet.
    """
    plan = curriculum_for(protocol, task_name, architecture)
    try:
        return ErrorDetector.load(plan.path)
    except DemixError as error:
        raise DemixError(
            f"the detector {plan.name} is missing or outdated; train it with: "
            f"demix-lite train-detector {get_task(plan.tasks[0]).family} --only {plan.name}."
        ) from error


Bank = dict[str, list[Environment]]
"""Environments by task."""


def environment_bank(
    tasks: Sequence[str],
    *,
    source: str = "real",
    injections: int = INJECTIONS,
    rows: int | None = None,
    architectures: Sequence[str] | None = None,
    sample: int | None = TrainingSettings.rows,
    practice: bool = False,
    jobs: int | None = None,
    progress: bool = False,
) -> Bank:
    """Make the training environments of several tasks, several at a time.

    Parameters
    ----------
    tasks : sequence of str
        Names of tasks.
    source : {"real", "twin"}
        Their tables.
    injections : int
        Injections a task.
    rows : int, optional
        Training rows of each, at most; the task's number by default.
    architectures : sequence of str, optional
        Task models that every injection is seen through; all of a task by default.
    sample : int, optional
        Rows whose vectors are taken at once, side by side; None takes none.
    practice : bool
        Also ask other questions of the tables, as many again, where a family can.
    jobs : int, optional
        How many environments are made side by side; one a core by default.
    """
    work = [(name, number) for number in range(injections) for name in tasks]
    made = Parallel(n_jobs=jobs or cpu_count(), return_as="generator")(
        delayed(_make)(name, source, number, rows, architectures, sample, practice)
        for name, number in work
    )
    bar = tqdm(made, total=len(work), desc="environments", disable=not progress)
    bank: Bank = {name: [] for name in tasks}
    for (name, _), environments in zip(work, bar, strict=True):
        bank[name].extend(environments)
    return bank


def _make(
    name: str,
    source: str,
    number: int,
    rows: int | None,
    architectures: Sequence[str] | None,
    sample: int | None,
    practice: bool,
) -> list[Environment]:
    torch.set_num_threads(1)
    options: dict[str, Any] = {"architectures": architectures, "rows": rows}
    made = [
        environment
        for drawn in ((False, True) if practice else (False,))
        for environment in injection_environments(
            get_task(name), _splits(name, source), number, practice=drawn, **options
        )
    ]
    if sample is not None:
        for environment in made:
            environment.sample(sample)
    return made


@cache
def _splits(name: str, source: str) -> Splits:
    return get_task(name).load(source)


def train_detectors(
    plans: Sequence[Curriculum],
    *,
    source: str = "real",
    injections: int = INJECTIONS,
    bank: Callable[[Sequence[str]], Bank] | None = None,
    again: bool = False,
    progress: bool = False,
    announce: Callable[[str], None] = lambda line: None,
) -> None:
    """Train detectors one after the other; one that is there already is left as it is.

    Parameters
    ----------
    plans : sequence of Curriculum
        What to train.
    source : {"real", "twin"}
        The tables of the environments.
    injections : int
        Injections a task.
    bank : callable, optional
        Makes the environments of some tasks; :func:`environment_bank` by default.
    again : bool
        Train those that are there again.
    announce : callable
        Called with a line a detector.
    """
    missing = [plan for plan in plans if again or not _is_there(plan.path)]
    for plan in plans:
        if plan not in missing:
            announce(f"{plan.name}: is there, {plan.path}")
    if not missing:
        return
    needed = [name for name in TASKS if any(name in plan.tasks for plan in missing)]
    environments = (
        bank(needed)
        if bank
        else environment_bank(
            needed,
            source=source,
            injections=injections,
            practice=any(plan.practises for plan in missing),
            progress=progress,
        )
    )
    for plan in missing:
        chosen = [
            environment
            for name in plan.tasks
            for environment in environments[name]
            if environment.architecture in plan.architectures
            and (plan.practises or not environment.practice)
        ]
        facts: dict[str, Any] = {
            "protocol": plan.protocol,
            "tasks": plan.tasks,
            "architectures": plan.architectures,
            "source": source,
            "injections": injections,
            "data_sha256": {name: get_task(name).load(source).card.sha256 for name in plan.tasks},
            **provenance(None),
        }
        detector = ErrorDetector(plan.settings)
        if plan.begins_with:
            facts["begins_with"] = plan.begins_with
            start = ErrorDetector.shipped(plan.begins_with)
            detector.first.load_state_dict(start.first.state_dict())
        detector.fit(chosen, facts=facts, progress=progress).save(plan.path)
        announce(f"{plan.name}: trained on {len(chosen)} environments, {plan.path}")


def _is_there(path: Path) -> bool:
    try:
        ErrorDetector.load(path)
    except DemixError:
        return False
    return True
