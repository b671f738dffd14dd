"""Baselines that look at the data alone, and yardsticks that know the true errors."""

import gc
import itertools
import math
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from toy import toy_learnable_splits, toy_number_splits, toy_number_task, toy_task

from demix_lite.baselines import (
    BASELINES,
    YARDSTICKS,
    composite,
    ddc,
    isolation_forest,
    knn_shapley,
    yardsticks,
)
from demix_lite.baselines.datalab import issues
from demix_lite.baselines.ddc import disagreeing, underperforming
from demix_lite.baselines.isolation_forest import isolation
from demix_lite.baselines.knn_shapley import class_values, number_values, shapley_values
from demix_lite.baselines.looks import (
    doubt,
    encoded,
    held_out,
    label_bins,
    once_per_run,
    out_of_fold,
    targets,
)
from demix_lite.cross_fit import in_bins
from demix_lite.detector import make_environment
from demix_lite.diagnosis import ERROR_TYPES, score
from demix_lite.errors import DemixError
from demix_lite.tasks import get_task

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("composite", "ddc", "datalab", "isolation_forest", "knn_shapley")
LABEL, FEATURE, SPURIOUS = range(3)


def environment(kind: str, seed: str, rows: int = 400):
    if kind == "adult":
        task = get_task("adult")
        splits = task.load(rows=1500)
    elif kind == "number":
        task, splits = toy_number_task(), toy_number_splits(rows)
    else:
        task, splits = toy_task(int(kind)), toy_learnable_splits(rows, classes=int(kind))
    return make_environment(
        task, splits, architecture="mlp2", clean_ratio=0.5, seed=seed, validation=16
    )


@pytest.fixture(scope="module", params=["2", "3", "number", "adult"])
def pair(request):
    """Two environments of one task: learn from the first, judge the second."""
    return [environment(request.param, f"data {n}") for n in range(2)]


@pytest.fixture(scope="module")
def judged(pair):
    return pair[1]


@pytest.fixture(scope="module")
def easy():
    return environment("2", "easy", rows=800)


def errors_of(environment) -> pd.DataFrame:
    index = environment.run.index
    return pd.DataFrame(environment.errors, columns=list(ERROR_TYPES), index=index)


# ------------------------------------------------------------------ the contract


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_label_is_judged_and_the_same_again(name, pair):
    baseline = BASELINES[name]().fit(pair[:1])
    once, again = baseline.predict(pair[1].run), baseline.predict(pair[1].run)
    assert once.probability.shape == (len(pair[1].run), len(ERROR_TYPES))
    assert once.probability.to_numpy().min() >= 0
    assert once.probability.to_numpy().max() <= 1
    pd.testing.assert_frame_equal(once.probability, again.probability)
    pd.testing.assert_frame_equal(once.flag, again.flag)
    assert once.flag.index.equals(pair[1].run.index)


