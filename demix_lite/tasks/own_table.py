"""A user's own table as a task: the role of each column and the type of the label."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pandas as pd
from pandas.api.types import (
    is_bool_dtype,
    is_datetime64_any_dtype,
    is_numeric_dtype,
    is_timedelta64_dtype,
)

from demix_lite.data.user_file import NO_NAMES, look_like_cells
from demix_lite.errors import DemixError
from demix_lite.tasks.labels import Classes, Label, Number
from demix_lite.tasks.moved_cells import MovedCells, find_moved_cells
from demix_lite.tasks.reading import (
    LIMIT,
    MISSING_WORDS,
    MOSTLY,
    NO_DAY,
    NO_LABEL,
    ONCE_OR_TWICE,
    are_codes,
    as_dates,
    as_numbers,
    as_spans,
    as_text,
    date_order,
    has_point_thousands,
    in_usual_type,
    sizes_of,
    stands_for_missing,
    unit_of,
    without_unit,
)
from demix_lite.tasks.slips import (
    LEAST_APART,
    in_usual_unit,
    is_far,
    may_be_code,
    mended_numbers,
    mended_words,
    misspelt,
    stray_numbers,
    unreadable,
)
from demix_lite.tasks.tabular import MISSING, TabularTask
from demix_lite.tasks.telltale import is_telltale

Kind = Literal["auto", "classification", "regression"]
KINDS = get_args(Kind)

NAME = "your table"
LEAST_ROWS = 10
KEPT_CATEGORIES = 60
MOST_CLASSES = 50
FEW_FAR = 0.05
"""If at most this share of the label values lies far outside, they do not set the label's range."""

FEW_FAR_CELLS = 10
"""In a small table up to this many far numbers of a column are named one by one."""

FEW_NUMBERS = 12
"""A label with at most this many different values, all whole numbers, is read as classes."""

OTHER = "(other)"
IDENTIFIER = "an identifier (nearly every cell is different)"
ID_NAME = re.compile(
    r"(?i:(^|[_\s.-])(id|uuid|guid|key|index|row)([_\s.-]|$))|[a-z]I[dD]$"
    r"|(?i:^(column 1|unnamed: \d+|rownames?|__index_level_\d+__)$)"
)
"""Names of identifiers, and of the row numbers that R and pandas write with a table."""


class DataError(DemixError, ValueError):
    """A table that cannot be diagnosed; also a ``ValueError``, as in scikit-learn."""


@dataclass(frozen=True)
class OwnTable:
    """A table ready for the pipeline.

    Attributes
    ----------
    task : TabularTask
        Its columns, their roles and its label.
    frame : DataFrame
        Features and label as the task needs them, aligned with the rows that were given.
    mended : DataFrame
        The same with slips of the keyboard and of units mended, which can be found without a model.
    source : dict
        Maps a feature to the column it was made from.
    notes : list of str
        What was interpreted when the columns were read, and what was left out.
    checks : list of str
        What can be found without a model: cells far outside, duplicate rows, contradicting rows.
    moved : MovedCells, optional
        Rows whose numbers are one column to the side of their own.
    numbering : dict
        Maps each column that was left out, because it only tells which row is which, to its note.
    """

    task: TabularTask
    frame: pd.DataFrame
    mended: pd.DataFrame
    source: dict[str, str]
    notes: list[str]
    checks: list[str]
    moved: MovedCells | None = None
    numbering: dict[str, str] = field(default_factory=dict)

    @cached_property
    def slips(self) -> pd.DataFrame:
        """Whether each cell was mended, boolean, one column per feature."""
        given, mended = (rows[list(self.task.features)] for rows in (self.frame, self.mended))
        return (given != mended) & ~(given.isna() & mended.isna())

    @cached_property
    def codes(self) -> pd.DataFrame:
        """Whether each number may stand for a missing value, one boolean column per numeric one."""
        return self.frame[self._numbers].apply(may_be_code)

    @cached_property
    def far(self) -> pd.DataFrame:
        """Whether each other number lies far outside, one boolean column per numeric one.

        Where many do, the column has a long tail, and none of them stands out.
        """
        far = self.frame[self._numbers].apply(is_far) & ~self.codes
        return far & (far.sum() <= max(FEW_FAR_CELLS, LEAST_APART * len(far)))

    @property
    def _numbers(self) -> list[str]:
        return [*self.task.numeric, *([] if self.task.label.classes else [self.task.target])]

    def take(self, rows: slice) -> "OwnTable":
        """Return the table with only these rows."""
        frame, mended = (
            part.iloc[rows].reset_index(drop=True) for part in (self.frame, self.mended)
        )
        moved = self.moved and replace(self.moved, rows=self.moved.rows[rows])
        return replace(self, frame=frame, mended=mended, moved=moved)


