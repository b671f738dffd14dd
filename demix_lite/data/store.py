"""The store of prepared tables: one folder a table, holding ``table.parquet`` and ``card.json``."""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from demix_lite.data.twin import load_twin, sample_twin, twin_names
from demix_lite.errors import DemixError, unknown_name
from demix_lite.seeds import generator

SOURCES = ("twin", "real")
TABLE, CARD = "table.parquet", "card.json"


@dataclass(frozen=True)
class Card:
    """What a table is, where it comes from, and the role of every column.

    Attributes
    ----------
    name, source : str
        Which table, and ``"real"`` or ``"twin"``.
    title, url, licence : str
        What it is, where it lives, what one may do with it.
    rows, sha256 : int, str
        Length and :func:`content_sha256` of the very table this card came with.
    numeric, categorical, target : tuple of str, tuple of str, str
        The role of each column; together they are all the columns.
    notes : str
        Anything else a reader should know.
    """

    name: str
    source: str
    title: str
    url: str
    licence: str
    rows: int
    sha256: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    target: str
    notes: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the table, features first."""
        return (*self.numeric, *self.categorical, self.target)


def data_home() -> Path:
    """Return the folder of prepared tables: ``$DEMIX_DATA``, else ``~/.cache/demix_lite``."""
    return Path(os.environ.get("DEMIX_DATA") or "~/.cache/demix_lite").expanduser()


def content_sha256(frame: pd.DataFrame) -> str:
    r"""Hash what a table says, not how a file stores it.

    The hash is taken over the UTF-8 bytes of the table as CSV: a header line, no index, ``\n`` line
    ends, numbers in their shortest exact form, missing values and empty strings as empty cells.

    Examples
    --------
    >>> content_sha256(pd.DataFrame({"x": [1, 2]}))[:12]
    'aea284871dde'
    """
    return hashlib.sha256(frame.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def describe(frame: pd.DataFrame, card: Card) -> Card:
    """Return ``card`` with the row count and the hash of ``frame``."""
    return replace(card, rows=len(frame), sha256=content_sha256(frame))


def save_table(frame: pd.DataFrame, card: Card, home: Path | str | None = None) -> Path:
    """Write a prepared table and its card, both or neither, and return their folder.

    Row count and hash are filled in here. A table already there is replaced in one step.
    """
    if sorted(frame.columns) != sorted(card.columns):
        odd = sorted(set(frame.columns) ^ set(card.columns))
        raise DemixError(f"table {card.name!r} and its card name different columns: {odd}.")
    tables = _tables(home)
    tables.mkdir(parents=True, exist_ok=True)
    folder = tables / card.name
    with tempfile.TemporaryDirectory(prefix=f".{card.name}-", dir=tables) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        frame.to_parquet(new / TABLE, index=False)
        (new / CARD).write_text(json.dumps(asdict(describe(frame, card)), indent=2) + "\n", "utf-8")
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
    return folder


def load_table(
    name: str,
    source: str = "twin",
    *,
    rows: int | None = None,
    seed: int = 0,
    home: Path | str | None = None,
) -> tuple[pd.DataFrame, Card]:
    """Load a table and the card that describes exactly the rows returned.

    Parameters
    ----------
    name : str
        A table such as ``"adult"``.
    source : {"twin", "real"}
        ``"twin"`` samples the built-in stand-in, ``"real"`` reads the prepared official data.
    rows : int, optional
        How many rows; a seeded subsample of ``"real"``. Left out: all of ``"real"``, and of
        ``"twin"`` the number its description names.
    seed : int
        The same seed gives the same rows.
    home : path, optional
        Where the prepared tables are; :func:`data_home` if left out.

    Examples
    --------
    >>> frame, card = load_table("adult", rows=100)
    >>> len(frame), card.source, card.target
    (100, 'twin', 'income')
    """
    if source not in SOURCES:
        raise unknown_name("data source", source, SOURCES)
    known = known_tables(home)
    if name not in known:
        raise unknown_name("table", name, known)
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise DemixError(f"rows must be a whole number of at least 1, not {rows!r}.")
    if source == "real":
        return _load_real(name, rows, seed, _tables(home) / name)
    twin = load_twin(name)
    frame = sample_twin(twin, rows or twin["rows"], seed)
    return frame, describe(frame, make_card(twin["card"], source="twin", rows=0, sha256=""))


def make_card(facts: dict[str, Any], **more: Any) -> Card:
    """Build a card from facts as JSON holds them."""
    facts = {k: tuple(v) if isinstance(v, list) else v for k, v in (facts | more).items()}
    return Card(**facts)


def known_tables(home: Path | str | None = None) -> list[str]:
    """List the tables that have a twin or have been prepared."""
    prepared = {card.parent.name for card in _tables(home).glob(f"[!.]*/{CARD}")}
    return sorted(prepared | set(twin_names()))


def _tables(home: Path | str | None) -> Path:
    return (data_home() if home is None else Path(home).expanduser()) / "tables"


def _load_real(name: str, rows: int | None, seed: int, folder: Path) -> tuple[pd.DataFrame, Card]:
    command = f"python -m data_scripts {name}"
    if not (folder / CARD).exists():
        raise DemixError(f"table {name!r} is not prepared in {folder.parent}; run: {command}")
    try:
        card = make_card(json.loads((folder / CARD).read_text("utf-8")))
        frame = pd.read_parquet(folder / TABLE)
        frame = frame.where(frame.notna(), np.nan)  # pandas 2 reads missing text as None
        damage = "" if content_sha256(frame) == card.sha256 else "its content has another checksum"
    except (OSError, ValueError, TypeError, KeyError) as error:
        damage = str(error).splitlines()[0]
    if damage:
        raise DemixError(f"table {name!r} in {folder} is damaged ({damage}); run again: {command}")
    if rows is None or rows == card.rows:
        return frame, card
    if rows > card.rows:
        raise DemixError(f"table {name!r} has {card.rows} rows, fewer than the {rows} asked for.")
    chosen = generator(name, "subsample", seed).choice(card.rows, rows, replace=False)
    part = frame.iloc[sorted(chosen)].reset_index(drop=True)
    note = f"{rows} of {card.rows} rows, seed {seed}, of the table {card.sha256[:12]}. {card.notes}"
    return part, describe(part, replace(card, notes=note))
