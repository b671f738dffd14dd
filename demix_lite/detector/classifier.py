"""The detector: from a run to a probability and a flag per row and error type."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from demix_lite.detector.runs import CHANNELS, Run
from demix_lite.detector.second_pass import consensus, normal_ranks
from demix_lite.detector.training import (
    Environment,
    FirstPass,
    TrainingSettings,
    relative,
    train_first_pass,
)
from demix_lite.diagnosis import ERROR_TYPES, Diagnosis, expected_f1_threshold
from demix_lite.errors import DemixError
from demix_lite.seeds import derive_seed

SHIPPED = Path(__file__).parent / "weights"
BLOCK = 128
SECOND_EPOCHS = 8


@dataclass(frozen=True)
class DetectorSettings:
    """Settings of the detector.

    Attributes
    ----------
    width : int
        Width of the set transformer.
    rounds : int
        How often the verdicts on similar rows are taken into account; 0 for the first pass alone.
    training : TrainingSettings
        Settings of the first pass.
    """

    width: int = 64
    rounds: int = 2
    training: TrainingSettings = field(default_factory=TrainingSettings)


class SecondPass(nn.Module):
    """Joins a row's own evidence with the consensus of its run."""

    def __init__(self, hidden: int, extra: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden + extra, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 3)
        )

    def forward(self, evidence: Tensor) -> Tensor:
        """Map evidence ``(N, hidden + extra)`` to logits ``(N, 3)``."""
        return self.layers(evidence)


class ErrorDetector:
    """Names the errors of every training row from its influence vector.

    First pass: a set transformer over the M validation samples, trained with both interventions of
    the paper. Second pass, in rounds: the consensus of the verdicts so far within the run.
    Probabilities are calibrated on environments used for neither.

    Parameters
    ----------
    settings : DetectorSettings, optional
        Sizes and training settings.

    Notes
    -----
    The detector judges a *run*: a row counts as suspicious by how it differs from the other rows
    of its run. Judge the rows of one training set together.
    """

    name = "demix_lite"

    def __init__(self, settings: DetectorSettings | None = None):
        self.settings = settings or DetectorSettings()
        width = self.settings.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.training.seed)
            self.first = FirstPass(len(CHANNELS), CHANNELS.index("label_agreement"), width)
            self.rounds = nn.ModuleList(
                SecondPass(2 * width, 12) for _ in range(self.settings.rounds)
            )
        self.calibration = np.tile([1.0, 0.0], (3, 1))
        self.facts: dict[str, Any] = {}

    def fit(
        self,
        environments: Sequence[Environment],
        *,
        facts: dict[str, Any] | None = None,
        progress: bool = False,
    ) -> "ErrorDetector":
        """Train on environments: 60 % for the first pass, 28 % for the second, 12 % calibrate.

        Parameters
        ----------
        environments : sequence of Environment
            At least eight injections; those of the same injection stay together.
        facts : dict, optional
            What to remember about the training (task, seeds, versions); saved with the weights.

        Returns
        -------
        ErrorDetector
            Itself.

        Raises
        ------
        DemixError
            If there are too few injections.
        """
        first, second, held = _split(environments)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.training.seed)
            train_first_pass(self.first, first, self.settings.training, progress=progress)
            self._train_rounds(second, progress=progress)
        logits = [self._logits(e.run) for e in _bar(held, progress)]
        truth = np.concatenate([e.errors for e in held])
        self.calibration = _calibrate(np.concatenate(logits), truth)
        self.facts = dict(facts or {})
        return self

    def predict_proba(self, run: Run, *, progress: bool = False) -> np.ndarray:
        """Return calibrated probabilities of the three error types, shape ``(N, 3)``."""
        slope, shift = self.calibration.T
        return expit(slope * self._logits(run, progress=progress) + shift)

    def predict(self, run: Run, *, margin: float = 0.0, progress: bool = False) -> Diagnosis:
        """Diagnose every row; flag at the threshold with the largest expected F1 in this run.

        Parameters
        ----------
        run : Run
            The run to judge.
        margin : float
            Abstain when the probability is within this distance of the threshold.
        """
        probability = self.predict_proba(run, progress=progress)
        thresholds = np.array([expected_f1_threshold(p) for p in probability.T])
        return Diagnosis.from_probability(probability, thresholds, margin=margin, index=run.index)

    def save(self, path: str | Path) -> None:
        """Write ``PATH.safetensors`` and ``PATH.json``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(_state(self.first, self.rounds), path.with_suffix(".safetensors"))
        about = {
            "format": 1,
            "channels": CHANNELS,
            "settings": asdict(self.settings),
            "calibration": self.calibration.tolist(),
            "facts": self.facts,
        }
        path.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "ErrorDetector":
        """Read a detector written by :meth:`save`.

        Raises
        ------
        DemixError
            If a file is missing or was written for other channels.
        """
        path = Path(path)
        try:
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            tensors = load_file(path.with_suffix(".safetensors"))
        except FileNotFoundError as error:
            raise DemixError(f"there is no detector at {path} (.json and .safetensors).") from error
        if tuple(about["channels"]) != CHANNELS:
            raise DemixError(
                f"the detector at {path} reads other channels than this version of demix_lite; "
                "train it again with: demix-lite train-detector."
            )
        settings = about["settings"]
        training = TrainingSettings(**settings.pop("training"))
        detector = cls(DetectorSettings(**settings, training=training))
        for part, network in (("first", detector.first), ("rounds", detector.rounds)):
            prefix = f"{part}."
            network.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
            network.eval()
        detector.calibration = np.array(about["calibration"])
        detector.facts = about["facts"]
        return detector

    @classmethod
    def shipped(cls, name: str) -> "ErrorDetector":
        """Load the weights that come with the package for a task.

        Examples
        --------
        >>> ErrorDetector.shipped("adult").calibration.shape
        (3, 2)
        """
        return cls.load(SHIPPED / name)

    @torch.no_grad()
    def _first_pass(self, run: Run, *, progress: bool) -> tuple[Tensor, Tensor]:
        """Return hidden features and logits of every row."""
        self.first.eval()
        blocks = run.blocks(size=BLOCK, progress=progress)
        embedding = torch.cat([self.first.encoder(block) for block in blocks])
        return self.first.judge(relative(embedding))

    @torch.no_grad()
    def _logits(self, run: Run, *, progress: bool = False) -> np.ndarray:
        hidden, logits = self._first_pass(run, progress=progress)
        for network in self.rounds:
            logits = network(_evidence(run, hidden, logits))
        return logits.numpy().astype(float)

    def _train_rounds(self, environments: Sequence[Environment], *, progress: bool) -> None:
        """Train one network a round, each on the verdicts of the round before."""
        if not self.rounds:
            return
        truth = [torch.tensor(e.errors).float() for e in environments]
        judged = [self._first_pass(e.run, progress=False) for e in _bar(environments, progress)]
        logits = [verdict for _, verdict in judged]
        for number, network in enumerate(self.rounds):
            evidence = [
                _evidence(e.run, hidden, verdict)
                for e, (hidden, _), verdict in zip(
                    _bar(environments, progress), judged, logits, strict=True
                )
            ]
            _train_second_pass(network, evidence, truth, seed=self.settings.training.seed + number)
            with torch.no_grad():
                logits = [network(x) for x in evidence]


@torch.no_grad()
def _evidence(run: Run, hidden: Tensor, logits: Tensor) -> Tensor:
    """Join a row's features and verdicts with the consensus of its run."""
    verdicts = expit(logits.numpy().astype(float))
    agreed = consensus(run.features, verdicts, seed=derive_seed("consensus", len(run)))
    consensus_logits = logit(agreed.clip(1e-4, 1 - 1e-4))
    ranks = [normal_ranks(verdicts), normal_ranks(agreed)]
    extra = np.hstack([logits.numpy(), consensus_logits, *ranks])
    return torch.cat([hidden, torch.from_numpy(extra).float()], dim=1)