@dataclass
class _Columns:
    """The features found so far, and notes about them.

    ``unsaid`` has the cells of columns whose features do not tell all of them apart.
    """

    names: frozenset[str] = frozenset()
    features: dict[str, pd.Series] = field(default_factory=dict)
    mended: dict[str, pd.Series] = field(default_factory=dict)
    categorical: list[str] = field(default_factory=list)
    source: dict[str, str] = field(default_factory=dict)
    unsaid: dict[str, pd.Series] = field(default_factory=dict)
    numbering: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    missing: dict[str, dict[str, int]] = field(default_factory=dict)

    def free(self, name: str) -> str:
        """Return ``name``, with underscores appended until no column has it."""
        while name in self.names:
            name += "_"
        return name

    def add(self, name: str, values: pd.Series, mended: pd.Series, source: str = "") -> None:
        self.features[name], self.mended[name] = values, mended
        self.source[name] = source or name

    def leave_out_numbering(self, name: str, why: str) -> None:
        self.numbering[name] = f"{name} was left out: {why}."
        self.notes.append(self.numbering[name])


def own_table(
    frame: pd.DataFrame,
    target: str,
    *,
    kind: Kind = "auto",
) -> OwnTable:
    """Find out the role of every column, and turn the table into a task.

    Parameters
    ----------
    frame : DataFrame
        Cells as text or typed. Every row has a label. The index has the numbers of the rows (from
        0) or their names.
    target : str
        The label column.
    kind : {"auto", "classification", "regression"}
        Type of the label; by default a numeric label with many values is a regression target,
        unless its dtype is categorical.

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
    if kind not in KINDS:
        raise DataError(f"kind must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, not {kind!r}.")
    check_target(frame, target)
    if len(frame) < LEAST_ROWS:
        raise DataError(
            f"{NAME} has {_count(len(frame), 'row')} with a label (n_samples = {len(frame)}); "
            f"a diagnosis needs at least {LEAST_ROWS}, and says little below 200."
        )
    found = _Columns(frozenset(map(str, frame.columns)))
    label, labels = _label(found, in_usual_type(frame[target]), kind)
    for column in frame.columns.drop(target):
        _read_column(found, str(column), in_usual_type(frame[column]))
    found.notes += _missing(found)
    if not any(column.nunique() > 1 for column in found.mended.values()):
        raise DataError(
            f"{NAME} has no column to learn {target!r} from (n_features = 0): "
            + " ".join([*found.notes, *found.checks] or ["it has no other column."])
        )
    numeric = tuple(c for c in found.features if c not in found.categorical)
    task = TabularTask(NAME, numeric, tuple(found.categorical), target, label, ())
    ready, mended = (
        pd.DataFrame({**made, target: labels})[[*task.features, target]].reset_index(drop=True)
        for made in (found.features, found.mended)
    )
    table = OwnTable(
        *(task, ready, mended, found.source, found.notes, found.checks), numbering=found.numbering
    )
    plain = [c for c in numeric if found.source[c] == c]  # a date has no other unit
    moved = find_moved_cells(ready, plain)
    if moved is not None:
        back = moved.moved_back(ready)
        mended = mended.assign(**{c: mended[c].mask(moved.rows, back[c]) for c in back})
    strays = stray_numbers(mended, plain)
    table.checks.extend(_checks(table, moved, strays, frame.index))
    written = ready.assign(**{c: cells.to_numpy() for c, cells in found.unsaid.items()})
    table.checks.extend(_copies(written, target, is_class=label.classes > 0) + _telltales(table))
    brought_back = {c: in_usual_unit(mended[c], rows) for c, rows in strays.items()}
    return replace(table, mended=mended.assign(**brought_back), moved=moved)


def _checks(
    table: OwnTable, moved: MovedCells | None, strays: Mapping[str, pd.Series], names: pd.Index
) -> list[str]:
    """Describe what needs no model: slips, rare classes and cells far outside."""
    frame, task = table.frame, table.task
    notes = []
    if moved is not None:
        which, side = int(moved.rows.sum()), "right" if moved.step > 0 else "left"
        notes.append(
            f"{', '.join(moved.columns)}: in {_count(which, 'row')} these numbers look moved one "
            f"column to the {side} ({rows_in_words(names[moved.rows])})."
        )
    for column in task.numeric:
        slips = table.slips[column] & frame[column].notna()
        slips &= True if moved is None else ~moved.rows
        notes += _cells(column, slips, names, "with more decimals than the others")
    for column, rows in strays.items():
        what = (
            "apart from all others, which nothing else in these rows explains: another unit, or a "
            "code for a missing value?"
        )
        notes += _cells(column, rows, names, what)
    counts = frame[task.target].value_counts()
    rare = counts[counts < LEAST_ROWS]
    if task.label.classes and len(rare):
        some = [f"{name!r} ({_count(count, 'row')})" for name, count in rare[::-1][:5].items()]
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        end = ": a slip?" if rare.min() <= ONCE_OR_TWICE else "."
        notes.append(f"{task.target}: too few rows to learn the class {', '.join(some)}{more}{end}")
    notes += _codes(table.frame, table.codes.drop(columns=strays))
    for column in table.far.columns.drop(strays):
        notes += _cells(column, table.far[column], names, "very far from the others")
    return notes


def _copies(written: pd.DataFrame, target: str, *, is_class: bool) -> list[str]:
    """Count rows that are identical, and those that are so but for their label."""
    notes = []
    if twice := int(written.duplicated().sum()):
        copies = f"{_count(twice, 'row')} identical to an earlier one"
        notes.append(f"{copies}; each is judged, by models that may have seen its copy.")
    columns = list(written.columns.drop(target))
    alike = written.groupby(columns, dropna=False, observed=True)[target]
    if is_class and (mixed := alike.nunique() > 1).any():
        rows = _count(int(alike.size()[mixed].sum()), "row")
        notes.append(
            f"{_count(int(mixed.sum()), 'group')} of rows identical but for their label ({rows}): "
            "nothing in them tells which label is right."
        )
    return notes


def _codes(frame: pd.DataFrame, codes: pd.DataFrame) -> list[str]:
    """Ask about numbers that may stand for a missing value; group columns by the number."""
    found: dict[str, list[str]] = {}
    for column in codes.columns[codes.any()]:
        number = f"{frame.loc[codes[column], column].iloc[0]:g}"
        cells = _count(int(codes[column].sum()), "cell")
        found.setdefault(number, []).append(f"{column} ({cells})")
    what = "is far from all other numbers: a code for a missing value?"
    return [f"{', '.join(columns)}: {number} {what}" for number, columns in found.items()]


def _telltales(table: OwnTable) -> list[str]:
    """Ask about columns that predict the label alone; codes for missing values are masked."""
    known = table.mended.mask(table.codes.reindex(columns=table.mended.columns, fill_value=False))
    labels, is_class = known[table.task.target], table.task.label.classes > 0
    columns = [c for c in table.task.features if is_telltale(known[c], labels, is_class=is_class)]
    if not columns:
        return []
    each = "each alone" if len(columns) > 1 else "it alone"
    what = "tells rows of different labels apart" if is_class else "tells the label"
    return [
        f"{', '.join(columns)}: {each} nearly always {what}. Is it known before the label is, and "
        "does the link hold wherever the model will be used?"
    ]


def check_target(frame: pd.DataFrame, target: str, name: str = NAME) -> None:
    """Raise :class:`DataError` if the target is not a column; suggest the closest name.

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
    if look_like_cells(list(known)):
        listed += f" If this is a file, {NO_NAMES}"
    hint = f"did you mean {known[near[0]]!r}?" if near else listed
    raise DataError(f"{name} has no column {str(target)!r}; {hint}")


