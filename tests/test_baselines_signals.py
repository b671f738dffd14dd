"""Baselines that look at gradients and losses: exact, repeatable, for every kind of label."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.func import functional_call, grad, vmap
from toy import toy_learnable_splits, toy_number_splits, toy_number_task, toy_task

from demix_lite.baselines import BASELINES, map_d, retraining, reward_margin, summary_gbm
from demix_lite.baselines.base import BINS, Baseline, _places, _rates
from demix_lite.baselines.map_d import (
    ATYPICAL,
    CORRUPTED,
    MISLABELLED,
    TYPICAL,
    _choose,
    _corrupt,
    _mislabel,
)
from demix_lite.baselines.retraining import run_seed
from demix_lite.detector import CHANNELS, make_environment
from demix_lite.detector.runs import normal_ranks
from demix_lite.detector.set_transformer import summaries
from demix_lite.diagnosis import ERROR_TYPES, score
from demix_lite.errors import DemixError
from demix_lite.models.training import take
from demix_lite.tasks.labels import Preference

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = (
    "random",
    "self_influence",
    "average_absolute_influence",
    "marginal_influence",
    "class_gradient",
    "dda_repair",
    "map_d",
    "just_train_twice",
)
SIGNALS = NAMES[1:6]
LABEL, SPURIOUS = ERROR_TYPES.index("label"), ERROR_TYPES.index("spurious")


def environment(kind: str, rows: int = 300, seed: str = "signals"):
    if kind == "number":
        task, splits = toy_number_task(), toy_number_splits(rows)
    else:
        classes = int(kind)
        task, splits = toy_task(classes), toy_learnable_splits(rows, classes=classes)
    return make_environment(
        task, splits, architecture="mlp2", clean_ratio=0.5, seed=seed, validation=40
    )


@pytest.fixture(scope="module")
def tiny():
    return {kind: environment(kind) for kind in ("2", "3", "number")}


@pytest.fixture(scope="module")
def easy():
    kinds = (("2", "b"), ("2", "c"), ("number", "b"))
    return [environment(kind, rows=6000, seed=seed) for kind, seed in kinds]


def brute_force(run, model) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of all training and of the chosen validation rows, written out in float64."""
    model = copy.deepcopy(model).double()
    weights = dict(model.named_parameters())

    def loss(weights, x, y):
        return run.task.loss(functional_call(model, weights, (x[None],)), y[None])[0]

    def gradients(frame):
        x, y = run.encoder.transform(frame, run.task.target)
        y = y.double() if y.is_floating_point() else y
        parts = vmap(grad(loss), in_dims=(None, 0, 0))(weights, x.double(), y)
        return torch.cat([p.flatten(1) for p in parts.values()], dim=1).detach().numpy()

    return gradients(run.train), gradients(run.valid.loc[run.valid_index])


def expected_signal(name: str, run, models) -> np.ndarray:
    pairs = [brute_force(run, model) for model in models]
    if name == "self_influence":
        return sum((train**2).sum(1) for train, _ in pairs)
    if name == "dda_repair":
        pairs = [[g / np.linalg.norm(g, axis=1, keepdims=True) for g in pair] for pair in pairs]
    products = sum(train @ valid.T for train, valid in pairs)
    if name == "average_absolute_influence":
        return np.abs(products).mean(1)
    if name == "marginal_influence":
        return -products.sum(1)
    if name == "dda_repair":
        return -products.mean(1)
    labels = run.valid.loc[run.valid_index, run.task.target]
    groups = run.task.label.groups(labels, run.train[run.task.target]).to_numpy()
    return -np.min([products[:, groups == g].sum(1) for g in np.unique(groups)], axis=0)


