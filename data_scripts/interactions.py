"""What the sources of users and items share: JSON lines, ids, attributes, ranges."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pandas as pd

from data_scripts.source import Lines, reading
from demix_lite.errors import DemixError

CHUNK = 100_000  # lines of JSON that wait to become a table


def read_json_lines(lines: Lines, title: str, **fields: tuple[str, type]) -> pd.DataFrame:
    """Read some fields of a file with one JSON object a line.

    Parameters
    ----------
    lines : Lines
        The file.
    title : str
        What it should be, for the sentence that says what is wrong with it, and in which line.
    **fields : tuple of str and type
        The name of a field and its type, under the name of the column it becomes. A field that is
        absent or ``null`` is a missing value.
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
    return value


def once_each(interactions: pd.DataFrame) -> pd.DataFrame:
    """Keep the first of the interactions of the same user and item; ids become text."""
    first = interactions.drop_duplicates(["user", "item"], ignore_index=True)
    return first.astype({"user": str, "item": str, "rating": "float64"})


def attributes_of(interactions: pd.DataFrame, key: str, attributes: pd.DataFrame) -> pd.DataFrame:
    """Return the attributes of the users or items that occur, in the order they first occur."""
    occurring = pd.DataFrame({key: interactions[key].unique()})
    return occurring.merge(attributes.astype({key: str}), how="left", on=key, validate="1:1")


def check_between(values: pd.Series, low: float, high: float) -> None:
    """Refuse, by a ValueError that names it, a number out of range or missing."""
    odd = values[~values.between(low, high)]
    if len(odd):
        raise ValueError(f"{values.name} holds {odd.tolist()[0]!r}, not {low} to {high}")