def check_names(frame: pd.DataFrame, name: str = NAME) -> None:
    """Raise :class:`DataError` if two columns have the same name; 1 and "1" count as the same.

    Examples
    --------
    >>> check_names(pd.DataFrame({"age": [], "income": []}))
    """
    names = pd.Index([str(column) for column in frame.columns])
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise DataError(f"{name} has two columns named {twice!r}; rename one of them.")


def without_label(labels: pd.Series) -> np.ndarray:
    """Return True where the label is missing or infinite.

    Examples
    --------
    >>> without_label(pd.Series(["a", " ", "NA"])).tolist()
    [False, True, True]
    """
    if is_numeric_dtype(labels.dtype):
        return ~np.isfinite(labels.to_numpy(dtype=float, na_value=np.nan))
    return as_text(labels, NO_LABEL).isna().to_numpy()


def _label(found: _Columns, labels: pd.Series, kind: Kind) -> tuple[Label, pd.Series]:
    """Return the type of the label, and the labels as the task needs them."""
    numbers = as_numbers(labels)
    odd = _odd_labels(labels[numbers.isna()])
    if kind == "regression" and odd:
        raise DataError(
            f"the label {labels.name!r} is not a number everywhere ({odd}): correct these cells, "
            "or empty them to leave their rows out."
        )
    few = FEW_NUMBERS if _are_whole(numbers) else 2
    named = isinstance(labels.dtype, pd.CategoricalDtype) or is_bool_dtype(labels.dtype)
    is_number = numbers.notna().all() and not named
    if kind == "regression" or (kind == "auto" and is_number and numbers.nunique() > few):
        return _number_label(numbers)
    text = _one_spelling(found, as_text(labels, NO_LABEL)).astype(object)
    names = tuple(sorted(text.unique()))
    if len(names) < 2:
        raise DataError(f"the label {labels.name!r} has only 1 class ({names[0]}); two are needed.")
    most = min(MOST_CLASSES, len(text) // 2)
    if kind == "auto" and is_number and len(names) > 2:
        found.notes.append(
            f"{labels.name} has only {len(names)} different numbers and was read as classes; "
            "choose regression to read it as a number."
        )
    if len(names) > most:
        raise DataError(
            f"the label {labels.name!r} has {len(names)} different values in {len(text)} rows, too "
            f"many for classes (at most {most})"
            + ("; they are numbers: choose regression." if is_number else ", and not all numbers.")
            + (f" All but {odd} are numbers." if 0.5 < numbers.notna().mean() < 1 else "")
        )
    return Classes(names), text


def _number_label(numbers: pd.Series) -> tuple[Label, pd.Series]:
    if numbers.nunique() < 2:
        raise DataError(f"the label {numbers.name!r} has only one value: nothing to learn.")
    values = numbers.astype(np.int64) if _are_whole(numbers) else numbers
    far = is_far(values)  # a few of these should not set the scale
    near = values[~far] if far.mean() <= FEW_FAR else values
    return Number(float(near.min()), float(near.max())), values


def _are_whole(numbers: pd.Series) -> bool:
    """Return whether all known numbers are whole, and small enough to be exact as floats."""
    known = numbers.dropna()
    return bool((known % 1 == 0).all()) and not float(known.abs().max()) >= 2**53


def _odd_labels(odd: pd.Series) -> str:
    """Say how many labels are not numbers, and give an example; empty if there are none."""
    if odd.empty:
        return ""
    first = odd.astype(object).iloc[0]
    return f"{_count(len(odd), 'row')}, such as {first!r} in row {_row(odd.index[0])}"


def _one_spelling(found: _Columns, text: pd.Series) -> pd.Series:
    """Merge class names that differ only in case or a final full stop, or as 1 and 1.0 do."""
    key = text.str.casefold().str.rstrip(".").where(text.str.len() > 1, text)
    numbers = pd.to_numeric(text, errors="coerce")
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
    """Add one column to the features, or note why it is left out."""
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype) and is_numeric_dtype(kind.categories.dtype):
        _add_category(found, name, as_text(values))
    elif is_numeric_dtype(kind) and not is_bool_dtype(kind):
        numbers = as_numbers(values)
        written = values if values.nunique() == 1 else values.where(numbers.isna())
        _add_number(found, name, as_text(written), numbers)
    elif is_timedelta64_dtype(kind):
        days = values / pd.Timedelta(days=1)
        _add_span(found, name, as_text(days), days, "days")
    elif is_datetime64_any_dtype(kind):
        _add_date(found, name, as_text(values), values)
    else:
        _read_cells(found, name, values)


