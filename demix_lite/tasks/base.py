"""The interface of a task: everything that differs between one data set and another.

The stages of the pipeline (injection, influence, detection, repair, evaluation) only ever talk to
the :class:`Task` defined here. A new data set is a new subclass or a new instance; no stage
changes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from demix_lite.data.store import Card
from demix_lite.errors import DemixError, refuse_unknown
from demix_lite.models.training import Trained, fit
from demix_lite.seeds import generator
from demix_lite.tasks.labels import Label

Interval = tuple[float, float]

SEPARATOR = "|"
"""Separator between the values of a cell that lists several."""


class AnyOf(frozenset[str]):
    """Categories, at least one of which a cell with several values has to list.

    Examples
    --------
    >>> AnyOf(["Action", "Sci-Fi"]).within(pd.Series(["Drama|Action", "Drama", None])).tolist()
    [True, False, False]
    """

    def within(self, cells: pd.Series) -> np.ndarray:
        """Return a boolean array, True where a cell lists one of the values."""
        listed, inverse = np.unique(cells.fillna("").to_numpy(dtype=object), return_inverse=True)
        return np.array([not self.isdisjoint(c.split(SEPARATOR)) for c in listed])[inverse]


@dataclass(frozen=True)
class Rule:
    """A spurious rule: in the data, the condition goes with the target more often than in truth.

    Parameters
    ----------
    name : str
        Short name shown to people.
    condition : dict
        Maps a column name to a set of categories, to a closed ``(low, high)`` interval, or to
        :class:`AnyOf` for a cell that lists several values; all must hold.
    target : str, number or interval
        The label (or range of labels) that the condition falsely predicts.
    """

    name: str
    condition: Mapping[str, Set[str] | Interval]
    target: str | float | Interval

    def holds(self, frame: pd.DataFrame) -> np.ndarray:
        """Return a boolean array, True where the condition is met."""
        met = np.ones(len(frame), dtype=bool)
        for column, wanted in self.condition.items():
            met &= _within(frame[column], wanted)
        return met

    def matches_target(self, labels: pd.Series) -> np.ndarray:
        """Return a boolean array, True where the label is the rule's target."""
        wanted = self.target if isinstance(self.target, tuple) else {self.target}
        return _within(labels, wanted)


def _within(values: pd.Series, wanted: Set | Interval) -> np.ndarray:
    if isinstance(wanted, AnyOf):
        return wanted.within(values)
    found = values.between(*wanted) if isinstance(wanted, tuple) else values.isin(list(wanted))
    return found.to_numpy(dtype=bool)


