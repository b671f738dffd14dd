"""Worlds: the twins of data sets of users, items and their ratings.

A world is a JSON file fitted by ``data_scripts/fit_world.py``. It describes

- ``users`` and ``items``: their number (``count``), their attributes (``columns``, drawn like those
  of a table, see :mod:`demix_lite.data.twin`) and their ``tastes``: a vector for each value of an
  attribute (each genre, each age group), one for all of them (``base``), and ``noise``, the
  standard deviation of what attributes do not explain. The taste of a user or item is the sum of
  its vectors plus noise. The vectors of items have one more component, their popularity.
- ``activity``: how many items a user takes, relative to the mean. The items are drawn without
  replacement in proportion to exp(taste of the user · taste of the item + popularity), where the
  exponent is the *appeal* of the item to this user.
- ``rating``: how a rating depends on taste and popularity, on how strict the user is, and on how
  good the item is.
- ``time``: when a user starts, how much of the remaining time is used, and when in it items come.
"""

from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from demix_lite.data.twin import draw_columns, draw_knots
from demix_lite.seeds import generator

MOST_TAKEN = 0.5
"""Largest share of all items that one user takes."""


def sample_world(
    world: dict[str, Any], rows: int | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Draw interactions, users and items, with the columns and types of the real tables.

    ``rows`` is the approximate number of interactions to draw enough users for, if the number of
    users in the description is not enough. The same seed gives the same tables.

    Examples
    --------
    >>> from demix_lite.data.twin import load_twin
    >>> world = sample_world(load_twin("movielens"))
    >>> {name: list(frame) for name, frame in world.items()}["interactions"]
    ['user', 'item', 'rating', 'time']
    """
    rng = generator(world["card"]["name"], "twin", seed)
    people = ceil(world["users"]["count"] * max(1, (rows or 0) / world["rows"]))
    users, user_tastes = _draw_entities(world["users"], "user", people, rng)
    items, item_tastes = _draw_entities(world["items"], "item", world["items"]["count"], rng)
    affinity, popularity = user_tastes @ item_tastes[:, :-1].T, item_tastes[:, -1]
    user, item = _take_items(affinity + popularity, _draw_activity(world, people, rng), rng)
    leaning = affinity[user, item], popularity[item]
    rating = _draw_ratings(world["rating"], leaning, user, item, rng)
    times = _draw_times(world["time"], user, rng)
    names = {"user": users["user"].to_numpy()[user], "item": items["item"].to_numpy()[item]}
    interactions = pd.DataFrame({**names, "rating": rating, "time": times})
    # as in the real tables, items that nobody took are left out
    items = items[items["item"].isin(interactions["item"])].reset_index(drop=True)
    tables = {"interactions": interactions, "users": users, "items": items}
    return add_averages(tables) if world["averages"] else tables


def token_matrix(values: pd.Series, spec: dict[str, Any]) -> np.ndarray:
    """Return which vectors of an attribute apply to each user or item, 0 or 1, one column each.

    A number lies between two of the ``cuts`` or is missing (last column). A text has each of the
    ``levels`` that it lists, separated by ``|``; if it is missing, it has the level ``""``.

    Examples
    --------
    >>> token_matrix(pd.Series(["Drama|War", None]), {"levels": ["", "War", "Drama"]}).tolist()
    [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    >>> token_matrix(pd.Series([17.0, 30.0]), {"cuts": [18]}).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    if "cuts" in spec:
        place = np.searchsorted(spec["cuts"], values, side="right")
        place[values.isna()] = len(spec["cuts"]) + 1
        return np.eye(len(spec["cuts"]) + 2)[place]
    cells = [set(cell.split("|")) for cell in values.fillna("").tolist()]
    return np.array([[float(level in cell) for level in spec["levels"]] for cell in cells])


def add_averages(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Add to users and items the number and the mean of the ratings they gave or got.

    Examples
    --------
    >>> met = pd.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "rating": [2.0, 5.0]})
    >>> users, items = pd.DataFrame({"user": ["a"]}), pd.DataFrame({"item": ["x", "y"]})
    >>> add_averages({"interactions": met, "users": users, "items": items})["users"]
      user  review_count  average_stars
    0    a             2            3.5
    """
    interactions, users, items = (tables[name] for name in ("interactions", "users", "items"))

    def averages(ids: pd.Series) -> tuple[pd.Series, pd.Series]:
        ratings = interactions.groupby(ids.name)["rating"]
        count = ids.map(ratings.size()).fillna(0).astype("int64")
        return count, ids.map(ratings.mean()).round(2)

    count, mean = averages(users["user"])
    users = users.assign(review_count=count, average_stars=mean)
    count, mean = averages(items["item"])
    items = items.assign(stars=mean, review_count=count)
    return {"interactions": interactions, "users": users, "items": items}


def _draw_entities(
    kind: dict[str, Any], key: str, count: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw users or items: their attributes, and tastes that depend on them."""
    drawn, _ = draw_columns(kind["columns"], count, rng)
    frame = pd.DataFrame({key: [f"{key[0]}{number}" for number in range(1, count + 1)]})
    frame = frame.assign(**drawn)
    if "title" in kind["order"]:
        frame["title"] = [f"Film {n} ({year})" for n, year in enumerate(frame["year"], 1)]
    vectors = np.array(kind["base"]) + rng.normal(size=(count, len(kind["noise"]))) * kind["noise"]
    for name, spec in kind["tastes"].items():
        vectors += token_matrix(frame[name], spec) @ np.array(spec["vectors"])
    return frame[[key, *kind["order"]]], vectors


def _draw_activity(world: dict[str, Any], people: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how many items each user takes."""
    mean = world["rows"] / world["users"]["count"]
    most = int(MOST_TAKEN * world["items"]["count"])
    return (mean * draw_knots(world["activity"], people, rng)).round().astype(int).clip(1, most)


def _take_items(
    appeal: np.ndarray, activity: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw each user's items without replacement, in proportion to exp(appeal) (Gumbel top-k)."""
    race = appeal + rng.gumbel(size=appeal.shape)
    ranks = np.argsort(-race, axis=1)
    taken = [rng.permutation(order[:count]) for order, count in zip(ranks, activity, strict=True)]
    return np.repeat(np.arange(len(activity)), activity), np.concatenate(taken)


def _draw_ratings(
    shape: dict[str, Any],
    leaning: tuple[np.ndarray, np.ndarray],
    user: np.ndarray,
    item: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    affinity, popularity = leaning
    score = shape["affinity"] * affinity + shape["popularity"] * popularity
    score += (shape["user"] * rng.normal(size=user.max() + 1))[user]
    score += (shape["item"] * rng.normal(size=item.max() + 1))[item]
    score += shape["noise"] * rng.normal(size=len(user))
    shares = np.cumsum(shape["weights"]) / np.sum(shape["weights"])
    cuts = score.mean() + score.std() * ndtri(shares[:-1])
    return np.array(shape["levels"], dtype=float)[np.searchsorted(cuts, score)]


def _draw_times(shape: dict[str, Any], user: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw seconds since 1970, multiples of ``step``, that do not decrease within a user."""
    people = user.max() + 1
    start = draw_knots(shape["starts"], people, rng)
    span = (shape["end"] - start) * draw_knots(shape["spans"], people, rng)
    part = draw_knots(shape["parts"], len(user), rng)
    part = part[np.lexsort((part, user))]
    seconds = start[user] + span[user] * part
    return (seconds // shape["step"] * shape["step"]).astype("int64")
