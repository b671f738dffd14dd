"""Read the cells of a column: numbers, dates, codes or words, in the ways people write them.

A column is read as a whole, since only the other cells show whether 1,250 is a thousand or one and
a quarter, and whether 3/4/2024 is in March or in April.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

SPREADSHEET_ERRORS = ("#n/a", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!")
MISSING_WORDS = frozenset(
    ["", "na", "n/a", "nan", "null", "none", "?", "-", "nil", "<na>", "nat", *SPREADSHEET_ERRORS]
)
NO_LABEL = MISSING_WORDS - {"none", "nil", "-"}
"""In a label, *none* is a class like *mild* and *severe*, and - stands beside +."""

MOSTLY = 0.95
"""Share of the cells that must read as numbers or dates for the column to be one."""

ONCE_OR_TWICE, FEW_WORDS = 2, 3
"""Text among numbers that occurs more than ``ONCE_OR_TWICE`` times is a word for a missing value,
not a slip. A column with more than ``FEW_WORDS`` such words is a column of words."""

THOUSANDS = r"-?[1-9]\d{0,2}(?:(?:,\d{3})+|(?:,\d{2})+,\d{3})(\.\d+)?"
"""Groups of three digits, or lakhs and crores as in 1,54,549."""

POINT_THOUSANDS = r"-?[1-9]\d{0,2}(\.\d{3})+(,\d+)?"
APART = re.compile(r"(?<=\d)['\u2019\u00a0\u202f](?=\d{3}(?!\d))")
"""A separator of thousands, as in 1'030."""

SPACED = re.compile(r"(?<![\d ])[1-9]\d{0,2}(?: \d{3})+(?!\d)")
"""Thousands separated by blanks, as in 12 500; blanks at other places do not match."""

LARGEST = 1e30
"""Scaled, or ten times as large, a larger number would not fit in single precision."""

MONEY = "$€£¥₹₩₺"
NEGATIVE = re.compile(rf"^(?:\((?P<owed>[^()]*\d[^()]*)\)|-(?P<money>[{MONEY}].*))$")
"""Negative amounts: (1,200), as in accounting, and -$5."""

LIMIT = re.compile(r"^[<>\u2264\u2265~\u2248]=?\s*(?=[-\d.])")
"""The sign before a number that is only a bound or an estimate, such as <0.5."""

NUMBER_WITH_UNIT = (
    rf"^((?:R?[{MONEY}]|USD|EUR|GBP|CHF|kr\.?)\s*)?([-+]?\d[\d.,]*)"
    r"(\s*(?:[^\d\s.,+-][^\d.,+-]{0,7}|[cdfkm]?[mt][23]))?$"
)
"""An optional currency sign, a number, and a unit of at most eight letters, or m2 and the like."""

SIZE = re.compile(r"(?<=\d)\s*(k|m|bn?)$", re.IGNORECASE)
SIZES = {"k": 1e3, "m": 1e6, "b": 1e9, "bn": 1e9}
"""Letters behind a number for thousands, millions and billions."""

MANY_OF_THEM = 0.8
"""Share of the numbers that must have a format for the whole column to be read in it."""

LOOK_AT = 500
"""About this many cells are checked first, to see whether the column may have a unit."""

TIME = r"(?:,?(?P<time>[ T]\s*\d{1,2}:\d{2}.*?)(?:\s*(?:UTC|GMT))?)?"
LONG_DATE = re.compile(rf"^(?P<year>\d{{4}})([-/.])(?P<month>\d{{1,2}})\2(?P<day>\d{{1,2}}){TIME}$")
SHORT_DATE = re.compile(
    rf"^(?P<a>\d{{1,2}})(?P<sep>[-/.])(?P<b>\d{{1,2}})(?P=sep)(?P<year>\d{{4}}|\d{{2}}){TIME}$"
)
DAY_MONTH = re.compile(
    rf"^(?P<day>\d{{1,2}})[-\s.]+(?P<name>[^\W\d_]{{3,9}})[-\s.,]+(?P<year>\d{{4}}|\d{{2}}){TIME}$"
)
MONTH_DAY = re.compile(
    rf"^(?P<name>[^\W\d_]{{3,9}})\.?\s+(?P<day>\d{{1,2}}),?\s+(?P<year>\d{{4}}){TIME}$"
)
NAMED_MONTH = re.compile(r"^(?P<name>[^\W\d_]{3,9})[-\s.]+(?P<year>\d{4})$")
YEAR_MONTH = re.compile(r"^(?P<year>(?:19|20)\d{2})-(?P<month>0[1-9]|1[0-2])$")
"""A month is read as its first day; 2011-12 is one only if all cells are written so."""