@pytest.fixture(scope="module")
def made_twice():
    return [environment("3", "again", rows=150) for _ in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_scores_on_a_run_made_anew(name, made_twice):
    scores = [BASELINES[name]().scores(made.run) for made in made_twice]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_says_where_it_comes_from(name):
    assert BASELINES[name].reference
    assert BASELINES[name].name == name
    assert set(BASELINES[name].claims) <= set(ERROR_TYPES)


def test_a_class_without_any_row_disturbs_nobody():
    task, splits = toy_task(3), toy_learnable_splits(200, classes=2)
    made = make_environment(
        task, splits, architecture="mlp2", clean_ratio=1.0, seed="absent", validation=16
    )
    assert out_of_fold(made.run)[:, 2].max() == 0
    for name in NAMES:
        assert np.isfinite(BASELINES[name]().scores(made.run)).all()


@pytest.mark.parametrize("name", ["ddc", "datalab"])
def test_without_cleanlab_one_sentence_says_what_to_install(name, easy, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    monkeypatch.setitem(sys.modules, "cleanlab.datalab.datalab", None)
    fresh = environment("2", "bare", rows=100)
    with pytest.raises(DemixError, match=r"pip install 'demix_lite\[baselines\]'") as refused:
        BASELINES[name]().scores(fresh.run)
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------ out-of-fold predictions


def test_no_row_is_judged_by_a_model_that_saw_it():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(300, 2)), draw.integers(0, 2, 300)
    parrot = KNeighborsClassifier(1)
    assert parrot.fit(x, y).score(x, y) == 1.0
    own = held_out(parrot, x, y, classes=2)[np.arange(300), y]
    assert 0.35 < own.mean() < 0.65


def test_a_number_is_predicted_from_other_rows_and_from_no_more_than_asked():
    x, y = np.arange(60.0)[:, None], np.arange(60.0)
    assert (held_out(KNeighborsRegressor(1), x, y) != y).all()
    few = held_out(KNeighborsRegressor(1), x, y, folds=2, most=3)
    assert len(np.unique(few)) <= 6


@pytest.mark.parametrize("weights", [None, np.repeat([0.0, 1.0], [20, 180])])
def test_a_column_that_is_empty_in_the_other_folds_says_nothing(weights):
    x = np.random.default_rng(0).normal(size=(200, 2))
    x[1:, 1] = np.nan
    y = (x[:, 0] > 0).astype(int)
    said = [
        held_out(HistGradientBoostingClassifier(max_iter=5), part, y, classes=2, weights=weights)
        for part in (x, x[:, :1])
    ]
    np.testing.assert_array_equal(*said)


def test_rows_to_learn_from_are_drawn_by_the_seed_and_from_all_of_the_others():
    x, y = np.arange(60.0)[:, None], np.arange(60.0)

    def said(seed):
        return held_out(KNeighborsRegressor(1), x, y, folds=2, most=3, seed=seed)

    np.testing.assert_array_equal(said(0), said(0))
    assert max(said(seed).max() for seed in range(3)) > 30
    apart = np.square(x)  # no two rows are equally near
    cuts = [held_out(KNeighborsRegressor(1), apart, y, folds=2, seed=seed) for seed in (0, 1)]
    assert (cuts[0] != cuts[1]).any()


def test_every_row_keeps_its_weight_while_it_is_learned_from():
    y, weights = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
    said = held_out(DummyRegressor(), np.zeros((4, 1)), y, weights=weights, folds=4)
    others = [np.delete(np.arange(4), row) for row in range(4)]
    np.testing.assert_allclose(said, [np.average(y[o], weights=weights[o]) for o in others])


def test_a_class_missing_from_a_fold_has_no_probability():
    y = np.array([0] * 20 + [2])
    said = held_out(KNeighborsClassifier(1), np.zeros((21, 1)), y, classes=4)
    np.testing.assert_allclose(said.sum(axis=1), 1)
    assert said[20].tolist() == [1, 0, 0, 0]
    assert said[:, [1, 3]].max() == 0


def test_what_is_remembered_of_a_run_goes_with_it():
    calls = []

    @once_per_run
    def size(run, scale=1):
        calls.append(scale)
        return np.array([len(run) * scale])

    class Short:
        def __len__(self):
            return 3

    run = Short()
    assert [size(run)[0], size(run)[0], size(run, 2)[0]] == [3, 3, 6]
    assert calls == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        size(run)[0] = 5
    del run
    gc.collect()
    size(Short())
    assert calls == [1, 2, 1]


# ------------------------------------------------------------------ each baseline finds its own


def test_composite_and_ddc_find_flipped_labels(easy):
    for name in ("composite", "ddc"):
        said = BASELINES[name]().scores(easy.run)[:, LABEL]
        assert roc_auc_score(easy.errors[:, LABEL], said) > 0.85, name
    said = BASELINES["composite"]().fit([easy]).predict(environment("2", "unseen").run)
    assert said.flag["label"].any()


def test_knn_shapley_finds_flipped_labels(easy):
    said = BASELINES["knn_shapley"](k=10).scores(easy.run)
    assert roc_auc_score(easy.errors[:, LABEL], said) > 0.6


def test_isolation_forest_finds_outliers():
    made = environment("number", "outliers")
    made.run.samples[0][:5] = 12.0
    assert set(np.argsort(-isolation(made.run, 256))[:5]) == set(range(5))
    assert BASELINES["isolation_forest"].claims == ("feature",)


@pytest.mark.parametrize("suspicion", [underperforming, disagreeing])
def test_the_group_step_finds_rows_that_break_a_strong_rule(suspicion, monkeypatch):
    made = environment("2", "group", rows=600)
    label, colour = made.run.train["label"], made.run.train["colour"]
    odd = ((colour == "red") & (label == "no")).to_numpy()
    kept = np.flatnonzero(~odd | (np.cumsum(odd) <= 12))
    columns, categorical = made.run.columns()
    module = "demix_lite.baselines.ddc"
    monkeypatch.setattr(type(made.run), "columns", lambda run: (columns[kept], categorical))
    monkeypatch.setattr(f"{module}.label_bins", lambda run: targets(made.run)[kept])
    monkeypatch.setattr(f"{module}.doubt", lambda run: odd[kept].astype(float))
    assert roc_auc_score(odd[kept], suspicion(made.run)) > 0.7


# ------------------------------------------------------------------ Datalab


def test_datalab_answers_with_its_own_flags(judged, capfd):
    from cleanlab.datalab.datalab import Datalab

    run, number = judged.run, judged.run.task.label.outputs == 1
    issues.__wrapped__(run)
    heard = capfd.readouterr()
    assert heard.out == heard.err == ""
    kind = "regression" if number else "classification"
    lab = Datalab({"y": targets(run)}, label_name="y", task=kind, verbosity=0)
    lab.find_issues(pred_probs=out_of_fold(run), features=encoded(run))
    said = BASELINES["datalab"]().fit([]).predict(run)
    group = "non_iid" if number else "underperforming_group"
    looked_for = set(lab.get_issue_summary()["issue_type"])
    for ours, theirs in (("label", "label"), ("feature", "outlier"), ("spurious", group)):
        if theirs not in looked_for:
            assert theirs == group
            assert not said.flag[ours].any()
            continue
        found = lab.get_issues(theirs)
        assert said.flag[ours].tolist() == found[f"is_{theirs}_issue"].tolist()
        np.testing.assert_allclose(said.probability[ours], 1 - found[f"{theirs}_score"])
    assert not said.unsure.to_numpy().any()


# ------------------------------------------------------------------ KNN-Shapley


def brute_force(utility, n: int) -> np.ndarray:
    """Shapley values from all subsets; a subset is a sorted tuple of positions."""
    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            for subset in itertools.combinations(others, size):
                gain = utility(tuple(sorted((*subset, i)))) - utility(subset)
                values[i] += gain / (n * math.comb(n - 1, size))
    return values


@pytest.mark.parametrize("k", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_knn_shapley_is_the_shapley_value(n, k):
    draw = np.random.default_rng(n * 100 + k)
    hits, near, wanted = draw.random(n) < 0.5, draw.normal(size=n), draw.normal()
    np.testing.assert_allclose(
        class_values(hits[None], k)[0],
        brute_force(lambda chosen: sum(hits[j] for j in chosen[:k]) / k, n),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        number_values(near[None], np.array([[wanted]]), k)[0],
        brute_force(lambda chosen: -((sum(near[j] for j in chosen[:k]) / k - wanted) ** 2), n),
        atol=1e-12,
    )


@pytest.mark.parametrize("classes", [True, False])
def test_knn_shapley_averages_over_validation_rows_whatever_the_order(classes):
    draw = np.random.default_rng(5)
    x, x_valid = draw.normal(size=(7, 3)), draw.normal(size=(4, 3))
    y, y_valid = draw.integers(0, 3, 7), draw.integers(0, 3, 4)
    mean = 0 if classes else y.mean()

    def utility(chosen):
        total = 0.0
        for row, wanted in zip(x_valid, y_valid, strict=True):
            near = sorted(chosen, key=lambda j: np.linalg.norm(x[j] - row))[:2]
            if classes:
                total += sum(y[j] == wanted for j in near) / 2
            else:
                total -= (sum(y[j] - mean for j in near) / 2 - (wanted - mean)) ** 2
        return total / len(x_valid)

    found = shapley_values(x, y, x_valid, y_valid, (2,), classes=classes)[0]
    np.testing.assert_allclose(found, brute_force(utility, 7), atol=1e-12)


def test_any_number_of_neighbours_can_be_asked_for(judged):
    few, many = (BASELINES["knn_shapley"](k=k).scores(judged.run) for k in (3, 10))
    assert not np.allclose(few, many)
    assert few.shape == (len(judged.run),)


# ------------------------------------------------------------------ yardsticks


def test_the_oracle_is_always_right(judged):
    said = YARDSTICKS["oracle"](errors_of(judged)).predict(judged.run)
    assert score(said, errors_of(judged))["f1_macro"] == 1.0


@pytest.mark.parametrize("name", ["ceiling", "ceiling_all_rows"])
def test_the_ceiling_judges_all_rows_better_than_chance(name):
    made = environment("number", "ceiling", rows=200)
    ceiling = YARDSTICKS[name](errors_of(made))
    said = ceiling.predict(made.run)
    assert len(said.flag) == len(made.run)
    assert roc_auc_score(made.errors[:, FEATURE], said.probability["feature"]) > 0.6


def test_the_ceiling_is_the_same_again_for_every_kind_of_label(judged):
    ceiling = YARDSTICKS["ceiling_all_rows"](errors_of(judged))
    said = ceiling.predict(judged.run)
    assert roc_auc_score(judged.errors[:, FEATURE], said.probability["feature"]) > 0.6
    pd.testing.assert_frame_equal(said.probability, ceiling.predict(judged.run).probability)


def test_the_forest_of_the_ceiling_sees_no_more_rows_than_promised(easy, monkeypatch):
    seen = []

    class Counting(KNeighborsClassifier):
        def fit(self, x, y):
            seen.append(len(x))
            return super().fit(np.nan_to_num(x), y)

        def predict_proba(self, x):
            return super().predict_proba(np.nan_to_num(x))

    kind = YARDSTICKS["ceiling"]
    monkeypatch.setattr(kind, "_model", lambda self, categorical: Counting(1))
    monkeypatch.setattr(kind, "most", 100)
    kind(errors_of(easy)).predict(easy.run)
    assert set(seen) == {100}


@pytest.mark.parametrize("name", list(YARDSTICKS))
def test_a_yardstick_has_to_be_told_the_errors_of_this_run(name, easy):
    yardstick = YARDSTICKS[name](errors_of(easy).iloc[1:])
    with pytest.raises(DemixError, match="told the true errors"):
        yardstick.predict(easy.run)


class Bare:
    """A run of which only what is named is there."""

    def __init__(self, **known):
        vars(self).update(known)

    def __len__(self):
        return self.rows


def test_the_composite_counts_rare_labels_and_unsure_rows_as_it_is_told(monkeypatch):
    rare, said = np.array([0, 0, 0, 1]), np.array([[0.9, 0.1], [0.5, 0.5], [1, 0], [0.2, 0.8]])
    monkeypatch.setattr(composite, "label_bins", lambda run: rare)
    monkeypatch.setattr(composite, "out_of_fold", lambda run: said)
    monkeypatch.setattr(composite, "class_count", lambda run: 2)
    monkeypatch.setattr(composite, "doubt", lambda run: np.arange(4))
    monkeypatch.setattr(composite, "isolation", lambda run, samples: 10 * np.arange(4))
    unsure = np.array([0.1, 0.5, 0, 0.2])
    for group, wanted in (("rare", rare), ("unsure", unsure), ("rare or unsure", rare + unsure)):
        found = BASELINES["composite"](group=group).scores(Bare(rows=4))
        np.testing.assert_allclose(
            found, np.column_stack([np.arange(4), 10 * np.arange(4), wanted])
        )


def test_cleaning_puts_issues_first_and_looks_at_the_groups_it_is_told(monkeypatch):
    for name, values in (
        ("poor_labels", [0.1, 0.9, 0.5]), ("label_issues", [True, False, False]),
        ("outliers", [1, 2, 3]), ("underperforming", [4, 5, 6]), ("disagreeing", [7, 8, 9]),
    ):  # fmt: skip
        monkeypatch.setattr(ddc, name, lambda run, values=values: np.array(values))
    run = Bare(rows=3)
    found = BASELINES["ddc"](issues_first=True, group="underperforming").scores(run)
    np.testing.assert_allclose(found.T, [[1.1, 0.9, 0.5], [1, 2, 3], [4, 5, 6]])
    found = BASELINES["ddc"](issues_first=False, group="disagreeing").scores(run)
    np.testing.assert_allclose(found.T, [[0.1, 0.9, 0.5], [1, 2, 3], [7, 8, 9]])


def test_groups_are_categories_fifths_and_what_is_missing():
    column = np.r_[np.arange(10.0), np.nan]
    values = np.column_stack([column, np.arange(11) % 2, np.zeros(11)])
    fifths, categories = ddc.groups(Bare(columns=lambda: (values, np.array([False, True, True]))))
    assert fifths.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0]
    assert categories.tolist() == [0, 1] * 5 + [0]


def test_suspicion_of_groups_by_hand(monkeypatch):
    one, other = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])
    loss, label = np.array([1.0, 0, 0, 3]), np.array([0, 0, 0, 1])
    monkeypatch.setattr(ddc, "groups", lambda run: iter([one, other]))
    monkeypatch.setattr(ddc, "doubt", lambda run: loss)
    monkeypatch.setattr(ddc, "label_bins", lambda run: label)
    # As if ten rows with the mean loss of 1 lay in every group.
    first, second = np.array([11 / 13, 13 / 11]), np.array([11 / 11, 13 / 13])
    wanted = (first[one] + second[other]) / 2
    np.testing.assert_allclose(ddc.underperforming.__wrapped__(None), wanted)
    # Three quarters of the run have label 0, so 2.25 of the three rows of a group are expected to.
    rarer = [
        [12.25 / 13, 12.25 / 13, 12.25 / 13, 10.25 / 11],
        [10.75 / 11, 12.25 / 12, 12.25 / 12, 10.75 / 11],
    ]
    np.testing.assert_allclose(ddc.disagreeing.__wrapped__(None), np.max(rarer, axis=0))