def _train_second_pass(
    network: nn.Module, evidence: list[Tensor], truth: list[Tensor], *, seed: int
) -> None:
    x, y = torch.cat(evidence), torch.cat(truth)
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    batches = len(y) // 1024 + 1
    steps = SECOND_EPOCHS * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    network.train()
    for _ in range(SECOND_EPOCHS):
        for rows in torch.randperm(len(y), generator=draw).tensor_split(batches):
            loss = F.binary_cross_entropy_with_logits(network(x[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def _split(
    environments: Sequence[Environment],
) -> tuple[list[Environment], list[Environment], list[Environment]]:
    names = list(dict.fromkeys(e.injection for e in environments))
    if len(names) < 8:
        raise DemixError(f"training a detector needs at least 8 injections, not {len(names)}.")
    one, two = round(0.6 * len(names)), round(0.88 * len(names))
    first = [e for e in environments if e.injection in set(names[:one])]
    # Later parts judge whole runs, so one architecture per injection, in turn, is enough.
    single = []
    for turn, name in enumerate(names[one:]):
        group = [e for e in environments if e.injection == name]
        single.append(group[turn % len(group)])
    return first, single[: two - one], single[two - one :]


def _calibrate(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Fit slope and shift of every error type (Platt scaling)."""
    rows = []
    for kind in range(len(ERROR_TYPES)):
        model = LogisticRegression(C=1e6).fit(logits[:, [kind]], truth[:, kind])
        rows.append([float(model.coef_[0, 0]), float(model.intercept_[0])])
    return np.array(rows)


def _state(first: nn.Module, rounds: nn.Module) -> dict[str, Tensor]:
    parts = (("first", first), ("rounds", rounds))
    return {f"{p}.{k}": v.contiguous() for p, net in parts for k, v in net.state_dict().items()}


def _bar(items: Sequence[Environment], progress: bool) -> Iterable[Environment]:
    return tqdm(items, desc="second pass", disable=not progress, leave=False)
