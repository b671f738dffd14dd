"""Somebody else's table as a task: which column is what, and what the label is."""

import difflib
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from demix_lite.errors import DemixError
from demix_lite.tasks.labels import Classes, Label, Number
from demix_lite.tasks.slips import mended_numbers, mended_words, misspelt, unreadable
from demix_lite.tasks.tabular import TabularTask

Kind = Literal["auto", "classification", "regression"]

LEAST_ROWS = 10
MISSING_WORDS = frozenset(["", "na", "n/a", "nan", "null", "none", "?", "-", "nil", "<na>", "nat"])
NO_LABEL = MISSING_WORDS - {"none", "nil", "-"}
"""In a label, *none* is a class like *mild* and *severe*, and - stands beside +."""

MOSTLY = 0.95
"""Share of the cells that must read as numbers or dates for the column to be one."""

KEPT_CATEGORIES = 60
MOST_CLASSES = 50
FEW_NUMBERS = 12
"""A label with at most so many different whole numbers is a class."""

FAR_OUTSIDE, MOST_FAR = 8.0, 0.2
"""So many interquartile ranges from the median, a number is worth a look in any case; if more than
this share of a column lies there, its tail is long."""

OTHER = "(other)"
THOUSANDS = r"-?[1-9]\d{0,2}(,\d{3})+(\.\d+)?"
POINT_THOUSANDS = r"-?[1-9]\d{0,2}(\.\d{3})+(,\d+)?"
NUMBER_WITH_UNIT = (
    r"^((?:[$€£¥]|USD|EUR|GBP|CHF)\s*)?([-+]?\d[\d.,]*)(\s*[^\d\s.,+-][^\d.,+-]{0,7})?$"
)
"""A sign of money or none, a number, and a unit of at most eight letters or none."""

MANY_OF_THEM = 0.8
"""Share of the numbers that have to be written in a way for the column to be written so."""

LOOK_AT = 500
"""So many cells tell whether it is worth while to look for a unit in all of them."""

LONG_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}")
SHORT_DATE = re.compile(
    r"^(?P<a>\d{1,2})(?P<sep>[-/.])(?P<b>\d{1,2})[-/.](?P<year>\d{4})(?P<rest>(?:[ T].*)?)$"
)
ID_NAME = re.compile(r"(?i:(^|[_\s.-])(id|uuid|guid|key|index|row)([_\s.-]|$))|[a-z]I[dD]$")


class DataError(DemixError, ValueError):
    """A table that cannot be diagnosed; also a ``ValueError``, as scikit-learn has it."""


@dataclass(frozen=True)
class OwnTable:
    """A table ready for the pipeline.

    Attributes
    ----------
    task : TabularTask
        Its columns, their roles and its label.
    frame : DataFrame
        Features and label as the task wants them, aligned with the rows that were given.
    mended : DataFrame
        The same without slips of the keyboard and of units, which take no model to see.
    source : dict
        Feature name to the column it was made from.
    notes : list of str
        What was read otherwise than it stands there, and what was left out.
    checks : list of str
        What takes no model to see: cells far outside, rows twice, rows that contradict.
    """

    task: TabularTask
    frame: pd.DataFrame
    mended: pd.DataFrame
    source: dict[str, str]
    notes: list[str]
    checks: list[str]

    @cached_property
    def slips(self) -> pd.DataFrame:
        """Cells that were mended, boolean, one column per feature."""
        given, mended = (rows[list(self.task.features)] for rows in (self.frame, self.mended))
        return (given != mended) & ~(given.isna() & mended.isna())

    def take(self, rows: slice) -> "OwnTable":
        """Return the table with some of its rows."""
        frame, mended = (
            part.iloc[rows].reset_index(drop=True) for part in (self.frame, self.mended)
        )
        return replace(self, frame=frame, mended=mended)


@dataclass
class _Columns:
    """Features found so far."""

    names: frozenset[str] = frozenset()
    features: dict[str, pd.Series] = field(default_factory=dict)
    mended: dict[str, pd.Series] = field(default_factory=dict)
    categorical: list[str] = field(default_factory=list)
    source: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)

    def free(self, name: str) -> str:
        """Return a name that no column has."""
        while name in self.names:
            name += "_"
        return name

    def add(self, name: str, values: pd.Series, mended: pd.Series, source: str = "") -> None:
        self.features[name], self.mended[name] = values, mended
        self.source[name] = source or name


