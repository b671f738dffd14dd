"""Label types, classes and numbers: how each is encoded, corrupted, evaluated and repaired."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

SMALLEST_SHIFT = 0.25
"""Least distance of a wrong number from the right one, as a share of the label's range; or, if the
wrong number is that of another row, the least share of the rows that lie between the two."""

IMPUTE_GROUPS = 5


class Label(ABC):
    """The label of a task.

    Attributes
    ----------
    metric_name : str
        Name of the metric.
    larger_is_better : bool
        Whether a larger metric means a better model.
    names : tuple of str
        The classes; empty for a number.
    least_doubt : float
        Probability of a label error below which a repair still trusts the label.
    """

    metric_name: str
    larger_is_better: bool
    names: tuple[str, ...] = ()
    least_doubt: float = 0.0

    @property
    def classes(self) -> int:
        """Number of classes; 0 for a number."""
        return len(self.names)

    @property
    def outputs(self) -> int:
        """Number of outputs of a model that predicts this label."""
        return self.classes or 1

    @property
    def two_sided(self) -> bool:
        """Whether changing a label always moves the row to the other side of a shortcut."""
        return self.classes == 2

    @property
    def other_known(self) -> bool:
        """Whether only one other label is possible, so that a wrong label implies the right one."""
        return self.classes == 2

    @abstractmethod
    def encode(self, labels: pd.Series) -> Tensor:
        """Return the targets of the loss, shape ``(n,)``."""

    @abstractmethod
    def wrong(self, labels: pd.Series, rng: np.random.Generator) -> pd.Series:
        """Draw a wrong label for every label."""

    @abstractmethod
    def of_others(self, labels: pd.Series, known: pd.Series, rng: np.random.Generator) -> pd.Series:
        """Draw, for every label, a different label from the known rows."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every sample, shape ``(n,)``."""

    @abstractmethod
    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the task metric."""

    def group_metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the metric of a group, whose samples may all have the same label."""
        return self.metric(outputs, targets)

    @abstractmethod
    def better(self, labels: pd.Series, outputs: Tensor) -> pd.Series:
        """Return the labels suggested by a model's outputs, given that ``labels`` are wrong."""

    @abstractmethod
    def groups(self, labels: pd.Series, reference: pd.Series) -> pd.Series:
        """Assign each label to one of a few groups of similar labels, as peers for imputation."""

    def strata(self, labels: pd.Series) -> pd.Series | None:
        """Return the strata of a stratified split; None if no stratification is needed."""
        return None


