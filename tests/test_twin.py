"""Twins: the sampler, the fit, and how near the built-in twin is to the real table."""

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_scripts import fit_twin as fitting
from data_scripts.adult import COLUMNS, SOURCE
from data_scripts.download import choose_edition, read_raw
from data_scripts.fit_twin import (
    LARGEST_FILE,
    boosting,
    check_fidelity,
    code_category,
    code_number,
    fit_label,
    fit_number,
    fit_twin,
    main,
    write_fidelity,
    write_twin,
)
from data_scripts.source import all_sources
from demix_lite.data.store import Card, content_sha256, load_table, save_table
from demix_lite.data.twin import (
    label_mean,
    label_probabilities,
    load_twin,
    sample_twin,
    twin_names,
)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
REAL = SHARED / "adult"
FOLDERS = {
    "bank": "bank_marketing", "credit": "credit_default", "covertype": "covertype",
    "bike": "bike_sharing", "air": "air_quality",
}  # fmt: skip
NUMBERS = {"bike", "air"}
ROWS = 15_000
"""So many rows tell whether what is learned on a twin holds; all of them take twice as long."""
TABLES = [name for name in twin_names() if "columns" in load_twin(name)]
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


def counted(rows: int = 4000) -> pd.DataFrame:
    """Make the table with a number to predict: whole, at least 0, wider where it is higher."""
    frame = toy(rows)
    rng = np.random.default_rng(1)
    level = 10.0 * frame["code"] ** 2
    return frame.assign(label=rng.normal(level, level / 5).round().clip(0).astype(int))


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


@pytest.mark.parametrize("name", TABLES)
def test_files_are_small_and_whole(name):
    file = ROOT / "demix_lite" / "data" / "twins" / f"{name}.json"
    assert file.stat().st_size <= LARGEST_FILE
    twin = load_twin(name)
    drawn = {column["name"] for column in twin["columns"]}
    assert set(twin["order"]) == drawn | {twin["card"]["target"]}


@pytest.mark.parametrize("name", TABLES)
def test_every_twin_has_the_schema_of_its_source(name):
    facts = all_sources()[name].facts
    frame, card = load_table(name)
    assert card.source == "twin"
    assert card.rows == len(frame) == (6_941 if name == "air" else 12_000)
    assert (card.numeric, card.categorical) == (
        tuple(facts["numeric"]),
        tuple(facts["categorical"]),
    )
    assert card.target == facts["target"]
    assert card.notes.startswith("Synthetic rows")
    assert ("a sample" in card.notes) == (name == "covertype")
    assert all(pd.api.types.is_numeric_dtype(frame[column]) for column in card.numeric)
    assert not any(pd.api.types.is_numeric_dtype(frame[column]) for column in card.categorical)
    assert pd.api.types.is_numeric_dtype(frame[card.target]) == (name in NUMBERS)
    assert not frame[card.target].isna().any()


@pytest.mark.parametrize("name", TABLES)
def test_the_same_seed_gives_the_same_rows_of_every_twin(name):
    first, again, other = (content_sha256(load_table(name, rows=500, seed=s)[0]) for s in (1, 1, 2))
    assert first == again
    assert first != other


# ---- fitting -------------------------------------------------------------------------------------


def test_fit_and_sample_imitate_a_small_table(monkeypatch):
    monkeypatch.setattr(fitting, "DEFAULT_ROWS", 50)
    frame = toy()
    twin = json.loads(json.dumps(fit_twin(frame, CARD)))
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


def test_fit_and_sample_imitate_a_number():
    frame = counted()
    twin = json.loads(write_twin(fit_twin(frame, CARD)))
    drawn = sample_twin(twin, 4000)
    assert twin["rows"] == 4000  # no more than the table has
    assert (drawn.dtypes == frame.dtypes).all()
    assert drawn["label"].between(frame["label"].min(), frame["label"].max()).all()
    real, made = (f.groupby("code")["label"].agg(["mean", "std"]) for f in (frame, drawn))
    assert made["mean"].tolist() == pytest.approx(real["mean"].tolist(), rel=0.05)
    assert made["std"].tolist() == pytest.approx(real["std"].tolist(), rel=0.25)


def test_numbers_stay_in_the_real_range_and_keep_their_decimals():
    frame = counted(500).assign(label=lambda f: f["label"] / 4)
    drawn = sample_twin(fit_twin(frame, CARD), 5000)["label"]
    assert drawn.dtype == "float64"
    assert drawn.between(frame["label"].min(), frame["label"].max()).all()
    assert np.allclose(drawn, drawn.round(2))
    assert not np.allclose(drawn, drawn.round(1))


def test_a_description_that_is_too_long_gets_smaller_trees(monkeypatch):
    frame = toy(1500)
    long = len(write_twin(fit_twin(frame, CARD)))
    monkeypatch.setattr(fitting, "LARGEST_FILE", long - 1)
    twin = fit_twin(frame, CARD)
    assert len(write_twin(twin)) < long
    sample_twin(twin, 10)


@pytest.mark.parametrize("classes", [2, 3])
def test_written_trees_say_what_scikit_learn_says(classes):
    from sklearn.ensemble import HistGradientBoostingClassifier

    frame = toy(1500, classes)
    seen = frame[["x", "gain", "code"]].fillna(-1e9).round(2).to_numpy(float)
    label = fit_label(seen, frame["label"])
    model = HistGradientBoostingClassifier(**boosting(classes)).fit(seen, frame["label"])
    assert label["classes"] == model.classes_.tolist()
    ours, theirs = label_probabilities(label, seen), model.predict_proba(seen)
    assert np.abs(ours - theirs).max() < 2e-3


