"""A causal language model that compares two answers, trained by DPO (Rafailov et al., 2023).

Its output is the margin β [(log π(first) − log π(second)) − (log ρ(first) − log ρ(second))], where
π is the model and ρ the reference: the same model before training. This margin is the log-odds that
the first answer is preferred, so its binary cross-entropy is the DPO loss. The outputs of the
reference never change; they are computed once and cached.
"""

import copy
import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from torch.nn import functional as F

from demix_lite.errors import DemixError

SMALL_LM = Path(__file__).parent / "weights" / "small_lm"
"""The model that ships with the package, trained by ``data_scripts/train_small_lm.py``."""

BETA = 0.5
"""The β of DPO: the larger it is, the closer the model stays to the reference."""

RANK, ALPHA = 4, 8.0
MOST_TOKENS = 512
"""Maximum tokens of a prompt and an answer, half for each, unless the tokenizer's limit is lower.
Long prompts lose their beginning, long answers their end."""

LOGITS_AT_ONCE = {"cpu": 2**25, "cuda": 2**28}
"""Maximum number of logits of pairs held at once (128 MB, and 1 GB on CUDA)."""

TOGETHER = {"cpu": 8, "cuda": 64}
"""Pairs of similar length per batch: a small batch needs little padding and fits into the cache."""

AT_ONCE, REFERENCE_LOGITS = 64, 2**28
"""Answers per batch of the reference, and the maximum number of their logits. 64 answers of 512
tokens fit, unless the vocabulary is large."""


def transformers() -> ModuleType:
    """Import the library of language models.

    Raises
    ------
    DemixError
        If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # No progress bar is shown here, so a notebook needs no widgets.
            warnings.filterwarnings("ignore", message="IProgress not found")
            importlib.import_module("tqdm.auto")
            return importlib.import_module("transformers")
    except ImportError as error:
        raise DemixError(
            'tasks of preference pairs need transformers: pip install "demix_lite[llm]".'
        ) from error


@dataclass(frozen=True)
class Answer:
    """A tokenised answer to a prompt, and the outputs of the reference for it.

    Attributes
    ----------
    ids : Tensor
        Token ids of prompt and answer.
    start : int
        Index of the first token of the answer.
    log_probability : float
        Log-probability of the answer given the prompt, in nats, summed over its tokens.
    meaning : Tensor
        Mean of the last hidden states over the tokens of the answer.
    """

    ids: Tensor
    start: int
    log_probability: float
    meaning: Tensor

    @property
    def surprise(self) -> float:
        """Negative log-probability per token of the answer, in nats."""
        return -self.log_probability / (len(self.ids) - self.start)


class Reference:
    """A language model before training; evaluates every answer once.

    Parameters
    ----------
    name : str or path
        A folder or a name on the Hugging Face hub.
    turns : callable
        Splits a prompt into messages (``role`` and ``content``).

    Raises
    ------
    DemixError
        If transformers is not installed or the model cannot be loaded.
    """

    def __init__(self, name: str | Path, turns: Callable[[str], list[dict[str, str]]]):
        self.name, self.turns = name, turns
        if (Path(name).is_absolute() or str(name).startswith(".")) and not Path(name).is_dir():
            raise DemixError(f"there is no language model {str(name)!r}: there is no such folder.")
        library = transformers()
        library.utils.logging.disable_progress_bar()
        large = Path(name) != SMALL_LM and torch.cuda.is_available()
        kind = torch.bfloat16 if large else torch.float32
        try:
            self.tokenizer = library.AutoTokenizer.from_pretrained(name)
            model = library.AutoModelForCausalLM.from_pretrained(name, dtype=kind)
            if not self.tokenizer("a", add_special_tokens=False).input_ids:
                raise ValueError("its tokenizer reads no letter")
            if self.tokenizer.eos_token_id is None:
                raise ValueError("its tokenizer has no token for the end of an answer")
        except Exception as error:  # a folder can be broken in many ways
            why = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            raise DemixError(f"there is no language model {str(name)!r}: {why}.") from error
        self.model = model.to("cuda" if large else "cpu").eval().requires_grad_(False)
        # Which answers share a batch depends on what was asked before; in double precision, the
        # rounding this causes is lost, and a run has the same bits in every process.
        small = Path(name) == SMALL_LM
        self._scorer = copy.deepcopy(self.model).double() if small else self.model
        self._known: dict[tuple[str, str], Answer] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle name and prompt reader only; the cache is computed again after loading."""
        return reference_of, (self.name, self.turns)

    def look_up(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Answer]:
        """Return tokenised answers with the outputs of the model, each computed once."""
        pairs = list(zip(prompts, answers, strict=True))
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        tokens = self._tokenize(fresh)
        # Batches of answers of similar length need little padding.
        order = sorted(range(len(fresh)), key=lambda row: len(tokens[row][0]))
        longest = max((len(ids) for ids, _ in tokens), default=1)
        size = min(AT_ONCE, max(1, REFERENCE_LOGITS // (longest * self.model.config.vocab_size)))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            self._score([fresh[row] for row in rows], [tokens[row] for row in rows])
        return [self._known[pair] for pair in pairs]

    def _tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Tensor, int]]:
        """Return token ids of prompt and answer, and the index where the answer begins."""
        if not pairs:
            return []
        half = min(MOST_TOKENS, self.tokenizer.model_max_length) // 2
        options = {"add_special_tokens": False, "verbose": False}
        prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
        heads = self.tokenizer([self._open(prompt) for prompt in prompts], **options).input_ids
        head = dict(zip(prompts, heads, strict=True))
        tails = self.tokenizer([a for _, a in pairs], **options).input_ids
        found = []
        for (prompt, _), tail in zip(pairs, tails, strict=True):
            begin, ending = head[prompt][-half:], [*tail, self.tokenizer.eos_token_id][:half]
            found.append((torch.tensor([*begin, *ending]), len(begin)))
        return found

    def _open(self, prompt: str) -> str:
        """Write a dialogue up to the start of the answer, in the chat format of the model."""
        turns = self.turns(prompt)
        how = {"tokenize": False, "add_generation_prompt": True}
        # Some formats refuse turns in an unusual order, which broken prompts have.
        with suppress(TemplateError):
            if self.tokenizer.chat_template is not None:
                return self.tokenizer.apply_chat_template(turns, **how)
        said = "\n\n".join(f"{turn['role'].title()}: {turn['content']}" for turn in turns)
        return f"{said}\n\nAssistant: "

    @torch.no_grad()
    def _score(self, pairs: list[tuple[str, str]], tokens: list[tuple[Tensor, int]]) -> None:
        place = next(self._scorer.parameters()).device
        # Attention is causal: padding on the right reaches no token, so its value is irrelevant.
        ids = nn.utils.rnn.pad_sequence([t for t, _ in tokens], batch_first=True).to(place)
        span = torch.tensor([[start, len(t)] for t, start in tokens], device=place)
        length = ids.shape[1]
        logits, states = _announced(self._scorer, within(span - 1, length), input_ids=ids)
        summed = answer_log_probability(logits, ids, span).float().cpu()
        inside = within(span, length).to(logits.dtype)
        hidden = (inside[:, None] @ states)[:, 0] / inside.sum(1, keepdim=True)
        for row, pair in enumerate(pairs):
            known = Answer(*tokens[row], float(summed[row]), hidden[row].float().cpu())
            self._known[pair] = known


