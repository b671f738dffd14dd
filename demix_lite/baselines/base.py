"""One interface for all baselines: a score per row, mapped to probabilities of the error types.

A baseline gives every row one score, or one per error type; larger means more suspicious. What a
score means is learned on training environments, in the same way for every baseline: a score becomes
a rank within its run, and the share of each error at each rank is the probability. This is the best
fixed mapping from ranks to error types, so no baseline suffers from a badly chosen threshold.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.model_selection import ParameterGrid

from demix_lite.detector.environments import Environment
from demix_lite.detector.runs import Run
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis, score
from demix_lite.errors import DemixError
from demix_lite.tasks.base import Task
from demix_lite.tasks.labels import Label
from demix_lite.whole_file import whole_file

BINS = 50


class Baseline(ABC):
    """A method that scores the rows of a run.

    :meth:`fit` chooses all settings that are not given.

    Attributes
    ----------
    name : str
        Name in the ledger.
    claims : tuple of str
        The error types the method claims to find; its scores are mapped to all types anyway.
    space : dict
        Maps each setting to the values tried by :meth:`fit`; the first is the default.
    reference : str
        The publication or the library the method comes from.
    judges : type
        The kind of label the method applies to.
    """

    name: ClassVar[str]
    claims: ClassVar[tuple[str, ...]] = ERROR_TYPES
    space: ClassVar[dict[str, tuple[Any, ...]]] = {}
    reference: ClassVar[str] = ""
    judges: ClassVar[type] = Label

    def __init__(self, **settings: Any):
        unknown = set(settings) - set(self.space)
        if unknown:
            raise DemixError(f"{self.name} has no setting {', '.join(sorted(unknown))}.")
        self.fixed = settings
        self.settings = {key: values[0] for key, values in self.space.items()} | settings
        self.rates: np.ndarray | None = None

    @classmethod
    def applies_to(cls, task: Task) -> bool:
        """Return whether the method applies to a task."""
        return isinstance(task.label, cls.judges)

    @abstractmethod
    def scores(self, run: Run) -> np.ndarray:
        """Score the rows of a run, shape ``(N,)`` or ``(N, 3)``; larger is more suspicious."""

    def fit(self, environments: Sequence[Environment]) -> Self:
        """Choose the settings and learn the mapping on environments with known errors."""
        best = -np.inf
        winner: tuple[dict[str, Any], np.ndarray | None] = (self.settings, None)
        tried = self.space | {key: (value,) for key, value in self.fixed.items()}
        for settings in ParameterGrid(tried):
            self.settings = settings
            places = [_places(self.scores(e.run)) for e in environments]
            self.rates = _rates(places, [e.errors for e in environments])
            said = [
                self._diagnose(place, e.run) for place, e in zip(places, environments, strict=True)
            ]
            judged = zip(said, environments, strict=True)
            reached = np.mean([_mean_f1(d, e) for d, e in judged if e.errors.any()])
            if reached > best:
                best, winner = float(reached), (settings, self.rates)
        self.settings, self.rates = winner
        return self

    def predict(self, run: Run) -> Diagnosis:
        """Diagnose every row of a run.

        Raises
        ------
        DemixError
            If the baseline was not fitted.
        """
        if self.rates is None:
            raise DemixError(f"fit the baseline {self.name} before it judges a run.")
        return self._diagnose(_places(self.scores(run)), run)

    def save(self, path: str | Path) -> None:
        """Write name, settings and mapping as JSON."""
        path = Path(path)
        rates = None if self.rates is None else self.rates.round(6).tolist()
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            kept = {"name": self.name, "settings": self.settings, "rates": rates}
            part.write_text(json.dumps(kept) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DemixError
            If the file belongs to another baseline.
        """
        kept = json.loads(Path(path).read_text("utf-8"))
        if kept.get("name", cls.name) != cls.name:  # older files have no name
            raise DemixError(f"{path} is a file of {kept['name']}, not of {cls.name}.")
        baseline = cls(**kept["settings"])
        baseline.rates = None if kept["rates"] is None else np.array(kept["rates"])
        return baseline

    def _diagnose(self, places: Sequence["_Places"], run: Run) -> Diagnosis:
        assert self.rates is not None
        columns = zip(places, self.rates.T, strict=True)
        probability = np.column_stack([place.look_up(rate) for place, rate in columns])
        return Diagnosis.from_probability(probability, index=run.index)


@dataclass(frozen=True)
class _Places:
    """The bins of the ranks of one score within a run.

    Rows with equal scores have no order, so they share all bins that their ranks cover.
    ``tie`` numbers the groups of equal scores, shape ``(N,)``; ``share`` is the share of every
    group in every bin, shape ``(groups, BINS)``.
    """

    tie: np.ndarray
    share: np.ndarray

    def count(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of rows and of errors in every bin."""
        return np.bincount(self.tie) @ self.share, np.bincount(self.tie, truth) @ self.share

    def look_up(self, rate: np.ndarray) -> np.ndarray:
        """Return the rate of every row, given that of every bin."""
        return (self.share @ rate)[self.tie]


def _places(scores: np.ndarray) -> list[_Places]:
    """Return the places of the rows of a run by their score for every error type."""
    scores = np.nan_to_num(np.asarray(scores, dtype=float))
    columns = scores.T if scores.ndim > 1 else [scores] * len(ERROR_TYPES)
    bins = ((np.arange(len(scores)) + 0.5) / len(scores) * BINS).astype(int)
    places = []
    for column in columns:
        _, tie, sizes = np.unique(column, return_inverse=True, return_counts=True)
        covered = np.zeros((len(sizes), BINS))
        np.add.at(covered, (np.repeat(np.arange(len(sizes)), sizes), bins), 1)
        places.append(_Places(tie, covered / sizes[:, None]))
    return places


def _rates(runs: Sequence[Sequence[_Places]], errors: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of each error in each bin, shape ``(BINS, 3)``; empty bins get the mean."""
    overall = np.concatenate(errors).mean(axis=0)
    columns = []
    for kind, mean in enumerate(overall):
        counts = [run[kind].count(truth[:, kind]) for run, truth in zip(runs, errors, strict=True)]
        rows, hits = np.sum(counts, axis=0)
        # Smoothed by one pseudo-row with the overall share, which an empty bin then gets.
        columns.append((hits + mean) / (rows + 1))
    return np.column_stack(columns)


def _mean_f1(diagnosis: Diagnosis, environment: Environment) -> float:
    """Return the mean F1 over the error types that occur in the environment."""
    reached = score(diagnosis, environment.truth)
    return float(np.nanmean([reached[f"f1_{kind}"] for kind in ERROR_TYPES]))
