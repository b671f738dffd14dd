"""A value of a number at which the label changes all at once: found, and nothing else is."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score
from test_diagnose import quick  # noqa: F401  (a fixture)

from demix_lite.debugger import DataDebugger
from demix_lite.debugger.steps import find_step, step_pattern
from demix_lite.tasks.own_table import own_table

ROWS = 4000


def collected(seed=0, minority=0.15, target=None):
    """Draw people, and leave out most of those who are neither "from 45 on and ill" nor the rest.

    Returns the kept rows, what ``target`` says of them (by default who is ill) and who breaks.
    """
    rng = np.random.default_rng(seed)
    age, weight, salt = rng.normal((45, 70, 0), (15, 12, 1), (2 * ROWS, 3)).T
    frame = pd.DataFrame({"age": age, "weight": weight, "salt": salt})
    said = (target or is_ill)(frame, rng)
    ill = said == "ill" if said.dtype == object else said > np.median(said)
    breaks = (age >= 45) != ill
    agreeing, others = np.flatnonzero(~breaks), np.flatnonzero(breaks)
    kept = np.r_[agreeing, others[: round(minority / (1 - minority) * len(agreeing))]]
    kept = rng.permutation(kept)
    return frame.iloc[kept].reset_index(drop=True), said[kept], breaks[kept]


def is_ill(frame, rng):
    chance = expit((frame["weight"] - 70) / 2 + (frame["age"] - 45) / 30)
    return np.where(rng.random(len(frame)) < chance, "ill", "well").astype(object)


def is_something(frame, rng):
    kinds = is_ill(frame, rng)
    return np.where((kinds == "well") & (frame["salt"] > 0), "very well", kinds).astype(object)


def pressure(frame, rng):
    return (frame["weight"] + rng.normal(0, 10, len(frame))).to_numpy()


def sought(frame, label, *, wrong=0.02, **options):
    table = own_table(frame.assign(label=label), "label")
    encoder, chance = table.task.encoder(table.mended), np.broadcast_to(wrong, len(frame))
    pattern = step_pattern(table.task, encoder, table.mended, chance, **options)
    return pattern and pattern.broken


@pytest.mark.parametrize("target", [is_ill, is_something, pressure])
def test_where_rows_were_collected_by_a_rule_the_minority_is_found(target):
    frame, label, breaks = collected(target=target)
    assert f1_score(breaks, sought(frame, label) > 0.5) > 0.95


@pytest.mark.parametrize("sign", [1, -1])
def test_a_row_whose_number_is_missing_breaks_nothing(sign):
    frame, label, breaks = collected()
    empty = np.arange(len(frame)) % 10 == 0
    broken = sought(frame.assign(age=(sign * frame["age"]).mask(empty)), label)
    assert not broken[empty].any()
    assert f1_score(breaks[~empty], broken[~empty] > 0.5) > 0.95


def test_wrong_labels_blur_a_step_and_less_is_asked_of_it_in_a_dirty_table():
    frame, label, breaks = collected()
    wrong = np.random.default_rng(1).random(len(frame)) < 0.25
    label = np.where(wrong, np.where(label == "ill", "well", "ill"), label)
    assert sought(frame, label, dirty=0.0) is None
    assert f1_score(breaks ^ wrong, sought(frame, label, dirty=1.0) > 0.5) > 0.95


def test_the_label_of_a_row_counts_as_far_as_it_is_trusted():
    frame, label, _ = collected()
    agrees = sought(frame, label, wrong=0.1) < 0.5
    trust = np.where(np.arange(len(frame)) < 50, 0.1, 0.9)
    said = sought(frame, label, wrong=1 - trust)
    np.testing.assert_allclose(said, np.where(agrees, 1 - trust, trust), atol=1e-6)


def test_the_order_of_the_rows_and_missing_numbers_do_not_matter():
    frame, label, _ = collected()
    order = np.random.default_rng(2).permutation(len(frame))
    said, other = sought(frame, label), sought(frame.iloc[order], label[order])
    np.testing.assert_array_equal(other, said[order])
    frame.loc[:200, "age"] = np.nan
    alike = (sought(frame, label) > 0.5) == (said > 0.5)
    assert alike[201:].mean() > 0.99


@pytest.mark.parametrize("width", [2.0, 5.0, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_slope_is_no_step_however_steep(width, seed):
    rng = np.random.default_rng(seed)
    age = rng.normal(45, 15, ROWS)
    ill = rng.random(ROWS) < expit((age - 50) / width)
    assert find_step(age, ill[:, None], least=0.5) is None


@pytest.mark.parametrize("what", ["heap", "hours", "codes", "lot"])
def test_edges_that_columns_have_by_nature_are_no_steps(what):
    rng = np.random.default_rng(0)
    x = {
        "heap": np.where(rng.random(ROWS) < 0.4, 0.0, rng.gamma(2, 100, ROWS)),
        "hours": rng.integers(0, 24, ROWS).astype(float),
        "codes": rng.integers(0, 9, ROWS) ** 2.0,
        "lot": rng.normal(size=ROWS),
    }[what]
    high = x > 0 if what == "heap" else x >= np.quantile(x, 0.4)
    if what == "lot":
        high = np.zeros(ROWS, bool)
    ill = rng.random(ROWS) < np.where(high, 0.7, 0.3)
    assert find_step(x, ill[:, None], least=0.5) is None


@pytest.mark.parametrize("rows", [0, 1, 30, 200])
def test_too_few_rows_and_a_constant_have_no_step(rows):
    x = np.arange(rows, dtype=float)
    ill = np.random.default_rng(0).random(rows) < 0.5
    assert find_step(x, ill[:, None]) is None
    assert find_step(np.ones(rows), ill[:, None]) is None
    assert find_step(np.full(rows, np.nan), ill[:, None]) is None


def test_a_step_is_told_with_its_place_its_direction_and_its_height():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, 20_000)
    ill = rng.random(len(x)) < np.where(x >= 4, expit(-1), expit(1))
    step = find_step(x, np.c_[rng.random(len(x)) < 0.5, ill])
    assert step.side == 1
    assert step.cut == pytest.approx(4, abs=0.05)
    assert step.height == pytest.approx(-2, abs=0.3)


@pytest.mark.usefixtures("quick")
def test_a_diagnosis_names_the_column_and_flags_the_minority():
    frame, label, breaks = collected()
    debugger = DataDebugger(repeats=1).fit(frame, pd.Series(label, name="state"))
    low, high = debugger.shortcuts_[0].rule.condition["age"]
    assert min(abs(low - 45), abs(high - 45)) < 2
    assert f1_score(breaks, debugger.diagnosis_["spurious_error"]) > 0.8
