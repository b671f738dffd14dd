"""The estimator behind ``diagnose``: what scikit-learn expects, and what its parts promise."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import average_precision_score
from sklearn.utils.estimator_checks import estimator_checks_generator
from test_diagnose import LossDetector, people

from demix_lite.debugger import DataDebugger
from demix_lite.debugger.conclude import conclude
from demix_lite.debugger.evidence import dirtiness, flag_from, largest_share, weigh, with_share
from demix_lite.debugger.judging import Controls, Judgement, draw_controls, judge_table
from demix_lite.debugger.outliers import outlyingness, with_outliers
from demix_lite.debugger.shortcut_names import NamedShortcut, name_shortcuts
from demix_lite.errors import DemixError
from demix_lite.tasks.base import Rule
from demix_lite.tasks.own_table import own_table


def checks():
    debugger = DataDebugger(detector=LossDetector(), repeats=1)
    return list(estimator_checks_generator(debugger))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "check"), checks(), ids=[getattr(c, "func", c).__name__ for _, c in checks()]
)
def test_scikit_learn_would_take_it(estimator, check):
    check(estimator)


def test_same_seed_same_verdicts_and_the_frame_stays_as_it_is():
    frame = people()
    features, labels = frame[["age", "income"]].set_axis(frame.index + 1000), frame["buys"]
    before = features.copy()
    debugger = DataDebugger(detector=LossDetector(), repeats=1, random_state=3)
    one = debugger.fit(features, labels.set_axis(features.index)).diagnosis_
    two = clone(debugger).fit(features, labels.set_axis(features.index)).diagnosis_
    pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(features, before)
    assert one.index.equals(features.index)
    assert DataDebugger().get_params()["kind"] == "auto"


def test_every_row_is_judged_by_a_run_that_trained_on_it():
    table = own_table(people(), "buys")
    judged = judge_table(table.task, table.frame, LossDetector(), repeats=1)
    rows = np.concatenate([positions for positions, _ in judged.parts])
    assert sorted(rows) == list(range(len(table.frame)))
    for positions, run in judged.parts:
        held = set(run.valid_index)
        assert not held & set(positions)
        copied = judged.controls.origin
        assert not held & set(copied)  # a copy would be its own witness
        mine = run.train.iloc[: len(positions)].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, table.frame.iloc[positions].reset_index(drop=True))


def test_validation_rows_of_your_own_take_the_place_of_the_other_half():
    table, own = own_table(people(), "buys"), own_table(people(90), "buys").frame
    judged = judge_table(table.task, table.frame, LossDetector(), valid=own, repeats=1)
    for _, run in judged.parts:
        assert run.valid is own
        assert sorted(run.valid_index) == list(range(90))


def test_controls_differ_from_the_rows_they_copy():
    table = own_table(people(), "buys")
    controls = draw_controls(table.task, table.frame)
    copied = table.frame.iloc[controls.origin].reset_index(drop=True)
    changed = controls.frame.ne(copied)
    label, feature = controls.kind == "label", controls.kind == "feature"
    assert changed.loc[label, "buys"].all()
    assert not changed.loc[label, ["age", "income"]].any(axis=None)
    assert changed.loc[feature, ["age", "income"]].any(axis=1).all()
    assert not changed.loc[feature, "buys"].any()


def test_every_second_wrong_number_is_the_label_of_another_row():
    frame = people().assign(buys=lambda f: f["income"] ** 2)
    table = own_table(frame, "buys")
    controls = draw_controls(table.task, table.frame)
    label = controls.kind == "label"
    given = table.frame["buys"].iloc[controls.origin].to_numpy()
    exchanged = label & (controls.way == 1)
    assert exchanged.sum() == pytest.approx(label.sum() / 2, abs=1)
    assert controls.frame["buys"][exchanged].isin(table.frame["buys"]).all()
    assert (controls.frame["buys"] != given)[label].all()
    assert len(set(controls.way[~label])) == 4
    other = draw_controls(table.task, table.frame, cut=1)
    assert not set(other.way[~label]) & set(controls.way[~label]), "broken in other ways"
    assert (other.origin != controls.origin).any()


def test_what_is_said_in_several_cuts_is_compared_with_controls_of_one_each():
    apart = told_apart(0.2, 2)
    cuts = np.stack([told_apart(0.2, 2, seed=0).by_cut[0] for seed in range(3)])
    several = replace(apart, by_cut=cuts)
    np.testing.assert_allclose(several.probability, apart.probability)
    assert dirtiness(several) == pytest.approx(dirtiness(apart))
    noise = np.random.default_rng(0).normal(size=(3, *cuts.shape[1:]))
    noisy = replace(apart, by_cut=expit(logit(cuts) + noise))
    np.testing.assert_allclose(logit(noisy.probability), (logit(cuts) + noise).mean(axis=0))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4])
def test_a_dirty_table_is_flagged_freely_and_a_tidy_one_with_care(share):
    rng = np.random.default_rng(0)
    rows, count = 4000, int(share * 4000)
    wrong = np.arange(rows) < count
    score = np.where(wrong, rng.normal(1.5, 1, rows), rng.normal(-1.5, 1, rows))
    said = expit(np.column_stack([score, np.full(rows, -3.0), np.full(rows, -3.0)]))
    of_controls = expit(np.column_stack([rng.normal(1.5, 1, 400), np.full((400, 2), -3.0)]))
    kind = np.where(np.arange(400) < 200, "label", "feature")
    controls = Controls(pd.DataFrame(), np.arange(400), kind, np.zeros(400, dtype=int))
    judgement = Judgement(said[None], of_controls, controls, torch.zeros(rows, 1), [])
    diagnosis, (label, feature, spurious) = weigh(judgement, [], dirty=dirtiness(judgement))
    flag = diagnosis.flag["label"].to_numpy()
    assert label.low <= label.share <= label.high + 1e-9
    assert label.share == pytest.approx(share, abs=0.06)
    assert not feature.seen
    assert not spurious.seen
    assert flag.mean() <= 0.02 if not share else wrong[flag].mean() >= 0.6
    if share == 0.4:
        assert flag[wrong].mean() >= 0.85


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_shortcut_is_broken_by_a_minority_only(share):
    rng = np.random.default_rng(0)
    draw = rng.random(4000)
    odds = np.select([draw < 0.1, draw < share], [6.0, 0.0], -4.0)
    said = expit(np.column_stack([np.full((4000, 2), -3.0), odds]))
    controls = Controls(
        pd.DataFrame(), np.arange(40), np.repeat(["label", "feature"], 20), np.ones(40)
    )
    judgement = Judgement(said[None], said[:40], controls, torch.zeros(4000, 1), [])
    flag = weigh(judgement, [], dirty=1.0)[0].probability["spurious"]
    assert (flag == 0).all()
    suspected = NamedShortcut(Rule("rule", {}, ""), 1.0, odds > 0)
    believed = weigh(judgement, [suspected], dirty=0.0)[0].probability["spurious"]
    assert believed.mean() == pytest.approx(min(said[:, 2].mean(), 0.15))


def test_share_is_bounded_by_the_controls():
    rng = np.random.default_rng(0)
    clean, broken = rng.normal(-2, 1, 4000), rng.normal(2, 1, 4000)
    controls = expit(rng.normal(2, 1, 1000))
    for share in (0.0, 0.05, 0.3):
        count = int(share * 4000)
        rows = expit(np.r_[clean[count:], broken[:count]])
        assert share - 0.02 <= largest_share(rows, controls) <= share + 0.02
    assert largest_share(controls, controls) > 0.9  # no telling them apart


def test_probabilities_come_down_to_the_share_and_keep_their_order():
    p = np.random.default_rng(1).uniform(0.01, 0.99, 500)
    lower = with_share(p, 0.1)
    assert lower.mean() == pytest.approx(0.1, abs=1e-6)
    shift = logit(p) - logit(lower)
    assert np.ptp(shift) < 1e-6
    assert with_share(p, 0.9) is p
    flagged = lower >= flag_from(lower)
    assert lower[flagged].mean() >= 0.6


def blind_judgement(frame, broken, seed=0):
    """A detector that sees next to nothing; controls broken by the package's own plans."""
    rng = np.random.default_rng(seed)
    table = own_table(frame, "buys")
    controls = draw_controls(table.task, table.frame)
    weak = 0.5 * broken + rng.normal(-2.5, 1, len(frame))
    odds = rng.normal(-2.5, 1, len(controls.kind)) + 0.5 * (controls.kind == "feature")
    said, of_controls = (expit(np.column_stack([np.full_like(x, -3), x, x])) for x in (weak, odds))
    outputs = torch.zeros(len(frame), 2)
    run = SimpleNamespace(encoder=table.task.encoder(table.frame))
    return table, Judgement(
        said[None], of_controls, controls, outputs, [(np.arange(len(frame)), run)]
    )