@dataclass(frozen=True)
class Classes(Label):
    """A label that is one of a few classes; the metric is accuracy.

    Parameters
    ----------
    names : tuple of str
        The classes, in the order of the model's outputs.

    Examples
    --------
    >>> Classes(("no", "yes")).wrong(pd.Series(["no", "yes"]), np.random.default_rng(0)).tolist()
    ['yes', 'no']
    """

    names: tuple[str, ...]
    metric_name = "accuracy"
    larger_is_better = True

    def codes(self, labels: pd.Series) -> np.ndarray:
        """Return class numbers; -1 for a label that is not a class."""
        return pd.Index(self.names).get_indexer(labels.astype(object)).astype(np.int64)

    def encode(self, labels: pd.Series) -> Tensor:
        """Return class numbers, shape ``(n,)``."""
        return torch.from_numpy(self.codes(labels))

    def wrong(self, labels: pd.Series, rng: np.random.Generator) -> pd.Series:
        """Draw one of the other classes, uniformly, for every label."""
        shift = rng.integers(1, len(self.names), size=len(labels))
        return self._named((self.codes(labels) + shift) % len(self.names), labels)

    def of_others(self, labels: pd.Series, known: pd.Series, rng: np.random.Generator) -> pd.Series:
        """Draw one of the other classes for every label, by their frequency in the known rows.

        Examples
        --------
        >>> known = pd.Series(["a", "b", "c", "c"])
        >>> drawn = Classes(("a", "b", "c")).of_others(known, known, np.random.default_rng(0))
        >>> bool((drawn != known).all())
        True
        """
        codes = self.codes(labels)
        # A class that no known row has is drawn only if there is no other.
        frequency = np.bincount(self.codes(known), minlength=self.classes) + 1e-9
        drawn = codes.copy()
        for own in np.unique(codes):
            others = np.where(np.arange(self.classes) == own, 0, frequency)
            mine = codes == own
            drawn[mine] = rng.choice(self.classes, mine.sum(), p=others / others.sum())
        return self._named(drawn, labels)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of every sample, in nats."""
        return F.cross_entropy(outputs, targets, reduction="none")

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the accuracy, between 0 and 1."""
        return float((outputs.argmax(dim=1) == targets).double().mean())

    def better(self, labels: pd.Series, outputs: Tensor) -> pd.Series:
        """Return the most probable class other than the given one; two classes: the other one."""
        scores = outputs.detach().cpu().clone()
        scores[torch.arange(len(labels)), self.encode(labels)] = -torch.inf
        return self._named(scores.argmax(dim=1).numpy(), labels)

    def groups(self, labels: pd.Series, reference: pd.Series) -> pd.Series:
        """Return the classes themselves."""
        return labels

    def strata(self, labels: pd.Series) -> pd.Series:
        """Return the classes themselves."""
        return labels

    def _named(self, codes: np.ndarray, rows: pd.Series) -> pd.Series:
        names = np.asarray(self.names)[codes]
        return pd.Series(names, index=rows.index, name=rows.name).astype(rows.dtype)


@dataclass(frozen=True)
class LogOdds(Classes):
    """Two classes and one output, the logit of the second class; the metric is accuracy."""

    outputs = 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the binary cross-entropy of every sample, in nats."""
        wanted = targets.to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs[:, 0], wanted, reduction="none")

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the accuracy at probability 1/2, between 0 and 1."""
        return float(((outputs[:, 0] > 0) == targets.bool()).double().mean())

    def better(self, labels: pd.Series, outputs: Tensor) -> pd.Series:
        """Return the other label."""
        return self._named(1 - self.codes(labels), labels)


@dataclass(frozen=True)
class Clicks(LogOdds):
    """Whether an item was taken; the metric is the AUC.

    Examples
    --------
    >>> clicks = Clicks()
    >>> clicks.metric(torch.tensor([[-1.0], [2.0], [0.5]]), torch.tensor([0, 1, 1]))
    1.0
    """

    names: tuple[str, ...] = ("no", "yes")
    metric_name = "AUC"

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the area under the ROC curve, between 0 and 1; NaN if all labels are the same."""
        if targets.unique().numel() < 2:
            return float("nan")
        return float(roc_auc_score(targets.numpy(), outputs[:, 0].double().numpy()))

    def group_metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the accuracy at probability 1/2: a group of a shortcut has only one label."""
        return super().metric(outputs, targets)


