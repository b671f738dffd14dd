"""Candidate shortcuts: simple rules "where this condition holds, the label is that".

The spurious errors of a run have one cause: a condition on the features goes with a target more
often than it should, and a minority breaks the rule. A row's own influence vector says little about
the rule, but all rows together say much:

1. For every condition on one column and every target, the verdicts on the rows that keep and that
   break the rule are summarised by a few numbers.
2. A small network, trained on runs whose errors are known, predicts from these numbers how well
   the rule explains the spurious errors.
3. The best rules give, for every row, the probability that it breaks them.

A label counts as the target in proportion to the probability that it is right, so that the rule
remains visible despite label noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from demix_lite.detector.runs import normal_ranks
from demix_lite.models.training import minimise

LEVELS = np.linspace(0.04, 0.96, 24)
"""Quantiles at which conditions cut a numeric column."""

LABEL_LEVELS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
MOST_MERGED = 4
LEAST_SHARE = 0.005
LEADERS = 3
FACTS = 28
"""Numbers that describe a candidate."""

SOFTNESS = 0.03
WIDTH, STEPS, CANDIDATES = 48, 800, 256


@dataclass(frozen=True)
class Candidates:
    """All candidate rules of one run.

    ``conditions`` are 1 where a condition holds and 0 elsewhere, ``(N, C)``; ``targets`` are the
    probabilities that the true label is each target, ``(N, T)``; ``facts`` describe the rules,
    ``(C * T, FACTS)``, with the targets of one condition next to each other.
    """

    conditions: np.ndarray
    targets: np.ndarray
    facts: np.ndarray

    def breakers(self, chosen: np.ndarray) -> np.ndarray:
        """Return the probability that each row breaks each chosen rule, shape ``(N, chosen)``.

        A rule and its opposite split the rows in the same way; the smaller side breaks the rule.
        """
        condition, target = np.divmod(chosen, self.targets.shape[1])
        c, t = self.conditions[:, condition], self.targets[:, target]
        broken = c * (1 - t) + (1 - c) * t
        return np.where(broken.mean(0) > 0.5, 1 - broken, broken)


def candidates(
    columns: np.ndarray, verdicts: np.ndarray, *, categorical: np.ndarray, classes: int
) -> Candidates:
    """Describe every candidate rule of a run by the verdicts on its rows.

    ``columns`` holds the features and, last, the label of every row, ``(N, d + 1)``;
    ``categorical`` marks the categorical columns; ``verdicts`` are the current probabilities of the
    three error types, ``(N, 3)``; ``classes`` is 0 for a numeric label.
    """
    conditions = conditions_of(columns[:, :-1], categorical[:-1], verdicts[:, 2])
    targets = targets_of(columns[:, -1], verdicts[:, 0], classes)
    if not conditions.size or not targets.size:
        return Candidates(conditions, targets, np.empty((0, FACTS), np.float32))
    scores = normal_ranks(verdicts).astype(np.float32)
    return Candidates(conditions, targets, _facts(conditions, targets, scores))


def conditions_of(
    columns: np.ndarray, categorical: np.ndarray, suspicion: np.ndarray
) -> np.ndarray:
    """List conditions on one column: a category, several suspicious categories, or a threshold."""
    found: list[np.ndarray] = []
    for x, is_category in zip(columns.T, categorical, strict=True):
        known = x[~np.isnan(x)]
        if not len(known):
            continue
        if not is_category:
            found.extend(x >= cut for cut in np.unique(np.quantile(known, LEVELS)))
            continue
        codes = np.unique(known)
        found.extend(x == code for code in codes)
        most_suspicious = codes[np.argsort([-suspicion[x == code].mean() for code in codes])]
        found.extend(
            np.isin(x, most_suspicious[:count])
            for count in range(2, min(MOST_MERGED + 1, len(codes) - 1))
        )
    holds = np.array(found, dtype=bool).reshape(-1, len(columns)).T
    share = holds.mean(0)
    return holds[:, (share > LEAST_SHARE) & (share < 1 - LEAST_SHARE)].astype(np.float32)


def targets_of(
    labels: np.ndarray,
    wrong: np.ndarray,
    classes: int,
    levels: Sequence[float] | np.ndarray = LABEL_LEVELS,
) -> np.ndarray:
    """Return the probability that the true label of each row is each target.

    The recorded label is wrong with probability ``wrong``. A target is a class, or all numbers at
    or above one of the quantiles ``levels``.
    """
    if classes:
        held = labels[:, None] == np.arange(classes - (classes == 2))
        elsewhere = 1 / (classes - 1)
        soft = np.where(held, 1 - wrong[:, None], elsewhere * wrong[:, None])
    else:
        held = labels[:, None] >= np.quantile(labels, levels)
        usual = np.average(held, axis=0, weights=1 - wrong)
        soft = (1 - wrong[:, None]) * held + wrong[:, None] * usual
    return soft[:, held.any(0) & ~held.all(0)].astype(np.float32)


def _facts(conditions: np.ndarray, targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Describe every rule by the sizes of its four cells and by the mean scores in them."""
    n = len(conditions)
    weights = [np.ones(n, np.float32), *scores.T]
    both = np.stack([conditions.T @ (targets * w[:, None]) / n for w in weights])
    condition = np.stack([conditions.T @ w / n for w in weights])[:, :, None]
    target = np.stack([targets.T @ w / n for w in weights])[:, None, :]
    total = np.array([w.mean() for w in weights])[:, None, None]
    cells = np.stack([condition - both, target - both, both, total - condition - target + both])
    # A rule and its opposite are the same candidate: the smaller side comes first.
    opposite = cells[0, 0] + cells[1, 0] > 0.5
    cells = np.where(opposite, cells[[2, 3, 0, 1]], cells)
    sizes = cells[:, 0]
    means = cells[:, 1:] / np.maximum(sizes, 2e-3)[:, None]
    c, t = condition[0], target[0]
    link = np.abs(both[0] - c * t) / np.sqrt(c * (1 - c) * t * (1 - t))
    broken = sizes[0] + sizes[1]
    rare = np.minimum(t, 1 - t)
    explained = _correlation(cells[0, 3] + cells[1, 3], broken)
    by_target = _correlation(np.where(t < 0.5, target[3], -target[3]), rare)
    facts = [
        *sizes,
        *means.reshape(12, *link.shape),
        *(link, broken, explained, explained - by_target),
        *np.broadcast_arrays(by_target, np.minimum(c, 1 - c), rare, link)[:3],
    ]
    flat = np.stack(facts, axis=-1).reshape(-1, len(facts))
    leading = flat[:, [16, 18, 19]]
    ranks = normal_ranks(leading)
    gaps = leading[:, :2] - np.sort(leading[:, :2], axis=0)[-LEADERS:].mean(0)
    return np.hstack([flat, ranks, gaps]).astype(np.float32)


