"""The store of prepared data sets: one folder each, with its tables and ``card.json``.

Most data sets are one table, ``table.parquet``. A data set of users and items has three tables,
``interactions``, ``users`` and ``items``, joined by the columns ``user`` and ``item``.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from demix_lite.data.instructions import sample_instructions
from demix_lite.data.twin import load_twin, sample_twin, twin_names
from demix_lite.data.world import sample_world
from demix_lite.errors import DemixError, check_count, refuse_unknown
from demix_lite.seeds import generator

SOURCES = ("twin", "real")
MOST_TWIN_ROWS = 1_000_000
CARD = "card.json"
TABLE = "table"
WORLD = ("interactions", "users", "items")
Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Card:
    """What a data set is, where it comes from, and the role of every column.

    Attributes
    ----------
    name, source : str
        Name of the data set, and ``"real"`` or ``"twin"``.
    title, url, licence : str
        Title, web address and licence.
    rows, sha256 : int, str
        Number of rows of the table with the target (the interactions, if there are users and
        items), and :func:`tables_sha256` of the tables that this card describes.
    numeric, categorical, target : tuple of str, tuple of str, str
        The role of each column, over all tables.
    notes : str
        Anything else a reader should know.
    keys : tuple of str
        Columns that identify or order rows and are not features: ``user``, ``item``, ``time``, a
        title. Only data sets of users and items have them.
    text : tuple of str
        Columns of free text.
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
    keys: tuple[str, ...] = ()
    text: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, features first."""
        return (*self.text, *self.numeric, *self.categorical, self.target, *self.keys)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables: one, or three that are joined by keys."""
        return WORLD if self.keys else (TABLE,)


def data_home() -> Path:
    """Return the folder of prepared tables: ``$DEMIX_DATA``, else ``~/.cache/demix_lite``."""
    return Path(os.environ.get("DEMIX_DATA") or "~/.cache/demix_lite").expanduser()


