"""``python -m data_scripts.fit_world movielens``: fit the twin of prepared users and items.

The tastes are those of a matrix factorisation that learns to separate an item that a user took from
a random one. Their strength in the twin is chosen so that they improve on popularity by as much as
in the real tables. With ``--check`` it measures instead how well taken and random items can be
separated on real and on twin tables. The areas under the ROC curve are written to
``book/results/world_fidelity.csv``.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score

from data_scripts.fit_twin import KNOTS, ROOT, code_columns, command, fit_columns, twin_card
from demix_lite.data.store import Card, Tables, load_tables
from demix_lite.data.world import MOST_TAKEN, sample_world, token_matrix
from demix_lite.errors import DemixError
from demix_lite.seeds import derive_seed, generator

USERS, ITEMS, ROWS = 1_000, 600, 40_000
AVERAGES = ("review_count", "average_stars", "stars")  # computed from the drawn ratings
MOST_LEVELS = 250  # of an attribute of a twin; the rarest are left out
MOST_TOKENS = 60  # values of an attribute that have a taste vector of their own
LEAVES = 24
DIMENSIONS = 8
EPOCHS, BATCH, NEGATIVES, RATE = 12, 8192, 4, 0.02
PENALTY = 2e-3  # on vectors of single users and items, so that attributes explain what they can
FIDELITY = ROOT / "book" / "results" / "world_fidelity.csv"
STRENGTHS = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.3, 2.6, 3)
DAY = 86_400


class Tastes(torch.nn.Module):
    """A matrix factorisation: vectors of attribute values, plus one for each user and item."""

    def __init__(self, user_tokens: np.ndarray, item_tokens: np.ndarray) -> None:
        super().__init__()
        self.user_tokens = torch.tensor(user_tokens, dtype=torch.float32)
        self.item_tokens = torch.tensor(item_tokens, dtype=torch.float32)
        users, of_users = user_tokens.shape
        items, of_items = item_tokens.shape

        def small(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(0.1 * torch.randn(shape))

        self.of_user_tokens, self.of_users = small(of_users, DIMENSIONS), small(users, DIMENSIONS)
        self.of_item_tokens = small(of_items, DIMENSIONS + 1)
        self.of_items = small(items, DIMENSIONS + 1)
        self.base = torch.nn.Parameter(torch.zeros(()))

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Return the appeal of items ``(users, many)`` to users ``(users,)``.

        It is the inner product of their tastes plus the popularity of the item.
        """
        tastes = (self.user_tokens @ self.of_user_tokens + self.of_users)[user]
        items = self.item_vectors()[item]
        appeal = torch.einsum("ud,und->un", tastes, items[..., :-1]) + items[..., -1]
        return appeal + self.base

    def item_vectors(self) -> torch.Tensor:
        """Return the tastes of all items, with their popularity as last component."""
        return self.item_tokens @ self.of_item_tokens + self.of_items


def fit_tastes(
    tokens: dict[str, np.ndarray], user: np.ndarray, item: np.ndarray, seed: int = 0
) -> Tastes:
    """Learn to tell the item that a user took from items at random."""
    torch.manual_seed(derive_seed("tastes", seed))
    model = Tastes(tokens["user"], tokens["item"])
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    users, items = torch.tensor(user), torch.tensor(item)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(users)).split(BATCH):
            others = torch.randint(len(tokens["item"]), (len(batch), NEGATIVES))
            offered = torch.cat([items[batch, None], others], dim=1)
            truth = torch.zeros(offered.shape)
            truth[:, 0] = 1
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                model(users[batch], offered), truth
            )
            special = model.of_users[users[batch]].square().sum(1).mean()
            special = special + model.of_items[items[batch], :-1].square().sum(1).mean()
            optimiser.zero_grad()
            (loss + PENALTY * special).backward()
            optimiser.step()
    return model


