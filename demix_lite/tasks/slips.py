"""Slips of the keyboard and of units: cells that are not written like the rest of their column.

A model reads numbers and categories, and not how they are written. A length of 2.54 among whole
numbers, a *Gremany* among Germanys or a *12O* among numbers is seen without one, and with near
certainty.
"""

import difflib
import re

import numpy as np
import pandas as pd

USUAL = 0.9
"""A column has as many decimals as suffice for this share of its numbers."""

MORE, MOST = 2, 6
"""A number with at least so many decimals more is a slip (prices and halves among whole numbers are
none); a column that needs more than so many was computed, and nobody typed it."""

FEW_FRACTIONS = 3
"""Many numbers that share so few fractions are written so, such as quarters of an hour."""

RARE, SHORTEST, MOST_WORDS = 0.02, 4, 200
"""How often, against a frequent word, a word may occur that is a slip of it; the fewest letters it
has; how many rare words of a column are looked at."""

CODE = 4
"""Capitals of at most so many letters are codes, in which every letter counts."""

ONCE_OR_TWICE = 2
"""Text among numbers that occurs more often is a code for a missing value, and no slip."""


def mended_numbers(numbers: pd.Series, cells: pd.Series) -> pd.Series:
    """Return the numbers of a column with its (lower) median in place of each slip.

    A slip is a number with more decimals than its column, or a cell that is no number, unless its
    text repeats: that is somebody's word for a missing value.

    Parameters
    ----------
    numbers : Series of float
        What was read, NaN where nothing could be.
    cells : Series of str
        What was written, NaN where nothing was.

    Examples
    --------
    >>> cells = pd.Series([*"123456789", "2.54", "3O", "none", "none", "none"])
    >>> numbers = pd.to_numeric(cells, errors="coerce")
    >>> mended_numbers(numbers, cells).tolist()[8:]
    [9.0, 5.0, 5.0, nan, nan, nan]
    """
    slips = with_more_decimals(numbers.to_numpy(dtype=float)) | unreadable(numbers, cells)
    typical = numbers[~slips].quantile(0.5, interpolation="lower")
    return numbers.mask(slips, typical) if slips.any() else numbers


def unreadable(read: pd.Series, cells: pd.Series) -> np.ndarray:
    """Return True for cells that could not be read, and whose text does not repeat."""
    unread = cells.notna() & read.isna()
    texts = cells[unread].value_counts()
    return (unread & cells.isin(texts.index[texts <= ONCE_OR_TWICE])).to_numpy()


def mended_words(words: pd.Series, near: list[tuple[str, str]]) -> pd.Series:
    """Return words with those of :func:`misspelt` that are a slip replaced by what was meant.

    A slip is a rare word that a letter left out, doubled or exchanged with its neighbour makes of a
    frequent one.

    Examples
    --------
    >>> words = pd.Series(["Germany"] * 100 + ["Gremany", "Greece"])
    >>> mended_words(words, misspelt(words))[99:].tolist()
    ['Germany', 'Germany', 'Greece']
    """
    meant = {slip: name for slip, name in near if _is_slip(slip, name)}
    return words.replace(meant) if meant else words


def with_more_decimals(numbers: np.ndarray) -> np.ndarray:
    """Return True for numbers with more decimals than their column.

    Examples
    --------
    >>> with_more_decimals(np.r_[np.arange(20), 0.5, 2.54]).nonzero()[0].tolist()
    [21]
    """
    known = numbers[~np.isnan(numbers)]
    for decimals in range(MOST + 1):
        if len(known) and _fits(known, decimals).mean() >= USUAL:
            slips = ~np.isnan(numbers) & ~_fits(numbers, decimals + MORE - 1)
            return slips & (not _repeat(numbers[slips]))
    return np.zeros(len(numbers), dtype=bool)


def _repeat(numbers: np.ndarray) -> bool:
    """Say whether many numbers share a few fractions, such as .75 and .99: people write so.

    Examples
    --------
    >>> _repeat(np.array([7.75, 3.25] * 9)), _repeat(np.arange(18) * 2.54)
    (True, False)
    """
    fractions = len(np.unique(np.round(numbers % 1, MOST)))
    return len(numbers) > 3 * FEW_FRACTIONS and fractions <= FEW_FRACTIONS


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

    Another letter in place of one is no slip: Class A and Class B are two classes. Nor is a letter
    at the beginning, as in *atypical*, or in short capitals, as in XL and XXL.

    Examples
    --------
    >>> [_is_slip(word, "Germany") for word in ("Gemany", "Germmany", "Gremany", "Germaxy")]
    [True, True, True, False]
    >>> _is_slip("asymptomatic", "symptomatic"), _is_slip("Stage III", "Stage II")
    (False, False)
    """
    pairs = enumerate(zip(word, name, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(word), len(name)))
    begins = len(word) != len(name) and (at == 0 or word[at - 1] == " ")
    tokens = [text[text.rfind(" ", 0, at) + 1 :].split(" ")[0] for text in (word, name)]
    if begins or all(token.isupper() and len(token) <= CODE for token in tokens):
        return False
    short, long = sorted((word, name), key=len)
    without_one = (long[:i] + long[i + 1 :] for i in range(len(long)))
    exchanged = (name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1))
    return word != name and short in (without_one if len(short) < len(long) else exchanged)
