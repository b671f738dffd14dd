"""``python -m data_scripts.fit_twin adult``: fit the twin of a prepared table.

With ``--check`` it measures instead how near a twin is: a model is trained on one table and tested
on another, twin or real, and the scores go to ``book/results/twin_fidelity.csv``. In each repeat
the twin is fitted anew to the training rows only, so that it has never seen the real test rows.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from demix_lite.data.store import Card, load_table
from demix_lite.data.twin import sample_twin, tree_input
from demix_lite.errors import DemixError
from demix_lite.seeds import derive_seed, generator

ROOT = Path(__file__).resolve().parent.parent
TWINS = ROOT / "demix_lite" / "data" / "twins"
FIDELITY = ROOT / "book" / "results" / "twin_fidelity.csv"
LARGEST_FILE = 200_000
DEFAULT_ROWS = 12_000
MAX_BINS = 16
MAX_LISTED = 200  # a column with more distinct numbers is described by quantiles
KNOTS = 33
LEAVES, ROWS_PER_LEAF = 128, 10  # of the tree that draws a column
LABEL_TREES, LABEL_LEAVES = 100, 31


def fit_twin(frame: pd.DataFrame, card: Card, rows: int = DEFAULT_ROWS) -> dict[str, Any]:
    """Describe a table so that :func:`demix_lite.data.twin.sample_twin` can imitate it.

    Parameters
    ----------
    frame, card : DataFrame, Card
        A prepared table whose target is a class.
    rows : int
        How many rows the twin has unless asked for another number.
    """
    target = frame[card.target]
    coded = {name: code_number(frame[name]) for name in card.numeric}
    coded |= {name: code_category(frame[name], target) for name in card.categorical}
    order = draw_order({name: codes for name, (_, codes) in coded.items()})
    seen = np.column_stack([tree_input(coded[n][0], frame[n], coded[n][1]) for n in order])
    columns = [
        {"name": name, **coded[name][0], **fit_column(seen[:, :position], coded[name][1])}
        for position, name in enumerate(order)
    ]
    facts = ("name", "title", "url", "licence", "numeric", "categorical", "target")
    notes = f"Synthetic rows, drawn from a description fitted to {len(frame)} real rows."
    return {
        "rows": rows,
        "order": list(frame.columns),
        "card": {fact: getattr(card, fact) for fact in facts} | {"notes": notes},
        "columns": columns,
        "label": fit_label(seen, target),
    }


def code_category(values: pd.Series, target: pd.Series) -> tuple[dict[str, Any], np.ndarray]:
    """Number the categories in the order of the rarest class, so that trees can cut between."""
    rare = target.eq(target.value_counts().index[-1])
    rates = rare.groupby(values, dropna=False).mean().sort_values(kind="stable").index
    levels = [None if pd.isna(level) else level for level in rates.tolist()]
    number = {level: code for code, level in enumerate(levels)}
    codes = [number[None if pd.isna(value) else value] for value in values.tolist()]
    return {"levels": levels}, np.array(codes)


def code_number(values: pd.Series) -> tuple[dict[str, Any], np.ndarray]:
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
    decimals = next(d for d in range(10) if d == 9 or np.allclose(known.round(d), known, 0, 1e-10))
    return {"dtype": str(values.dtype), "decimals": decimals, "bins": bins}, codes


def _shape(known: pd.Series, listed: bool) -> dict[str, Any] | None:
    if known.empty:
        return None
    counts = known.value_counts().sort_index()
    if listed or len(counts) == 1:
        return {"values": counts.index.tolist(), "weights": counts.tolist()}
    return {"knots": [_short(knot) for knot in np.quantile(known, np.linspace(0, 1, KNOTS))]}


def _short(number: float) -> float | int:
    number = float(f"{number:.6g}")
    return int(number) if number.is_integer() else number


def draw_order(codes: dict[str, np.ndarray]) -> list[str]:
    """Order the columns so that each one is told as much as can be by one drawn before it."""
    from sklearn.metrics import mutual_info_score

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


def fit_column(seen: np.ndarray, codes: np.ndarray) -> dict[str, Any]:
    """Fit the tree that draws a column, and the weights of its codes in each leaf."""
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(
        criterion="entropy",
        max_leaf_nodes=LEAVES,
        min_samples_leaf=min(ROWS_PER_LEAF, len(codes)),
        random_state=0,
    )
    if not seen.shape[1]:
        seen = np.zeros((len(codes), 1))
    nodes = model.fit(seen, codes).tree_
    leaves = np.flatnonzero(nodes.children_left < 0)
    line = np.zeros(nodes.node_count, dtype=int)
    line[leaves] = np.arange(len(leaves))
    counts = nodes.value[leaves, 0] * nodes.n_node_samples[leaves, None]
    return {
        "tree": write_tree(
            nodes.children_left, nodes.children_right, nodes.feature, nodes.threshold, line
        ),
        "table": counts.round().astype(int).tolist(),
    }


def fit_label(seen: np.ndarray, target: pd.Series) -> dict[str, Any]:
    """Fit boosted trees to the target and write them down."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=LABEL_TREES, max_leaf_nodes=LABEL_LEAVES, early_stopping=False, random_state=0
    ).fit(seen, target)
    classes = model.classes_.tolist()
    # scikit-learn has no public way to its boosted trees; a test compares what is written with it
    base = np.ravel(model._baseline_prediction)
    first = len(classes) - len(base)  # of two classes only the second is scored
    trees = []
    for stage in model._predictors:
        for number, predictor in enumerate(stage, first):
            nodes = predictor.nodes
            left = np.where(nodes["is_leaf"], -1, nodes["left"].astype(int))
            tree = write_tree(
                left,
                nodes["right"],
                nodes["feature_idx"],
                nodes["num_threshold"],
                nodes["value"].round(4),
            )
            trees.append({"class": number, **tree})
    return {
        "kind": "trees",
        "classes": classes,
        "base": [0.0] * first + base.round(4).tolist(),
        "trees": trees,
    }


