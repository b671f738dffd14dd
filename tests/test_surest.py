"""The largest probability of a wrong label, from the rows whose class a model is surest of."""

import numpy as np
import pytest
import torch

from demix_lite.debugger.surest import FEWEST, SUREST, most_wrong


def noisy(chance, shares, seed=0):
    """Draw classes with these chances, shape (n, classes), and turn a share of each into others."""
    rng = np.random.default_rng(seed)
    right = np.array([rng.choice(len(p), p=p) for p in chance])
    wrong = rng.random(len(chance)) < np.array(shares)[right]
    other = (right + rng.integers(1, chance.shape[1], len(chance))) % chance.shape[1]
    return torch.from_numpy(np.log(chance)), np.where(wrong, other, right), wrong


def two(chance):
    return np.column_stack([1 - chance, chance])


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.05, 0.05), (0.1, 0.0), (0.0, 0.3)])
def test_no_more_labels_are_wrong_than_it_says(shares):
    chance = np.random.default_rng(1).beta(0.4, 1.2, 20_000).clip(0.01, 0.99)
    outputs, labels, wrong = noisy(two(chance), shares)
    bound = most_wrong(outputs, labels)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.7), (0.7, 1.0)):
        for label in (0, 1):
            rows = (bound > low) & (bound <= high) & (labels == label)
            if rows.sum() >= 200:
                assert wrong[rows].mean() <= bound[rows].mean() + 0.02


def test_a_label_that_many_alike_rows_have_is_hardly_wrong_where_sure_classes_are_clean():
    chance = np.r_[np.full(2000, 0.02), np.full(2000, 0.2)]
    outputs, labels, _ = noisy(two(chance), (0, 0))
    bound = most_wrong(outputs, labels)
    rare = labels == 1
    assert bound[rare & (chance == 0.2)].max() < 0.2
    assert bound[rare & (chance == 0.02)].min() == 1


def test_of_three_classes_the_worst_of_the_others_counts():
    peaks = np.eye(3) * 0.91 + 0.03
    chance = np.repeat(peaks, 2000, axis=0)
    outputs, labels, wrong = noisy(chance, (0.2, 0.0, 0.0))
    bound = most_wrong(outputs, labels)
    assert bound[wrong].mean() > 0.9
    middle = np.repeat([[0.5, 0.25, 0.25]], 2000, axis=0)
    outputs, labels, _ = noisy(np.concatenate([chance, middle]), (0.0, 0.0, 0.0))
    assert most_wrong(outputs, labels)[6000:].mean() < 0.5


def test_of_few_rows_nothing_is_known():
    few = int(FEWEST / max(SUREST)) - 1
    outputs, labels, _ = noisy(two(np.r_[np.full(few - 9, 0.2), np.full(9, 1e-9)]), (0, 0))
    assert (most_wrong(outputs, labels) == 1).all()


def test_the_order_of_the_rows_does_not_matter():
    outputs, labels, _ = noisy(two(np.random.default_rng(2).uniform(0.01, 0.6, 1000)), (0.1, 0.1))
    mixed = np.random.default_rng(3).permutation(1000)
    whole = most_wrong(outputs, labels)
    np.testing.assert_allclose(most_wrong(outputs[mixed], labels[mixed]), whole[mixed])
