"""Recommendation: whether a user takes an item next, given what they took before.

A sample is one *impression*: a user, an item shown to them, the items they took before, and
whether they took it. Attributes belong to users and items, so they are corrupted for a whole user
or item at a time: wherever it occurs, its attribute is wrong in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from scipy.stats import chi2_contingency
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from demix_lite.data.store import load_tables
from demix_lite.errors import DemixError
from demix_lite.models.dien import DIEN
from demix_lite.models.din import DIN, Layout
from demix_lite.seeds import derive_seed, generator
from demix_lite.tasks.base import SEPARATOR, Encoder, FeatureErrorPlan, Rule, Splits, Task
from demix_lite.tasks.labels import Clicks
from demix_lite.tasks.tabular import (
    MOST_CATEGORIES,
    OUTLIER_SDS,
    SCALE_RANGE,
    far_off,
    rounded,
    usual_number,
)

PARTS = {"train": 0.7, "valid": 0.85, "test": 1.0}
"""Cumulative share of a user's history at which each part ends."""

MAX_COLUMNS = 3
MOST_TAGS = 64
HISTORY_WIDTH = 128
LEAST_COVERAGE, MOST_COVERAGE = 0.01, 0.9
COMMON_VALUES, SURELY = 20, 1e-4


@dataclass(frozen=True)
class RecommendationTask(Task):
    """Users, items, and who took what in which order.

    Parameters
    ----------
    name : str
        Name of the prepared tables.
    numeric, categorical, listed : tuple of str
        Attributes that are numbers, one category, or several categories (``"Action|Drama"``), each
        named ``user_...`` or ``item_...``. Attributes that an edition of the data lacks are left
        out.
    kind : str
        The attribute by which items are alike; if it has several values, the last one counts.
    rules : tuple of Rule
        Spurious rules. A rule is left out if an edition lacks its attributes, or if its condition
        holds for hardly any row or for nearly all.
    history : int
        Largest number of items before the shown one that the model sees.
    per_user : int
        Number of items of each user in each part that become samples; the last ones are used.
    """

    name: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    listed: tuple[str, ...]
    kind: str
    rules: tuple[Rule, ...]
    minority_share: float = 0.10
    history: int = 20
    per_user: int = 5
    target = "click"
    label = Clicks()
    family = "recommendation"
    architectures = ("din", "dien")
    training = MappingProxyType({"epochs": 2, "learning_rate": 3e-3})
    judged_rows = 16000
    practice_rows = 16000

    def load(
        self, source: str = "twin", *, rows: int | None = None, home: Path | None = None
    ) -> Splits:
        """Load users, items and interactions; split the history of every user by time.

        The first 70 % of each user's items are for training, the next 15 % for validation, the last
        15 % for testing. The last ``per_user`` items of each part become samples, each paired with
        an item that the user never took. ``rows`` counts interactions.
        """
        tables, card = load_tables(self.name, source, rows=rows, home=home)
        parts = impressions(tables, self)
        if min(len(part) for part in parts.values()) == 0:
            raise DemixError(
                f"{len(tables['interactions'])} interactions of {self.name} are too few to split; "
                "ask for more rows."
            )
        return Splits(**parts, card=card)

    def attributes(self, frame: pd.DataFrame, names: Sequence[str] | None = None) -> list[str]:
        """Return those attributes that ``frame`` has, out of ``names`` or out of all."""
        known = (*self.numeric, *self.categorical, *self.listed) if names is None else names
        return [name for name in known if name in frame.columns]

    def rules_for(self, frame: pd.DataFrame) -> tuple[Rule, ...]:
        """Return the rules whose attributes exist and whose condition is neither rare nor common.

        It has to hold for 1 % to 90 % of the rows.
        """
        possible = [r for r in self.rules if r.condition.keys() <= set(frame.columns)]
        return tuple(
            r for r in possible if LEAST_COVERAGE <= r.holds(frame).mean() <= MOST_COVERAGE
        )

    def plan_feature_errors(
        self, frame: pd.DataFrame, rng: np.random.Generator
    ) -> FeatureErrorPlan:
        """Draw users or items, and one to three of their attributes."""
        sides = [side for side in ("item", "user") if self._varying(frame, side)]
        if not sides:
            raise DemixError(f"{self.name} has no attribute that could go wrong.")
        side = str(rng.choice(sides))
        possible = self._varying(frame, side)
        count = int(rng.integers(1, min(MAX_COLUMNS, len(possible)) + 1))
        columns = tuple(map(str, rng.permutation(possible)[:count]))
        kind = str(rng.choice(["outlier", "scale"]))
        once = frame.drop_duplicates(side)
        seed = int(rng.integers(2**31))
        numbers = [c for c in columns if c in self.numeric]
        spread = {c: (float(once[c].mean()), float(once[c].std())) for c in numbers}
        values = {c: sorted(once[c].dropna().unique()) for c in columns if c not in numbers}
        details = {"side": side, "seed": seed, "spread": spread, "values": values}
        order = partial(entity_order, side=side, seed=seed)
        return FeatureErrorPlan(columns, kind, details, order)

    def _varying(self, frame: pd.DataFrame, side: str) -> list[str]:
        """Attributes of users or items with more than one value."""
        names = self.attributes(frame)
        return [name for name in names if side_of(name) == side and frame[name].nunique() > 1]

    def corrupt_features(
        self, frame: pd.DataFrame, plan: FeatureErrorPlan, rng: np.random.Generator
    ) -> pd.DataFrame:
        """Give each user or item the same wrong attribute wherever it occurs.

        Numbers become outliers (mean ± 5 sd) or are scaled (× 0.2 to 5); categories are replaced by
        others.
        """
        frame = frame.copy()
        for column in plan.columns:
            draw = entity_draw(frame[plan.details["side"]], plan.details["seed"], column)
            if column in self.numeric:
                frame[column] = _wrong_number(frame[column], plan, draw)
            else:
                frame[column] = _other_category(frame[column], plan.details["values"][column], draw)
        return frame

    def encoder(self, frame: pd.DataFrame) -> "RecommendationEncoder":
        """Fit vocabularies, the catalogue of kinds and the scaler on ``frame``."""
        return RecommendationEncoder(self, frame)

    def build_model(self, architecture: str, encoder: Encoder) -> nn.Module:
        """Return DIN or DIEN."""
        assert isinstance(encoder, RecommendationEncoder)
        return {"din": DIN, "dien": DIEN}[architecture](encoder.layout)

    def impute(
        self, suspects: pd.DataFrame, trusted: pd.DataFrame
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Copy an attribute from the other occurrences of the user or item, or blank it.

        If a user or item is in more trusted than suspicious rows, its usual value is known: cells
        that differ from it are replaced by it. Otherwise there is nothing to copy: extreme numbers
        become the median of the trusted rows, and categories are blanked if their distribution in
        the suspicious rows differs from that in the trusted rows.
        """
        columns = self.attributes(suspects)
        repaired = suspects.copy()
        changed = pd.DataFrame(False, index=suspects.index, columns=columns)
        for column in columns if len(trusted) else []:
            side = side_of(column)
            elsewhere = suspects[side].map(_usual_values(suspects[side], trusted, column))
            known = elsewhere.notna()
            if column in self.numeric:
                doubted = far_off(suspects[column], trusted[column])
                blank = usual_number(trusted[column])
            else:
                doubted, blank = _spread_otherwise(suspects[column], trusted[column]), np.nan
            copied = known & (elsewhere != suspects[column])
            blanked = ~known & doubted & suspects[column].notna()
            repaired[column] = repaired[column].mask(copied, elsewhere).mask(blanked, blank)
            changed[column] = copied | blanked
        return repaired, changed


def side_of(attribute: str) -> str:
    """Return to whom an attribute belongs: ``"user"`` or ``"item"``."""
    return attribute.partition("_")[0]


def entity_draw(entities: pd.Series, seed: int, what: str) -> np.ndarray:
    """Draw a number in [0, 1) for every user or item, the same wherever it occurs.

    Examples
    --------
    >>> one, other, again = entity_draw(pd.Series(["a", "b", "a"]), 0, "order")
    >>> bool(one == again), bool(one == other)
    (True, False)
    """
    codes, names = pd.factorize(entities)
    keys = np.array([f"{seed} {what} {name}" for name in names], dtype=object)
    # A float has 53 bits of precision; further bits of the hash would be lost.
    return ((pd.util.hash_array(keys) >> np.uint64(11)) / 2.0**53)[codes]


def entity_order(frame: pd.DataFrame, side: str, seed: int) -> np.ndarray:
    """Number the users or items of a frame in the order in which they are corrupted."""
    return np.unique(entity_draw(frame[side], seed, "order"), return_inverse=True)[1]


def _wrong_number(values: pd.Series, plan: FeatureErrorPlan, draw: np.ndarray) -> np.ndarray:
    """Return an outlier or a scaled value for every number; a missing one becomes an outlier."""
    number = values.to_numpy(dtype=float)
    mean, sd = plan.details["spread"][values.name]
    wrong = mean + OUTLIER_SDS * sd * np.where(draw < 0.5, -1.0, 1.0)
    if plan.kind == "scale":
        low, high = SCALE_RANGE
        wrong = np.where(np.isnan(number), wrong, number * (low + (high - low) * draw))
    return rounded(wrong, values)


def _other_category(values: pd.Series, known: Sequence[str], draw: np.ndarray) -> pd.Series:
    """Return another category for every value; a missing one gets any."""
    code = pd.Index(known, dtype=object).get_indexer(values.astype(object))
    others = np.where(code >= 0, len(known) - 1, len(known))
    shift = 1 + (draw * others).astype(int)
    wrong = np.asarray(known, dtype=object)[(code + shift) % len(known)]
    return pd.Series(wrong, index=values.index).astype(values.dtype)


def _usual_values(entities: pd.Series, trusted: pd.DataFrame, column: str) -> pd.Series:
    """Return the usual value of every user or item that is trusted more often than suspected."""
    doubted = entities.value_counts()
    vouched = trusted[entities.name].value_counts().reindex(doubted.index, fill_value=0)
    rows = trusted[trusted[entities.name].isin(doubted.index[vouched > doubted])]
    counts = rows.groupby([entities.name, column], observed=True).size()
    return counts.sort_values(kind="stable").groupby(level=0).tail(1).reset_index(level=1)[column]


def _spread_otherwise(values: pd.Series, peers: pd.Series) -> bool:
    """Return whether categories are distributed differently from those of the peers (χ² test)."""
    common = peers.value_counts().index[:COMMON_VALUES]
    rows = [cells.where(cells.isin(common)).value_counts(dropna=False) for cells in (values, peers)]
    table = pd.concat(rows, axis=1, keys=["values", "peers"]).fillna(0).to_numpy()
    return len(table) > 1 and bool(chi2_contingency(table).pvalue < SURELY)


def impressions(
    tables: dict[str, pd.DataFrame], task: RecommendationTask
) -> dict[str, pd.DataFrame]:
    """Turn interactions into samples: an item that a user took next, and one they never took.

    Returns the frame of every part, with two rows (taken, never taken) per interaction.
    """
    events = tables["interactions"]
    order = ["user", "time"] if "time" in events.columns else ["user"]
    # Without a time column, the order of the file is the order of events.
    events = events.sort_values(order, kind="stable", ignore_index=True)
    user, users = pd.factorize(events["user"].astype(object))
    item, items = pd.factorize(events["item"].astype(object))
    start = np.searchsorted(user, user)
    place, taken = np.arange(len(user)) - start, np.bincount(user)[user]
    never = _never_taken(user, item, len(items), generator(task.name, "negatives"))
    frames, low = {}, np.zeros(len(user), dtype=int)
    for part, share in PARTS.items():
        high = np.floor(share * taken).astype(int)
        chosen = (place >= np.maximum(low, high - task.per_user)) & (place < high) & (place > 0)
        rows = np.flatnonzero(chosen)
        seen = [item[max(start[row], row - task.history) : row] for row in rows]
        shown = np.column_stack([item[rows], never[rows]]).ravel()
        samples = pd.DataFrame(
            {
                "user": np.repeat(users[user[rows]], 2),
                "item": items[shown],
                "history": np.repeat([SEPARATOR.join(items[codes]) for codes in seen], 2),
                task.target: np.tile(["yes", "no"], len(rows)),
            }
        ).astype("str")
        frames[part] = _with_attributes(samples, tables, task)
        low = high
    return frames


def _never_taken(
    user: np.ndarray, item: np.ndarray, items: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw, for every interaction, an item that its user never took."""
    if (np.bincount(user) >= items).any():
        raise DemixError(
            "a user took every item there is, so there is none to compare with; ask for more rows."
        )
    taken = np.sort(user * items + item)
    drawn, again = np.zeros(len(user), dtype=int), np.arange(len(user))
    while len(again):
        drawn[again] = rng.integers(items, size=len(again))
        pair = user[again] * items + drawn[again]
        place = np.searchsorted(taken, pair).clip(max=len(taken) - 1)
        again = again[taken[place] == pair]
    return drawn


def _with_attributes(
    samples: pd.DataFrame, tables: dict[str, pd.DataFrame], task: RecommendationTask
) -> pd.DataFrame:
    """Join the attributes of users and items to the samples, with the label as last column."""
    click = samples.pop(task.target)
    for side in ("user", "item"):
        known = tables[f"{side}s"].set_index(side).add_prefix(f"{side}_").dropna(axis=1, how="all")
        samples = samples.join(known[task.attributes(known)], on=side)
    return samples.assign(**{task.target: click})


class RecommendationEncoder(Encoder):
    """Encode users, items and categories as numbers; 0 stands for those not seen in training.

    The kind of an item in a history is looked up in a catalogue made from the training rows, so a
    wrong attribute affects every history that contains the item.
    """

    task: RecommendationTask

    def __init__(self, task: RecommendationTask, frame: pd.DataFrame):
        self.task = task
        self.numeric = task.attributes(frame, task.numeric)
        single = [c for c in task.attributes(frame, task.categorical) if c != task.kind]
        self.scaler = StandardScaler()
        if self.numeric:
            self.scaler.fit(frame[self.numeric].to_numpy(dtype=float))
        seen = set(frame["item"]).union(*frame["history"].str.split(SEPARATOR))
        self.users, self.items = pd.Index(sorted(set(frame["user"]))), pd.Index(sorted(seen))
        self.kinds = _values(_last(frame[task.kind])) if task.kind in frame else pd.Index([])
        self.categories = {name: _values(frame[name]) for name in single}
        self.tags = {name: _tags(frame[name]) for name in task.attributes(frame, task.listed)}
        usual = self._kind(frame).groupby(frame["item"].to_numpy()).agg(lambda k: k.mode().iloc[0])
        self.catalogue = np.append(0, usual.reindex(self.items, fill_value=0).to_numpy())
        self.popularity = np.bincount(
            self._history(frame["history"]).ravel(), minlength=len(self.items) + 1
        )
        self.popularity[0] = 0  # unseen items have the code of padding

    def _kind(self, frame: pd.DataFrame) -> pd.Series:
        if self.task.kind not in frame:
            return pd.Series(0, index=range(len(frame)))
        return pd.Series(_number(_last(frame[self.task.kind]), self.kinds))

    @property
    def layout(self) -> Layout:
        """Sizes of the model's embeddings and numeric inputs."""
        return Layout(
            users=len(self.users) + 1,
            items=len(self.items) + 1,
            kinds=len(self.kinds) + 1,
            fields=tuple(len(known) + 1 for known in self.categories.values()),
            tags=sum(len(known) for known in self.tags.values()),
            numbers=len(self.numeric),
        )

    def inputs(self, frame: pd.DataFrame) -> dict[str, Tensor]:
        """Return the inputs of DIN and DIEN, see :class:`~demix_lite.models.din.DIN`."""
        history = self._history(frame["history"])
        fields = [_number(frame[name], known) for name, known in self.categories.items()]
        found = {
            "user": _number(frame["user"], self.users),
            "item": _number(frame["item"], self.items),
            "kind": self._kind(frame).to_numpy(),
            "fields": np.array(fields, dtype=np.int64).reshape(len(fields), len(frame)).T,
            "tags": self._shares(frame),
            "numbers": self._numbers(frame),
            "history": history,
            "history_kind": self.catalogue[history],
        }
        return {name: torch.from_numpy(np.array(v)) for name, v in found.items()}

    def _history(self, histories: pd.Series) -> np.ndarray:
        """Return the numbers of the items taken before, padded with 0 on the right."""
        split = [cell.split(SEPARATOR) for cell in histories]
        row = np.repeat(np.arange(len(split)), [len(cell) for cell in split])
        numbers = _number(pd.Series([item for cell in split for item in cell]), self.items)
        # An item not seen in training carries no information; the others move up.
        row, numbers = row[numbers > 0], numbers[numbers > 0]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        padded = np.zeros((len(split), self.task.history), dtype=np.int64)
        padded[row, place] = numbers
        return padded

    def _numbers(self, frame: pd.DataFrame) -> np.ndarray:
        if not self.numeric or frame.empty:
            return np.zeros((len(frame), len(self.numeric)), dtype=np.float32)
        scaled = self.scaler.transform(frame[self.numeric].to_numpy(dtype=float))
        # A missing number becomes the mean.
        return np.nan_to_num(scaled).astype(np.float32)

    def _shares(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the shares of the listed values; for each attribute, a row sums to 1 (or 0)."""
        parts = [_holds(frame[name], known) for name, known in self.tags.items()]
        parts = [part / np.maximum(part.sum(axis=1, keepdims=True), 1) for part in parts]
        return np.hstack([np.zeros((len(frame), 0)), *parts]).astype(np.float32)

    @cached_property
    def _sketch(self) -> Tensor:
        """Random vectors of the items: inner products of their sums estimate the items shared."""
        draw = torch.Generator().manual_seed(derive_seed(self.task.name, "sketch"))
        rows = torch.randn(len(self.items) + 1, HISTORY_WIDTH, generator=draw)
        rows[0] = 0
        return rows / HISTORY_WIDTH**0.5

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Describe samples by content, for input similarity; ids of user and item do not count.

        The description has the attributes of user and item, and the items and kinds of the history.
        """
        place = inputs["history"].device
        sketch = self._sketch.to(place)
        taken = F.normalize(F.embedding(inputs["history"], sketch).sum(1), dim=1)
        kinds = torch.zeros(len(taken), self.layout.kinds, device=place)
        kinds.scatter_add_(1, inputs["history_kind"], (inputs["history"] > 0).float())
        kinds[:, 0] = 0
        sizes = (self.layout.kinds, *self.layout.fields)
        codes = (inputs["kind"], *inputs["fields"].T)
        single = [F.one_hot(c, size).float() for c, size in zip(codes, sizes, strict=True)]
        own = [*single, inputs["tags"], inputs["numbers"]]
        return torch.cat([*own, taken, F.normalize(kinds, dim=1)], dim=1)

    def columns(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return attributes, one column per listed value, and statistics of history and item.

        The last columns are the length of the history, the share of it that is of the shown item's
        kind, and how often the item occurs in training histories.
        """
        inputs = {name: tensor.numpy() for name, tensor in self.inputs(frame).items()}
        there = inputs["history"] > 0
        alike = (inputs["history_kind"] == inputs["kind"][:, None]) & there
        length = there.sum(axis=1)
        said = [
            frame[self.numeric].to_numpy(dtype=float),
            _codes(inputs["kind"][:, None]),
            _codes(inputs["fields"]),
            inputs["tags"] > 0,
            length[:, None],
            (alike.sum(axis=1) / np.maximum(length, 1))[:, None],
            self.popularity[inputs["item"]][:, None],
        ]
        width = [part.shape[1] for part in said]
        categorical = np.repeat([False, True, True, True, False, False, False], width)
        return np.hstack(said).astype(float), categorical


def _values(cells: pd.Series) -> pd.Index:
    return pd.Index(sorted(cells.dropna().unique()), dtype=object)


def _number(cells: pd.Series, known: pd.Index) -> np.ndarray:
    """Number cells by their position among the known values, from 1; 0 means unknown."""
    return known.get_indexer(cells.astype(object)) + 1


def _last(cells: pd.Series) -> pd.Series:
    return cells.str.rsplit(SEPARATOR, n=1).str[-1]


def _tags(cells: pd.Series) -> pd.Index:
    """Return the most frequent listed values."""
    counts = cells.dropna().str.split(SEPARATOR).explode().value_counts()
    return pd.Index(sorted(counts.index[:MOST_TAGS]), dtype=object)


def _holds(cells: pd.Series, known: pd.Index) -> np.ndarray:
    """Return which of the known values each cell lists, 0 or 1, shape ``(n, len(known))``."""
    codes, listed = pd.factorize(cells)
    table = np.zeros((len(listed) + 1, len(known)))
    for row, cell in enumerate(listed):
        table[row, known.isin(cell.split(SEPARATOR))] = 1
    return table[codes]


def _codes(numbers: np.ndarray) -> np.ndarray:
    """Return category codes for tree models, from 0: NaN if unknown or beyond the 249th."""
    return np.where((numbers > 0) & (numbers < MOST_CATEGORIES), numbers - 1.0, np.nan)
