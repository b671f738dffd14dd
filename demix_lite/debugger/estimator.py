"""``DataDebugger().fit(X, y)``: which rows of a table are wrong, and what is wrong with each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor

from demix_lite.debugger.conclude import conclude, with_slips
from demix_lite.debugger.evidence import Evidence
from demix_lite.debugger.judging import Announce, Judgement, judge_table, train_model
from demix_lite.detector import ErrorDetector
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis
from demix_lite.errors import check_count
from demix_lite.models.training import predict, take
from demix_lite.repair import Repaired, repair
from demix_lite.tasks.base import check_columns
from demix_lite.tasks.own_table import (
    OTHER,
    DataError,
    Kind,
    OwnTable,
    check_names,
    own_table,
    without_label,
)
from demix_lite.tasks.slips import usual_decimals
from demix_lite.tasks.tabular import MISSING, TabularTask

EXPLAINED = 10
"""Number of rows per error type, the most suspicious first, whose validation rows are listed."""

WITNESSES = 2
BOTH_WAYS = 20_000
"""Largest number of rows for which each half serves once for training and once as held-out rows."""

HeldOut = tuple[Tensor, Tensor, Tensor]
"""Outputs before and after the repair, and targets, of one set of held-out rows."""

DRAWS, SURE = 200, 0.975
"""Number of bootstrap draws of the held-out rows, and the share of the draws in which a difference
must keep its sign to count as clear."""


@dataclass(frozen=True)
class Score:
    """The model's metric on held-out rows, which are not repaired.

    Attributes
    ----------
    metric, larger_is_better
        Name of the metric, and whether a larger value is better.
    before, after : float
        The metric after training on the rows as given, and after training on the repaired rows:
        suspicious cells are replaced and doubtful labels are weighted by their probability. NaN if
        nothing is flagged.
    clear : bool
        Whether the difference keeps its sign when the held-out rows are resampled (95 % interval).
    rows : int
        Number of rows it was measured on: your own validation rows if you passed some, otherwise
        the rows of the other half whose features are not suspicious.
    """

    metric: str
    larger_is_better: bool
    before: float
    after: float
    clear: bool
    rows: int


class DataDebugger(BaseEstimator):
    """Find, name and repair the errors in a table.

    Parameters
    ----------
    kind : {"auto", "classification", "regression"}
        Type of the label; by default a numeric label with many values is a regression target.
    detector : ErrorDetector, optional
        The detector that judges the rows; by default the one shipped with the package.
    repeats : int, optional
        How often the table is split into two halves; by default once, and up to five times for
        small tables.
    validation : int
        Number of validation samples per influence vector.
    random_state : int
        Seed of the splits and of the initial weights.
    announce : callable, optional
        Called with a short description as each step begins.

    Attributes
    ----------
    diagnosis_ : DataFrame
        One line per row, with the index of ``X``: probability and flag per error type, suspicious
        cells, suggested label, suggested values. If the detector cannot see an error type in this
        table, its probabilities are missing, except for rows that are flagged because of a slip.
    evidence_ : list of Evidence
        How often each error type occurs, and whether the detector can see it in this table.
    shortcuts_ : list of NamedShortcut
        Suspected shortcuts.
    repaired_ : DataFrame
        Features and label as the model reads them, after the repair, with the suggested labels;
        classes are text. :meth:`demix_lite.diagnose.Outcome.repaired` keeps the types you gave.
    witnesses_ : DataFrame
        The validation rows that the most suspicious rows help and harm most.
    score_ : Score
        The metric of the model before and after the repair.
    table_ : OwnTable
        The table and how its columns were read.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> debugger = DataDebugger(repeats=1).fit(X, y)
    >>> debugger.diagnosis_.shape
    (150, 9)
    """

    def __init__(
        self,
        *,
        kind: Kind = "auto",
        detector: ErrorDetector | None = None,
        repeats: int | None = None,
        validation: int = 256,
        random_state: Any = 0,
        announce: Announce | None = None,
    ):
        self.kind = kind
        self.detector = detector
        self.repeats = repeats
        self.validation = validation
        self.random_state = random_state
        self.announce = announce

    def fit(self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None) -> "DataDebugger":
        """Diagnose every row.

        Parameters
        ----------
        X : array or DataFrame
            Features: numbers, categories, booleans, dates; values may be missing.
        y : array or Series
            Labels; none may be missing.
        X_valid, y_valid : optional
            Your own validation rows, with the same columns.

        Returns
        -------
        DataDebugger
            The fitted estimator itself.

        Raises
        ------
        DataError
            If the table is too small or has no usable column or label. It is a ``ValueError``.
        """
        if isinstance(X, pd.DataFrame):
            check_names(X)
            if X.columns.empty:
                raise DataError("X has no column to learn the label from.")
        if y is not None:  # scikit-learn would not say which rows, or that it means the labels
            _refuse_missing(labels := _labels(y), labels.isna().to_numpy())
        # Columns of different types (dates and numbers) have no common dtype except object.
        plain = X.astype(object) if isinstance(X, pd.DataFrame) else X
        validate_data(self, plain, y, dtype=None, ensure_all_finite="allow-nan")
        if self.repeats is not None:
            check_count(self.repeats, "repeats", DataError)
        check_count(self.validation, "validation", DataError)
        detector = self.detector or ErrorDetector.shipped("tabular-practised")
        if not hasattr(detector, "predict_proba"):
            raise DataError(
                f"detector must be an ErrorDetector, not {detector!r}; load one with "
                "ErrorDetector.load or ErrorDetector.shipped."
            )
        frame, target = _joined(X, y)
        _refuse_missing(frame[target], without_label(frame[target]))
        if (X_valid is None) != (y_valid is None):
            raise DataError("X_valid and y_valid come together: pass both, or neither.")
        held = None if X_valid is None else _joined(X_valid, y_valid, target)[0]
        if held is not None and (held.empty or without_label(held[target]).any()):
            raise DataError("there must be validation rows, and each needs a label.")
        self.table_, valid = _read(frame, held, target, self.kind)
        seed = _seed(self.random_state)
        judgement = judge_table(
            self.table_.task,
            self.table_.mended,
            detector,
            valid=valid,
            repeats=self.repeats,
            validation=self.validation,
            seed=seed,
            announce=self._say,
        )
        self._conclude(judgement, frame.index, (frame if held is None else held).index, valid, seed)
        return self

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what is accepted: any columns, missing values, a required label."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        tags.target_tags.required = True
        return tags

    def _say(self, stage: str) -> None:
        if self.announce:
            self.announce(stage)

    def _conclude(
        self,
        judgement: Judgement,
        index: pd.Index,
        valid_index: pd.Index,
        valid: pd.DataFrame | None,
        seed: object,
    ) -> None:
        task, frame = self.table_.task, self.table_.mended
        self._say("weigh the verdicts")
        diagnosis, evidence, named = conclude(task, frame, judgement)
        broken = diagnosis.flag["spurious"].any()
        self.shortcuts_ = [rule for rule in named if broken and rule.suspected]
        repaired = _as_written(repair(task, frame, diagnosis, judgement.outputs), task, frame)
        slips = self.table_.slips.any(axis=1).to_numpy()
        said, self.evidence_ = with_slips(diagnosis, evidence, slips)
        self.diagnosis_ = _lines(self.table_, said, self.evidence_, repaired).set_axis(index)
        self.repaired_ = repaired.frame.set_axis(index)
        self.witnesses_ = _witnesses(judgement, self.diagnosis_, valid_index)
        held_out = []
        if said.flag.any(axis=None):
            self._say("train on the repaired rows")
            held_out = _retrained(self.table_, judgement, diagnosis, valid, seed)
        self.score_ = _compare(task, held_out)


def _joined(X: Any, y: Any, target: str | None = None) -> tuple[pd.DataFrame, str]:
    """Join features and label in one frame; the label gets a name that no feature has."""
    if isinstance(X, pd.DataFrame):
        features = X.set_axis([str(c) for c in X.columns], axis=1)
    else:
        array = np.asarray(X)
        features = pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])
    if isinstance(y, pd.DataFrame):
        y = y.iloc[:, 0]
    name = target or str(getattr(y, "name", None) or "label")
    while target is None and name in features.columns:
        name += "_"
    labels = _labels(y)
    if len(labels) != len(features):
        raise DataError(f"there are {len(features)} rows, but {len(labels)} labels.")
    return features.assign(**{name: labels.set_axis(features.index)}), name


def _labels(y: Any) -> pd.Series:
    return y if isinstance(y, pd.Series) else pd.Series(np.asarray(y).ravel())


def _refuse_missing(labels: pd.Series, missing: np.ndarray) -> None:
    if missing.any():
        first = int(missing.argmax())
        raise DataError(
            f"the label is missing in {missing.sum()} row(s), the first at position {first} "
            f"({labels.astype(object).iloc[first]!r}); leave such rows out."
        )


def _read(
    frame: pd.DataFrame, held: pd.DataFrame | None, target: str, kind: Kind
) -> tuple[OwnTable, pd.DataFrame | None]:
    """Find out what each column is; separate validation rows are read the same way."""
    alone = own_table(frame, target, kind=kind)
    if held is None:
        return alone, None
    check_columns(held, list(frame.columns), "the validation table", DataError)
    named = held[frame.columns].set_axis([f"{i} (validation)" for i in range(1, len(held) + 1)])
    # ``pd.concat`` drops the categorical dtype where the two frames have different categories.
    declared = [c for c in frame if isinstance(frame[c].dtype, pd.CategoricalDtype)]
    together = pd.concat([frame, named]).astype(dict.fromkeys(declared, "category"))
    labels = together[target]
    if frame[target].dtype.kind in "iu" and labels.dtype.kind == "f" and not (labels % 1).any():
        together[target] = labels.astype(frame[target].dtype)  # 1, not 1.0
    # Row numbers start again in the validation rows, and would no longer be known as such.
    table = own_table(together.drop(columns=list(alone.numbering)), target, kind=kind)
    own, valid = table.take(slice(len(frame))), table.take(slice(len(frame), None)).frame
    if table.task.label.classes and (new := set(valid[target]) - set(own.frame[target])):
        raise DataError(f"only validation rows have the label {sorted(new)[0]!r}.")
    notes = [*alone.numbering.values(), *own.notes]
    return replace(own, checks=alone.checks, notes=notes), valid


def _as_written(repaired: Repaired, task: TabularTask, frame: pd.DataFrame) -> Repaired:
    """Round new numbers like their column; undo repairs to "missing" or "another category"."""
    after, cells = repaired.frame.copy(), repaired.cells.copy()
    for column in after.select_dtypes("float"):
        decimals = usual_decimals(frame[column].to_numpy(dtype=float))
        new = after[column] != frame[column]
        if decimals is None:
            digits = after[column].map(lambda number: float(f"{number:.6g}"))
        else:
            digits = after[column].round(decimals)
        after[column] = after[column].mask(new, digits)
    for column in task.categorical:
        vague = cells[column] & (after[column].isna() | after[column].isin([OTHER, MISSING]))
        after[column] = after[column].mask(vague, frame[column])
        cells[column] &= ~vague
    return replace(repaired, frame=after, cells=cells)


def _seed(random_state: Any) -> int:
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _lines(
    table: OwnTable, diagnosis: Diagnosis, evidence: list[Evidence], repaired: Repaired
) -> pd.DataFrame:
    """Return, for every row, error probabilities and flags, suspicious cells and suggestions."""
    task = table.task
    known = {e.kind: diagnosis.flag[e.kind] | e.seen for e in evidence}
    chance = diagnosis.probability.where(pd.DataFrame(known))
    cells = repaired.cells[list(task.features)].to_numpy() | table.slips.to_numpy()
    named, values = [""] * len(cells), [""] * len(cells)
    for row in np.flatnonzero(cells.any(axis=1)):
        broken = [task.features[i] for i in np.flatnonzero(cells[row])]
        named[row] = "; ".join(dict.fromkeys(table.source[c] for c in broken))
        values[row] = "; ".join(
            f"{c} = {exact(repaired.frame[c].iloc[row])}" for c in broken if table.source[c] == c
        )
    labels = repaired.frame[task.target].map(exact)
    return pd.DataFrame(
        {
            **{f"{kind}_probability": chance[kind] for kind in ERROR_TYPES},
            **{f"{kind}_error": diagnosis.flag[kind] for kind in ERROR_TYPES},
            "suspicious_cells": named,
            "suggested_label": labels.where(diagnosis.flag["label"], ""),
            "suggested_values": values,
        }
    )


def exact(value: Any) -> str:
    """Write a value as in a file: up to 15 significant digits, and no time of day at midnight.

    Examples
    --------
    >>> exact(0.1 + 0.2), exact(1420.848), exact(pd.Timestamp(2024, 7, 21)), exact(None)
    ('0.3', '1420.848', '2024-07-21', 'missing')
    """
    if pd.isna(value):
        return "missing"
    if isinstance(value, pd.Timestamp) and value == value.normalize():
        return f"{value:%Y-%m-%d}"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def leading_rows(diagnosis: pd.DataFrame) -> dict[str, pd.Index]:
    """Return the flagged rows of each error type, the most probable first.

    Examples
    --------
    >>> said = pd.DataFrame({"label_probability": [0.6, 0.9], "label_error": [True, True]})
    >>> none = {f"{k}_{what}": False for k in ERROR_TYPES[1:] for what in ("probability", "error")}
    >>> leading_rows(said.assign(**none))["label"].tolist()
    [1, 0]
    """
    return {
        kind: diagnosis.loc[diagnosis[f"{kind}_error"], f"{kind}_probability"]
        .sort_values(ascending=False, kind="stable")
        .index[:EXPLAINED]
        for kind in ERROR_TYPES
    }


def _witnesses(
    judgement: Judgement, diagnosis: pd.DataFrame, valid_index: pd.Index
) -> pd.DataFrame:
    """List the validation rows that the most suspicious rows help and harm most."""
    index = diagnosis.index
    by_place = diagnosis.reset_index(drop=True)  # index labels may repeat
    chosen = np.concatenate([*leading_rows(by_place).values()])
    lines = []
    for rows, run in judgement.parts:
        places = np.flatnonzero(np.isin(rows, chosen))
        if not len(places):
            continue
        blocks = run.sources[0].block(*take(run.samples, places))
        influence = blocks[:, run.sources[0].channels.index("influence")].cpu().numpy()
        for place, vector in zip(places, influence, strict=True):
            order = np.argsort(vector)
            ends = dict.fromkeys([*order[::-1][:WITNESSES], *order[:WITNESSES]])
            lines += [
                (index[rows[place]], valid_index[run.valid_index[j]], float(vector[j]))
                for j in ends
            ]
    return pd.DataFrame(lines, columns=["row", "validation_row", "influence"])


def _retrained(
    table: OwnTable,
    judgement: Judgement,
    diagnosis: Diagnosis,
    valid: pd.DataFrame | None,
    seed: object,
) -> list[HeldOut]:
    """Train on the given and on the repaired rows; predict validation rows or the other half.

    Rows of the other half with suspicious features are left out. Only one of the two models has
    been trained on such numbers, so a few of these rows would decide the comparison.
    """
    task, frame = table.task, table.frame
    if valid is not None:
        ways = [(np.arange(len(frame)), valid)]
    else:
        (one, _), (two, _) = judgement.parts
        pairs = ((one, two), (two, one)) if len(frame) <= BOTH_WAYS else ((one, two),)
        unusual = diagnosis.flag["feature"].to_numpy() | table.slips.any(axis=1).to_numpy()
        ways = [(rows, frame.iloc[held[~unusual[held]]]) for rows, held in pairs]
    held_out: list[HeldOut] = []
    for rows, held in ways:
        if held.empty:
            continue
        own = Diagnosis(*(part.iloc[rows] for part in vars(diagnosis).values()))
        repaired = repair(task, table.mended.iloc[rows], own, judgement.outputs[rows])
        versions = ((frame.iloc[rows], None), (repaired.samples, repaired.weights))
        train = partial(train_model, task, rows=len(rows), seed=(seed, "score"))
        models = [train(samples, weights=weights) for samples, weights in versions]
        before, after = (predict(m.model, encoder.inputs(held)) for m, encoder in models)
        held_out.append((before, after, task.label.encode(held[task.target])))
    return held_out


def _compare(task: TabularTask, held_out: list[HeldOut]) -> Score:
    """Compute the metric before and after the repair."""
    total = sum(len(targets) for *_, targets in held_out)
    score = partial(Score, task.label.metric_name, task.label.larger_is_better, rows=total)
    if not total:
        return score(np.nan, np.nan, clear=False)

    def measure(draw: Callable[[int], Tensor]) -> np.ndarray:
        sums = np.zeros(2)
        for before, after, targets in held_out:
            rows = draw(len(targets))
            both = [task.metric(said[rows], targets[rows]) for said in (before, after)]
            sums += np.array(both) * len(targets)
        return sums / total

    rng = torch.Generator().manual_seed(0)
    before, after = measure(torch.arange)
    drawn = [measure(lambda n: torch.randint(n, (n,), generator=rng)) for _ in range(DRAWS)]
    same = np.mean([np.sign(b - a) == np.sign(after - before) for a, b in drawn])
    clear = bool(before != after and same >= SURE)
    return score(float(before), float(after), clear=clear)
