"""What a table task answers: rules, splits, encoding, repair; by hand on a few rows."""

from collections.abc import Set
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal, assert_series_equal

from demix_lite.benchmark.protocols import family_tasks
from demix_lite.errors import DemixError
from demix_lite.injection import inject
from demix_lite.tasks import get_task
from demix_lite.tasks.base import Rule, check_columns, seeded_model
from demix_lite.tasks.labels import Classes
from demix_lite.tasks.tabular import MISSING, MOST_CATEGORIES, TabularTask, far_off, usual_number
from tests.toy import toy_frame, toy_number_splits, toy_number_task, toy_task

pytestmark = pytest.mark.usefixtures("one_thread")

# ------------------------------------------------------------------ rules


def people():
    return pd.DataFrame(
        {
            "colour": ["red", "red", "green", "green", None, "blue"],
            "age": [30, 50, 50, 70, 71, np.nan],
            "label": ["yes", "no", "yes", "no", "no", "yes"],
            "price": [0.0, 10.0, 10.5, 20.0, 5.0, 10.0],
        }
    )


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ({"colour": frozenset(["red"])}, [1, 1, 0, 0, 0, 0]),
        ({"colour": frozenset(["red", "blue"])}, [1, 1, 0, 0, 0, 1]),
        ({"age": (50, 70)}, [0, 1, 1, 1, 0, 0]),
        ({"age": (50, 70), "colour": frozenset(["green"])}, [0, 0, 1, 1, 0, 0]),
        ({"age": (90, 99)}, [0] * 6),
    ],
)
def test_a_rule_holds_where_all_its_conditions_do(condition, met):
    held = Rule("rule", condition, "yes").holds(people())
    assert held.dtype == bool
    assert held.tolist() == list(map(bool, met))


def test_a_rule_announces_a_label_or_an_interval_of_numbers():
    rule = Rule("rule", {"colour": frozenset(["red"])}, "yes")
    assert rule.matches_target(people()["label"]).tolist() == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]
    rule = Rule("rule", {"colour": frozenset(["red"])}, (5.0, 10.0))
    assert rule.matches_target(people()["price"]).tolist() == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]


def test_the_minority_breaks_the_rule_and_groups_are_numbered():
    task, rule = toy_task(), Rule("rule", {"colour": frozenset(["red"])}, "yes")
    assert task.groups(people(), rule).tolist() == [3, 2, 1, 0, 0, 1]
    # In the minority: red without yes, yes without red.
    assert task.minority(people(), rule).tolist() == [False, True, True, False, False, True]


def test_rules_and_tasks_have_names():
    assert toy_task().rule("red").target == "yes"
    with pytest.raises(DemixError, match="unknown task 'adlut'; did you mean 'adult'?"):
        get_task("adlut")
    with pytest.raises(DemixError, match="unknown rule of adult 'executive'; did you mean 'execut"):
        get_task("adult").rule("executive")
    with pytest.raises(DemixError, match="unknown architecture of toy 'mlp'; did you mean 'mlp"):
        toy_task().check_architecture("mlp")


@pytest.fixture(scope="module", params=family_tasks("tabular"))
def six(request):
    """Every task with 4,000 rows of its twin."""
    task = get_task(request.param)
    return task, task.load(rows=4000)


def test_rules_of_a_task_speak_of_its_columns_and_values(six):
    task, splits = six
    everyone = pd.concat(parts(splits))
    assert list(everyone) == [*task.features, task.target]
    for rule in task.rules:
        for column, wanted in rule.condition.items():
            if isinstance(wanted, Set):
                assert column in task.categorical
                assert wanted <= set(everyone[column])
            else:
                assert column in task.numeric
                assert everyone[column].between(*wanted).any()
        met, announced = rule.holds(everyone), rule.matches_target(everyone[task.target])
        assert 0 < met.sum() < len(everyone)
        assert 0 < announced.sum() < len(everyone)
        assert {1, 2} & set(task.groups(everyone, rule)), "nobody breaks the rule"


def test_labels_of_a_task_are_those_of_its_twin(six):
    task, splits = six
    found = pd.concat(parts(splits))[task.target]
    if isinstance(task.label, Classes):
        assert set(found) == set(task.label.names)
    else:
        assert found.between(task.label.low, task.label.high).all()
        assert found.max() - found.min() > 0.5 * (task.label.high - task.label.low)


