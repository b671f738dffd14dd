"""Candidate shortcuts: the planted rule is among them, is described rightly and is found."""

import numpy as np
import pytest
import torch

from demix_lite.detector.runs import normal_ranks
from demix_lite.detector.shortcuts import (
    CANDIDATES,
    FACTS,
    LABEL_LEVELS,
    LEADERS,
    SOFTNESS,
    ShortcutScorer,
    candidates,
    conditions_of,
    quality,
    targets_of,
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


def test_the_most_suspicious_categories_are_put_together_up_to_four_of_them():
    code = np.repeat(np.arange(6.0), 50)
    suspicion = np.isin(code, [2, 5]) * 0.9
    found = conditions_of(code[:, None], np.array([True]), suspicion)
    sizes = [len(np.unique(code[holds > 0])) for holds in found.T]
    assert sizes == [1] * 6 + [2, 3, 4]
    assert set(code[found[:, 6] > 0]) == {2, 5}


def test_a_label_that_may_be_wrong_is_one_of_the_others():
    wrong = np.array([0.0, 0.3, 1.0])
    soft = targets_of(np.array([0.0, 1.0, 2.0]), wrong, 3)
    np.testing.assert_allclose(soft, [[1, 0, 0], [0.15, 0.7, 0.15], [0.5, 0.5, 0]], atol=1e-6)


def test_a_number_that_is_wrong_is_what_trusted_numbers_are():
    labels = np.arange(100.0)
    soft = targets_of(labels, (labels >= 50).astype(float), 0)
    for column, level in zip(soft.T, LABEL_LEVELS, strict=True):
        held = labels >= np.quantile(labels, level)
        np.testing.assert_allclose(column[:50], held[:50])
        np.testing.assert_allclose(column[50:], held[:50].mean(), atol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_how_well_a_rule_explains_the_verdicts_by_hand(turned):
    columns, verdicts, _ = planted(0)
    columns[:, -1] = columns[:, -1] != turned
    verdicts[:, 2] += 1e-6 * np.arange(len(verdicts))  # no ties: the mean score is 0
    found = candidates(columns, verdicts, categorical=np.append(KINDS[:3], True), classes=2)
    target, score = found.targets[:, 0], normal_ranks(verdicts)[:, 2]
    rare = target if target.mean() < 0.5 else 1 - target

    def correlation(said):
        return (said * score).mean() / np.sqrt(said.mean() * (1 - said.mean()))

    for rule, condition in enumerate(found.conditions.T):
        broken = found.breakers(np.array([rule]))[:, 0]
        both, spread = np.stack([condition, target]), [condition.mean(), target.mean()]
        link = abs(np.cov(both, ddof=0)[0, 1]) / np.sqrt(np.prod([p * (1 - p) for p in spread]))
        by_hand = [
            *(link, broken.mean(), correlation(broken), correlation(broken) - correlation(rare)),
            *(correlation(rare), min(spread[0], 1 - spread[0]), rare.mean()),
        ]
        np.testing.assert_allclose(found.facts[rule, 16:23], by_hand, atol=1e-4)
    leading = found.facts[:, [16, 18, 19]]
    np.testing.assert_allclose(found.facts[:, 23:26], normal_ranks(leading), atol=1e-4)
    top = np.sort(leading[:, :2], axis=0)[-LEADERS:].mean(0)
    np.testing.assert_allclose(found.facts[:, 26:], leading[:, :2] - top, atol=1e-5)


def test_quality_is_a_correlation():
    found, broken = found_in(1)
    rules = np.arange(len(found.facts))
    by_hand = [np.corrcoef(said, broken)[0, 1] for said in found.breakers(rules).T]
    np.testing.assert_allclose(quality(found, broken.astype(np.float32)), by_hand, atol=1e-4)


class ByLink(ShortcutScorer):
    """Believes the rules whose condition and target go together."""

    def forward(self, facts):
        return facts[:, 16]


def test_evidence_is_all_leading_rules_by_their_scores_and_the_best_alone():
    found, _ = found_in(2)
    scores = found.facts[:, 16].astype(float)
    assert len(scores) < CANDIDATES
    weights = np.exp((scores - scores.max()) / SOFTNESS)
    evidence = ByLink().evidence(found)
    every = found.breakers(np.arange(len(scores)))
    np.testing.assert_allclose(evidence[:, 0], every @ weights / weights.sum(), atol=1e-4)
    np.testing.assert_allclose(evidence[:, 1], every[:, scores.argmax()], atol=1e-6)