def _read_cells(found: _Columns, name: str, values: pd.Series) -> None:
    """Add a column whose type shows only in how its cells are written."""
    cells = as_text(values)
    if not _has_readable(cells):
        cells = as_text(values, MISSING_WORDS - {"none", "nil"})  # like few and many
    cells = _say_missing(found, name, cells, values)
    if are_codes(cells.dropna()):
        found.notes.append(f"{name} was read as a code, because numbers in it begin with 0.")
        _add_category(found, name, cells)
        return
    ways = (as_numbers, _add_number), (as_spans, _add_span), (as_dates, _add_date)
    for read, add in ways:
        values = read(cells)
        said = cells.notna()
        if values.nunique() > FEW_NUMBERS:
            said &= ~stands_for_missing(cells, values)
        if said.any() and values.notna().sum() >= MOSTLY * said.sum():
            add(found, name, cells, values)
            return
    _add_category(found, name, cells)


def _has_readable(cells: pd.Series) -> bool:
    """Return whether any cell is a number or a date."""
    words = cells.dropna().drop_duplicates()
    return bool(as_numbers(words).notna().any() or as_dates(words).notna().any())


def _say_missing(found: _Columns, name: str, cells: pd.Series, values: pd.Series) -> pd.Series:
    """Count the words read as missing; with only one other word they are a category."""
    text = as_text(values, frozenset([""]))
    words = text[cells.isna() & values.notna()].dropna()
    if words.empty:
        return cells
    if cells.nunique() == 1:
        return text
    listed = ", ".join(map(repr, words.value_counts().index[:3]))
    found.missing.setdefault(listed, {})[name] = len(words)
    return cells


