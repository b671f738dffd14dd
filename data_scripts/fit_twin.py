"""``python -m data_scripts.fit_twin adult``: fit the twin of a prepared table.

With ``--check`` it measures instead how close a twin is to the real table. A model is trained on
one table and tested on another, twin or real, and the scores are written to
``book/results/twin_fidelity.csv``: accuracy and area under the ROC curve for classes, R² (``r2``)
for numbers. In each repetition the twin is fitted anew, only to the training rows, so that it has
never seen the real test rows.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from demix_lite.data.store import Card, load_table
from demix_lite.data.twin import sample_twin, tree_input
from demix_lite.errors import DemixError
from demix_lite.seeds import derive_seed, generator

ROOT = Path(__file__).resolve().parent.parent
TWINS = ROOT / "demix_lite" / "data" / "twins"
FIDELITY = ROOT / "book" / "results" / "twin_fidelity.csv"
SCORES = ["accuracy", "auc", "r2"]
LARGEST_FILE = 200_000
DEFAULT_ROWS = 12_000  # of a twin, unless the table has fewer
MAX_BINS = 16
MAX_LISTED = 200  # a column with more distinct numbers is described by quantiles
KNOTS = 33
LEAVES, ROWS_PER_LEAF = (128, 64, 32), 10  # of the tree of a column; fewer leaves to save bytes
LABEL_TREES, LABEL_LEAVES = 100, 31
NUMBER_TREES = 150  # for a numeric target
LEVELS = 30  # of the predicted mean of a numeric target, each with its own residual distribution

Coded = tuple[dict[str, Any], np.ndarray]
"""The description of a column's values, and the code of every row."""


def fit_twin(frame: pd.DataFrame, card: Card) -> dict[str, Any]:
    """Describe a table so that :func:`demix_lite.data.twin.sample_twin` can imitate it.

    The target is a class or a number.
    """
    target = frame[card.target]
    coded, seen = code_columns(frame, card.numeric, card.categorical, target)
    notes = f"Synthetic rows, drawn from a description fitted to {len(frame):,} real rows."
    twin: dict[str, Any] = {
        "rows": min(DEFAULT_ROWS, len(frame)),
        "order": list(frame.columns),
        "card": twin_card(card, notes=f"{notes} {card.notes}".strip()),
        "columns": [],
        "label": fit_number(seen, target) if is_number(target) else fit_label(seen, target),
    }
    for leaves in LEAVES:
        twin["columns"] = fit_columns(coded, seen, leaves)
        if len(write_twin(twin)) <= LARGEST_FILE:
            break
    return twin


def twin_card(card: Card, **more: Any) -> dict[str, Any]:
    """Return the facts of a twin's card: those of the real table, and ``more``."""
    facts = ("name", "title", "url", "licence", "numeric", "categorical", "target")
    return {fact: getattr(card, fact) for fact in facts} | more


def write_twin(twin: dict[str, Any]) -> str:
    """Return the content of a twin's file."""
    return json.dumps(twin, separators=(",", ":")) + "\n"


def is_number(target: pd.Series) -> bool:
    """Return whether a target is a number to predict, not a class."""
    return pd.api.types.is_numeric_dtype(target)


def code_columns(
    frame: pd.DataFrame, numeric: Iterable[str], categorical: Iterable[str], target: pd.Series
) -> tuple[dict[str, Coded], np.ndarray]:
    """Number the values of all columns; return them in drawing order, and the inputs of trees."""
    coded = {name: code_number(frame[name]) for name in numeric}
    coded |= {name: code_category(frame[name], target) for name in categorical}
    order = draw_order({name: codes for name, (_, codes) in coded.items()})
    inputs = [tree_input(coded[name][0], frame[name], coded[name][1]) for name in order]
    return {name: coded[name] for name in order}, np.column_stack(inputs)


def code_category(values: pd.Series, target: pd.Series) -> Coded:
    """Number the categories by mean target or share of the rarest class, for splits of trees."""
    height = target if is_number(target) else target.eq(target.value_counts().index[-1])
    rates = height.groupby(values, dropna=False).mean().sort_values(kind="stable").index
    levels = [None if pd.isna(level) else level for level in rates.tolist()]
    number = {level: code for code, level in enumerate(levels)}
    codes = [number[None if pd.isna(value) else value] for value in values.tolist()]
    return {"levels": levels}, np.array(codes)


