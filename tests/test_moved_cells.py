"""Numbers one column to the side: the block, the rows, what is written back, and tidy tables."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from test_diagnose import LossDetector, quick  # noqa: F401  (a fixture)

from demix_lite.debugger import DataDebugger
from demix_lite.diagnose import Outcome, diagnose_frame, write_outcome
from demix_lite.tasks import TASKS
from demix_lite.tasks.moved_cells import MovedCells, _ratios, find_moved_cells
from demix_lite.tasks.own_table import own_table

MONTHS = ("june", "july", "august", "september", "october", "november")


def bills(rows, seed=0):
    """Amounts that change slowly from month to month and grow, and a label that goes with them."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0.4, 0.2, (rows, len(MONTHS)))
    amounts = np.exp(rng.normal(4, 1, (rows, 1)) + steps.cumsum(axis=1)).round(1)
    frame = pd.DataFrame(amounts, columns=list(MONTHS))
    late = amounts[:, -1] * rng.lognormal(0, 0.5, rows) > np.median(amounts[:, -1])
    return frame.assign(late=np.where(late, "yes", "no"))


def moved(frame, columns, step, rows):
    broken = frame.copy()
    block = list(columns)
    broken.loc[rows, block] = np.roll(frame.loc[rows, block].to_numpy(), step, axis=1)
    return broken


@pytest.mark.parametrize(("first", "last", "step"), [(0, 4, 1), (2, 6, -1), (0, 6, 1), (0, 5, -1)])
def test_the_block_is_named_and_its_rows_are_moved_back(first, last, step):
    right, block = bills(1500), MONTHS[first:last]
    rows = np.random.default_rng(1).permutation(1500)[:90]
    found = find_moved_cells(moved(right, block, step, rows), MONTHS)
    assert (found.columns, found.step) == (block, step)
    true = np.isin(np.arange(1500), rows)
    assert found.rows[true].mean() > 0.5
    assert found.rows[~true].mean() < 0.02


def test_what_is_written_back_is_what_stood_there():
    right, rows = bills(1500), np.arange(90)
    table = own_table(moved(right, MONTHS[:4], 1, rows), "late")
    hit = table.moved.rows & (np.arange(1500) < 90)
    assert hit.sum() > 60
    assert table.mended.loc[hit, list(MONTHS)].equals(right.loc[hit, list(MONTHS)])
    assert table.mended[~table.moved.rows].equals(table.frame[~table.moved.rows])
    changed = table.slips.any(axis=1)
    assert (changed == table.moved.rows).all()
    assert f"in {table.moved.rows.sum()} rows these numbers look moved one column to the right" in (
        "\n".join(table.checks)
    )


def test_missing_numbers_move_along():
    right = bills(1500)
    right.loc[::3, "july"] = np.nan
    found = find_moved_cells(moved(right, MONTHS[:4], 1, np.arange(90)), MONTHS)
    assert found.columns == MONTHS[:4]
    back = found.moved_back(moved(right, MONTHS[:4], 1, np.arange(90)))
    assert back[found.rows & (np.arange(1500) < 90)].isna()["july"].mean() > 0.2


@given(
    st.integers(2, 6),
    st.sampled_from([1, -1]),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_moving_back_undoes_a_move_and_keeps_whole_numbers_whole(width, step, rows, seed):
    rng, rows = np.random.default_rng(seed), np.array(rows)
    columns = [f"c{number}" for number in range(width)]
    right = pd.DataFrame(rng.integers(0, 99, (8, width)), columns=columns).assign(other=1.5)
    found = MovedCells(tuple(columns), step, rows)
    assert found.moved_back(moved(right, columns, step, rows)).equals(right[columns])


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.family == "tabular"])
def test_in_a_tidy_table_nothing_moved(name):
    task = TASKS[name]
    assert find_moved_cells(task.load(rows=3000).train, task.numeric) is None


