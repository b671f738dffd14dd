"""Preference pairs as a table: one pair per row, with attributes computed from its texts.

A row has a ``prompt``, two answers (``first`` and ``second``) and which of them is ``preferred``.
The order of the answers carries no information, so a swapped preference is a wrong label like any
other.
"""

import hashlib
import re

import numpy as np
import pandas as pd

TEXTS = ("prompt", "first", "second")
ANSWERS = ("first", "second")
NUMERIC = ("turns", "prompt_words", "first_words", "second_words")
CATEGORICAL = ("longer", "with_list", "with_emoji")
TARGET = "preferred"
COLUMNS = (*TEXTS, *NUMERIC, *CATEGORICAL, TARGET)

ROLES = ("system", "user", "assistant")
TURN = re.compile(rf"\n<({'|'.join(ROLES)})>\n")
LIST_LINE = re.compile(r"^ {0,8}(?:[-*•]|\d{1,2}[.)]) ", re.MULTILINE)
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")

Message = dict[str, str]


def join_turns(messages: list[Message]) -> str:
    r"""Write a dialogue as one text; a single question stays as it is.

    Examples
    --------
    >>> join_turns([{"role": "user", "content": "Hello?"}])
    'Hello?'
    >>> join_turns([{"role": r, "content": r[0]} for r in ("user", "assistant", "user")])
    'u\n<assistant>\na\n<user>\nu'
    """
    written = "".join(f"\n<{turn['role']}>\n{turn['content']}" for turn in messages)
    return written.removeprefix("\n<user>\n")


def split_turns(prompt: str) -> list[Message]:
    r"""Read the messages of a text that :func:`join_turns` wrote.

    Examples
    --------
    >>> [turn["role"] for turn in split_turns(join_turns(split_turns("a\n<assistant>\nb")))]
    ['user', 'assistant']
    """
    head, *rest = TURN.split(prompt)
    messages = [{"role": r, "content": c} for r, c in zip(rest[::2], rest[1::2], strict=True)]
    return [{"role": "user", "content": head}, *messages] if head or not rest else messages


def with_attributes(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the attributes that are counted in the texts of pairs, with columns in their usual order.

    ``turns`` is the number of messages of the prompt. ``longer``, ``with_list`` and ``with_emoji``
    name the answer that has more words, or the only one with a list or an emoji (``neither`` if
    there is no such answer).

    Examples
    --------
    >>> pair = {"prompt": "Two plus two?", "first": "4", "second": "- four", "preferred": "first"}
    >>> with_attributes(pd.DataFrame([pair]))[["longer", "with_list"]].iloc[0].tolist()
    ['second', 'second']
    """
    words = {name: frame[name].str.split().str.len().astype("int64") for name in TEXTS}
    lists, emoji = (
        [frame[name].str.contains(pattern).to_numpy(dtype=int) for name in ANSWERS]
        for pattern in (LIST_LINE, EMOJI)
    )
    found = frame.assign(
        turns=frame["prompt"].map(lambda prompt: len(split_turns(prompt))).astype("int64"),
        **{f"{name}_words": count for name, count in words.items()},
        longer=_which(words["first"].to_numpy(), words["second"].to_numpy()),
        with_list=_which(*lists),
        with_emoji=_which(*emoji),
    )
    return found[[name for name in COLUMNS if name in found.columns]]


def _which(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Name the answer with the larger value, or ``neither``."""
    return np.array(["second", "neither", "first"])[np.sign(first - second) + 1]


def place_answers(pairs: pd.DataFrame) -> pd.DataFrame:
    """Turn ``prompt, chosen, rejected`` into ``prompt, first, second, preferred``.

    Which answer comes first depends only on the texts, and carries no information about the
    preference.

    Examples
    --------
    >>> pair = pd.DataFrame({"prompt": ["?"], "chosen": ["good"], "rejected": ["bad"]})
    >>> place_answers(pair).iloc[0].tolist()
    ['?', 'good', 'bad', 'first']
    """
    first = np.array([_comes_first(*texts) for texts in pairs.itertuples(index=False)], dtype=bool)
    chosen, rejected = pairs["chosen"], pairs["rejected"]
    return pd.DataFrame(
        {
            "prompt": pairs["prompt"],
            "first": chosen.where(first, rejected),
            "second": rejected.where(first, chosen),
            TARGET: np.where(first, "first", "second"),
        }
    ).astype("str")


def _comes_first(prompt: str, chosen: str, rejected: str) -> bool:
    """Draw the order of the answers from their texts, independently of their ranking."""
    low, high = sorted((chosen, rejected))
    digest = hashlib.sha256("\x1f".join((prompt, low, high)).encode("utf-8", "replace")).digest()
    return bool(digest[0] % 2) == (chosen == low)
