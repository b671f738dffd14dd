"""``python -m data_scripts.train_small_lm``: train the language model that ships with the package.

A byte-level BPE tokenizer and a model of the Qwen2 architecture are trained on the built-in world
of instructions: first on all its text, better and worse answers alike, then only on the better
answers. The pairs are drawn with other seeds than those of the twins.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from demix_lite.data.instructions import draw_pairs
from demix_lite.data.pairs import ROLES, split_turns
from demix_lite.data.twin import load_twin
from demix_lite.models.preference_lm import SMALL_LM

TWINS = ("ultrafeedback", "capybara")
PAD, END = "<|pad|>", "<|end|>"
TEMPLATE = (
    "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}"
    "{% if turn.role == 'assistant' %}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 480
SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
MOST_TOKENS = 256
"""Longer texts are truncated: the model is not trained on longer ones."""

BATCH = 32
BUCKET = 20
"""Number of batches that are sorted by length together, to reduce padding."""

WARMUP = 100


def train_tokenizer() -> Any:
    """Train a byte-level BPE tokenizer on the text of the twins; every digit is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [PAD, END, *(f"<|{role}|>" for role in ROLES)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = pd.concat([draw_pairs(load_twin(name), 4000, "tokenizer") for name in TWINS])
    bpe.train_from_iterator(texts.to_numpy().ravel().tolist(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=special[2:],
        chat_template=TEMPLATE,
        model_max_length=MOST_TOKENS,
    )


def batches(tokenizer: Any, stage: str, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield token ids and a mask of the tokens in the loss: all, or those of chosen answers."""
    count = math.ceil(steps * BATCH / len(TWINS))
    pairs = pd.concat([draw_pairs(load_twin(name), count, stage) for name in TWINS])
    pairs = pairs.sample(frac=1, random_state=0, ignore_index=True)
    prompts = [
        tokenizer.apply_chat_template(split_turns(p), tokenize=False, add_generation_prompt=True)
        for p in pairs["prompt"]
    ]
    answers = pairs["chosen"]
    if stage == "pretrain":
        answers = answers.where(pairs.index % 2 == 0, pairs["rejected"])
    heads, tails = (
        tokenizer(list(t), add_special_tokens=False).input_ids for t in (prompts, answers)
    )
    for rows in _buckets([len(h) + len(t) for h, t in zip(heads, tails, strict=True)]):
        whole = [torch.tensor([*heads[r], *tails[r], tokenizer.eos_token_id]) for r in rows]
        ids = torch.nn.utils.rnn.pad_sequence(whole, True, tokenizer.pad_token_id)
        begin = torch.tensor([0 if stage == "pretrain" else len(heads[r]) for r in rows])[:, None]
        place = torch.arange(ids.shape[1])
        yield ids, (place >= begin) & (ids != tokenizer.pad_token_id)


def _buckets(lengths: list[int]) -> Iterator[list[int]]:
    """Yield batches of rows of similar length, in random order."""
    draw = torch.Generator().manual_seed(0)
    for rows in torch.arange(len(lengths)).split(BUCKET * BATCH):
        alike = sorted(rows.tolist(), key=lengths.__getitem__)
        starts = range(0, len(alike), BATCH)
        for number in torch.randperm(len(starts), generator=draw).tolist():
            yield alike[starts[number] : starts[number] + BATCH]


def train(model: Any, tokenizer: Any, stage: str, steps: int, rate: float) -> None:
    """Train in place with AdamW, a short warm-up and a cosine schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda n: (
            min(1, (n + 1) / WARMUP) * (0.02 + 0.98 * (1 + math.cos(math.pi * n / steps)) / 2)
        ),
    )
    began, recent = time.perf_counter(), 0.0
    for step, (ids, counts) in enumerate(batches(tokenizer, stage, steps), 1):
        logits = model(input_ids=ids).logits[:, :-1]
        each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        counted = counts[:, 1:].flatten()
        loss = each[counted].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent = 0.98 * recent + 0.02 * float(loss.detach()) if step > 1 else float(loss.detach())
        if step % 100 == 0:
            print(
                f"{stage} {step}/{steps}: {recent:.3f}, {time.perf_counter() - began:.0f} s",
                flush=True,
            )


def main() -> None:
    """Train tokenizer and model, and write them in half precision."""
    parser = argparse.ArgumentParser(description="Train the small language model of the package.")
    parser.add_argument("--out", type=Path, default=SMALL_LM, help="folder to write")
    parser.add_argument("--pretrain", type=int, default=600, help="steps on all text")
    parser.add_argument("--tune", type=int, default=2600, help="steps on chosen answers")
    options = parser.parse_args()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Qwen2Config(
        vocab_size=len(tokenizer), tie_word_embeddings=True, bos_token_id=None, **special, **SIZES
    )
    model = Qwen2ForCausalLM(config)
    train(model, tokenizer, "pretrain", options.pretrain, rate=3e-3)
    train(model, tokenizer, "tune", options.tune, rate=2e-3)
    tokenizer.save_pretrained(options.out)
    model.half().save_pretrained(options.out)
    print(f"wrote {options.out}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
