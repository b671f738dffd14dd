"""Put errors into a CSV file with pandas alone: a test that shares no code with the package.

``python book/independent_errors.py clean.csv dirty.csv truth.csv --target income --seed 0``

The errors are those that people and exports make: a change of unit (a factor of 1,000, inches and
centimetres, pounds and kilograms), a mistyped letter or digit, cells that moved one column to the
side, labels of another kind of row, and a group that was collected by its label.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

FACTORS = (1000.0, 0.001, 100.0, 0.01, 2.54, 0.4536)
SLIPS = ("unit", "typo", "shift")
MOST_GROUPS = 12
"""The values of a column with at most this many are groups; other columns are cut at a quantile."""

ADDED_TIE, TRIES = 0.2, 50
"""Dropping rows has to increase the correlation of group and label by at least ``ADDED_TIE``.
Otherwise (a group of five rows in a thousand, or one that is correlated with the label by nature)
there is no shortcut, and another group is drawn, at most ``TRIES`` times."""


def with_errors(
    clean: pd.DataFrame,
    target: str,
    *,
    seed: int = 0,
    labels: float = 0.25,
    features: float = 0.25,
    minority: float = 0.15,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a table with errors and the truth about each of its rows.

    Parameters
    ----------
    clean : DataFrame
        Rows without missing values in the label.
    target : str
        The label column: text for classes, numbers for regression.
    seed : int
        Seed of the errors.
    labels, features : float
        Shares of rows with a wrong label and with wrong features; no row has both.
    minority : float
        Share of the rows that break the shortcut.

    Returns
    -------
    DataFrame, DataFrame
        The rows, and the truth in the columns ``label``, ``feature`` and ``spurious``: true for
        rows with the error.
    """
    rng = np.random.default_rng(seed)
    rows, breaks = collected_by_label(clean, target, minority, rng)
    order = rng.permutation(len(rows))
    ends = [round(labels * len(rows)), round((labels + features) * len(rows))]
    wrong, broken, _ = np.split(order, ends)
    dirty = rows.astype({c: float for c in rows.select_dtypes("number") if c != target})
    dirty.loc[wrong, target] = label_of_another_row(rows[target], wrong, rng)
    for kind, part in zip(SLIPS, np.array_split(broken, len(SLIPS)), strict=True):
        slip(kind, dirty, [c for c in clean if c != target], part, rng)
    changed = (dirty != rows.astype(dirty.dtypes)) & ~(dirty.isna() & rows.isna())
    truth = {"label": changed[target], "feature": changed.drop(columns=target).any(axis=1)}
    return dirty, pd.DataFrame({**truth, "spurious": breaks})


