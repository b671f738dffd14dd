"""The estimator behind ``diagnose``: what scikit-learn expects, and what its parts promise."""

import itertools
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
from sklearn.metrics import average_precision_score, jaccard_score
from sklearn.utils.estimator_checks import estimator_checks_generator
from test_diagnose import LossDetector, people

from demix_lite.debugger import (
    DataDebugger,
    conclude,
    estimator,
    evidence,
    judging,
    outliers,
    shortcut_names,
)
from demix_lite.debugger.evidence import (
    Evidence,
    dirtiness,
    flag_from,
    largest_share,
    weigh,
    with_share,
)
from demix_lite.debugger.judging import Controls, Judgement, draw_controls, judge_table
from demix_lite.debugger.outliers import outlyingness, with_outliers
from demix_lite.debugger.shortcut_names import NamedShortcut, name_shortcuts
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis
from demix_lite.errors import DemixError
from demix_lite.models.training import predict
from demix_lite.tasks.base import Rule
from demix_lite.tasks.own_table import own_table

CHECKS = list(estimator_checks_generator(DataDebugger(detector=LossDetector(), repeats=1)))


@pytest.mark.usefixtures("hurried")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "check"), CHECKS, ids=[getattr(c, "func", c).__name__ for _, c in CHECKS]
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
    many = draw_controls(table.task, pd.concat([table.frame] * 20, ignore_index=True))
    assert len(set(many.way[many.kind == "feature"])) == len(many.kind) // 60


def test_what_is_said_in_several_cuts_is_compared_with_controls_of_one_each():
    apart = told_apart(0.2, 2)
    cuts = np.stack([told_apart(0.2, 2, seed=0).by_cut[0] for seed in range(3)])
    several = replace(apart, by_cut=cuts)
    np.testing.assert_allclose(several.probability, apart.probability)
    assert dirtiness(several) == pytest.approx(dirtiness(apart))
    alone, beside = (weigh(j, [], dirty=1.0)[1][0] for j in (apart, several))
    assert beside.high == pytest.approx(alone.high, abs=0.001), "a row is drawn with all its cuts"
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
    after = conclude.conclude(table.task, table.frame, dirty)[0].probability["feature"]
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


def test_how_wrong_a_label_can_be_at_most_counts_in_a_tidy_table_only():
    judgement = told_apart(0.3, 2)
    tidy, half, dirty, free = (
        weigh(judgement, [], dirty=dirty, most_wrong=most)[0].probability["label"]
        for dirty, most in ((0.0, 0.1), (0.5, 0.1), (1.0, 0.1), (1.0, 1.0))
    )
    assert tidy.max() == 0.1
    assert 0.1 < half.max() <= 0.55
    np.testing.assert_array_equal(dirty, free)


def test_classes_are_limited_by_the_rows_whose_class_is_sure_and_numbers_are_not(monkeypatch):
    debugger, frame = DataDebugger(detector=LossDetector(), repeats=1), people()
    monkeypatch.setattr(conclude, "most_wrong", lambda outputs, labels: np.zeros(len(labels)))
    found = [
        debugger.fit(frame[["age", "income"]], label).diagnosis_["label_probability"].max()
        for label in (frame["buys"], frame["income"] + 1000.0 * (frame["buys"] == "yes"))
    ]
    assert found[0] == 0 < found[1]


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


def test_a_shortcut_that_shuts_out_one_of_several_labels_is_named_by_the_other_side():
    rng = np.random.default_rng(0)
    x = rng.normal(size=900)
    breaks = rng.random(900) < 0.15
    label = np.where((x < 0.3) ^ breaks, "a", rng.choice(["b", "c"], 900))
    frame = pd.DataFrame({"y": rng.normal(size=900), "x": x, "label": label})
    table = own_table(frame, "label")
    verdicts = np.column_stack([np.full(900, 0.05), np.full(900, 0.05), 0.1 + 0.7 * breaks])
    best = name_shortcuts(table.task, table.task.encoder(table.frame), table.frame, verdicts)[0]
    low, high = best.rule.condition["x"]
    assert best.rule.target == "a"
    assert low == x.min()
    assert high == pytest.approx(0.3, abs=0.1)
    assert best.suspected