def test_columns_that_say_the_same_do_not_change_places():
    rng = np.random.default_rng(0)
    like = rng.normal(size=(2000, 4))
    twice = pd.DataFrame(np.c_[like, like[:, :1]], columns=list("abcde"))
    assert find_moved_cells(twice, list("abcde")) is None
    assert (
        find_moved_cells(pd.DataFrame(np.ones((500, 3)), columns=list("abc")), list("abc")) is None
    )
    assert find_moved_cells(twice[["a"]], ["a"]) is None
    assert find_moved_cells(twice, ["a"] * 100_000) is None


@pytest.mark.parametrize(("seed", "rows"), [(45, 6), (74, 4)])
def test_where_hardly_a_row_is_left_that_did_not_move_nothing_is_found(seed, rows):
    rng = np.random.default_rng(seed)
    number, flag = np.arange(45.0), rng.integers(0, 2, 45) * 1.0
    few = np.where(rng.random(45) < 0.9, 0, rng.normal(size=45))
    frame = pd.DataFrame({"a": number, "b": flag, "c": few})
    assert find_moved_cells(moved(frame, "abc", 1, np.arange(rows)), list("abc")) is None


def test_of_normal_numbers_the_ratio_is_that_of_their_densities():
    mean, cov = np.array([0.0, 1.0, -1.0]), np.array([[1, 0.6, 0.3], [0.6, 1, 0.5], [0.3, 0.5, 1]])
    density = multivariate_normal(mean, cov)
    values = density.rvs(4000, random_state=0)
    for move, ratio in _ratios(values):
        back = np.roll(values[:, move.start : move.stop], -move.step, axis=1)
        placed = np.c_[values[:, : move.start], back, values[:, move.stop :]]
        exact = density.logpdf(placed) - density.logpdf(values)
        middle = np.abs(exact) < 3  # further out a few neighbours tell too little
        assert np.corrcoef(ratio[middle], exact[middle])[0, 1] > 0.9
        assert np.abs(ratio - exact)[middle].mean() < 0.5


def test_a_diagnosis_flags_moved_rows_and_says_why(quick, tmp_path):  # noqa: F811
    frame = moved(bills(800), MONTHS[1:5], 1, np.arange(60))
    outcome = diagnose_frame(frame, "late")
    said = outcome.diagnosis().set_index("row")
    rows = outcome.debugger.table_.moved.rows
    assert (said["feature_error"][rows] == 1).all()
    first = int(np.flatnonzero(rows)[0])
    assert said.loc[first + 1, "suspicious_cells"] == "; ".join(MONTHS[1:5])
    assert outcome.repaired().loc[first, "july"] == frame.loc[first, "august"]
    page = next(path for path in write_outcome(outcome, tmp_path) if path.suffix == ".html")
    assert "One column to the side: july; august; september; october." in page.read_text()


@pytest.mark.parametrize("kind", ["Int64", "int64", "uint16", "string"])
def test_an_empty_cell_can_move_into_a_column_of_whole_numbers(kind):
    frame = bills(300).astype(dict.fromkeys(MONTHS, int)).astype(dict.fromkeys(MONTHS, kind))
    table = own_table(frame, "late")
    june = table.frame["june"].where(table.frame.index >= 9)
    right = pd.DataFrame({"label_error": False}, index=frame.index)
    debugger = SimpleNamespace(
        table_=table, repaired_=table.frame.assign(june=june), diagnosis_=right
    )
    after = Outcome(frame, "late", debugger, {}).repaired()
    assert after["june"].isna().tolist() == june.isna().tolist()
    assert after[9:].equals(frame.astype({"june": after["june"].dtype})[9:])


def test_validation_rows_are_read_with_the_table_and_have_no_part_in_its_rows():
    frame = moved(bills(800), MONTHS[:4], 1, np.arange(60))
    debugger = DataDebugger(detector=LossDetector(), repeats=1)
    held = bills(200, seed=1)
    debugger.fit(
        frame[list(MONTHS)], frame["late"], X_valid=held[list(MONTHS)], y_valid=held["late"]
    )
    assert len(debugger.table_.moved.rows) == 800
