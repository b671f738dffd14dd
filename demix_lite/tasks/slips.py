"""Slips of the keyboard and of units: cells that are not written like the rest of their column.

A model sees numbers and categories, but not how they are written. A length of 2.54 among whole
numbers, a *Gremany* among Germanys or a *12O* among numbers can be found without a model, and with
near certainty.
"""

import difflib
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from demix_lite.tasks.reading import ONCE_OR_TWICE

USUAL = 0.9
"""The usual number of decimals of a column suffices for this share of its numbers."""

MORE, MOST = 2, 6
"""A number with at least ``MORE`` decimals more than usual is a slip (prices and halves among whole
numbers are not). A column that needs more than ``MOST`` decimals was computed, not typed."""

OF_ONE_KIND = 2 / 3
"""If at least this share of the numbers with more decimals are slips, all of them are."""

LARGE = 1 / 3
"""Least share of large numbers in a column from which one can tell whether it is rounded to
significant digits; a few large numbers may be slips themselves."""

FEW_FRACTIONS = 3
"""Many numbers with at most this many different fractions, such as quarters of an hour, are
intended."""

RARE, SHORTEST, MOST_WORDS = 0.02, 4, 200
"""Largest frequency of a misspelt word relative to the right one, its least number of letters, and
the largest number of rare words of a column that are checked."""

CODE = 4
"""Capital letters, at most this many, are a code in which every letter counts."""

TYPED_BADLY = 5
"""In a column with at least this many certain slips, doubtful ones count too: those at the start of
a word, and those in words one letter shorter than ``SHORTEST``."""

FAR_OUTSIDE, MOST_FAR = 8.0, 0.2
"""A number is far outside if it is more than ``FAR_OUTSIDE`` interquartile ranges from the median.
If more than a share ``MOST_FAR`` of a column is, the column has a long tail and none counts."""

LEAST_APART, GAP = 0.02, 3.0
"""Numbers far outside are a group of their own if they are at least a share ``LEAST_APART`` of the
column, and the nearest of them is more than ``GAP`` times as far from the median as any other."""

FEW_CODES = 3
"""A large group far outside with at most this many different numbers, such as 97, 98 and 99, has
codes for a missing value, not another unit."""

REPEATED, ALONE = 5, 0.25
"""The smallest or largest number of a column may stand for a missing value if it occurs at least
``REPEATED`` times, at a distance from all others of more than ``ALONE`` times their range."""

EXPLAINED, ROWS_TO_EXPLAIN, FOLDS = 0.75, 4000, 3
"""A group that the other columns separate from the rest with this area under the ROC curve is no
mistake. It is cross-validated on at most ``ROWS_TO_EXPLAIN`` rows in ``FOLDS`` folds."""


