"""Errors that somebody knows of already, to see how right a diagnosis is."""

import numpy as np
import pandas as pd

from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.tasks.own_table import DataError


def check_known(known: pd.DataFrame, rows: int, name: str) -> pd.DataFrame:
    """Return what is known of every row as 1 (has the error), 0 (has not) or NaN (nobody looked).

    Parameters
    ----------
    known : DataFrame
        Columns among ``label``, ``feature`` and ``spurious``, a line a row of the diagnosed table;
        or some of the rows, in any order, with their numbers (from 1) in a column ``row``.
    rows : int
        Rows of the diagnosed table.
    name : str
        What messages call ``known``.

    Raises
    ------
    DataError
        If there is no such column, another number of lines, or another value or row.

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
            f"{name} has {len(known):,} rows, the table {rows:,}: give a line for each."
        )
    words = (
        known[kinds]
        .reset_index(drop=True)
        .astype(str)
        .apply(lambda column: column.str.strip().str.lower())
        .fillna("")
    )
    meaning = {"1": 1.0, "true": 1.0, "1.0": 1.0, "0": 0.0, "false": 0.0, "0.0": 0.0}
    unknown = words.isin(["", "nan", "none", "<na>"])
    wrong = ~unknown & ~words.isin(list(meaning))
    if wrong.any(axis=None):
        value = words.to_numpy()[wrong.to_numpy()][0]
        raise DataError(f"{name} says {value!r}; only 0, 1 and, for what nobody knows, nothing.")
    return words.mask(unknown).apply(lambda column: column.map(meaning))


def _in_order(known: pd.DataFrame, rows: int, name: str) -> pd.DataFrame:
    """Return a line for every row, by the numbers that the lines have."""
    numbers = pd.to_numeric(known["row"], errors="coerce")
    wrong = ~numbers.isin(range(1, rows + 1)) | numbers.duplicated(keep=False)
    if wrong.any():
        raise DataError(
            f"{name}: row {known['row'][wrong].iloc[0]!r} stands there twice or is no row of the "
            f"table, which has {rows:,}."
        )
    return known.set_axis(numbers.astype(int) - 1).reindex(range(rows))


def compare(known: pd.DataFrame, flags: pd.DataFrame) -> pd.DataFrame:
    """Count how many of the known errors are flagged, and how many of those flags are right.

    Returns a line per known error type: ``precision`` and ``recall`` (NaN where there is nothing
    to count), ``errors`` and ``rows`` (whose truth is known).

    Examples
    --------
    >>> truth = pd.DataFrame({"label": [1.0, 1.0, 0.0, np.nan]})
    >>> said = pd.DataFrame({"label": [True, False, True, True]})
    >>> compare(truth, said).loc["label"].tolist()
    [0.5, 0.5, 2.0, 3.0]
    """
    lines = {}
    for kind, true in known.items():
        looked = true.notna()
        wrong, flagged = true[looked].eq(1), flags.loc[looked, kind]
        hits = (wrong & flagged).sum()
        counts = np.array([flagged.sum(), wrong.sum()])
        shares = np.divide(hits, counts, out=np.full(2, np.nan), where=counts > 0)
        lines[kind] = [*shares, int(wrong.sum()), int(looked.sum())]
    columns = ["precision", "recall", "errors", "rows"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)
