"""Repair mends what is flagged, in the way of its error, and nothing else."""

import numpy as np
import pandas as pd
import pytest
import torch

from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.repair import SPURIOUS_WEIGHT, repair
from demix_lite.tasks import get_task


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
    encoder = task.encoder(rows)
    return repair(task, rows, flag, torch.zeros(len(rows), 2), encoder, **options)


def test_label_errors_are_flipped_and_nothing_else_changes(rows):
    done = mend(rows, flags(rows, label=[0, 5]))
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


def test_dropping_drops_exactly_the_flagged_rows(rows):
    done = mend(rows, flags(rows, feature=[1, 2]), features="drop")
    assert done.frame.index.tolist() == [i for i in rows.index if i not in (1, 2)]
    assert len(done.weights) == len(done.cells) == len(rows) - 2


def test_the_minority_is_weighted_up_and_the_mean_weight_is_one(rows):
    done = mend(rows, flags(rows, spurious=[7]))
    others = torch.ones(len(rows), dtype=torch.bool)
    others[7] = False
    assert float(done.weights.mean()) == pytest.approx(1.0, abs=1e-5)
    ratio = float(done.weights[7] / done.weights[others][0])
    assert ratio == pytest.approx(SPURIOUS_WEIGHT, rel=1e-5)
    assert done.weights[others].unique().numel() == 1


def test_no_flag_changes_nothing(rows):
    done = mend(rows, flags(rows))
    pd.testing.assert_frame_equal(done.frame, rows)
    assert torch.equal(done.weights, torch.ones(len(rows)))


def test_the_input_is_not_changed(rows):
    before = rows.copy()
    mend(rows, flags(rows, label=[0], feature=[1], spurious=[2]))
    pd.testing.assert_frame_equal(rows, before)