def fit_world(tables: Tables, card: Card) -> dict[str, Any]:
    """Describe users, items and interactions so that ``sample_world`` can imitate them."""
    interactions, users, items = (tables[name] for name in ("interactions", "users", "items"))
    user, item = places(interactions, tables)
    specs = {"user": token_specs(users, card), "item": token_specs(items, card)}
    model = fit_tastes(token_matrices(tables, specs), user, item)
    with torch.no_grad():
        popularity = model.item_vectors()[item, -1].numpy()
        affinity = model(torch.tensor(user), torch.tensor(item)[:, None])[:, 0].numpy() - popularity
    counts = np.bincount(user)
    notes = (
        f"Synthetic users, items and ratings, drawn after {len(user):,} real ratings. {card.notes}"
    )
    if "time" not in interactions:
        notes += " The times of the twin are invented."
    keys = [key for key in card.keys if key != "time"]
    world = {
        "rows": ROWS,
        "card": twin_card(card, keys=[*keys[:2], "time", *keys[2:]], notes=notes.strip()),
        "users": {
            "count": USERS,
            **fit_attributes(users, card, counts),
            **written_tastes(specs["user"], model.of_user_tokens, model.of_users),
        },
        "items": {
            "count": ITEMS,
            **fit_attributes(items, card, np.bincount(item, minlength=len(items))),
            **written_tastes(specs["item"], model.of_item_tokens, model.of_items),
        },
        "activity": fit_activity(counts),
        "rating": fit_ratings(interactions["rating"], affinity, popularity, user, item),
        "time": fit_times(interactions),
        "averages": "average_stars" in card.numeric,
    }
    if "price" in items and items["price"].isna().all():
        invent_prices(world)
    return strengthen(world, tables, card)


