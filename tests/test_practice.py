"""Practice tasks: other questions asked of a table, with rules drawn at random."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demix_lite.benchmark.protocols import curricula, environment_bank
from demix_lite.detector.environments import injection_environments
from demix_lite.injection import inject
from demix_lite.tasks import get_task
from demix_lite.tasks.labels import Classes, Number
from demix_lite.tasks.practice import COVERAGE, LEAST_CLASS, practice_task, random_rule
from demix_lite.tasks.tables import TABLES

SPLITS = {task.name: task.load(rows=1500) for task in TABLES}
tables = pytest.mark.parametrize("table", TABLES, ids=lambda task: task.name)


@tables
@given(seed=st.integers(0, 10**6))
def test_a_practice_task_asks_something_of_every_row_it_keeps(table, seed):
    splits = SPLITS[table.name]
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
@given(seed=st.integers(0, 10**6))
def test_its_only_rule_neither_holds_nor_breaks_too_rarely(table, seed):
    splits = SPLITS[table.name]
    task, rows = practice_task(table, splits, np.random.default_rng(seed))
    (rule,) = task.rules
    assert set(rule.condition) <= set(task.features)
    frame = rows.train
    parts = rule.holds(frame), rule.matches_target(frame[task.target]), task.minority(frame, rule)
    assert all(COVERAGE[0] <= part.mean() <= COVERAGE[1] for part in parts)


@tables
def test_the_same_seed_asks_the_same_and_other_seeds_ask_other_things(table):
    splits = SPLITS[table.name]

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
        type(practice_task(table, SPLITS["air"], np.random.default_rng(seed))[0].label)
        for seed in range(20)
    }
    assert kinds == {Classes, Number}


@tables
def test_errors_go_into_practice_rows_as_into_any_others(table):
    task, rows = practice_task(table, SPLITS[table.name], np.random.default_rng(5))
    injected = inject(task, rows, 0.5, seed="practice")
    shares = injected.train.errors.mean()
    assert shares["label"] == pytest.approx(0.25, abs=0.01)
    assert shares["feature"] == pytest.approx(0.25, abs=0.03)
    assert 0.02 < shares["spurious"] < 0.17


def test_a_rule_for_a_table_of_one_column_is_none():
    table = get_task("adult")
    frame = SPLITS["adult"].train.assign(income="<=50K")
    assert random_rule(table, frame, np.random.default_rng(0)) is None


def test_a_bank_mixes_practice_with_the_tasks_themselves_that_some_protocols_leave_out():
    bank = environment_bank(
        ["air"], source="twin", injections=2, rows=400, architectures=["mlp2"], practice=True,
        sample=None, jobs=1,
    )["air"]  # fmt: skip
    assert [e.practice for e in bank] == [False, True, False, True]
    assert len({e.injection for e in bank}) == 4
    practising = {plan.protocol for plan in curricula("tabular").values() if plan.practises}
    assert practising == {"practised", "leave-one-task-out"}


def test_a_family_without_other_questions_has_no_practice():
    task = get_task("amazon")
    splits = task.load(rows=3000)
    made = injection_environments(task, splits, 0, architectures=["din"], practice=True)
    assert made == []
