"""Alignment: which of two answers to a prompt is preferred, learned by a language model.

A sample is a pair of answers. A label error is a swapped preference; a feature error is a broken
text; a shortcut is a preference for the longer answer, or for one with a list or an emoji.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demix_lite.data.pairs import ANSWERS, CATEGORICAL, NUMERIC, TEXTS, split_turns, with_attributes
from demix_lite.data.store import load_table
from demix_lite.errors import DemixError
from demix_lite.models.preference_lm import (
    SMALL_LM,
    Answer,
    PreferenceLM,
    Reference,
    pair_inputs,
    reference_of,
    with_adapters,
    with_trained_block,
)
from demix_lite.seeds import generator
from demix_lite.tasks.base import Encoder, FeatureErrorPlan, Rule, Splits, Task
from demix_lite.tasks.labels import Preference

PARTS = {"test": 0.3, "valid": 0.44, "train": 1.0}
"""Cumulative share of the prompts at which each part ends."""

LEAST_COVERAGE = 0.05
DERIVED = (*NUMERIC, *CATEGORICAL)
ARCHITECTURES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "lora": with_adapters,
    "last": with_trained_block,
}
DIRECTIONS = 8
SPANS = (0.3, 0.6)
"""Least and largest share of a text that is dropped, shuffled or repeated."""

RULES = (
    Rule("the longer answer", {"longer": {"first"}}, "first"),
    Rule("the answer with a list", {"with_list": {"first"}}, "first"),
    Rule("the answer with an emoji", {"with_emoji": {"first"}}, "first"),
)


@dataclass(frozen=True)
class AlignmentTask(Task):
    """Pairs of answers and which one is preferred.

    Parameters
    ----------
    name : str
        Name of the prepared table.
    language_model : str or path
        A folder or a model name on the hub; by default the small model of the package.
    """

    name: str
    language_model: str | Path = SMALL_LM
    rules: tuple[Rule, ...] = RULES
    minority_share: float = 0.15
    target = "preferred"
    label = Preference()
    family = "alignment"
    architectures = tuple(ARCHITECTURES)
    slow_architectures = ("last",)
    least_broken = 0.5  # masking loses the pair: only if it is more likely broken than not
    training = MappingProxyType({"epochs": 2, "learning_rate": 1e-3, "batch_size": 32})
    judged_rows = 1000
    practice_rows = 1000

    def load(
        self, source: str = "twin", *, rows: int | None = None, home: Path | None = None
    ) -> Splits:
        """Load the pairs and split them by prompt: 30 % for testing, 14 % for validation."""
        frame, card = load_table(self.name, source, rows=rows, home=home)
        prompt, prompts = pd.factorize(frame["prompt"])
        place = generator(self.name, "split").permutation(len(prompts))[prompt] / len(prompts)
        part = np.searchsorted(list(PARTS.values()), place, side="right")
        frames = {
            name: frame[part == number].reset_index(drop=True) for number, name in enumerate(PARTS)
        }
        if min(map(len, frames.values())) == 0:
            raise DemixError(f"{len(frame)} pairs of {self.name} are too few; ask for more rows.")
        return Splits(**frames, card=card)

    def rules_for(self, frame: pd.DataFrame) -> tuple[Rule, ...]:
        """Return the rules that name one of the two answers in enough pairs."""
        return tuple(
            rule for rule in self.rules if self._applies(frame, rule).mean() > LEAST_COVERAGE
        )

    def minority(self, frame: pd.DataFrame, rule: Rule) -> np.ndarray:
        """Return True where the rule names the other answer, False where it names none."""
        return super().minority(frame, rule) & self._applies(frame, rule)

    def groups(self, frame: pd.DataFrame, rule: Rule) -> np.ndarray:
        """Number the four groups of the pairs in which the rule names an answer; -1 for others."""
        return np.where(self._applies(frame, rule), super().groups(frame, rule), -1)

    def _applies(self, frame: pd.DataFrame, rule: Rule) -> np.ndarray:
        (column,) = rule.condition
        return frame[column].isin(ANSWERS).to_numpy()

    def plan_feature_errors(
        self, frame: pd.DataFrame, rng: np.random.Generator
    ) -> FeatureErrorPlan:
        """Draw which one or two of the texts break, and how."""
        count = int(rng.integers(1, 3))
        texts = [str(name) for name in rng.permutation(TEXTS)[:count]]
        kind = str(rng.choice(list(KINDS)))
        details = {name: frame[name].drop_duplicates().tolist() for name in texts}
        return FeatureErrorPlan((*texts, *DERIVED), kind, details)

    def corrupt_features(
        self, frame: pd.DataFrame, plan: FeatureErrorPlan, rng: np.random.Generator
    ) -> pd.DataFrame:
        """Break the planned texts and recompute the attributes that are derived from them."""
        broken = frame.copy()
        for column, others in plan.details.items():
            broken[column] = [_broken(text, plan.kind, others, rng) for text in frame[column]]
        return with_attributes(broken).reindex(columns=frame.columns).set_axis(frame.index)

    def with_language_model(self, name: str) -> "AlignmentTask":
        """Return the task with another language model: a folder, or a name on the hub."""
        return replace(self, language_model=name)

    def encoder(self, frame: pd.DataFrame) -> "PairEncoder":
        """Return the tokenizer and the reference model behind one interface."""
        return PairEncoder(self, reference_of(self.language_model, split_turns), frame)

    def build_model(self, architecture: str, encoder: Encoder) -> nn.Module:
        """Return the language model with adapters, or with only its last block trainable."""
        assert isinstance(encoder, PairEncoder)
        return PreferenceLM(ARCHITECTURES[architecture](encoder.reference.model))

    def impute(
        self, suspects: pd.DataFrame, trusted: pd.DataFrame
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Mask the answers of suspicious pairs: two equal answers teach nothing."""
        masked = with_attributes(suspects.assign(**dict.fromkeys(ANSWERS, "")))
        changed = pd.DataFrame(True, index=suspects.index, columns=list(ANSWERS))
        return masked[suspects.columns], changed