def test_written_means_are_those_of_scikit_learn():
    from sklearn.ensemble import HistGradientBoostingRegressor

    frame = counted(1500)
    seen = frame[["x", "gain", "code"]].fillna(-1e9).round(2).to_numpy(float)
    label = fit_number(seen, frame["label"])
    model = HistGradientBoostingRegressor(**boosting(1)).fit(seen, frame["label"])
    assert np.abs(label_mean(label, seen) - model.predict(seen)).max() < 0.01


def test_fidelity_table_is_replaced_task_by_task(tmp_path):
    results = check_fidelity(toy(600), CARD, seeds=1)
    assert len(results) == 4
    assert results["accuracy"].between(0.5, 1).all()
    assert results["r2"].isna().all()
    path = tmp_path / "new" / "fidelity.csv"
    write_fidelity(results.assign(task="other"), path)
    write_fidelity(results, path)
    write_fidelity(results, path)
    written = pd.read_csv(path)
    assert written["task"].value_counts().to_dict() == {"other": 4, "toy": 4}
    names = ["task", "train_on", "test_on", "seed", "rows", "accuracy", "auc", "r2"]
    assert list(written) == names


def test_fidelity_of_many_classes_and_of_numbers():
    classes = check_fidelity(toy(600, classes=3), CARD, seeds=1)
    assert classes["accuracy"].between(0.5, 1).all()
    assert classes["auc"].between(0.5, 1).all()
    numbers = check_fidelity(counted(600), CARD, seeds=1)
    assert numbers["r2"].between(0.5, 1).all()
    assert numbers[["accuracy", "auc"]].isna().to_numpy().all()


def test_results_from_before_there_was_r2_are_kept(tmp_path):
    path = tmp_path / "fidelity.csv"
    path.write_text("task,train_on,test_on,seed,rows,accuracy,auc\nold,real,twin,0,7,0.5,0.25\n")
    write_fidelity(check_fidelity(counted(400), CARD, seeds=1), path)
    assert path.read_text().splitlines()[:2] == [
        "task,train_on,test_on,seed,rows,accuracy,auc,r2",
        "old,real,twin,0,7,0.5000,0.2500,",
    ]


def test_the_command_line_writes_a_twin_and_names_a_table_that_is_not_there(
    tmp_path, monkeypatch, capsys
):
    save_table(counted(300), CARD, tmp_path)
    monkeypatch.setattr(fitting, "TWINS", tmp_path)
    assert main(["toy", "--home", str(tmp_path)]) == 0
    twin = json.loads((tmp_path / "toy.json").read_text())
    assert len(sample_twin(twin, twin["rows"])) == 300
    assert main(["nothing", "--home", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: unknown table 'nothing'")


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
    scores = check_fidelity(adult_real, card, seeds=1)
    mean = scores[scores["test_on"].eq("real")].groupby("train_on")["accuracy"].mean()
    assert mean["real"] > 0.865
    assert mean["real"] - mean["twin"] < 0.01


@functools.cache
def real_table(name: str) -> pd.DataFrame:
    """Read the official files of a table, once: the spreadsheet of one takes ten seconds."""
    folder = SHARED / FOLDERS[name]
    if not folder.exists():
        pytest.skip(f"the official files are not in ../shared/data/{folder.name}")
    source = choose_edition(all_sources()[name], folder)
    return source.parse(read_raw(source, folder))


@pytest.mark.parametrize("name", FOLDERS)
def test_the_other_twins_have_the_columns_and_ranges_of_their_tables(name):
    real = real_table(name)
    twin, card = load_table(name, rows=len(real))
    assert list(twin.columns) == list(real.columns)
    assert (twin.dtypes == real.dtypes).all()
    for column in twin.columns:
        if pd.api.types.is_numeric_dtype(real[column]):
            # knots keep six digits
            near = 1e-5 * max(1, real[column].abs().max())
            assert twin[column].between(real[column].min() - near, real[column].max() + near).all()
            assert np.allclose(twin[column], twin[column].round(4))
        else:
            seen, made = shares(real[column]), shares(twin[column])
            assert set(made.index) <= set(seen.index)
            assert seen.sub(made, fill_value=0).abs().sum() / 2 < 0.04, column
    if name in NUMBERS:
        points = np.linspace(0.05, 0.95, 10)
        far = twin[card.target].quantile(points) - real[card.target].quantile(points)
        assert far.abs().max() < 0.1 * real[card.target].std()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "score", "gap"), [("bank", "auc", 0.02), ("credit", "auc", 0.02), ("air", "r2", 0.01)]
)
def test_what_is_learned_on_the_other_twins_holds_on_the_real_tables(name, score, gap):
    frame = real_table(name)
    frame = frame.sample(min(ROWS, len(frame)), random_state=0, ignore_index=True)
    scores = check_fidelity(frame, load_table(name, rows=1)[1], seeds=1)
    mean = scores[scores["test_on"].eq("real")].groupby("train_on")[score].mean()
    assert mean["real"] - mean["twin"] < gap
