"""Candidate shortcuts: the planted rule is among them, is described rightly and is found."""

import numpy as np
import pytest
import torch

from demix_lite.detector.shortcuts import (
    FACTS,
    ShortcutScorer,
    candidates,
    quality,
    train_scorer,
)

KINDS = np.array([False, True, False, False])


def planted(seed: int, *, number: bool = False, rows: int = 800):
    """Return a table with a shortcut from one category to high labels, and its breakers."""
    rng = np.random.default_rng(seed)
    age, colour, weight = rng.normal(size=rows), rng.integers(0, 4, rows), rng.normal(size=rows)
    condition = colour == seed % 4
    broken = rng.random(rows) < 0.15
    target = condition != broken
    label = np.where(target, 0.8, 0.2) + rng.uniform(-0.1, 0.1, rows) if number else target * 1.0
    columns = np.column_stack([age, colour, weight, label])
    hint = np.clip(0.15 + 0.3 * broken + rng.normal(scale=0.2, size=rows), 0.01, 0.99)
    verdicts = np.column_stack([np.full(rows, 0.1), rng.uniform(0.1, 0.3, rows), hint])
    return columns, verdicts, broken


def found_in(seed: int, **how):
    columns, verdicts, broken = planted(seed, **how)
    kinds = KINDS.copy()
    kinds[-1] = not how.get("number")
    classes = 0 if how.get("number") else 2
    return candidates(columns, verdicts, categorical=kinds, classes=classes), broken


@pytest.mark.parametrize("number", [False, True])
def test_the_planted_rule_is_a_candidate(number):
    found, broken = found_in(1, number=number)
    assert found.facts.shape == (found.conditions.shape[1] * found.targets.shape[1], FACTS)
    assert np.isfinite(found.facts).all()
    best = quality(found, broken.astype(np.float32)).argmax()
    guess = found.breakers(np.array([best]))[:, 0] > 0.5
    assert (guess == broken).mean() > 0.97


def test_facts_by_hand():
    columns, verdicts, _ = planted(0)
    found = candidates(columns, verdicts, categorical=np.append(KINDS[:3], True), classes=2)
    from scipy.special import ndtri
    from scipy.stats import rankdata

    scores = ndtri((rankdata(verdicts[:, 2]) - 0.5) / len(verdicts))
    for rule in (0, 7, len(found.facts) - 1):
        condition = found.conditions[:, rule]
        target = found.targets[:, 0]
        cells = np.stack(
            [
                condition * (1 - target),
                (1 - condition) * target,
                condition * target,
                (1 - condition) * (1 - target),
            ]
        )
        if cells[0].mean() + cells[1].mean() > 0.5:
            cells = cells[[2, 3, 0, 1]]
        np.testing.assert_allclose(found.facts[rule, :4], cells.mean(1), atol=1e-5)
        means = (cells * scores).mean(1) / np.maximum(cells.mean(1), 2e-3)
        np.testing.assert_allclose(found.facts[rule, 6:16:3], means, atol=1e-4)


def test_a_trained_scorer_finds_rules_it_was_not_trained_on():
    runs, truths = zip(*(found_in(seed) for seed in range(4)), strict=True)
    scorer = ShortcutScorer()
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    train_scorer(scorer, list(runs), [t.astype(np.float32) for t in truths], seed=0)
    assert any(not torch.equal(before[n], v) for n, v in scorer.state_dict().items())
    new, broken = found_in(7)
    evidence = scorer.evidence(new)
    assert evidence.shape == (800, 2)
    assert ((evidence >= 0) & (evidence <= 1)).all()
    for column in evidence.T:
        assert ((column > 0.5) == broken).mean() > 0.95


def test_order_of_rows_does_not_matter():
    columns, verdicts, _ = planted(2)
    order = np.random.default_rng(0).permutation(len(columns))
    kinds = np.append(KINDS[:3], True)
    one = candidates(columns, verdicts, categorical=kinds, classes=2)
    other = candidates(columns[order], verdicts[order], categorical=kinds, classes=2)
    np.testing.assert_allclose(one.facts, other.facts, atol=1e-4)


def test_a_rule_and_its_opposite_divide_the_rows_alike():
    columns, verdicts, _ = planted(3)
    turned = columns.copy()
    turned[:, -1] = 1 - turned[:, -1]
    kinds = np.append(KINDS[:3], True)
    one = candidates(columns, verdicts, categorical=kinds, classes=2)
    other = candidates(turned, verdicts, categorical=kinds, classes=2)
    every = np.arange(len(one.facts))
    np.testing.assert_allclose(one.breakers(every), other.breakers(every), atol=1e-5)


def test_missing_values_and_constant_columns_are_no_obstacle():
    columns, verdicts, _ = planted(4)
    columns[::3, 0] = np.nan
    columns[::5, 1] = np.nan
    columns[:, 2] = 1.0
    columns = np.column_stack([np.full(len(columns), np.nan), columns])
    kinds = np.array([False, *KINDS[:3], True])
    found = candidates(columns, verdicts, categorical=kinds, classes=2)
    assert np.isfinite(found.facts).all()
    assert found.conditions.shape[1] > 0


def test_without_a_candidate_nothing_is_said_of_shortcuts():
    columns = np.c_[np.r_[np.zeros(299), 1.0]]
    for values in (columns, np.full((300, 1), np.nan)):
        table = np.c_[values, np.arange(300) % 2]
        kinds = np.array([True, True])
        found = candidates(table, np.zeros((300, 3)), categorical=kinds, classes=2)
        assert len(found.facts) == 0
        assert not ShortcutScorer().evidence(found).any()
