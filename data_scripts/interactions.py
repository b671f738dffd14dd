"""Shared code of the sources of users and items: JSON lines, ids, attributes, ranges."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pandas as pd

from data_scripts.source import Lines, reading, without_halves
from demix_lite.errors import DemixError

CHUNK = 100_000  # lines of JSON that are converted to a table at once


def read_json_lines(lines: Lines, title: str, **fields: tuple[str, type]) -> pd.DataFrame:
    """Read some fields of a file with one JSON object per line.

    Parameters
    ----------
    lines : Lines
        The file.
    title : str
        What the file should be, for error messages, which also name the line.
    **fields : tuple of str and type
        Maps the name of a column to the name and the type of a field. A field that is absent or
        ``null`` becomes a missing value.
    """
    rows = _json_rows(lines, title, list(fields.values()))
    parts = []
    while part := list(islice(rows, CHUNK)):
        parts.append(pd.DataFrame(part, columns=list(fields)))
    if not parts:
        raise DemixError(f"{lines.path.name} is not in the format of {title}: it is empty.")
    return pd.concat(parts, ignore_index=True)


def _json_rows(
    lines: Lines, title: str, fields: Sequence[tuple[str, type]]
) -> Iterator[tuple[Any, ...]]:
    for number, line in enumerate(lines, 1):
        with reading(f"line {number} of {lines.path.name}", title):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("it is not a JSON object")
            yield tuple(_typed(row.get(field), field, kind) for field, kind in fields)


def _typed(value: Any, field: str, kind: type) -> Any:
    accepted = (int, float) if kind is float else kind
    if value is not None and not isinstance(value, accepted):
        raise ValueError(f"{field} is {str(value)[:40]!r}, which is no {kind.__name__}")
    return without_halves(value) if isinstance(value, str) else value


def joined(
    ratings: pd.DataFrame, title: str, **described: tuple[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Return the first rating of each user and item in the file, and the users and items in it.

    ``user`` and ``item`` give the name and the table of the file that describes them; without such
    a file only their ids are known.
    """
    interactions = ratings.drop_duplicates(["user", "item"], ignore_index=True)
    interactions = interactions.astype({"user": str, "item": str, "rating": "float64"})
    tables = {"interactions": interactions}
    for key in ("user", "item"):
        table = pd.DataFrame({key: interactions[key].unique()})
        if key in described:
            file, attributes = described[key]
            with reading(file, title):
                attributes = attributes.astype({key: str})
                table = table.merge(attributes, how="left", on=key, validate="1:1")
        tables[f"{key}s"] = table
    return tables


def check_between(values: pd.Series, low: float, high: float) -> None:
    """Raise a ValueError that names the first number that is out of range or missing."""
    odd = values[~values.between(low, high)]
    if len(odd):
        raise ValueError(f"{values.name} holds {odd.tolist()[0]!r}, not {low} to {high}")
