"""The figures of the page "Measured": computed from what was measured, beside their bars."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from demix_lite.benchmark.ledger import COLUMNS

ROOT = Path(__file__).resolve().parent.parent

spec = importlib.util.spec_from_file_location("book_measure", ROOT / "book" / "measure.py")
measure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure)

PARTS = {
    "engine": {"seconds": 2.0, "mb": 100.0},
    "brute": {"seconds": 50.0, "mb": 400.0, "difference": 1e-6},
    "stream": {"seconds": 9.0, "mb": 80.0, "loaded_mb": 300.0, "rows": 1e4, "whole_mb": 1e3},
    "judging": {"judging": 3000.0, "with_vectors": 900.0},
    "twin": {"seconds": 20.0},
    "real": {"seconds": 300.0},
    "clicks": {
        f"ml-1m {name} {seed}": value + seed / 100
        for name, value in {
            "ours": 0.8, "theirs": 0.81, "alike": 0.803, "ours seconds": 3.0, "theirs seconds": 4.0,
        }.items()
        for seed in range(3)
    },
    "recommender": {
        "din engine": 1.0, "din loop": 12.0, "din difference": 1e-6,
        "dien engine": 1.0, "dien loop": 9.0, "dien difference": 1e-6,
    },
}  # fmt: skip


def adult() -> pd.DataFrame:
    """Two seeds of two methods."""
    metrics = {"metric_dirty": 0.80, "metric_repaired": 0.84, "metric_oracle": 0.85}
    groups = {"worst_group_dirty": 0.5, "worst_group_repaired": 0.45}
    rows = [
        dict.fromkeys(COLUMNS, 0.0)
        | metrics
        | groups
        | {"method": method, "seed": seed, "f1_label": f1 + seed / 10, "f1_macro": f1}
        for method, f1 in (("demix_lite", 0.8), ("summary_gbm", 0.7), ("ceiling", 0.9))
        for seed in range(2)
    ]
    return pd.DataFrame(rows)


def own_files() -> pd.DataFrame:
    """One run of every kind of the diagnosis of files."""
    about = {"rows": 50_000, "columns": 20, "seconds": 200.0, "cpu_seconds": 90.0, "peak_mb": 1500}
    clean = [{"what": "clean", "table": "wine", "flagged": x} for x in (0.01, 0.06)]
    tables = (("adult", 0.3), ("adult", 0.4), ("bank", 0.7), ("wine", 0.1))
    errors = [{"what": "errors", "table": name, "f1_macro": x} for name, x in tables]
    found = {"f1_label": 0.4, "f1_feature": 0.6}
    few = [{"what": "few errors", "table": "adult", **found}]
    new = [{"what": "new draws", "table": "adult", "f1_macro": 0.5}]
    speed = {"what": "speed", "table": "made up", **about}
    return pd.DataFrame([speed, *clean, *errors, *few, *new])


@pytest.fixture(scope="module")
def found():
    rows = [
        *measure.influence_figures(PARTS["engine"], PARTS["brute"], PARTS["stream"]),
        *measure.speed_figures(PARTS["judging"], PARTS["twin"], PARTS["real"]),
        *measure.recommender_figures(PARTS["clicks"], PARTS["recommender"]),
        *measure.adult_figures(adult()),
        *measure.diagnose_figures(own_files(), unseen=pd.Series({"adult": 0.5, "bank": 0.6})),
    ]
    return pd.DataFrame([measure._figure(*row) for row in rows]).set_index("figure")


@pytest.mark.parametrize(
    ("figure", "value", "met"),
    [
        ("influence 8,000 × 2,048, times faster than vmap(grad)", 25, "false"),
        ("influence 8,000 × 2,048, peak memory against vmap(grad)", 0.25, "true"),
        ("influence 8,000 × 2,048, engine", 2, ""),
        ("rows judged per second (M = 256, vectors given)", 3000, "true"),
        ("demix-lite run adult --source real", 300, "false"),
        ("real Adult, F1 label, mean of five seeds", 0.85, "false"),
        ("real Adult, F1 macro, mean of five seeds", 0.8, "true"),
        ("real Adult, F1 label, our lead over summary_gbm", 0.1, "true"),
        ("real Adult, accuracy recovered from dirty to oracle", 80, "false"),
        ("real Adult, worst group, repaired minus dirty", -0.05, "false"),
        ("ml-1m, the same minus DIN of deepctr-torch", -0.01, "false"),
        ("ml-1m, distance from it if it starts from our weights", 0.003, "true"),
        ("ml-1m, seconds of training, times those of deepctr-torch", 3.01 / 4.01, "true"),
        ("influence of DIN 2,000 × 256, times faster than a loop of gradients", 12, "true"),
        ("diagnose, 50,000 rows × 20 columns", 200, "false"),
        ("diagnose, 50,000 rows × 20 columns: peak memory", 1500, "true"),
        ("diagnose, wine clean as it is: rows flagged, most of its seeds", 6, "false"),
        ("diagnose, adult with errors of an independent script: macro F1", 0.35, ""),
        ("diagnose, adult: that F1 against leave-one-task-out", 70, "false"),
        ("diagnose, mean of these 2 tables: the same", 1.05 / 1.1 * 100, "true"),
        ("diagnose, adult, new draws: that F1 against leave-one-task-out", 100, "true"),
        ("diagnose, mean of these 1 tables, new draws: the same", 100, "true"),
        ("diagnose, adult with few errors of that script: F1 feature", 0.6, ""),
        ("influence of DIEN 2,000 × 256, times faster than a loop of gradients", 9, "false"),
    ],
)
def test_a_figure_stands_beside_its_bar(figure, value, met, found):
    assert float(found.loc[figure, "value"]) == pytest.approx(value, rel=1e-3)
    assert found.loc[figure, "met"] == met
    assert (found.loc[figure, "bar"] == "") == (met == "")


def test_every_figure_says_how_it_was_measured(found):
    assert found.index.is_unique
    assert (found["command"] == "python book/measure.py").all()
    assert found[["value", "hardware", "versions", "commit"]].ne("").all(axis=None)
    assert not found["value"].eq("nan").any()


def test_a_large_model_is_measured_in_both_precisions():
    of = {
        "engine": 2.0,
        "reference": 1.0,
        "loop": 4.0,
        "peak mb": 9e3,
        "reference peak mb": 5e3,
        "difference": 1e-4,
        "trained": 2e6,
        "tokens": 512.0,
    }
    kinds = ("float32", "bfloat16")
    rows = measure.large_figures({f"{kind} {k}": v for kind in kinds for k, v in of.items()})
    values = {figure: value for figure, value, *_ in rows}
    pairs, title = sum(measure.LARGE_PAIRS), "influence of a 0.5 B language model, bfloat16"
    assert values[f"{title}, pairs a second"] == pairs / 2
    assert values[f"{title}, pairs a second with the reference pass"] == pairs / 3
    assert values[f"{title}, times faster than a loop"] == 4 / measure.LARGE_LOOPED * pairs / 2
    assert len(values) == len(rows) == 16
    assert {row[-1] for row in rows} == {"cuda"}


def test_adult_is_run_at_full_size_five_times_with_every_method(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        measure, "run_suite", lambda cells, path, **options: asked.update(cells=cells, **options)
    )
    assert measure.write_adult(tmp_path / "adult.csv").empty
    assert [cell.seed for cell in asked["cells"]] == list(range(5))
    assert {(c.task, c.architecture, c.clean_ratio) for c in asked["cells"]} == {
        ("adult", "mlp1", 0.5)
    }
    assert asked["train_rows"] > 50_000
    assert asked["source"] == "real"
    names = [name for name, _ in asked["cells"][0].entries]
    assert names == ["demix_lite", "summary_gbm", "ceiling", "ceiling_all_rows"]


def test_a_group_measured_alone_keeps_what_else_is_there(monkeypatch, tmp_path):
    path = tmp_path / "measured.csv"
    old = [("influence of old", 1.0, "s", None, ""), ("demix-lite run adult", 9.0, "s", 60, "<=")]
    pd.DataFrame([measure._figure(*row) for row in old]).to_csv(path, index=False)
    new = ("demix-lite run adult", 7.0, "s", 60, "<=")
    monkeypatch.setitem(measure.GROUPS, "speed", lambda out: [new])
    monkeypatch.setattr("sys.argv", ["measure.py", "--only", "speed", "--out", str(tmp_path)])
    measure.main()
    table = pd.read_csv(path)
    assert table["figure"].tolist() == [row[0] for row in old]
    assert table["value"].tolist() == [1.0, 7.0]


def test_figures_of_finished_rows_say_where_these_were_made(monkeypatch, tmp_path):
    (tmp_path / "measured.csv").write_text(",".join(measure._figure("f", 1.0, "s")) + "\n")
    where = {"device": "CPU", "cores": [2, 1], "versions": "python 3", "commit": ["b1", "a0"]}
    pd.DataFrame(where).to_csv(tmp_path / "adult.csv", index=False)
    monkeypatch.setitem(measure.GROUPS, "adult", lambda out: [("real Adult", 0.8, "")])
    monkeypatch.setattr("sys.argv", ["measure.py", "--only", "adult", "--out", str(tmp_path)])
    measure.main()
    (row,) = pd.read_csv(tmp_path / "measured.csv").to_dict("records")
    assert (row["hardware"], row["commit"]) == ("CPU, 1 or 2 cores", "a0, b1")
