"""The whole line: stages in order, honest rows, a ledger that loses nothing."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demix_lite.baselines import YARDSTICKS, SummaryGBM
from demix_lite.benchmark import (
    COLUMNS,
    append_row,
    judge,
    ledger,
    prepare,
    read_ledger,
    run_pipeline,
)
from demix_lite.benchmark.evaluate import evaluate
from demix_lite.benchmark.ledger import STAGES, VARIANTS, append_rows
from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.errors import DemixError
from demix_lite.models.training import predict
from tests.toy import toy_frame, toy_number_splits, toy_number_task, toy_task

SETTINGS = {"rows": 900, "architecture": "mlp2", "validation": 48}


@pytest.fixture(scope="module")
def heard():
    """The stages that were announced in the run that the tests share."""
    return []


@pytest.fixture(scope="module")
def outcome(heard):
    return run_pipeline("adult", **SETTINGS, announce=heard.append)


def test_the_row_holds_every_ledger_column(outcome):
    assert set(COLUMNS) == set(outcome.row)
    assert outcome.row["method"] == "demix_lite"
    assert outcome.row["data_sha256"] == outcome.splits.card.sha256


def test_stages_are_announced_in_order(outcome, heard):
    assert list(dict.fromkeys(heard)) == [
        "load", "inject", "fit", "influence", "refit", "evaluate", "detect", "repair",
    ]  # fmt: skip
    assert set(heard) == set(STAGES)


def test_same_seed_same_bits(outcome):
    again = run_pipeline("adult", **SETTINGS)
    pd.testing.assert_frame_equal(again.diagnosis.probability, outcome.diagnosis.probability)
    timed = {c for c in COLUMNS if c.startswith("seconds_")} | {"peak_mb", "commit"}
    for column in set(COLUMNS) - timed:
        assert again.row[column] == outcome.row[column], column


def test_another_seed_gives_other_errors(outcome):
    other = prepare("adult", **SETTINGS, seed=1)
    assert not other.injection.train.frame.equals(outcome.injection.train.frame)
    pd.testing.assert_frame_equal(other.splits.test, outcome.splits.test)


def test_without_errors_the_dirty_model_is_the_clean_model():
    prepared = prepare("adult", **SETTINGS, clean_ratio=1.0)
    done = judge(prepared, told(prepared, "oracle"))
    assert done.row["metric_dirty"] == done.row["metric_clean"]
    assert math.isnan(done.row["f1_label"])


def test_the_worst_group_is_the_worst_of_the_groups(outcome):
    done = evaluate(
        outcome.task,
        outcome.trained.model,
        outcome.run.encoder,
        outcome.splits.test,
        outcome.injection.rule,
    )
    assert done.worst_group == min(done.groups.values())
    test, task = outcome.splits.test, outcome.task
    inputs, targets = outcome.run.encoder.transform(test, task.target)
    right = predict(outcome.trained.model, inputs).argmax(1).eq(targets).numpy()
    assert done.metric == pytest.approx(right.mean())
    both = task.groups(test, outcome.injection.rule) == 3
    if both.sum() >= 10:
        assert done.groups["both"] == pytest.approx(right[both].mean())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task_name": "adlut"}, "did you mean 'adult'"),
        ({"architecture": "mlp3"}, "unknown architecture"),
        ({"clean_ratio": 0.0}, "clean ratio"),
        ({"rule": "nobody"}, "unknown rule"),
        ({"source": "moon"}, "moon"),
        ({"train_rows": 0}, "train_rows must be a whole number of at least 1, not 0"),
        ({"train_rows": 2.5}, "train_rows must be a whole number of at least 1, not 2.5"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(DemixError, match=sentence) as refused:
        run_pipeline(**{"task_name": "adult", **SETTINGS, **options})
    assert "\n" not in str(refused.value)


def test_the_plain_baseline_learns_and_answers_the_same_contract():
    from tests.test_detector import environment

    made = [environment(f"plain {n}", validation=32) for n in range(3)]
    said = SummaryGBM(rows=300).fit(made[:2]).predict(made[2].run)
    assert said.probability.shape == (len(made[2].run), 3)
    label = said.probability["label"].to_numpy()
    assert label[made[2].errors[:, 0]].mean() > label[~made[2].errors[:, 0]].mean() + 0.1


def test_the_ceiling_knows_more_than_chance(outcome):
    errors = outcome.injection.train.errors
    said = YARDSTICKS["ceiling"](errors).predict(outcome.run)
    truth = errors["feature"].to_numpy()
    probability = said.probability["feature"].to_numpy()
    assert probability[truth].mean() > probability[~truth].mean()


def fake_row(seed: int, value: float) -> dict:
    row = dict.fromkeys(COLUMNS, value)
    return row | {"task": "adult", "method": 'odd, "name"', "seed": seed, "rule": "a\nb"}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.floats(allow_nan=True, allow_infinity=False), min_size=1, max_size=6))
def test_the_ledger_gives_back_what_was_written(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("ledger") / "ledger.csv"
    for seed, value in enumerate(values):
        append_row(path, fake_row(seed, value))
    ledger = read_ledger(str(path))
    assert list(ledger.columns) == list(COLUMNS)
    assert ledger["seed"].tolist() == list(range(len(values)))
    np.testing.assert_array_equal(ledger["f1_label"].to_numpy(float), np.array(values))
    assert (ledger["method"] == 'odd, "name"').all()


def test_a_row_without_a_column_is_refused_and_nothing_is_written(tmp_path):
    row = fake_row(0, 1.0)
    del row["f1_macro"]
    with pytest.raises(DemixError, match="f1_macro"):
        append_row(tmp_path / "ledger.csv", row)
    assert not list(tmp_path.iterdir())


def test_a_ledger_with_other_columns_is_left_alone(tmp_path):
    path = tmp_path / "ledger.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DemixError, match="other columns"):
        append_row(path, fake_row(0, 1.0))
    assert path.read_text() == "a,b\n1,2\n"


def test_error_types_head_the_ledger():
    for measure, more in (("f1", ["macro", "any"]), ("ap", ["any"])):
        expected = [f"{measure}_{kind}" for kind in (*ERROR_TYPES, *more)]
        assert [column for column in COLUMNS if column.startswith(f"{measure}_")] == expected


# ------------------------------------------------------------------ several methods judge one run


@pytest.fixture(scope="module")
def prepared():
    return prepare("adult", **SETTINGS, train_rows=400)


def told(prepared, name):
    return YARDSTICKS[name](prepared.injection.train.errors)


def test_the_oracle_finds_everything_and_mends_as_the_yardstick_does(prepared):
    row = judge(prepared, told(prepared, "oracle"), protocol="in-task").row
    for name in ("f1_macro", "f1_any", "ap_label", "ap_any"):
        assert row[name] == 1
    assert row["metric_repaired"] == row["metric_oracle"]
    assert row["worst_group_repaired"] == row["worst_group_oracle"]
    assert (row["method"], row["protocol"]) == ("oracle", "in-task")
    assert row["metric_better"] == "higher"
    assert row["train_rows"] <= 400


def test_judging_changes_nothing_of_the_run(prepared):
    before = dict(prepared.seconds), prepared.run.train.copy(), dict(prepared.evaluations)
    one = judge(prepared, told(prepared, "ceiling_all_rows"))
    again = judge(prepared, told(prepared, "ceiling_all_rows"))
    assert one.row["metric_repaired"] == again.row["metric_repaired"]
    assert (prepared.seconds, prepared.evaluations) == (before[0], before[2])
    pd.testing.assert_frame_equal(prepared.run.train, before[1])
    assert set(one.row) == set(COLUMNS)
    assert one.row["seconds_refit"] > prepared.seconds["refit"]


@pytest.mark.parametrize("name", ["bike", "covertype"])
def test_numbers_and_many_classes_go_down_the_whole_line(name):
    prepared = prepare(name, rows=1200, architecture="mlp2", validation=32)
    row = judge(prepared, told(prepared, "oracle")).row
    task = prepared.task
    assert row["metric_better"] == ("higher" if task.label.larger_is_better else "lower")
    assert row["metric_name"] == task.metric_name
    for variant in VARIANTS:
        worse = row[f"worst_group_{variant}"] - row[f"metric_{variant}"]
        assert (worse <= 0) == task.label.larger_is_better


def test_the_worst_group_of_an_error_is_the_largest_error():
    task, test = toy_number_task(), toy_number_splits(400).train
    encoder = task.encoder(test)
    model = torch.nn.Sequential(torch.nn.Linear(encoder.width, 1))
    rule = task.rules[0]
    done = evaluate(task, model, encoder, test, rule)
    inputs, targets = encoder.transform(test, "label")
    squares = (predict(model, inputs)[:, 0] - targets).double().square().numpy()
    number = task.groups(test, rule)
    by_hand = [squares[number == code].mean() for code in range(4)]
    np.testing.assert_allclose(list(done.groups.values()), by_hand)
    assert done.worst_group == pytest.approx(max(by_hand))
    assert min(by_hand) < done.metric < done.worst_group


def test_a_ledger_whose_last_line_was_not_ended_goes_on_in_the_next(tmp_path):
    path = tmp_path / "ledger.csv"
    path.write_text("a,b\n1,2")
    append_rows(path, [{"a": 3, "b": 4}], ("a", "b"))
    assert path.read_text() == "a,b\n1,2\n3,4\n"


def test_groups_of_ten_are_judged_and_named_by_their_side_of_the_rule():
    task, rule = toy_task(), toy_task().rules[0]
    sizes = {"neither": 10, "target only": 9, "condition only": 11, "both": 10}
    colour = np.repeat(["blue", "blue", "red", "red"], list(sizes.values()))
    label = np.repeat(["no", "yes", "no", "yes"], list(sizes.values()))
    test = toy_frame(40).assign(colour=colour, label=label)
    right = np.repeat([1.0, 1.0, 0.0, 1.0], list(sizes.values()))
    targets = torch.from_numpy((label == "yes").astype(int))
    outputs = (
        torch.nn.functional.one_hot(targets, 2) * torch.from_numpy(2 * right - 1).float()[:, None]
    )
    encoder = SimpleNamespace(
        transform=lambda frame, _: (outputs[: len(frame)], targets[: len(frame)])
    )
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.eye_(model.weight)
    done = evaluate(task, model, encoder, test, rule)
    assert done.groups == {"neither": 1.0, "condition only": 0.0, "both": 1.0}
    assert (done.metric, done.worst_group) == (29 / 40, 0.0)
    few = evaluate(task, model, encoder, test.head(5), rule)
    assert (few.metric, few.worst_group, few.groups) == (1.0, 1.0, {})


def test_the_peak_of_memory_is_the_high_water_mark(monkeypatch, tmp_path):
    status = tmp_path / "status"
    status.write_text("VmPeak:\t9 kB\nVmHWM:\t  2000000 kB\nVmRSS:\t  1000 kB\n")
    monkeypatch.setattr(ledger, "Path", lambda _: status)
    assert ledger.peak_megabytes(None) == pytest.approx(2048)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_the_peak_of_a_run_leaves_out_what_came_before():
    large = torch.ones(100_000_000)
    assert ledger.peak_megabytes(None) > 400
    before = ledger.peak_megabytes(None)
    del large
    ledger.reset_peak(None)
    assert ledger.peak_megabytes(None) < before - 300


def test_a_ledger_has_one_lock_however_it_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.csv"
    assert ledger.lock_of(path) == ledger.lock_of(Path("rows.csv"))
    assert ledger.lock_of(path) != ledger.lock_of(tmp_path / "other" / "rows.csv")