FORMS = (LONG_DATE, SHORT_DATE, DAY_MONTH, MONTH_DAY, NAMED_MONTH)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
GERMAN = {"mär": "mar", "mrz": "mar", "mai": "may", "okt": "oct", "dez": "dec"}
CLOCK = re.compile(r"^(?P<time>\d{1,2}:\d{2}(?::\d{2})?(?:\s*[ap]\.?m\.?)?)$", re.IGNORECASE)
"""A time of day without a date."""

SPAN = re.compile(r"^(\d+):([0-5]\d)(?::([0-5]\d))?$")
"""A span of time such as 75:30; also a time of day, where none is longer than a day."""

NO_DAY = pd.Timestamp(1970, 1, 1)
"""The day used for a time without a date."""

LATEST_YEAR = 40
"""A two-digit year above this belongs to the twentieth century, otherwise to the twenty-first: more
tables have births of the 1940s to 1960s than dates of the 2040s to 2060s."""

HALF_DAY = re.compile(r"^[ T]\s*(\d{1,2})(:\d{2}(?::\d{2})?)\s*([ap])\.?m\.?$", re.IGNORECASE)


def in_usual_type(values: pd.Series) -> pd.Series:
    """Return a column with a pandas dtype; short floats become the double with the same digits.

    Examples
    --------
    >>> days = pd.Series([pd.Timestamp(2024, 7, 21)], dtype="date32[pyarrow]")
    >>> in_usual_type(days).dt.year.tolist()
    [2024]
    >>> in_usual_type(pd.Series([0.1, None], dtype="float32")).tolist()
    [0.1, nan]
    """
    if isinstance(values.dtype, pd.ArrowDtype):
        plain = pa.array(values).to_pandas(date_as_object=False)
        values = plain.set_axis(values.index).rename(values.name)
    if values.dtype.kind != "f" or getattr(values.dtype, "itemsize", 8) >= 8:
        return values
    short = values.to_numpy(f"f{values.dtype.itemsize}", na_value=np.nan)
    return pd.Series(short.astype(str).astype(float), values.index, name=values.name)


def as_text(values: pd.Series, missing: frozenset[str] = MISSING_WORDS) -> pd.Series:
    """Return cells as stripped text; words for "missing" become missing values.

    Examples
    --------
    >>> as_text(pd.Series([" a ", "N/A", 3])).tolist()
    ['a', nan, '3']
    """
    text = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    return text.mask(text.str.lower().isin(missing))


def as_numbers(values: pd.Series) -> pd.Series:
    """Return numbers, NaN where a cell is not one or is larger than :data:`LARGEST`.

    If fewer than half of the cells have a < or >, such as <0.5, the sign is dropped; otherwise the
    cells are names of groups.

    Examples
    --------
    >>> as_numbers(pd.Series(["$1,200.50", "-$7", "($12)", "soon"])).tolist()
    [1200.5, -7.0, -12.0, nan]
    >>> as_numbers(pd.Series(["1'030.5", "12 500"])).tolist()
    [1030.5, 12500.0]
    >>> as_numbers(pd.Series(["3,5"])).tolist()
    [3.5]
    >>> as_numbers(pd.Series(["<=50K", ">50K"])).tolist()
    [nan, nan]
    >>> as_numbers(pd.Series(["974", "1.001", "23"])).tolist()
    [974.0, 1001.0, 23.0]
    >>> as_numbers(pd.Series(["1,54,549", "84,500", "1,20,00,000"])).tolist()
    [154549.0, 84500.0, 12000000.0]
    >>> as_numbers(pd.Series(["€2.3M", "€565K", "€0"] * 3)).tolist()[:3]
    [2300000.0, 565000.0, 0.0]
    """
    if not pd.api.types.is_numeric_dtype(values.dtype):
        text = as_text(values)
        limited = text.dropna().str.match(LIMIT)
        if limited.any() and limited.mean() < 0.5:
            text = text.str.replace(LIMIT, "", regex=True)
        values = pd.to_numeric(text, errors="coerce")
        if (values.isna() & text.notna()).any() or has_point_thousands(text):
            sizes = sizes_of(text)
            bare = text.mask(sizes > 1, text.str.replace(SIZE, "", regex=True))
            values = pd.to_numeric(_with_points(without_unit(bare)), errors="coerce")
            values = values.mask(sizes > 1, (values * sizes).round(3))  # 2.3 * 1e6 is not whole
    numbers = values.astype(float)
    return numbers.where(numbers.abs() <= LARGEST)