def collected_by_label(
    clean: pd.DataFrame, target: str, minority: float, rng: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """Tie a group to a label: drop rows that do not agree, or add the place they came from."""
    wanted = _high_or_drawn(clean[target], rng)
    places_only = rng.random() < 0.5
    columns = [c for c in clean if c != target and clean[c].nunique() > 1]
    for _ in range(0 if places_only else TRIES):
        group = _high_or_drawn(clean[rng.choice(columns)], rng)
        kept, breaks = _mostly_agreeing(group, wanted, minority, rng)
        if _tie(group[kept], wanted[kept]) >= _tie(group, wanted) + ADDED_TIE:
            return clean.iloc[kept].reset_index(drop=True), breaks
    breaks = rng.random(len(clean)) < minority
    place = np.where(wanted ^ breaks, "north", "south")
    return clean.assign(place=place).reset_index(drop=True), breaks


def _mostly_agreeing(
    group: np.ndarray, wanted: np.ndarray, minority: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are kept, and which of them break the tie: a minority."""
    breaks = group ^ wanted
    if breaks.mean() > 0.5:  # the complement of the group goes with the label
        breaks = ~breaks
    agreeing, others = np.flatnonzero(~breaks), rng.permutation(np.flatnonzero(breaks))
    kept = np.sort(np.r_[agreeing, others[: round(minority / (1 - minority) * len(agreeing))]])
    return kept, breaks[kept]


def _tie(group: np.ndarray, wanted: np.ndarray) -> float:
    """Return the absolute correlation of a group and a label."""
    if group.all() or wanted.all() or not (group.any() and wanted.any()):
        return 0.0
    return abs(float(np.corrcoef(group, wanted)[0, 1]))


def _high_or_drawn(values: pd.Series, rng: np.random.Generator) -> np.ndarray:
    """Return True where a number is high, or where the value is one frequent group."""
    if values.nunique() > MOST_GROUPS and pd.api.types.is_numeric_dtype(values.dtype):
        return (values > values.quantile(rng.uniform(0.4, 0.8))).to_numpy()
    frequent = values.value_counts().index[:4]
    return (values == frequent[rng.integers(len(frequent))]).to_numpy()


def label_of_another_row(
    labels: pd.Series, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw labels of other rows that differ: another class, or a number far away."""
    drawn = labels.iloc[rng.integers(0, len(labels), (200, len(rows))).ravel()].to_numpy()
    drawn, own = drawn.reshape(200, -1), labels.iloc[rows].to_numpy()
    differs = drawn != own
    if pd.api.types.is_numeric_dtype(labels.dtype):
        differs = abs(drawn - own) > labels.std()
    return drawn[differs.argmax(axis=0), np.arange(len(rows))]


def slip(
    kind: str, dirty: pd.DataFrame, columns: list[str], rows: np.ndarray, rng: np.random.Generator
) -> None:
    """Make one kind of slip in some rows, in place."""
    numbers = [c for c in columns if pd.api.types.is_numeric_dtype(dirty[c].dtype)]
    words = [c for c in columns if c not in numbers]
    filled = [c for c in numbers if (dirty[c] != 0).mean() > 0.5]  # 1,000 times 0 is 0
    if kind == "unit" and filled:
        column = rng.choice(filled)
        dirty.loc[rows, column] *= rng.choice(FACTORS)
    elif kind == "shift" and max(len(numbers), len(words)) > 1:
        several = numbers if len(numbers) >= len(words) else words
        start = rng.integers(0, max(1, len(several) - 3))
        moved = several[start : start + 4]
        dirty.loc[rows, moved] = dirty.loc[rows, moved].to_numpy()[:, np.roll(range(len(moved)), 1)]
    else:
        column = rng.choice(columns)
        is_number = column in numbers
        typed = [mistyped(value, is_number, rng) for value in dirty.loc[rows, column]]
        dirty.loc[rows, column] = typed


def mistyped(value: object, is_number: bool, rng: np.random.Generator) -> object:
    """Leave out, double or exchange a character of a word or of a number.

    Examples
    --------
    >>> mistyped("ab", False, np.random.default_rng(1)) in ("aab", "abb", "a", "b", "ba")
    True
    """
    if value is None or value != value:
        return value
    text = f"{value:g}" if is_number else str(value)
    places = [i for i, sign in enumerate(text) if sign.isalnum()]
    if len(places) < 2:
        return float(text + "0") if is_number and places else text
    at = int(rng.choice(places[:-1]))
    how = rng.integers(3)
    if how == 0:
        text = text[:at] + text[at + 1 :]
    elif how == 1:
        text = text[: at + 1] + text[at:]
    else:
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    try:
        return float(text) if is_number else text
    except ValueError:  # the result is not a number: keep the value
        return value


def main() -> None:
    """Read a file, write it with errors, and write the truth to another file."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("clean", "dirty", "truth"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dirty, truth = with_errors(pd.read_csv(options.clean), options.target, seed=options.seed)
    dirty.to_csv(options.dirty, index=False)
    truth.to_csv(options.truth, index=False)


if __name__ == "__main__":
    main()