def own_table(
    frame: pd.DataFrame,
    target: str,
    *,
    kind: Kind = "auto",
    name: str = "your table",
) -> OwnTable:
    """Find out what every column is, and make a task of the table.

    Parameters
    ----------
    frame : DataFrame
        Cells as text or typed. Every row has a label. The index numbers (from 0) or names the rows.
    target : str
        The label column.
    kind : {"auto", "classification", "regression"}
        What the label is; by default numbers with many values are a regression.
    name : str
        Name in sentences and in the names of seeds.

    Returns
    -------
    OwnTable

    Raises
    ------
    DataError
        If the table is too small, or has no usable column or no usable label.

    Examples
    --------
    >>> frame = pd.DataFrame({"age": [str(a) for a in range(10, 60)], "buys": ["no", "yes"] * 25})
    >>> table = own_table(frame.sample(frac=1, random_state=0), "buys")
    >>> table.task.numeric, table.task.label.names
    (('age',), ('no', 'yes'))
    """
    check_target(frame, target, name)
    if len(frame) < LEAST_ROWS:
        raise DataError(
            f"{name} has {_count(len(frame), 'row')} with a label (n_samples = {len(frame)}); "
            f"a diagnosis needs {LEAST_ROWS} "
            "at the very least, and says little below 200."
        )
    found = _Columns(frozenset(map(str, frame.columns)))
    label, labels = _label(found, frame[target], kind)
    for column in frame.columns.drop(target):
        _read_column(found, str(column), frame[column])
    if not found.features:
        raise DataError(
            f"{name} has no column to learn {target!r} from (n_features = 0): "
            + " ".join(found.notes or ["it has no other column."])
        )
    numeric = tuple(c for c in found.features if c not in found.categorical)
    task = TabularTask(name, numeric, tuple(found.categorical), target, label, ())
    ready, mended = (
        pd.DataFrame({**made, target: labels})[[*task.features, target]].reset_index(drop=True)
        for made in (found.features, found.mended)
    )
    table = OwnTable(task, ready, mended, found.source, found.notes, found.checks)
    table.checks.extend([*_slips(table, frame.index), *_plain_checks(ready, task, frame.index)])
    return table


def _slips(table: OwnTable, names: pd.Index) -> list[str]:
    """Say which columns have numbers that are not written like the others."""
    slips = table.slips[list(table.task.numeric)] & table.frame[list(table.task.numeric)].notna()
    return [
        f"{column}: {_count(int(wrong.sum()), 'cell')} with more decimals than the others "
        f"({_rows(names[wrong])})."
        for column, wrong in slips.items()
        if wrong.any()
    ]


def _plain_checks(frame: pd.DataFrame, task: TabularTask, names: pd.Index) -> list[str]:
    """Say what takes no model to see: cells far outside, rows twice, rows that contradict."""
    notes = []
    counts = frame[task.target].value_counts()
    rare = counts[counts < LEAST_ROWS]
    if task.label.classes and len(rare):
        listed = ", ".join(f"{name!r} ({_count(count, 'row')})" for name, count in rare.items())
        notes.append(f"{task.target}: too few rows to learn the class {listed}.")
    for column in task.numeric if task.label.classes else (*task.numeric, task.target):
        low, middle, high = frame[column].quantile([0.25, 0.5, 0.75])
        far = (frame[column] - middle).abs() > FAR_OUTSIDE * (high - low)
        if high > low and 0 < far.mean() <= MOST_FAR:
            notes.append(
                f"{column}: {_count(int(far.sum()), 'cell')} very far from the others "
                f"({_rows(names[far])})."
            )
    twice = int(frame.duplicated().sum())
    if twice:
        notes.append(f"{_count(twice, 'row')} alike to an earlier one; each is judged.")
    features = list(task.features)
    labels = frame.drop_duplicates().groupby(features, dropna=False, observed=True).size()
    contradicting = int((labels > 1).sum())
    if contradicting and task.label.classes:
        notes.append(f"{_count(contradicting, 'group')} of rows alike but for their label.")
    return notes


