"""What a table task answers: rules, splits, encoding, repair; by hand on a few rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal, assert_series_equal

from demix_lite.errors import DemixError
from demix_lite.tasks import TASKS, get_task
from demix_lite.tasks.base import Rule, check_columns, seeded_model
from demix_lite.tasks.tabular import TabularTask
from tests.toy import toy_frame, toy_task

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


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_rules_of_a_task_speak_of_its_columns_and_values(task):
    splits = task.load(rows=4000)
    everyone = pd.concat([splits.train, splits.valid, splits.test])
    assert list(everyone) == [*task.features, task.target]
    assert set(everyone[task.target]) == set(task.classes)
    for rule in task.rules:
        assert set(np.unique(task.groups(everyone, rule))) == {0, 1, 2, 3}


def test_adult_has_the_rules_of_the_paper():
    task = get_task("adult")
    assert task.classes == ("<=50K", ">50K")
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


def test_too_few_rows_to_split_are_refused():
    with pytest.raises(DemixError, match="3 rows of adult are too few to split"):
        get_task("adult").load(rows=3)


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
    better = task.relabel(labels, outputs, task.encoder(toy_frame(50)))
    assert_series_equal(better, labels.map({"no": "yes", "yes": "no"}).astype("str"))


def test_more_classes_get_the_best_other_one():
    task = toy_task(3)
    labels = pd.Series(["no", "no", "yes", "maybe"], name="label")
    outputs = torch.tensor([[9.0, 1, 2], [0, 5, 4], [3, 1, 2], [-3, -2, -1]], requires_grad=True)
    before = outputs.detach().clone()
    better = task.relabel(labels, outputs, task.encoder(toy_frame(50, classes=3)))
    assert better.tolist() == ["maybe", "yes", "no", "yes"]
    assert torch.equal(outputs, before)


def test_nobody_to_relabel():
    task = toy_task()
    none = pd.Series([], name="label", dtype="str")
    assert task.relabel(none, torch.zeros(0, 2), task.encoder(toy_frame(50))).empty


def test_categorical_labels_stay_categorical():
    task = toy_task()
    labels = pd.Series(["no", "yes"], dtype=pd.CategoricalDtype(["no", "yes"]))
    for better in (
        task.relabel(labels, torch.zeros(2, 2), task.encoder(toy_frame(50))),
        task.wrong_labels(labels, np.random.default_rng(0)),
    ):
        assert better.dtype == labels.dtype
        assert better.tolist() == ["yes", "no"]


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
