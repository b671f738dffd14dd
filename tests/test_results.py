"""Reading result files: means on common runs, ratios, gains, and files that are half full."""

import numpy as np
import pandas as pd
import pytest

from demix_lite import plots
from demix_lite.benchmark import results
from demix_lite.benchmark.ledger import COLUMNS, KEY
from demix_lite.errors import DemixError
from demix_lite.tasks import TASKS

ROWS = pd.DataFrame(
    {
        "task": ["a", "a", "b", "b"] * 2,
        "seed": [0, 1] * 4,
        "method": ["x"] * 4 + ["y"] * 4,
        "f1": [0.6, 0.8, 0.4, 0.6, 0.5, 0.5, 0.3, 0.3],
    }
)


def test_the_interval_is_that_of_a_t_test():
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(0).normal(3, 1, 7)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    found = results.interval(values)
    assert found["mean"] - found["half"] == pytest.approx(low)
    assert found["mean"] + found["half"] == pytest.approx(high)


def test_one_value_and_no_value_have_no_interval():
    assert np.isnan(results.interval([1.0])["half"])
    for level in (0, 1, 95, -0.5):
        with pytest.raises(DemixError, match="confidence level"):
            results.interval([1.0, 2.0], level)
    assert np.isnan(results.interval([])["mean"])
    assert results.plus_minus(results.interval([1.0])) == "1.000 (n = 1)"


def test_a_ratio_has_the_ratio_of_the_means_and_survives_a_reference_near_zero():
    values = pd.Series([1.0, 2.0, 3.0])
    reference = pd.Series([1e-9, 2.0, 4.0])
    found = results.ratio(values, reference)
    assert found.mean() == pytest.approx(values.mean() / reference.mean())
    assert found.abs().max() < 3
    assert results.ratio(values, -reference).isna().all()


def test_means_over_tasks_compare_seeds_with_the_same_tasks_only():
    rows = pd.DataFrame(
        {"task": ["a", "b", "a", "c", "a", "b"], "seed": [0, 0, 1, 1, 2, 2], "method": "x"}
    ).assign(f1=[0.8, 0.8, 0.8, 0.1, 0.6, 0.6])
    found = results.intervals_over_tasks(rows, ["method"], "f1").loc["x"]
    assert (found["n"], found["mean"]) == (2, pytest.approx(0.7))
    assert results.intervals_over_tasks(rows.iloc[:4], ["method"], "f1").loc["x", "n"] == 1


def test_means_over_tasks_use_the_runs_that_all_groups_have():
    whole = results.intervals_over_tasks(ROWS, ["method"], "f1")
    assert whole["mean"].to_dict() == pytest.approx({"x": 0.6, "y": 0.4})
    partial = results.intervals_over_tasks(
        ROWS.drop(index=7), ["method"], "f1"
    )  # y lacks task b, seed 1
    assert partial["mean"].to_dict() == pytest.approx({"x": 0.5, "y": 0.4})
    assert set(partial["n"]) == {1}


def test_the_best_other_method_is_the_best_by_its_mean_and_the_gain_is_relative():
    rows = ROWS.assign(metric=ROWS["f1"], metric_better="lower")
    others = rows[rows["method"] == "y"]
    others = pd.concat([others, others.assign(method="z", f1=0.2, metric=0.9)])
    ours = rows[rows["method"] == "x"]
    best, gains = results.gains_by_task(ours, others, "f1")
    assert best.to_dict() == {"a": "y", "b": "y"}
    assert gains.mean().to_dict() == pytest.approx({"a": 0.4, "b": 2 / 3})
    _, lower = results.gains_by_task(ours, others, "metric")
    assert lower.mean().to_dict() == pytest.approx({"a": -0.4, "b": -2 / 3})
    assert results.gains_by_task(ours, others.iloc[:0], "f1")[1].empty


def test_differences_are_taken_run_by_run():
    first, second = (ROWS[ROWS["method"] == name] for name in "xy")
    gap = results.differences(first, second.drop(index=4), "f1")
    assert np.isnan(gap.loc[0, "a"])
    assert gap.loc[1].to_dict() == pytest.approx({"a": 0.3, "b": 0.3})
    assert results.mean_over_tasks(gap).to_dict() == pytest.approx({1: 0.3})


def test_a_ledger_of_other_columns_and_doubled_rows_is_read(tmp_path):
    key = dict.fromkeys(KEY, "x") | {"source": "real"}
    rows = [{**key, "f1_macro": 0.1}, {**key, "f1_macro": 0.2}, {**key, "source": "twin"}]
    pd.DataFrame(rows).to_csv(tmp_path / "ledger.csv", index=False)
    found = results.read_rows(tmp_path / "ledger.csv", COLUMNS)
    assert found["f1_macro"].tolist() == [0.2]
    assert found["f1_any"].isna().all()
    assert results.read_rows(tmp_path / "absent.csv", COLUMNS).empty
    with pytest.raises(DemixError, match="unknown data source 'reel'; did you mean 'real'"):
        results.read_rows(tmp_path / "ledger.csv", COLUMNS, source="reel")
    with (tmp_path / "ledger.csv").open("a") as file:
        file.write("adult,cut off")
    with pytest.raises(DemixError, match=r"line 5 of .* has 2 values instead of 8"):
        results.read_rows(tmp_path / "ledger.csv", COLUMNS)