def _missing(found: _Columns) -> list[str]:
    """Say how many cells were read as missing, in one line for columns with the same words."""
    lines = []
    for words, counts in found.missing.items():
        listed = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
        lines.append(f"Cells read as missing ({words}): {listed}.")
    return lines


def _add_number(found: _Columns, name: str, cells: pd.Series, numbers: pd.Series) -> None:
    known = numbers.dropna()
    if _left_out(found, name, known, cells):
        return
    whole = bool((known % 1 == 0).all())
    named_id = whole and ID_NAME.search(name)
    if (whole and len(known) == len(numbers) and _counts_up(known)) or (
        named_id and known.is_unique
    ):
        found.leave_out_numbering(name, "it numbers the rows")
        return
    if named_id and known.nunique() > len(known) / 2:
        found.leave_out_numbering(name, f"it is {IDENTIFIER}")
        return
    if named_id:
        found.notes.append(
            f"{name} was read as a number; leave it out if it only tells what a row is about."
        )
    if any(unit := unit_of(cells)):
        found.notes.append(f"{name} was read without its unit, {''.join(unit).strip()!r}.")
    if sizes_of(cells).gt(1).any():
        found.notes.append(f"{name}: K, M and B were read as thousands, millions and billions.")
    if has_point_thousands(without_unit(cells)):
        found.notes.append(f"{name}: points were read as separators of thousands.")
    exact = _are_whole(numbers) and len(known) == len(numbers)
    filled = numbers.astype(np.int64) if exact else numbers
    if limits := int(cells.dropna().str.match(LIMIT).sum()):
        found.notes.append(f"{name}: in {_count(limits, 'cell')} < or > was left out.")
    _say_unread(found, name, cells, numbers)
    found.add(name, filled, mended_numbers(filled, cells))


def _counts_up(numbers: pd.Series) -> bool:
    """Return whether numbers go up by one from row to row; rows without a label are missing."""
    steps, rows = numbers.diff().dropna(), numbers.index
    in_order = pd.api.types.is_integer_dtype(rows.dtype) and rows.is_monotonic_increasing
    return bool((steps == 1).all() or (in_order and (numbers - rows).nunique() == 1))


def _add_span(
    found: _Columns,
    name: str,
    cells: pd.Series,
    spans: pd.Series,
    unit: str = "hours or minutes",
) -> None:
    if _left_out(found, name, spans, cells):
        return
    found.notes.append(f"{name} is a span of time; read as {unit}.")
    found.add(found.free(f"{name} ({unit})"), spans, spans, source=name)