def stands_for_missing(text: pd.Series, read: pd.Series) -> np.ndarray:
    """Return True for cells with a word for a missing value, such as *prefer not to say*.

    Such a word has no digit and occurs at least three times; at most three such words are allowed,
    and at least half of the cells must be readable.

    Examples
    --------
    >>> text = pd.Series(["1", "2", "3", "4", "secret", "secret", "secret", "5+"])
    >>> stands_for_missing(text, pd.to_numeric(text, errors="coerce")).nonzero()[0].tolist()
    [4, 5, 6]
    """
    unread = text.notna() & read.isna()
    counts = text[unread].value_counts()
    words = [w for w in counts.index if counts[w] > ONCE_OR_TWICE and not re.search(r"\d", w)]
    if len(words) > FEW_WORDS or read.notna().sum() < text.notna().sum() / 2:
        return np.zeros(len(text), dtype=bool)
    return (unread & text.isin(words)).to_numpy()


def sizes_of(text: pd.Series) -> pd.Series:
    """Return what K, M or B behind a number multiplies it by, and 1 for other cells.

    If a column has only one of these letters, it may be any unit, such as metres.

    Examples
    --------
    >>> sizes_of(pd.Series(["1.5M", "970k", "8"] * 3)).tolist()[:3]
    [1000000.0, 1000.0, 1.0]
    >>> sizes_of(pd.Series(["5 m", "7 m"] * 3)).eq(1).all()
    np.True_
    """
    letters = text.str.extract(SIZE)[0].str.lower()
    often = letters.value_counts() > ONCE_OR_TWICE
    return letters.map(SIZES if often.sum() > 1 else {}).astype(float).fillna(1.0)