def places(interactions: pd.DataFrame, tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of the user and of the item of each interaction."""
    of_user = pd.Index(tables["users"]["user"]).get_indexer(interactions["user"])
    return of_user, pd.Index(tables["items"]["item"]).get_indexer(interactions["item"])


def attributes(frame: pd.DataFrame, card: Card) -> list[str]:
    """List the columns of users or items that are neither computed from ratings nor empty."""
    features = (*card.numeric, *card.categorical)
    names = [name for name in frame if name in features and name not in AVERAGES]
    return [name for name in names if frame[name].notna().any()]


def token_specs(frame: pd.DataFrame, card: Card) -> dict[str, dict[str, Any]]:
    """Return which values of each attribute have a taste vector of their own."""
    specs: dict[str, dict[str, Any]] = {}
    for name in attributes(frame, card):
        if name in card.numeric:
            inner = np.quantile(frame[name].dropna(), np.linspace(0, 1, 8)[1:-1])
            specs[name] = {"cuts": np.unique(inner).tolist()}
        else:
            counts = frame[name].fillna("").str.split("|").explode().value_counts()
            specs[name] = {"levels": sorted(counts.index[:MOST_TOKENS])}
    return specs


def token_matrices(tables: Tables, specs: dict[str, dict]) -> dict[str, np.ndarray]:
    """Concatenate the tokens of all attributes, for users and for items."""
    matrices = {}
    for key, name in (("user", "users"), ("item", "items")):
        frame = tables[name]
        parts = [token_matrix(frame[column], spec) for column, spec in specs[key].items()]
        matrices[key] = np.column_stack([*parts, np.ones(len(frame))])
    return matrices


def written_tastes(
    specs: dict[str, dict[str, Any]], of_tokens: torch.Tensor, of_each: torch.Tensor
) -> dict[str, Any]:
    """Describe the vectors of attribute values, and the spread that they do not explain."""
    vectors = of_tokens.detach().numpy().astype(float)
    # the last row is common to all; the mean of the individual vectors is added to it
    vectors[-1] += of_each.detach().numpy().mean(axis=0)
    tastes, start = {}, 0
    for name, spec in specs.items():
        width = len(spec["levels"]) if "levels" in spec else len(spec["cuts"]) + 2
        tastes[name] = {**spec, "vectors": vectors[start : start + width].round(3).tolist()}
        start += width
    noise = of_each.detach().numpy().std(axis=0).astype(float).round(3)
    return {"base": vectors[-1].round(3).tolist(), "tastes": tastes, "noise": noise.tolist()}


def fit_attributes(frame: pd.DataFrame, card: Card, counts: np.ndarray) -> dict[str, Any]:
    """Describe the attributes of users or items like the columns of a table."""
    names = attributes(frame, card)
    order = [name for name in frame if name in {*names, *card.keys} - {"user", "item"}]
    if not names:
        return {"columns": [], "order": order}
    common = np.ones(len(frame), dtype=bool)
    for name in set(names) & set(card.categorical):
        levels = frame[name].value_counts(dropna=False).index[:MOST_LEVELS]
        common &= frame[name].isin(levels).to_numpy()
    frame, counts = frame[common], pd.Series(np.log1p(counts[common]), index=frame.index[common])
    numeric = [name for name in names if name in card.numeric]
    categorical = [name for name in names if name not in numeric]
    coded, seen = code_columns(frame, numeric, categorical, counts)
    return {"columns": fit_columns(coded, seen, LEAVES), "order": order}


def fit_ratings(
    rating: pd.Series,
    affinity: np.ndarray,
    popularity: np.ndarray,
    user: np.ndarray,
    item: np.ndarray,
) -> dict[str, Any]:
    """Split the variance of the ratings, as normal scores, by what they depend on, and the rest."""
    levels, weights = np.unique(rating, return_counts=True)
    score = norm.ppf((rankdata(rating) - 0.5) / len(rating))
    leaning = np.column_stack([affinity, popularity, np.ones(len(score))])
    slopes = np.linalg.lstsq(leaning, score)[0]
    rest = score - leaning @ slopes
    parts = {"affinity": slopes[0], "popularity": slopes[1]}
    spread = rest.var()
    for name, group in (("user", user), ("item", item)):
        counts = np.bincount(group)
        mean = np.bincount(group, rest) / np.maximum(counts, 1)
        within = (rest - mean[group]).var()
        by_chance = (within / counts[counts > 0]).mean()
        between = max(mean[counts > 0].var() - by_chance, 0.0)
        parts[name] = between**0.5
        spread -= between
    parts["noise"] = max(spread, 0.1) ** 0.5
    rounded = {name: round(float(value), 3) for name, value in parts.items()}
    return {"levels": levels.tolist(), "weights": weights.tolist(), **rounded}


def fit_activity(counts: np.ndarray) -> list[float]:
    """Describe how many items users take, relative to the mean; a cap keeps the mean unchanged."""
    shares = np.quantile(counts, np.linspace(0, 1, KNOTS))
    most = MOST_TAKEN * ITEMS * USERS / ROWS
    for _ in range(20):  # what the cap removes is given to the other users
        shares = np.minimum(shares / np.trapezoid(shares, dx=1 / (KNOTS - 1)), most)
    return [float(f"{share:.6g}") for share in shares]


def fit_times(interactions: pd.DataFrame) -> dict[str, Any]:
    """Describe when users start, how long they stay and when in this time they rate.

    Tables without dates get invented ones: users arrive one after the other over six years.
    """
    if "time" not in interactions:
        even = [0.0, 1.0]
        start, end = (int(pd.Timestamp(day).timestamp()) for day in ("2008-01-01", "2016-01-01"))
        starts = [start, start + (end - start) * 3 // 4]
        return {"starts": starts, "end": end, "spans": even, "parts": even, "step": 1}
    time = interactions["time"]
    by_user = time.groupby(interactions["user"])
    first, span = by_user.min(), by_user.max() - by_user.min()
    end = int(time.max())
    length = interactions["user"].map(span)
    part = ((time - interactions["user"].map(first)) / length)[length > 0]
    return {
        "starts": knots(first),
        "end": end,
        "spans": knots(span / (end - first).clip(lower=1)),
        "parts": knots(part),
        "step": DAY if (time % DAY == 0).all() else 1,
    }


def knots(values: pd.Series | np.ndarray) -> list[float]:
    """Describe a distribution by evenly spaced quantiles, with six digits or as whole numbers."""
    points = np.quantile(values, np.linspace(0, 1, KNOTS))
    return [int(point) if abs(point) > 1e6 else float(f"{point:.6g}") for point in points]


def invent_prices(world: dict[str, Any]) -> None:
    """Add prices to the twin of Amazon: the graph data set to which it is fitted has none.

    Half of them are below 25 dollars, a tenth is missing, and users differ in their taste for
    expensive items.
    """
    inner = 25 * np.exp(1.5 * norm.ppf(np.linspace(0.005, 0.995, KNOTS)))
    inner = [round(float(price), 2) for price in inner]
    column = {"name": "price", "dtype": "float64", "decimals": 2}
    column |= {"bins": [None, {"knots": inner}], "table": [[1, 9]]}
    column["tree"] = {"feature": [-1], "value": [0], "right": [0]}
    items = world["items"]
    items["columns"].append(column)
    items["order"].append("price")
    size = len(items["noise"])
    liking = np.outer([-0.6, -0.3, 0.0, 0.3, 0.6, 0.0], np.eye(size)[0])
    items["tastes"]["price"] = {"cuts": [10, 25, 100, 500], "vectors": liking.tolist()}
    world["card"]["notes"] += " The prices of the twin are invented."


def check_world(tables: Tables, card: Card, seed: int = 0) -> dict[str, float]:
    """Separate held-out interactions from random pairs; return areas under the ROC curve.

    ``popularity`` uses how often an item is taken; ``tastes`` also uses the attributes of user and
    item and what the user took. 20 % of the interactions are held out.
    """
    user, item = places(tables["interactions"], tables)
    rng = generator(card.name, "check", seed)
    held = rng.random(len(user)) < 0.2
    shape = len(tables["users"]), len(tables["items"])
    taken = np.zeros(shape, dtype=bool)
    taken[user, item] = True
    others = rng.integers(shape[1], size=held.sum())
    new = ~taken[user[held], others]
    asked_user = np.concatenate([user[held], user[held][new]])
    asked_item = np.concatenate([item[held], others[new]])
    truth = np.repeat([1, 0], [held.sum(), new.sum()])
    popularity = np.bincount(item[~held], minlength=shape[1])
    specs = {"user": token_specs(tables["users"], card), "item": token_specs(tables["items"], card)}
    model = fit_tastes(token_matrices(tables, specs), user[~held], item[~held], seed)
    with torch.no_grad():
        tastes = model(torch.tensor(asked_user), torch.tensor(asked_item)[:, None])[:, 0]
    return {
        "popularity": roc_auc_score(truth, popularity[asked_item]),
        "tastes": roc_auc_score(truth, tastes),
    }


def check_fidelity(tables: Tables, card: Card, seeds: int) -> pd.DataFrame:
    """Check, for every seed, the real tables and a world of the built-in twin."""
    rows = []
    for seed in range(seeds):
        for table, found in (("real", (tables, card)), ("twin", load_tables(card.name, seed=seed))):
            facts = {"task": card.name, "table": table, "seed": seed, "rows": found[1].rows}
            rows.append(facts | check_world(*found, seed))
    return pd.DataFrame(rows)


def strengthen(world: dict[str, Any], tables: Tables, card: Card) -> dict[str, Any]:
    """Scale the tastes so that they improve on popularity by as much as in the real tables.

    This is needed because a factorisation of few ratings shrinks them.
    """

    def added(tables: Tables) -> float:
        found = check_world(tables, card)
        return found["tastes"] - found["popularity"]

    wanted = added(tables)
    candidates = [scaled(world, strength) for strength in STRENGTHS]
    return min(candidates, key=lambda one: abs(added(sample_world(one)) - wanted))


def scaled(world: dict[str, Any], strength: float) -> dict[str, Any]:
    """Return the world with all tastes of its users multiplied by ``strength``."""

    def times(vectors: list) -> list:
        return (strength * np.array(vectors)).round(3).tolist()

    users = world["users"]
    tastes = {
        name: {**spec, "vectors": times(spec["vectors"])} for name, spec in users["tastes"].items()
    }
    louder = {"base": times(users["base"]), "noise": times(users["noise"]), "tastes": tastes}
    return world | {"users": users | louder}


def load_world(name: str, home: Path | None) -> tuple[Tables, Card]:
    """Load prepared users and items; raise an error for a data set with one table."""
    tables, card = load_tables(name, "real", home=home)
    if not card.keys:
        raise DemixError(f"{name!r} is one table; fit it with data_scripts.fit_twin.")
    return tables, card


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return command(arguments, "fit_world", __doc__, FIDELITY, load_world, fit_world, check_fidelity)


if __name__ == "__main__":
    sys.exit(main())