def test_few_gross_numbers_come_to_the_top():
    frame = people(1000)
    broken = np.arange(1000) < 40
    frame = frame.astype({"income": float})
    frame.loc[broken, "income"] *= 1000
    table, before = blind_judgement(frame, broken)
    after = with_outliers(before, table.task, table.frame)
    assert average_precision_score(broken, before.probability[:, 1]) < 0.2
    assert average_precision_score(broken, after.probability[:, 1]) > 0.9
    assert after.probability[:, 1].mean() == pytest.approx(before.probability[:, 1].mean())
    assert (after.probability[:, [0, 2]] == before.probability[:, [0, 2]]).all()
    higher = after.of_controls[:, 1] > before.of_controls[:, 1]
    assert higher[before.controls.kind == "feature"].mean() > higher.mean()


def test_distance_counts_nothing_where_the_controls_are_not_outlying():
    frame = people(1000)
    table, before = blind_judgement(frame, np.zeros(1000))
    ordinary = table.frame.iloc[before.controls.origin].reset_index(drop=True)
    ordinary["income"] = ordinary["income"].median()
    ordinary["age"] = int(ordinary["age"].median())
    same = Controls(ordinary, *list(vars(before.controls).values())[1:])
    judgement = Judgement(before.by_cut, before.of_controls, same, before.outputs, [])
    assert with_outliers(judgement, table.task, table.frame) is judgement