@dataclass(frozen=True)
class Splits:
    """Training, validation and test rows of a task, as readable frames, and their source."""

    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame
    card: Card

    def sample(self, rows: int, *, seed: object = 0) -> "Splits":
        """Keep at most ``rows`` training rows, a quarter as many validation rows, all test rows.

        The same ``seed`` keeps the same rows.
        """

        def some(frame: pd.DataFrame, count: int, part: str) -> pd.DataFrame:
            kept = generator(self.card.name, "sample", part, seed).permutation(len(frame))[:count]
            return frame.iloc[np.sort(kept)].reset_index(drop=True)

        return replace(
            self,
            train=some(self.train, rows, "train"),
            valid=some(self.valid, -(-rows // 4), "valid"),
        )


@dataclass(frozen=True)
class FeatureErrorPlan:
    """How features are corrupted in one injection: the columns and the kind, drawn once.

    Parameters
    ----------
    columns : tuple of str
        The corrupted columns.
    kind : str
        The kind of corruption, in the task's own words (``"outlier"``, ``"scale"``, ...).
    details : dict
        Whatever the task needs to corrupt training and validation rows in the same way.
    order : callable, optional
        For tasks in which rows with the same unit (a user, an item) are corrupted together. Maps a
        frame to the number of the unit of every row, counted from 0 in the order in which units are
        corrupted.
    """

    columns: tuple[str, ...]
    kind: str
    details: dict[str, Any] = field(default_factory=dict)
    order: Callable[[pd.DataFrame], np.ndarray] | None = None


class Task(ABC):
    """One data set with its label, its possible errors, its models and its metric.

    Attributes
    ----------
    name, family : str
        Registry name and family (``"tabular"``, ...).
    target : str
        The label column.
    label : Label
        Type of the label, which determines the loss and the metric.
    rules : tuple of Rule
        Known spurious rules.
    architectures : tuple of str
        Names accepted by :meth:`build_model`, the standard one first.
    slow_architectures : tuple of str
        Those that are trained for only some of the injections that a detector learns from.
    minority_share : float
        Share to which the minority group of a spurious rule is reduced. If it is smaller from the
        start (Covertype), no row is dropped: the rule then holds as often in the test rows.
    training : dict
        Settings of :func:`demix_lite.models.training.fit` that differ from its defaults.
    exchanges_labels : bool
        Whether a wrong label is that of another row, instead of one drawn by :meth:`Label.wrong`.
    least_broken : float
        Probability of a feature error below which a repair leaves the features as they are.
    judged_rows, practice_rows : int
        Largest number of training rows in the runs of the benchmark, and in the runs that a
        detector learns from.
    """

    name: str
    family: str
    target: str
    label: Label
    rules: tuple[Rule, ...]
    architectures: tuple[str, ...]
    slow_architectures: tuple[str, ...] = ()
    minority_share: float
    exchanges_labels: bool = False
    least_broken: float = 0.0
    training: Mapping[str, Any] = MappingProxyType({})
    judged_rows: int = 8000
    practice_rows: int = 5000

    @abstractmethod
    def load(self, source: str = "twin", *, rows: int | None = None, home: Any = None) -> Splits:
        """Load the table and split it; the split depends only on the task and the table."""

    @abstractmethod
    def plan_feature_errors(
        self, frame: pd.DataFrame, rng: np.random.Generator
    ) -> FeatureErrorPlan:
        """Draw the columns and the kind of the feature errors of one injection."""

    @abstractmethod
    def corrupt_features(
        self, frame: pd.DataFrame, plan: FeatureErrorPlan, rng: np.random.Generator
    ) -> pd.DataFrame:
        """Return ``frame`` with the planned columns of every row corrupted."""

    @abstractmethod
    def encoder(self, frame: pd.DataFrame) -> "Encoder":
        """Fit an encoder on the user's rows, errors included."""

    @abstractmethod
    def build_model(self, architecture: str, encoder: "Encoder") -> nn.Module:
        """Return an untrained model for the encoded inputs."""

    @abstractmethod
    def impute(
        self, suspects: pd.DataFrame, trusted: pd.DataFrame
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Replace the suspicious cells of ``suspects`` by values typical of ``trusted`` rows.

        Returns the repaired rows and a boolean frame of the cells that were replaced.
        """

    def practice(self, splits: Splits, rng: np.random.Generator) -> "tuple[Task, Splits] | None":
        """Draw another task on these rows for a detector to practise on; None if there is none."""
        return None

    @property
    def metric_name(self) -> str:
        """Name of the metric."""
        return self.label.metric_name

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every sample, shape ``(n,)``."""
        return self.label.loss(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the task metric; ``label.larger_is_better`` says whether larger is better."""
        return self.label.metric(outputs, targets)

    def wrong_labels(self, labels: pd.Series, rng: np.random.Generator) -> pd.Series:
        """Draw a wrong label for each of the given labels."""
        if self.exchanges_labels:
            return self.label.of_others(labels, labels, rng)
        return self.label.wrong(labels, rng)

    def relabel(self, labels: pd.Series, outputs: Tensor) -> pd.Series:
        """Return better labels for rows that seem mislabelled, from a model's outputs for them."""
        return self.label.better(labels, outputs)

    def rule(self, name: str) -> Rule:
        """Return the spurious rule with this name."""
        known = {rule.name: rule for rule in self.rules}
        refuse_unknown(f"rule of {self.name}", [name], known)
        return known[name]

    def rules_for(self, frame: pd.DataFrame) -> tuple[Rule, ...]:
        """Return the rules that are meaningful for this table; by default all of them."""
        return self.rules

    def minority(self, frame: pd.DataFrame, rule: Rule) -> np.ndarray:
        """Return True for the rows that break the rule: condition and target do not go together."""
        return rule.holds(frame) != rule.matches_target(frame[self.target])

    def groups(self, frame: pd.DataFrame, rule: Rule) -> np.ndarray:
        """Number the four groups (condition met or not) × (target or not) from 0 to 3.

        Rows about which the rule says nothing, if there are such, are in group -1.
        """
        return 2 * rule.holds(frame) + rule.matches_target(frame[self.target])

    def with_language_model(self, name: str) -> "Task":
        """Return the task with another language model: a folder, or a name on the hub."""
        raise DemixError(
            f"{self.name} is not about language: there is no model {name!r} to choose."
        )

    def check_architecture(self, architecture: str) -> str:
        """Return ``architecture`` if the task knows it, else raise :class:`DemixError`."""
        refuse_unknown(f"architecture of {self.name}", [architecture], self.architectures)
        return architecture


class Encoder(ABC):
    """Turns readable rows of a task into tensors; fitted once, on dirty training rows."""

    task: Task

    @abstractmethod
    def inputs(self, frame: pd.DataFrame) -> Any:
        """Return the model inputs: a tensor or a nest of tensors with leading dimension ``n``."""

    @abstractmethod
    def columns(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs of tree models: one column per feature, categories as codes.

        The values have shape ``(n, d)``, with NaN for missing values; a boolean array of shape
        ``(d,)`` marks the categorical columns.
        """

    def targets(self, labels: pd.Series) -> Tensor:
        """Return the targets as encoded by the label, shape ``(n,)``."""
        return self.task.label.encode(labels)

    def transform(self, frame: pd.DataFrame, target: str) -> tuple[Any, Tensor]:
        """Return ``(inputs, targets)`` of a frame."""
        return self.inputs(frame), self.targets(frame[target])


def check_columns(
    frame: pd.DataFrame, wanted: Sequence[str], where: str, error: type[DemixError] = DemixError
) -> None:
    """Raise ``error`` naming the columns of ``wanted`` that ``frame`` lacks.

    Examples
    --------
    >>> check_columns(pd.DataFrame({"a": [1]}), ["a"], "my.csv")
    """
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise error(f"{where} lacks the column(s) {', '.join(missing)}.")


def seeded_model(task: Task, architecture: str, encoder: Encoder, seed: int) -> nn.Module:
    """Build a model whose weights depend on ``seed`` alone, not on the global random state."""
    task.check_architecture(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.build_model(architecture, encoder)


def fit_model(
    task: Task,
    architecture: str,
    frame: pd.DataFrame,
    seed: int,
    *,
    encoder: Encoder | None = None,
    **settings: Any,
) -> tuple[Trained, Encoder]:
    """Train a task model on rows as they are; return it and its encoder.

    The seed fixes the initial weights and the order of the mini-batches. The encoder is fitted on
    ``frame`` if none is given. ``settings`` (``weights``, ``device``, ...) are those of
    :func:`demix_lite.models.training.fit` and override the task's own.

    Examples
    --------
    >>> from demix_lite.tasks import get_task
    >>> task = get_task("bike")
    >>> trained, encoder = fit_model(task, "mlp2", task.load(rows=300).train, seed=0)
    >>> len(trained.losses) == task.training.get("epochs", 8)
    True
    """
    encoder = encoder or task.encoder(frame)
    model = seeded_model(task, architecture, encoder, seed)
    options = {**task.training, **settings, "seed": seed}
    return fit(model, task.loss, *encoder.transform(frame, task.target), **options), encoder
