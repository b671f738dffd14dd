"""The second pass: correct the first verdicts by those on similar rows of the same run.

The first pass judges every row by its influence vector alone. Its mistakes differ from row to row,
while the errors of one run share their cause: the same broken columns, the same shortcut. Three
models, fitted within the run, average out the mistakes and keep the cause. None of them sees a true
error.

- *Consensus*: trees predict the verdict on a row from the rows and verdicts of the other folds.
- *Label support*: trees predict the label of a row from the other folds, whose rows are weighted by
  the probability that their label is right. *Plain support* is the same with equal weights, for
  runs whose first verdicts are no better than chance.
- *Shortcuts*: simple rules that would explain the spurious verdicts (see ``shortcuts``).

A small network joins their outputs with the row's own evidence. It may be applied in rounds, each
on the verdicts of the previous round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.special import expit, logit
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from demix_lite.cross_fit import held_out, in_bins
from demix_lite.detector.runs import Run, normal_ranks
from demix_lite.detector.shortcuts import Candidates, ShortcutScorer, candidates, train_scorer
from demix_lite.models.training import minimise

# Small trees do not memorise wrong verdicts and wrong labels.
TREES = {"max_leaf_nodes": 8, "early_stopping": False}
CONSENSUS_TREES = {"max_iter": 80, "min_samples_leaf": 20, "max_features": 0.5}
SUPPORT_TREES = {"max_iter": 60}
BINS, WIDE, BINS_IF_WIDE = 255, 100, 63
"""Bins per column for the trees; fewer in tables of more than ``WIDE`` columns, where going through
the bins is most of the work."""

FOLDS = 3
LEAST_TRUST = 0.02
SMALLEST = 1e-4
LABEL_BINS = 20
SUPPORT = 6
EVIDENCE = 16 + SUPPORT
"""Inputs besides the hidden features: 4 × 3 verdicts and consensus, 4 rules, 6 label support."""

WIDTH, EPOCHS = 96, 8


@dataclass(frozen=True)
class Rows:
    """The rows of a run in the form that tree models read.

    ``columns`` holds the features and, last, the label, shape ``(N, d + 1)``, with categories as
    codes; ``categorical`` marks the categorical columns; ``classes`` is the number of classes, 0
    for a numeric label.
    """

    columns: np.ndarray
    categorical: np.ndarray
    classes: int

    @classmethod
    def of(cls, *runs: Run) -> "Rows":
        """Return the rows of a run, or of the runs over the parts of one table."""
        columns, categorical = zip(*(run.columns() for run in runs), strict=True)
        return cls(np.concatenate(columns), categorical[0], runs[0].task.label.classes)

    @cached_property
    def bins(self) -> int:
        """Bins per column; always enough for all categories, up to ``BINS``."""
        if self.columns.shape[1] <= WIDE:
            return BINS
        codes = np.nan_to_num(self.columns[:, self.categorical]).max(initial=0)
        return int(np.clip(codes + 2, BINS_IF_WIDE, BINS))

    @cached_property
    def plain_support(self) -> np.ndarray:
        """Support of every label by the other rows with equal weight, see :func:`label_support`."""
        return label_support(self, np.ones(len(self.columns)))


def consensus(rows: Rows, verdicts: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Predict the verdict on every row from the verdicts on the other rows of the run.

    ``verdicts`` and the cross-fitted predictions are probabilities, shape ``(N, 3)``.

    Examples
    --------
    Verdicts that depend on a column are kept; their noise is removed.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(600, 2))
    >>> truth = (x[:, 0] > 1).astype(float)[:, None]
    >>> noisy = np.clip(truth + rng.normal(scale=0.4, size=(600, 1)), 0, 1)
    >>> better = consensus(Rows(x, np.zeros(2, bool), 0), noisy)
    >>> bool(np.square(better - truth).mean() < np.square(noisy - truth).mean())
    True
    """
    options = {**TREES, **CONSENSUS_TREES, "max_bins": rows.bins, "random_state": seed % 2**32}
    model = HistGradientBoostingRegressor(categorical_features=rows.categorical, **options)
    agreed = [held_out(model, rows.columns, v, folds=FOLDS, seed=seed) for v in verdicts.T]
    return np.column_stack(agreed).clip(0.0, 1.0)


