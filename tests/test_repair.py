"""Repair mends what is flagged, in the way of its error, and nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from demix_lite.diagnosis import ERROR_TYPES, Diagnosis, certain
from demix_lite.errors import DemixError
from demix_lite.repair import SPURIOUS_WEIGHT, _breaks_as_recorded, repair
from demix_lite.tasks import get_task
from demix_lite.tasks.labels import Classes
from tests.toy import toy_frame, toy_number_splits, toy_number_task, toy_splits, toy_task


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return get_task("adult").load(rows=600).train.copy()


def flags(rows: pd.DataFrame, **flagged: list[int]) -> pd.DataFrame:
    table = pd.DataFrame(False, index=rows.index, columns=list(ERROR_TYPES))
    for kind, positions in flagged.items():
        table.loc[positions, kind] = True
    return table


def mend(rows, flag, **options):
    task = get_task("adult")
    return repair(task, rows, certain(flag), torch.zeros(len(rows), 2), **options)


def test_label_errors_are_flipped_and_nothing_else_changes(rows):
    done = mend(rows, flags(rows, label=[0, 5]), labels="flip")
    changed = done.frame["income"] != rows["income"]
    assert np.flatnonzero(changed).tolist() == [0, 5]
    pd.testing.assert_frame_equal(done.frame.drop(columns="income"), rows.drop(columns="income"))
    assert list(done.relabelled) == [0, 5]
    assert torch.equal(done.weights, torch.ones(len(rows)))


def test_extreme_cells_are_imputed_and_ordinary_ones_kept(rows):
    dirty = rows.copy()
    dirty.loc[3, "age"] = 900
    done = mend(dirty, flags(rows, feature=[3]))
    peers = rows[(rows["income"] == rows.loc[3, "income"]) & (rows.index != 3)]
    assert done.frame.loc[3, "age"] == pytest.approx(peers["age"].median(), abs=0.5)
    assert done.cells.loc[3, "age"]
    assert not done.cells.drop(index=3).to_numpy().any()
    pd.testing.assert_frame_equal(done.frame.drop(index=3), dirty.drop(index=3))
    assert done.frame.dtypes.equals(dirty.dtypes)


def test_an_unflagged_outlier_stays(rows):
    dirty = rows.copy()
    dirty.loc[3, "age"] = 900
    done = mend(dirty, flags(rows, feature=[4]))
    assert done.frame.loc[3, "age"] == 900


def test_the_minority_is_weighted_up_and_the_mean_weight_is_one(rows):
    done = mend(rows, flags(rows, spurious=[7]))
    pd.testing.assert_frame_equal(done.samples, rows)
    others = torch.ones(len(rows), dtype=torch.bool)
    others[7] = False
    assert float(done.weights.mean()) == pytest.approx(1.0, abs=1e-5)
    ratio = float(done.weights[7] / done.weights[others][0])
    assert ratio == pytest.approx(SPURIOUS_WEIGHT, rel=1e-5)
    assert done.weights[others].unique().numel() == 1


@pytest.mark.parametrize("option", ["labels", "features"])
def test_an_unknown_way_to_repair_is_refused(rows, option):
    with pytest.raises(DemixError, match=f"unknown way to repair {option} 'drop'"):
        mend(rows, flags(rows, feature=[3]), **{option: "drop"})


def test_a_diagnosis_and_outputs_of_other_rows_are_refused(rows):
    task, said = get_task("adult"), certain(flags(rows, feature=[3]))
    with pytest.raises(DemixError, match=f"diagnosis: {len(rows)} rows, but the frame has 50"):
        repair(task, rows[:50], said, torch.zeros(50, 2))
    with pytest.raises(DemixError, match=f"outputs: 50 rows, but the frame has {len(rows)}"):
        repair(task, rows, said, torch.zeros(50, 2))


def test_rows_with_the_same_index_are_refused(rows):
    twice = rows.set_axis(np.arange(len(rows)) // 2)
    with pytest.raises(DemixError, match="the same index"):
        mend(twice, flags(twice, feature=[3]))


def test_a_table_without_a_right_label_leaves_nothing():
    task, frame = toy_number_task(), toy_number_splits().train
    wrong = flags(frame, label=range(len(frame)))
    with pytest.raises(DemixError, match="no row is left"):
        repair(task, frame, certain(wrong), torch.zeros(len(frame), 1))


def test_no_flag_changes_nothing(rows):
    done = mend(rows, flags(rows))
    pd.testing.assert_frame_equal(done.frame, rows)
    assert torch.equal(done.weights, torch.ones(len(rows)))


def test_the_input_is_not_changed(rows):
    before = rows.copy()
    mend(rows, flags(rows, label=[0], feature=[1], spurious=[2]))
    pd.testing.assert_frame_equal(rows, before)


def test_someone_certain_trains_on_every_row_once_with_its_right_label(rows):
    flag = flags(rows, label=[0, 5], spurious=[5, 9])
    hedged, flipped = mend(rows, flag), mend(rows, flag, labels="flip")
    order = hedged.samples.index.argsort()
    pd.testing.assert_frame_equal(hedged.samples.iloc[order], flipped.samples)
    torch.testing.assert_close(hedged.weights[torch.tensor(order)], flipped.weights)


def test_a_doubtful_label_is_trained_both_ways_by_its_probability(rows):
    said = np.zeros((len(rows), 3))
    said[4, 0] = 0.3
    diagnosis = Diagnosis.from_probability(said, np.full(3, 0.5), index=rows.index)
    task = get_task("adult")
    done = repair(task, rows, diagnosis, torch.zeros(len(rows), 2), spurious_weight=1.0)
    pd.testing.assert_frame_equal(done.frame, rows)
    both = done.samples.index == 4
    assert set(done.samples.loc[both, "income"]) == {"<=50K", ">50K"}
    kept, flipped = done.weights[torch.tensor(both)]
    assert float(flipped / kept) == pytest.approx(0.3 / 0.7, rel=1e-4)
    assert len(done.samples) == len(rows) + 1


def test_where_no_shortcut_is_suspected_doubt_of_labels_weights_nothing_up(rows):
    said = np.zeros((len(rows), 3))
    said[:, 0] = np.random.default_rng(0).beta(1, 2, len(rows)).clip(0.05, 0.95)
    diagnosis = Diagnosis.from_probability(said, index=rows.index)
    done = repair(get_task("adult"), rows, diagnosis, torch.zeros(len(rows), 2))
    as_recorded = done.samples["income"] == rows.loc[done.samples.index, "income"]
    weights = pd.Series(done.weights, done.samples.index)[as_recorded.to_numpy()].sort_index()
    scale = weights / (1 - said[:, 0])
    np.testing.assert_allclose(scale, scale.iloc[0], rtol=1e-5)


def test_a_shortcut_is_seen_through_the_noise_of_the_verdicts():
    """On the mean P(spurious) = t (1 - p) + (1 - t) p: all rows together say who breaks it."""
    task = get_task("adult")
    frame = task.load("twin", rows=4000).train
    breaks = ((frame["sex"] == "Male") == (frame["income"] == ">50K")).to_numpy().astype(float)
    rng = np.random.default_rng(0)
    wrong = rng.beta(1, 4, len(frame))
    spurious = breaks * (1 - wrong) + (1 - breaks) * wrong + rng.normal(0, 0.15, len(frame))
    spurious[:10], wrong[:10] = 1 - breaks[:10], 0.0
    said = np.column_stack([wrong, np.zeros(len(frame)), spurious.clip(0, 1)])
    found = _breaks_as_recorded(task, frame, Diagnosis.from_probability(said, np.full(3, 0.5)))
    np.testing.assert_array_equal(found[:10], 1 - breaks[:10])
    alone = ((said[:, 2] - wrong) / (1 - 2 * wrong)).clip(0, 1)
    off, off_alone = np.abs(found - breaks)[10:].mean(), np.abs(alone - breaks)[10:].mean()
    assert off < off_alone / 2
    assert ((found > 0.5) == breaks)[10:].all()
    assert not ((alone > 0.5) == breaks)[10:].all()


def test_rows_whose_label_is_nearly_a_coin_toss_say_little_of_the_shortcut():
    task, frame = toy_task(), toy_frame(600)
    breaks = (frame["shape"].eq("round") == frame["label"].eq("yes")).to_numpy().astype(float)
    rng = np.random.default_rng(0)
    wrong = np.where(rng.random(600) < 0.7, 0.46, 0.0)
    spurious = breaks * (1 - wrong) + (1 - breaks) * wrong
    # Of rows that are nearly a coin toss the verdict is plainly misleading.
    spurious = np.where(wrong > 0, 1 - spurious, np.where(breaks > 0, 0.97, 0.03))
    said = np.column_stack([wrong, np.zeros(600), spurious])
    found = _breaks_as_recorded(task, frame, Diagnosis.from_probability(said, np.full(3, 0.5)))
    assert ((found > 0.5) == (breaks > 0)).all()
    # Where only the label is sure, the shortcut is not: such rows are seen through the noise, too.
    assert len(np.unique(found[wrong == 0])) > 2
    said = np.column_stack([np.full(600, 0.3), np.zeros(600), breaks])  # more than can be
    found = _breaks_as_recorded(task, frame, Diagnosis.from_probability(said, np.full(3, 0.5)))
    assert (found.min(), found.max()) == (0, 1)


def test_a_doubtful_cell_is_trained_as_it_is_and_as_imputed_by_its_probability(rows):
    dirty = rows.copy()
    dirty.loc[[3, 4], "age"] = 900
    said = np.zeros((len(rows), 3))
    said[3, 1], said[4, 1], said[5, 1] = 0.3, 0.8, 0.3
    diagnosis = Diagnosis.from_probability(said, np.full(3, 0.5), index=rows.index)
    done = repair(get_task("adult"), dirty, diagnosis, torch.zeros(len(rows), 2), features="hedge")
    assert done.frame.loc[3, "age"] == 900
    assert done.frame.loc[4, "age"] < 100
    assert done.cells.any(axis=1)[[3, 4, 5]].tolist() == [False, True, False]
    for row, chance in ((3, 0.3), (4, 0.8)):
        ages, (as_is, imputed) = done.samples.loc[row, "age"], weights_of(done, row)
        assert ages.iloc[0] == 900
        assert ages.iloc[1] < 100
        assert float(imputed / (as_is + imputed)) == pytest.approx(chance, rel=1e-5)
    assert (done.samples.index == 5).sum() == 1
    assert done.samples.dtypes.equals(dirty.dtypes)


class Careful(Classes):
    """Two classes of which a label is doubted only if it is likelier wrong than right."""

    least_doubt = 0.5


def test_a_label_is_believed_until_its_task_doubts_it_whatever_is_flagged():
    task, frame = replace(toy_task(), label=Careful(("no", "yes"))), toy_splits().train
    said = np.zeros((len(frame), 3))
    said[[4, 5], 0] = 0.4, 0.6
    diagnosis = Diagnosis.from_probability(said, np.full(3, 0.3), index=frame.index)
    done = repair(task, frame, diagnosis, torch.zeros(len(frame), 2))
    assert list(done.relabelled) == [5]
    assert np.flatnonzero(done.frame["label"] != frame["label"]).tolist() == [5]
    assert (done.samples.index == 4).sum() == 1
    assert (done.samples.index == 5).sum() == 2


def test_cells_are_compared_with_rows_whose_label_is_right():
    task, frame = toy_task(), toy_splits().train
    frame.loc[3, ["label", "weight"]] = ["no", 1e5]
    frame.loc[7, ["label", "weight"]] = ["yes", 1e6]  # turned to "no", it would hide the other
    done = repair(
        task, frame, certain(flags(frame, label=[7], feature=[3])), torch.zeros(len(frame), 2)
    )
    assert done.cells.loc[3, "weight"]
    assert done.frame.loc[3, "weight"] < 100


def test_a_row_with_both_errors_is_imputed_like_rows_of_its_new_label():
    task, frame = toy_task(), toy_splits().train
    frame["weight"] = np.where(frame["label"] == "no", 70.0, 90.0) + np.arange(len(frame)) % 3
    frame.loc[3, ["label", "weight"]] = ["no", 900.0]
    done = repair(
        task, frame, certain(flags(frame, label=[3], feature=[3])), torch.zeros(len(frame), 2)
    )
    assert done.frame.loc[3, "label"] == "yes"
    assert 90 <= done.frame.loc[3, "weight"] <= 92


# ------------------------------------------------------------------ more than two classes, numbers


def doubtful(frame, label=0.3, spurious=0.0):
    """Nobody is flagged; row 4 is doubtful."""
    said = np.zeros((len(frame), 3))
    said[4] = label, 0, spurious
    return Diagnosis.from_probability(said, np.full(3, 0.9), index=frame.index)


def weights_of(done, row):
    return done.weights[torch.from_numpy(done.samples.index == row)]


@pytest.mark.parametrize("kind", ["number", "three classes"])
def test_a_label_with_many_others_is_trained_as_recorded_with_less_weight(kind):
    """The other label would be the dirty model's own belief, and only two classes have one."""
    number = kind == "number"
    task = toy_number_task() if number else toy_task(3)
    frame = (toy_number_splits() if number else toy_splits(classes=3)).train
    outputs = torch.rand(len(frame), task.label.outputs)
    done = repair(task, frame, doubtful(frame, 0.3, 0.5), outputs, spurious_weight=3.0)
    pd.testing.assert_frame_equal(done.samples, frame)
    kept = weights_of(done, 4) / weights_of(done, 5)[0]
    assert float(kept) == pytest.approx(0.7 * 2, rel=1e-5)


def test_with_two_classes_the_other_label_is_on_the_other_side():
    task, frame = toy_task(), toy_splits().train
    done = repair(task, frame, doubtful(frame, 0.2, 0.2), torch.zeros(len(frame), 2))
    kept, changed = weights_of(done, 4) / weights_of(done, 5)[0]
    # P(spurious) = P(label error): as recorded the row keeps to the shortcut, else it breaks it.
    assert float(kept) == pytest.approx(0.8, abs=0.05)
    assert float(changed) == pytest.approx(0.2 * SPURIOUS_WEIGHT, abs=0.05)


def test_a_flagged_number_becomes_the_prediction_that_nothing_is_trained_on():
    task, frame = toy_number_task(), toy_number_splits().train
    flag = flags(frame, label=[0, 5])
    done = repair(task, frame, certain(flag), torch.full((len(frame), 1), 2.0))
    assert done.frame.loc[[0, 5], "label"].tolist() == [100, 100]
    pd.testing.assert_frame_equal(done.frame.drop([0, 5]), frame.drop([0, 5]))
    pd.testing.assert_frame_equal(done.samples, frame.drop([0, 5]))