def test_in_a_dirty_table_the_detector_judges_alone():
    frame, rng = people(1000), np.random.default_rng(0)
    far = np.arange(1000) >= 960
    frame.loc[far, "income"] *= 1000
    table, tidy = blind_judgement(frame, far)
    said, of_controls = tidy.probability.copy(), tidy.of_controls.copy()
    for number, kind in enumerate(("label", "feature")):
        wrong, broken = np.arange(1000) % 5 < 2, tidy.controls.kind == kind
        said[:, number] = expit(np.where(wrong, 2, -2) + rng.normal(size=1000))
        of_controls[:, number] = expit(np.where(broken, 2, -2) + rng.normal(size=len(broken)))
    dirty = replace(tidy, by_cut=said[None], of_controls=of_controls)
    assert dirtiness(dirty) > 0.5
    assert with_outliers(dirty, table.task, table.frame) is not dirty
    after = conclude(table.task, table.frame, dirty)[0].probability["feature"]
    assert spearmanr(said[:, 1], after)[0] == pytest.approx(1)


def told_apart(share, classes, seen=True, rows=4000, seed=0):
    """Verdicts on a table with wrong labels and features, and on controls made of its rows."""
    rng = np.random.default_rng(seed)
    wrong, broken = rng.random((2, rows)) < share
    origin = rng.integers(rows, size=rows)
    kind = np.where(np.arange(rows) < rows // 2, "label", "feature")
    right = wrong[origin] & (rng.random(rows) < 1 / (classes - 1))  # the label was turned back
    truth = np.column_stack([wrong, broken]), np.column_stack([~right, np.ones(rows, bool)])
    said, of_controls = (
        expit(np.column_stack([3.0 * seen * t - 2, np.full(rows, -2)]) + rng.normal(size=(rows, 3)))
        for t in truth
    )
    controls = Controls(pd.DataFrame(index=range(rows)), origin, kind, np.zeros(rows, dtype=int))
    return Judgement(said[None], of_controls, controls, torch.zeros(rows, classes), [])


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_table_is_dirty_where_many_labels_and_features_are_wrong(classes):
    assert dirtiness(told_apart(0.3, classes)) == 1
    assert dirtiness(told_apart(0.03, classes)) == 0
    assert dirtiness(told_apart(0.25, classes, rows=400)) == 0, "too small to be sure"


def test_from_tidy_to_dirty_there_is_no_cliff():
    found = [dirtiness(told_apart(share, 2)) for share in np.linspace(0.03, 0.35, 17)]
    assert found[0] == 0
    assert found[-1] == 1
    assert np.ptp(np.sort(found)[4:-4]) > 0.5
    assert np.diff(found).max() < 0.5
    judgement, flagged = told_apart(0.2, 2), []
    for dirty in np.linspace(0, 1, 5):
        flag = weigh(judgement, [], dirty=dirty)[0].flag
        flagged.append(flag["feature"].mean())
    assert (np.diff(flagged) >= 0).all()
    assert flagged[-1] > flagged[0]


def test_a_table_in_which_nothing_is_seen_does_not_count_as_dirty():
    assert dirtiness(told_apart(0.25, 2, seen=False)) == 0


@pytest.mark.parametrize(("apart", "seen"), [(1.0, False), (4.0, True)])
def test_features_are_seen_in_a_tidy_table_where_they_stand_apart_from_what_is_usual(apart, seen):
    rng = np.random.default_rng(0)
    tidy = told_apart(0.01, 2)
    said, of_controls = tidy.probability.copy(), tidy.of_controls.copy()
    broken = tidy.controls.kind == "feature"
    said[:, 1] = expit(rng.normal(-2, 1, len(said)))
    of_controls[:, 1] = expit(rng.normal(-2, 1, len(of_controls)) + apart * broken)
    judgement = Judgement(said[None], of_controls, tidy.controls, tidy.outputs, [])
    assert dirtiness(judgement) == 0
    assert weigh(judgement, [], dirty=dirtiness(judgement))[1][1].seen == seen


def test_distance_is_measured_by_side_and_ignores_what_is_missing_or_constant():
    frame = people(300).assign(flat=1.0, gap=np.nan, skewed=np.r_[np.zeros(290), np.full(10, 5.0)])
    task = own_table(people(300).assign(skewed=frame["skewed"]), "buys").task
    assert {"age", "income", "skewed"} == set(task.numeric)
    near, far = frame.iloc[[0]], frame.iloc[[0]].assign(income=[1e6])
    assert outlyingness(task, far, frame)[0] > outlyingness(task, near, frame)[0] + 5
    assert outlyingness(task, near.assign(income=[np.nan]), frame)[0] < 1
    everything = outlyingness(task, frame, frame)
    order = np.random.default_rng(0).permutation(300)
    assert (outlyingness(task, frame.iloc[order], frame.iloc[order]) == everything[order]).all()


def test_a_shortcut_gets_its_name():
    rng = np.random.default_rng(0)
    city = rng.choice(["Rome", "Oslo", "Bonn"], 900)
    label = np.where(city == "Oslo", "yes", "no")
    breaks = rng.random(900) < 0.15
    label[breaks] = np.where(label[breaks] == "yes", "no", "yes")
    frame = pd.DataFrame({"city": city, "x": rng.normal(size=900), "label": label})
    table = own_table(frame, "label")
    verdicts = np.column_stack([np.full(900, 0.05), np.full(900, 0.05), 0.1 + 0.7 * breaks])
    encoder = table.task.encoder(table.frame)
    best = name_shortcuts(table.task, encoder, table.frame, verdicts)[0]
    assert best.rule.condition in ({"city": frozenset(["Oslo"])}, {"city": {"Rome", "Bonn"}})
    assert (best.breaks == breaks).all()
    assert best.suspected


def test_mistakes_are_value_errors_with_a_sentence():
    frame = people()
    debugger = DataDebugger(detector=LossDetector(), repeats=1)
    features, labels = frame[["age", "income"]], frame["buys"]
    with pytest.raises(ValueError, match="1 class"):
        debugger.fit(features, ["same"] * len(frame))
    with pytest.raises(DemixError, match="lacks the column"):
        debugger.fit(features, labels, features[["age"]], labels)


@pytest.mark.slow
def test_a_clean_table_stays_nearly_unflagged():
    features, labels = load_breast_cancer(return_X_y=True, as_frame=True)
    said = DataDebugger(repeats=1).fit(features, labels).diagnosis_
    assert said.filter(like="_error").any(axis=1).mean() <= 0.05


@pytest.mark.slow
def test_a_few_gross_slips_are_found_in_a_table_of_ones_own():
    frame = people(1500, wrong=0).assign(calls=lambda f: f["age"] % 7, town=lambda f: f["age"] % 3)
    slip = np.random.default_rng(5).permutation(1500)[:60]
    frame = frame.astype({"age": float, "calls": float}).astype({"town": str})
    frame.loc[slip[:20], "age"] *= 10
    frame.loc[slip[20:40], "income"] /= 1000
    frame.loc[slip[40:], "calls"] = 99
    said = DataDebugger(repeats=1).fit(frame.drop(columns="buys"), frame["buys"]).diagnosis_
    broken = np.isin(np.arange(1500), slip)
    assert average_precision_score(broken, said["feature_probability"]) > 0.6
    assert broken[said["feature_error"]].mean() > 0.6


def test_a_rule_that_does_not_hold_is_no_shortcut_though_a_rare_label_agrees_with_most_rows():
    rng = np.random.default_rng(0)
    shops = rng.choice(list("abc"), 2000, p=[0.5, 0.49, 0.01])
    frame = pd.DataFrame({"shop": shops, "paid": "0"})
    rare = np.flatnonzero(frame["shop"] != "c")[:40]
    frame.loc[rare, "paid"] = "1"
    task = own_table(frame, "paid").task
    suspicion = np.full((2000, 3), 0.05)
    suspicion[rare, 2] = 0.9
    named = name_shortcuts(task, task.encoder(frame), frame, suspicion)
    assert not [s for s in named if s.suspected and s.rule.condition == {"shop": frozenset("c")}]
