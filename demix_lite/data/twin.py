"""Twins: small parametric stand-ins for real tables, sampled without a download.

A twin of one table is a JSON file fitted by ``data_scripts/fit_twin.py`` (for users and items see
:mod:`demix_lite.data.world`). It describes

- ``columns``, in the order in which they are drawn. A decision tree (``tree``) on the columns drawn
  before assigns each row to one line of ``table``, which has a weight for each code of this column.
  A code of a categorical column is one of its ``levels``; a code of a numeric column is one of its
  ``bins``, described by ``values`` with ``weights`` or by evenly spaced quantiles (``knots``). A
  level or bin that is ``null`` stands for a missing value.
- ``label``, which turns the drawn features into the target, in the way given by ``kind``.
  ``trees``: a sum of decision trees and a softmax give the probability of each class, from which
  the class is drawn. ``number``: a sum of decision trees gives the mean of a numeric target; the
  distance from it is drawn from evenly spaced quantiles (``knots``), with one list for each level
  of the mean (between ``cuts``).

The trees use the values of numeric columns and the codes of categorical ones.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from demix_lite.errors import refuse_unknown
from demix_lite.seeds import generator

MISSING = -1e9
"""Input of a tree in place of a missing number."""


def twin_names() -> list[str]:
    """List the built-in twins."""
    files = resources.files("demix_lite.data").joinpath("twins").iterdir()
    return sorted(f.name.removesuffix(".json") for f in files if f.name.endswith(".json"))


@cache
def load_twin(name: str) -> dict[str, Any]:
    """Read the description of a built-in twin; treat it as read-only."""
    refuse_unknown("twin", [name], twin_names())
    file = resources.files("demix_lite.data").joinpath("twins", f"{name}.json")
    return json.loads(file.read_text("utf-8"))


def sample_twin(twin: dict[str, Any], rows: int, seed: int = 0) -> pd.DataFrame:
    """Draw rows from a twin, with the columns and types of the real table.

    The same seed and the same number of rows give the same table.

    Examples
    --------
    >>> frame = sample_twin(load_twin("adult"), 1000)
    >>> bool(frame["capital_gain"].eq(0).mean() > 0.85)
    True
    """
    rng = generator(twin["card"]["name"], "twin", seed)
    drawn, seen = draw_columns(twin["columns"], rows, rng)
    drawn[twin["card"]["target"]] = draw_label(twin["label"], seen, rng)
    return pd.DataFrame(drawn)[twin["order"]]


def draw_columns(
    columns: list[dict[str, Any]], rows: int, rng: np.random.Generator
) -> tuple[dict[str, pd.Series], np.ndarray]:
    """Draw columns one after the other; return them and the inputs of the trees."""
    seen = np.empty((rows, len(columns)))
    drawn = {}
    for position, column in enumerate(columns):
        line = tree_scores(column["tree"], seen).astype(int)
        codes = _draw_codes(np.array(column["table"], dtype=float)[line], rng)
        drawn[column["name"]] = _decode(column, codes, rng)
        seen[:, position] = tree_input(column, drawn[column["name"]], codes)
    return drawn, seen


def tree_input(column: dict[str, Any], values: pd.Series, codes: np.ndarray) -> np.ndarray:
    """Return a column as input of a tree: codes of categories, values of numbers."""
    return codes if "levels" in column else values.fillna(MISSING).to_numpy(float)


def tree_scores(tree: dict[str, Any], seen: np.ndarray) -> np.ndarray:
    """Return the score of one tree for each row of ``seen``.

    Node ``i`` sends a row to node ``i + 1`` if ``seen[row, feature[i]] <= value[i]`` and to node
    ``right[i]`` otherwise; a node whose feature is -1 is a leaf with score ``value[i]``.

    Examples
    --------
    >>> stump = {"feature": [0, -1, -1], "value": [2.5, -1.0, 1.0], "right": [2, 0, 0]}
    >>> tree_scores(stump, np.array([[2.0], [3.0]])).tolist()
    [-1.0, 1.0]
    """
    feature, value, right = (np.array(tree[key]) for key in ("feature", "value", "right"))
    node = np.zeros(len(seen), dtype=int)
    on_the_way = np.flatnonzero(feature[node] >= 0)
    while len(on_the_way):
        at = node[on_the_way]
        goes_left = seen[on_the_way, feature[at]] <= value[at]
        node[on_the_way] = np.where(goes_left, at + 1, right[at])
        on_the_way = on_the_way[feature[node[on_the_way]] >= 0]
    return value[node]


def draw_label(label: dict[str, Any], seen: np.ndarray, rng: np.random.Generator) -> pd.Series:
    """Draw the target of each row of ``seen``."""
    if label["kind"] == "trees":
        return _take(label["classes"], _draw_codes(label_probabilities(label, seen), rng))
    return _draw_number(label, label_mean(label, seen), rng)


def label_mean(label: dict[str, Any], seen: np.ndarray) -> np.ndarray:
    """Return the mean of a numeric target for each row of ``seen``."""
    return label["base"] + sum(tree_scores(tree, seen) for tree in label["trees"])


def _draw_number(label: dict[str, Any], mean: np.ndarray, rng: np.random.Generator) -> pd.Series:
    """Draw numbers around their mean, within the range of the real ones."""
    level = np.searchsorted(label["cuts"], mean)
    values = mean.copy()
    for number, knots in enumerate(label["knots"]):
        here = np.flatnonzero(level == number)
        values[here] += draw_knots(knots, len(here), rng)
    values = values.clip(*label["range"]).round(label["decimals"])
    return pd.Series(values).astype(label["dtype"])


def label_probabilities(label: dict[str, Any], seen: np.ndarray) -> np.ndarray:
    """Return the probability of each class (columns) for each row of ``seen``."""
    scores = np.tile(np.array(label["base"], dtype=float), (len(seen), 1))
    for tree in label["trees"]:
        scores[:, tree["class"]] += tree_scores(tree, seen)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def _draw_codes(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one column index from each row of non-negative weights."""
    ladder = weights.cumsum(axis=1)
    mark = rng.random(len(weights)) * ladder[:, -1]
    return (ladder <= mark[:, None]).sum(axis=1)


def _decode(column: dict[str, Any], codes: np.ndarray, rng: np.random.Generator) -> pd.Series:
    if "levels" in column:
        return _take(column["levels"], codes)
    values = np.full(len(codes), np.nan)
    for code, shape in enumerate(column["bins"]):
        here = np.flatnonzero(codes == code)
        if shape is not None:
            values[here] = _draw_within(shape, len(here), rng)
    return pd.Series(values.round(column["decimals"])).astype(column["dtype"])


def _take(levels: list, codes: np.ndarray) -> pd.Series:
    known = pd.Series([np.nan if level is None else level for level in levels])
    return known.iloc[codes].reset_index(drop=True)


def draw_knots(knots: list[float], count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw from a distribution given by evenly spaced quantiles."""
    return np.interp(rng.random(count), np.linspace(0, 1, len(knots)), knots)


def _draw_within(shape: dict[str, Any], count: int, rng: np.random.Generator) -> np.ndarray:
    if "knots" in shape:
        return draw_knots(shape["knots"], count, rng)
    weights = np.array(shape["weights"], dtype=float)
    return rng.choice(np.array(shape["values"], dtype=float), count, p=weights / weights.sum())