def code_number(values: pd.Series) -> Coded:
    """Number the bins of a column: frequent values by themselves, quantiles of the rest."""
    known = values.dropna()
    counts = known.value_counts()
    own_bin = 0 if len(counts) <= MAX_BINS else len(known) / MAX_BINS
    spikes = counts.index[counts >= own_bin]
    rest = known[~known.isin(spikes)]
    inner = np.linspace(0, 1, MAX_BINS + 1)[1:-1]
    edges = np.unique(np.quantile(rest, inner)) if len(rest) else np.array([])
    codes = np.searchsorted(edges, values.to_numpy(float), side="right")
    for number, spike in enumerate(spikes):
        codes[values.eq(spike)] = MAX_BINS + number
    codes[values.isna()] = -1
    codes = np.unique(codes, return_inverse=True)[1]
    listed = len(counts) <= MAX_LISTED
    bins = [_shape(values[codes == code].dropna(), listed) for code in range(codes.max() + 1)]
    return {**number_format(known), "bins": bins}, codes


def number_format(known: pd.Series) -> dict[str, Any]:
    """Return the type of numbers and their number of decimals, at most nine."""
    decimals = next(d for d in range(10) if d == 9 or np.allclose(known.round(d), known, 0, 1e-10))
    return {"dtype": str(known.dtype), "decimals": decimals}


def _shape(known: pd.Series, listed: bool) -> dict[str, Any] | None:
    if known.empty:
        return None
    counts = known.value_counts().sort_index()
    if listed or len(counts) == 1:
        return {"values": counts.index.tolist(), "weights": counts.tolist()}
    return {"knots": _knots(known)}


def _knots(values: pd.Series | np.ndarray) -> list[float | int]:
    return [_short(knot) for knot in np.quantile(values, np.linspace(0, 1, KNOTS))]


def _short(number: float) -> float | int:
    number = float(f"{number:.6g}")
    return int(number) if number.is_integer() else number


def draw_order(codes: dict[str, np.ndarray]) -> list[str]:
    """Order the columns so that each one shares much information with one drawn before it."""

    def information(a: np.ndarray, b: np.ndarray) -> float:
        by_chance = 0.5 * np.log(len(a)) * a.max() * b.max() / len(a)
        return mutual_info_score(a, b) - by_chance

    pairs = {(a, b): information(codes[a], codes[b]) for a, b in itertools.combinations(codes, 2)}
    pairs |= {(b, a): value for (a, b), value in pairs.items()}
    left = list(codes)
    order = [max(left, key=lambda a: sum(pairs[a, b] for b in left if b != a))]
    while len(order) < len(codes):
        left.remove(order[-1])
        order.append(max(left, key=lambda a: max(pairs[a, b] for b in order)))
    return order


def fit_columns(coded: dict[str, Coded], seen: np.ndarray, leaves: int) -> list[dict[str, Any]]:
    """Describe how each column is drawn, given those before it."""
    return [
        {"name": name, **shape, **fit_column(seen[:, :place], codes, leaves)}
        for place, (name, (shape, codes)) in enumerate(coded.items())
    ]


def fit_column(seen: np.ndarray, codes: np.ndarray, leaves: int) -> dict[str, Any]:
    """Fit the tree that draws a column, and the weights of its codes in each leaf."""
    model = DecisionTreeClassifier(
        criterion="entropy",
        max_leaf_nodes=leaves,
        min_samples_leaf=min(ROWS_PER_LEAF, len(codes)),
        random_state=0,
    )
    if not seen.shape[1]:
        seen = np.zeros((len(codes), 1))
    nodes = model.fit(seen, codes).tree_
    ends = np.flatnonzero(nodes.children_left < 0)
    line = np.zeros(nodes.node_count, dtype=int)
    line[ends] = np.arange(len(ends))
    counts = nodes.value[ends, 0] * nodes.n_node_samples[ends, None]
    return {
        "tree": write_tree(
            nodes.children_left, nodes.children_right, nodes.feature, nodes.threshold, line
        ),
        "table": counts.round().astype(int).tolist(),
    }


