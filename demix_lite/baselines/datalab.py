"""Datalab as a practitioner uses it: default settings and its own flags."""

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Self

import numpy as np
import pandas as pd

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.ddc import cleanlab, present
from demix_lite.baselines.looks import class_count, encoded, once_per_run, out_of_fold, targets
from demix_lite.detector.environments import Environment
from demix_lite.detector.runs import Run
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis
from demix_lite.errors import DemixError


class Datalab(Baseline):
    """Cleanlab's Datalab with its default settings; nothing is learned from environments.

    Its flags for label, outlier and underperforming-group issues are used as they are, and 1 − its
    quality score is the probability. For numeric labels, where it has no groups, non-iid issues
    replace the group issues. An issue that it cannot check (for example without a meaningful
    cluster) is flagged nowhere.
    """

    name = "datalab"
    reference = "cleanlab, Datalab.find_issues"

    def fit(self, environments: Sequence[Environment]) -> Self:
        """Learn nothing."""
        return self

    def scores(self, run: Run) -> np.ndarray:
        """Return 1 − Datalab's quality scores, shape ``(N, 3)``."""
        return issues(run)[:, :3]

    def predict(self, run: Run) -> Diagnosis:
        """Return Datalab's own flags."""
        said = [
            pd.DataFrame(part, columns=list(ERROR_TYPES), index=run.index)
            for part in (self.scores(run), issues(run)[:, 3:] > 0, np.zeros((len(run), 3), bool))
        ]
        return Diagnosis(*said)


@once_per_run
def issues(run: Run) -> np.ndarray:
    """Return 1 − quality scores and then flags for the three error types, shape ``(N, 6)``."""
    own, said = targets(run), out_of_fold(run)
    kind, group = "regression", "non_iid"
    if class_count(run):
        own, said = present(own, said)
        kind, group = "classification", "underperforming_group"
    asked: dict[str, dict[str, Any]] = {"label": {}, "outlier": {}, group: {}}
    if class_count(run):
        # In this process only: inside a worker process Cleanlab's own process pool fails, and
        # Datalab goes on silently.
        asked["label"] = {"clean_learning_kwargs": {"find_label_issues_kwargs": {"n_jobs": 1}}}
    library = cleanlab("datalab.datalab")
    silent = io.StringIO()
    with redirect_stdout(silent), redirect_stderr(silent), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lab = library.Datalab({"label": own}, label_name="label", task=kind, verbosity=0)
        lab.find_issues(pred_probs=said, features=encoded(run), issue_types=asked)
    if "Error in label" in silent.getvalue():
        raise DemixError(f"Datalab failed to look for label issues: {silent.getvalue().strip()}")
    found = lab.get_issues()
    quality = [found.get(f"{name}_score", np.ones(len(own))) for name in asked]
    flags = [found.get(f"is_{name}_issue", np.zeros(len(own))) for name in asked]
    return np.column_stack([1 - np.column_stack(quality), np.column_stack(flags)])