def test_the_minority_of_a_task_is_reduced_to_its_share(six):
    task, splits = six
    for rule in task.rules:
        before = task.minority(splits.train, rule).mean()
        injection = inject(task, splits, 0.5, rule=rule.name)
        left = injection.train.errors["spurious"].mean()
        assert left == pytest.approx(min(before, task.minority_share), abs=1e-3)
    whole = {"covertype": True}.get(task.name, False)
    assert (before < task.minority_share) == whole, "rows that break the last rule"


def test_columns_for_trees_are_numbers_and_codes(six):
    task, splits = six
    values, categorical = task.encoder(splits.train).columns(splits.test)
    assert values.shape == (len(splits.test), len(task.features))
    assert categorical.tolist() == [name in task.categorical for name in task.features]
    numbers = splits.test[list(task.numeric)].to_numpy(float)
    np.testing.assert_array_equal(values[:, : len(task.numeric)], numbers)
    for column, codes in zip(task.categorical, values.T[len(task.numeric) :], strict=True):
        known = ~np.isnan(codes)
        names = splits.test[column].astype(object).fillna(MISSING)
        pairs = names[known].groupby(codes[known]).nunique()
        assert (pairs == 1).all()
        assert codes[known].min() >= 0
        assert codes[known].max() < MOST_CATEGORIES
        assert set(names[~known]).isdisjoint(splits.train[column])


def test_adult_has_the_rules_of_the_paper():
    task = get_task("adult")
    assert task.label.names == ("<=50K", ">50K")
    assert [(rule.condition, rule.target) for rule in task.rules] == [
        ({"sex": {"Female"}, "race": {"Black"}}, ">50K"),
        ({"race": {"Asian-Pac-Islander", "Amer-Indian-Eskimo"}}, ">50K"),
        ({"occupation": {"Exec-managerial"}}, ">50K"),
        ({"workclass": {"Self-emp-inc"}}, ">50K"),
    ]


# ------------------------------------------------------------------ splits


def parts(splits):
    return splits.train, splits.valid, splits.test


def test_splits_are_disjoint_stratified_repeatable_and_56_14_30():
    task = get_task("adult")
    one, same = task.load(rows=2000), task.load(rows=2000)
    for part, again in zip(parts(one), parts(same), strict=True):
        assert_frame_equal(part, again)
        assert part.index.equals(pd.RangeIndex(len(part)))
    assert [len(part) for part in parts(one)] == [1120, 280, 600]
    whole = pd.concat(parts(one))
    for part in parts(one):
        share = part["income"].eq(">50K").mean()
        assert abs(share - whole["income"].eq(">50K").mean()) < 1 / len(part)
    # fnlwgt with age all but names a row: every row of the table is in exactly one part.
    from demix_lite.data import load_table

    table = load_table("adult", rows=2000)[0]
    key = [*task.features, task.target]
    pd.testing.assert_frame_equal(
        table[key].sort_values(key, ignore_index=True), whole.sort_values(key, ignore_index=True)
    )
    assert one.card.rows == 2000


def test_a_sample_of_the_splits_keeps_all_test_rows_and_is_named_by_its_seed():
    splits = get_task("adult").load(rows=2000)
    some, same, other = (splits.sample(301, seed=seed) for seed in ("a", "a", "b"))
    assert [len(part) for part in parts(some)] == [301, 76, 600]
    assert_frame_equal(some.test, splits.test)
    for part, again, whole in zip(parts(some), parts(same), parts(splits), strict=True):
        assert_frame_equal(part, again)
        assert part.index.equals(pd.RangeIndex(len(part)))
        assert set(map(tuple, part.to_numpy())) <= set(map(tuple, whole.to_numpy()))
    assert not some.train.equals(other.train)
    everything = splits.sample(10**9)
    for part, whole in zip(parts(everything), parts(splits), strict=True):
        assert_frame_equal(part, whole)


def test_too_few_rows_to_split_are_refused():
    with pytest.raises(DemixError, match="3 rows of adult are too few to split"):
        get_task("adult").load(rows=3)
    with pytest.raises(DemixError, match="8 rows of adult are too few to split"):
        get_task("adult").load(rows=8)


def test_a_table_in_which_nothing_can_go_wrong_is_refused():
    task, frame = get_task("bike"), get_task("bike").load(rows=200).train
    flat = frame.assign(**{name: frame[name].iloc[0] for name in task.features})
    with pytest.raises(DemixError, match="no column of bike has values that differ"):
        task.plan_feature_errors(flat, np.random.default_rng(0))


