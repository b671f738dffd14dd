"""Which environments a detector is trained on: the protocols of the benchmark.

- *unified*: all tasks of the family; the detector for the data sets of this benchmark.
- *practised*: all tasks, and as many practice tasks drawn from their tables (see
  :mod:`demix_lite.tasks.practice`); the detector for tables of your own.
- *leave-one-task-out*: like practised, but without the judged task; the detector has never seen the
  data set.
- *in-task*: only the judged task, with other errors, as in the paper (for preference pairs, the
  network begins with the weights of the detector of tables).
- *leave-one-architecture-out*: all tasks, but never the judged architecture.
- *paper*: in-task with the four channels of the paper and induced attention blocks like its own,
  half as wide and with eight pooling queries, for comparison.
- *other-family*: the unified detector of another family, unchanged.

Under every protocol the validation set of a judged run is new: errors, rows and the choice of the M
samples are drawn from the run's own seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from joblib import delayed

from demix_lite.benchmark.ledger import provenance
from demix_lite.benchmark.processes import side_by_side
from demix_lite.data.store import check_source, data_home
from demix_lite.detector import DetectorSettings, Environment, ErrorDetector, TrainingSettings
from demix_lite.detector.classifier import SHIPPED, check_injections
from demix_lite.detector.environments import injection_environments
from demix_lite.errors import DemixError, refuse_unknown, unknown_name
from demix_lite.models.training import resolve_device
from demix_lite.tasks import TASKS, get_task
from demix_lite.tasks.base import Splits
from demix_lite.whole_file import check_writable

INJECTIONS = 48
STEPS = {
    "unified": 5000,
    "practised": 4000,
    "leave-one-task-out": 1500,
    "leave-one-architecture-out": 1500,
    "in-task": 1500,
    "paper": 1500,
}
"""Training steps of the first pass by protocol."""

OTHER_FAMILY = {"recommendation": "tabular", "alignment": "tabular"}
"""Maps a family to the one whose unified detector judges it under the protocol other-family."""

BEGINS_WITH = {"alignment": "tabular"}
"""Maps a family whose environments are expensive to the one whose shipped detector initialises its
detectors."""

HEAD_START = 4
"""A detector that is initialised with another one is trained for this many times fewer steps."""

PRACTISING = ("tabular",)
"""Families from whose data practice tasks can be drawn."""

WITHOUT_PLAIN_SUPPORT = ("alignment",)
"""Families in which plain support gained nothing: the columns of a preference pair hardly predict
its label."""

WITH_PRACTICE = ("practised", "leave-one-task-out")
"""Protocols whose detectors are also trained on practice tasks."""

NAMES = {
    "unified": "{family}",
    "practised": "{family}-practised",
    "leave-one-task-out": "{family}-without-{task}",
    "in-task": "{family}-only-{task}",
    "paper": "{family}-paper-{task}",
    "leave-one-architecture-out": "{family}-without-{architecture}",
}
"""Name of a detector by protocol."""

PAPER_CHANNELS = ("influence", "input_similarity", "label_agreement", "train_loss")


@dataclass(frozen=True)
class Curriculum:
    """What one detector is trained on.

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
        The shipped detector from whose first pass the training starts.
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
    def path(self) -> Path:
        """Path of the detector's files, without the extension."""
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
    """Return the curricula of all detectors of a family, by name.

    Examples
    --------
    >>> curricula("tabular")["tabular-without-adult"].protocol
    'leave-one-task-out'
    """
    every = family_tasks(family)
    models = TASKS[every[0]].architectures

    def plan(
        protocol: str, tasks: tuple[str, ...] = every, known: tuple[str, ...] = models, **left: str
    ) -> Curriculum:
        name = NAMES[protocol].format(family=family, **left)
        start = None if protocol == "paper" else BEGINS_WITH.get(family)
        steps = STEPS[protocol] // (HEAD_START if start else 1)
        return Curriculum(name, protocol, tasks, known, _settings(protocol, family, steps), start)

    plans = [
        plan("unified"),
        *([plan("practised")] if family in PRACTISING else []),
        *(plan("leave-one-task-out", _without(every, task), task=task) for task in every),
        *(plan("in-task", (task,), task=task) for task in every),
        *(plan("paper", (task,), task=task) for task in every),
        *(
            plan("leave-one-architecture-out", every, _without(models, model), architecture=model)
            for model in models[1:]
        ),
    ]
    return {made.name: made for made in plans}


def _without(names: tuple[str, ...], one: str) -> tuple[str, ...]:
    return tuple(name for name in names if name != one)


def _settings(protocol: str, family: str, steps: int) -> DetectorSettings:
    training = TrainingSettings(steps=steps)
    if protocol == "paper":
        # The paper's channels and recipe: absolute values, induced blocks, no second pass.
        return DetectorSettings(
            name="demix_paper",
            channels=PAPER_CHANNELS,
            relative=False,
            pooling="isab",
            summarise=False,
            rounds=0,
            training=training,
        )
    return DetectorSettings(
        practises=protocol in WITH_PRACTICE and family in PRACTISING,
        plain_support=family not in WITHOUT_PLAIN_SUPPORT,
        training=training,
    )


