"""What a recommendation task answers: impressions, rules, errors of whole things, repair."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from sklearn.metrics import roc_auc_score

from demix_lite.baselines.noisy_clicks import Noisy, NoisyClicks
from demix_lite.benchmark import prepare
from demix_lite.errors import DemixError
from demix_lite.injection import inject
from demix_lite.models.training import fit, predict
from demix_lite.tasks import get_task, recommendation
from demix_lite.tasks.base import AnyOf, Rule, seeded_model
from demix_lite.tasks.labels import Clicks
from demix_lite.tasks.recommendation import (
    entity_draw,
    entity_order,
    impressions,
    side_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("movielens", "amazon", "yelp")
PARTS = ("train", "valid", "test")
few = settings(max_examples=15)


@cache
def loaded(name):
    task = get_task(name)
    return task, task.load()


@cache
def prepared(name):
    return prepare(name, seed=1)


@pytest.fixture(scope="module", params=NAMES)
def three(request):
    return loaded(request.param)


@pytest.fixture(scope="module")
def films():
    return loaded("movielens")


def small_world(taken=10, users=3, items=40):
    """Every user takes ``taken`` items in a row, in the order of their numbers."""
    user = np.repeat(np.arange(users), taken)
    place = np.tile(np.arange(taken), users)
    return {
        "interactions": pd.DataFrame(
            {
                "user": [f"u{n}" for n in user],
                "item": [f"i{n}" for n in (place + user) % items],
                "rating": 5.0,
                "time": place + 100 * user,
            }
        ).sample(frac=1, random_state=0),
        "users": pd.DataFrame({"user": [f"u{n}" for n in range(users)], "age": range(users)}),
        "items": pd.DataFrame(
            {
                "item": [f"i{n}" for n in range(items)],
                "genres": np.where(np.arange(items) % 2, "Drama|Action", "Comedy"),
            }
        ),
    }


# ------------------------------------------------------------------ impressions


def test_parts_follow_each_other_in_time_and_each_sample_has_its_pair():
    task = replace(get_task("movielens"), per_user=2, history=3)
    parts = impressions(small_world(), task)
    # Of ten items seven are for training, one for validation (7 to 8.5), two for testing.
    first = parts["train"][parts["train"]["user"] == "u0"]
    assert first["item"][first["click"] == "yes"].tolist() == ["i5", "i6"]
    assert first["history"].tolist() == ["i2|i3|i4"] * 2 + ["i3|i4|i5"] * 2
    assert [len(parts[part]) for part in PARTS] == [12, 6, 12]
    for frame in parts.values():
        assert frame["click"].tolist() == ["yes", "no"] * (len(frame) // 2)


def test_nobody_is_shown_as_not_taken_what_they_took():
    world = small_world(taken=12, users=5, items=20)
    pairs = set(map(tuple, world["interactions"][["user", "item"]].to_numpy()))
    for frame in impressions(world, get_task("movielens")).values():
        shown = list(map(tuple, frame[["user", "item"]].to_numpy()))
        assert [pair in pairs for pair in shown] == (frame["click"] == "yes").tolist()


def test_without_dates_the_order_is_that_of_the_file():
    world = small_world()
    world["interactions"] = world["interactions"].sort_values(["user", "time"]).drop(columns="time")
    undated = impressions(world, get_task("movielens"))
    dated = impressions(small_world(), get_task("movielens"))
    yes = [frames["train"].query("click == 'yes'")["item"].tolist() for frames in (undated, dated)]
    assert yes[0] == yes[1]


def test_a_user_who_took_everything_is_refused():
    with pytest.raises(DemixError, match="took every item"):
        impressions(small_world(taken=6, items=6), get_task("movielens"))


def test_too_few_interactions_are_refused(monkeypatch):
    with pytest.raises(DemixError, match="ask for more rows"):
        get_task("movielens").load(rows=1)
    monkeypatch.setattr(recommendation, "load_tables", lambda *a, **b: (small_world(2), None))
    with pytest.raises(DemixError, match="6 interactions of movielens are too few to split"):
        get_task("movielens").load()


def test_the_twin_has_users_items_and_both_labels_in_all_parts(three):
    task, splits = three
    for part in PARTS:
        frame = getattr(splits, part)
        assert (frame["click"] == "yes").mean() == 0.5
        assert list(frame.columns[:3]) == ["user", "item", "history"]
        assert frame.columns[-1] == task.target
        assert set(task.attributes(frame)) == set(frame.columns[3:-1])
        assert frame["history"].str.count("[|]").max() == task.history - 1
        assert frame["item"].notna().all()
    assert_frame_equal(splits.train, task.load().train)


# ------------------------------------------------------------------ labels and rules


def test_clicks_are_one_logit_judged_by_the_auc():
    clicks = Clicks()
    outputs, targets = torch.tensor([[2.0], [-1.0], [1.0]]), torch.tensor([1, 1, 0])
    assert (clicks.outputs, clicks.classes, clicks.two_sided) == (1, 2, True)
    assert clicks.metric(outputs, targets) == 0.5
    assert clicks.group_metric(outputs, targets) == pytest.approx(1 / 3)
    assert np.isnan(clicks.metric(outputs[:2], targets[:2]))
    wanted = torch.log1p(torch.exp(torch.tensor([-2.0, 1.0, 1.0])))
    torch.testing.assert_close(clicks.loss(outputs, targets), wanted)
    labels = pd.Series(["yes", "no", "yes"])
    assert clicks.better(labels, outputs).tolist() == ["no", "yes", "no"]
    assert clicks.encode(labels).tolist() == [1, 0, 1]


def test_a_rule_matches_any_of_several_values_and_never_a_part_of_a_name():
    films = pd.DataFrame({"genres": ["Drama|Action", "Action", "Actionable", "Drama", None]})
    rule = Rule("action", {"genres": AnyOf(["Action", "Sci-Fi"])}, "yes")
    assert rule.holds(films).tolist() == [True, True, False, False, False]


def test_rules_an_edition_cannot_meet_are_left_out(films):
    task, splits = films
    assert task.rules_for(splits.train) == task.rules
    without = splits.train.drop(columns="user_gender")
    assert [rule.name for rule in task.rules_for(without)] == ["18 to 30 and action"]
    bare = splits.train[["user", "item", "click"]]
    assert task.rules_for(bare) == ()
    with pytest.raises(DemixError, match="no spurious rule of movielens fits"):
        inject(task, replace(splits, train=bare))


def test_an_edition_without_the_kind_of_its_items_is_encoded(films):
    task, splits = films
    train, test = (part.drop(columns=task.kind) for part in (splits.train, splits.test))
    inputs = task.encoder(train).inputs(test)
    assert not inputs["kind"].any()
    assert not inputs["history_kind"].any()
    assert torch.isfinite(seeded_model(task, "din", task.encoder(train), 0)(inputs)).all()


# ------------------------------------------------------------------ errors


@few
@given(seed=st.integers(0, 10_000), clean_ratio=st.floats(0.3, 0.9), co=st.booleans())
def test_whole_things_go_wrong_and_shares_hit_their_targets(films, seed, clean_ratio, co):
    task, splits = films
    injection = inject(task, splits, clean_ratio, seed=seed, co_occurring=co)
    side, columns = injection.plan.details["side"], list(injection.plan.columns)
    for part in ("train", "valid"):
        corrupted = getattr(injection, part)
        wanted = (1 - clean_ratio) / 2
        assert corrupted.errors["label"].mean() == pytest.approx(wanted, abs=0.001)
        # A thing that would be too much is left out; the smallest have a row or two.
        assert corrupted.errors["feature"].mean() == pytest.approx(wanted, abs=0.01)
        assert corrupted.errors["feature"].groupby(corrupted.frame[side]).nunique().max() == 1
        assert corrupted.frame.groupby(side)[columns].nunique(dropna=False).to_numpy().max() == 1
        untouched = corrupted.frame.columns.difference([*columns, task.target])
        assert_frame_equal(corrupted.frame[untouched], corrupted.original[untouched])
        assert all(side_of(column) == side for column in columns)
    # The same thing is wrong in the same way in training and in validation rows.
    both = pd.concat([injection.train.frame, injection.valid.frame])
    wrong = [
        set(p.frame.loc[p.errors["feature"], side]) for p in (injection.train, injection.valid)
    ]
    in_both = both[both[side].isin(wrong[0] & wrong[1])]
    assert (in_both.groupby(side)[columns].nunique(dropna=False) == 1).to_numpy().all()


def test_the_minority_is_a_tenth(three):
    task, splits = three
    for rule in task.rules_for(splits.train):
        errors = inject(task, splits, 0.5, rule=rule.name).train.errors
        assert errors["spurious"].mean() == pytest.approx(0.1, abs=0.001)


def test_draws_of_things_depend_on_nothing_but_their_names():
    names = pd.Series(["a", "b", "c", "a"])
    draw = entity_draw(names, 3, "x")
    assert draw[0] == draw[3]
    np.testing.assert_array_equal(draw[[2, 0]], entity_draw(names.iloc[[2, 0]], 3, "x"))
    assert (draw != entity_draw(names, 4, "x")).all()
    assert (draw != entity_draw(names, 3, "y")).all()
    many = entity_draw(pd.Series(range(20_000)).astype(str), 0, "x")
    assert 0 <= many.min() < 0.001 < 0.999 < many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=0.01)
    order = entity_order(pd.DataFrame({"item": names}), "item", 0)
    assert sorted(set(order)) == [0, 1, 2]
    assert order[0] == order[3]


# ------------------------------------------------------------------ encoding


def test_models_read_numbers_of_what_training_showed(films):
    task, splits = films
    encoder = task.encoder(splits.train)
    inputs = encoder.inputs(splits.test)
    layout = encoder.layout
    assert inputs["history"].shape == (len(splits.test), task.history)
    sizes = {"user": layout.users, "item": layout.items, "kind": layout.kinds}
    for name, size in sizes.items():
        assert 0 <= inputs[name].min() <= inputs[name].max() < size
    assert inputs["fields"].shape[1] == len(layout.fields)
    assert inputs["tags"].shape[1] == layout.tags
    assert inputs["numbers"].shape[1] == layout.numbers
    total = inputs["tags"].sum(1)
    assert torch.allclose(total, torch.ones_like(total))
    real = inputs["history"] > 0
    assert not (real[:, 1:] & ~real[:, :-1]).any(), "padding stands on the right"
    stranger = splits.test.head(1).assign(user="nobody", item="nothing", history="nothing|i1")
    unknown = encoder.inputs(stranger)
    assert (unknown["user"], unknown["item"]) == (0, 0)
    assert (unknown["history"] > 0).sum() == 1


def test_the_kind_of_an_item_in_a_history_is_what_training_rows_say(films):
    task, splits = films
    frame = splits.train.copy()
    item = frame["history"].iloc[0].split("|")[0]
    frame.loc[frame["item"] == item, "item_genres"] = "Western"
    inputs = task.encoder(frame).inputs(frame)
    encoder = task.encoder(frame)
    western = encoder.kinds.get_loc("Western") + 1
    assert inputs["history_kind"][0, 0] == western


def test_similar_are_interactions_not_ids(films):
    task, splits = films
    encoder = task.encoder(splits.train)
    row = splits.train.head(1)
    twin = pd.concat([row, row.assign(user="nobody")])
    one, other = encoder.features(encoder.inputs(twin))
    assert torch.equal(one, other)
    elsewhere = row.assign(history=splits.train["history"].iloc[-1])
    far = encoder.features(encoder.inputs(elsewhere))[0]
    similar = torch.nn.functional.cosine_similarity
    assert similar(one, far, dim=0) < 0.99


def test_columns_for_trees(three):
    task, splits = three
    values, categorical = task.encoder(splits.train).columns(splits.test)
    assert values.shape == (len(splits.test), len(categorical))
    assert np.isfinite(values[:, ~categorical]).any(axis=0).all()
    assert np.nanmax(values[:, categorical]) < 250
    alike = values[:, -2]
    assert 0 <= alike.min() < alike.max() <= 1


@pytest.mark.parametrize("architecture", ["din", "dien"])
def test_a_model_learns_whom_to_show_what(films, architecture):
    task, splits = films
    encoder = task.encoder(splits.train)
    model = seeded_model(task, architecture, encoder, 0)
    samples = encoder.transform(splits.train, task.target)
    trained = fit(model, task.loss, *samples, **task.training, seed=0)
    inputs, targets = encoder.transform(splits.test, task.target)
    assert task.metric(predict(trained.model, inputs), targets) > 0.75


# ------------------------------------------------------------------ repair


def attributes(items, years, genres):
    return pd.DataFrame({"item": items, "item_year": years, "item_genres": genres})


def test_an_attribute_is_copied_from_the_other_occurrences():
    task = get_task("movielens")
    trusted = attributes(["a"] * 3 + ["b"] * 3, [1990] * 6, ["Drama"] * 3 + ["Action"] * 3)
    suspects = attributes(["a", "b"], [1990, 2500], ["Horror", "Action"])
    repaired, changed = task.impute(suspects, trusted)
    assert repaired["item_genres"].tolist() == ["Drama", "Action"]
    assert repaired["item_year"].tolist() == [1990, 1990]
    assert changed.to_numpy().tolist() == [[False, True], [True, False]]


def test_what_is_mostly_suspicious_is_blanked_where_it_stands_out():
    task = get_task("movielens")
    usual = ["Drama", "Action"] * 100
    trusted = attributes([f"t{n}" for n in range(200)], [1990, 1992] * 100, usual)
    suspects = attributes([f"s{n}" for n in range(60)], [1991] * 59 + [2500], ["Horror"] * 60)
    repaired, changed = task.impute(suspects, trusted)
    assert repaired["item_genres"].isna().all()
    assert repaired["item_year"].tolist() == [1991] * 60
    assert changed["item_year"].tolist() == [False] * 59 + [True]
    ordinary = attributes([f"s{n}" for n in range(60)], [1991] * 60, ["Drama", "Action"] * 30)
    assert not task.impute(ordinary, trusted)[1].to_numpy().any()


def test_repair_stands_nothing_to_trust(films):
    task, splits = films
    same, changed = task.impute(splits.train.head(5), splits.train.head(0))
    assert_frame_equal(same, splits.train.head(5))
    assert not changed.to_numpy().any()


def test_a_frame_without_rows_has_inputs_without_rows(three):
    task, splits = three
    encoder = task.encoder(splits.train.head(200))
    some, none = (encoder.inputs(splits.train.head(count)) for count in (5, 0))
    for name, values in none.items():
        assert values.shape == (0, *some[name].shape[1:]), name


# ------------------------------------------------------------------ the whole line


@pytest.mark.parametrize("name", NAMES)
def test_errors_hurt_and_knowing_them_helps(name):
    done = prepared(name)
    assert done.facts["architecture"] == "din"
    assert done.facts["metric_name"] == "AUC"
    assert not done.run.sources[0].capture.fallback
    reached = {kind: found.metric for kind, found in done.evaluations.items()}
    assert reached["dirty"] < reached["oracle"] < reached["clean"]
    vectors = done.run.vectors(torch.arange(64))
    assert torch.isfinite(vectors).all()


# ------------------------------------------------------------------ a baseline of its own


def test_noisy_clicks_finds_flipped_clicks_and_knows_what_it_is_for():
    assert NoisyClicks.applies_to(get_task("yelp"))
    assert not NoisyClicks.applies_to(get_task("adult"))
    done = prepared("movielens")
    wrong = done.injection.train.errors["label"]
    scores = NoisyClicks().scores(done.run)
    assert scores.shape == (len(wrong),)
    assert 0 <= scores.min() < scores.max() <= 1
    assert roc_auc_score(wrong, scores) > 0.6
    np.testing.assert_array_equal(scores, NoisyClicks().scores(done.run))


def test_what_is_recorded_adds_up():
    noisy = Noisy(torch.nn.Identity(), 0.1)
    taken = torch.tensor([[-2.0], [0.0], [3.0]])
    p = taken[:, 0].sigmoid()
    recorded = noisy(taken)[:, 0].sigmoid()
    torch.testing.assert_close(recorded, 0.9 * p + 0.1 * (1 - p))
    yes, no = (noisy.wrong(taken, torch.full((3,), label)) for label in (1, 0))
    torch.testing.assert_close(yes, 0.1 * (1 - p) / recorded)
    torch.testing.assert_close(no, 0.1 * p / (1 - recorded))