@dataclass(frozen=True)
class Preference(LogOdds):
    """Which of two answers is preferred; the output is the DPO margin of the first.

    A swapped pair and a pair that breaks a shortcut look alike to a small model. Random swaps do
    little harm, but swapping the pairs that break the shortcut teaches it to the model. So a repair
    swaps only pairs that are more likely swapped than not.

    Examples
    --------
    >>> preference = Preference()
    >>> preference.encode(pd.Series(["first", "second"])).tolist()
    [1, 0]
    >>> preference.margin(torch.tensor([[2.0], [0.5]]), torch.tensor([1, 0])).tolist()
    [2.0, -0.5]
    """

    names: tuple[str, ...] = ("second", "first")
    metric_name = "preference accuracy"
    two_sided = False  # in many pairs a shortcut names neither answer
    least_doubt = 0.5

    def margin(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the margin of the preferred answer over the other one, shape ``(n,)``."""
        return outputs[:, 0] * (2 * targets - 1)


@dataclass(frozen=True)
class Number(Label):
    """A label that is a number; the metric is the mean squared error in units of the range.

    Parameters
    ----------
    low, high : float
        Range of the label in the data set, scaled to [0, 1] for the model. Values outside are
        clipped.

    Examples
    --------
    >>> label = Number(0, 100)
    >>> wrong = label.wrong(pd.Series([0.0, 50.0, 100.0]), np.random.default_rng(0))
    >>> bool((wrong - [0, 50, 100]).abs().min() >= 25)
    True
    """

    low: float
    high: float
    metric_name = "MSE"
    larger_is_better = False

    def encode(self, labels: pd.Series) -> Tensor:
        """Return the labels with the range scaled to [0, 1], float32, shape ``(n,)``."""
        scaled = (labels.to_numpy(dtype=float) - self.low) / (self.high - self.low)
        return torch.from_numpy(scaled.clip(0, 1).astype(np.float32))

    def wrong(self, labels: pd.Series, rng: np.random.Generator) -> pd.Series:
        """Draw uniformly from the part of the range that is at least a quarter of it away."""
        right = labels.to_numpy(dtype=float).clip(self.low, self.high)
        gap = SMALLEST_SHIFT * (self.high - self.low)
        below = (right - gap - self.low).clip(min=0)
        above = (self.high - right - gap).clip(min=0)
        place = rng.uniform(0, 1, size=len(right)) * (below + above)
        wrong = np.where(place < below, self.low + place, right + gap + place - below)
        if pd.api.types.is_integer_dtype(labels.dtype):
            whole = np.rint(wrong)
            # If rounding would come too close to the label, round away from it.
            away = np.where(place < below, np.floor(wrong), np.ceil(wrong))
            wrong = np.where(np.abs(whole - right) < gap, away, whole)
        return self._numbers(labels, wrong)

    def of_others(self, labels: pd.Series, known: pd.Series, rng: np.random.Generator) -> pd.Series:
        """Draw, for every label, one at least a quarter of the known rows away from it in rank.

        Examples
        --------
        >>> known = pd.Series(np.arange(100.0))
        >>> drawn = Number(0, 99).of_others(known, known, np.random.default_rng(0))
        >>> bool((drawn - known).abs().min() >= 24)
        True
        """
        ranked = np.sort(known)
        # A quarter of the rows on either side is excluded, and all rows with the same label.
        first, after = (
            np.searchsorted(ranked, labels, side) / len(ranked) for side in ("left", "right")
        )
        middle = (first + after) / 2
        below = np.minimum(middle - SMALLEST_SHIFT, first).clip(min=0)
        above = np.maximum(middle + SMALLEST_SHIFT, after).clip(max=1)
        place = rng.uniform(0, 1, size=len(middle)) * (below + 1 - above)
        place = np.where(place < below, place, place - below + above)
        chosen = (place * len(ranked)).astype(int).clip(max=len(ranked) - 1)
        return self._numbers(labels, ranked[chosen])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the squared error of every sample, in units of the squared range."""
        return (outputs[:, 0] - targets).square()

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the mean squared error, in units of the squared range; smaller is better."""
        return float((outputs[:, 0] - targets).double().square().mean())

    def better(self, labels: pd.Series, outputs: Tensor) -> pd.Series:
        """Return the model's prediction, clipped to the range."""
        scaled = outputs[:, 0].detach().cpu().double().numpy().clip(0, 1)
        return self._numbers(labels, self.low + scaled * (self.high - self.low))

    def groups(self, labels: pd.Series, reference: pd.Series) -> pd.Series:
        """Return the quintile of the reference labels that each label falls into, from 0."""
        edges = np.quantile(reference, np.linspace(0, 1, IMPUTE_GROUPS + 1)[1:-1])
        return pd.Series(np.searchsorted(edges, labels.to_numpy(float)), index=labels.index)

    def _numbers(self, labels: pd.Series, numbers: np.ndarray) -> pd.Series:
        whole = pd.api.types.is_integer_dtype(labels.dtype)
        numbers = np.rint(numbers) if whole else numbers
        return pd.Series(numbers, index=labels.index, name=labels.name).astype(labels.dtype)
