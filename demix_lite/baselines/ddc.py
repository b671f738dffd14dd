"""Data cleaning with Cleanlab: label issues, outliers and conspicuous groups of rows."""

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import ClassVar

import numpy as np

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.looks import (
    class_count,
    doubt,
    encoded,
    label_bins,
    once_per_run,
    out_of_fold,
    targets,
)
from demix_lite.detector.runs import Run
from demix_lite.errors import DemixError

PRIOR_ROWS = 10
FIFTHS = np.arange(0.2, 0.9, 0.2)


class DDC(Baseline):
    """Data cleaning built on Cleanlab, as the paper sketches it; the group step is our reading.

    - Labels: Cleanlab's label quality from out-of-fold predictions; ``issues_first`` ranks the
      issues that confident learning flags before all other rows.
    - Features: Cleanlab's out-of-distribution score from the nearest neighbours of the encoded
      inputs.
    - Groups: a group is all rows with the same value of a feature. A row is suspicious if the model
      performs badly on its groups (``"underperforming"``), or if its label is rare in one of them
      (``"disagreeing"``).
    """

    name = "ddc"
    space: ClassVar = {"group": ("disagreeing", "underperforming"), "issues_first": (True, False)}
    reference = (
        "Northcutt, Jiang & Chuang (2021), Confident Learning; Kuan & Mueller (2022), Back to the "
        "Basics: Revisiting Out-of-Distribution Detection Baselines; Chung et al. (2019), Slice "
        "Finder; cleanlab"
    )

    def scores(self, run: Run) -> np.ndarray:
        """Score every row for label, feature and spurious errors, shape ``(N, 3)``."""
        label = poor_labels(run)
        if self.settings["issues_first"]:
            label = label + label_issues(run)
        by_group = {"underperforming": underperforming, "disagreeing": disagreeing}
        return np.column_stack([label, outliers(run), by_group[self.settings["group"]](run)])


def cleanlab(module: str) -> ModuleType:
    """Import a module of Cleanlab.

    Raises
    ------
    DemixError
        If Cleanlab, or what it needs, is not installed.
    """
    try:
        return importlib.import_module(f"cleanlab.{module}")
    except ImportError as error:
        raise DemixError(
            "the baselines ddc and datalab need Cleanlab: pip install 'demix_lite[baselines]'."
        ) from error


@once_per_run
def poor_labels(run: Run) -> np.ndarray:
    """Return 1 − Cleanlab's label quality."""
    own, said = targets(run), out_of_fold(run)
    if class_count(run):
        return 1 - cleanlab("rank").get_label_quality_scores(*present(own, said))
    return 1 - cleanlab("regression.rank").get_label_quality_scores(own, said)


@once_per_run
def label_issues(run: Run) -> np.ndarray:
    """Return True for label issues of confident learning; False everywhere for numbers."""
    if not class_count(run):
        return np.zeros(len(run), dtype=bool)
    own, said = present(targets(run), out_of_fold(run))
    return cleanlab("filter").find_label_issues(own, said, n_jobs=1)


def present(own: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the classes that occur from 0, and keep only their probabilities.

    Examples
    --------
    >>> own, said = present(np.array([0, 2]), np.array([[0.5, 0.0, 0.5], [0.2, 0.6, 0.2]]))
    >>> own.tolist(), said.tolist()
    ([0, 1], [[0.5, 0.5], [0.5, 0.5]])
    """
    names, numbers = np.unique(own, return_inverse=True)
    # The probabilities of a row must not all be zero.
    said = said[:, names] + 1e-12
    return numbers, said / said.sum(axis=1, keepdims=True)


@once_per_run
def outliers(run: Run) -> np.ndarray:
    """Return 1 − Cleanlab's nearest-neighbour score, which is low for outliers."""
    judge = cleanlab("outlier").OutOfDistribution()
    return 1 - judge.fit_score(features=encoded(run), verbose=False)


@once_per_run
def underperforming(run: Run) -> np.ndarray:
    """Return the mean, over the groups of a row, of the mean out-of-fold loss of the group.

    The means of groups are shrunk towards the mean of the run by ten pseudo-rows.
    """
    loss = doubt(run)
    means = []
    for group in groups(run):
        size, total = np.bincount(group), np.bincount(group, weights=loss)
        means.append(((total + PRIOR_ROWS * loss.mean()) / (size + PRIOR_ROWS))[group])
    return np.mean(means, axis=0)


@once_per_run
def disagreeing(run: Run) -> np.ndarray:
    """Return the largest factor by which a row's label is rarer in a group than in the run."""
    bins = label_bins(run)
    share = np.bincount(bins) / len(bins)
    rarer = []
    for group in groups(run):
        cell = group * len(share) + bins
        expected = np.bincount(group)[group] * share[bins]
        rarer.append((expected + PRIOR_ROWS) / (np.bincount(cell)[cell] + PRIOR_ROWS))
    return np.max(rarer, axis=0)


def groups(run: Run) -> Iterator[np.ndarray]:
    """Yield, feature by feature, the group of every row: its category or its quintile."""
    values, categorical = run.columns()
    for column, is_category in zip(values.T[:-1], categorical[:-1], strict=True):
        if not is_category:
            fifth = np.searchsorted(np.nanquantile(column, FIFTHS), column)
            column = np.where(np.isnan(column), -1, fifth)  # missing values are a group
        yield np.unique(column, return_inverse=True)[1]
