"""Slips of the keyboard and of units: cells that are not written like the rest of their column.

A model reads numbers and categories, and not how they are written. A length of 2.54 among whole
numbers or a *Gremany* among Germanys is seen without one, and with near certainty.
"""

import difflib
import re

import numpy as np
import pandas as pd

from demix_lite.tasks.tabular import TabularTask

USUAL = 0.9
"""A column has as many decimals as suffice for this share of its numbers."""

MORE, MOST = 2, 6
"""A number with at least so many decimals more is a slip (prices and halves among whole numbers are
none); a column that needs more than so many was computed, and nobody typed it."""

RARE, SHORTEST, MOST_WORDS = 0.02, 4, 200
"""How often, against a frequent word, a word may occur that is a slip of it; the fewest letters it
has; how many rare words of a column are looked at."""


def mend_slips(task: TabularTask, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with slips mended: the column's median, the word that was meant.

    A slip is a number with more decimals than its column, or a rare word that a letter left out,
    doubled or exchanged with its neighbour makes of a frequent one.

    Examples
    --------
    >>> from demix_lite.tasks import get_task
    >>> task = get_task("adult")
    >>> rows = task.load("twin", rows=300).train
    >>> mended = mend_slips(task, rows.assign(age=[2.54, *rows.age[1:]]))
    >>> float(mended.age[0]) == float(rows.age[1:].median()), mended.sex.equals(rows.sex)
    (True, True)
    """
    mended = frame.copy()
    for column in task.numeric:
        slips = _with_more_decimals(frame[column].to_numpy(dtype=float))
        if slips.any():
            mended[column] = frame[column].mask(slips, frame[column][~slips].median())
    for column in task.categorical:
        mended[column] = as_meant(frame[column])
    return mended


def as_meant(words: pd.Series) -> pd.Series:
    """Return words with those that are a slip of a frequent one replaced by it.

    Examples
    --------
    >>> as_meant(pd.Series(["Germany"] * 100 + ["Gremany", "Greece"]))[99:].tolist()
    ['Germany', 'Germany', 'Greece']
    """
    meant = {slip: name for slip, name in misspelt(words) if _is_slip(slip, name)}
    return words.replace(meant) if meant else words


def _with_more_decimals(numbers: np.ndarray) -> np.ndarray:
    """Return True for numbers with more decimals than their column.

    Examples
    --------
    >>> _with_more_decimals(np.r_[np.arange(20), 0.5, 2.54]).nonzero()[0].tolist()
    [21]
    """
    known = numbers[~np.isnan(numbers)]
    for decimals in range(MOST + 1):
        if len(known) and _fits(known, decimals).mean() >= USUAL:
            return ~np.isnan(numbers) & ~_fits(numbers, decimals + MORE - 1)
    return np.zeros(len(numbers), dtype=bool)


def _fits(numbers: np.ndarray, decimals: int) -> np.ndarray:
    """Return True where so many decimals suffice, but for the last bits of a computation."""
    return np.abs(numbers - np.round(numbers, decimals)) <= 1e-9 * np.abs(numbers)


def misspelt(values: pd.Series) -> list[tuple[str, str]]:
    """Return rare words (without digits) that nearly spell a frequent one, and that one.

    Examples
    --------
    >>> misspelt(pd.Series(["Germany"] * 300 + ["France"] * 200 + ["Gremany"] + ["Finland"] * 2))
    [('Gremany', 'Germany')]
    """
    counts = values.dropna().value_counts()
    words = [word for word in counts.index if not re.search(r"\d", word) and len(word) >= SHORTEST]
    most = counts.max() if len(counts) else 0
    rare = [word for word in words if counts[word] <= RARE * most][-MOST_WORDS:]
    frequent = [word for word in words if len(rare) and RARE * counts[word] >= 1]
    found = []
    for word in rare:
        names = [name for name in frequent if counts[word] <= RARE * counts[name]]
        found += [(word, near) for near in difflib.get_close_matches(word, names, 1, cutoff=0.85)]
    return found


def _is_slip(word: str, name: str) -> bool:
    """Say whether one letter left out, put in or exchanged with the next makes ``word``.

    Another letter in place of one is no slip: Class A and Class B are two classes.

    Examples
    --------
    >>> [_is_slip(word, "Germany") for word in ("Gemany", "Germmany", "Gremany", "Germaxy")]
    [True, True, True, False]
    """
    short, long = sorted((word, name), key=len)
    without_one = (long[:i] + long[i + 1 :] for i in range(len(long)))
    exchanged = (name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1))
    return word != name and short in (without_one if len(short) < len(long) else exchanged)