def mended_numbers(numbers: pd.Series, cells: pd.Series) -> pd.Series:
    """Return the numbers of a column with its (lower) median in place of each slip.

    A slip is a number with more decimals than its column, or a cell that is not a number. Text that
    repeats is not a slip: it is a word for a missing value.

    Parameters
    ----------
    numbers : Series of float
        The numbers as read, NaN where a cell could not be read.
    cells : Series of str
        The cells as written, NaN where they are empty.

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


def is_far(numbers: pd.Series) -> pd.Series:
    """Return True for numbers far outside, unless their column has a long tail.

    Examples
    --------
    >>> is_far(pd.Series([1, 2, 3, 4, 5, 6, 7, 8, 9, 900])).tolist().index(True)
    9
    """
    low, middle, high = numbers.quantile([0.25, 0.5, 0.75])
    far = (numbers - middle).abs() > FAR_OUTSIDE * (high - low)
    return far & bool(high > low and far.mean() <= MOST_FAR)


def may_be_code(numbers: pd.Series) -> pd.Series:
    """Return True for a number that repeats far from all others, such as -200 for a missing value.

    A zero that most rows have is not such a code: it means that there is nothing to count. Neither
    is a measured number, such as 75.864: codes are whole or, like 99.9, written with nines alone.

    Examples
    --------
    >>> may_be_code(pd.Series([*range(40, 80), *[-200] * 6])).sum()
    np.int64(6)
    >>> may_be_code(pd.Series([*range(40, 60), *[75.864] * 6])).sum()
    np.int64(0)
    """
    known = numbers.dropna()
    for end in (known.min(), known.max()):
        others = known[known != end]
        count = len(known) - len(others)
        nothing = end == 0 and count > len(others)
        is_typed = end % 1 == 0 or set(f"{abs(end):g}") <= {"9", "."}
        if count >= REPEATED and is_typed and not nothing and others.nunique() >= 2 * REPEATED:
            near = others[~is_far(others)]  # one gross error would widen the range
            if (others - end).abs().min() > ALONE * (near.max() - near.min()):
                return numbers == end
    return pd.Series(False, numbers.index)


def stray_numbers(frame: pd.DataFrame, numeric: Sequence[str]) -> dict[str, pd.Series]:
    """Return the columns with a group of numbers far from all others, and a mask of its rows.

    A different unit, or 9999 for a missing value, causes such a group. So does a different kind of
    row; such a group is left out, since the other columns separate it too.

    Parameters
    ----------
    frame : DataFrame
        Features and label.
    numeric : sequence of str
        The columns to look at.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> frame = pd.DataFrame({"height": rng.normal(170, 10, 300), "age": rng.integers(18, 80, 300)})
    >>> frame.loc[:29, "height"] *= 100
    >>> {column: int(rows.sum()) for column, rows in stray_numbers(frame, ["height"]).items()}
    {'height': 30}
    """
    groups = {column: is_far(frame[column]) for column in numeric}
    return {
        column: far
        for column, far in groups.items()
        if far.mean() >= LEAST_APART
        and _is_apart(frame[column], far)
        and not _is_explained(frame.drop(columns=column), far)
    }


def in_usual_unit(numbers: pd.Series, far: pd.Series) -> pd.Series:
    """Return a column with a group of numbers scaled by a power of ten, to lie among the others.

    If no power of ten does that, or if the group consists of a few codes, it becomes the (lower)
    median of the others.

    Examples
    --------
    >>> heights = pd.Series([1.7, 1.8, 1.9, 175.0, 182.0])
    >>> in_usual_unit(heights, heights > 100).tolist()
    [1.7, 1.8, 1.9, 1.75, 1.82]
    >>> in_usual_unit(heights.where(heights < 100, -99.0), heights > 100).tolist()
    [1.7, 1.8, 1.9, 1.8, 1.8]
    >>> years = pd.Series([*[8, 12, 16] * 10, 98, 99, 98, 99])
    >>> in_usual_unit(years, years > 90).tolist()[-2:]
    [12, 12]
    """
    others = numbers[~far]
    typical = others.quantile(0.5, interpolation="lower")
    ratio = numbers[far].median() / typical if typical else 0.0
    tens = round(np.log10(ratio)) if ratio > 0 else 0
    moved = (numbers / 10.0**tens).map("{:.12g}".format).astype(float)
    if pd.api.types.is_integer_dtype(numbers.dtype):
        moved = moved.round().astype(numbers.dtype)
    fits = moved.between(others.min(), others.max())
    different = numbers[far].nunique()
    is_unit = different > min(FEW_CODES, far.sum() - 1) and fits[far].mean() >= USUAL
    return numbers.mask(far, moved.where(fits, typical) if is_unit else typical)


def _is_apart(numbers: pd.Series, far: pd.Series) -> bool:
    distance = (numbers - numbers.median()).abs()
    return bool(distance[far].min() > GAP * distance[~far].max())


def _is_explained(others: pd.DataFrame, far: pd.Series) -> bool:
    """Return whether the other columns predict which rows belong to a group."""
    if others.empty or far.sum() < 2 * FOLDS:
        return False
    known = others.reset_index(drop=True).sample(frac=1, random_state=0).head(ROWS_TO_EXPLAIN)
    far = far.iloc[known.index]
    codes = known.apply(lambda c: c if pd.api.types.is_numeric_dtype(c) else pd.factorize(c)[0])
    trees = HistGradientBoostingClassifier(max_iter=40, random_state=0)
    said = cross_val_predict(trees, codes.to_numpy(float), far, cv=FOLDS, method="predict_proba")
    return bool(roc_auc_score(far, said[:, 1]) >= EXPLAINED)


def unreadable(read: pd.Series, cells: pd.Series) -> np.ndarray:
    """Return True for cells that could not be read, and whose text does not repeat."""
    unread = cells.notna() & read.isna()
    texts = cells[unread].value_counts()
    return (unread & cells.isin(texts.index[texts <= ONCE_OR_TWICE])).to_numpy()


def mended_words(words: pd.Series, near: list[tuple[str, str]]) -> pd.Series:
    """Replace those words of :func:`misspelt` that are slips by the word that was meant.

    A slip is a rare word that differs from a frequent one by a letter left out, added or exchanged
    with its neighbour.

    Examples
    --------
    >>> words = pd.Series(["Germany"] * 100 + ["Gremany", "Greece"])
    >>> mended_words(words, misspelt(words))[99:].tolist()
    ['Germany', 'Germany', 'Greece']
    """
    badly = _are_typed_badly(near)
    meant = {slip: name for slip, name in near if _is_slip(slip, name, anywhere=badly)}
    return words.replace(meant) if meant else words


def with_more_decimals(numbers: np.ndarray) -> np.ndarray:
    """Return True for numbers with more decimals than their column.

    If large numbers have fewer decimals than small ones, significant digits count instead: 0.000974
    is not a slip next to 0.3001 and 0.0869.

    Examples
    --------
    >>> with_more_decimals(np.r_[np.arange(20), 0.5, 2.54]).nonzero()[0].tolist()
    [21]
    >>> with_more_decimals(np.r_[np.arange(40), 2.54, 5.08, 25.4]).nonzero()[0].tolist()
    [40, 41, 42]
    """
    decimals = usual_decimals(numbers)
    if decimals is None:
        return np.zeros(len(numbers), dtype=bool)
    more, sure = (
        ~np.isnan(numbers) & ~_fits(numbers, enough) for enough in (decimals, decimals + MORE - 1)
    )
    slips = more if sure.sum() >= OF_ONE_KIND * more.sum() else sure
    return slips & ~_fit_by_digits(numbers, decimals) & (not _repeat(numbers[sure]))


def usual_decimals(numbers: np.ndarray) -> int | None:
    """Return how many decimals suffice for most numbers of a column; None if many are needed.

    Examples
    --------
    >>> usual_decimals(np.array([1.25, 2.5, np.nan])), usual_decimals(np.arange(9) / 7)
    (2, None)
    """
    known = numbers[~np.isnan(numbers)]
    enough = (d for d in range(MOST + 1) if len(known) and _fits(known, d).mean() >= USUAL)
    return next(enough, None)


def _repeat(numbers: np.ndarray) -> bool:
    """Return whether many numbers share a few fractions, such as .75 and .99, as people type them.

    Examples
    --------
    >>> _repeat(np.array([7.75, 3.25] * 9)), _repeat(np.arange(18) * 2.54)
    (True, False)
    """
    fractions = len(np.unique(np.round(numbers % 1, MOST)))
    return len(numbers) > 3 * FEW_FRACTIONS and fractions <= FEW_FRACTIONS


def _fit_by_digits(numbers: np.ndarray, decimals: int) -> np.ndarray:
    """Return True for numbers with no more significant digits than usual, in a column rounded so.

    A column is rounded to significant digits if its large numbers need fewer decimals than
    ``decimals``, the usual number.

    Examples
    --------
    >>> measured = np.r_[np.linspace(0.1, 0.9, 30).round(3), 0.0123, 0.01234]
    >>> _fit_by_digits(measured, 4)[-2:].tolist()
    [True, False]
    """
    size = np.abs(np.where(numbers == 0, np.nan, numbers))
    tens = np.floor(np.log10(size))
    known = ~np.isnan(size)

    def enough(digits: int) -> np.ndarray:
        return known & _fits(size / 10.0**tens, digits - 1)

    usual = next((n for n in range(1, MOST) if enough(n).sum() >= USUAL * known.sum()), None)
    if usual is None or decimals == 0:
        return np.zeros(len(numbers), dtype=bool)
    large = numbers[known & (tens >= usual - decimals)]
    many = len(large) >= max(1, LARGE * known.sum())
    by_digits = many and _fits(large, decimals - 1).mean() >= USUAL
    return enough(usual) & by_digits


def _fits(numbers: np.ndarray, decimals: int) -> np.ndarray:
    """Return True where this many decimals suffice, up to floating-point error."""
    allowed = np.clip(1e-3 * 10.0**-decimals, 1e-14 * np.abs(numbers), 1e-9 * np.abs(numbers))
    return np.abs(numbers - np.round(numbers, decimals)) <= allowed


def misspelt(values: pd.Series) -> list[tuple[str, str]]:
    """Return rare words (without digits) that are spelt almost like a frequent one, with that one.

    Examples
    --------
    >>> misspelt(pd.Series(["Germany"] * 300 + ["Paris"] * 200 + ["Prais"] + ["Finland"] * 2))
    [('Prais', 'Paris')]
    """
    counts = values.dropna().value_counts()
    near = _near_frequent(counts, SHORTEST)
    return _near_frequent(counts, SHORTEST - 1) if _are_typed_badly(near) else near


def _are_typed_badly(near: list[tuple[str, str]]) -> bool:
    return sum(_is_slip(slip, name) for slip, name in near) >= TYPED_BADLY


def _near_frequent(counts: pd.Series, shortest: int) -> list[tuple[str, str]]:
    """Return rare words of at least ``shortest`` letters, each with a frequent word close to it."""
    words = [word for word in counts.index if not re.search(r"\d", word) and len(word) >= shortest]
    most = counts.max() if len(counts) else 0
    rare = [word for word in words if counts[word] <= RARE * most][-MOST_WORDS:]
    frequent = [word for word in words if len(rare) and RARE * counts[word] >= 1]
    found = []
    for word in rare:
        names = [name for name in frequent if counts[word] <= RARE * counts[name]]
        near = difflib.get_close_matches(word, names, 1, cutoff=0.85)
        # In a short word, two exchanged letters lower the similarity below the cutoff.
        near = near or [name for name in names if len(name) == len(word) and _is_slip(word, name)]
        found += [(word, name) for name in near[:1]]
    return found


def _is_slip(word: str, name: str, *, anywhere: bool = False) -> bool:
    """Return whether ``word`` is ``name`` with a letter left out, added or exchanged with the next.

    A replaced letter is not a slip: Class A and Class B are two classes. Neither is a letter left
    out or added at the beginning of a word, as in *atypical*, unless ``anywhere``; nor a change in
    short capitals, as in XL and XXL.

    Examples
    --------
    >>> [_is_slip(word, "Germany") for word in ("Gemany", "Germmany", "Gremany", "Germaxy")]
    [True, True, True, False]
    >>> _is_slip("asymptomatic", "symptomatic"), _is_slip("Stage III", "Stage II")
    (False, False)
    """
    pairs = enumerate(zip(word, name, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(word), len(name)))
    begins = not anywhere and len(word) != len(name) and (at == 0 or word[at - 1] == " ")
    tokens = [text[text.rfind(" ", 0, at) + 1 :].split(" ")[0] for text in (word, name)]
    if begins or all(token.isupper() and len(token) <= CODE for token in tokens):
        return False
    short, long = sorted((word, name), key=len)
    without_one = (long[:i] + long[i + 1 :] for i in range(len(long)))
    exchanged = (name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1))
    return word != name and short in (without_one if len(short) < len(long) else exchanged)
