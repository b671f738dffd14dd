"""The script that puts other people's errors into a file: what it says of them is true."""

import numpy as np
import pandas as pd
import pytest
from independent_errors import _tie, mistyped, with_errors


def clean_table(regression):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 80, 2000),
            "income": rng.normal(40, 12, 2000).round(1),
            "city": rng.choice(["Rome", "Oslo", "Bonn"], 2000),
            "job": rng.choice(["cook", "clerk"], 2000),
        }
    )
    return frame.assign(y=frame["income"] * 2 if regression else rng.choice(["no", "yes"], 2000))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("regression", [False, True])
def test_the_truth_says_what_was_changed(seed, regression):
    dirty, truth = with_errors(clean_table(regression), "y", seed=seed)
    again, _ = with_errors(clean_table(regression), "y", seed=seed)
    pd.testing.assert_frame_equal(dirty, again)
    assert truth["label"].mean() == pytest.approx(0.25, abs=0.01)
    assert 0.15 <= truth["feature"].mean() <= 0.25
    assert not (truth["label"] & truth["feature"]).any()
    assert truth["spurious"].mean() == pytest.approx(0.15, abs=0.03)
    if "place" in dirty:  # no row was dropped
        clean = clean_table(regression)
        assert ((dirty["y"] != clean["y"]) == truth["label"]).all()
        changed = (dirty[["age", "income"]] != clean[["age", "income"]]).any(axis=1)
        assert not (changed & ~truth["feature"]).any()


def test_nothing_is_changed_where_nothing_is_asked():
    clean = clean_table(False)
    dirty, truth = with_errors(clean, "y", labels=0, features=0, minority=0)
    kept = dirty.drop(columns="place", errors="ignore")
    assert not truth.any(axis=None)
    assert (kept.to_numpy() == clean.iloc[: len(kept)].to_numpy()).all() or len(kept) < len(clean)


def test_a_slip_of_the_hand_stays_close_to_the_word():
    rng = np.random.default_rng(0)
    slips = {mistyped("cook", False, rng) for _ in range(50)}
    assert all(abs(len(slip) - 4) <= 1 and set(slip) <= set("cook") for slip in slips)
    assert isinstance(mistyped(12.5, True, rng), float)
    assert np.isnan(mistyped(np.nan, True, rng))


@pytest.mark.parametrize("seed", range(12))
def test_a_shortcut_ties_the_label_to_a_group_or_a_place(seed):
    clean = clean_table(False)
    clean["rare"] = np.where(np.arange(len(clean)) < 10, "yes", "no")  # too few to carry one
    dirty, truth = with_errors(clean, "y", seed=seed, labels=0, features=0)
    wanted = (dirty["y"] == "yes").to_numpy()
    group = wanted ^ truth["spurious"].to_numpy()  # or those who are not of the group
    assert _tie(group, wanted) > 0.2
    assert 0.02 < group.mean() < 0.98


def test_where_no_group_can_be_tied_to_the_label_a_place_is_added():
    clean = pd.DataFrame({"same": ["a"] * 995 + ["b"] * 5, "y": ["no", "yes"] * 500})
    for seed in range(6):
        dirty, _ = with_errors(clean, "y", seed=seed, labels=0, features=0)
        assert set(dirty["place"]) == {"north", "south"}
        assert len(dirty) == len(clean)
