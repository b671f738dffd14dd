"""Errors that the user already knows of, to measure how right a diagnosis is."""

import numpy as np
import pandas as pd

from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.tasks.own_table import DataError


def check_known(known: pd.DataFrame, rows: int, name: str) -> pd.DataFrame:
    """Return for every row 1 (has the error), 0 (does not have it) or NaN (nobody looked).

    ``known`` has columns among ``label``, ``feature`` and ``spurious``, and one line for each of
    the ``rows`` of the diagnosed table; or lines for some of them, in any order, with their numbers
    (from 1) in a column ``row``. ``name`` is used in error messages.

    Raises
    ------
    DataError
        If there is no such column, the number of lines differs, or a value or row is invalid.

    Examples
    --------
    >>> check_known(pd.DataFrame({"label": ["1", "0", ""]}), 3, "known.csv")["label"].tolist()
    [1.0, 0.0, nan]
    """
    if "row" in known:
        known = _in_order(known, rows, name)
    kinds = [kind for kind in ERROR_TYPES if kind in known]
    if not kinds:
        raise DataError(f"{name} has none of the columns {', '.join(ERROR_TYPES)}.")
    if len(known) != rows:
        raise DataError(
            f"{name} has {len(known):,} rows, the table {rows:,}: give one line per row, or a "
            "column 'row' with their numbers."
        )
    meaning = {"1": 1.0, "true": 1.0, "1.0": 1.0, "0": 0.0, "false": 0.0, "0.0": 0.0}
    meaning |= dict.fromkeys(["", "nan", "none", "<na>"], np.nan)
    words = known[kinds].reset_index(drop=True).astype(object)
    words = words.map(lambda cell: str(cell).strip().lower())
    wrong = words.to_numpy()[~words.isin(list(meaning)).to_numpy()]
    if len(wrong):
        raise DataError(f"{name} says {wrong[0]!r}: give 1, 0, or nothing where nobody knows.")
    return words.map(meaning.get)


def _in_order(known: pd.DataFrame, rows: int, name: str) -> pd.DataFrame:
    """Return one line for every row, ordered by the row numbers of the given lines."""
    numbers = pd.to_numeric(known["row"], errors="coerce")
    wrong = ~numbers.isin(range(1, rows + 1)) | numbers.duplicated(keep=False)
    if wrong.any():
        raise DataError(
            f"{name}: row {known['row'][wrong].iloc[0]!r} occurs twice or is not a row of the "
            f"table, which has {rows:,}."
        )
    return known.set_axis(numbers.astype(int) - 1).reindex(range(rows))