def check_target(frame: pd.DataFrame, target: str, name: str = "your table") -> None:
    """Refuse a target that is no column, and name the nearest one.

    Examples
    --------
    >>> check_target(pd.DataFrame({"Income": []}), "incme")
    Traceback (most recent call last):
    ...
    demix_lite.tasks.own_table.DataError: your table has no column 'incme'; did you mean 'Income'?
    """
    if target in frame.columns:
        return
    known = {str(column).lower(): str(column) for column in frame.columns}
    near = difflib.get_close_matches(str(target).lower(), list(known), n=1)
    names = list(known.values())[:20]
    listed = f"it has {', '.join(names)}{', ...' if len(known) > 20 else ''}."
    hint = f"did you mean {known[near[0]]!r}?" if near else listed
    raise DataError(f"{name} has no column {str(target)!r}; {hint}")


def without_label(labels: pd.Series) -> np.ndarray:
    """Return True where the label is missing or infinite.

    Examples
    --------
    >>> without_label(pd.Series(["a", " ", "NA"])).tolist()
    [False, True, True]
    """
    if pd.api.types.is_numeric_dtype(labels.dtype):
        return ~np.isfinite(labels.to_numpy(dtype=float, na_value=np.nan))
    return _text(labels, NO_LABEL).isna().to_numpy()