def content_sha256(frame: pd.DataFrame) -> str:
    r"""Hash the content of a table, independently of how a file stores it.

    The hash is computed over the UTF-8 bytes of the table as CSV: a header line, no index, ``\n``
    line endings, numbers in their shortest exact form, missing values and empty strings as empty
    cells.

    Examples
    --------
    >>> content_sha256(pd.DataFrame({"x": [1, 2]}))[:12]
    'aea284871dde'
    """
    return hashlib.sha256(frame.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def tables_sha256(tables: Tables) -> str:
    """Hash the content of several tables, in any order; for a single table, return its own hash.

    Examples
    --------
    >>> frame = pd.DataFrame({"x": [1, 2]})
    >>> tables_sha256({"table": frame}) == content_sha256(frame)
    True
    """
    hashes = {name: content_sha256(tables[name]) for name in sorted(tables)}
    if len(hashes) == 1:
        return hashes.popitem()[1]
    listing = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    return hashlib.sha256(listing.encode()).hexdigest()


def describe(tables: Tables, card: Card) -> Card:
    """Return ``card`` with the row count and the hash of these tables."""
    return replace(card, rows=len(tables[card.tables[0]]), sha256=tables_sha256(tables))


def save_table(frame: pd.DataFrame, card: Card, home: Path | str | None = None) -> Path:
    """Write a data set with one table; see :func:`save_tables`."""
    return save_tables({TABLE: frame}, card, home)


def save_tables(tables: Tables, card: Card, home: Path | str | None = None) -> Path:
    """Write a prepared data set and its card, all or nothing, and return their folder.

    Row count and hash are filled in here. An existing data set is replaced in one step.

    Examples
    --------
    >>> tables, card = load_tables("movielens", rows=1000)
    >>> with tempfile.TemporaryDirectory() as home:
    ...     folder = save_tables(tables, card, home)
    ...     print(sorted(path.name for path in folder.iterdir()))
    ['card.json', 'interactions.parquet', 'items.parquet', 'users.parquet']
    """
    _check_fit(tables, card)
    home = _tables(home)
    home.mkdir(parents=True, exist_ok=True)
    folder = home / card.name
    with tempfile.TemporaryDirectory(prefix=f".{card.name}-", dir=home) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        for name, frame in tables.items():
            frame.to_parquet(new / f"{name}.parquet", index=False)
        (new / CARD).write_text(_card_json(describe(tables, card)), "utf-8")
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
    return folder


def _check_fit(tables: Tables, card: Card) -> None:
    if sorted(tables) != sorted(card.tables):
        raise DemixError(
            f"{card.name!r} should be the tables {', '.join(card.tables)}, not {', '.join(tables)}."
        )
    found = [column for frame in tables.values() for column in frame]
    # the columns that join tables are in two of them
    found = list(dict.fromkeys(found)) if card.keys else found
    if sorted(found) != sorted(card.columns):
        odd = sorted(set(found) ^ set(card.columns))
        raise DemixError(f"table {card.name!r} and its card name different columns: {odd}.")


def _card_json(card: Card) -> str:
    facts = asdict(card)
    for role in ("keys", "text"):  # cards of single tables have no such entries
        if not facts[role]:
            del facts[role]
    return json.dumps(facts, indent=2) + "\n"


def load_table(
    name: str,
    source: str = "twin",
    *,
    rows: int | None = None,
    seed: int = 0,
    home: Path | str | None = None,
) -> tuple[pd.DataFrame, Card]:
    """Load a data set with one table and the card that describes exactly the rows returned.

    The parameters are those of :func:`load_tables`.

    Examples
    --------
    >>> frame, card = load_table("adult", rows=100)
    >>> len(frame), card.source, card.target
    (100, 'twin', 'income')
    """
    tables, card = load_tables(name, source, rows=rows, seed=seed, home=home)
    if TABLE not in tables:
        raise DemixError(f"{name!r} is {len(tables)} tables, not one; load it with load_tables.")
    return tables[TABLE], card


def load_tables(
    name: str,
    source: str = "twin",
    *,
    rows: int | None = None,
    seed: int = 0,
    home: Path | str | None = None,
) -> tuple[Tables, Card]:
    """Load the tables of a data set and the card that describes exactly the rows returned.

    Parameters
    ----------
    name : str
        A data set such as ``"adult"`` or ``"movielens"``.
    source : {"twin", "real"}
        ``"twin"`` samples the built-in stand-in, ``"real"`` reads the prepared official data.
    rows : int, optional
        Number of rows; for ``"real"`` a seeded subsample. For users and items: the approximate
        number of interactions, keeping whole users and the items they took. By default all rows of
        ``"real"``, and for ``"twin"`` the number in its description.
    seed : int
        The same seed gives the same rows.
    home : path, optional
        Folder of the prepared tables; by default :func:`data_home`.

    Returns
    -------
    tables : dict of DataFrame
        ``{"table": ...}``, or ``interactions``, ``users`` and ``items``.
    card : Card
        The card that describes them.

    Examples
    --------
    >>> tables, card = load_tables("movielens", rows=1000)
    >>> list(tables), card.target, card.keys
    (['interactions', 'users', 'items'], 'rating', ('user', 'item', 'time', 'title'))
    """
    check_source(source)
    known = known_tables(home)
    refuse_unknown("table", [name], known)
    if rows is not None:
        check_count(rows, "rows")
    if source == "twin" and rows is not None and rows > MOST_TWIN_ROWS:
        raise DemixError(f"a twin gives at most {MOST_TWIN_ROWS:,} rows, not {rows:,}.")
    if source == "real":
        return _load_real(name, rows, seed, _tables(home) / name)
    twin = load_twin(name)
    card = make_card(twin["card"], source="twin", rows=0, sha256="")
    tables = _sample(twin, rows, seed)
    return tables, describe(tables, card)


def check_source(source: str) -> None:
    """Raise an error if the source of data is unknown.

    Examples
    --------
    >>> check_source("twin")
    """
    refuse_unknown("data source", [source], SOURCES)


def _sample(twin: dict[str, Any], rows: int | None, seed: int) -> Tables:
    if "instructions" in twin:
        return {TABLE: sample_instructions(twin, rows, seed)}
    if "users" not in twin:
        return {TABLE: sample_twin(twin, rows or twin["rows"], seed)}
    world = sample_world(twin, rows, seed)
    return world if rows is None else keep_users(world, rows, twin["card"]["name"], seed)


def keep_users(tables: Tables, rows: int, name: str, seed: int) -> Tables:
    """Keep random users with about ``rows`` interactions in total, and the items they took.

    Examples
    --------
    >>> met = pd.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
    >>> users, items = pd.DataFrame({"user": ["a", "b"]}), pd.DataFrame({"item": ["x", "y"]})
    >>> part = keep_users({"interactions": met, "users": users, "items": items}, 2, "toy", seed=0)
    >>> len(part["users"])
    1
    """
    interactions, users, items = (tables[table] for table in WORLD)
    counts = interactions["user"].value_counts()[users["user"]]
    shuffled = counts.iloc[generator(name, "subsample", seed).permutation(len(counts))]
    fits = shuffled.cumsum().le(rows)
    fits.iloc[0] = True  # keep at least one user
    interactions = interactions[interactions["user"].isin(shuffled.index[fits])]
    kept = (
        interactions,
        users[users["user"].isin(interactions["user"])],
        items[items["item"].isin(interactions["item"])],
    )
    return {table: part.reset_index(drop=True) for table, part in zip(WORLD, kept, strict=True)}


def make_card(facts: dict[str, Any], **more: Any) -> Card:
    """Build a card from facts as read from JSON."""
    facts = {k: tuple(v) if isinstance(v, list) else v for k, v in (facts | more).items()}
    return Card(**facts)


def known_tables(home: Path | str | None = None) -> list[str]:
    """List the data sets that have a twin or have been prepared."""
    prepared = {card.parent.name for card in _tables(home).glob(f"[!.]*/{CARD}")}
    return sorted(prepared | set(twin_names()))


def _tables(home: Path | str | None) -> Path:
    return (data_home() if home is None else Path(home).expanduser()) / "tables"


def _load_real(name: str, rows: int | None, seed: int, folder: Path) -> tuple[Tables, Card]:
    command = f"python -m data_scripts {name}"
    if not (folder / CARD).exists():
        raise DemixError(
            f"table {name!r} is not prepared in {folder.parent}; in the folder of the "
            f"project, run: {command}"
        )
    try:
        card = make_card(json.loads((folder / CARD).read_text("utf-8")))
        tables = {table: _read_table(folder / f"{table}.parquet") for table in card.tables}
        damage = "" if tables_sha256(tables) == card.sha256 else "its content has another checksum"
    except (OSError, ValueError, TypeError, KeyError) as error:
        damage = str(error).splitlines()[0]
    if damage:
        raise DemixError(f"table {name!r} in {folder} is damaged ({damage}); run again: {command}")
    if rows is None or rows == card.rows:
        return tables, card
    if rows > card.rows:
        raise DemixError(f"table {name!r} has {card.rows} rows, fewer than the {rows} asked for.")
    keep = keep_users if card.keys else _keep_rows
    part = keep(tables, rows, name, seed)
    kept = len(part[card.tables[0]])
    note = f"{kept} of {card.rows} rows, seed {seed}, of the table {card.sha256[:12]}. {card.notes}"
    return part, describe(part, replace(card, notes=note))


def _read_table(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    return frame.where(frame.notna(), np.nan)  # pandas 2 reads missing text as None


def _keep_rows(tables: Tables, rows: int, name: str, seed: int) -> Tables:
    frame = tables[TABLE]
    chosen = generator(name, "subsample", seed).choice(len(frame), rows, replace=False)
    return {TABLE: frame.iloc[sorted(chosen)].reset_index(drop=True)}