def test_what_is_not_typical_of_its_neighbours_is_an_outlier(monkeypatch):
    judge = SimpleNamespace(fit_score=lambda features, verbose: np.array([0.9, 0.25]))
    library = SimpleNamespace(OutOfDistribution=lambda: judge)
    monkeypatch.setattr(ddc, "cleanlab", lambda module: library)
    monkeypatch.setattr(ddc, "encoded", lambda run: None)
    np.testing.assert_allclose(ddc.outliers.__wrapped__(None), [0.1, 0.75])


def test_trees_of_the_isolation_forest_have_as_many_rows_as_asked_for(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(400, 2))
    monkeypatch.setattr(isolation_forest, "TREES", 5)
    monkeypatch.setattr(isolation_forest, "encoded", lambda run: rows)
    run = Bare(rows=400)
    few, many = (BASELINES["isolation_forest"](samples=n).scores(run) for n in (256, 1024))
    assert not np.array_equal(few, many)
    np.testing.assert_array_equal(many, isolation(run, 400))
    np.testing.assert_array_equal(few, isolation(run, 256))


def test_numbers_fall_into_fifths_of_their_range():
    label = Bare(classes=0)
    own = torch.tensor([0.0, 0.19, 0.2, 0.99, 1.0])
    run = Bare(task=Bare(label=label), samples=(None, own))
    assert label_bins(run).tolist() == [0, 0, 1, 4, 4]


