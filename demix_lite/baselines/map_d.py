"""Metadata archaeology: classify rows by the probes with the most similar loss curves."""

from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from demix_lite.baselines.base import Baseline
from demix_lite.baselines.looks import once_per_run
from demix_lite.baselines.retraining import retrain, row_losses, run_seed
from demix_lite.detector.runs import Run

PROBES = 250
"""Probes of each kind, as in the publication; fewer in a small run."""

PLANS = 10
"""Number of draws of columns and kinds of error for the corrupted probes."""

TYPICAL, MISLABELLED, CORRUPTED, ATYPICAL = range(4)


class MapD(Baseline):
    """Share of mislabelled, corrupted and atypical probes among the nearest loss curves.

    The probes come from the run's own rows:

    - typical probes have a low loss early and at the end;
    - mislabelled and corrupted probes are changed copies of such rows, with errors drawn here;
    - atypical probes are learned last: their loss ranks high early and low at the end.

    The publication ranks rows by a consistency score, for which the speed of learning is a known
    proxy (Jiang et al., 2021). The model is trained again with the changed copies among the rows.
    """

    name = "map_d"
    space: ClassVar = {"neighbours": (20, 10, 50)}
    reference = "Siddiqui et al. (2022), Metadata Archaeology, arXiv:2209.10015"

    def scores(self, run: Run) -> np.ndarray:
        """Return the share of each kind of probe among the neighbours, shape ``(N, 3)``."""
        chosen = _choose(run, _generator(run))
        curves = _loss_curves(run)
        rows, copies = curves[: len(run)], curves[len(run) :]
        probes = np.concatenate([rows[chosen[TYPICAL]], copies, rows[chosen[ATYPICAL]]])
        kinds = np.repeat(np.arange(len(chosen)), [len(part) for part in chosen])
        voters = min(self.settings["neighbours"], len(probes))
        votes = KNeighborsClassifier(voters).fit(probes, kinds).predict_proba(rows)
        return votes[:, [MISLABELLED, CORRUPTED, ATYPICAL]]


def _generator(run: Run) -> np.random.Generator:
    return np.random.default_rng(run_seed(run, MapD.name))


def _choose(run: Run, rng: np.random.Generator) -> list[np.ndarray]:
    """Choose disjoint sets of rows for the four kinds of probes."""
    final, early = (
        rankdata(row_losses(run, model, run.samples))
        for model in (run.trained.model, run.trained.early)
    )
    size = max(1, min(PROBES, len(run) // 12))
    atypical = np.argsort(final - early, kind="stable")[:size]
    easy = np.argsort(final + early, kind="stable")[: len(run) // 2]
    typical = rng.permutation(np.setdiff1d(easy, atypical))[: 3 * size]
    return [*np.array_split(typical, 3), atypical]


def _mislabel(run: Run, rows: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    frame, target = run.train.iloc[rows], run.task.target
    return frame.assign(**{target: run.task.wrong_labels(frame[target], rng)})


def _corrupt(run: Run, rows: np.ndarray, rng: np.random.Generator) -> list[pd.DataFrame]:
    return [
        run.task.corrupt_features(
            run.train.iloc[part], run.task.plan_feature_errors(run.train, rng), rng
        )
        for part in np.array_split(rows, PLANS)
        if len(part)
    ]


@once_per_run
def _loss_curves(run: Run) -> np.ndarray:
    """Train with the changed copies added; return the loss of all rows after every epoch."""
    rng = _generator(run)
    chosen = _choose(run, rng)
    wrong = _mislabel(run, chosen[MISLABELLED], rng)
    broken = _corrupt(run, chosen[CORRUPTED], rng)
    frame = pd.concat([run.train, wrong, *broken], ignore_index=True)
    samples = run.encoder.transform(frame, run.task.target)
    curves: list[np.ndarray] = []

    def look(model: nn.Module) -> None:
        curves.append(row_losses(run, model, samples))

    retrain(run, samples, MapD.name, after_epoch=look)
    return np.column_stack(curves)
