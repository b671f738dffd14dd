"""Injected errors are where the table of errors says, as many as asked for, and nowhere else."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from data_scripts.__main__ import prepare
from data_scripts.adult import SOURCE
from demix_lite.data.store import content_sha256
from demix_lite.errors import DemixError
from demix_lite.injection import inject
from demix_lite.tasks import get_task
from demix_lite.tasks.labels import SMALLEST_SHIFT
from demix_lite.tasks.tabular import OUTLIER_SDS, SCALE_RANGE
from tests.toy import toy_number_splits, toy_number_task, toy_splits, toy_task

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data" / "adult"
PARTS = ("train", "valid")

few = settings(max_examples=25)
ratios = st.floats(0.05, 0.99)
seeds = st.integers(0, 10_000)
kinds = st.sampled_from([2, 3, "number"])
draws = given(
    seed=seeds,
    rows=st.integers(60, 200),
    clean_ratio=ratios,
    co_occurring=st.booleans(),
    classes=kinds,
)


def toy(rows=120, seed=0, classes=2):
    if classes == "number":
        return toy_number_task(), toy_number_splits(rows, seed)
    return toy_task(classes), toy_splits(rows, seed, classes)


def injected(seed, rows=120, clean_ratio=0.5, co_occurring=False, classes=2, **more):
    task, splits = toy(rows, seed, classes)
    return task, splits, inject(
        task, splits, clean_ratio, seed=seed, co_occurring=co_occurring, **more
    )  # fmt: skip


def differs(one, other):
    """Compare two cells as a person would: missing equals missing."""
    return not (one == other or (pd.isna(one) and pd.isna(other)))


# ------------------------------------------------------------------ how many


@few
@draws
def test_shares_hit_their_targets(seed, rows, clean_ratio, co_occurring, classes):
    task, splits, injection = injected(seed, rows, clean_ratio, co_occurring, classes)
    for part in PARTS:
        clean, corrupted = getattr(splits, part), getattr(injection, part)
        n = len(corrupted.frame)
        wanted = round((1 - clean_ratio) / 2 * n)
        assert corrupted.errors["label"].sum() == wanted
        assert corrupted.errors["feature"].sum() == (
            wanted if co_occurring else min(wanted, n - wanted)
        )
        minority = task.minority(clean, injection.rule).sum()
        majority = len(clean) - minority
        left = corrupted.errors["spurious"].sum()
        assert n == majority + left
        if minority / len(clean) > task.minority_share:
            assert abs(left - task.minority_share * n) <= 0.5
        else:
            assert left == minority


@few
@given(seed=seeds, clean_ratio=ratios, classes=kinds)
def test_row_order_is_irrelevant_to_totals(seed, clean_ratio, classes):
    task, splits, injection = injected(seed, clean_ratio=clean_ratio, classes=classes)
    shuffled = replace(splits, train=splits.train.sample(frac=1, random_state=seed))
    again = inject(task, shuffled, clean_ratio, seed=seed)
    assert again.train.errors.sum().equals(injection.train.errors.sum())
    assert again.rule == injection.rule
    assert again.plan.columns == injection.plan.columns


@few
@given(seed=seeds, rows=st.integers(60, 200), clean_ratio=ratios, classes=kinds)
def test_label_and_feature_errors_are_disjoint_unless_they_may_co_occur(
    seed, rows, clean_ratio, classes
):
    _, _, injection = injected(seed, rows, clean_ratio, classes=classes)
    for part in PARTS:
        errors = getattr(injection, part).errors
        assert not (errors["label"] & errors["feature"]).any()


def test_co_occurring_errors_meet_as_often_as_chance_has_it():
    _, _, injection = injected(0, rows=4000, co_occurring=True)
    errors = injection.train.errors
    n = len(errors)
    assert abs((errors["label"] & errors["feature"]).sum() - n / 16) < 4 * np.sqrt(n / 16)


# ------------------------------------------------------------------ where


@few
@draws
def test_the_error_table_is_exact(seed, rows, clean_ratio, co_occurring, classes):
    _, splits, injection = injected(seed, rows, clean_ratio, co_occurring, classes)
    for part in PARTS:
        clean, corrupted = getattr(splits, part), getattr(injection, part)
        frame, original, errors, cells = (
            corrupted.frame, corrupted.original, corrupted.errors, corrupted.cells,
        )  # fmt: skip
        assert list(errors) == ["label", "feature", "spurious"]
        assert all(map(pd.api.types.is_bool_dtype, errors.dtypes))
        for table in (original, errors, cells):
            assert table.index.equals(pd.RangeIndex(len(frame)))
        # The rows that are left are rows of the source, each once, in order, cell by cell.
        assert original["row"].is_monotonic_increasing
        assert original["row"].is_unique
        source = clean.set_index("row", drop=False).loc[original["row"]].reset_index(drop=True)
        assert_frame_equal(original, source)
        assert_frame_equal(frame.head(0), original.head(0))  # same columns, same types
        for column in frame:
            pairs = zip(frame[column], original[column], strict=True)
            changed = [differs(one, other) for one, other in pairs]
            assert cells[column].tolist() == changed, column
        features = [c for c in frame if c != "label"]
        assert errors["label"].equals(cells["label"].rename("label"))
        assert errors["feature"].equals(cells[features].any(axis=1))
        target = injection.rule.target
        bounds = target if isinstance(target, tuple) else (target, target)
        announced = original["label"].between(*bounds)
        assert errors["spurious"].equals(injection.rule.holds(original) != announced)


@few
@given(seed=seeds, clean_ratio=ratios, classes=kinds)
def test_train_and_validation_go_wrong_in_the_same_columns(seed, clean_ratio, classes):
    _, _, injection = injected(seed, clean_ratio=clean_ratio, classes=classes)
    columns = injection.plan.columns
    assert 1 <= len(columns) <= 5
    assert len(set(columns)) == len(columns)
    for part in PARTS:
        corrupted = getattr(injection, part)
        touched = corrupted.cells.drop(columns="label").any()
        assert set(touched[touched].index) <= set(columns)
        # The first column of the plan changes in every row.
        assert corrupted.cells[columns[0]].equals(corrupted.errors["feature"].rename(columns[0]))


@few
@given(seed=seeds, classes=kinds)
def test_what_was_given_is_left_alone(seed, classes):
    task, splits = toy(seed=seed, classes=classes)
    before = [getattr(splits, part).copy() for part in (*PARTS, "test")]
    inject(task, splits, 0.5, seed=seed)
    for part, frame in zip((*PARTS, "test"), before, strict=True):
        assert_frame_equal(getattr(splits, part), frame)


@few
@given(seed=seeds, co_occurring=st.booleans(), classes=kinds)
def test_a_clean_ratio_of_one_changes_nothing(seed, co_occurring, classes):
    _, splits, injection = injected(seed, clean_ratio=1, co_occurring=co_occurring, classes=classes)
    for part in PARTS:
        corrupted = getattr(injection, part)
        assert_frame_equal(corrupted.frame, getattr(splits, part))
        assert not corrupted.errors.any(axis=None)
        assert not corrupted.cells.any(axis=None)


def test_rows_with_repeated_index_labels_are_dropped_one_by_one():
    task, splits = toy_task(), toy_splits()
    twice = splits.train.set_axis([0] * len(splits.train))
    one, other = (inject(task, s, 0.5) for s in (splits, replace(splits, train=twice)))
    assert_frame_equal(one.train.frame, other.train.frame)


def test_training_and_validation_rows_go_wrong_apart():
    splits = toy_splits()
    injection = inject(toy_task(), replace(splits, valid=splits.train), 0.5)
    assert not injection.train.errors.equals(injection.valid.errors)


def test_the_minority_that_is_left_is_drawn_from_the_whole_file():
    task, splits, injection = injected(0, rows=400)
    minority = splits.train["row"][task.minority(splits.train, injection.rule)].to_numpy()
    left = injection.train.original["row"][injection.train.errors["spurious"]]
    assert len(left) < len(minority) / 2
    for half in np.array_split(minority, 2):
        assert left.isin(half).any()


# ------------------------------------------------------------------ what


@settings(max_examples=80)
@given(seed=seeds)
def test_wrong_numbers_lie_in_their_range_and_wrong_categories_are_others(seed):
    task, splits, injection = injected(seed, clean_ratio=0.3)
    plan = injection.plan
    assert plan.kind in ("outlier", "scale")
    for part in PARTS:
        corrupted = getattr(injection, part)
        hit = corrupted.errors["feature"]
        for column in plan.columns:
            wrong, right = corrupted.frame.loc[hit, column], corrupted.original.loc[hit, column]
            known = splits.train[column]
            if column in task.categorical:
                assert set(wrong) <= set(known.dropna())
                if known.nunique() > 1:
                    assert not (wrong == right).any()
                continue
            slack = 1.0 if pd.api.types.is_integer_dtype(right) else 1e-9
            if plan.kind == "outlier":
                distance = (wrong - known.mean()).abs()
                assert np.allclose(distance, OUTLIER_SDS * known.std(), rtol=0, atol=slack)
            else:
                low, high = (bound * right for bound in SCALE_RANGE)
                assert wrong.between(low - slack, high + slack).all()
                assert (wrong[right == 0] == 0).all()


def test_both_kinds_both_directions_and_every_column_occur():
    plans, up, down = [], 0, 0
    for seed in range(60):
        _, splits, injection = injected(seed)
        plans.append(injection.plan)
        if injection.plan.kind == "outlier" and "weight" in injection.plan.columns:
            changed = injection.train.frame["weight"][injection.train.cells["weight"]]
            up += (changed > splits.train["weight"].mean()).sum()
            down += (changed < splits.train["weight"].mean()).sum()
    assert {plan.kind for plan in plans} == {"outlier", "scale"}
    assert {len(plan.columns) for plan in plans} == {1, 2, 3, 4, 5}
    assert {c for plan in plans for c in plan.columns} == {*toy_task().features}
    assert 0.4 < up / (up + down) < 0.6


def test_an_outlier_is_never_the_value_that_was_there():
    """Mean - 5 sd of this column is rounded to 0, and 0 occurs in it."""
    task, splits = toy_task(), toy_splits()
    rows = len(splits.train)
    age = np.r_[np.full(rows - 1, 20), 0]
    for value in range(400):
        age[0] = value
        shifted = pd.Series(age)
        if round(shifted.mean() - OUTLIER_SDS * shifted.std()) == 0:
            break
    else:
        pytest.fail("no such column")
    frame = splits.train.assign(age=age)
    plan = replace(injected(0)[2].plan, columns=("age",), kind="outlier")
    plan.details["spread"]["age"] = (shifted.mean(), shifted.std())
    for seed in range(20):
        wrong = task.corrupt_features(frame, plan, np.random.default_rng(seed))
        assert (wrong["age"] != age).all()


def test_wrong_labels_are_other_classes_drawn_evenly():
    _, _, injection = injected(1, rows=6000, classes=3, clean_ratio=0.2)
    train = injection.train
    hit = train.errors["label"]
    pairs = pd.crosstab(train.original.loc[hit, "label"], train.frame.loc[hit, "label"])
    assert np.diag(pairs).tolist() == [0, 0, 0]
    share = pairs.div(pairs.sum(axis=1), axis=0).to_numpy()[~np.eye(3, dtype=bool)]
    assert ((share > 0.42) & (share < 0.58)).all()


@few
@given(seed=seeds, clean_ratio=ratios)
def test_wrong_number_labels_are_far_off_and_right_ones_stay(seed, clean_ratio):
    task, _, injection = injected(seed, clean_ratio=clean_ratio, classes="number")
    gap = SMALLEST_SHIFT * (task.label.high - task.label.low)
    for part in PARTS:
        corrupted = getattr(injection, part)
        shift = (corrupted.frame["label"] - corrupted.original["label"]).abs()
        hit = corrupted.errors["label"]
        assert (shift[hit] >= gap - 1e-9).all()
        assert (shift[~hit] == 0).all()
        assert corrupted.frame["label"].between(task.label.low, task.label.high).all()


def test_missing_numbers_never_carry_the_feature_error_alone():
    """A missing number stays missing when it is scaled: such a column must not come first."""
    task, splits = toy_task(), toy_splits()
    weight = splits.train["weight"].where(splits.train["row"] % 3 > 0)
    frame = splits.train.assign(weight=weight)
    for seed in range(200):
        plan = task.plan_feature_errors(frame, np.random.default_rng(seed))
        assert plan.kind == "outlier" or plan.columns[0] != "weight"


# ------------------------------------------------------------------ seeds and rules


@few
@given(seed=seeds, co_occurring=st.booleans(), classes=kinds)
def test_same_seed_same_frames_other_seed_other_frames(seed, co_occurring, classes):
    task, splits = toy(classes=classes)
    one, same, other = (
        inject(task, splits, 0.5, seed=s, co_occurring=co_occurring) for s in (seed, seed, seed + 1)
    )
    for part in PARTS:
        for table in ("frame", "original", "errors", "cells"):
            values = [getattr(getattr(x, part), table) for x in (one, same, other)]
            assert_frame_equal(values[0], values[1], check_exact=True)
        assert not values[0].equals(values[2])
    assert one.plan == same.plan
    assert one.rule == same.rule


def test_the_draw_is_the_same_in_another_process():
    here = inject(toy_task(), toy_splits(), 0.5, seed=3)
    code = """
