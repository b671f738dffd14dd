"""A verdict on every row of a table, although verdicts need rows that were held out of training.

The table is split at random into two halves. Each half is judged as training rows, with rows of the
other half for validation; then they change places. So every row gets a verdict from a model that
was trained on it, as in the runs that the detector was trained on. The detector's second pass,
which compares rows with each other, sees both halves together. A small table is split several times
and the verdicts are averaged.

A few *controls* are added to each half: copies of rows of the other half in which we broke
something, different ones in every split. The verdicts on them show what a verdict is worth in this
table.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit, logit
from sklearn.model_selection import train_test_split
from torch import Tensor

from demix_lite.detector import ErrorDetector, Run, open_run
from demix_lite.models.training import Trained, predict
from demix_lite.seeds import derive_seed, generator
from demix_lite.tasks.base import Encoder, Task, fit_model

CONTROL_SHARE = 0.12
LEAST_CONTROLS, MOST_CONTROLS = 120, 2000
LEAST_PLANS, CONTROLS_A_PLAN = 4, 30
ENOUGH_ROWS, MOST_REPEATS = 6000, 5
BATCHES, SMALLEST_BATCH, LARGEST_BATCH = 16, 16, 256
Announce = Callable[[str], None]


def say_nothing(stage: str) -> None:
    """Announce nothing; unlike a lambda it can be pickled."""


@dataclass(frozen=True)
class Controls:
    """Copies of rows with an error that we put there.

    For every copy, ``origin`` is the position of the row it was made from, ``kind`` what was broken
    (``"label"`` or ``"feature"``), and ``way`` the number of the way in which it was broken.
    """

    frame: pd.DataFrame
    origin: np.ndarray
    kind: np.ndarray
    way: np.ndarray


@dataclass(frozen=True)
class Judgement:
    """The detector's verdict on every row of the table and on every control.

    ``by_cut`` has the probabilities of the three error types in every split, ``(cuts, N, 3)``.
    ``of_controls`` has those of the ``controls``, each of which is in one split only,
    ``(controls, 3)``. ``outputs`` are the outputs of models that were not trained on the row,
    ``(N, outputs)``. ``parts`` describes the first split: for each half, the positions of its rows
    and the run whose first rows they are.
    """

    by_cut: np.ndarray
    of_controls: np.ndarray
    controls: Controls
    outputs: Tensor
    parts: list[tuple[np.ndarray, Run]]

    @property
    def probability(self) -> np.ndarray:
        """Probabilities over all splits, shape ``(N, 3)``; their log odds are averaged."""
        return expit(logit(self.by_cut).mean(axis=0))


def judge_table(
    task: Task,
    frame: pd.DataFrame,
    detector: ErrorDetector,
    *,
    valid: pd.DataFrame | None = None,
    repeats: int | None = None,
    validation: int = 256,
    seed: object = 0,
    announce: Announce = say_nothing,
) -> Judgement:
    """Judge every row of a table, with ``validation`` samples per influence vector.

    Validation rows come from ``valid``, if given, and otherwise from the other half. The table is
    split in two ``repeats`` times, by default ``6000 // N`` times, but at least once and at most
    5 times. ``seed`` determines the splits, the controls and the initial weights.
    """
    repeats = repeats or int(np.clip(ENOUGH_ROWS // len(frame), 1, MOST_REPEATS))
    by_cut = np.zeros((repeats, len(frame), 3))
    outputs = torch.zeros(len(frame), task.label.outputs)
    drawn, of_controls = [], []
    first: list[tuple[np.ndarray, Run]] = []
    for repeat in range(repeats):
        controls = draw_controls(task, frame, cut=repeat, seed=seed)
        encoder = task.encoder(pd.concat([frame, controls.frame], ignore_index=True))
        places, runs = [], []
        for number, (rows, others) in enumerate(_halves(task, frame, (seed, repeat))):
            announce(f"train model {2 * repeat + number + 1} of {2 * repeats}")
            name = (seed, repeat, number)
            beside = np.flatnonzero(np.isin(controls.origin, others))
            judged = pd.concat([frame.iloc[rows], controls.frame.iloc[beside]], ignore_index=True)
            trained, _ = train_model(task, judged, encoder, seed=name)
            held = frame.iloc[others[~np.isin(others, controls.origin)]] if valid is None else valid
            setting = task, task.architectures[0], encoder, trained, judged, held
            runs.append(open_run(*setting, validation=validation, seed=name))
            places.append(np.concatenate([rows, len(frame) + beside]))
            outputs[others] += predict(trained.model, encoder.inputs(frame.iloc[others]))
            if not repeat:
                first.append((rows, runs[-1]))
        announce(f"judge the rows, {repeat + 1} of {repeats}")
        said = np.zeros((len(frame) + len(controls.frame), 3))
        said[np.concatenate(places)] = detector.predict_proba(*runs).clip(1e-6, 1 - 1e-6)
        by_cut[repeat] = said[: len(frame)]
        drawn.append(controls)
        of_controls.append(said[len(frame) :])
    together = np.concatenate(of_controls)
    return Judgement(by_cut, together, _together(drawn), outputs / repeats, first)


def train_model(
    task: Task,
    frame: pd.DataFrame,
    encoder: Encoder | None = None,
    *,
    weights: Tensor | None = None,
    rows: int | None = None,
    seed: object = 0,
) -> tuple[Trained, Encoder]:
    """Train the standard model of a task on rows as they are; small tables get smaller batches.

    With ``rows``, train for as many steps as that number of rows takes: a repair may add copies of
    rows to ``frame``.
    """
    rows = rows or len(frame)
    batch_size = int(np.clip(rows // BATCHES, SMALLEST_BATCH, LARGEST_BATCH))
    options: dict[str, Any] = {"encoder": encoder, "weights": weights, "batch_size": batch_size}
    fit_seed = derive_seed(task.name, "fit", seed)
    return fit_model(task, task.architectures[0], frame, fit_seed, rows=rows, **options)


def draw_controls(task: Task, frame: pd.DataFrame, *, cut: int = 0, seed: object = 0) -> Controls:
    """Copy some rows; break the label of half of the copies and features of the other half.

    The more copies, the more ways to break features. The ways differ in every split, so that no
    single one decides what can be seen in a table. Where a label can be wrong in more than one way,
    every second wrong label is taken from another row: frequent mistakes are harder to see than
    those drawn evenly.
    """
    rng = generator(task.name, "controls", cut, seed)
    least = min(LEAST_CONTROLS, len(frame) // 3)
    count = int(np.clip(CONTROL_SHARE * len(frame), least, MOST_CONTROLS))
    origin = rng.permutation(len(frame))[:count]
    rows = frame.iloc[origin].reset_index(drop=True)
    kind = np.where(np.arange(count) < count // 2, "label", "feature")
    way = np.zeros(count, dtype=int)
    labels, features = np.flatnonzero(kind == "label"), np.flatnonzero(kind == "feature")
    if not task.label.two_sided:
        way[labels[1::2]] = 1
    drawn, exchanged = labels[way[labels] == 0], labels[way[labels] == 1]
    given = rows[task.target]
    rows.loc[drawn, task.target] = task.wrong_labels(given[drawn], rng)
    rows.loc[exchanged, task.target] = task.label.of_others(
        given[exchanged], frame[task.target], rng
    )
    plans = max(LEAST_PLANS, len(features) // CONTROLS_A_PLAN)
    for number, part in enumerate(np.array_split(features, plans)):
        way[part] = cut * plans + number
        plan = task.plan_feature_errors(frame, rng)
        rows.loc[part] = task.corrupt_features(rows.loc[part], plan, rng)
    return Controls(rows, origin, kind, way)


def _together(drawn: list[Controls]) -> Controls:
    """Concatenate the controls of all splits."""
    arrays = zip(*((each.origin, each.kind, each.way) for each in drawn), strict=True)
    frame = pd.concat([each.frame for each in drawn], ignore_index=True)
    return Controls(frame, *map(np.concatenate, arrays))


def _halves(
    task: Task, frame: pd.DataFrame, name: object
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Split the rows in half, stratified by label where possible; yield the halves in both orders.

    The split is not stratified if a class has fewer than two rows.
    """
    strata = task.label.strata(frame[task.target])
    if strata is not None and (strata.value_counts() < 2).any():
        strata = None
    one, two = train_test_split(
        np.arange(len(frame)),
        test_size=0.5,
        stratify=strata,
        random_state=derive_seed(task.name, "halves", name) % 2**32,
    )
    yield np.sort(one), np.sort(two)
    yield np.sort(two), np.sort(one)
