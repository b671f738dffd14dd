"""What a label answers: a class or a number, how it goes wrong, how it is judged and mended."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demix_lite.tasks.labels import SMALLEST_SHIFT, Classes, Number, Preference
from tests.toy import toy_number_task, toy_task

SEVEN = Classes(tuple("abcdefg"))
numbers = st.floats(-1e4, 1e4, allow_nan=False)
seeds = st.integers(0, 10_000)


def wrong(label, given_labels, seed=0):
    return label.wrong(given_labels, np.random.default_rng(seed))


# ------------------------------------------------------------------ classes


@given(st.lists(st.sampled_from(SEVEN.names), max_size=60), seeds)
def test_a_wrong_class_is_another_class(names, seed):
    labels = pd.Series(names, index=range(5, 5 + len(names)), dtype="str", name="y")
    found = wrong(SEVEN, labels, seed)
    assert not (found == labels).any()
    assert set(found) <= set(SEVEN.names)
    assert found.index.equals(labels.index)
    assert found.dtype == labels.dtype


def test_every_other_class_is_drawn_equally_often():
    found = wrong(SEVEN, pd.Series(["c"] * 6000, dtype="str")).value_counts()
    assert set(found.index) == set("abdefg")
    assert found.between(880, 1120).all()


def test_classes_are_encoded_in_the_order_of_their_names():
    assert SEVEN.encode(pd.Series(["g", "a", "c"])).tolist() == [6, 0, 2]
    assert SEVEN.codes(pd.Series(["z", "a"])).tolist() == [-1, 0]
    assert SEVEN.outputs == 7


def test_only_two_classes_lie_on_two_sides():
    assert Classes(("no", "yes")).two_sided
    assert not SEVEN.two_sided
    assert not Number(0, 1).two_sided


def test_only_two_classes_say_what_is_right_where_one_is_wrong():
    assert Classes(("no", "yes")).other_known
    assert Preference().other_known
    assert not SEVEN.other_known
    assert not Number(0, 1).other_known


def test_a_better_class_is_the_most_probable_other_one():
    outputs = torch.tensor([[9.0, 1, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]])
    assert SEVEN.better(pd.Series(["a", "b"]), outputs).tolist() == ["c", "g"]


def test_classes_group_and_stratify_by_themselves():
    labels = pd.Series(["a", "b", "a"])
    assert SEVEN.groups(labels, labels).equals(labels)
    assert SEVEN.strata(labels).equals(labels)


def test_a_better_preference_is_the_other_answer_whatever_the_model_says():
    labels = pd.Series(["first", "second"], index=[4, 2])
    better = Preference().better(labels, torch.tensor([[9.0], [9.0]]))
    assert better.to_dict() == {4: "second", 2: "first"}


# ------------------------------------------------------------------ numbers


@given(numbers, st.floats(0.5, 1e4), st.lists(st.floats(0, 1), min_size=1, max_size=40), seeds)
def test_a_wrong_number_is_a_quarter_of_the_range_away_and_inside_it(low, width, places, seed):
    label = Number(low, low + width)
    labels = pd.Series([low + width * place for place in places], name="y")
    found = wrong(label, labels, seed)
    slack = 1e-9 * (abs(low) + width)
    assert ((found - labels).abs() >= SMALLEST_SHIFT * width - slack).all()
    assert found.between(low - slack, low + width + slack).all()


@given(st.integers(-500, 500), st.integers(1, 900), st.lists(st.floats(0, 1), min_size=1), seeds)
def test_whole_numbers_stay_whole_and_far_enough(low, width, places, seed):
    label = Number(low, low + width)
    labels = pd.Series([low + round(width * place) for place in places], dtype="int64")
    found = wrong(label, labels, seed)
    assert found.dtype == labels.dtype
    assert ((found - labels).abs() >= SMALLEST_SHIFT * width).all()
    assert found.between(low, low + width).all()


def test_wrong_numbers_fill_both_sides_evenly():
    found = wrong(Number(0, 100), pd.Series([40.0] * 8000))
    below, above = (found < 40).sum(), (found > 40).sum()
    assert below / (below + above) == pytest.approx(15 / 50, abs=0.02)  # 0 to 15, 65 to 100
    assert found[found > 40].mean() == pytest.approx(82.5, abs=1)


def test_a_number_outside_the_range_gets_a_wrong_one_inside():
    found = wrong(Number(0, 100), pd.Series([150.0, -20.0]))
    assert found[0] <= 75
    assert 25 <= found[1] <= 100


def test_numbers_are_encoded_in_units_of_their_range():
    label = Number(10, 30)
    encoded = label.encode(pd.Series([10, 30, 25]))
    assert encoded.dtype == torch.float32
    assert encoded.tolist() == [0, 1, 0.75]
    outputs = torch.tensor([[0.5], [1.0], [0.25]])
    assert label.loss(outputs, encoded).tolist() == [0.25, 0.0, 0.25]
    assert label.metric(outputs, encoded) == pytest.approx(0.5 / 3)


def test_a_better_number_is_the_prediction_kept_within_the_range():
    label = Number(10, 30)
    outputs = torch.tensor([[-3.0], [0.5], [7.0], [0.26]], requires_grad=True)
    labels = pd.Series([11.0, 12.0, 13.0, 14.0], index=[4, 2, 9, 1], name="y")
    better = label.better(labels, outputs)
    np.testing.assert_allclose(better, [10, 20, 30, 15.2], rtol=1e-6)
    assert better.index.equals(labels.index)
    whole = label.better(labels.astype("int64"), outputs)
    assert whole.dtype == "int64"
    assert whole.tolist() == [10, 20, 30, 15]


def test_numbers_fall_into_fifths_of_the_reference():
    label, reference = Number(0, 100), pd.Series(np.arange(1.0, 101))
    groups = label.groups(reference, reference)
    assert groups.value_counts().tolist() == [20] * 5
    assert groups.is_monotonic_increasing
    odd = label.groups(pd.Series([-5.0, 50.0, 900.0], index=[7, 8, 9]), reference)
    assert odd.to_dict() == {7: 0, 8: 2, 9: 4}
    assert label.strata(reference) is None


# ------------------------------------------------------------------ which way is up


def test_a_better_model_is_on_the_better_side_of_the_metric():
    for task, right, bad in (
        (toy_task(), torch.tensor([[9.0, 0], [0, 9]]), torch.tensor([[0.0, 9], [0, 9]])),
        (toy_number_task(), torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [1.0]])),
    ):
        targets = torch.tensor([0, 1])
        better, worse = task.metric(right, targets), task.metric(bad, targets)
        assert (better > worse) == task.label.larger_is_better
    assert toy_number_task().metric_name == "MSE"


@given(
    known=st.lists(st.integers(0, 30), min_size=2, max_size=200).filter(lambda x: len({*x}) > 1),
    seed=st.integers(0, 10**6),
)
def test_a_number_is_exchanged_for_one_a_quarter_of_the_rows_away(known, seed):
    labels = pd.Series(known, name="label")
    drawn = Number(0, 30).of_others(labels, labels, np.random.default_rng(seed))
    assert drawn.isin(labels).all()
    assert (drawn != labels).all()
    assert drawn.dtype == labels.dtype
    ranks = labels.rank()
    between = [abs(ranks[labels == d].iloc[0] - ranks.iloc[i]) for i, d in enumerate(drawn)]
    ties = labels.value_counts().max()
    assert min(between) >= len(labels) / 4 - ties


def test_a_class_is_exchanged_as_often_as_others_have_it():
    known = pd.Series(["a"] * 100 + ["b"] * 600 + ["c"] * 300)
    labels = pd.Series(["a"] * 6000)
    drawn = Classes(("a", "b", "c")).of_others(labels, known, np.random.default_rng(0))
    shares = drawn.value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"b": 2 / 3, "c": 1 / 3}, abs=0.02)
    only = Classes(("a", "b")).of_others(labels[:3], labels, np.random.default_rng(0))
    assert only.tolist() == ["b", "b", "b"]
