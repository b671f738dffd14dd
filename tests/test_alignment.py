"""What an alignment task answers: splits by prompt, shortcuts, broken texts, repair, a baseline."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from sklearn.metrics import roc_auc_score

from demix_lite.baselines.noisy_clicks import NoisyClicks
from demix_lite.baselines.reward_margin import RewardMargin
from demix_lite.benchmark import prepare, run_pipeline
from demix_lite.benchmark.protocols import shipped_detector
from demix_lite.data.pairs import with_attributes
from demix_lite.diagnosis import Diagnosis
from demix_lite.errors import DemixError
from demix_lite.injection import inject
from demix_lite.models.preference_lm import SMALL_LM
from demix_lite.models.training import fit, predict
from demix_lite.repair import repair
from demix_lite.tasks import get_task
from demix_lite.tasks.alignment import DERIVED, KINDS
from demix_lite.tasks.base import seeded_model
from demix_lite.tasks.labels import Preference

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("ultrafeedback", "capybara")
few = settings(max_examples=10)


@pytest.fixture(scope="module")
def loaded():
    task = get_task("ultrafeedback")
    return task, task.load(rows=1500)


# ------------------------------------------------------------------ label and rules


def test_a_preference_is_one_margin_judged_by_accuracy():
    label = Preference()
    margins, targets = torch.tensor([[2.0], [-1.0], [1.0]]), torch.tensor([1, 0, 0])
    assert (label.outputs, label.classes, label.two_sided) == (1, 2, False)
    assert label.metric(margins, targets) == pytest.approx(2 / 3)
    assert label.margin(margins, targets).tolist() == [2, 1, -1]
    wanted = torch.log1p(torch.exp(torch.tensor([-2.0, -1.0, 1.0])))
    torch.testing.assert_close(label.loss(margins, targets), wanted)
    labels = pd.Series(["first", "second"])
    assert label.better(labels, margins[:2]).tolist() == ["second", "first"]
    assert label.wrong(labels, np.random.default_rng(0)).tolist() == ["second", "first"]


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_stands_in_one_part_alone(name):
    splits = get_task(name).load(rows=1500)
    parts = [set(part["prompt"]) for part in (splits.train, splits.valid, splits.test)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert len(splits.test) == pytest.approx(450, abs=60)
    assert len(splits.valid) == pytest.approx(210, abs=50)
    with pytest.raises(DemixError, match="ask for more rows"):
        get_task(name).load(rows=1)


def test_a_pair_that_no_rule_tells_apart_breaks_none(loaded):
    task, splits = loaded
    for rule in task.rules:
        (column,) = rule.condition
        frame = splits.train
        minority = task.minority(frame, rule)
        named = frame[column].isin(["first", "second"])
        assert_same = (frame[column] != frame["preferred"]) & named
        assert (minority == assert_same).all()
        errors = inject(task, splits, 0.5, rule=rule.name).train.errors
        assert errors["spurious"].mean() == pytest.approx(0.15, abs=0.002)


def test_a_pair_that_no_rule_tells_apart_is_in_no_group(loaded):
    task, splits = loaded
    for rule in task.rules:
        (column,) = rule.condition
        named = splits.test[column].isin(["first", "second"]).to_numpy()
        groups = task.groups(splits.test, rule)
        assert (groups[~named] == -1).all()
        assert set(groups[named]) == {0, 1, 2, 3}
        assert (np.isin(groups, [1, 2]) == task.minority(splits.test, rule)).all()


def test_rules_that_hardly_apply_are_left_out(loaded):
    task, splits = loaded
    assert task.rules_for(splits.train) == task.rules
    without = splits.train.assign(with_emoji="neither")
    assert [rule.name for rule in task.rules_for(without)] == [r.name for r in task.rules[:2]]
    bare = splits.train.assign(**{c: "neither" for rule in task.rules for c in rule.condition})
    with pytest.raises(DemixError, match="no spurious rule of .* fits this table"):
        inject(task, replace(splits, train=bare))


# ------------------------------------------------------------------ errors


@few
@given(seed=st.integers(0, 10_000), clean_ratio=st.floats(0.3, 0.9), co=st.booleans())
def test_planned_texts_break_and_shares_hit_their_targets(loaded, seed, clean_ratio, co):
    task, splits = loaded
    injection = inject(task, splits, clean_ratio, seed=seed, co_occurring=co)
    texts = list(injection.plan.details)
    assert injection.plan.columns == (*texts, *DERIVED)
    for corrupted in (injection.train, injection.valid):
        wanted = (1 - clean_ratio) / 2
        for kind in ("label", "feature"):
            assert corrupted.errors[kind].mean() == pytest.approx(wanted, abs=0.005)
        changed = corrupted.cells[texts]
        assert (changed.all(axis=1) == corrupted.errors["feature"]).all()
        others = corrupted.frame.columns.difference([*texts, *DERIVED, task.target])
        assert_frame_equal(corrupted.frame[others], corrupted.original[others])
        # What is counted follows the text.
        assert_frame_equal(with_attributes(corrupted.frame), corrupted.frame)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "one", "- 5\n- 9 \U0001f600", "one two three four five six"])
def test_every_kind_changes_every_text(loaded, kind, text):
    task, splits = loaded
    frame = splits.train.head(3).assign(first=text)
    plan = task.plan_feature_errors(frame, np.random.default_rng(0))
    plan = replace(plan, kind=kind, details={"first": ["another", "text"]})
    broken = task.corrupt_features(frame, plan, np.random.default_rng(1))
    assert (broken["first"] != text).all()
    broken["first"].str.encode("utf-8")
    assert list(broken) == list(frame)


def test_suspicious_pairs_are_masked(loaded):
    task, splits = loaded
    frame = splits.train.head(4)
    masked, changed = task.impute(frame, splits.train)
    assert (masked[["first", "second"]] == "").to_numpy().all()
    assert masked["prompt"].equals(frame["prompt"])
    assert changed.to_numpy().all()
    assert masked["longer"].unique().tolist() == ["neither"]


def test_only_pairs_that_are_more_likely_swapped_than_not_are_turned(loaded):
    task, splits = loaded
    frame = splits.train.head(4)
    probability = np.zeros((4, 3))
    probability[:, 0] = 0.0, 0.4, 0.49, 0.95
    diagnosis = Diagnosis.from_probability(probability, np.full(3, 0.3), index=frame.index)
    done = repair(task, frame, diagnosis, torch.zeros(4, 1))
    turned = done.samples[task.target] != frame[task.target][done.samples.index]
    assert done.samples.index[turned].tolist() == [3]
    assert done.relabelled.tolist() == [3]
    assert (done.frame[task.target] != frame[task.target]).tolist() == [False] * 3 + [True]


def test_only_pairs_that_are_more_likely_broken_than_not_are_masked(loaded):
    task, splits = loaded
    frame = splits.train.head(3)
    probability = np.zeros((3, 3))
    probability[:, 1] = 0.2, 0.45, 0.55
    diagnosis = Diagnosis.from_probability(probability, np.full(3, 0.3), index=frame.index)
    done = repair(task, frame, diagnosis, torch.zeros(3, 1))
    assert diagnosis.flag["feature"].tolist() == [False, True, True]
    assert done.frame["first"].eq("").tolist() == [False, False, True]
    assert done.samples["first"].eq("").tolist() == [False, False, True]


def test_the_family_is_judged_by_a_detector_that_is_there():
    assert shipped_detector("alignment").name == "demix_lite"


# ------------------------------------------------------------------ the model


@pytest.fixture(scope="module")
def encoder(loaded):
    pytest.importorskip("transformers", reason="needs demix_lite[llm]")
    task, splits = loaded
    return task.encoder(splits.train.head(60))


def test_the_order_of_the_answers_is_a_matter_of_sign(loaded, encoder):
    _, splits = loaded
    frame = splits.train.head(8)
    other = frame.assign(first=frame["second"], second=frame["first"])
    one, two = encoder.inputs(frame), encoder.inputs(other)
    torch.testing.assert_close(one["reference"], -two["reference"])
    torch.testing.assert_close(encoder.features(one), -encoder.features(two))


def test_another_language_model_is_chosen_by_its_folder(loaded, encoder, tmp_path):
    task, splits = loaded
    folder = str(shutil.copytree(SMALL_LM, tmp_path / "lm"))
    other = task.with_language_model(folder).encoder(splits.train.head(9))
    assert other.reference is not encoder.reference
    frame = splits.train.head(5)
    torch.testing.assert_close(other.inputs(frame), encoder.inputs(frame))
    with pytest.raises(DemixError, match="adult is not about language"):
        get_task("adult").with_language_model(folder)


def test_masked_pairs_have_no_gradient(loaded, encoder):
    task, splits = loaded
    frame = splits.train.head(4)
    masked, _ = task.impute(frame, splits.train)
    inputs, targets = encoder.transform(masked, task.target)
    model = seeded_model(task, "lora", encoder, 0)
    task.loss(model(inputs), targets).sum().backward()
    for parameter in model.parameters():
        if parameter.requires_grad:
            assert parameter.grad.abs().max() < 1e-6


def test_columns_for_trees(loaded, encoder):
    _, splits = loaded
    values, categorical = encoder.columns(splits.train.head(20))
    assert values.shape == (20, len(categorical))
    assert np.isfinite(values).all()
    assert set(np.unique(values[:, categorical])) <= {0, 1, 2}
    assert categorical.sum() == 3


@pytest.mark.slow
@pytest.mark.gpu
def test_the_whole_line_runs_on_cuda():
    pytest.importorskip("transformers", reason="needs demix_lite[llm]")
    here, there = (
        run_pipeline("ultrafeedback", rows=900, validation=64, device=device).row
        for device in ("cpu", "cuda")
    )
    assert there["device"] != here["device"]
    for name in ("f1_macro", "metric_dirty", "metric_repaired", "metric_oracle"):
        assert there[name] == pytest.approx(here[name], abs=0.06)


@pytest.mark.slow
def test_errors_are_seen_through_the_whole_line(loaded):
    pytest.importorskip("transformers", reason="needs demix_lite[llm]")
    prepared = prepare("ultrafeedback", rows=500, validation=48, seed=1)
    assert prepared.facts["metric_name"] == "preference accuracy"
    assert not prepared.run.sources[0].capture.fallback
    reached = {kind: done.metric for kind, done in prepared.evaluations.items()}
    assert reached["dirty"] < reached["clean"]
    assert torch.isfinite(prepared.run.vectors(torch.arange(32))).all()
    assert RewardMargin.applies_to(prepared.task)
    assert not RewardMargin.applies_to(get_task("yelp"))
    assert not NoisyClicks.applies_to(prepared.task)
    scores = RewardMargin().scores(prepared.run)
    swapped = prepared.injection.train.errors["label"]
    assert scores.shape == (len(swapped), 3)
    assert roc_auc_score(swapped, scores[:, 0]) > 0.7


@pytest.fixture(scope="module")
def samples():
    """An encoder, and what it makes of rows to train and to test on."""
    pytest.importorskip("transformers", reason="needs demix_lite[llm]")
    task = get_task("ultrafeedback")
    splits = task.load(rows=2500)
    encoder = task.encoder(splits.train)
    parts = (splits.train, splits.test.head(400))
    return encoder, *(encoder.transform(part, task.target) for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["lora", "last"])
def test_a_model_learns_which_answer_is_better(architecture, samples):
    task, (encoder, train, (inputs, targets)) = get_task("ultrafeedback"), samples
    model = seeded_model(task, architecture, encoder, 0)
    trained = fit(model, task.loss, *train, **task.training)
    assert task.metric(predict(trained.model, inputs), targets) >= 0.9