def write_tree(
    left: np.ndarray, right: np.ndarray, feature: np.ndarray, cut: np.ndarray, score: np.ndarray
) -> dict[str, list]:
    """List the nodes of a tree as :func:`demix_lite.data.twin.tree_scores` reads them.

    Parameters
    ----------
    left, right, feature, cut, score : array of shape (nodes,)
        Children, split column, largest value that goes left, and what a leaf returns. The root is
        node 0; a leaf has ``left`` below 0.
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


def check_fidelity(
    frame: pd.DataFrame, card: Card, seeds: Sequence[int] = range(5)
) -> pd.DataFrame:
    """Score a model trained on real or twin rows and tested on real or twin rows.

    Of the real rows 30 % are kept for testing; the twin is fitted to the other 70 %. Both train on
    as many rows: the twin's default number, and all there are.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    kinds = {c: pd.CategoricalDtype(frame[c].dropna().unique()) for c in card.categorical}
    results = []
    for seed in seeds:
        shuffled = generator(card.name, "fidelity", seed).permutation(len(frame))
        held_out = round(0.3 * len(frame))
        real = frame.iloc[shuffled[held_out:]].reset_index(drop=True)
        twin = fit_twin(real, card)
        train = {"real": real, "twin": sample_twin(twin, len(real), derive_seed("train", seed))}
        test = {
            "real": frame.iloc[shuffled[:held_out]],
            "twin": sample_twin(twin, held_out, derive_seed("test", seed)),
        }
        for rows, learned in itertools.product((DEFAULT_ROWS, len(real)), train):
            part = train[learned][:rows].astype(kinds)
            model = HistGradientBoostingClassifier(random_state=seed)
            model.fit(part.drop(columns=card.target), part[card.target])
            for judged, other in test.items():
                shares = model.predict_proba(other.drop(columns=card.target).astype(kinds))
                right = model.classes_[shares.argmax(axis=1)] == other[card.target].to_numpy()
                score = shares[:, 1] if shares.shape[1] == 2 else shares
                auc = roc_auc_score(other[card.target], score, multi_class="ovr")
                results.append((card.name, learned, judged, seed, rows, right.mean(), auc))
    names = ["task", "train_on", "test_on", "seed", "rows", "accuracy", "auc"]
    return pd.DataFrame(results, columns=names)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m data_scripts.fit_twin", description=__doc__)
    parser.add_argument("name", help="a prepared table, such as adult")
    parser.add_argument("--home", type=Path, help="where prepared tables live")
    parser.add_argument("--check", action="store_true", help="measure how near the twin is")
    chosen = parser.parse_args(arguments)
    try:
        frame, card = load_table(chosen.name, "real", home=chosen.home)
    except DemixError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if chosen.check:
        write_fidelity(check_fidelity(frame, card))
        return 0
    text = json.dumps(fit_twin(frame, card), separators=(",", ":"))
    if len(text) > LARGEST_FILE:
        print(f"error: the twin takes {len(text)} bytes, over {LARGEST_FILE}.", file=sys.stderr)
        return 2
    path = TWINS / f"{card.name}.json"
    path.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}: {len(text)} bytes")
    return 0


def write_fidelity(results: pd.DataFrame, path: Path = FIDELITY) -> None:
    """Put the results of a table in place of its earlier ones, and print their means."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        earlier = pd.read_csv(path)
        results = pd.concat([earlier[~earlier["task"].isin(results["task"])], results])
    results.to_csv(path, index=False, float_format="%.4f", lineterminator="\n")
    print(results.groupby(["task", "rows", "train_on", "test_on"])[["accuracy", "auc"]].mean())


if __name__ == "__main__":
    sys.exit(main())