def test_mistakes_are_value_errors_with_a_sentence():
    frame = people()
    debugger = DataDebugger(detector=LossDetector(), repeats=1)
    features, labels = frame[["age", "income"]], frame["buys"]
    with pytest.raises(ValueError, match="1 class"):
        debugger.fit(features, ["same"] * len(frame))
    with pytest.raises(ValueError, match="lacks the column"):
        debugger.fit(features, labels, features[["age"]], labels)
    for missing in ("NA", "", None, np.nan, pd.NA):
        holed = labels.astype(object).where(labels.index != 3, missing)
        with pytest.raises(ValueError, match=r"missing in 1 row\(s\), the first at position 3"):
            debugger.fit(features, holed)
    with pytest.raises(ValueError, match=r"missing in 1 row\(s\), the first at position 3"):
        debugger.fit(features, (labels == labels[0]).astype("Int64").where(labels.index != 3))
    with pytest.raises(DemixError, match="no column to learn the label from"):
        debugger.fit(features[[]], labels)
    for held in ((features, None), (None, labels)):
        with pytest.raises(ValueError, match="come together"):
            debugger.fit(features, labels, *held)
    with pytest.raises(ValueError, match=f"{len(frame)} rows, but 5 labels"):
        debugger.fit(features, labels, features, labels[:5])
    with pytest.raises(ValueError, match="there must be validation rows"):
        debugger.fit(features, labels, features[:0], labels[:0])
    for repeats in (0, 1.5, "two"):
        with pytest.raises(ValueError, match=f"a whole number of at least 1, not {repeats!r}"):
            DataDebugger(detector=LossDetector(), repeats=repeats).fit(features, labels)
    with pytest.raises(ValueError, match="validation must be a whole number of at least 1, not 0"):
        DataDebugger(detector=LossDetector(), validation=0).fit(features, labels)
    with pytest.raises(ValueError, match="detector must be an ErrorDetector, not 'tabular'"):
        DataDebugger(detector="tabular").fit(features, labels)


# ------------------------------------------------------------------ the parts by hand


def scored(rows, ways, kind="label"):
    """A judgement with one probability for all rows and one a way for the controls."""
    said = np.tile(np.asarray(rows, dtype=float)[:, None], 3)
    of_controls = np.repeat(np.asarray(ways, dtype=float), 20)
    way = np.repeat(np.arange(len(ways)), 20)
    kinds = np.full(len(way), kind)
    controls = Controls(pd.DataFrame(index=range(len(way))), way, kinds, way)
    return Judgement(
        said[None], np.tile(of_controls[:, None], 3), controls, torch.zeros(len(said), 2), []
    )


def test_the_share_of_an_error_is_what_the_ways_of_its_own_controls_lead_to():
    rows = np.r_[np.full(90, 0.1), np.full(10, 0.9)]
    ways = [0.9, 0.05, 0.95]  # 11 %, all rows, one row in a hundred
    classes = scored(rows, ways)
    numbers = replace(classes, outputs=torch.zeros(100, 1))
    assert evidence.share_of(classes, "label") == 1, "the largest"
    assert evidence.share_of(numbers, "label") == pytest.approx(0.11), "the median"
    features = scored(rows, ways, kind="feature")
    assert evidence.share_of(features, "feature") == pytest.approx(0.06), "the lower quartile"
    both = (np.concatenate(pair) for pair in zip(
        (numbers.controls.kind, numbers.controls.way),
        (np.full(60, "feature"), features.controls.way),
        strict=True,
    ))  # fmt: skip
    controls = Controls(pd.DataFrame(), np.arange(120), *both)
    said = np.concatenate([numbers.of_controls, np.full((60, 3), 0.05)])
    together = replace(numbers, of_controls=said, controls=controls)
    assert evidence.share_of(together, "label") == pytest.approx(0.11), "of its own controls alone"


def test_classes_that_nobody_confuses_do_not_hide_those_that_are():
    drawn_evenly, of_other_rows = 0.99, 0.6
    rows = np.r_[np.full(740, 0.1), np.full(250, 0.6), np.full(10, 0.99)]
    judged = scored(rows, [drawn_evenly, of_other_rows])
    assert evidence.share_of(judged, "label") == pytest.approx(0.261)


