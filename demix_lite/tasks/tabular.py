"""Tables: one sample per row, with numbers, categories and one label column."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor, nn

from demix_lite.data.store import load_table
from demix_lite.errors import DemixError
from demix_lite.models.mlp import MLP
from demix_lite.seeds import derive_seed
from demix_lite.tasks.base import Encoder, FeatureErrorPlan, Rule, Splits, Task, check_columns
from demix_lite.tasks.labels import Label

HIDDEN = {"mlp1": (256, 128, 64), "mlp2": (64, 32)}
OUTLIER_SDS = 5.0
SCALE_RANGE = (0.2, 5.0)
MAX_COLUMNS = 5
MISSING = "(missing)"
MOST_CATEGORIES = 250


@dataclass(frozen=True)
class TabularTask(Task):
    """A table of numbers and categories with one label column.

    Parameters
    ----------
    name : str
        Name of the prepared table.
    numeric, categorical : tuple of str
        Feature columns by role.
    target : str
        Label column.
    label : Label
        Type of the label: :class:`~demix_lite.tasks.labels.Classes` or
        :class:`~demix_lite.tasks.labels.Number`.
    rules : tuple of Rule
        Spurious rules.
    """

    name: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    target: str
    label: Label
    rules: tuple[Rule, ...]
    minority_share: float = 0.15
    exchanges_labels: bool = False
    family = "tabular"
    architectures = ("mlp1", "mlp2", "ft_transformer")
    slow_architectures = ("ft_transformer",)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the feature columns, numbers first."""
        return self.numeric + self.categorical

    def load(
        self, source: str = "twin", *, rows: int | None = None, home: Path | None = None
    ) -> Splits:
        """Load the table: 30 % test, then 20 % of the rest validation, stratified by class."""
        frame, card = load_table(self.name, source, rows=rows, home=home)
        check_columns(frame, [*self.features, self.target], f"the table {self.name} ({source})")
        frame = frame[[*self.features, self.target]].reset_index(drop=True)
        rest, test = self._split(frame, 0.3, "test", len(frame))
        train, valid = self._split(rest, 0.2, "valid", len(frame))
        return Splits(train, valid, test, card)

    def _split(
        self, frame: pd.DataFrame, share: float, part: str, asked: int
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        seed = derive_seed(self.name, "split", part) % 2**32
        try:
            kept, held = train_test_split(
                frame,
                test_size=share,
                random_state=seed,
                stratify=self.label.strata(frame[self.target]),
            )
        except ValueError as error:
            raise DemixError(
                f"{asked} rows of {self.name} are too few to split with every label in every "
                "part; ask for more rows."
            ) from error
        return kept.reset_index(drop=True), held.reset_index(drop=True)

    def practice(self, splits: Splits, rng: np.random.Generator) -> "tuple[TabularTask, Splits]":
        """Draw another label for the table, and a random rule."""
        from demix_lite.tasks.practice import practice_task

        return practice_task(self, splits, rng)

    def plan_feature_errors(
        self, frame: pd.DataFrame, rng: np.random.Generator
    ) -> FeatureErrorPlan:
        """Draw one to five columns, and one kind of error (outlier or scale) for their numbers."""
        kind = str(rng.choice(["outlier", "scale"]))
        count = int(rng.integers(1, min(MAX_COLUMNS, len(self.features)) + 1))
        # The first column must change in every row: scaling a zero would change nothing.
        sure = [c for c in self.features if self._always_changes(frame, c, kind)]
        if not sure:  # every column has zeros: shifting changes them
            kind = "outlier"
            sure = [c for c in self.features if self._always_changes(frame, c, kind)]
        if not sure:
            raise DemixError(f"no column of {self.name} has values that differ; ask for more rows.")
        first = str(rng.choice(sure))
        others = [c for c in self.features if c != first]
        columns = (first, *map(str, rng.permutation(others)[: count - 1]))
        spread = {c: (float(frame[c].mean()), float(frame[c].std())) for c in self.numeric}
        values = {c: sorted(frame[c].dropna().unique()) for c in self.categorical}
        return FeatureErrorPlan(columns, kind, {"spread": spread, "values": values})

    def _always_changes(self, frame: pd.DataFrame, column: str, kind: str) -> bool:
        differs = frame[column].nunique() > 1
        if column in self.categorical or kind == "outlier":
            return differs
        return differs and bool((frame[column].notna() & (frame[column] != 0)).all())

    def corrupt_features(
        self, frame: pd.DataFrame, plan: FeatureErrorPlan, rng: np.random.Generator
    ) -> pd.DataFrame:
        """Make numbers outliers (mean ± 5 sd) or scale them (× 0.2 to 5); draw other categories."""
        frame = frame.copy()
        for column in plan.columns:
            if column in self.numeric:
                frame[column] = _wrong_number(frame[column], plan, rng)
            else:
                frame[column] = _other_category(frame[column], plan.details["values"][column], rng)
        return frame

    def encoder(self, frame: pd.DataFrame) -> "TabularEncoder":
        """Fit the scaler and the one-hot encoder on ``frame``."""
        return TabularEncoder(self, frame)

    def build_model(self, architecture: str, encoder: Encoder) -> nn.Module:
        """Return MLP1 (256-128-64), MLP2 (64-32) or the FT-Transformer."""
        assert isinstance(encoder, TabularEncoder)
        if architecture == "ft_transformer":
            from demix_lite.models.ft_transformer import OneHotFTTransformer

            return OneHotFTTransformer(
                len(self.numeric), encoder.cardinalities, outputs=self.label.outputs
            )
        return MLP(encoder.width, HIDDEN[architecture], self.label.outputs)

    def impute(
        self, suspects: pd.DataFrame, trusted: pd.DataFrame
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Replace cells that are extreme for their class by the class's typical value.

        A number is extreme when it lies more than three standard deviations of the trusted rows of
        the same class from their mean; it becomes their median. A category is extreme when fewer
        than 1 % of the trusted rows of the class have it; it becomes their most frequent one.
        """
        repaired = suspects.copy()
        changed = pd.DataFrame(False, index=suspects.index, columns=list(self.features))
        if trusted.empty:
            return repaired, changed
        known = self.label.groups(trusted[self.target], trusted[self.target])
        for group, rows in suspects.groupby(
            self.label.groups(suspects[self.target], trusted[self.target]), observed=True
        ):
            peers = trusted[known == group]
            for column in self.features if len(peers) else ():
                extreme, typical = _extreme(rows[column], peers[column], column in self.numeric)
                if extreme.any():
                    repaired.loc[rows.index[extreme], column] = typical
                    changed.loc[rows.index[extreme], column] = True
        return repaired, changed


def _wrong_number(
    values: pd.Series, plan: FeatureErrorPlan, rng: np.random.Generator
) -> np.ndarray:
    """Return an outlier or a scaled value for every number; integers in a column of integers."""
    if plan.kind == "outlier":
        mean, sd = plan.details["spread"][values.name]
        return rounded(mean + OUTLIER_SDS * sd * rng.choice([-1.0, 1.0], size=len(values)), values)
    number = values.to_numpy(dtype=float)
    wrong = number * rng.uniform(*SCALE_RANGE, size=len(number))
    return rounded(wrong, values, stays=number == 0)  # zero scales to zero


def rounded(wrong: np.ndarray, values: pd.Series, stays: np.ndarray | bool = False) -> np.ndarray:
    """Round wrong numbers in a column of integers, but not to the right value unless ``stays``.

    Examples
    --------
    >>> rounded(np.array([2.4, 2.6]), pd.Series([2, 2])).tolist()
    [3, 3]
    """
    if not pd.api.types.is_integer_dtype(values.dtype):
        return wrong
    number, wrong = values.to_numpy(dtype=float), np.rint(wrong)
    back = (wrong == number) & ~np.asarray(stays)
    return np.where(back, number + 1, wrong).astype(values.dtype)


def _other_category(
    values: pd.Series, categories: Sequence[str], rng: np.random.Generator
) -> pd.Series:
    """Draw a category other than the present one; a missing value gets any category."""
    if not len(categories):
        return values
    known = pd.Index(categories, dtype=object)
    code = known.get_indexer(values.astype(object))
    draw = rng.integers(0, len(known), size=len(values))
    shift = rng.integers(1, max(len(known), 2), size=len(values))
    wrong = known[np.where(code >= 0, (code + shift) % len(known), draw)]
    return pd.Series(wrong, index=values.index).astype(values.dtype)


def _extreme(values: pd.Series, peers: pd.Series, numeric: bool) -> tuple[np.ndarray, object]:
    """Return which cells are extreme compared with their peers, and the typical value."""
    if numeric:
        return far_off(values, peers).to_numpy(dtype=bool), usual_number(peers)
    share = peers.value_counts(normalize=True, dropna=False)
    rare = values.map(share).fillna(0.0) < 0.01
    return rare.to_numpy(dtype=bool), peers.mode(dropna=False).iloc[0]


def far_off(values: pd.Series, peers: pd.Series) -> pd.Series:
    """Return True for numbers more than three standard deviations from the mean of their peers."""
    return (values - peers.mean()).abs() > 3.0 * peers.std()


def usual_number(peers: pd.Series) -> float:
    """Return the median, rounded for integers."""
    median = peers.median()
    return round(median) if pd.api.types.is_integer_dtype(peers.dtype) else float(median)


class TabularEncoder(Encoder):
    """Encode rows as one float tensor: standardised numbers, then one-hot categories."""

    task: TabularTask

    def __init__(self, task: TabularTask, frame: pd.DataFrame):
        self.task = task
        self.scaler = StandardScaler()
        self.one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
        if task.numeric:
            self.scaler.fit(self._numbers(frame))
        if task.categorical:
            self.one_hot.fit(self._categories(frame))

    @property
    def cardinalities(self) -> list[int]:
        """Number of categories of each categorical column."""
        return [len(c) for c in self.one_hot.categories_] if self.task.categorical else []

    @property
    def width(self) -> int:
        """Number of encoded columns."""
        return len(self.task.numeric) + sum(self.cardinalities)

    def inputs(self, frame: pd.DataFrame) -> Tensor:
        """Return a float32 tensor of shape ``(n, width)``."""
        if frame.empty:
            return torch.zeros(0, self.width)
        parts = []
        if self.task.numeric:
            # A missing number becomes the mean.
            parts.append(np.nan_to_num(self.scaler.transform(self._numbers(frame))))
        if self.task.categorical:
            parts.append(self.one_hot.transform(self._categories(frame)))
        return torch.from_numpy(np.hstack(parts).astype(np.float32))

    def columns(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers as they are and categories as codes; NaN for codes from 250 on."""
        values = [self._numbers(frame)]
        if self.task.categorical:
            rows = self._categories(frame)
            for column, known in zip(rows.T, self.one_hot.categories_, strict=True):
                code = pd.Index(known).get_indexer(column).astype(float)
                code[(code < 0) | (code >= MOST_CATEGORIES)] = np.nan
                values.append(code[:, None])
        names = [*self.task.numeric, *self.task.categorical]
        return np.hstack(values), np.array([name in self.task.categorical for name in names])

    def _numbers(self, frame: pd.DataFrame) -> np.ndarray:
        return frame[list(self.task.numeric)].to_numpy(dtype=float)

    def _categories(self, frame: pd.DataFrame) -> np.ndarray:
        columns = list(self.task.categorical)
        return frame[columns].astype(object).fillna(MISSING).to_numpy(dtype=object)