def label_support(rows: Rows, trust: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return how well the label of every row is supported by the other rows, weighted by trust.

    ``trust`` is the probability that the label of a row is right, shape ``(N,)``. Returns six
    numbers per row, shape ``(N, 6)``: the support of the label, its rarity, and the within-run
    normal scores of support, of rarity, of the rarity of the best rival class and of minus the
    absolute support. For a numeric label the last two are the scores of the label and of its
    prediction.

    Examples
    --------
    >>> x = np.repeat([0.0, 1.0], 60)
    >>> label = x.copy()
    >>> label[0] = 1
    >>> rows = Rows(np.c_[x, label], np.zeros(2, bool), classes=2)
    >>> int(label_support(rows, np.ones(120))[:, 0].argmin())
    0
    """
    weights = np.clip(trust, LEAST_TRUST, 1.0)
    kind = HistGradientBoostingClassifier if rows.classes else HistGradientBoostingRegressor
    options = {**TREES, **SUPPORT_TREES, "max_bins": rows.bins, "random_state": 0}
    model = kind(categorical_features=rows.categorical[:-1], **options)
    x, y = in_bins(rows.columns[:, :-1], rows.bins), rows.columns[:, -1]
    said = held_out(model, x, y, classes=rows.classes, weights=weights, folds=FOLDS, seed=seed)
    describe = _class_support if rows.classes else _number_support
    return describe(said, y, weights)


def _class_support(said: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows, own = np.arange(len(labels)), labels.astype(int)
    share = np.bincount(own, weights, minlength=said.shape[1]) / weights.sum()
    others = said.copy()
    others[rows, own] = 0
    rival = others.argmax(axis=1)
    support = np.log(said[rows, own].clip(SMALLEST)) - np.log(others.max(axis=1).clip(SMALLEST))
    support = support.clip(-6, 6)
    rarity, rival_rarity = (-np.log(share[code] + 1e-3) for code in (own, rival))
    ranks = normal_ranks(np.column_stack([support, rarity, rival_rarity, -np.abs(support)]))
    return np.column_stack([support, rarity, ranks])


def _number_support(said: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    counts, edges = np.histogram(labels, LABEL_BINS, weights=weights)
    place = np.digitize(labels, edges[1:-1])
    rarity = -np.log(counts[place] / weights.sum() + 1e-3)
    ranks = normal_ranks(np.column_stack([-np.abs(labels - said), rarity, labels, said]))
    return np.column_stack([2 * ranks[:, 0], rarity, ranks])


@dataclass
class Judged:
    """Rows of a run, hidden features of the first pass, latest verdicts (logits ``(N, 3)``)."""

    rows: Rows
    hidden: Tensor
    logits: Tensor


class SecondPass(nn.Module):
    """One round: joins the evidence of a row with that of similar rows of its run.

    Without ``plain_support`` it gets label support weighted by the verdicts only.
    """

    calibration: Tensor

    def __init__(self, hidden: int, plain_support: bool = True):
        super().__init__()
        self.plain_support = plain_support
        width = hidden + EVIDENCE + SUPPORT * plain_support
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]] * 3))
        self.shortcuts = ShortcutScorer()
        self.layers = nn.Sequential(
            *(nn.Linear(width, WIDTH), nn.GELU(), nn.Dropout(0.1)),
            nn.Linear(WIDTH, 3),
        )

    @torch.no_grad()
    def judge(self, run: Judged) -> Tensor:
        """Return the next verdicts on the rows of a run, logits of shape ``(N, 3)``."""
        verdicts = self._verdicts(run)
        broken = self.shortcuts.evidence(_candidates(run.rows, verdicts))
        return self.layers(self._evidence(run, verdicts, broken))

    def fit(
        self, runs: Sequence[Judged], truths: Sequence[np.ndarray], *, seed: int
    ) -> list[Tensor]:
        """Train in place on runs whose errors are known; return the next verdicts on them."""
        together = np.concatenate(truths)
        logits = np.concatenate([run.logits.numpy() for run in runs])
        self.calibration.copy_(torch.from_numpy(calibrate(logits, together)))
        verdicts = [self._verdicts(run) for run in runs]
        broken = self._fit_shortcuts(runs, verdicts, truths, seed)
        evidence = [self._evidence(*each) for each in zip(runs, verdicts, broken, strict=True)]
        _train(self.layers, torch.cat(evidence), torch.from_numpy(together), seed)
        with torch.no_grad():
            return [self.layers(x) for x in evidence]

    def _verdicts(self, run: Judged) -> np.ndarray:
        """Return calibrated probabilities of the verdicts so far, shape ``(N, 3)``."""
        slope, shift = self.calibration.numpy().T
        return expit(slope * run.logits.numpy() + shift).astype(float)

    def _fit_shortcuts(
        self,
        runs: Sequence[Judged],
        verdicts: Sequence[np.ndarray],
        truths: Sequence[np.ndarray],
        seed: int,
    ) -> list[np.ndarray]:
        """Train the scorer; return evidence from scorers trained on the other half of the runs."""
        found = [_candidates(run.rows, v) for run, v in zip(runs, verdicts, strict=True)]
        spurious = [truth[:, 2].astype(np.float32) for truth in truths]
        evidence: list[np.ndarray] = [np.empty(0)] * len(runs)
        for part in (0, 1):
            half = ShortcutScorer()
            train_scorer(half, found[part::2], spurious[part::2], seed=seed)
            evidence[1 - part :: 2] = [half.evidence(each) for each in found[1 - part :: 2]]
        train_scorer(self.shortcuts, found, spurious, seed=seed)
        return evidence

    def _evidence(self, run: Judged, verdicts: np.ndarray, broken: np.ndarray) -> Tensor:
        """Concatenate the hidden features with all other evidence on the rows."""
        seed = len(verdicts)  # fixes the folds
        agreed = consensus(run.rows, verdicts, seed=seed)
        extra = [
            *(_logit(verdicts), _logit(agreed), normal_ranks(verdicts), normal_ranks(agreed)),
            label_support(run.rows, 1 - verdicts[:, 0], seed=seed),
            *(_logit(broken), normal_ranks(broken)),
            *([run.rows.plain_support] if self.plain_support else []),
        ]
        return torch.cat([run.hidden, torch.from_numpy(np.hstack(extra)).float()], dim=1)


def _candidates(rows: Rows, verdicts: np.ndarray) -> Candidates:
    return candidates(rows.columns, verdicts, categorical=rows.categorical, classes=rows.classes)


def _logit(probability: np.ndarray) -> np.ndarray:
    return logit(probability.clip(1e-4, 1 - 1e-4))


def _train(network: nn.Module, x: Tensor, truth: Tensor, seed: int) -> None:
    y = truth.float()
    draw = torch.Generator().manual_seed(seed)
    batches = len(y) // 1024 + 1
    losses = (
        F.binary_cross_entropy_with_logits(network(x[rows]), y[rows])
        for _ in range(EPOCHS)
        for rows in torch.randperm(len(y), generator=draw).tensor_split(batches)
    )
    minimise(network, losses, EPOCHS * batches, weight_decay=1e-3)


def calibrate(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Fit slope and shift of every error type (Platt scaling), shape ``(3, 2)``.

    Examples
    --------
    >>> logits = np.array([[-1.0], [-1.0], [1.0], [1.0]])
    >>> calibrate(logits, np.array([[0], [1], [0], [1]])).round(2).tolist()
    [[0.0, 0.0]]
    """
    fitted = [
        LogisticRegression(C=1e6).fit(column[:, None], known)
        for column, known in zip(logits.T, truth.T, strict=True)
    ]
    return np.array([[float(m.coef_[0, 0]), float(m.intercept_[0])] for m in fitted])