def test_the_controls_found_are_those_that_would_be_flagged():
    judged = told_apart(0.25, 2, rows=800)
    diagnosis, said = weigh(judged, [], dirty=1.0)
    for number, kind in enumerate(("label", "feature")):
        cut = judged.probability[diagnosis.flag[kind], number].min()
        mine = judged.controls.kind == kind
        assert said[number].found == (judged.of_controls[mine, number] >= cut).mean()
        assert said[number].low < said[number].share < said[number].high


def test_an_interval_knows_that_other_rows_might_have_come():
    low = evidence._at_least(np.repeat([0.0, 1.0], [90, 10]), np.random.default_rng(0))
    assert 0.03 < low < 0.08


def test_an_estimate_lies_in_its_own_interval():
    judged = scored(np.full(100, 0.1), [0.9])
    said = evidence._evidence(
        judged, "label", np.full(100, 0.3), 0.5, True, np.random.default_rng(0)
    )
    assert said.low <= said.share == pytest.approx(0.3)
    assert said.share <= said.high


def test_only_labels_are_turned_back_by_chance():
    many = told_apart(0.25, 10, rows=600)
    two = replace(many, outputs=torch.zeros(600, 2))
    assert evidence._looks_worse(many, "feature") == evidence._looks_worse(two, "feature")
    ratio = evidence._looks_worse(many, "label") / evidence._looks_worse(two, "label")
    assert ratio == pytest.approx(1.8)
    number = replace(many, outputs=torch.zeros(600, 1))
    ratio = evidence._looks_worse(number, "label") / evidence._looks_worse(two, "label")
    assert ratio == pytest.approx(2)


@pytest.mark.parametrize(
    ("label", "feature", "dirty"), [(0.25, 0.0, False), (0.1, 0.4, False), (0.2, 0.2, True)]
)
def test_a_dirty_table_is_dirty_in_its_labels_and_in_all(label, feature, dirty, monkeypatch):
    worse = {"label": label, "feature": feature}
    monkeypatch.setattr(evidence, "_looks_worse", lambda _, kind: worse[kind])
    assert (dirtiness(scored(np.full(600, 0.1), [0.9])) > 0.5) == dirty


def test_no_shortcut_is_seen_where_no_row_breaks_it_for_sure():
    judged = scored(np.full(100, 0.02), [0.9, 0.9])
    kinds = np.repeat(["label", "feature"], 20)
    judged = replace(judged, controls=replace(judged.controls, kind=kinds))
    suspected = NamedShortcut(Rule("rule", {}, ""), 1.0, np.ones(100, bool))
    diagnosis, (*_, spurious) = weigh(judged, [suspected], dirty=0.0)
    assert not spurious.seen
    assert not diagnosis.flag["spurious"].any()


def test_controls_stand_beside_the_half_that_does_not_hold_their_original():
    table = own_table(people(90), "buys")
    judged = judge_table(table.task, table.frame, LossDetector(), repeats=1)
    controls = judged.controls
    for rows, run in judged.parts:
        beside = run.train.iloc[len(rows) :].reset_index(drop=True)
        wanted = controls.frame[~np.isin(controls.origin, rows)].reset_index(drop=True)
        pd.testing.assert_frame_equal(beside, wanted)
    # What is said of a row's label comes from the model of the other half.
    for (rows, run), (_, other) in zip(judged.parts, reversed(judged.parts), strict=True):
        outputs = predict(other.trained.model, run.encoder.inputs(table.frame.iloc[rows]))
        torch.testing.assert_close(judged.outputs[rows], outputs)


