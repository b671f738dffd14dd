"""The detector: a run in, a probability and a flag per row and error type out."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.special import expit
from torch import nn
from tqdm import tqdm

from demix_lite.detector.environments import Environment
from demix_lite.detector.runs import BLOCK, CHANNELS, RelativeScale, Run
from demix_lite.detector.second_pass import Judged, Rows, SecondPass, calibrate
from demix_lite.detector.set_transformer import Pooling
from demix_lite.detector.training import FirstPass, TrainingSettings, train_first_pass
from demix_lite.diagnosis import Diagnosis
from demix_lite.errors import DemixError, refuse_unknown
from demix_lite.whole_file import whole_file

FORMAT = 2
"""Version of the format of saved weights."""

LEAST_INJECTIONS = 8
SHIPPED = Path(__file__).parent / "weights"
POOLED_RUNS, POOLED_ROWS = 32, 32
BAR: dict[str, Any] = {"desc": "second pass", "disable": None, "leave": False}


@dataclass(frozen=True)
class DetectorSettings:
    """Settings of the detector.

    Attributes
    ----------
    name : str
        Name in the ledger.
    channels : tuple of str
        The channels it uses.
    relative : bool
        Whether values are relative to their own run, instead of to all training runs together.
    pooling : str
        How the set is pooled.
    summarise : bool
        Whether the summaries of the set are used in addition to the learned pooling.
    width : int
        Width of the set transformer.
    rounds : int
        Rounds of the second pass, which uses the verdicts on similar rows; 0 for the first pass
        alone.
    practises : bool
        Whether to add a second chain of as many rounds, trained on practice runs only; the
        calibrated logits of both chains are averaged. To this chain the shortcut of every run is
        new, as it is for an unseen table; the other chain has learned how far verdicts on known
        shortcuts can be trusted.
    plain_support : bool
        Whether the second pass also gets the support of every label by all rows with equal weight.
    whole_runs : int
        Maximum number of whole runs judged to train the second pass; two fifths as many are used
        for calibration.
    training : TrainingSettings
        Settings of the first pass.
    """

    name: str = "demix_lite"
    channels: tuple[str, ...] = CHANNELS
    relative: bool = True
    pooling: Pooling = "attention"
    summarise: bool = True
    width: int = 64
    rounds: int = 2
    practises: bool = False
    plain_support: bool = True
    whole_runs: int = 60
    training: TrainingSettings = field(default_factory=TrainingSettings)


class ErrorDetector:
    """Predicts the error types of every training row from its influence vector.

    - First pass: a set transformer over the M validation samples, trained with both interventions
      of the paper.
    - Second pass, in rounds: the consensus of the verdicts so far within the run.
    - Calibration: on environments used for neither pass.

    The detector judges a *run*: a row is suspicious if it differs from the other rows of its run.
    Judge the rows of one training set together.
    """

    def __init__(self, settings: DetectorSettings | None = None):
        own = settings or DetectorSettings()
        self.settings, self.name = own, own.name
        names = ["rounds", "practised"][: 1 + own.practises]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(own.training.seed)
            self.first = FirstPass(
                own.channels, own.width, own.pooling, own.relative, own.summarise
            )
            self.chains = {
                name: [SecondPass(2 * own.width, own.plain_support) for _ in range(own.rounds)]
                for name in names
            }
        parts = {name: nn.ModuleList(chain) for name, chain in self.chains.items()}
        self.network = nn.ModuleDict({"first": self.first, **parts})
        self.calibration: np.ndarray | None = None
        self.pooled_scale: RelativeScale | None = None
        self.facts: dict[str, Any] = {}

    def fit(
        self, environments: Sequence[Environment], *, facts: dict[str, Any] | None = None
    ) -> "ErrorDetector":
        """Train: 60 % of injections for the first pass, 28 % for the second, 12 % for calibration.

        Parameters
        ----------
        environments : sequence of Environment
            At least eight injections per task; environments of the same injection stay together.
        facts : dict, optional
            Metadata about the training (task, seeds, versions); saved with the weights.

        Returns
        -------
        ErrorDetector
            Itself.

        Raises
        ------
        DemixError
            If there are too few injections, or too few practice injections for a detector with
            ``practises``, or ``whole_runs`` is below 3.
        """
        if not self.settings.relative:
            self.pooled_scale = _pooled_scale(environments)
            environments = [replace(e, run=self._seen(e.run), _samples={}) for e in environments]
        training, most = self.settings.training, self.settings.whole_runs
        splits = [_split(environments, most, practice=n > 0) for n in range(len(self.chains))]
        least = 2 if self.settings.rounds else 0  # each cross-fitted scorer gets every second run
        if any(len(second) < least or not held for _, second, held in splits):
            raise DemixError(
                "the second pass has too few runs to learn from; take more injections, or practice "
                "ones if it practises, and whole_runs of at least 3."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            train_first_pass(self.first, splits[0][0], training)
            calibration = np.tile([1.0, 0.0], (len(self.chains), 3, 1))
            judge = cache(self._judged_once)  # the two chains share some of their runs
            chains = zip(self.chains.values(), splits, strict=True)
            for number, (chain, (_, second, held)) in enumerate(chains):
                torch.manual_seed(training.seed + 1)
                judged = [judge(e.run) for e in tqdm(second, **BAR)] if chain else []
                self._train_rounds(chain, judged, [e.errors for e in second])
                logits = [_logits(chain, judge(e.run)) for e in tqdm(held, **BAR)]
                truths = np.concatenate([e.errors for e in held])
                calibration[number] = calibrate(np.concatenate(logits), truths)
        self.calibration = calibration
        self.facts = dict(facts or {})
        return self

    def predict_proba(self, *runs: Run) -> np.ndarray:
        """Return calibrated probabilities of the three error types, shape ``(N, 3)``.

        Several runs must be the parts of one table, with one encoder. They are judged together and
        their rows are returned in order; values are relative to their own part.

        Raises
        ------
        DemixError
            If the detector was not fitted.
        """
        calibration = self._learned()
        judged = self._first_pass(*runs)
        said = np.stack([_logits(chain, judged) for chain in self.chains.values()])
        slopes, shifts = calibration[:, None, :, 0], calibration[:, None, :, 1]
        return expit((slopes * said + shifts).mean(axis=0))

    def predict(self, run: Run, *, margin: float = 0.0) -> Diagnosis:
        """Diagnose every row; flag at the threshold with the largest expected F1 in this run.

        Abstain where the probability is within ``margin`` of the threshold.
        """
        said = self.predict_proba(run)
        return Diagnosis.from_probability(said, margin=margin, index=run.index)

    def save(self, path: str | Path) -> None:
        """Write ``PATH.safetensors`` and ``PATH.json``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous() for k, v in self.network.state_dict().items()}
        if self.pooled_scale is not None:
            tensors["scale.grid"] = self.pooled_scale.grid
        about = {
            "format": FORMAT,
            "channels": CHANNELS,
            "settings": asdict(self.settings),
            "calibration": self._learned().tolist(),
            "facts": self.facts,
        }
        weights, words = _files(path)
        with whole_file(weights) as one, whole_file(words) as two:
            save_file(tensors, one)
            two.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "ErrorDetector":
        """Read a detector written by :meth:`save`.

        Raises
        ------
        DemixError
            If a file is missing, damaged or written by another version.
        """
        path = Path(path)
        try:
            weights, words = _files(path)
            about, tensors = json.loads(words.read_text(encoding="utf-8")), load_file(weights)
        except FileNotFoundError as error:
            raise DemixError(f"there is no detector at {path} (.json and .safetensors).") from error
        except (ValueError, SafetensorError) as error:
            raise DemixError(f"the detector at {path} is damaged: {error}.") from error
        try:
            if (about["format"], tuple(about["channels"])) != (FORMAT, CHANNELS):
                raise ValueError("another format or other channels")
            settings = about["settings"]
            settings["training"] = TrainingSettings(**settings["training"])
            settings["channels"] = tuple(settings["channels"])
            detector = cls(DetectorSettings(**settings))
            if "scale.grid" in tensors:
                tensors.pop("scale.scores", None)  # in older files; derived from the grid
                detector.pooled_scale = RelativeScale(tensors.pop("scale.grid")[None])
            detector.network.load_state_dict(tensors)
            # Older files hold the calibration of a single chain.
            detector.calibration = np.array(about["calibration"]).reshape(-1, 3, 2)
            detector.facts = about["facts"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DemixError(
                f"the detector at {path} is of another version of demix_lite, with other channels "
                "or settings; train it again with: demix-lite train-detector."
            ) from error
        detector.network.eval()
        return detector

    @classmethod
    def shipped(cls, name: str) -> "ErrorDetector":
        """Load weights that ship with the package, by name.

        A family of tasks has one of its own name, such as ``"tabular"``.

        Raises
        ------
        DemixError
            If there are none of this name; the message lists the names.

        Examples
        --------
        >>> ErrorDetector.shipped("tabular").calibration.shape
        (1, 3, 2)
        """
        refuse_unknown("detector", [name], sorted(path.stem for path in SHIPPED.glob("*.json")))
        return cls.load(SHIPPED / name)

    def _learned(self) -> np.ndarray:
        """Return the calibration; without one, the weights are the first ones and say nothing."""
        if self.calibration is None:
            raise DemixError(
                f"fit the detector {self.name} first, or take one that is: ErrorDetector.shipped."
            )
        return self.calibration

    @torch.no_grad()
    def _first_pass(self, *runs: Run) -> Judged:
        """Judge every row by its own influence vector."""
        self.first.eval()
        blocks = (block for run in runs for block in self._seen(run).blocks(size=BLOCK))
        hidden, logits = self.first.judge(torch.cat([self.first.embed(block) for block in blocks]))
        return Judged(Rows.of(*runs), hidden, logits)

    def _judged_once(self, run: Run) -> Judged:
        judged = self._first_pass(run)
        run.release()
        return judged

    def _seen(self, run: Run) -> Run:
        """Return the run with the pooled scale of this detector, if it has one."""
        return run if self.pooled_scale is None else replace(run, scale=self.pooled_scale)

    def _train_rounds(
        self, chain: list[SecondPass], judged: list[Judged], truths: Sequence[np.ndarray]
    ) -> None:
        """Train one network per round, each on the verdicts of the previous round."""
        for number, second in enumerate(chain):
            logits = second.fit(judged, truths, seed=self.settings.training.seed + number)
            judged = [replace(run, logits=own) for run, own in zip(judged, logits, strict=True)]


def _logits(chain: Sequence[SecondPass], judged: Judged) -> np.ndarray:
    """Return the verdicts after all rounds of a chain, shape ``(N, 3)``."""
    for second in chain:
        judged = replace(judged, logits=second.judge(judged))
    return judged.logits.numpy().astype(float)


def check_injections(number: int) -> None:
    """Raise :class:`DemixError` if there are fewer than eight injections per task."""
    if number < LEAST_INJECTIONS:
        raise DemixError(
            f"training a detector needs at least {LEAST_INJECTIONS} injections per task, "
            f"not {number}."
        )


def _files(path: Path) -> tuple[Path, Path]:
    """Return the paths of a detector's weights and of its JSON file."""
    bare = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    return bare.with_name(f"{bare.name}.safetensors"), bare.with_name(f"{bare.name}.json")


def _split(
    environments: Sequence[Environment], whole_runs: int, *, practice: bool = False
) -> tuple[list[Environment], list[Environment], list[Environment]]:
    """Split injections 60 : 28 : 12 within every task.

    The second and third part take one run per injection; with ``practice``, practice runs only.
    """
    groups: dict[str, dict[str, list[Environment]]] = {}
    for e in environments:
        groups.setdefault(e.run.task.name, {}).setdefault(e.injection, []).append(e)
    check_injections(min(map(len, groups.values()), default=0))
    parts: tuple[list[Environment], ...] = ([], [], [])
    for injections in map(list, map(dict.values, groups.values())):
        one, two = round(0.6 * len(injections)), round(0.88 * len(injections))
        parts[0].extend(e for group in injections[:one] for e in group)
        places = range(one, len(injections))
        later = [p for p in places if injections[p][0].practice or not practice]
        # Later parts judge whole runs, so one architecture per injection is enough; they alternate.
        for turn, place in enumerate(later):
            group = injections[place]
            parts[1 if place < two else 2].append(group[turn % len(group)])
    return parts[0], _thinned(parts[1], whole_runs), _thinned(parts[2], whole_runs * 2 // 5)


def _thinned(environments: list[Environment], most: int) -> list[Environment]:
    """Keep at most ``most`` environments, evenly spaced."""
    last = len(environments) - 1
    chosen = np.linspace(0, last, min(most, last + 1)).round().astype(int)
    return [environments[i] for i in chosen]


def _pooled_scale(environments: Sequence[Environment]) -> RelativeScale:
    """Return a scale fitted on rows of all training runs together."""
    runs = environments[:: max(1, len(environments) // POOLED_RUNS)]
    # Runs may differ in their number of validation samples, so all values go into one dimension.
    values = [e.run.raw_vectors(POOLED_ROWS).mT.flatten(0, 1) for e in runs]
    return RelativeScale(torch.cat(values)[..., None])