def _label(found: _Columns, labels: pd.Series, kind: Kind) -> tuple[Label, pd.Series]:
    """Return what the label is, and the labels as the task wants them."""
    numbers = _as_numbers(labels)
    if kind == "regression" and numbers.isna().any():
        bad = labels[numbers.isna()].iloc[0]
        raise DataError(f"the label {labels.name!r} is no number everywhere (found {bad!r}).")
    whole = bool((numbers.dropna() % 1 == 0).all())
    many = numbers.nunique() > (FEW_NUMBERS if whole else 2)
    is_number = numbers.notna().all() and not pd.api.types.is_bool_dtype(labels.dtype)
    if kind == "regression" or (kind == "auto" and is_number and many):
        if numbers.nunique() < 2:
            raise DataError(f"the label {labels.name!r} has one value only: nothing to learn.")
        values = numbers.astype(float)
        if whole and float(values.abs().max()) < 2**53:
            values = values.astype(np.int64)
        return Number(float(values.min()), float(values.max())), values
    text = _one_spelling(found, _text(labels, NO_LABEL), numbers).astype(object)
    names = tuple(sorted(text.unique()))
    if len(names) < 2:
        raise DataError(f"the label {labels.name!r} has 1 class only ({names[0]}); two are needed.")
    most = min(MOST_CLASSES, len(text) // 2)
    if len(names) > most:
        raise DataError(
            f"the label {labels.name!r} has {len(names)} different values in {len(text)} rows, too "
            f"many for classes (at most {most}) and no numbers."
            + (" Numbers: choose regression." if is_number else "")
        )
    return Classes(names), text


def _one_spelling(found: _Columns, text: pd.Series, numbers: pd.Series) -> pd.Series:
    """Return class names of which none differ in case alone, or as 1 and 1.0 do."""
    key = text.str.casefold().where(text.str.len() > 1, text)
    if numbers.notna().all():
        key = numbers.map("{:.15g}".format)
    often = pd.DataFrame({"key": key, "text": text}).value_counts()[::-1]
    name = key.map(dict(often.index))
    moved = text != name
    if moved.any():
        given, meant = (sorted(map(repr, part[moved].unique()))[:5] for part in (text, name))
        found.notes.append(
            f"{text.name}: {', '.join(given)} were read as another spelling of {', '.join(meant)}."
        )
    return name


def _read_column(found: _Columns, name: str, values: pd.Series) -> None:
    """Put one column where it belongs, or say why it is left out."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    is_number = pd.api.types.is_numeric_dtype(values.dtype)
    if is_number and not pd.api.types.is_bool_dtype(values.dtype):
        numbers = _as_numbers(values)
        _add_number(found, name, _text(values.where(numbers.isna())), numbers)
        return
    cells = _text(values)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        _add_date(found, name, cells, values)
        return
    known = cells.notna().sum()
    if _are_codes(cells.dropna()):
        found.notes.append(f"{name} was read as a code, for numbers in it begin with 0.")
        _add_category(found, name, cells)
        return
    for read, add in ((_as_numbers, _add_number), (_as_dates, _add_date)):
        values = read(cells)
        if known and values.notna().sum() >= MOSTLY * known:
            add(found, name, cells, values)
            return
    _add_category(found, name, cells)


def _are_codes(known: pd.Series) -> bool:
    """Say whether these are codes, such as zip codes: digits of one width, some with 0 in front.

    Examples
    --------
    >>> _are_codes(pd.Series(["01234", "98765"])), _are_codes(pd.Series(["0", "1"]))
    (True, False)
    """
    digits = known[known.str.fullmatch(r"\d{3,}")]
    if not len(digits) or len(digits) < MOSTLY * len(known):
        return False
    return bool(digits.str.startswith("0").any() and digits.str.len().nunique() == 1)


def _add_number(found: _Columns, name: str, cells: pd.Series, numbers: pd.Series) -> None:
    known = numbers.dropna()
    if known.nunique() < 2:
        found.notes.append(_same_everywhere(name, len(known)))
        return
    whole = bool((known % 1 == 0).all()) and float(known.abs().max()) < 2**53
    counts_up = whole and len(known) == len(numbers) and (known.diff().dropna() == 1).all()
    if counts_up or (whole and ID_NAME.search(name) and known.is_unique):
        found.notes.append(f"{name} was left out: it numbers the rows.")
        return
    if any(unit := unit_of(cells)):
        found.notes.append(f"{name} was read without its unit, {''.join(unit).strip()!r}.")
    filled = numbers.astype(np.int64) if whole and len(known) == len(numbers) else numbers
    _say_unread(found, name, cells, numbers)
    found.add(name, filled, mended_numbers(filled, cells))


def _add_date(found: _Columns, name: str, cells: pd.Series, dates: pd.Series) -> None:
    dates = dates.dt.tz_localize(None) if dates.dt.tz is not None else dates
    if dates.nunique() < 2:
        found.notes.append(_same_everywhere(name, int(dates.notna().sum())))
        return
    parts = {
        "days": (dates - dates.min()) / pd.Timedelta(days=1),
        "month": dates.dt.month,
        "weekday": dates.dt.day_of_week,
        "hour": dates.dt.hour,
    }
    made = {part: column.astype(float) for part, column in parts.items() if column.nunique() > 1}
    slips = unreadable(dates, cells)
    for part, column in made.items():
        mended = column.mask(slips, column.median())
        found.add(found.free(f"{name} ({part})"), column, mended, source=name)
    words = [f"days since {dates.min():%Y-%m-%d}" if part == "days" else part for part in made]
    _say_unread(found, name, cells, dates)
    found.notes.append(f"{name} is a date; read as {', '.join(words)} (numbers).")


def _add_category(found: _Columns, name: str, text: pd.Series) -> None:
    known, near = text.dropna(), misspelt(text)
    meant = mended_words(text, near)
    counts = meant.value_counts()
    if known.nunique() < 2:
        found.notes.append(_same_everywhere(name, len(known)))
        return
    if len(counts) > max(FEW_NUMBERS, len(known) / 2):
        words = known.str.split().str.len().mean()
        what = "free text" if words > 2 else "an identifier (nearly every cell is different)"
        found.notes.append(f"{name} was left out: it is {what}.")
        return
    if near:
        listed = ", ".join(f"{word!r} (for {other!r}?)" for word, other in near[:5])
        more = f" and {len(near) - 5} more" if len(near) > 5 else ""
        found.checks.append(
            f"{name}: rare spellings that look like a frequent one: {listed}{more}."
        )
    if len(counts) > KEPT_CATEGORIES:
        kept = counts.index[: KEPT_CATEGORIES - 1]
        rest = ~meant.isin(kept) & text.notna()
        text, meant = text.mask(rest, OTHER), meant.mask(rest, OTHER)
        found.notes.append(
            f"{name} has {len(counts)} categories; all but the {len(kept)} most frequent were read "
            f"as one, {OTHER}."
        )
    found.categorical.append(name)
    found.add(name, *(t.astype(object).where(t.notna(), np.nan) for t in (text, meant)))


def _text(values: pd.Series, missing: frozenset[str] = MISSING_WORDS) -> pd.Series:
    """Return cells as text without blanks at the ends; what means "missing" is missing."""
    text = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    return text.mask(text.str.lower().isin(missing))


def unit_of(text: pd.Series) -> tuple[str, str]:
    """Return what stands before and after nearly every number of a column, mostly nothing.

    Examples
    --------
    >>> unit_of(pd.Series(["$5", "$1,200.50"])), unit_of(pd.Series(["12 kg", "7 kg"]))
    (('$', ''), ('', ' kg'))
    >>> unit_of(pd.Series(["1st", "2nd"])), unit_of(pd.Series(["room 1", "room 2"]))
    (('', ''), ('', ''))
    """
    known = text.dropna()
    few = known[:: 1 + len(known) // LOOK_AT].str.fullmatch(NUMBER_WITH_UNIT)
    if not few.mean() > 0.5 or pd.to_numeric(known, errors="coerce").notna().mean() > 0.5:
        return "", ""
    units = known.str.extract(NUMBER_WITH_UNIT)[[0, 2]].dropna(how="all").fillna("")
    if len(units) < MOSTLY * len(known):
        return "", ""
    signs = units.apply(lambda part: part.str.strip())
    same = signs.eq(list(signs.value_counts().index[0])).all(axis=1)
    return units[same].value_counts().index[0] if same.sum() >= MOSTLY * len(known) else ("", "")


def without_unit(text: pd.Series) -> pd.Series:
    """Return the numbers of a column without the unit that nearly all of them have."""
    unit = [part.strip() for part in unit_of(text)]
    if not any(unit):
        return text
    parts = text.str.extract(NUMBER_WITH_UNIT)
    here = parts[[0, 2]].fillna("").apply(lambda part: part.str.strip())
    bare = (here == unit).all(axis=1) | (here == "").all(axis=1)
    return parts[1].where(bare & parts[1].notna(), text)


def _with_points(text: pd.Series) -> pd.Series:
    """Return 1,5 and 1.234,5 as 1.5 and 1234.5, and 1,234,567.8 without its commas.

    Examples
    --------
    >>> _with_points(pd.Series(["0,5", "-2"])).tolist(), _with_points(pd.Series(["1,250"])).tolist()
    (['0.5', '-2'], ['1250'])
    """
    if not text.str.contains(",", regex=False, na=False).any():
        return text
    if has_decimal_comma(text):
        return text.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    thousands = text.str.fullmatch(THOUSANDS, na=False)
    return text.str.replace(",", ".", regex=False).mask(
        thousands, text.str.replace(",", "", regex=False)
    )


def has_decimal_comma(text: pd.Series) -> bool:
    """Say whether a comma stands before the decimals, and not between the thousands.

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


def _as_numbers(values: pd.Series) -> pd.Series:
    """Return finite numbers, NaN where a cell is none."""
    if not pd.api.types.is_numeric_dtype(values.dtype):
        values = _with_points(without_unit(_text(values)))
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    return numbers.replace([np.inf, -np.inf], np.nan)


def _as_dates(text: pd.Series) -> pd.Series:
    """Return dates, NaT where a cell is none; 31.1.2024 and 1/31/2024 are told apart by column."""
    cells = [str(cell) for cell in text.dropna().unique()]
    short = {cell: match for cell in cells if (match := SHORT_DATE.match(cell))}
    first, second = (sum(int(m[part]) > 12 for m in short.values()) for part in "ab")
    day_first = first > second or any(m["sep"] == "." for m in short.values())

    def rewritten(match: re.Match[str]) -> str:
        day, month = (match["a"], match["b"]) if day_first else (match["b"], match["a"])
        return f"{match['year']}-{month:0>2}-{day:0>2}{match['rest']}"

    iso = {cell: cell for cell in cells if LONG_DATE.match(cell)}
    iso |= {cell: rewritten(match) for cell, match in short.items()}
    written = pd.Series([iso.get(cell) for cell in text.astype(object)], text.index, dtype=object)
    dates = pd.to_datetime(written, errors="coerce", format="ISO8601", utc=True)
    return dates.dt.tz_localize(None)


def _say_unread(found: _Columns, name: str, cells: pd.Series, read: pd.Series) -> None:
    unread, slips = cells.notna() & read.isna(), unreadable(read, cells)
    said = (
        (slips, found.checks, "that cannot be read like the others"),
        (unread & ~slips, found.notes, "with a word for what is missing"),
    )
    for which, lines, what in said:
        if which.any():
            text = str(cells[which].iloc[0])[:40]
            lines.append(
                f"{name}: {_count(int(which.sum()), 'cell')} {what} (such as {text!r}, "
                f"{_rows(cells.index[which])})."
            )


def _rows(names: pd.Index) -> str:
    return f"row {', '.join(map(_row, names[:5]))}{', ...' if len(names) > 5 else ''}"


def _row(name: object) -> str:
    """Return the number of a row, counted from 1, or the name it has."""
    return str(name + 1 if isinstance(name, int | np.integer) else name)


def _same_everywhere(name: str, known: int) -> str:
    return f"{name} was left out: it {'is the same everywhere' if known else 'is empty'}."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