def test_missing_columns_are_named():
    with pytest.raises(DemixError, match=r"my.csv lacks the column\(s\) b, c"):
        check_columns(pd.DataFrame({"a": [1]}), ["a", "b", "c"], "my.csv")


# ------------------------------------------------------------------ encoding


def test_the_encoder_standardises_and_makes_one_hot():
    task, frame = toy_task(), toy_frame(200)
    encoder = task.encoder(frame)
    inputs, targets = encoder.transform(frame, "label")
    assert inputs.dtype == torch.float32
    assert inputs.shape == (200, encoder.width)
    assert encoder.cardinalities == [4, 3, 1]  # a missing colour is a colour
    numbers, one_hot = inputs[:, :3], inputs[:, 3:]
    expected = (frame[["age", "gain", "weight"]] - frame[["age", "gain", "weight"]].mean()) / (
        frame[["age", "gain", "weight"]].std(ddof=0)
    )
    assert np.allclose(numbers, expected, atol=1e-5)
    assert one_hot.sum(dim=1).tolist() == [3.0] * 200
    assert set(one_hot.unique().tolist()) == {0.0, 1.0}
    assert targets.tolist() == [["no", "yes"].index(label) for label in frame["label"]]
    same_colour = frame["colour"].isna()
    assert len(inputs[same_colour.to_list()][:, 3:7].unique(dim=0)) == 1


def test_the_encoder_stands_what_it_has_not_seen():
    task, frame = toy_task(), toy_frame(50)
    encoder = task.encoder(frame)
    odd = frame.head(3).assign(colour=["purple", None, "red"], weight=[np.nan, 1e6, 70.0])
    inputs = encoder.inputs(odd)
    assert inputs.isfinite().all()
    assert inputs[0, 3:7].tolist() == [0.0] * 4  # unseen: no category at all
    assert inputs[1, 3:7].sum() == 1  # missing was seen
    assert inputs[0, 2] == 0  # a missing number is the mean
    assert encoder.inputs(frame.head(0)).shape == (0, encoder.width)


def test_the_encoder_looks_at_the_dirty_rows_only():
    task, frame = toy_task(), toy_frame(50)
    dirty = frame.assign(weight=frame["weight"] * 100)
    numbers = task.encoder(dirty).inputs(dirty)[:, :3]
    assert numbers.mean(dim=0).abs().max() < 1e-5
    assert task.encoder(dirty).inputs(frame)[:, 2].mean() < -1


def test_missing_numbers_in_training_are_ignored_by_the_scaler():
    task, frame = toy_task(), toy_frame(50)
    holes = frame.assign(weight=frame["weight"].where(frame["row"] % 2 == 0))
    inputs = task.encoder(holes).inputs(holes)
    assert inputs.isfinite().all()
    assert abs(float(inputs[:, 2].mean())) < 1e-5


def test_columns_by_hand():
    task, frame = toy_task(), toy_frame(50)
    odd = frame.head(3).assign(colour=["purple", None, "red"], weight=[np.nan, 1e6, 70.0])
    values, categorical = task.encoder(frame).columns(odd)
    assert categorical.tolist() == [False] * 3 + [True] * 3
    # Missing is a category of its own, before the others; the unseen is missing for a tree.
    np.testing.assert_array_equal(values[:, 3], [np.nan, 0, 3])
    np.testing.assert_array_equal(values[:, 2], [np.nan, 1e6, 70])
    assert set(values[:, 5]) == {0}


def test_rare_categories_beyond_what_trees_hold_are_missing():
    task = replace(toy_task(), numeric=(), categorical=("colour",))
    frame = pd.DataFrame({"colour": [f"{n:03d}" for n in range(MOST_CATEGORIES + 9)]})
    codes = task.encoder(frame).columns(frame)[0][:, 0]
    assert np.nanmax(codes) == MOST_CATEGORIES - 1
    assert np.isnan(codes).sum() == 9


