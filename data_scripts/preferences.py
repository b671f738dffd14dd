"""Shared code of the sources of preference pairs: their formats, and which pairs are left out."""

import gzip
import importlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from data_scripts.source import UNPACK_ERRORS, Source, reading, without_halves
from demix_lite.data.pairs import (
    CATEGORICAL,
    NUMERIC,
    TARGET,
    TEXTS,
    Message,
    join_turns,
    place_answers,
    with_attributes,
)
from demix_lite.errors import DemixError

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
MOST_CHARACTERS = 8000
"""Largest number of characters of the prompt plus the longer answer; longer dialogues are left
out."""

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SPEAKER = re.compile(r"\n\n(Human|Assistant):")
SCORES = ("score_{}", "{}_score", "rating_{}", "{}_rating")

OTHER_EDITIONS: dict[str, dict[str, Any]] = {
    "dialogues": {
        "title": "Anthropic hh-rlhf",
        "url": "https://github.com/anthropics/hh-rlhf",
        "licence": "MIT",
    },
    "conversations": {
        "title": "Preference pairs with conversations",
        "url": "https://github.com/hiyouga/LLaMA-Factory",
        "licence": "not stated in the file",
    },
}
"""Formats of other data sets, and what the error message says about them."""

UNVERIFIED = "Read from a folder: not verified, no checksum of these files is published."
NOTE = (
    "The order of the answers is drawn from their texts and says nothing. Scores are not kept: they"
    " would tell which answer is preferred."
)


@dataclass(frozen=True)
class Pair:
    """A dialogue, a better and a worse answer to it, and their scores if there are any."""

    prompt: list[Message]
    chosen: str
    rejected: str
    scores: tuple[float, float] | None

    @property
    def tied(self) -> bool:
        """Whether both answers have the same score."""
        return self.scores is not None and self.scores[0] == self.scores[1]


def source_of_pairs(name: str, hub: str, title: str, licence: str, notes: str) -> Source:
    """Return a source of preference pairs: a data set of the hub, with the facts of its card."""
    facts = {
        "title": title,
        "url": f"https://huggingface.co/datasets/{hub}",
        "licence": licence,
        "numeric": list(NUMERIC),
        "categorical": list(CATEGORICAL),
        "text": list(TEXTS),
        "target": TARGET,
        "notes": notes,
    }

    def build(raw: Path | None) -> tuple[pd.DataFrame, dict[str, Any]]:
        rows = rows_of_hub(hub, name) if raw is None else rows_of_folder(raw)
        counts: Counter[str] = Counter()
        form, frame = table_of(rows, title, counts)
        edition = OTHER_EDITIONS.get(form, {})
        said = [f"Another data set in place of {title}." if edition else notes]
        said += [UNVERIFIED] if raw else []
        said += [NOTE, in_words(counts, len(frame))]
        return frame, facts | edition | {"notes": " ".join(said)}

    return Source(name, files=(), facts=facts, build=build)