@pytest.mark.parametrize("checkpoints", ["both", "final"])
@pytest.mark.parametrize("kind", ["2", "3", "number"])
@pytest.mark.parametrize("name", SIGNALS)
def test_signals_equal_gradients_written_out(tiny, name, kind, checkpoints):
    run = tiny[kind].run
    models = [run.trained.model] + ([run.trained.early] if checkpoints == "both" else [])
    expected = expected_signal(name, run, models)
    found = BASELINES[name](checkpoints=checkpoints).scores(run)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_ignore_the_order_of_the_validation_samples(tiny, name):
    run = tiny["3"].run
    turned = replace(run, valid_index=run.valid_index[::-1])
    one, other = (BASELINES[name]().scores(r) for r in (run, turned))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_follow_the_order_of_the_rows(tiny, name):
    run = tiny["number"].run
    order = np.random.default_rng(0).permutation(len(run))
    samples = take(run.samples, torch.from_numpy(order))
    turned = replace(run, train=run.train.iloc[order], samples=samples)
    one, other = (BASELINES[name]().scores(r) for r in (run, turned))
    np.testing.assert_allclose(one[order], other, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def test_marginal_influence_and_dda_repair_rank_differently(tiny):
    run = tiny["2"].run
    one, other = (
        BASELINES[name](checkpoints="final").scores(run)
        for name in ("marginal_influence", "dda_repair")
    )
    assert pd.Series(one).corr(pd.Series(other), method="spearman") < 0.99


@pytest.mark.parametrize("kind", ["2", "3", "number"])
@pytest.mark.parametrize("name", NAMES)
def test_same_run_same_scores_whatever_was_drawn_before(tiny, name, kind):
    run = tiny[kind].run
    first = BASELINES[name]().scores(run)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    np.testing.assert_array_equal(BASELINES[name]().scores(run), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape in ((len(run),), (len(run), 3))
    assert np.isfinite(first).all()


@pytest.mark.parametrize("name", NAMES)
def test_scoring_leaves_the_run_as_it_was(tiny, name):
    run = tiny["2"].run
    frame, weights = run.train.copy(), copy.deepcopy(run.trained.model.state_dict())
    BASELINES[name]().scores(run)
    pd.testing.assert_frame_equal(run.train, frame)
    for key, values in run.trained.model.state_dict().items():
        assert torch.equal(values, weights[key])


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_fits_predicts_saves_and_loads(tiny, name, tmp_path):
    first, second = tiny["2"], tiny["3"]
    baseline = BASELINES[name]().fit([first])
    said = baseline.predict(second.run)
    assert list(said.probability.columns) == list(ERROR_TYPES)
    assert said.flag.index.equals(second.run.index)
    baseline.save(tmp_path / "deep" / "b.json")
    loaded = BASELINES[name].load(str(tmp_path / "deep" / "b.json"))
    assert loaded.settings == baseline.settings
    again = loaded.predict(second.run)
    np.testing.assert_allclose(again.probability, said.probability, atol=1e-6)
    assert json.loads((tmp_path / "deep" / "b.json").read_text())["settings"] == loaded.settings
    with pytest.raises(DemixError, match=f"is a file of {name}, not of"):
        BASELINES[next(n for n in NAMES if n != name)].load(tmp_path / "deep" / "b.json")


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_that_was_not_fitted_refuses_to_judge(tiny, name):
    with pytest.raises(DemixError, match="fit the baseline"):
        BASELINES[name]().predict(tiny["2"].run)


def test_an_unknown_setting_is_refused():
    with pytest.raises(DemixError, match="no setting depth"):
        BASELINES["map_d"](depth=3)


@pytest.mark.parametrize("name", ["self_influence", "class_gradient"])
def test_signals_tell_label_errors_from_clean_rows(easy, name):
    for known in easy:
        wrong = known.errors[:, LABEL]
        kept = wrong | ~known.errors.any(1)
        assert roc_auc_score(wrong[kept], BASELINES[name]().scores(known.run)[kept]) > 0.7


def test_map_d_finds_wrong_labels(easy):
    for known in easy:
        votes = BASELINES["map_d"]().scores(known.run)
        assert votes.min() >= 0
        assert votes.sum(1).max() <= 1 + 1e-9
        assert roc_auc_score(known.errors[:, LABEL], votes[:, LABEL]) > 0.7


def test_probes_of_different_kinds_are_different_rows(easy):
    known = easy[0]
    chosen = _choose(known.run, np.random.default_rng(0))
    every = np.concatenate(chosen)
    assert len(set(every)) == len(every)
    assert [len(part) for part in chosen] == [len(chosen[ATYPICAL])] * 4
    # What passes for typical is mostly right; the changed copies start from such rows.
    wrong = known.errors[:, LABEL]
    for kind in (TYPICAL, MISLABELLED, CORRUPTED):
        assert wrong[chosen[kind]].mean() < 0.5 * wrong.mean()


def test_probes_get_errors_of_their_own(easy):
    run, rows = easy[0].run, np.arange(100)
    rng = np.random.default_rng(0)
    target, before = run.task.target, run.train.iloc[rows].reset_index(drop=True)
    wrong = _mislabel(run, rows, rng).reset_index(drop=True)
    broken = pd.concat(_corrupt(run, rows, rng), ignore_index=True)
    assert (wrong[target] != before[target]).all()
    pd.testing.assert_frame_equal(wrong.drop(columns=target), before.drop(columns=target))
    assert broken[target].equals(before[target])
    columns = list(run.task.features)
    assert (broken[columns].compare(before[columns]).notna().any(axis=1)).sum() > 90


def test_just_train_twice_ranks_the_minority_above_chance(easy):
    # Wrong labels have a high loss for another reason; the minority shows among the others.
    for known in easy:
        right = ~known.errors[:, LABEL]
        found = BASELINES["just_train_twice"]().scores(known.run)
        assert roc_auc_score(known.errors[right, SPURIOUS], found[right]) > 0.55


def test_just_train_twice_trains_as_long_as_it_is_told(tiny):
    run = tiny["2"].run
    short, long = (BASELINES["just_train_twice"](epochs=n).scores(run) for n in (1, 30))
    assert long.mean() < short.mean()


def test_random_scores_differ_between_runs(tiny):
    one, other = (BASELINES["random"]().scores(tiny[kind].run) for kind in ("2", "3"))
    size = min(len(one), len(other))
    assert abs(np.corrcoef(one[:size, 0], other[:size, 0])[0, 1]) < 0.25


class Told(Baseline):
    """Scores made from the truth of the run they are asked for."""

    name = "told"

    def __init__(self, environments, change):
        super().__init__()
        self.known = {id(e.run): change(e.errors.astype(float)) for e in environments}

    def scores(self, run):
        return self.known[id(run)]


def f1(environment, said) -> list[float]:
    truth = pd.DataFrame(environment.errors, columns=list(ERROR_TYPES))
    return [score(said, truth)[f"f1_{kind}"] for kind in ERROR_TYPES]


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_know_the_truth_are_mapped_to_it_in_either_direction(tiny, sign):
    known = list(tiny.values())
    told = Told(known, lambda errors: sign * errors).fit(known[:2])
    assert f1(known[2], told.predict(known[2].run)) == [1.0, 1.0, 1.0]


def test_a_score_that_is_suspicious_in_the_middle_is_mapped_as_well(tiny):
    known = list(tiny.values())

    def middle(errors):
        side = np.random.default_rng(1).choice([-1.0, 1.0], errors.shape)
        return side * (1 - errors)

    told = Told(known, middle).fit(known[:2])
    assert min(f1(known[2], told.predict(known[2].run))) > 0.85


def test_a_constant_score_flags_all_rows(tiny):
    known = list(tiny.values())
    told = Told(known, np.zeros_like).fit(known[:2])
    share = known[2].errors.mean(0)
    np.testing.assert_allclose(
        f1(known[2], told.predict(known[2].run)), 2 * share / (1 + share), rtol=1e-6
    )


class Tuned(Baseline):
    """Knows the truth with one of its settings, and nothing with the others."""

    name = "tuned"
    space: ClassVar = {"k": (1, 2)}

    def scores(self, run):
        known = self.settings["k"] == 2
        return self.truth[id(run)].astype(float) if known else np.zeros(len(run))


class Even(Tuned):
    """Does equally well with every setting."""

    def scores(self, run):
        return self.truth[id(run)].astype(float)


def test_the_best_setting_is_kept_with_what_it_learned_unless_one_is_given(tiny):
    known = list(tiny.values())
    Tuned.truth = {id(e.run): e.errors for e in known}
    tuned = Tuned().fit(known[:1])
    assert tuned.settings == {"k": 2}
    assert f1(known[2], tuned.predict(known[2].run)) == [1.0, 1.0, 1.0]
    assert Tuned(k=1).fit(known[:1]).settings == {"k": 1}
    assert Even().fit(known[:1]).settings == {"k": 1}, "of equals the first"


def test_an_error_that_does_not_occur_is_no_reason_not_to_learn(tiny):
    known = list(tiny.values())
    without = [replace(e, errors=e.errors & [True, True, False]) for e in known]
    told = Told(without, lambda errors: errors).fit(without[:2])
    assert f1(without[2], told.predict(without[2].run))[:2] == [1.0, 1.0]


def test_a_run_without_errors_is_no_reason_not_to_learn(tiny):
    one, other = list(tiny.values())[:2]
    clean = replace(other, errors=np.zeros_like(other.errors))
    told = Told([one, clean], lambda errors: errors).fit([one, clean])
    assert told.rates is not None


def test_ranks_become_bins_and_an_empty_bin_has_the_usual_share():
    places = _places(np.array([np.nan, -1.0, 1.0]))
    bins = [place.share.argmax(axis=1)[place.tie].tolist() for place in places]
    assert bins == [[25, 8, 41]] * 3
    errors = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=bool)
    rates = _rates([places], [errors])
    assert rates.shape == (BINS, 3)
    np.testing.assert_allclose(rates[0], [2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(rates[25], [(1 + 2 / 3) / 2, 0, (1 / 3) / 2])


@pytest.mark.parametrize("flagged", [10, 60, 140])
def test_equal_scores_mean_the_same_however_many_rows_have_them(flagged):
    known = np.arange(200) < 100
    rates = _rates([_places(known)], [np.repeat(known[:, None], 3, axis=1)])
    asked = np.arange(200) < flagged
    said = np.column_stack([p.look_up(r) for p, r in zip(_places(asked), rates.T, strict=True)])
    assert said[asked].min() > 0.6
    assert said[~asked].max() < 0.5
    assert (np.ptp(said[asked], axis=0) == 0).all()


def test_a_seed_belongs_to_a_baseline_and_a_run(tiny):
    run = tiny["2"].run
    other = replace(run, valid_index=run.valid_index[::-1])
    seeds = {run_seed(run, "a"), run_seed(run, "b"), run_seed(other, "a")}
    assert len(seeds) == 3
    assert run_seed(run, "a") == run_seed(replace(run), "a")


def test_a_model_is_trained_again_as_long_as_the_first_one(tiny, monkeypatch):
    run, asked = tiny["2"].run, []

    def fit(model, *_, **settings):
        asked.append(settings["epochs"])
        return SimpleNamespace(model=model)

    monkeypatch.setattr(retraining, "fit", fit)
    retraining.retrain(run, run.samples, "any")
    retraining.retrain(run, run.samples, "any", epochs=3)
    assert asked == [len(run.trained.losses), 3]
    assert asked[0] > 1


def test_atypical_rows_are_learned_last_and_typical_ones_at_once(monkeypatch):
    early = np.array([0.1] * 12 + [9.0] * 2 + [5.0] * 10)
    final = np.array([0.1] * 12 + [0.1] * 2 + [5.0] * 10)
    losses = {"final": final, "early": early}
    monkeypatch.setattr(map_d, "row_losses", lambda run, model, samples: losses[model])
    run = SimpleNamespace(trained=SimpleNamespace(model="final", early="early"), samples=None)
    run = type("Run", (), {**vars(run), "__len__": lambda self: 24})()
    *typical, atypical = _choose(run, np.random.default_rng(0))
    assert set(atypical) == {12, 13}
    assert set(np.concatenate(typical)) <= set(range(12))


def test_votes_name_the_probes_whose_losses_a_row_has(monkeypatch):
    chosen = [np.array([0]), np.array([1]), np.array([2]), np.array([3])]
    monkeypatch.setattr(map_d, "run_seed", lambda *_: 0)
    monkeypatch.setattr(map_d, "_choose", lambda *_: chosen)
    monkeypatch.setattr(map_d, "_mislabel", lambda *_: pd.DataFrame({"x": [1]}))
    monkeypatch.setattr(map_d, "_corrupt", lambda *_: [pd.DataFrame({"x": [1]})])
    # Rows 4 to 7 look like a typical, a mislabelled, a corrupted and an atypical probe.
    curves = np.array([0.0, 9, 9, 3, 0, 1, 2, 3, 1, 2])[:, None]
    monkeypatch.setattr(map_d, "_loss_curves", lambda *_: curves)
    votes = map_d.MapD(neighbours=1).scores(range(8))
    assert votes[4:].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_a_pair_that_the_model_contradicts_is_swapped_and_one_without_a_margin_is_broken(
    monkeypatch,
):
    outputs = {"final": torch.tensor([[2.0], [-3.0], [0.0]]), "early": torch.ones(3, 1)}
    monkeypatch.setattr(reward_margin, "predict", lambda model, _: outputs[model])
    run = SimpleNamespace(
        task=SimpleNamespace(label=Preference()),
        samples=(None, torch.tensor([0, 0, 1])),
        trained=SimpleNamespace(model="final", early="early"),
    )
    found = reward_margin.RewardMargin().scores(run)
    assert found.tolist() == [[2, -2, 2], [-3, -3, -3], [0, 0, 0]]
    early = reward_margin.RewardMargin(model="early").scores(run)
    assert early[:, 0].tolist() == [1, 1, -1]


def test_summaries_are_ranked_within_the_sample_and_within_the_whole_run(monkeypatch):
    class Environment:
        def sample(self, rows):
            assert rows == 30
            return vectors[:rows], torch.zeros(rows, 3)

    class Model:
        def predict_proba(self, x):
            seen.append(x)
            return np.tile([0.9, 0.1], (len(x), 1))

    seen = []
    vectors = torch.randn(50, len(CHANNELS), 8, generator=torch.Generator().manual_seed(0))
    run = SimpleNamespace(blocks=lambda: vectors.split(7), index=pd.RangeIndex(50))
    monkeypatch.setattr(summary_gbm, "HistGradientBoostingClassifier", lambda **_: Fitted())
    summary_gbm.SummaryGBM(rows=30).fit([Environment(), Environment()])
    assert Fitted.shapes == [(60,)] * 3
    method = summary_gbm.SummaryGBM()
    method.models = [Model()] * 3
    said = method.predict(run)
    wanted = normal_ranks(summaries(vectors, CHANNELS.index("label_agreement")).numpy())
    np.testing.assert_allclose(seen[0], wanted)
    assert (said.probability == 0.1).all(axis=None)


class Fitted:
    """Remembers what it was fitted to."""

    shapes: ClassVar[list] = []

    def fit(self, x, y):
        self.shapes.append(y.shape)
        return self