def curriculum_for(protocol: str, task_name: str, architecture: str) -> Curriculum:
    """Return the curriculum of the detector that judges a task under a protocol.

    Raises
    ------
    DemixError
        If no detector judges the task and the architecture under this protocol.

    Examples
    --------
    >>> curriculum_for("in-task", "bank", "mlp1").name
    'tabular-only-bank'
    >>> curriculum_for("other-family", "yelp", "din").name
    'tabular'
    """
    family = get_task(task_name).family
    if protocol == "other-family" and family in OTHER_FAMILY:
        family, protocol = OTHER_FAMILY[family], "unified"
    known = curricula(family)
    judged = {"family": family, "task": task_name, "architecture": architecture}
    names = {protocol: name.format(**judged) for protocol, name in NAMES.items()}
    plans = {protocol: known[name] for protocol, name in names.items() if name in known}
    refuse_unknown("protocol", [protocol], plans)
    return plans[protocol]


def shipped_detector(family: str) -> ErrorDetector:
    """Load the unified detector of a family, or of another family if it has none of its own.

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
        If the protocol is unknown, or its detector has not been trained yet.
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
    device: str | None = None,
) -> Bank:
    """Make the training environments of several tasks in parallel processes.

    Parameters
    ----------
    tasks : sequence of str
        Names of the tasks.
    source : {"real", "twin"}
        Where the rows come from.
    injections : int
        Number of injections per task.
    rows : int, optional
        Largest number of training rows of each environment; by default that of the task.
    architectures : sequence of str, optional
        Task models that are trained for every injection; by default all of the task.
    sample : int, optional
        Number of rows whose vectors are computed at once in the parallel processes; with None, none
        are.
    practice : bool
        Whether to draw as many practice tasks in addition, in families that have them.
    jobs : int, optional
        Number of parallel processes, with one thread each; by default the number of cores.
    device : str, optional
        Device for training and influence; by default the CPU.

    Returns
    -------
    dict
        Maps the name of a task to its environments, in the order of the injections.
    """
    options: dict[str, Any] = {"rows": rows, "architectures": architectures, "device": device}
    work = [(name, number) for number in range(injections) for name in tasks]
    calls = [delayed(_make)(name, source, n, sample, practice, **options) for name, n in work]
    bank: Bank = {name: [] for name in tasks}
    made = side_by_side(calls, "environments", jobs)
    for (name, _), environments in zip(work, made, strict=True):
        bank[name].extend(environments)
    return bank


def _make(
    name: str, source: str, number: int, sample: int | None, practice: bool, **options: Any
) -> list[Environment]:
    torch.set_num_threads(1)
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
    again: bool = False,
    jobs: int | None = None,
    device: str | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> None:
    """Train detectors one after the other; skip those that exist, unless ``again`` is true.

    Their environments are made in ``jobs`` parallel processes (by default one per core), with
    models trained on ``device``, by default the CPU. ``announce`` is called with one line per
    detector.

    Raises
    ------
    DemixError
        If there are too few injections, or a detector could not be written.
    """
    check_injections(injections)
    check_source(source)
    resolve_device(device)
    missing = [plan for plan in plans if again or not _is_there(plan.path)]
    for plan in plans:
        if plan not in missing:
            announce(f"{plan.name}: is there, {plan.path}")
    if not missing:
        return
    for plan in missing:
        plan.path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(plan.path)
    bank = environment_bank(
        [name for name in TASKS if any(name in plan.tasks for plan in missing)],
        source=source,
        injections=injections,
        practice=any(plan.settings.practises for plan in missing),
        jobs=jobs,
        device=device,
    )
    for plan in missing:
        chosen = [
            environment
            for name in plan.tasks
            for environment in bank[name]
            if environment.architecture in plan.architectures
            and (plan.settings.practises or not environment.practice)
        ]
        facts: dict[str, Any] = {
            "protocol": plan.protocol,
            "tasks": plan.tasks,
            "architectures": plan.architectures,
            "source": source,
            "injections": injections,
            "data_sha256": {name: get_task(name).load(source).card.sha256 for name in plan.tasks},
            **provenance(device),
        }
        detector = ErrorDetector(plan.settings)
        if plan.begins_with:
            facts["begins_with"] = plan.begins_with
            start = ErrorDetector.shipped(plan.begins_with)
            detector.first.load_state_dict(start.first.state_dict())
        detector.fit(chosen, facts=facts).save(plan.path)
        announce(f"{plan.name}: trained on {len(chosen)} environments, {plan.path}")


def _is_there(path: Path) -> bool:
    try:
        ErrorDetector.load(path)
    except DemixError:
        return False
    return True
