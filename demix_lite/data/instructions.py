"""The built-in world of instructions: small exercises whose answers can be checked.

The preferred answer of a pair is right and complete; the other one has a mistake, lacks a part or
answers another question. Style (a list, an emoji, a few more words) is drawn for both independently
of this: a shortcut can use it.

The description of a twin has an entry ``instructions`` with ``turns``, the numbers of questions of
a dialogue and how often each occurs, and ``same_style``, the probability that two answers which
were drawn alike in a trait stay alike; otherwise one of them is changed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from demix_lite.data.pairs import join_turns, place_answers, with_attributes
from demix_lite.seeds import generator

GOODS = ("tea", "milk", "bread", "rice", "salt", "honey", "soap", "paper")
WORDS = ("river", "stone", "cloud", "apple", "green", "night", "house", "music", "table", "winter")
OPENINGS = (
    "Sure, here is what you asked for:",
    "I am happy to help you:",
    "Good question! Let me think:",
)
CLOSINGS = ("Please ask me more.", "I hope this is useful to you.", "Is there more I can do?")
EMOJI = ("\U0001f600", "\U0001f680", "\u2728", "\U0001f44d")
TRAITS = ("list", "emoji", "chatty")

Turn = tuple[str, list[str], list[str]]
"""A question, the parts of the right answer, and the same parts with a mistake."""


def sample_instructions(
    twin: dict[str, Any], rows: int | None = None, seed: object = 0
) -> pd.DataFrame:
    """Draw preference pairs, with the columns of the prepared tables.

    By default there are as many ``rows`` as the description says. The same seed gives the same
    pairs.

    Examples
    --------
    >>> from demix_lite.data.twin import load_twin
    >>> frame = sample_instructions(load_twin("ultrafeedback"), 100)
    >>> list(frame.columns)[:3], frame["preferred"].nunique()
    (['prompt', 'first', 'second'], 2)
    """
    pairs = draw_pairs(twin, rows or twin["rows"], seed)
    return with_attributes(place_answers(pairs))


def draw_pairs(twin: dict[str, Any], rows: int, seed: object = 0) -> pd.DataFrame:
    """Draw prompts with a better answer (``chosen``) and a worse one (``rejected``)."""
    rng = generator(twin["card"]["name"], "twin", seed)
    settings = twin["instructions"]
    counts, shares = zip(*settings["turns"], strict=True)
    drawn = [
        _pair(int(turns), settings["same_style"], rng)
        for turns in rng.choice(counts, size=rows, p=shares)
    ]
    return pd.DataFrame(drawn, columns=["prompt", "chosen", "rejected"])


def _pair(turns: int, same_style: float, rng: np.random.Generator) -> tuple[str, str, str]:
    """Draw a dialogue with ``turns`` questions, and two answers to the last one."""
    exercise = KINDS[rng.integers(len(KINDS))]
    *before, (question, right, mistaken) = exercise(turns, rng)
    messages = []
    for asked, answer, _ in before:
        messages.append({"role": "user", "content": asked})
        style = _style(rng) | {"chatty": False}
        messages.append({"role": "assistant", "content": _write(answer, style, rng)})
    messages.append({"role": "user", "content": question})
    styles = _style(rng), _style(rng)
    for trait in TRAITS:
        # Usually only one of the two answers should have the trait.
        if styles[0][trait] == styles[1][trait] and rng.random() > same_style:
            styles[rng.integers(2)][trait] ^= True
    flawed = _flawed(right, mistaken, rng)
    return join_turns(messages), _write(right, styles[0], rng), _write(flawed, styles[1], rng)


def _flawed(right: list[str], mistaken: list[str], rng: np.random.Generator) -> list[str]:
    """Return an answer with a mistake, with a missing part, or to another question."""
    flaw = rng.choice(["mistaken", "incomplete", "elsewhere"], p=[0.5, 0.3, 0.2])
    if flaw == "mistaken":
        return mistaken
    if flaw == "incomplete":
        left_out = rng.integers(len(right))
        return right[:left_out] + right[left_out + 1 :]
    while (other := KINDS[rng.integers(len(KINDS))](1, rng)[0][1]) == right:
        pass
    return other


def _style(rng: np.random.Generator) -> dict[str, bool]:
    return {trait: bool(rng.random() < 0.5) for trait in TRAITS}


def _write(parts: list[str], style: dict[str, bool], rng: np.random.Generator) -> str:
    text = "\n".join(f"- {part}" for part in parts) if style["list"] else ", ".join(parts) + "."
    if style["chatty"]:
        text = f"{rng.choice(OPENINGS)}\n{text}"
        if rng.random() < 0.5:
            text = f"{text}\n{rng.choice(CLOSINGS)}"
    return f"{text} {rng.choice(EMOJI)}" if style["emoji"] else text


def _one_changed(parts: list[str], others: list[str], rng: np.random.Generator) -> list[str]:
    """Replace one part by a wrong one."""
    changed, place = list(parts), rng.integers(len(parts))
    changed[place] = others[place]
    return changed


def _sums(turns: int, rng: np.random.Generator) -> list[Turn]:
    """Ask for sums and differences of small numbers."""
    asked = []
    for turn in range(turns):
        sums, right, wrong = zip(_sum("plus", rng), _sum("minus", rng), strict=True)
        opening = "And what is" if turn else "What is"
        mistaken = _one_changed(list(right), list(wrong), rng)
        asked.append((f"{opening} {sums[0]}, and {sums[1]}?", list(right), mistaken))
    return asked


def _sum(way: str, rng: np.random.Generator) -> tuple[str, str, str]:
    """Draw a sum or a difference, with a right and a wrong answer."""
    low, high = sorted(int(n) for n in rng.integers(1, 10, size=2))
    value = high + low if way == "plus" else high - low
    off = value + int(rng.choice([-2, -1, 1, 2]))
    text = f"{high} {way} {low}"
    return text, f"{text} is {value}", f"{text} is {off if off >= 0 else 3}"


def _prices(turns: int, rng: np.random.Generator) -> list[Turn]:
    """Ask for prices from a list; later questions do not repeat it."""
    goods = rng.permutation(GOODS)[:3]
    prices = rng.permutation(9)[:3] + 1
    table = ", ".join(f"{name} {price}" for name, price in zip(goods, prices, strict=True))
    asked = []
    for turn in range(turns):
        picked = rng.permutation(3)[:2]
        right = [f"{goods[n]} costs {prices[n]}" for n in picked]
        wrong = [f"{goods[n]} costs {prices[(n + rng.integers(1, 3)) % 3]}" for n in picked]
        names = " and ".join(goods[picked])
        question = f"And {names}?" if turn else f"Prices: {table}. What do {names} cost?"
        asked.append((question, right, _one_changed(right, wrong, rng)))
    return asked


def _order(turns: int, rng: np.random.Generator) -> list[Turn]:
    """Ask to sort numbers, then the same numbers in another order."""
    numbers = rng.permutation(9)[:3] + 1
    rising = bool(rng.random() < 0.5)
    asked = []
    for turn in range(turns):
        right = [str(n) for n in (np.sort(numbers) if rising else np.sort(numbers)[::-1])]
        place = rng.integers(2)
        wrong = list(right)
        wrong[place], wrong[place + 1] = right[place + 1], right[place]
        way = "from small to large" if rising else "from large to small"
        shown = " ".join(map(str, numbers))
        asked.append((f"Now {way}." if turn else f"Sort {shown} {way}.", right, wrong))
        rising = not rising
    return asked


def _capitals(turns: int, rng: np.random.Generator) -> list[Turn]:
    """Ask to write words in a given form; later questions only name other words."""
    form = ("in capitals", "twice", "in quotes")[rng.integers(3)]
    forms: dict[str, Callable[[str], str]] = {
        "in capitals": str.upper,
        "twice": lambda word: f"{word} {word}",
        "in quotes": lambda word: f'"{word}"',
    }
    asked = []
    for turn in range(turns):
        words = [str(word) for word in rng.permutation(WORDS)[:2]]
        right, wrong = [forms[form](word) for word in words], words
        if rng.random() < 0.5:
            other = rng.choice([name for name in forms if name != form])
            wrong = [forms[other](word) for word in words]
        names = " and ".join(words)
        question = f"Now {names}." if turn else f"Write {names} {form}."
        asked.append((question, right, _one_changed(right, wrong, rng)))
    return asked


KINDS: tuple[Callable[[int, np.random.Generator], list[Turn]], ...] = (
    _sums,
    _prices,
    _order,
    _capitals,
)
"""Exercises: each draws the questions of one dialogue."""