def test_the_grid_names_every_row_once():
    grid = results.expected()
    assert not grid.duplicated().any()
    assert set(grid["task"]) == set(TASKS)
    one = [results.expected(family) for family in results.FAMILIES]
    pd.testing.assert_frame_equal(grid, pd.concat(one, ignore_index=True))
    for part in one:
        assert {"demix_lite", "summary_gbm", "oracle"} <= set(part["method"])


def test_the_standard_setting_has_the_first_architecture_of_every_task():
    grid = results.standard(results.expected())
    assert set(grid["task"]) == set(TASKS)
    assert set(grid["clean_ratio"]) == {0.5}
    for task, part in grid.groupby("task"):
        assert set(part["architecture"]) == {TASKS[task].architectures[0]}
    assert results.standard(pd.DataFrame(columns=list(COLUMNS))).empty


def test_a_family_does_not_hide_what_another_one_says():
    table = pd.DataFrame({"adult": [0.2, 0.4], "bank": [0.4, 0.6], "yelp": [0.9, np.nan]})
    found = results.means_by_group(table)
    assert {name: len(values) for name, values in found.items()} == {
        "all tasks (3)": 1,
        "tabular (2)": 2,
        "recommendation (1)": 1,
    }
    assert found["tabular (2)"].tolist() == pytest.approx([0.3, 0.5])
    assert found["all tasks (3)"].tolist() == pytest.approx([0.5])
    assert list(results.means_by_group(table[["adult"]])) == ["tabular (1)"]
    assert results.means_by_group(table.iloc[:, :0]) == {}


def test_how_families_differ_is_said_of_those_that_are_there():
    both = results.settings_of(["adult", "yelp", "amazon"])
    assert both.startswith("Tabular (1): task model mlp1, at most 8,000")
    assert "recommendation (2): task model din, at most 16,000" in both
    assert both.endswith("up to 10 % break the shortcut.")
    assert results.settings_of([]) == ""


def test_a_group_with_half_of_the_runs_is_compared_and_one_with_fewer_is_not():
    half = results.intervals_over_tasks(ROWS.iloc[:6], ["method"], "f1")
    assert half["mean"].to_dict() == pytest.approx({"x": 0.7, "y": 0.5})
    fewer = results.intervals_over_tasks(ROWS.iloc[:5], ["method"], "f1")
    assert fewer["mean"].to_dict() == pytest.approx({"x": 0.6})


def test_a_method_with_few_of_our_seeds_is_not_the_best():
    ours = pd.DataFrame({"method": "x", "seed": range(4), "f1": 0.6})
    often = pd.DataFrame({"method": "y", "seed": range(2), "f1": 0.5})
    once = pd.DataFrame({"method": "z", "seed": [0], "f1": 0.9})
    assert results.gain_over_best(ours, pd.concat([often, once]), "f1")[0] == "y"


def test_rows_are_read_in_the_order_of_the_tasks(tmp_path):
    names = list(TASKS)
    rows = pd.DataFrame({"task": names[::-1], "source": "real"})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert results.read_rows(tmp_path / "rows.csv", KEY, key=["task"])["task"].tolist() == names


def test_a_mean_below_zero_has_a_minus_and_a_nothing_has_none():
    assert results.plus_minus(results.interval([-1.0])) == "−1.000 (n = 1)"
    assert results.plus_minus(results.interval([-1e-9])) == "0.000 (n = 1)"


def test_results_are_those_of_the_folder_in_which_one_stands(tmp_path, monkeypatch):
    here = tmp_path / "book" / "results"
    here.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert results.results_folder() == here


def test_panels_and_curves_draw_what_is_there():
    pytest.importorskip("matplotlib.pyplot").switch_backend("agg")
    table = pd.DataFrame({"a": [0.1, np.nan], "b": [0.3, 0.4]}, index=["x", "y"])
    panels = plots.dot_panels(table, table / 10, unit="F1", looks={"x": ("#0072B2", "o")})
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    assert [len(axes.texts) for axes in panels] == [1, 2]
    four = plots.dot_panels(
        table[["a", "b", "a", "b"]].set_axis(list("abcd"), axis=1), unit="F1", looks={}
    )
    assert [axes.get_xlabel() for axes in four] == ["", "F1", "F1", "F1"], (
        "only where none is below"
    )
    wide = plots.dot_panels(table[["b"]], table[["b"]] * 9, unit="F1", looks={}, bounds=(0, 1))[0]
    ends = [part[:, 0].tolist() for lines in wide.collections for part in lines.get_segments()]
    assert ends == [[0, 1], [0, 1]], "no share lies beyond 0 and 1"
    lines = plots.curves(table.set_axis([0.4, 0.5]), unit="F1", xlabel="clean ratio").lines
    assert [len(line.get_xdata()) for line in lines] == [1, 2]
    for axes in (*panels, *four, wide, plots.new_axes()):
        axes.figure.canvas.draw()
    pytest.importorskip("matplotlib.pyplot").close("all")