# ------------------------------------------------------------------ how a text breaks


def _broken(text: str, kind: str, others: list[str], rng: np.random.Generator) -> str:
    """Break a text; try a few more times if it came out unchanged."""
    for _ in range(5):
        if (broken := KINDS[kind](text, others, rng)) != text:
            return broken
    return f"{text} {text}"


def _span(count: int, rng: np.random.Generator) -> slice:
    """Draw a span of at least two words."""
    length = max(2, round(count * rng.uniform(*SPANS)))
    start = int(rng.integers(0, max(1, count - length + 1)))
    return slice(start, start + length)


def _dropped(text: str, others: list[str], rng: np.random.Generator) -> str:
    words = re.split(r"(?<=\s)", text)
    gap = _span(len(words), rng)
    return "".join(words[: gap.start] + words[gap.stop :])


def _shuffled(text: str, others: list[str], rng: np.random.Generator) -> str:
    words = text.split(" ")
    part = _span(len(words), rng)
    words[part] = rng.permutation(words[part]).tolist()
    return " ".join(words)


def _repeated(text: str, others: list[str], rng: np.random.Generator) -> str:
    words = text.split(" ")
    part = _span(len(words), rng)
    words[part] = words[part] * int(rng.integers(2, 4))
    return " ".join(words)


def _of_another(text: str, others: list[str], rng: np.random.Generator) -> str:
    return others[rng.integers(len(others))]


def _misread(text: str, others: list[str], rng: np.random.Generator) -> str:
    """Encode as UTF-8, decode as Latin-1; letters are replaced first, to affect ASCII text too."""
    letters = [c if rng.random() > 0.15 or c.isspace() else "\u00fc" for c in text]
    return "".join(letters).encode("utf-8").decode("latin-1")


KINDS = {
    "dropped": _dropped,
    "shuffled": _shuffled,
    "repeated": _repeated,
    "of another": _of_another,
    "misread": _misread,
}
"""Kinds of broken text: spans dropped, shuffled, repeated; another pair's text; wrong encoding."""


# ------------------------------------------------------------------ encoding


class PairEncoder(Encoder):
    """Tokenise pairs and look up the outputs of the reference model for their answers."""

    def __init__(self, task: AlignmentTask, reference: Reference, frame: pd.DataFrame):
        self.task = task
        self.reference = reference
        self._fitted_on = frame

    def answers(self, frame: pd.DataFrame) -> list[list[Answer]]:
        """Return the tokenised first answers and the tokenised second answers."""
        return [self.reference.look_up(frame["prompt"], frame[side]) for side in ANSWERS]

    def inputs(self, frame: pd.DataFrame) -> dict[str, Tensor]:
        """Return the inputs of a :class:`PreferenceLM`."""
        return pair_inputs(*self.answers(frame))

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the difference of the answers' hidden states in the reference, normalised."""
        return F.normalize(inputs["meaning"], dim=1)

    def columns(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return attributes, losses of the reference, and main directions of its hidden states."""
        first, second = self.answers(frame)
        numbers = frame[list(NUMERIC)].to_numpy(dtype=float)
        odd = np.column_stack([frame[name].map(_odd_share) for name in TEXTS])
        surprise = np.array([[a.surprise, b.surprise] for a, b in zip(first, second, strict=True)])
        inputs = pair_inputs(first, second)
        which = np.column_stack(
            [pd.Index([*ANSWERS, "neither"]).get_indexer(frame[name]) for name in CATEGORICAL]
        )
        said = [
            numbers,
            numbers[:, [2]] - numbers[:, [3]],
            odd,
            surprise,
            surprise[:, :1] - surprise[:, 1:],
            inputs["reference"].numpy()[:, None],
            (inputs["meaning"] @ self._directions).numpy(),
            which,
        ]
        together = np.hstack(said).astype(float)
        return together, np.arange(together.shape[1]) >= together.shape[1] - len(CATEGORICAL)

    @cached_property
    def _directions(self) -> Tensor:
        """Directions in which the answers of the training pairs differ most."""
        gap = pair_inputs(*self.answers(self._fitted_on))["meaning"]
        return torch.linalg.svd(gap, full_matrices=False).Vh[:DIRECTIONS].T


def _odd_share(text: str) -> float:
    """Share of non-ASCII characters plus share of words that repeat the previous one."""
    words = text.split()
    again = sum(one == other for one, other in pairwise(words))
    return sum(c > "\x7f" for c in text) / max(1, len(text)) + again / max(1, len(words))


ALIGNMENT = (AlignmentTask("ultrafeedback"), AlignmentTask("capybara"))