def boosting(classes: int) -> dict[str, Any]:
    """Settings of boosted trees: the more classes, the fewer rounds and the larger their steps.

    A numeric target counts as one class.
    """
    rounds: dict[str, Any] = {"max_iter": NUMBER_TREES if classes == 1 else LABEL_TREES}
    if classes > 2:
        rounds = {"max_iter": LABEL_TREES // classes, "learning_rate": 0.5, "l2_regularization": 10}
    return rounds | {"max_leaf_nodes": LABEL_LEAVES, "early_stopping": False, "random_state": 0}


def fit_label(seen: np.ndarray, target: pd.Series) -> dict[str, Any]:
    """Fit boosted trees to the classes of the target and describe them."""
    model = HistGradientBoostingClassifier(**boosting(target.nunique())).fit(seen, target)
    classes = model.classes_.tolist()
    base, stages = _boosted(model)
    first = len(classes) - len(base)  # with two classes, only the second one has scores
    trees = [
        {"class": number, **tree} for stage in stages for number, tree in enumerate(stage, first)
    ]
    return {
        "kind": "trees",
        "classes": classes,
        "base": [0.0] * first + base.round(4).tolist(),
        "trees": trees,
    }


def fit_number(seen: np.ndarray, target: pd.Series) -> dict[str, Any]:
    """Fit boosted trees to a numeric target, and the spread around them by level of the mean."""
    model = HistGradientBoostingRegressor(**boosting(classes=1))
    # cross-fitted: residuals of training rows are too small
    means = cross_val_predict(model, seen, target, cv=KFold(5, shuffle=True, random_state=0))
    cuts = np.unique(np.quantile(means, np.linspace(0, 1, LEVELS + 1)[1:-1]))
    level, rest = np.searchsorted(cuts, means), target.to_numpy() - means
    base, stages = _boosted(model.fit(seen, target))
    return {
        "kind": "number",
        **number_format(target),
        "range": [target.min().item(), target.max().item()],
        "cuts": cuts.tolist(),
        "knots": [_knots(rest[level == number]) for number in range(len(cuts) + 1)],
        "base": base.item(),
        "trees": [tree for stage in stages for tree in stage],
    }


def _boosted(model: Any) -> tuple[np.ndarray, list[list[dict[str, Any]]]]:
    """Return the baseline of boosted trees, and the trees of each round."""
    # scikit-learn has no public access to boosted trees; a test compares what is written with it
    stages = [[_boosted_tree(part.nodes) for part in stage] for stage in model._predictors]
    return np.ravel(model._baseline_prediction), stages


def _boosted_tree(nodes: np.ndarray) -> dict[str, Any]:
    left = np.where(nodes["is_leaf"], -1, nodes["left"].astype(int))
    cut, score = nodes["num_threshold"], nodes["value"].round(4)
    return write_tree(left, nodes["right"], nodes["feature_idx"], cut, score)


def write_tree(
    left: np.ndarray, right: np.ndarray, feature: np.ndarray, cut: np.ndarray, score: np.ndarray
) -> dict[str, list]:
    """List the nodes of a tree as :func:`demix_lite.data.twin.tree_scores` reads them.

    Parameters
    ----------
    left, right, feature, cut, score : array of shape (nodes,)
        Children, split column, largest value that goes left, and score of a leaf. The root is node
        0; a leaf has ``left`` below 0.
    """
    tree: dict[str, list] = {"feature": [], "value": [], "right": []}

    def visit(node: int) -> None:
        leaf, here = left[node] < 0, len(tree["feature"])
        tree["feature"].append(-1 if leaf else int(feature[node]))
        tree["value"].append(score[node].item() if leaf else _short(cut[node]))
        tree["right"].append(0)
        if not leaf:
            visit(left[node])
            tree["right"][here] = len(tree["feature"])
            visit(right[node])

    visit(0)
    return tree


def check_fidelity(frame: pd.DataFrame, card: Card, seeds: int) -> pd.DataFrame:
    """Score a model trained on real or twin rows and tested on real or twin rows.

    30 % of the real rows are held out for testing; the twin is fitted to the other 70 %. Models are
    trained on the same number of real and of twin rows: the twin's default number, and all rows.
    """
    kinds = {c: pd.CategoricalDtype(frame[c].dropna().unique()) for c in card.categorical}
    results = []
    for seed in range(seeds):
        shuffled = generator(card.name, "fidelity", seed).permutation(len(frame))
        held_out = round(0.3 * len(frame))
        real = frame.iloc[shuffled[held_out:]].reset_index(drop=True)
        twin = fit_twin(real, card)
        train = {"real": real, "twin": sample_twin(twin, len(real), derive_seed("train", seed))}
        test = {
            "real": frame.iloc[shuffled[:held_out]],
            "twin": sample_twin(twin, held_out, derive_seed("test", seed)),
        }
        for rows, learned in itertools.product(sorted({twin["rows"], len(real)}), train):
            part = train[learned][:rows].astype(kinds)
            model = judge(frame[card.target], seed)
            model.fit(part.drop(columns=card.target), part[card.target])
            for judged, other in test.items():
                features = other.drop(columns=card.target).astype(kinds)
                found = (card.name, learned, judged, seed, rows)
                results.append(found + scores(model, features, other[card.target]))
    return pd.DataFrame(results, columns=["task", "train_on", "test_on", "seed", "rows", *SCORES])


def judge(target: pd.Series, seed: int) -> Any:
    """Return the untrained model with which tables with this target are compared."""
    if is_number(target):
        return HistGradientBoostingRegressor(random_state=seed)
    # without a penalty, rare classes among many make boosting diverge
    penalty = 0.0 if target.nunique() == 2 else 1.0
    return HistGradientBoostingClassifier(random_state=seed, l2_regularization=penalty)


def scores(model: Any, features: pd.DataFrame, target: pd.Series) -> tuple[float, float, float]:
    """Return accuracy and area under the ROC curve of a classifier, or the R² of a regressor."""
    if is_number(target):
        return np.nan, np.nan, model.score(features, target)
    shares = model.predict_proba(features)
    right = model.classes_[shares.argmax(axis=1)] == target.to_numpy()
    score = shares[:, 1] if shares.shape[1] == 2 else shares
    return right.mean(), roc_auc_score(target, score, multi_class="ovr"), np.nan


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    load = partial(load_table, source="real")
    return command(arguments, "fit_twin", __doc__, FIDELITY, load, fit_twin, check_fidelity)


def command(
    arguments: list[str] | None,
    module: str,
    doc: str | None,
    fidelity: Path,
    load: Callable[..., tuple[Any, Card]],
    fit: Callable[[Any, Card], dict[str, Any]],
    check: Callable[[Any, Card, int], pd.DataFrame],
) -> int:
    """Load the data set named on the command line; write its twin, or measure its fidelity."""
    parser = argparse.ArgumentParser(prog=f"python -m data_scripts.{module}", description=doc)
    parser.add_argument("name", help="a prepared data set")
    parser.add_argument("--home", type=Path, help="where prepared tables live")
    parser.add_argument("--check", action="store_true", help="measure how near the twin is")
    parser.add_argument("--seeds", type=int, default=5, help="how often to measure (default: 5)")
    chosen = parser.parse_args(arguments)
    try:
        real, card = load(chosen.name, home=chosen.home)
    except DemixError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if chosen.check:
        write_fidelity(check(real, card, chosen.seeds), fidelity)
        return 0
    text = write_twin(fit(real, card))
    if len(text) > LARGEST_FILE:
        print(f"error: the twin takes {len(text)} bytes, over {LARGEST_FILE}.", file=sys.stderr)
        return 2
    path = TWINS / f"{card.name}.json"
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}: {len(text)} bytes")
    return 0


def write_fidelity(results: pd.DataFrame, path: Path) -> None:
    """Replace the earlier results of a data set, and print the means of the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        earlier = pd.read_csv(path)
        results = pd.concat([earlier[~earlier["task"].isin(results["task"])], results])
    results.to_csv(path, index=False, float_format="%.4f", lineterminator="\n")
    scores = list(results.select_dtypes("float"))
    rest = list(results.columns.drop(["seed", *scores]))
    print(results.groupby(rest)[scores].mean().round(3))


if __name__ == "__main__":
    sys.exit(main())