@pytest.mark.parametrize("absent", ["numeric", "categorical"])
def test_a_table_may_have_numbers_only_or_categories_only(absent):
    task, frame = replace(toy_task(), **{absent: ()}), toy_frame(50)
    encoder = task.encoder(frame)
    assert encoder.inputs(frame).shape == (50, encoder.width)
    assert encoder.width == {"numeric": 8, "categorical": 3}[absent]
    plan = task.plan_feature_errors(frame, np.random.default_rng(0))
    wrong = task.corrupt_features(frame, plan, np.random.default_rng(0))
    assert (wrong[plan.columns[0]] != frame[plan.columns[0]]).all()


# ------------------------------------------------------------------ loss and metric


def test_loss_and_metric():
    task = toy_task(3)
    outputs = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 1.0, 0.0], [5.0, 0.0, 0.0]])
    outputs = outputs.double()
    targets = torch.tensor([0, 2, 0, 1])
    expected = [outputs[i].logsumexp(0) - outputs[i, t] for i, t in enumerate(targets)]
    assert torch.allclose(task.loss(outputs, targets), torch.stack(expected))
    assert task.metric(outputs, targets) == 0.5


def test_weights_depend_on_the_seed_alone():
    task = toy_task()
    encoder = task.encoder(toy_frame(50))
    torch.manual_seed(1)
    one = seeded_model(task, "mlp2", encoder, seed=7)
    state = torch.random.get_rng_state()
    two = seeded_model(task, "mlp2", encoder, seed=7)
    assert torch.equal(state, torch.random.get_rng_state())
    other = seeded_model(task, "mlp2", encoder, seed=8)
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not any(torch.equal(a, c) for a, _, c in pairs)
    widths = [m.out_features for m in one.modules() if isinstance(m, torch.nn.Linear)]
    assert widths == [64, 32, 2]
    widths = [
        m.out_features
        for m in seeded_model(task, "mlp1", encoder, seed=7).modules()
        if isinstance(m, torch.nn.Linear)
    ]
    assert widths == [256, 128, 64, 2]
    with pytest.raises(DemixError, match="unknown architecture"):
        seeded_model(task, "mlp3", encoder, seed=7)


# ------------------------------------------------------------------ repair


def test_two_classes_are_flipped_whatever_the_model_says():
    task = toy_task()
    labels = pd.Series(["no", "yes", "no"], index=[5, 2, 9], name="label", dtype="str")
    outputs = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    better = task.relabel(labels, outputs)
    assert_series_equal(better, labels.map({"no": "yes", "yes": "no"}).astype("str"))


def test_more_classes_get_the_best_other_one():
    task = toy_task(3)
    labels = pd.Series(["no", "no", "yes", "maybe"], name="label")
    outputs = torch.tensor([[9.0, 1, 2], [0, 5, 4], [3, 1, 2], [-3, -2, -1]], requires_grad=True)
    before = outputs.detach().clone()
    better = task.relabel(labels, outputs)
    assert better.tolist() == ["maybe", "yes", "no", "yes"]
    assert torch.equal(outputs, before)


def test_nobody_to_relabel():
    task = toy_task()
    none = pd.Series([], name="label", dtype="str")
    assert task.relabel(none, torch.zeros(0, 2)).empty


def test_categorical_labels_stay_categorical():
    task = toy_task()
    labels = pd.Series(["no", "yes"], dtype=pd.CategoricalDtype(["no", "yes"]))
    for better in (
        task.relabel(labels, torch.zeros(2, 2)),
        task.wrong_labels(labels, np.random.default_rng(0)),
    ):
        assert better.dtype == labels.dtype
        assert better.tolist() == ["yes", "no"]


def test_numbers_are_relabelled_by_the_model():
    task = toy_number_task()
    labels = pd.Series([3.0, 90.0], index=[5, 2], name="label")
    better = task.relabel(labels, torch.tensor([[0.25], [1.5]]))
    assert_series_equal(better, pd.Series([25.0, 100.0], index=[5, 2], name="label"))


def test_impute_compares_numbers_with_their_fifth_of_the_labels():
    task = toy_number_task()
    trusted = toy_number_splits(400).train
    fifth = trusted[trusted["label"] > trusted["label"].quantile(0.8)]
    suspects = fifth.head(2).assign(weight=[1e4, fifth["weight"].iloc[1]])
    repaired, changed = task.impute(suspects, trusted.drop(index=suspects.index))
    assert changed["weight"].tolist() == [True, False]
    peers = fifth.drop(index=suspects.index)["weight"]
    assert abs(repaired["weight"].iloc[0] - peers.median()) < 1