def test_validation_rows_of_knn_shapley_are_drawn_and_all_of_them_count(easy, monkeypatch):
    asked = []

    def remember(x, y, x_valid, y_valid, ks, *, classes):
        asked.append(x_valid)
        return np.zeros((len(ks), len(x)))

    with monkeypatch.context() as patch:
        patch.setattr(knn_shapley, "MOST_VALID", 20)
        patch.setattr(knn_shapley, "shapley_values", remember)
        knn_shapley._run_values.__wrapped__(easy.run, (5,))
    inputs = easy.run.encoder.inputs(easy.run.valid).numpy()
    places = [np.flatnonzero((inputs == row).all(1))[0] for row in asked[0]]
    assert len(set(places)) == 20
    assert max(places) > 100
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(9, 2)), draw.integers(0, 2, 9)
    whole = shapley_values(x, y, x, y, (2,), classes=True)
    monkeypatch.setattr(knn_shapley, "CHUNK", 4)
    np.testing.assert_allclose(shapley_values(x, y, x, y, (2,), classes=True), whole)


@pytest.mark.parametrize(
    ("name", "folds", "most"), [("ceiling", 5, 2000), ("ceiling_all_rows", 3, None)]
)
def test_the_ceiling_flags_at_the_threshold_that_is_best_for_the_truth(
    name, folds, most, easy, monkeypatch
):
    asked = []

    def certain(model, columns, known, *, classes, **options):
        asked.append(options)
        return np.column_stack([1 - 0.2 * known, 0.2 * known])

    monkeypatch.setattr(yardsticks, "held_out", certain)
    monkeypatch.setattr(yardsticks, "best_threshold", lambda known, said: said[known > 0].min())
    said = YARDSTICKS[name](errors_of(easy)).predict(easy.run)
    np.testing.assert_array_equal(said.flag, easy.errors)
    assert asked == [{"folds": folds, "most": most}] * 3


def test_errors_of_other_rows_are_refused_though_there_are_as_many(easy):
    errors = errors_of(easy)
    with pytest.raises(DemixError, match="told the true errors"):
        YARDSTICKS["oracle"](errors.set_axis(errors.index + 1)).predict(easy.run)


def test_doubt_is_what_the_own_label_lacks(judged):
    said, own = out_of_fold(judged.run), targets(judged.run)
    picked = said if said.ndim == 1 else said[np.arange(len(own)), own]
    expected = np.abs(picked - own) if said.ndim == 1 else 1 - picked
    np.testing.assert_allclose(doubt(judged.run), expected)


def test_numbers_in_bins_keep_their_order_and_what_is_missing():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.lognormal(size=2000), rng.integers(0, 9, 2000)])
    x[:5, 0] = np.nan
    binned = in_bins(x)
    np.testing.assert_array_equal(binned[:, 1], x[:, 1])
    assert np.isnan(binned[:5, 0]).all()
    assert len(np.unique(binned[5:, 0])) == 255
    order = np.argsort(x[5:, 0])
    assert (np.diff(binned[5:, 0][order]) >= 0).all()
    assert np.bincount(binned[5:, 0].astype(int)).max() <= 9
