"""Twins: the sampler, the fit, and how near the built-in twin is to the real table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_scripts.adult import COLUMNS, SOURCE
from data_scripts.download import read_raw
from data_scripts.fit_twin import (
    LARGEST_FILE,
    check_fidelity,
    code_category,
    code_number,
    fit_label,
    fit_twin,
    write_fidelity,
)
from demix_lite.data import Card, load_table
from demix_lite.data.store import content_sha256
from demix_lite.data.twin import label_probabilities, load_twin, sample_twin, twin_names
from demix_lite.errors import DemixError

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "adult"
RULES = {
    "black women": lambda f: f["sex"].eq("Female") & f["race"].eq("Black"),
    "two races": lambda f: f["race"].isin(["Asian-Pac-Islander", "Amer-Indian-Eskimo"]),
    "managers": lambda f: f["occupation"].eq("Exec-managerial"),
    "own company": lambda f: f["workclass"].eq("Self-emp-inc"),
}
CARD = Card("toy", "real", "Toy", "", "CC0", 0, "", ("x", "gain"), ("group", "code"), "label")


def toy(rows: int = 4000, classes: int = 2) -> pd.DataFrame:
    """Make a table with a spike, missing values, integer categories and a clear label."""
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=rows)
    x = rng.normal(group, 0.3)
    gain = np.where(rng.random(rows) < 0.9, 0, rng.integers(1, 500, size=rows))
    label = (group + rng.integers(2, size=rows) * (gain > 0)) % classes
    return pd.DataFrame(
        {
            "group": pd.Series(["a", "b", None])[group].reset_index(drop=True),
            "x": np.where(rng.random(rows) < 0.1, np.nan, x),
            "gain": gain,
            "code": group + 1,
            "label": pd.Series(["no", "yes", "maybe"])[label].reset_index(drop=True),
        }
    )


def shares(values: pd.Series) -> pd.Series:
    return values.value_counts(normalize=True, dropna=False)


# ---- the built-in twin ---------------------------------------------------------------------------


def test_adult_schema_and_default_rows():
    frame, card = load_table("adult")
    assert frame.shape == (12_000, 15)
    assert list(frame.columns) == COLUMNS
    assert set(card.columns) == set(COLUMNS)
    assert (card.source, card.rows, card.sha256) == ("twin", 12_000, content_sha256(frame))
    assert all(pd.api.types.is_integer_dtype(frame[name]) for name in card.numeric)
    assert set(frame["income"]) == {"<=50K", ">50K"}


def test_same_seed_same_rows():
    first, again, other = (content_sha256(load_table("adult", seed=s)[0]) for s in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("rows", [1, 7, 500])
def test_any_number_of_rows(rows):
    frame, card = load_table("adult", rows=rows)
    assert len(frame) == card.rows == rows
    assert frame.index.equals(pd.RangeIndex(rows))


def test_adult_has_the_shape_of_the_real_table():
    frame = load_table("adult", rows=40_000)[0]
    assert frame["income"].eq(">50K").mean() == pytest.approx(0.239, abs=0.012)
    assert frame["capital_gain"].eq(0).mean() == pytest.approx(0.917, abs=0.01)
    assert frame["hours_per_week"].eq(40).mean() == pytest.approx(0.467, abs=0.01)
    assert frame["occupation"].isna().mean() == pytest.approx(0.0575, abs=0.01)
    assert frame.groupby("education")["education_num"].nunique().max() == 1
    assert (frame["relationship"].eq("Husband") & frame["sex"].eq("Female")).sum() < 20
    assert frame["age"].between(17, 90).all()


@pytest.mark.parametrize(
    ("rule", "count", "rich"),
    [("black women", 567, 0.06), ("two races", 489, 0.23), ("managers", 1495, 0.48),
     ("own company", 416, 0.55)],
)  # fmt: skip
def test_adult_has_enough_rows_for_each_spurious_rule(rule, count, rich):
    frame = load_table("adult")[0]
    part = frame[RULES[rule](frame)]
    assert len(part) == pytest.approx(count, rel=0.15)
    assert part["income"].eq(">50K").mean() == pytest.approx(rich, abs=0.1)


@pytest.mark.parametrize("name", twin_names())
def test_files_are_small_and_whole(name):
    file = ROOT / "demix_lite" / "data" / "twins" / f"{name}.json"
    assert file.stat().st_size <= LARGEST_FILE
    twin = load_twin(name)
    drawn = {column["name"] for column in twin["columns"]}
    assert set(twin["order"]) == drawn | {twin["card"]["target"]}


# ---- fitting -------------------------------------------------------------------------------------


def test_fit_and_sample_imitate_a_small_table():
    frame = toy()
    twin = json.loads(json.dumps(fit_twin(frame, CARD, rows=50)))
    drawn = sample_twin(twin, 4000)
    assert twin["rows"] == 50
    assert list(drawn.columns) == list(frame.columns)
    assert (drawn.dtypes == frame.dtypes).all()
    for name in ("group", "code", "label"):
        real, made = shares(frame[name]), shares(drawn[name])
        assert real.sub(made, fill_value=0).abs().max() < 0.03
    assert drawn["gain"].eq(0).mean() == pytest.approx(0.9, abs=0.02)
    assert drawn["x"].isna().mean() == pytest.approx(0.1, abs=0.02)
    assert (drawn["group"].isna() == drawn["code"].eq(3)).mean() > 0.99
    means = drawn.groupby("code")["x"].agg(["mean", "std"])
    assert means["mean"].tolist() == pytest.approx([0, 1, 2], abs=0.1)
    assert means["std"].tolist() == pytest.approx([0.3] * 3, abs=0.06)
    small = drawn["gain"].eq(0) & drawn["code"].lt(3)
    assert (drawn["label"].eq("yes") == drawn["code"].eq(2))[small].mean() > 0.97


def test_every_number_keeps_its_code():
    frame = toy()
    for name in ("x", "gain", "code"):
        description, codes = code_number(frame[name])
        assert codes.min() == 0
        assert codes.max() == len(description["bins"]) - 1
        for code, shape in enumerate(description["bins"]):
            inside = frame[name][codes == code]
            assert inside.isna().all() == (shape is None)
            if shape:
                ends = shape.get("values") or shape["knots"]
                assert inside.between(ends[0] - 1e-5, ends[-1] + 1e-5).all()
    description, codes = code_category(frame["group"], frame["label"])
    back = pd.Series(description["levels"])[codes].reset_index(drop=True)
    assert back.fillna("?").equals(frame["group"].fillna("?"))


@pytest.mark.parametrize("classes", [2, 3])
def test_written_trees_say_what_scikit_learn_says(classes):
    from sklearn.ensemble import HistGradientBoostingClassifier

    frame = toy(1500, classes)
    seen = frame[["x", "gain", "code"]].fillna(-1e9).round(2).to_numpy(float)
    label = fit_label(seen, frame["label"])
    model = HistGradientBoostingClassifier(
        max_iter=100, max_leaf_nodes=31, early_stopping=False, random_state=0
    ).fit(seen, frame["label"])
    assert label["classes"] == model.classes_.tolist()
    ours, theirs = label_probabilities(label, seen), model.predict_proba(seen)
    assert np.abs(ours - theirs).max() < 2e-3


def test_unknown_label_model_is_refused():
    twin = {**load_twin("adult"), "label": {"kind": "magic"}}
    with pytest.raises(DemixError, match="magic"):
        sample_twin(twin, 5)


def test_fidelity_table_is_replaced_task_by_task(tmp_path):
    results = check_fidelity(toy(600), CARD, seeds=[0])
    assert len(results) == 8
    assert results["accuracy"].between(0.5, 1).all()
    path = tmp_path / "new" / "fidelity.csv"
    write_fidelity(results.assign(task="other"), path)
    write_fidelity(results, path)
    write_fidelity(results, path)
    written = pd.read_csv(path)
    assert written["task"].value_counts().to_dict() == {"other": 8, "toy": 8}
    assert list(written) == ["task", "train_on", "test_on", "seed", "rows", "accuracy", "auc"]


# ---- against the real table ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def adult_real() -> pd.DataFrame:
    if not REAL.exists():
        pytest.skip("the official files are not in ../shared/data/adult")
    return SOURCE.parse(read_raw(SOURCE, REAL))


def test_marginals_of_the_twin_are_those_of_the_real_table(adult_real):
    twin, card = load_table("adult", rows=len(adult_real))
    assert (twin.dtypes == adult_real.dtypes).all()
    for name in (*card.categorical, card.target):
        real, made = shares(adult_real[name]), shares(twin[name])
        assert real.sub(made, fill_value=0).abs().sum() / 2 < 0.015, name
    for name in card.numeric:
        points = np.unique(np.quantile(adult_real[name], np.linspace(0, 1, 40)))
        for point in points:
            real, made = adult_real[name].le(point).mean(), twin[name].le(point).mean()
            assert abs(real - made) < 0.015, (name, point)
    for rule in RULES.values():
        assert rule(twin).sum() == pytest.approx(rule(adult_real).sum(), rel=0.1)


def test_the_twin_repeats_no_real_row(adult_real):
    twin = load_table("adult")[0]
    assert twin.merge(adult_real.drop_duplicates(), how="inner").empty


def test_what_is_learned_on_the_twin_holds_on_the_real_table(adult_real):
    card = load_table("adult", rows=1)[1]
    scores = check_fidelity(adult_real, card, seeds=[0])
    mean = scores[scores["test_on"].eq("real")].groupby("train_on")["accuracy"].mean()
    assert mean["real"] > 0.865
    assert mean["real"] - mean["twin"] < 0.01