from demix_lite.data.store import content_sha256
from demix_lite.injection import inject
from tests.toy import toy_splits, toy_task
print(content_sha256(inject(toy_task(), toy_splits(), 0.5, seed=3).train.frame))
"""
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert elsewhere.stdout.strip() == content_sha256(here.train.frame)


def test_every_rule_is_drawn_and_a_named_rule_changes_nothing_else():
    task, splits = toy_task(), toy_splits()
    drawn = [inject(task, splits, 0.5, seed=seed) for seed in range(12)]
    assert {injection.rule.name for injection in drawn} == {"red", "round or old"}
    for seed, injection in enumerate(drawn):
        named = {r.name: inject(task, splits, 0.5, seed=seed, rule=r.name) for r in task.rules}
        assert_frame_equal(named[injection.rule.name].train.frame, injection.train.frame)
        for name, other in named.items():
            assert other.rule.name == name
            assert other.plan == injection.plan


@pytest.mark.parametrize("clean_ratio", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_bad_clean_ratio_is_refused(clean_ratio):
    with pytest.raises(DemixError, match=r"clean ratio must lie in \(0, 1\], not"):
        inject(toy_task(), toy_splits(), clean_ratio)


@pytest.mark.parametrize(("name", "hint"), [("rde", "did you mean 'red'?"), ("", "Known: red")])
def test_an_unknown_rule_is_refused(name, hint):
    with pytest.raises(DemixError) as refused:
        inject(toy_task(), toy_splits(), rule=name)
    assert "unknown rule of toy" in str(refused.value)
    assert hint in str(refused.value)


# ------------------------------------------------------------------ the real table


@pytest.mark.skipif(not REAL.exists(), reason="the official files are not in ../shared/data/adult")
def test_the_real_adult(tmp_path):
    prepare(SOURCE, REAL, tmp_path)
    task = get_task("adult")
    splits = task.load("real", home=tmp_path)
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [
        27_351, 6_838, 14_653,
    ]  # fmt: skip
    everyone = pd.concat([splits.train, splits.valid, splits.test])
    # Rows that meet the condition, and those of them with the announced label (from the files).
    counts = {
        rule.name: (rule.holds(everyone).sum(), (~task.minority(everyone, rule) &
                                                 rule.holds(everyone)).sum())
        for rule in task.rules
    }  # fmt: skip
    by_hand = {
        "black women": everyone["sex"].eq("Female") & everyone["race"].eq("Black"),
        "asian or native american": everyone["race"].isin(
            ["Asian-Pac-Islander", "Amer-Indian-Eskimo"]
        ),
        "executives": everyone["occupation"].eq("Exec-managerial"),
        "incorporated self-employed": everyone["workclass"].eq("Self-emp-inc"),
    }
    assert counts == {
        name: (met.sum(), (met & everyone["income"].eq(">50K")).sum())
        for name, met in by_hand.items()
    }
    assert {name: int(met) for name, (met, _) in counts.items()} == {
        "black women": 2308,
        "asian or native american": 1989,
        "executives": 6086,
        "incorporated self-employed": 1695,
    }
    for rule in task.rules:
        injection = inject(task, splits, 0.5, rule=rule.name)
        for part in PARTS:
            shares = getattr(injection, part).errors.mean()
            assert shares["label"] == pytest.approx(0.25, abs=1e-4)
            assert shares["feature"] == pytest.approx(0.25, abs=1e-4)
            assert shares["spurious"] == pytest.approx(0.15, abs=2e-4)