def test_every_repeat_is_another_cut_and_its_verdicts_are_averaged(monkeypatch):
    names, halves = [], []

    class Says:
        chances = iter((0.2, 0.2, 0.5))

        def predict_proba(self, *runs):
            return np.full((sum(len(run.train) for run in runs), 3), next(self.chances))

    def train(task, judged, encoder, *, seed):
        names.append(seed)
        halves.append(tuple(judged["age"][: len(frame) // 2]))
        return SimpleNamespace(model=None), encoder

    def open_run(*parts, validation, seed):
        assert seed == names[-1]
        assert validation == 9
        return SimpleNamespace(train=parts[4])

    frame = people(40).assign(age=range(40))
    monkeypatch.setattr(judging, "train_model", train)
    monkeypatch.setattr(judging, "open_run", open_run)
    monkeypatch.setattr(judging, "predict", lambda _, inputs: torch.ones(len(inputs), 2))
    task = own_table(people(40), "buys").task
    judged = judge_table(task, frame, Says(), repeats=3, validation=9, seed=5)
    assert len(set(names)) == len(set(halves)) == 6
    assert len(judged.parts) == 2
    np.testing.assert_allclose(judged.probability, expit(2 / 3 * logit(0.2)))
    each = np.repeat([0.2, 0.2, 0.5], len(judged.controls.kind) // 3)
    np.testing.assert_allclose(judged.of_controls, np.tile(each[:, None], 3))
    assert (judged.outputs == 1).all()


def test_halves_have_the_same_share_of_a_rare_class():
    frame = people(100).assign(buys=np.where(np.arange(100) < 10, "yes", "no"))
    task = own_table(frame, "buys").task
    for seed in range(5):
        for rows, _ in judging._halves(task, frame, seed):
            assert (frame["buys"].iloc[rows] == "yes").sum() == 5


def test_another_seed_copies_other_rows_and_begins_with_other_weights(monkeypatch):
    table, asked = own_table(people(60), "buys"), []
    one, other = (draw_controls(table.task, table.frame, seed=seed) for seed in (0, 1))
    assert set(one.origin) != set(other.origin)

    def fit(task, architecture, frame, seed, *, rows, batch_size, **_):
        asked.append((seed, batch_size))

    monkeypatch.setattr(judging, "fit_model", fit)
    for seed, rows in ((0, None), (1, 640)):
        judging.train_model(table.task, table.frame, rows=rows, seed=seed)
    assert asked[0][0] != asked[1][0]
    assert [batch for _, batch in asked] == [judging.SMALLEST_BATCH, 640 // judging.BATCHES]


def test_how_far_outside_by_hand_on_either_side():
    known = np.r_[np.arange(50.0), 50, 51 + 2 * np.arange(50.0)]
    table = own_table(people(101).assign(x=known), "buys")
    task = replace(table.task, numeric=("x",), categorical=())
    frame = pd.DataFrame({"x": [50.0, 700.0, -300.0]})
    upper, lower = known[known > 50] - 50, 50 - known[known < 50]
    by_hand = [0.0]
    for side, away in ((upper, 650.0), (lower, 350.0)):
        typical, usual = np.quantile(np.log1p(side / np.median(side)), [0.5, 0.9])
        by_hand.append(np.log1p(away / np.median(side)) - usual - 0.5 * (usual - typical))
    np.testing.assert_allclose(outlyingness(task, frame, pd.DataFrame({"x": known})), by_hand)


def test_what_a_distance_is_worth_does_not_depend_on_its_unit():
    rng = np.random.default_rng(0)
    rows, broken = rng.normal(size=(4000, 2)), rng.normal([2, 1], size=(4000, 2))
    # Of two normal groups the log odds are 2 a verdict and 1 a distance.
    assert outliers._slope(rows, broken) == pytest.approx(0.5, abs=0.1)
    unit = np.array([1, 10])
    assert outliers._slope(rows * unit, broken * unit) == pytest.approx(0.05, abs=0.01)


def test_distances_are_measured_in_the_table_and_used_for_the_diagnosis(monkeypatch):
    frame, measured = people(600), []
    table, judged = blind_judgement(frame, np.zeros(600))

    def measure(task, rows, reference):
        measured.append(reference)
        return np.zeros(len(rows))

    monkeypatch.setattr(outliers, "outlyingness", measure)
    with_outliers(judged, table.task, table.frame)
    assert [reference is table.frame for reference in measured] == [True, True]
    monkeypatch.setattr(conclude, "with_outliers", lambda *_, **__: "with outliers")
    with pytest.raises(AttributeError, match="'str' object has no attribute 'parts'"):
        conclude.conclude(table.task, table.frame, judged)


def test_up_to_three_rules_are_named_that_share_no_column_and_no_rows():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.choice(list("uvw"), 900) for name in "abcd"})
    frame["copy"] = frame["a"].where(rng.random(900) > 0.01, "v")  # but for a few rows
    breaks = rng.random(900) < 0.15
    frame["y"] = np.where((frame["a"] == "u") != breaks, "yes", "no")
    table = own_table(frame, "y")
    verdicts = np.column_stack([np.full(900, 0.05), np.full(900, 0.05), 0.1 + 0.7 * breaks])
    named = name_shortcuts(table.task, table.task.encoder(table.frame), table.frame, verdicts)
    assert len(named) == 3
    columns = [column for found in named for column in found.rule.condition]
    assert len(set(columns)) == 3
    for one, other in itertools.combinations(named, 2):
        assert jaccard_score(one.breaks, other.breaks) < shortcut_names.ALIKE
    assert [found.suspected for found in named] == [True, False, False]


def test_whether_a_column_tells_the_label_alone_is_asked_once(monkeypatch):
    asked = []

    def tells(column, labels, *, is_class):
        asked.append(column.name)
        return True

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.uniform(size=300), "z": rng.uniform(size=300)})
    frame["y"] = np.where(rng.random(300) < 0.5, "yes", "no")
    task, verdicts = own_table(frame, "y").task, rng.uniform(size=(300, 3))
    monkeypatch.setattr(shortcut_names, "is_telltale", tells)
    name_shortcuts(task, task.encoder(frame), frame, verdicts)
    assert sorted(asked) == ["x", "z"]


def test_a_rule_says_the_label_that_goes_with_its_condition():
    rng = np.random.default_rng(0)
    x, breaks = rng.uniform(size=900), rng.random(900) < 0.15
    frame = pd.DataFrame({"x": x, "y": np.where((x > 0.6) != breaks, "yes", "no")})
    table = own_table(frame, "y")
    verdicts = np.column_stack([np.full(900, 0.05), np.full(900, 0.05), 0.1 + 0.7 * breaks])
    best = name_shortcuts(table.task, table.task.encoder(table.frame), table.frame, verdicts)[0]
    assert best.rule.target == "yes"
    assert best.rule.condition["x"] == pytest.approx((0.6, 1.0), abs=0.05)


def test_a_claim_is_what_the_rows_have_and_no_others():
    number, name = pd.Series([1.0, 2, 3, 4, np.nan]), pd.Series(["a", "b", "a", None, "c"])
    for where, claim in (
        ([1, 1, 0, 0, 0], (1, 2)),
        ([0, 0, 1, 1, 1], (3, 4)),
        ([0, 1, 1, 0, 0], None),
        ([0, 0, 0, 0, 1], None),
    ):
        assert shortcut_names._Cells.of(number).claim(np.array(where, bool)) == claim
    assert shortcut_names._Cells.of(name).claim(np.array([1, 0, 1, 0, 1], bool)) == {"a", "c"}
    assert shortcut_names._Cells.of(name).claim(np.array([1, 1, 0, 0, 0], bool)) is None


def test_slips_come_on_top_of_what_the_detector_sees():
    said = Diagnosis.from_probability(np.full((20, 3), 0.2), np.full(3, 0.5))
    before = said.probability.copy(), said.flag.copy()
    seen = [Evidence(kind, True, 0.2, 0.1, 0.4, 0.5, 0.6) for kind in ("label", "feature")]
    after, (label, feature) = conclude.with_slips(said, seen, np.arange(20) < 2)
    assert after.probability["feature"].tolist() == [conclude.SLIP] * 2 + [0.2] * 18
    assert after.flag["feature"].tolist() == [True] * 2 + [False] * 18
    assert label is seen[0]
    shares = feature.share, feature.low, feature.high, feature.slips
    assert shares == pytest.approx((0.28, 0.19, 0.46, 2))
    # The repair goes by what was said before: its rows are mended already.
    pd.testing.assert_frame_equal(said.probability, before[0])
    pd.testing.assert_frame_equal(said.flag, before[1])


@pytest.mark.parametrize("names", ["abcdef", "aaaaaa"], ids=["each its own", "all alike"])
def test_witnesses_are_named_as_the_tables_name_their_rows(names):
    influence = torch.tensor([[0.5, -0.5, 0.1, 0.0, -0.1], [0.0, 0.1, 0.2, 0.3, 0.4]])
    block = torch.stack([torch.ones_like(influence), influence], 1)
    run = SimpleNamespace(
        samples=(torch.arange(3), torch.arange(3)),
        sources=[
            SimpleNamespace(
                channels=("other", "influence"),
                block=lambda x, y: block[[{1: 0, 2: 1}[int(i)] for i in x]],
            )
        ],
        valid_index=np.array([5, 0, 2, 3, 1]),
    )
    index, valid_index = pd.Index(list(names)), pd.Index(list("uvwxyz"))
    wrong = np.isin(np.arange(6), [1, 4])
    lines = {f"{kind}_{what}": wrong * 1.0 for kind in ERROR_TYPES for what in ("probability",)}
    flags = {f"{kind}_error": wrong & (kind == "label") for kind in ERROR_TYPES}
    found = estimator._witnesses(
        SimpleNamespace(parts=[(np.array([0, 4, 1]), run)]),
        pd.DataFrame({**lines, **flags}, index=index),
        valid_index,
    )
    # The most helpful two first, then the most harmful two.
    assert found["row"].tolist() == [names[4]] * 4 + [names[1]] * 4
    assert found["validation_row"].tolist() == ["z", "w", "u", "v", "v", "x", "z", "u"]
    wanted = [0.5, 0.1, -0.5, -0.1, 0.4, 0.3, 0.0, 0.1]
    assert found["influence"].tolist() == pytest.approx(wanted)


def test_the_score_compares_the_rows_as_they_are_with_the_repaired_ones(monkeypatch):
    table, repaired = own_table(people(40), "buys"), []
    halves = np.arange(0, 40, 2), np.arange(1, 40, 2)
    judged = SimpleNamespace(
        parts=[(rows, None) for rows in halves], outputs=torch.arange(40.0)[:, None]
    )

    def mend(task, frame, diagnosis, outputs):
        rows = outputs[:, 0].int().tolist()
        assert frame.index.tolist() == diagnosis.probability.index.tolist() == rows
        repaired.append(rows)
        return SimpleNamespace(samples="repaired", weights="weights")

    def train(task, samples, *, weights, rows, seed):
        assert rows == 20
        assert isinstance(samples, str) == (weights is not None)
        encoder = SimpleNamespace(inputs=lambda held: held.index.tolist(), targets=lambda x: x)
        return SimpleNamespace(model="after" if weights else "before"), encoder

    monkeypatch.setattr(estimator, "repair", mend)
    monkeypatch.setattr(estimator, "train_model", train)
    monkeypatch.setattr(estimator, "predict", lambda model, rows: (model, rows))
    said = np.zeros((40, 3))
    said[3, 1] = 1  # its features are broken: it is no fair test
    found = estimator._retrained(
        table, judged, Diagnosis.from_probability(said, np.full(3, 0.5)), None, 0
    )
    assert repaired == [rows.tolist() for rows in halves]
    odd, even = [r for r in halves[1].tolist() if r != 3], halves[0].tolist()
    assert [part[:2] for part in found] == [
        (("before", rows), ("after", rows)) for rows in (odd, even)
    ]


def test_both_ways_round_count_by_their_rows():
    task = own_table(people(), "buys").task
    right, wrong = torch.tensor([[9.0, 0]]), torch.tensor([[0.0, 9]])
    ways = [
        (right.expand(n, 2), wrong.expand(n, 2), torch.zeros(n, dtype=torch.long)) for n in (30, 10)
    ]
    ways[1] = (ways[1][1], ways[1][1], ways[1][2])
    found = estimator._compare(task, ways)
    assert (found.before, found.after, found.rows) == (0.75, 0.0, 40)


def test_no_shortcut_is_named_where_no_row_is_flagged_for_it(monkeypatch):
    def with_a_rule(task, frame, judgement):
        diagnosis, seen, _ = conclude.conclude(task, frame, judgement)
        assert not diagnosis.flag["spurious"].any()
        rule = Rule("rule", {"age": (0, 30)}, "yes")
        return diagnosis, seen, [NamedShortcut(rule, 1.0, np.ones(len(frame), bool))]

    debugger = DataDebugger()
    debugger.table_ = table = own_table(people(40), "buys")
    judged = judge_table(table.task, table.frame, LossDetector(), repeats=1)
    monkeypatch.setattr(estimator, "conclude", with_a_rule)
    debugger._conclude(judged, table.frame.index, table.frame.index, None, 0)
    assert debugger.shortcuts_ == []


def test_a_shortcut_that_stands_alone_is_believed_in_a_tidy_table():
    rng = np.random.default_rng(0)
    judged = told_apart(0.0, 2)
    breaks = rng.random(4000) < 0.15
    odds = np.where(breaks, 0.0, -4.0) + 0.1 * rng.normal(size=4000)
    judged.by_cut[:, :, 2] = expit(odds)

    def flagged(*links):
        named = [NamedShortcut(Rule("rule", {}, ""), link, breaks) for link in links]
        return weigh(judged, named, dirty=0.0)[0].flag["spurious"]

    assert (flagged(0.9) == breaks).all()
    assert (flagged(0.9, 0.5, 0.4) == breaks).all()
    assert not flagged(0.9, 0.6).any(), "another one explains them as well"
    assert not flagged(0.4).any(), "it explains too little"


def test_settings_reach_the_judges(monkeypatch):
    asked = {}

    def judge(*_, **options):
        asked.update(options)
        raise InterruptedError

    monkeypatch.setattr(estimator, "judge_table", judge)
    frame = people(40)
    with pytest.raises(InterruptedError):
        DataDebugger(detector=LossDetector(), repeats=4, validation=77, random_state=5).fit(
            frame[["age", "income"]], frame["buys"]
        )
    assert (asked["repeats"], asked["validation"], asked["seed"]) == (4, 77, 5)


@pytest.mark.parametrize("number", [3e38, -np.finfo(float).max])
def test_a_number_too_large_for_a_tree_is_a_broken_cell_and_no_crash(number):
    frame = people()
    frame["income"] = frame["income"].astype(float).where(frame.index != 3, number)
    debugger = DataDebugger(detector=LossDetector(), repeats=1)
    found = debugger.fit(frame[["age", "income"]], frame["buys"]).diagnosis_
    assert found["feature_error"].iloc[3]
    assert found["suspicious_cells"].iloc[3] == "income"


def test_whole_labels_stay_whole_beside_validation_labels_with_a_point():
    frame = people(60).assign(buys=lambda f: (f["buys"] == "yes").astype(int))
    held = frame[:40].astype({"buys": float})
    table, valid = estimator._read(frame, held, "buys", "auto")
    assert set(table.frame["buys"]) == set(valid["buys"]) == {"0", "1"}


def test_row_numbers_and_identifiers_are_left_out_beside_validation_rows_too():
    frame = people().assign(nr=range(1, 301), id=range(300), code=[f"R{i}" for i in range(300)])
    table, valid = estimator._read(frame, frame.head(200), "buys", "auto")
    assert set(valid.columns) == {*table.task.features, "buys"} == {"age", "income", "buys"}
    assert table.notes == own_table(frame, "buys").notes
    assert len(table.notes) == 3


def test_a_label_gets_a_name_that_no_column_has():
    frame, name = estimator._joined(pd.DataFrame({"label": [1, 2], "label_": [3, 4]}), [5, 6])
    assert (name, frame[name].tolist(), frame["label"].tolist()) == ("label__", [5, 6], [1, 2])


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


@pytest.mark.parametrize("known", [0.3, 0.45])
def test_a_rule_that_more_rows_break_than_a_minority_is_not_suspected(known):
    """A rare tag with the label it mostly goes with: all other rows of the label break the rule."""
    rng = np.random.default_rng(0)
    tag = rng.random(900) < 0.05
    positive = tag | (rng.random(900) < known)
    frame = pd.DataFrame({"tag": np.where(tag, "t", "n"), "y": np.where(positive, "yes", "no")})
    breaks = tag != positive
    task = own_table(frame, "y").task
    verdicts = np.column_stack([np.full((900, 2), 0.05), 0.1 + 0.3 * breaks])
    best = name_shortcuts(task, task.encoder(frame), frame, verdicts)[0]
    assert (best.breaks == breaks).all()
    assert best.link > 0.99
    assert best.suspected == (known == 0.3)


@pytest.mark.parametrize("wrong", [0.0, 0.15])
def test_a_cut_beside_the_one_that_makes_the_label_is_no_shortcut(wrong):
    rng = np.random.default_rng(0)
    weight = rng.permutation(900) + 1000
    turned = rng.random(900) < wrong
    frame = pd.DataFrame({"weight": weight, "low": np.where((weight < 1300) != turned, "1", "0")})
    beside = (weight >= 1225) & (weight < 1300) if not wrong else turned
    task = own_table(frame, "low").task
    verdicts = np.column_stack([np.full(900, 0.05), np.full(900, 0.05), 0.1 + 0.7 * beside])
    named = name_shortcuts(task, task.encoder(frame), frame, verdicts)
    assert any(s.suspected for s in named) == bool(wrong)