def rows_of_hub(hub: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a data set of the hub, each with its location."""
    try:
        load = importlib.import_module("datasets").load_dataset
    except ImportError as error:
        raise DemixError(
            f"to download {hub} install the library datasets: pip install 'demix_lite[llm]'."
        ) from error
    try:
        rows = load(hub, split="train")
    except Exception as error:  # the hub can fail in many ways
        raise DemixError(
            f"could not download {hub} ({type(error).__name__}); try again later, or get its files "
            f"yourself and run: python -m data_scripts {name} --raw FOLDER"
        ) from error
    for number, row in enumerate(rows, 1):
        yield f"row {number} of {hub}", row


def rows_of_folder(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of all files of a folder, each with its location."""
    if not folder.is_dir():
        raise DemixError(f"there is no folder {folder}.")
    files = sorted(p for p in folder.glob("*") if p.name.endswith(ENDINGS) and p.is_file())
    if not files:
        raise DemixError(f"{folder} has no file of pairs (*{', *'.join(ENDINGS)}).")
    for path in files:
        unit = "line" if ".jsonl" in path.name else "row"
        for number, row in enumerate(_rows_of_file(path), 1):
            yield f"{unit} {number} of {path.name}", row


def _rows_of_file(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        with reading(path.name, "Parquet", OSError):
            for batch in pq.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
        return
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            if ".jsonl" not in path.name:
                with reading(path.name, "JSON"):
                    yield from json.load(file)
                return
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                with reading(f"line {number} of {path.name}", "JSON"):
                    row = json.loads(line)
                yield row
    except UnicodeDecodeError as error:
        raise DemixError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error
    except UNPACK_ERRORS as error:
        raise DemixError(f"{path} is damaged ({error}); get it again.") from error


def table_of(
    rows: Iterable[tuple[str, Any]], title: str, counts: Counter[str]
) -> tuple[str, pd.DataFrame]:
    """Return the format of the rows and the table of all usable pairs.

    Pairs with equal or empty answers, dialogues that are too long or that differ before the last
    answer, and repeated pairs are left out and counted in ``counts``. Ties of the scores are
    counted and kept.
    """
    forms: Counter[str] = Counter()
    kept: dict[tuple[str, ...], None] = {}
    for where, row in rows:
        counts["read"] += 1
        with reading(where, title, KeyError, AttributeError, IndexError):
            form, pair = read_pair(row)
        forms[form] += 1
        trouble = trouble_with(pair)
        if pair is None or trouble:
            counts[trouble] += 1
            continue
        texts = tuple(map(without_halves, (join_turns(pair.prompt), pair.chosen, pair.rejected)))
        counts["repeated"] += texts in kept
        counts["tied"] += texts not in kept and pair.tied
        kept[texts] = None
    if not kept:
        raise DemixError(f"no pair of {title} is left: {in_words(counts, 0)}")
    frame = pd.DataFrame(list(kept), columns=["prompt", "chosen", "rejected"])
    return forms.most_common(1)[0][0], with_attributes(place_answers(frame))


def trouble_with(pair: Pair | None) -> str:
    """Say why a pair is left out; empty if it is kept."""
    if pair is None:
        return "parted"
    if not pair.chosen or not pair.rejected:
        return "empty"
    if pair.chosen == pair.rejected:
        return "equal"
    longest = len(join_turns(pair.prompt)) + max(len(pair.chosen), len(pair.rejected))
    return "long" if longest > MOST_CHARACTERS else ""


def in_words(counts: Counter[str], kept: int) -> str:
    """Say how many pairs were kept, and why others were left out.

    Examples
    --------
    >>> in_words(Counter(read=5, equal=2), 3)
    '3 of 5 pairs kept; left out: 2 with equal answers.'
    """
    reasons = {
        "equal": "with equal answers",
        "empty": "with an empty answer",
        "long": f"of more than {MOST_CHARACTERS:,} characters",
        "parted": "whose dialogues part before the last answer",
        "repeated": "repeated",
    }
    said = [f"{counts[key]:,} {reason}" for key, reason in reasons.items() if counts[key]]
    left_out = f"; left out: {', '.join(said)}" if said else ""
    tied = f" {counts['tied']:,} kept pairs have equal scores." if counts["tied"] else ""
    return f"{kept:,} of {counts['read']:,} pairs kept{left_out}.{tied}"


def read_pair(row: dict[str, Any]) -> tuple[str, Pair | None]:
    r"""Return the format of a row and its pair; None if dialogues differ before the last answer.

    Examples
    --------
    >>> read_pair({"prompt": "Two plus two?", "chosen": "4", "rejected": "5"})[0]
    'strings'
    >>> said = "\n\nHuman: Two plus two?\n\nAssistant:"
    >>> form, pair = read_pair({"chosen": f"{said} 4", "rejected": f"{said} 5"})
    >>> form, pair.prompt[0]["content"], pair.chosen
    ('dialogues', 'Two plus two?', '4')
    """
    chosen, rejected = row["chosen"], row["rejected"]
    if "conversations" in row:
        form, prompt = "conversations", _messages(row["conversations"])
    elif isinstance(chosen, str) and "prompt" not in row:
        form, prompt = "dialogues", []
        chosen, rejected = _dialogue(chosen), _dialogue(rejected)
    else:
        form = "strings" if isinstance(chosen, str) else "messages"
        prompt = _prompt(row.get("prompt"), chosen)
    one, other = (prompt + _messages(answer) for answer in (chosen, rejected))
    before = one[:-1]
    if not before or before != other[:-1]:
        return form, None
    if not one[-1]["role"] == other[-1]["role"] == "assistant":
        return form, None
    return form, Pair(before, one[-1]["content"], other[-1]["content"], _scores(row))


def _prompt(prompt: Any, chosen: Any) -> list[Message]:
    """Return the messages before the answers, unless the answers repeat them."""
    repeats = isinstance(chosen, list) and _messages(chosen)[0]["role"] != "assistant"
    if prompt is None or repeats:
        return []
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt.strip()}]
    return _messages(prompt)


def _messages(turns: Any) -> list[Message]:
    """Read messages in any of the usual formats; a plain text is an answer."""
    if isinstance(turns, str):
        return [{"role": "assistant", "content": turns.strip()}]
    turns = [turns] if isinstance(turns, dict) else turns
    return [
        {
            "role": ROLES.get(turn["role"] if "role" in turn else turn["from"], "system"),
            "content": (turn["content"] if "content" in turn else turn["value"]).strip(),
        }
        for turn in turns
    ]


def _dialogue(text: str) -> list[Message]:
    """Read a dialogue of Human and Assistant; return an empty list if the text is not one."""
    head, *rest = SPEAKER.split(text)
    if head.strip() or not rest:
        raise ValueError("it is no dialogue of Human and Assistant")
    said = zip(rest[::2], rest[1::2], strict=True)
    return [{"role": ROLES[who.lower()], "content": what.strip()} for who, what in said]


def _scores(row: dict[str, Any]) -> tuple[float, float] | None:
    places = {**(row.get("metadata") or {}), **row}
    for spelling in SCORES:
        found = [places.get(spelling.format(which)) for which in ("chosen", "rejected")]
        if all(isinstance(score, int | float) for score in found):
            return float(found[0]), float(found[1])  # type: ignore[arg-type]
    return None
