"""The detector: order-free, any M, relative to its run, same seed same bits, saved and loaded."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import hurry
from scipy.special import expit, logit
from sklearn.metrics import f1_score, roc_auc_score

from demix_lite.detector import (
    CHANNELS,
    DetectorSettings,
    Environment,
    ErrorDetector,
    TrainingSettings,
    classifier,
    make_environment,
    open_run,
    second_pass,
)
from demix_lite.detector.classifier import POOLED_ROWS, _pooled_scale, _split, _thinned
from demix_lite.detector.interventions import alignment_loss, contrastive_loss, validation_view
from demix_lite.detector.runs import RelativeScale, normal_ranks
from demix_lite.detector.second_pass import (
    Judged,
    Rows,
    SecondPass,
    _class_support,
    _number_support,
    calibrate,
    consensus,
    label_support,
)
from demix_lite.detector.set_transformer import Pooling, SetTransformer, summaries
from demix_lite.detector.shortcuts import ShortcutScorer
from demix_lite.detector.training import FirstPass
from demix_lite.diagnosis import (
    ERROR_TYPES,
    Diagnosis,
    best_threshold,
    certain,
    expected_f1_threshold,
    score,
)
from demix_lite.errors import DemixError
from demix_lite.tasks import get_task

TINY = DetectorSettings(
    width=16,
    rounds=1,
    training=TrainingSettings(rows=128, batch=64, mixed=4, elements=32, steps=10),
)


def environment(name: str, architecture: str = "mlp2", validation: int = 48):
    task = get_task("adult")
    return make_environment(
        task,
        task.load(rows=700),
        architecture=architecture,
        clean_ratio=0.5,
        seed=name,
        validation=validation,
    )


@pytest.fixture(scope="module")
def environments():
    made = [environment(f"test {n}") for n in range(8)]
    return [*made, environment("test 0", "mlp1")]


@pytest.fixture(scope="module")
def detector(environments):
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        return ErrorDetector(TINY).fit(environments, facts={"note": "tiny"})


def test_a_fit_keeps_no_factors_in_memory(environments):
    for made in environments:
        made.run.vectors(torch.arange(2))
    short = replace(TINY, rounds=0, training=replace(TINY.training, steps=1, rows=64))
    ErrorDetector(short).fit(environments)
    first, _, held = _split(environments, short.whole_runs)
    assert not any("_valid" in vars(s) for e in (*first, *held) for s in e.run.sources)


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_the_network_ignores_the_order_of_the_validation_samples(pooling):
    torch.manual_seed(0)
    agreement = CHANNELS.index("label_agreement")
    network = SetTransformer(
        len(CHANNELS), agreement, width=16, pooling=pooling, summarise=True
    ).eval()
    vectors = torch.randn(6, len(CHANNELS), 40)
    shuffled = vectors[..., torch.randperm(40)]
    torch.testing.assert_close(network(vectors), network(shuffled), rtol=1e-4, atol=1e-5)
    assert network(vectors[..., :7]).shape == (6, network.embedding)
    assert not torch.allclose(network(vectors), network(vectors * 2), atol=1e-3)


def test_summaries_are_the_quantiles_of_torch_and_the_plain_moments():
    vectors = torch.randn(5, 3, 31)
    found = summaries(vectors, agreement=1).reshape(5, -1, 3)
    wanted = torch.quantile(vectors, torch.linspace(0, 1, 9), dim=-1).transpose(0, 1)
    torch.testing.assert_close(found[:, :9], wanted)
    torch.testing.assert_close(found[:, 9], vectors.mean(-1))
    same = vectors[0, 1] > 0
    torch.testing.assert_close(found[0, 11], vectors[0, :, same].mean(-1))
    torch.testing.assert_close(found[0, 12], vectors[0, :, ~same].mean(-1))


def test_ranked_summaries_do_not_feel_the_order_of_the_samples(environments, detector):
    # The last bit of a sum would decide about ranks, and ranks about logits.
    vectors = environments[0].run.vectors(torch.arange(300))
    summary = detector.first.summarise(vectors)
    draw = torch.Generator().manual_seed(0)
    for _ in range(10):
        shuffled = vectors[..., torch.randperm(vectors.shape[-1], generator=draw)]
        assert torch.equal(detector.first.summarise(shuffled), summary)


def test_relative_scale_is_a_rank_and_ignores_monotone_changes():
    values = torch.randn(200, 2, 15)
    values[:, 1] = (values[:, 1] > 0.5).float()
    bent = values.clone()
    bent[:, 0] = torch.exp(3 * bent[:, 0]) + 7
    torch.testing.assert_close(RelativeScale(values)(values), RelativeScale(bent)(bent))
    scores = RelativeScale(values)(values)
    assert abs(float(scores[:, 0].mean())) < 0.02
    assert abs(float(scores[:, 0].std()) - 1) < 0.03
    assert scores[:, 1].unique().numel() == 2
    assert (scores[:, 1] > 0).eq(values[:, 1] > 0).all()


def test_embeddings_are_relative_to_their_run():
    x = torch.randn(50, 4)
    network = FirstPass(width=8)
    torch.testing.assert_close(network.compare(x), network.compare(torch.exp(3 * x) + 5))
    absolute = FirstPass(width=8, relative=False)
    assert absolute.compare(x) is x


def test_the_verdict_does_not_depend_on_block_size_or_row_order(environments, detector):
    run = environments[3].run
    small, large = (torch.cat(list(run.blocks(size=size))) for size in (17, 512))
    # A value on the border of two ranks may fall to either side by its last bit.
    assert float((small == large).double().mean()) > 0.999
    torch.testing.assert_close(small, large, rtol=0, atol=0.3)
    assert torch.equal(detector._first_pass(run).logits, detector._first_pass(run).logits)


@pytest.mark.usefixtures("hurried")
def test_same_seed_same_bits(environments, detector):
    again = ErrorDetector(TINY).fit(environments)
    run = environments[7].run
    np.testing.assert_array_equal(again.predict_proba(run), detector.predict_proba(run))


def test_save_and_load_give_the_same_verdicts(tmp_path, environments, detector):
    detector.save(tmp_path / "tiny")
    loaded = ErrorDetector.load(tmp_path / "tiny")
    run = environments[7].run
    np.testing.assert_array_equal(loaded.predict_proba(run), detector.predict_proba(run))
    assert loaded.settings == detector.settings
    assert loaded.facts == {"note": "tiny"}


@pytest.mark.usefixtures("hurried")
def test_a_detector_of_absolute_values_keeps_the_scale_of_all_runs(tmp_path, environments):
    settings = replace(TINY, name="absolute", relative=False, pooling="mean")
    absolute = ErrorDetector(settings).fit(environments)
    absolute.save(tmp_path / "absolute")
    loaded = ErrorDetector.load(tmp_path / "absolute")
    one, other = (loaded._seen(environments[n].run).scale for n in (2, 7))
    assert one is other
    assert torch.equal(one.grid, absolute.pooled_scale.grid)
    assert not torch.equal(one.grid, environments[2].run.scale.grid)
    run = environments[7].run
    np.testing.assert_array_equal(loaded.predict_proba(run), absolute.predict_proba(run))
    assert loaded.settings == settings
    assert loaded.name == "absolute"


def test_a_detector_of_relative_values_keeps_no_scale(tmp_path, environments, detector):
    detector.save(tmp_path / "tiny")
    loaded = ErrorDetector.load(tmp_path / "tiny")
    assert loaded.pooled_scale is None
    assert loaded._seen(environments[0].run) is environments[0].run


class Shifted:
    """The scale of a run, with something added to one channel."""

    def __init__(self, scale, channel):
        self.scale, self.channel = scale, CHANNELS.index(channel)

    def __call__(self, vectors):
        scores = self.scale(vectors).clone()
        scores[:, self.channel] = scores[:, self.channel].flip(0) + 1
        return scores


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_a_channel_that_is_left_out_has_no_effect_on_the_verdict(pooling, environments):
    left_out, kept = "label_agreement", "influence"
    channels = tuple(name for name in CHANNELS if name != left_out)
    blind = ErrorDetector(replace(TINY, channels=channels, pooling=pooling, rounds=0))
    blind.calibration = np.tile([1.0, 0.0], (1, 3, 1))  # what it says is not asked here
    run = environments[2].run
    other, seen = (replace(run, scale=Shifted(run.scale, name)) for name in (left_out, kept))
    verdict = blind.predict_proba(run)
    np.testing.assert_array_equal(blind.predict_proba(other), verdict)
    assert not np.allclose(blind.predict_proba(seen), verdict)


@pytest.mark.usefixtures("hurried")
def test_rounds_that_learned_from_practice_are_averaged_with_the_others(
    tmp_path, environments, detector
):
    made = [replace(e, practice=e.injection.endswith(("5", "6", "7"))) for e in environments]
    both = ErrorDetector(replace(TINY, practises=True)).fit(made)
    assert list(both.chains) == ["rounds", "practised"]
    for name, weights in detector.network.state_dict().items():
        assert torch.equal(weights, both.network.state_dict()[name]), "the others are as they were"
    run = environments[2].run
    alone = ErrorDetector(TINY)
    alone.network.load_state_dict(
        {
            name.replace("practised", "rounds"): weights
            for name, weights in both.network.state_dict().items()
            if not name.startswith("rounds")
        }
    )
    alone.network.eval()
    alone.calibration = both.calibration[1:]
    odds = logit(detector.predict_proba(run)) + logit(alone.predict_proba(run))
    np.testing.assert_allclose(both.predict_proba(run), expit(odds / 2), atol=1e-6)
    assert not np.allclose(alone.predict_proba(run), detector.predict_proba(run))
    both.save(tmp_path / "both")
    again = ErrorDetector.load(tmp_path / "both")
    np.testing.assert_array_equal(again.predict_proba(run), both.predict_proba(run))


def test_weights_for_other_channels_are_refused(tmp_path, detector):
    detector.save(tmp_path / "tiny")
    path = tmp_path / "tiny.json"
    about = json.loads(path.read_text())
    about["channels"] = about["channels"][:-1]
    path.write_text(json.dumps(about))
    with pytest.raises(DemixError, match="of another version"):
        ErrorDetector.load(tmp_path / "tiny")


@pytest.mark.parametrize("change", ["an old setting", "no channels", "an old layout", "no facts"])
def test_weights_of_another_version_are_refused(change, tmp_path, detector):
    detector.save(tmp_path / "tiny")
    path = tmp_path / "tiny.json"
    about = json.loads(path.read_text())
    if change == "an old setting":
        about["settings"]["training"]["epochs"] = 8
    elif change == "an old layout":
        about["format"] -= 1
    elif change == "no facts":
        del about["facts"]
    else:
        del about["settings"]["channels"]
    path.write_text(json.dumps(about))
    with pytest.raises(DemixError, match="of another version"):
        ErrorDetector.load(tmp_path / "tiny")


def test_a_missing_detector_is_told(tmp_path):
    with pytest.raises(DemixError, match="no detector"):
        ErrorDetector.load(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["adult", None])
def test_the_names_of_the_shipped_detectors_are_told(name):
    with pytest.raises(DemixError, match=f"unknown detector '{name}'.* Known: .*tabular, tabular-"):
        ErrorDetector.shipped(name)


def test_a_detector_that_was_not_fitted_judges_nothing(tmp_path, environments):
    with pytest.raises(DemixError, match="fit the detector demix_lite first"):
        ErrorDetector(TINY).predict(environments[0].run)
    with pytest.raises(DemixError, match="fit the detector demix_lite first"):
        ErrorDetector(TINY).save(tmp_path / "empty")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("hurried")
def test_too_few_injections_are_refused(environments):
    with pytest.raises(DemixError, match="at least 8"):
        ErrorDetector(TINY).fit(environments[:3])


def fake(task: str, injection: int, architecture: str, practice: bool = False) -> Environment:
    run = SimpleNamespace(task=SimpleNamespace(name=task))
    name = f"{task} {injection}{' practice' if practice else ''}"
    return Environment(name, architecture, run, np.zeros((0, 3)), practice)


def test_every_task_has_injections_in_every_part_and_no_injection_is_in_two():
    made = [
        fake(task, n, architecture)
        for task, count in (("a", 8), ("b", 25))
        for n in range(count)
        for architecture in ("mlp1", "mlp2")
    ]
    parts = _split(made, 60)
    names = [{e.injection for e in part} for part in parts]
    assert [len(part) for part in names] == [5 + 15, 2 + 7, 1 + 3]
    assert len(names[0] | names[1] | names[2]) == 8 + 25
    assert len(parts[0]) == 2 * len(names[0]), "the first pass sees every architecture"
    for part, injections in zip(parts[1:], names[1:], strict=True):
        assert len(part) == len(injections)
        assert {e.architecture for e in part} == {"mlp1", "mlp2"}
    with pytest.raises(DemixError, match="at least 8 injections per task, not 7"):
        _split([*made, *(fake("c", n, "mlp1") for n in range(7))], 60)


def test_later_parts_take_practice_alone_if_asked():
    made = [
        fake("a", n, architecture, practice)
        for n in range(20)
        for practice in (False, True)
        for architecture in ("mlp1", "mlp2")
    ]
    first, *later = _split(made, 60, practice=True)
    assert first == _split(made, 60)[0]
    assert {e.practice for e in first} == {False, True}
    assert all({e.practice for e in part} == {False, True} for part in _split(made, 60)[1:])
    for part in later:
        assert all(e.practice for e in part)
        assert {e.architecture for e in part} == {"mlp1", "mlp2"}
    assert not {e.injection for e in first} & {e.injection for part in later for e in part}


def test_a_long_list_is_thinned_evenly():
    assert _thinned(list(range(5)), 9) == list(range(5))
    assert _thinned(list(range(101)), 5) == [0, 25, 50, 75, 100]


def test_predictions_are_aligned_probabilities(environments, detector):
    run = environments[7].run
    said = detector.predict(run)
    assert list(said.probability.columns) == list(ERROR_TYPES)
    assert said.flag.index.equals(run.index)
    assert said.probability.to_numpy().min() >= 0
    assert said.probability.to_numpy().max() <= 1


def test_abstention_says_nothing_about_unsure_rows(environments, detector):
    run = environments[7].run
    sure, careful = detector.predict(run), detector.predict(run, margin=0.1)
    assert careful.unsure.to_numpy().any()
    assert not (careful.flag & careful.unsure).to_numpy().any()
    assert not (careful.flag & ~sure.flag).to_numpy().any()


def test_the_run_sees_no_true_error(environments):
    """Two users with the same dirty rows get the same vectors, whatever was clean before."""
    task = get_task("adult")
    first = environments[0]
    task_splits = task.load(rows=700)
    from demix_lite.injection import inject
    from demix_lite.models.training import fit
    from demix_lite.seeds import derive_seed
    from demix_lite.tasks.base import seeded_model

    injection = inject(task, task_splits, 0.5, seed="test 0")
    encoder = task.encoder(injection.train.frame)
    seed = derive_seed("adult", "fit", "mlp2", "test 0")
    samples = encoder.transform(injection.train.frame, task.target)
    trained = fit(seeded_model(task, "mlp2", encoder, seed), task.loss, *samples, seed=seed)
    run = open_run(
        task,
        "mlp2",
        encoder,
        trained,
        injection.train.frame,
        injection.valid.frame,
        validation=48,
        seed="test 0",
    )
    rows = torch.arange(20)
    assert torch.equal(run.vectors(rows), first.run.vectors(rows))


def test_the_validation_view_keeps_at_least_half_of_the_samples():
    draw = torch.Generator().manual_seed(1)
    views = [validation_view(20, draw) for _ in range(50)]
    assert {len(view) for view in views} == set(range(10, 21))
    assert all(view.unique().numel() == len(view) and view.max() < 20 for view in views)


def test_intervention_losses_fall_when_views_and_centroids_agree():
    torch.manual_seed(0)
    x = torch.randn(32, 8)
    errors = (torch.rand(32, 3) < 0.4).float()
    assert contrastive_loss(x, x) < contrastive_loss(x, x[torch.randperm(32)])
    assert alignment_loss(x, x, errors) == 0
    assert alignment_loss(x, x + 1, errors) == pytest.approx(1.0, rel=1e-4)


def test_in_a_wide_table_numbers_have_fewer_bins_and_every_category_has_its_own():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(400, 130))
    columns[:, 0] = np.arange(400) % 80
    columns[5, 1] = 2.0
    columns[:, -1] = columns[:, 1] > 0
    columns[5, -1] = 1 - columns[5, -1]
    categorical = np.arange(130) == 0
    rows = Rows(columns, categorical, classes=2)
    assert Rows(columns[:, 1:], categorical[1:], classes=2).bins == second_pass.BINS_IF_WIDE
    assert rows.bins == 81
    assert Rows(columns[:, -20:], categorical[-20:], classes=2).bins == second_pass.BINS
    assert label_support(rows, np.ones(400))[:, 0].argmin() == 5
    assert consensus(rows, columns[:, -1:]).shape == (400, 1)


def test_consensus_never_uses_a_rows_own_verdict():
    """Noise that nothing explains is not handed back to its row."""
    rng = np.random.default_rng(0)
    features, noise = rng.normal(size=(800, 2)), rng.random((800, 1))
    found = consensus(Rows(features, np.zeros(2, bool), classes=0), noise)
    assert abs(np.corrcoef(found[:, 0], noise[:, 0])[0, 1]) < 0.15


def test_plain_support_is_heard_whatever_the_verdicts_are():
    """Labels that one column tells, and first verdicts that are no better than chance."""
    rng = np.random.default_rng(0)
    x, wrong = rng.normal(size=(400, 2)), rng.random(400) < 0.25
    label = ((x[:, 0] > 0) ^ wrong).astype(float)
    rows = Rows(np.c_[x, label], np.array([False, False, True]), classes=2)
    np.testing.assert_array_equal(rows.plain_support, label_support(rows, np.ones(400)))
    assert roc_auc_score(wrong, -rows.plain_support[:, 0]) > 0.95
    run = Judged(rows, torch.zeros(400, 1), torch.zeros(400, 3))
    seen = []
    for verdicts in rng.random((2, 400, 3)):
        without, heard = (
            SecondPass(1, plain_support=plain)._evidence(run, verdicts, np.zeros((400, 2)))
            for plain in (False, True)
        )
        assert torch.equal(heard[:, : without.shape[1]], without)
        seen.append(heard[:, without.shape[1] :])
    assert torch.equal(*seen)
    assert torch.equal(seen[0], torch.from_numpy(rows.plain_support).float())


@pytest.mark.usefixtures("hurried")
def test_a_detector_that_hears_no_plain_support_is_saved_and_loaded(tmp_path, environments):
    detector = ErrorDetector(replace(TINY, plain_support=False)).fit(environments)
    detector.save(tmp_path / "plain")
    loaded, run = ErrorDetector.load(tmp_path / "plain"), environments[7].run
    assert not loaded.settings.plain_support
    np.testing.assert_array_equal(loaded.predict_proba(run), detector.predict_proba(run))


def test_parts_of_one_table_are_judged_in_their_order(environments, detector):
    one, other = (environments[n].run for n in (2, 5))
    together = detector._first_pass(one, other)
    columns = [run.columns()[0] for run in (one, other)]
    np.testing.assert_array_equal(together.rows.columns, np.concatenate(columns))
    for run, logits in zip((one, other), together.logits.tensor_split([len(one)]), strict=True):
        alone = detector._first_pass(run).logits
        assert np.corrcoef(alone[:, 0], logits[:, 0])[0, 1] > 0.9


def test_the_first_verdicts_are_calibrated_before_the_second_pass(environments, detector):
    second = _split(environments, TINY.whole_runs)[1]
    judged = [detector._first_pass(e.run) for e in second]
    logits = np.concatenate([run.logits.numpy() for run in judged])
    wanted = calibrate(logits, np.concatenate([e.errors for e in second]))
    (chain,) = detector.chains["rounds"]
    np.testing.assert_allclose(chain.calibration, wanted, rtol=1e-3, atol=1e-3)
    said = 1 / (1 + np.exp(-(wanted[:, 0] * judged[0].logits.numpy() + wanted[:, 1])))
    np.testing.assert_allclose(chain._verdicts(judged[0]), said, atol=1e-3)


@pytest.mark.usefixtures("hurried")
def test_every_round_hears_the_verdicts_of_the_round_before():
    class Round:
        def fit(self, judged, truths, *, seed):
            self.heard, self.seed = [run.logits for run in judged], seed
            return [run.logits + 1 for run in judged]

    rounds, detector = [Round(), Round(), Round()], ErrorDetector(TINY)
    judged = [Judged(None, torch.zeros(2, 1), torch.zeros(2, 3)) for _ in range(2)]
    detector._train_rounds(rounds, judged, [np.zeros((2, 3))] * 2)
    assert [[int(x.max()) for x in each.heard] for each in rounds] == [[0, 0], [1, 1], [2, 2]]
    assert [each.seed for each in rounds] == [0, 1, 2]


@pytest.mark.usefixtures("hurried")
def test_practised_rounds_learn_from_practice_alone(environments, monkeypatch):
    made = [replace(e, practice=e.injection.endswith(("5", "7"))) for e in environments]
    name_of, learned = {id(e.errors): e.injection for e in made}, []

    def learn(self, chain, judged, truths):
        learned.append(sorted(name_of[id(errors)] for errors in truths))

    monkeypatch.setattr(classifier, "train_first_pass", lambda *_: None)
    monkeypatch.setattr(ErrorDetector, "_train_rounds", learn)
    ErrorDetector(replace(TINY, rounds=0, practises=True)).fit(made)
    assert learned == [["adult test 5", "adult test 6"], ["adult test 5"]]


@pytest.mark.parametrize("change", [{"practises": True}, {"whole_runs": 2}])
def test_too_few_runs_for_the_second_pass_are_refused_before_the_first(change, environments):
    with pytest.raises(DemixError, match="too few runs to learn from"):
        ErrorDetector(replace(TINY, **change)).fit(environments)


def names(environments):
    return [e.injection for e in environments]


def test_the_scale_of_all_runs_is_made_of_rows_of_all(environments):
    some = [e.run.raw_vectors(POOLED_ROWS) for e in environments]
    pooled = _pooled_scale(environments)
    assert torch.equal(pooled.grid, RelativeScale(torch.cat(some)).grid)


def test_the_scale_of_all_runs_takes_runs_with_fewer_validation_samples():
    vectors = torch.randn(6, len(CHANNELS), 20)
    parts = vectors[..., :12], vectors[..., 12:]
    runs = [SimpleNamespace(run=SimpleNamespace(raw_vectors=lambda _, v=v: v)) for v in parts]
    assert torch.equal(_pooled_scale(runs).grid, RelativeScale(vectors).grid)


def test_whole_runs_are_limited_and_two_fifths_as_many_calibrate():
    parts = _split([fake("a", n, "mlp1") for n in range(100)], 10)
    assert [len(part) for part in parts] == [60, 10, 4]


def test_tied_values_share_the_middle_of_their_ranks():
    same = torch.ones(50, 1, 4)
    assert not RelativeScale(same)(same).any()
    half = (torch.arange(200).reshape(50, 1, 4) % 2).float()
    low, high = RelativeScale(half)(half).unique().tolist()
    assert low == -high


def test_evidence_of_a_shortcut_comes_from_a_scorer_that_has_not_seen_the_run(monkeypatch):
    learned = {}

    def learn(scorer, found, truths, *, seed):
        assert [truth.tolist() for truth in truths] == [[run] for run in found]
        learned[scorer] = found

    def evidence(scorer, found):
        assert found not in learned[scorer]
        return found

    monkeypatch.setattr(second_pass, "train_scorer", learn)
    monkeypatch.setattr(second_pass, "_candidates", lambda rows, _: rows)
    monkeypatch.setattr(ShortcutScorer, "evidence", evidence)
    runs = [Judged(number, None, None) for number in range(5)]
    truths = [np.array([[0, 0, number]]) for number in range(5)]
    second = SecondPass(1)
    assert second._fit_shortcuts(runs, [None] * 5, truths, seed=0) == list(range(5))
    assert learned[second.shortcuts] == list(range(5))


def test_labels_are_supported_by_rows_as_far_as_the_verdicts_trust_them(monkeypatch):
    def support(rows, trust, *, seed):
        assert seed == 90
        return np.repeat(trust[:, None], 6, axis=1)

    monkeypatch.setattr(second_pass, "label_support", support)
    monkeypatch.setattr(second_pass, "consensus", lambda rows, verdicts, *, seed: verdicts)
    verdicts = np.random.default_rng(0).random((90, 3))
    run = Judged(None, torch.zeros(90, 1), torch.zeros(90, 3))
    heard = SecondPass(1, plain_support=False)._evidence(run, verdicts, np.zeros((90, 2)))
    np.testing.assert_allclose(heard[:, 13:19].T, [1 - verdicts[:, 0]] * 6, rtol=1e-5)


def test_support_of_a_class_by_hand():
    said = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1]])
    found = _class_support(said, np.array([0.0, 0, 2, 1]), np.array([1, 0.5, 1, 0.5]))
    support = np.log([0.9 / 0.1, 0.2 / 0.5, 0.7 / 0.2, 0.5 / 0.4])
    common, rare, middle = -np.log(np.array([1.5, 0.5, 1]) / 3 + 1e-3)
    rarity, rival = [common, common, middle, rare], [rare, rare, rare, common]
    np.testing.assert_allclose(found[:, 0], support)
    np.testing.assert_allclose(found[:, 1], rarity)
    ranked = np.column_stack([support, rarity, rival, -np.abs(support)])
    np.testing.assert_allclose(found[:, 2:], normal_ranks(ranked))


def test_support_of_a_number_by_hand():
    labels = np.r_[np.zeros(9), 10.0]
    said = labels.copy()
    said[[0, 9]] = 5, 9
    found = _number_support(said, labels, np.r_[np.full(9, 0.5), 1.0])
    assert found[:, 0].argsort()[:2].tolist() == [0, 9], "far from what is predicted"
    np.testing.assert_allclose(found[:, 0], 2 * found[:, 2])
    rarity = -np.log(np.array([4.5] * 9 + [1.0]) / 5.5 + 1e-3)
    np.testing.assert_allclose(found[:, 1], rarity)
    np.testing.assert_allclose(found[:, 3:], normal_ranks(np.column_stack([rarity, labels, said])))


def test_normal_ranks_are_symmetric():
    ranks = normal_ranks(np.random.default_rng(0).normal(size=(101, 2)))
    np.testing.assert_allclose(ranks.mean(0), 0, atol=1e-9)


def test_best_threshold_is_the_middle_of_those_with_the_largest_f1():
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5, 1.0):
        truth = rng.random(200) < share
        said = np.clip(0.3 * truth + 0.7 * rng.random(200), 0, 1).round(2)
        tried = np.linspace(0.02, 0.98, 97)
        f1 = np.array([f1_score(truth, said >= t, zero_division=0) for t in tried])
        best = tried[f1 == f1.max()]
        assert best_threshold(truth, said) == best[len(best) // 2]


def test_expected_f1_threshold_is_best_for_calibrated_probabilities():
    rng = np.random.default_rng(0)
    probability = rng.beta(0.6, 1.8, size=20_000)
    truth = rng.random(20_000) < probability
    chosen = expected_f1_threshold(probability)

    def f1(threshold):
        flag = probability >= threshold
        return 2 * (flag & truth).sum() / (flag.sum() + truth.sum())

    best = max(f1(t) for t in np.linspace(0.02, 0.98, 97))
    assert f1(chosen) > best - 0.01


def test_scores_against_hand_computed_values():
    truth = pd.DataFrame(
        [[True, False, True], [False, True, False], [True, False, False]],
        columns=list(ERROR_TYPES),
    )
    assert score(certain(truth), truth)["f1_macro"] == 1.0
    said = Diagnosis.from_probability(
        np.array([[0.9, 0.1, 0.9], [0.8, 0.9, 0.1], [0.1, 0.1, 0.1]]), np.full(3, 0.5)
    )
    result = score(said, truth)
    assert result["f1_label"] == pytest.approx(0.5)
    assert result["f1_feature"] == result["f1_spurious"] == 1.0
    assert np.isnan(score(certain(truth * False), truth * False)["f1_label"])


def test_average_precision_goes_by_probability_and_any_error_by_all_three():
    said = Diagnosis.from_probability(
        np.array([[0.6, 0.6, 0.0], [0.7, 0.0, 0.0], [0.65, 0.0, 0.0], [0.4, 0.4, 0.0]]),
        np.full(3, 0.3),
    )
    truth = pd.DataFrame(False, index=range(4), columns=list(ERROR_TYPES))
    truth.loc[[1, 0], ["label", "feature"]] = [[True, False], [False, True]]
    found = score(said, truth)
    # The chance of any error falls from row 0 (0.84) over row 1 (0.7) and 2 to row 3 (0.64).
    assert found["ap_any"] == found["ap_label"] == 1.0
    assert found["f1_label"] < 1
    assert np.isnan(found["f1_macro"]), "no row breaks a shortcut, so nothing is known of that"


def test_someone_certain_speaks_of_the_rows_by_their_names():
    truth = pd.DataFrame(True, index=["b", "a"], columns=list(ERROR_TYPES))
    for table in vars(certain(truth)).values():
        assert table.index.tolist() == ["b", "a"]


def test_the_shipped_detector_beats_chance_by_far_on_the_twin():
    fresh = environment("a seed never used in training", "mlp1", validation=128)
    found = score(
        ErrorDetector.shipped("tabular").predict(fresh.run),
        pd.DataFrame(fresh.errors, columns=list(ERROR_TYPES)),
    )
    share = fresh.errors.mean(0)
    for kind, chance in zip(ERROR_TYPES, share, strict=True):
        assert found[f"ap_{kind}"] > 1.5 * chance


def test_nothing_is_flagged_where_nothing_is_suspicious():
    assert not Diagnosis.from_probability(np.zeros((4, 3))).flag.any(axis=None)


def test_names_with_dots_do_not_overwrite_each_other(tmp_path, detector):
    for name in ("v1.2", "v1.3"):
        detector.save(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 4
    for name in ("v1.2", "v1.3.json", "v1.3.safetensors"):
        assert (ErrorDetector.load(tmp_path / name).calibration == detector.calibration).all()


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_damaged_detector_is_told(suffix, tmp_path, detector):
    detector.save(tmp_path / "cut")
    file = tmp_path / f"cut{suffix}"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DemixError, match="damaged"):
        ErrorDetector.load(tmp_path / "cut")