def unit_of(text: pd.Series) -> tuple[str, str]:
    """Return the unit before and after nearly every number of a column; mostly both are empty.

    Examples
    --------
    >>> unit_of(pd.Series(["$5", "$1,200.50"])), unit_of(pd.Series(["12 kg", "7 kg"]))
    (('$', ''), ('', ' kg'))
    >>> unit_of(pd.Series(["R$ 5,50", "R$ 7,00"])), unit_of(pd.Series(["85 m2", "1 020 m2"]))
    (('R$ ', ''), ('', ' m2'))
    >>> unit_of(pd.Series(["1st", "2nd"])), unit_of(pd.Series(["room 1", "room 2"]))
    (('', ''), ('', ''))
    """
    known = text.dropna()
    if sizes_of(known).gt(1).any():
        return "", ""
    few = _signed(known[:: 1 + len(known) // LOOK_AT]).str.fullmatch(NUMBER_WITH_UNIT)
    if not few.mean() > 0.5 or pd.to_numeric(known, errors="coerce").notna().mean() > 0.5:
        return "", ""
    known = _signed(known[known.str.contains(r"\d")])
    units = known.str.extract(NUMBER_WITH_UNIT)[[0, 2]].dropna(how="all").fillna("")
    if len(units) < MOSTLY * len(known):
        return "", ""
    signs = units.apply(lambda part: part.str.strip())
    same = signs.eq(list(signs.value_counts().index[0])).all(axis=1)
    return units[same].value_counts().index[0] if same.sum() >= MOSTLY * len(known) else ("", "")


def without_unit(text: pd.Series) -> pd.Series:
    """Return the cells of a column without the unit that nearly all of them have."""
    unit = [part.strip() for part in unit_of(text)]
    text = _signed(text)
    if not any(unit):
        return text
    parts = text.str.extract(NUMBER_WITH_UNIT)
    here = parts[[0, 2]].fillna("").apply(lambda part: part.str.strip())
    bare = (here == unit).all(axis=1) | (here == "").all(axis=1)
    return parts[1].where(bare & parts[1].notna(), text)


def _signed(text: pd.Series) -> pd.Series:
    """Write (1,200) as -1,200, -$5 as $-5, 1'030 and 1 030 as 1030; a minus as a hyphen."""

    def rewritten(cell: object) -> object:
        if not isinstance(cell, str):
            return cell
        cell = cell.replace("\u2212", "-")
        if match := NEGATIVE.match(cell):
            amount = (match["owed"] or match["money"]).strip()
            cell = f"{amount[0]}-{amount[1:]}" if amount[0] in MONEY else f"-{amount}"
        return SPACED.sub(lambda number: number[0].replace(" ", ""), APART.sub("", cell))

    return text.map(rewritten)


def _with_points(text: pd.Series) -> pd.Series:
    """Write 1,5 and 1.234,5 as 1.5 and 1234.5, and 1,234,567.8 without its commas.

    Examples
    --------
    >>> _with_points(pd.Series(["0,5", "-2"])).tolist(), _with_points(pd.Series(["1,250"])).tolist()
    (['0.5', '-2'], ['1250'])
    >>> _with_points(pd.Series(["1.234.567", "89.000"])).tolist()
    ['1234567', '89000']
    """
    if has_decimal_comma(text) or has_point_thousands(text):
        return text.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    thousands = text.str.fullmatch(THOUSANDS, na=False)
    return text.str.replace(",", ".", regex=False).mask(
        thousands, text.str.replace(",", "", regex=False)
    )


def has_decimal_comma(text: pd.Series) -> bool:
    """Return whether the comma is the decimal separator, and not that of thousands.

    Examples
    --------
    >>> [has_decimal_comma(pd.Series([cell])) for cell in ("1,5", "1.234,50", "1,250", "1,250.5")]
    [True, True, False, False]
    """
    numbers = text[text.str.fullmatch(r"[-+]?[\d.,]+", na=False)]
    commas = numbers[numbers.str.contains(",", regex=False)]
    dots = numbers[numbers.str.contains(".", regex=False)]
    if not len(commas) or commas.str.fullmatch(THOUSANDS).mean() > MANY_OF_THEM:
        return False
    return not len(dots) or bool(dots.str.fullmatch(POINT_THOUSANDS).mean() > MANY_OF_THEM)


def has_point_thousands(text: pd.Series) -> bool:
    """Return whether the point separates thousands, and is not the decimal separator.

    Nearly all numbers with a point must have groups of three digits after it. In addition, a number
    must have two points, or nearly all numbers without a point must be below a thousand, and some
    of them have three digits. One number that repeats among whole ones, such as 10.251, is rather a
    mean filled in for missing values.

    Examples
    --------
    >>> tables = ["974", "1.001"], ["1.234.567"], ["0.974", "1.001"], ["2.5", "1.001"], ["1.001"]
    >>> [has_point_thousands(pd.Series(cells)) for cells in tables]
    [True, True, False, False, False]
    >>> has_point_thousands(pd.Series(["12", "9", "10.251", "10.251"]))
    False
    >>> has_point_thousands(pd.Series(["1.125", "2.250", "3.375", "4"]))
    False
    """
    known = text.dropna().astype(str)
    numbers = known[known.str.fullmatch(r"[-+]?[\d.]+")]
    has_point = numbers.str.contains(".", regex=False)
    with_point, whole = numbers[has_point], numbers[~has_point]
    if not has_point.mean() > 1 - MOSTLY:
        return False
    if with_point.str.fullmatch(POINT_THOUSANDS).mean() < MOSTLY:
        return False
    if len(with_point) > 1 and with_point.nunique() == 1 and len(whole):
        return False
    below_thousand = whole.str.fullmatch(r"[-+]?\d{1,3}").mean() >= MOSTLY
    hundreds = whole.str.fullmatch(r"[-+]?\d{3}").any()
    return bool((below_thousand and hundreds) or (with_point.str.count(r"\.") > 1).any())


def are_codes(known: pd.Series) -> bool:
    """Return whether these are codes, such as zip codes: digits of one width, some starting with 0.

    Examples
    --------
    >>> are_codes(pd.Series(["01234", "98765"])), are_codes(pd.Series(["0", "1"]))
    (True, False)
    """
    digits = known[known.str.fullmatch(r"\d{3,}")]
    if not len(digits) or len(digits) < MOSTLY * len(known):
        return False
    return bool(digits.str.startswith("0").any() and digits.str.len().nunique() == 1)


def as_dates(text: pd.Series) -> pd.Series:
    """Return dates, NaT where a cell is not one; the order of day and month is found per column.

    A time of day without a date gets the date 1 January 1970.

    Examples
    --------
    >>> written = ["2024/7/21", "21-Jul-2024", "July 21, 2024", "7/21/24 3:05 PM", "May be"]
    >>> [str(date)[:16] for date in as_dates(pd.Series(written))]
    ['2024-07-21 00:00', '2024-07-21 00:00', '2024-07-21 00:00', '2024-07-21 15:05', 'NaT']
    >>> [str(date)[:10] for date in as_dates(pd.Series(["3. Mär 2024", "12. Okt. 2024"]))]
    ['2024-03-03', '2024-10-12']
    >>> [str(date)[:10] for date in as_dates(pd.Series(["Dec-2011", "2024-07-21 10:00 UTC"]))]
    ['2011-12-01', '2024-07-21']
    """
    days_first = date_order(text) == "the day before the month"
    known = text.dropna().unique()
    forms = FORMS + ((YEAR_MONTH,) if _are_months(known) else ())
    iso = {str(cell): _iso_date(str(cell), days_first, forms) for cell in known}
    written = pd.Series([iso.get(cell) for cell in text.astype(object)], text.index, dtype=object)
    dates = pd.to_datetime(written, errors="coerce", format="ISO8601", utc=True)
    return dates.dt.tz_localize(None)


def _are_months(cells: Iterable[object]) -> bool:
    """Return whether all cells are months such as 2011-12, and not seasons from year to year.

    Examples
    --------
    >>> _are_months(["2011-12", "2012-01"]), _are_months(["2010-11", "2011-12"])
    (True, False)
    """
    matches = [YEAR_MONTH.match(str(cell)) for cell in cells]
    return all(matches) and any(int(m["month"]) != (int(m["year"]) + 1) % 100 for m in matches if m)


def as_spans(text: pd.Series) -> pd.Series:
    """Return spans such as 75:30 as numbers, in the unit of their first part.

    They are NaN unless all cells are spans with as many parts, and one is beyond a day's clock.

    Examples
    --------
    >>> as_spans(pd.Series(["75:30", "3:15"])).tolist(), as_spans(pd.Series(["9:30"])).tolist()
    ([75.5, 3.25], [nan])
    """
    parts = text.astype(object).str.extract(SPAN).astype(float)
    all_alike = parts[0].count() == text.count() and parts[2].count() in (0, text.count())
    spans = parts[0] + parts[1] / 60 + parts[2].fillna(0) / 3600
    return spans if all_alike and (parts[0] > 23).any() else spans * np.nan


def date_order(text: pd.Series) -> str:
    """Say in which order day and month are read; empty if no date needs it.

    Examples
    --------
    >>> date_order(pd.Series(["31/1/2024"])), date_order(pd.Series(["2024-01-31"]))
    ('the day before the month', '')
    """
    short = [match for cell in text.dropna().unique() if (match := SHORT_DATE.match(str(cell)))]
    if not short:
        return ""
    first, second = (sum(int(match[part]) > 12 for match in short) for part in "ab")
    if first > second or any(match["sep"] == "." for match in short):
        return "the day before the month"
    return "the month before the day"


def _iso_date(cell: str, days_first: bool, forms: Sequence[re.Pattern[str]]) -> str | None:
    """Return a date as 2024-07-21, followed by its time, or None if the cell is not a date."""
    if clock := CLOCK.match(cell):
        return f"{NO_DAY:%Y-%m-%d}" + _on_24_hours(" " + clock["time"])
    match = next((match for form in forms if (match := form.match(cell))), None)
    if match is None:
        return None
    part = match.groupdict()
    day, month = part.get("day", "1"), part.get("month")
    if "a" in part:
        day, month = (part["a"], part["b"]) if days_first else (part["b"], part["a"])
    if "name" in part:
        name = part["name"].lower()[:3]
        name = GERMAN.get(name, name)
        month = str(MONTHS.index(name) + 1) if name in MONTHS else "none"
    year = part["year"]
    if len(year) == 2:
        year = f"{19 + (int(year) <= LATEST_YEAR)}{year}"
    return f"{year}-{month:0>2}-{day:0>2}{_on_24_hours(part.get('time') or '')}"


def _on_24_hours(time: str) -> str:
    """Write 3:05 PM as T15:05, and any other time with a two-digit hour."""
    if half := HALF_DAY.match(time):
        return f"T{int(half[1]) % 12 + 12 * (half[3].lower() == 'p'):02}{half[2]}"
    return re.sub(r"^([ T])\s*(\d):", r"\g<1>0\2:", time)