@cache
def reference_of(name: str | Path, turns: Callable[[str], list[dict[str, str]]]) -> Reference:
    """Return the reference of this name, loaded once."""
    return Reference(name, turns)


def _announced(language_model: Any, asked: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits at the ``asked`` positions and the last hidden states of all positions.

    Only positions that predict a token of an answer go through the output layer.
    """
    states: list[Tensor] = []

    def select(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        states.append(given[0])
        return (given[0][asked],)

    handle = language_model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        return language_model(**inputs, use_cache=False).logits, states[0]
    finally:
        handle.remove()


def within(span: Tensor, length: int) -> Tensor:
    """Return a mask of the positions inside each ``[start, end)`` span, shape ``(n, length)``.

    Examples
    --------
    >>> within(torch.tensor([[1, 3]]), 4)
    tensor([[False,  True,  True, False]])
    """
    place = torch.arange(length, device=span.device)
    return (place >= span[:, :1]) & (place < span[:, 1:])


def answer_log_probability(logits: Tensor, ids: Tensor, span: Tensor) -> Tensor:
    """Sum the log-probabilities of the tokens of every answer, shape ``(n,)``.

    ``logits`` are those of the positions that predict a token of an answer, concatenated over the
    rows.

    Examples
    --------
    >>> ids, span = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[1, 3]])
    >>> answer_log_probability(torch.zeros(2, 2), ids, span).exp()
    tensor([0.2500])
    """
    likely = logits.float() if logits.dtype.itemsize < 4 else logits
    inside = within(span, ids.shape[1])
    each = -F.cross_entropy(likely, ids[inside], reduction="none")
    return each.new_zeros(len(ids)).index_add(0, inside.nonzero()[:, 0], each)


class PreferenceLM(nn.Module):
    """Compares two answers: the DPO margin of the first over the second.

    Both answers follow their prompt in one sequence, so that the prompt is read once. An answer
    attends to the prompt and to itself, but not to the other answer; so the causal language model
    must accept a mask over queries and keys. Frozen parameters are shared between copies.
    """

    def __init__(self, language_model: nn.Module):
        super().__init__()
        self.language_model: Any = language_model

    def __deepcopy__(self, memo: dict[int, Any]) -> "PreferenceLM":
        """Copy trainable parameters; share frozen ones."""
        copied = copy.deepcopy(
            self.language_model, memo | {id(p): p for p in self.parameters() if not p.requires_grad}
        )
        return PreferenceLM(copied).train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PreferenceLM":
        """Move or convert this model only, not the frozen tensors shared with other models."""
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            return super()._apply(fn, recurse)
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)

    @staticmethod
    def lengths(inputs: dict[str, Tensor]) -> Tensor:
        """Return the number of tokens of each pair, to batch pairs of similar length."""
        return inputs["ends"][:, -1]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Map a batch of n pairs to their margins, ``(n, 1)``, see :func:`pair_inputs`."""
        if torch.is_grad_enabled() and not self.training:
            return self._margin(inputs)  # for gradient factors, the caller has sorted the pairs
        order = self.lengths(inputs).argsort(stable=True)
        each = inputs["ids"].shape[1] * self.language_model.config.vocab_size
        kind = order.device.type
        parts = order.split(max(1, min(LOGITS_AT_ONCE[kind] // each, TOGETHER[kind])))
        margins = [self._margin({name: x[rows] for name, x in inputs.items()}) for rows in parts]
        return torch.cat(margins)[order.argsort()]

    def _margin(self, inputs: dict[str, Tensor]) -> Tensor:
        ids, ends = inputs["ids"][:, : int(inputs["ends"].max())], inputs["ends"]
        kind = next(self.language_model.parameters()).dtype
        # The last token of the prompt and all later ones each predict a token of an answer.
        asked = within(torch.stack([ends[:, 0] - 1, ends[:, 2]], dim=1), ids.shape[1])
        logits = _announced(
            self.language_model,
            asked,
            input_ids=ids,
            position_ids=_positions(ends, ids.shape[1]),
            attention_mask=_visible(ends, ids.shape[1], kind),
        )[0]
        return BETA * (log_ratio(logits, asked, inputs) - inputs["reference"])[:, None]


def _positions(ends: Tensor, length: int) -> Tensor:
    """Return position ids as if each answer followed the prompt alone, shape ``(n, length)``."""
    place = torch.arange(length, device=ends.device)
    prompt, first, _ = ends.T[..., None]
    return torch.where(place < first, place, place - (first - prompt))


def _visible(ends: Tensor, length: int, kind: torch.dtype) -> Tensor:
    """Return the additive attention mask ``(n, 1, S, S)``: 0 if visible, else the minimum."""
    place = torch.arange(length, device=ends.device)
    prompt, first, _ = ends.T[..., None, None]
    other = (place[:, None] >= first) & (place >= prompt) & (place < first)
    hidden = (place > place[:, None]) | other
    return torch.zeros(hidden.shape, dtype=kind, device=ends.device).masked_fill_(
        hidden, torch.finfo(kind).min
    )[:, None]


def log_ratio(logits: Tensor, asked: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Return the log-probability of first minus that of second answers, in nats, ``(n,)``.

    Parameters
    ----------
    logits : Tensor
        Logits of the positions that predict a token of an answer, concatenated over the rows.
    asked : Tensor
        Mask of these positions, ``(n, S)``.
    inputs : dict
        See :func:`pair_inputs`.

    Examples
    --------
    >>> ids, none = torch.zeros(2, 6).long(), torch.zeros(3)
    >>> first, second = Answer(ids[0, :4], 1, 0.0, none), Answer(ids[1, :2], 1, 0.0, none)
    >>> inputs = pair_inputs([first], [second])
    >>> asked = torch.ones(1, 3, dtype=torch.bool)
    >>> log_ratio(torch.zeros(3, 2), asked, inputs).exp()
    tensor([0.2500])
    """
    likely = logits.float() if logits.dtype.itemsize < 4 else logits
    rows, places = asked.nonzero(as_tuple=True)
    prompt, first, _ = inputs["ends"].T
    each = -F.cross_entropy(likely, inputs["next"][rows, places], reduction="none")
    each = torch.where(places < first[rows], each, -each)
    # The end of the prompt also predicts the first token of the second answer: subtract it.
    opening = likely[places + 1 == prompt[rows]].log_softmax(1)
    against = opening.gather(1, inputs["other"][:, None])[:, 0]
    return each.new_zeros(len(prompt)).index_add(0, rows, each) - against


def pair_inputs(first: Sequence[Answer], second: Sequence[Answer]) -> dict[str, Tensor]:
    """Return the inputs of :class:`PreferenceLM` for pairs of answers.

    Returns
    -------
    dict
        - ``ids``: token ids of prompt, first and second answer, concatenated, ``(n, S)``, without
          the last token of each answer, which predicts nothing;
        - ``next``: the token that follows each of these, ``(n, S)``;
        - ``other``: the first token of the second answer, ``(n,)``;
        - ``ends``: where prompt, first and second answer end, ``(n, 3)``;
        - ``reference``: the log-probability of the first minus the second answer under the
          reference, ``(n,)``;
        - ``meaning``: the difference of their hidden states, ``(n, width)``.
    """
    pairs = list(zip(first, second, strict=True))
    gaps = [one.log_probability - other.log_probability for one, other in pairs]
    rows = [torch.cat([one.ids[:-1], other.ids[other.start : -1]]) for one, other in pairs]
    following = [torch.cat([one.ids[1:], other.ids[other.start + 1 :]]) for one, other in pairs]
    ends = [
        [one.start, len(one.ids) - 1, len(row)] for (one, _), row in zip(pairs, rows, strict=True)
    ]
    return {
        "ids": nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "next": nn.utils.rnn.pad_sequence(following, batch_first=True),
        "other": torch.stack([other.ids[other.start] for _, other in pairs]),
        "ends": torch.tensor(ends),
        "reference": torch.tensor(gaps),
        "meaning": torch.stack([one.meaning - other.meaning for one, other in pairs]),
    }


class LowRank(nn.Module):
    """A frozen linear layer with a trainable low-rank correction (LoRA; Hu et al., 2022).

    The correction is zero before training and scaled by ``ALPHA / RANK``.

    Examples
    --------
    >>> layer, x = nn.Linear(6, 3), torch.randn(2, 6)
    >>> torch.equal(LowRank(layer)(x), layer(x))
    True
    """

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        place = base.weight.device
        self.down = nn.Parameter(torch.empty(RANK, base.in_features, device=place))
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK, device=place))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = ALPHA / RANK

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its correction, merged into one matrix if their dtypes agree."""
        if self.base.weight.dtype == self.down.dtype:
            together = self.base.weight + (self.scale * self.up) @ self.down
            return F.linear(x, together, self.base.bias)
        correction = (x.to(self.down.dtype) @ (self.scale * self.down).T) @ self.up.T
        return self.base(x) + correction.to(x.dtype)

    def sample_gradients(self, x: Tensor, g: Tensor) -> Tensor:
        """Return per-sample gradients from inputs and output gradients, ``(n, P)``.

        The gradient of ``up`` is transposed: products with few rows are faster than those with few
        columns, and inner products only need the same order of entries in all samples.
        """
        x, g = x.to(self.down.dtype), g.to(self.down.dtype)
        down = (self.scale * self.up).T @ g.mT @ x
        up = (self.scale * self.down) @ x.mT @ g
        return torch.cat([down.flatten(1), up.flatten(1)], dim=1)


def with_adapters(language_model: nn.Module) -> nn.Module:
    """Return the model with a :class:`LowRank` around every linear layer except the output.

    What follows the blocks (the last norm) is trained, too, since it sets how confident the model
    is. The frozen weights are shared with the given model.
    """
    adapted = _sharing(language_model)
    head = adapted.get_output_embeddings()
    for name, module in list(adapted.named_modules()):
        if type(module) is nn.Linear and module is not head:
            adapted.set_submodule(name, LowRank(module))
    _train_ending(adapted)
    return adapted


def with_trained_block(language_model: nn.Module) -> nn.Module:
    """Return the model with its last block and what follows trainable, all else shared."""
    opened = _sharing(language_model)
    blocks = max((m for m in opened.modules() if isinstance(m, nn.ModuleList)), key=len)
    blocks[-1] = copy.deepcopy(blocks[-1]).requires_grad_(True)
    _train_ending(opened)
    return opened


def _sharing(module: nn.Module) -> Any:
    """Copy a module, but not its parameters."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters()})


def _train_ending(language_model: Any) -> None:
    """Make everything but blocks and embeddings trainable: the norm before the output."""
    base = language_model.base_model
    for name, module in base.named_children():
        if not isinstance(module, nn.ModuleList | nn.Embedding):
            setattr(base, name, copy.deepcopy(module).requires_grad_(True))