def imputable():
    """A hundred trusted rows a class, whose ages and colours differ between the classes."""
    trusted = pd.DataFrame(
        {
            "age": [20, 21, 22, 23] * 25 + [60, 61, 62, 63] * 25,
            "gain": [1.0, 2.0, 3.0, 4.0] * 50,
            "weight": [70.0] * 200,
            "colour": ["red"] * 99 + ["blue"] + ["green"] * 100,
            "shape": ["round", "square"] * 100,
            "always": ["same"] * 200,
            "label": ["no"] * 100 + ["yes"] * 100,
        }
    )
    suspects = pd.DataFrame(
        {
            "age": [22, 62, 22, 20, 63],
            "gain": [2.0, 99.0, np.nan, 2.5, -99.0],
            "weight": [70.0, 70.0, 70.0, 71.0, 70.0],
            "colour": ["red", "green", "blue", "green", None],
            "shape": ["round", "square", "square", "oval", "round"],
            "always": ["same"] * 5,
            "label": ["no", "no", "no", "no", "yes"],
        },
        index=[40, 3, 7, 1, 0],
    )
    return suspects, trusted


def test_impute_replaces_extreme_cells_and_nothing_else():
    task = toy_task()
    suspects, trusted = imputable()
    repaired, changed = task.impute(suspects, trusted)
    # Row 3: an age and a gain far from its class, a colour its class does not have. Row 7: its
    # colour has 1 % of the class, which is enough, and a missing number stays missing. Row 1:
    # a colour and a shape unheard of, and a weight unlike all others. Row 0: a gain, no colour.
    expected = {
        40: [], 3: ["age", "gain", "colour"], 7: [], 1: ["weight", "colour", "shape"],
        0: ["gain", "colour"],
    }  # fmt: skip
    assert {i: list(changed.columns[row]) for i, row in changed.iterrows()} == expected
    assert list(changed.columns) == list(task.features)
    assert repaired.loc[3, ["age", "gain", "colour"]].tolist() == [22, 2.5, "red"]
    assert repaired.loc[1, ["weight", "colour", "shape"]].tolist() == [70.0, "red", "round"]
    assert repaired.loc[0, ["gain", "colour"]].tolist() == [2.5, "green"]
    mask = changed.assign(label=False)[list(suspects)]
    assert_frame_equal(repaired.where(~mask), suspects.where(~mask))
    assert repaired.dtypes.equals(suspects.dtypes)


def test_the_usual_one_of_whole_numbers_is_whole_and_rounded():
    assert usual_number(pd.Series([3, 4])) == 4
    assert usual_number(pd.Series([3.0, 4.0])) == 3.5


def test_a_number_is_far_off_beyond_three_standard_deviations_of_its_peers():
    peers = pd.Series([-1.0, 1.0] * 50)
    values = pd.Series([2.9, 3.1, -2.9, -3.1]) * peers.std()
    assert far_off(values, peers).tolist() == [False, True, False, True]


def test_impute_leaves_its_arguments_alone_and_stands_nothing_to_do():
    task = toy_task()
    suspects, trusted = imputable()
    copies = suspects.copy(), trusted.copy()
    task.impute(suspects, trusted)
    assert_frame_equal(suspects, copies[0])
    assert_frame_equal(trusted, copies[1])
    for some, peers in [(suspects.head(0), trusted), (suspects, trusted.head(0))]:
        repaired, changed = task.impute(some, peers)
        assert_frame_equal(repaired, some)
        assert not changed.any(axis=None)


def test_impute_knows_categories_by_any_type():
    task = toy_task()
    suspects, trusted = imputable()
    expected = task.impute(suspects, trusted)[1]
    values = pd.CategoricalDtype(["red", "green", "blue", "round", "square", "oval", "same"])
    for dtype in (object, values):
        as_type = dict.fromkeys(task.categorical, dtype)
        repaired, changed = task.impute(suspects.astype(as_type), trusted.astype(as_type))
        assert_frame_equal(changed, expected)
        assert repaired.loc[1, "colour"] == "red"


def test_a_task_is_one_instance():
    """A new table needs no new code: its roles, classes and rules are all there is to say."""
    task = toy_task()
    assert isinstance(task, TabularTask)
    assert task.features == ("age", "gain", "weight", "colour", "shape", "always")
    assert (task.family, task.metric_name) == ("tabular", "accuracy")
