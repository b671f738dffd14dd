"""Practice tasks: other questions asked of a table, with rules drawn at random."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import demix_lite.debugger.self_check as self_check_module
from demix_lite.benchmark.protocols import curricula, environment_bank
from demix_lite.debugger.self_check import self_check
from demix_lite.detector.environments import injection_environments
from demix_lite.injection import inject
from demix_lite.tasks import get_task
from demix_lite.tasks.labels import Classes, Number
from demix_lite.tasks.practice import (
    COVERAGE,
    LEAST_CLASS,
    _number_question,
    _range,
    _some_of,
    practice_task,
    random_rule,
)
from demix_lite.tasks.tables import TABLES
from demix_lite.tasks.tabular import TabularTask
from tests.toy import toy_frame, toy_task

tables = pytest.mark.parametrize("table", TABLES, ids=lambda task: task.name)
few = settings(max_examples=25)  # of each table


@cache
def splits_of(name):
    return get_task(name).load(rows=1500)


@tables
@few
@given(seed=st.integers(0, 10**6))
def test_a_practice_task_asks_something_of_every_row_it_keeps(table, seed):
    splits = splits_of(table.name)
    task, rows = practice_task(table, splits, np.random.default_rng(seed))
    assert {task.target, *task.features} == {table.target, *table.features}
    assert task.target not in task.features
    for part in (rows.train, rows.valid, rows.test):
        labels = part[task.target]
        if isinstance(task.label, Classes):
            assert (task.label.codes(labels) >= 0).all()
        else:
            assert labels.between(task.label.low, task.label.high).all()
    if isinstance(task.label, Classes) and task.target != table.target:
        shares = rows.train[task.target].value_counts(normalize=True)
        assert len(shares) == task.label.classes >= 2
        assert shares.min() >= LEAST_CLASS / 2


@tables
@few
@given(seed=st.integers(0, 10**6))
def test_its_only_rule_neither_holds_nor_breaks_too_rarely(table, seed):
    splits = splits_of(table.name)
    task, rows = practice_task(table, splits, np.random.default_rng(seed))
    (rule,) = task.rules
    assert set(rule.condition) <= set(task.features)
    frame = rows.train
    parts = rule.holds(frame), rule.matches_target(frame[task.target]), task.minority(frame, rule)
    assert all(COVERAGE[0] <= part.mean() <= COVERAGE[1] for part in parts)


@tables
def test_the_same_seed_asks_the_same_and_other_seeds_ask_other_things(table):
    splits = splits_of(table.name)

    def drawn(seed):
        task, rows = practice_task(table, splits, np.random.default_rng(seed))
        return task, rows.train

    (one, frame), (again, same) = drawn(3), drawn(3)
    assert one == again
    assert frame.equals(same)
    tasks = [drawn(seed)[0] for seed in range(12)]
    assert len({task.target for task in tasks}) > 2
    assert len({str(task.rules) for task in tasks}) > 6


def test_numbers_are_asked_for_and_cut_into_classes():
    table = get_task("air")
    kinds = {
        type(practice_task(table, splits_of("air"), np.random.default_rng(seed))[0].label)
        for seed in range(20)
    }
    assert kinds == {Classes, Number}


@tables
def test_errors_go_into_practice_rows_as_into_any_others(table):
    task, rows = practice_task(table, splits_of(table.name), np.random.default_rng(5))
    injected = inject(task, rows, 0.5, seed="practice")
    shares = injected.train.errors.mean()
    assert shares["label"] == pytest.approx(0.25, abs=0.01)
    assert shares["feature"] == pytest.approx(0.25, abs=0.03)
    assert 0.02 < shares["spurious"] < 0.17


@pytest.mark.parametrize("name", ["adult", "covertype", "bike", "air"])
def test_half_of_the_practice_tasks_exchange_labels_between_rows(name):
    table, splits = get_task(name), splits_of(name)
    drawn = [practice_task(table, splits, np.random.default_rng(seed)) for seed in range(40)]
    assert 10 <= sum(task.exchanges_labels for task, _ in drawn) <= 30
    task, rows = next(
        (task, rows)
        for task, rows in drawn
        if task.exchanges_labels and (name != "bike" or not task.label.classes)
    )
    train = inject(task, rows, 0.5, seed="exchanged").train
    wrong = train.errors["label"]
    labels, right = train.frame[task.target], train.original[task.target]
    assert labels[wrong].isin(right).all()
    if not task.label.classes:  # as many rare numbers as before, whatever the shape of the label
        rare = right.quantile(0.9)
        assert (labels > rare).mean() == pytest.approx((right > rare).mean(), abs=0.03)


def test_a_rule_for_a_table_of_one_column_is_none():
    table = get_task("adult")
    frame = splits_of("adult").train.assign(income="<=50K")
    assert random_rule(table, frame, np.random.default_rng(0)) is None


def test_a_bank_mixes_practice_with_the_tasks_themselves_that_some_protocols_leave_out():
    bank = environment_bank(
        ["air"], source="twin", injections=2, rows=400, architectures=["mlp2"], practice=True,
        sample=None, jobs=1,
    )["air"]  # fmt: skip
    assert [e.practice for e in bank] == [False, True, False, True]
    assert len({e.injection for e in bank}) == 4
    plans = curricula("tabular").values()
    practising = {plan.protocol for plan in plans if plan.settings.practises}
    assert practising == {"practised", "leave-one-task-out"}


def test_a_family_without_other_questions_has_no_practice():
    task = get_task("amazon")
    splits = task.load(rows=3000)
    made = injection_environments(task, splits, 0, architectures=["din"], practice=True)
    assert made == []


def test_a_rule_can_be_drawn_from_a_single_column():
    frame = pd.DataFrame({"x": np.arange(200.0), "y": ["no", "yes"] * 100})
    task = TabularTask("one", ("x",), (), "y", Classes(("no", "yes")), ())
    drawn = [random_rule(task, frame, np.random.default_rng(seed)) for seed in range(20)]
    assert {tuple(rule.condition) for rule in drawn if rule} == {("x",)}


def test_the_self_check_keeps_the_rows_of_a_table_without_a_usable_rule(monkeypatch):
    monkeypatch.setattr(self_check_module, "random_rule", lambda *_: None)
    judged = []

    def judge(task, frame, *_, **__):
        judged.append(frame)
        raise InterruptedError

    monkeypatch.setattr(self_check_module, "judge_table", judge)
    for label, values in (
        (Classes(("no", "yes")), ["no", "yes"] * 100),
        (Number(0, 9), range(200)),
    ):
        frame = pd.DataFrame({"x": np.arange(200.0), "y": values})
        task = TabularTask("one", ("x",), (), "y", label, ())
        with pytest.raises(InterruptedError):
            self_check(task, frame, None, seed=0, announce=lambda _: None)
        assert len(judged[-1]) == 200


def test_an_empty_category_cannot_be_exchanged_and_stays_empty():
    empty = pd.Series([np.nan] * 9, dtype=object)
    frame = pd.DataFrame({"x": np.arange(9.0), "c": empty, "y": ["no", "yes", "no"] * 3})
    task = TabularTask("one", ("x",), ("c",), "y", Classes(("no", "yes")), ())
    planned = set()
    for seed in range(9):
        rng = np.random.default_rng(seed)
        plan = task.plan_feature_errors(frame, rng)
        planned |= set(plan.columns)
        assert task.corrupt_features(frame, plan, rng)["c"].isna().all()
    assert planned == {"x", "c"}


def test_a_number_that_is_mostly_one_value_is_no_label():
    values = pd.Series([0.0] * 60 + list(range(1, 41)))
    for seed in range(9):
        assert _number_question(values, np.random.default_rng(seed)) is None


def test_rules_of_one_column_and_of_two_are_drawn():
    drawn = [random_rule(toy_task(), toy_frame(300), np.random.default_rng(s)) for s in range(40)]
    assert {len(rule.condition) for rule in drawn if rule} == {1, 2}


def test_one_category_or_a_few_make_a_condition():
    shapes = toy_frame(90)["shape"]
    drawn = [_some_of(shapes, False, np.random.default_rng(seed)) for seed in range(40)]
    assert {1, 2} <= {len(names) for names in drawn} <= {1, 2, 3}


def test_a_range_of_numbers_lies_at_either_end_or_between():
    values = pd.Series(np.arange(1001.0))
    drawn = np.array([_range(values, np.random.default_rng(seed)) for seed in range(60)])
    at_low, at_high = np.isclose(drawn[:, 0], 0), np.isclose(drawn[:, 1], 1000)
    assert set(zip(at_low.tolist(), at_high.tolist(), strict=True)) == {
        (True, False), (False, True), (False, False),
    }  # fmt: skip
    assert (drawn[:, 1] - drawn[:, 0] <= 1000 * COVERAGE[1] + 1e-6).all()