def _add_date(found: _Columns, name: str, cells: pd.Series, dates: pd.Series) -> None:
    dates = dates.dt.tz_localize(None)
    if _left_out(found, name, dates, cells):
        return
    parts = {
        "days": (dates - dates.min()) / pd.Timedelta(days=1),
        "month": dates.dt.month,
        "weekday": dates.dt.day_of_week,
        "hour": dates.dt.hour,
    }
    if dates.max() < NO_DAY + pd.Timedelta(days=1) and dates.min() >= NO_DAY:
        parts = {"hours since midnight": (dates - NO_DAY) / pd.Timedelta(hours=1)}
    made = {part: column.astype(float) for part, column in parts.items() if column.nunique() > 1}
    slips = unreadable(dates, cells)
    for part, column in made.items():
        mended = column.mask(slips, column.median())
        found.add(found.free(f"{name} ({part})"), column, mended, source=name)
    words = [f"days since {dates.min():%Y-%m-%d}" if part == "days" else part for part in made]
    _say_unread(found, name, cells, dates)
    order = f", {order}" if (order := date_order(cells)) else ""
    what = "a date" if "weekday" in parts else "a time of day"
    found.notes.append(f"{name} is {what}{order}; read as {', '.join(words)} (numbers).")


def _add_category(found: _Columns, name: str, text: pd.Series) -> None:
    known, near = text.dropna(), misspelt(text)
    meant = mended_words(text, near)
    counts = meant.value_counts()
    if _left_out(found, name, known, text):
        return
    if len(counts) > max(FEW_NUMBERS, len(known) / 2):
        words, unread = known.str.split().str.len().mean(), as_numbers(known).isna()
        what = "free text" if words > 2 else IDENTIFIER
        if 0 < unread.mean() < 0.5:
            what = f"numbers except for {_count(int(unread.sum()), 'cell')}, such as "
            what += f"{known[unread].iloc[0]!r}; correct these, or empty them"
        if what == IDENTIFIER:
            found.leave_out_numbering(name, f"it is {what}")
        else:
            found.notes.append(f"{name} was left out: it is {what}.")
            found.unsaid[name] = text
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
        found.unsaid[name] = text
        text, meant = text.mask(rest, OTHER), meant.mask(rest, OTHER)
        found.notes.append(
            f"{name} has {len(counts)} categories; all but the {len(kept)} most frequent were read "
            f"as one, {OTHER}."
        )
    found.categorical.append(name)
    found.add(name, *(t.astype(object).where(t.notna(), np.nan) for t in (text, meant)))


def _say_unread(found: _Columns, name: str, cells: pd.Series, read: pd.Series) -> None:
    unread, slips = cells.notna() & read.isna(), unreadable(read, cells)
    often, digits = unread & ~slips, cells.str.contains(r"\d", na=False)
    for which, lines, what in (
        (slips, found.checks, "that cannot be read like the others"),
        (often & digits, found.checks, "that cannot be read, and count as missing"),
        (often & ~digits, found.notes, "with a word for a missing value"),
    ):
        such_as = f"such as {str(cells[which].iloc[0])[:40]!r}, " if which.any() else ""
        lines += _cells(name, which, cells.index, what, such_as)


def _cells(
    column: str, which: np.ndarray | pd.Series, names: pd.Index, what: str, such_as: str = ""
) -> list[str]:
    """Describe some cells of a column and name their rows; empty if there are none."""
    if not which.any():
        return []
    rows = rows_in_words(names[which])
    return [f"{column}: {_count(int(which.sum()), 'cell')} {what} ({such_as}{rows})."]


def rows_in_words(names: pd.Index) -> str:
    """Name the first five rows; rows without a name are counted from 1.

    Examples
    --------
    >>> rows_in_words(pd.Index([0, 6]))
    'rows 1, 7'
    """
    rows = "row" if len(names) == 1 else "rows"
    return f"{rows} {', '.join(map(_row, names[:5]))}{', ...' if len(names) > 5 else ''}"


def _row(name: object) -> str:
    """Return the number of a row, counted from 1, or its name."""
    return str(name + 1 if isinstance(name, int | np.integer) else name)


def _left_out(found: _Columns, name: str, values: pd.Series, cells: pd.Series) -> bool:
    """Note that a column is left out, if it is empty or the same everywhere.

    A column with one value and empty cells becomes a category: whether a box was ticked, say.
    """
    if values.nunique() > 1:
        return False
    if cells.nunique() == 1 and cells.isna().any():
        only = cells.dropna().iloc[0]
        found.notes.append(f"{name} is {only!r} or missing; read as two categories.")
        _add_category(found, name, cells.fillna(MISSING))
        return True
    what = "the same everywhere" if values.notna().any() else "empty"
    found.notes.append(f"{name} was left out: it is {what}.")
    return True


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