def _correlation(product: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Correlate a binary variable of mean ``share`` with scores of mean 0 and variance 1."""
    return product / np.sqrt(np.maximum(share * (1 - share), 1e-6))


def quality(found: Candidates, truth: np.ndarray) -> np.ndarray:
    """Return, for each rule, the correlation of breaking it with the true spurious errors."""
    centred = (truth - truth.mean()) / (truth.std() + 1e-9)
    values = np.empty(found.conditions.shape[1] * found.targets.shape[1], np.float32)
    for block in np.array_split(np.arange(len(values)), len(values) // 512 + 1):
        broken = found.breakers(block)
        values[block] = centred @ broken / len(truth) / (broken.std(0) + 1e-9)
    return values


class ShortcutScorer(nn.Module):
    """Predicts how well each candidate rule explains the spurious errors of its run."""

    centre: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(FACTS))
        self.register_buffer("spread", torch.ones(FACTS))
        self.layers = nn.Sequential(
            *(nn.Linear(FACTS, WIDTH), nn.GELU(), nn.Dropout(0.1)),
            *(nn.Linear(WIDTH, WIDTH), nn.GELU()),
            nn.Linear(WIDTH, 1),
        )

    def forward(self, facts: Tensor) -> Tensor:
        """Map facts ``(n, FACTS)`` to predictions of :func:`quality`, ``(n,)``."""
        return self.layers((facts - self.centre) / self.spread).squeeze(-1)

    @torch.no_grad()
    def evidence(self, found: Candidates) -> np.ndarray:
        """Return the probability that each row breaks the best rules, shape ``(N, 2)``.

        The first column averages all leading rules, weighted by their score; the second is the best
        rule alone.
        """
        if not len(found.facts):
            return np.zeros((len(found.conditions), 2))
        scores = self(torch.from_numpy(found.facts)).numpy()
        leading = np.argsort(-scores)[:CANDIDATES]
        weights = np.exp((scores[leading] - scores[leading[0]]) / SOFTNESS)
        broken = found.breakers(leading)
        return np.column_stack([broken @ (weights / weights.sum()), broken[:, 0]])


def train_scorer(
    scorer: ShortcutScorer, runs: list[Candidates], truths: list[np.ndarray], *, seed: int
) -> None:
    """Train in place on the candidates of runs whose spurious errors are known."""
    facts = [torch.from_numpy(run.facts) for run in runs]
    aims = [torch.from_numpy(quality(*pair)) for pair in zip(runs, truths, strict=True)]
    together = torch.cat(facts)
    scorer.centre.copy_(together.mean(0))
    scorer.spread.copy_(together.std(0) + 1e-3)
    draw = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        # The same number of candidates from every run, however many it has.
        picks = [torch.randint(len(aim), (16,), generator=draw) for aim in aims]
        x = torch.cat([f[pick] for f, pick in zip(facts, picks, strict=True)])
        y = torch.cat([a[pick] for a, pick in zip(aims, picks, strict=True)])
        return (scorer(x) - y).square().mean()

    minimise(scorer, (loss() for _ in range(STEPS)), STEPS, weight_decay=1e-2)
