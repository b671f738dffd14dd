"""Read a user's table: CSV or Parquet, from any source, within fixed size limits.

Cells of a CSV file are kept as text, so that a report can show them and a repaired file can leave
every other cell unchanged. What a column means is decided elsewhere.
"""

import codecs
import csv
import io
import os
import re
import statistics
import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from demix_lite.errors import DemixError

MOST_BYTES = 512 * 2**20
MOST_ROWS = 200_000
MOST_COLUMNS = 500
MOST_CELLS = 10_000_000
LIMITS = (
    f"at most {MOST_ROWS:,} rows, {MOST_COLUMNS} columns, {MOST_CELLS:,} cells "
    f"and {MOST_BYTES >> 20} MB"
)
NO_NAMES = "the first line looks like a row; put a line of column names above it."
DELIMITERS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
"""A first line that spreadsheets write to name the separator."""

FIRST_LINES = 20
"""Number of lines from which the separator is found."""

NOT_TEXT = {
    b"PK\x03\x04": "an Excel or zip file: save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel file: save the sheet as CSV",
    b"\x1f\x8b": "compressed: unpack it",
}
OTHER_TEXT = {
    r"<(!doctype|html|\?xml)\b": "a web page or XML: save the table as CSV",
    r"\[\s*\{|\{\s*\"": "JSON: save the table as CSV",
}
MARKS = (  # UTF-32 before UTF-16: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_user_file(path: Path | str, *, encoding: str | None = None) -> pd.DataFrame:
    r"""Read a CSV or Parquet file, or raise an error that says in one sentence why not.

    Parameters
    ----------
    path : path
        ``.parquet`` or ``.pq`` is Parquet, everything else is text with a separator (comma,
        semicolon, tab, bar, or blanks as in an aligned table) and one line of column names.
    encoding : str, optional
        Encoding of the text; by default UTF-8. A byte order mark takes precedence.

    Returns
    -------
    DataFrame
        Cells as text (CSV) or with the types of the file (Parquet), rows numbered from 0. For text
        files, ``attrs`` has the separator, the encoding, the line endings and the column names with
        their blanks, as arguments of ``to_csv``, and ``short_rows``: rows that end before the last
        column, whose missing cells were read as empty.

    Raises
    ------
    DemixError
        If the file is missing, empty, too large, not text, or not a table.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "t.csv"
    >>> _ = file.write_text('a;b\n1;"x\ny"\n')
    >>> read_user_file(file).to_dict("list")
    {'a': ['1'], 'b': ['x\ny']}
    """
    path = Path(path)
    if not path.is_file():
        what = f"{path} is a folder, not a file." if path.is_dir() else f"there is no file {path}."
        raise DemixError(what)
    size = path.stat().st_size
    if not size:
        raise DemixError(f"{path} is empty: it needs a line of column names and rows below it.")
    if size > MOST_BYTES:
        raise DemixError(f"{path} has {size >> 20:,} MB: {_too_large()}")
    if not os.access(path, os.R_OK):
        raise DemixError(f"{path} cannot be read: you have no permission.")
    is_parquet = path.suffix.lower() in (".parquet", ".pq")
    frame = _read_parquet(path) if is_parquet else _read_text(path, encoding)
    if frame.empty:
        raise DemixError(f"{path} has column names but no rows.")
    return frame


def check_shape(rows: int, names: list[str], where: object) -> None:
    """Raise an error if a table exceeds the limits or has duplicate column names.

    Examples
    --------
    >>> check_shape(3, ["a", "b"], "t.csv")
    """
    if len(names) > MOST_COLUMNS or rows > MOST_ROWS or rows * len(names) > MOST_CELLS:
        count = f"{rows:,}" if rows <= MOST_ROWS else f"more than {MOST_ROWS:,}"
        raise DemixError(f"{where} has {count} rows and {len(names):,} columns: {_too_large()}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        what = NO_NAMES if look_like_cells(names) else "rename them."
        raise DemixError(f"{where} has more than one column named {twice[0]!r}: {what}")


def look_like_cells(names: Sequence[str]) -> bool:
    """Return whether names look like the cells of a row: several numbers that do not count up.

    Examples
    --------
    >>> look_like_cells(["39", "State-gov", "77516"]), look_like_cells(["city", "2023", "2024"])
    (True, False)
    """
    numbers = pd.to_numeric(pd.Series(names, dtype=object), errors="coerce").dropna()
    return len(numbers) > 1 and not bool((numbers.diff().dropna() == 1).all())


def _too_large() -> str:
    return f"the limit is {LIMITS}; draw a sample, or leave columns out."


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        about = pq.ParquetFile(path)
        check_shape(about.metadata.num_rows, list(about.schema_arrow.names), path)
        # Read integers with missing values as objects: as floats, long ones would lose digits.
        frame = about.read().to_pandas(ignore_metadata=True, integer_object_nulls=True)
        for field in about.schema_arrow:
            if pa.types.is_integer(field.type) and frame[field.name].isna().any():
                unsigned = pa.types.is_unsigned_integer(field.type)
                frame[field.name] = frame[field.name].astype("UInt64" if unsigned else "Int64")
        return frame
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DemixError(f"{path} is not a Parquet file that can be read.") from error


def _read_text(path: Path, encoding: str | None) -> pd.DataFrame:
    raw = path.read_bytes()
    for mark, what in NOT_TEXT.items():
        if raw.startswith(mark):
            raise DemixError(f"{path} is {what} first.")
    marked = (name for mark, name in MARKS if raw.startswith(mark))
    encoding = next(marked, encoding or "utf-8")
    text = _decoded(raw, path, encoding)
    if "\0" in text:
        halves = {"utf-16-le": raw[1:1000:2], "utf-16-be": raw[:1000:2]}
        wide = next((name for name, half in halves.items() if not any(half)), "")
        what = f"say --encoding {wide}" if wide else "give a CSV or Parquet file"
        raise DemixError(f"{path} is not {encoding} text (it holds zero bytes): {what}.")
    for begin, what in OTHER_TEXT.items():
        if re.match(rf"\s*({begin})", text, re.IGNORECASE):
            raise DemixError(f"{path} is {what} first.")
    told = SEPARATOR_LINE.match(text)
    text = (text[told.end() :] if told else text).lstrip("\r\n")
    header, delimiter = _header(text, path, (told[1],) if told else DELIMITERS)
    if len(header) == 1 and _blanks_separate(text):
        text = _with_single_blanks(text)
        header, delimiter = _header(text, path, (" ",))
    names = [name.strip() or f"column {i}" for i, name in enumerate(header, 1)]
    # A rough count, too high if cells contain line breaks: it avoids parsing a huge table.
    check_shape(min(text.count("\n"), MOST_ROWS), names, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas would drop cells
            frame = pd.read_csv(
                io.StringIO(text),
                sep=delimiter,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                skip_blank_lines=len(names) > 1,
                nrows=MOST_ROWS + 1,
            )
    except (pd.errors.ParserWarning, ValueError) as error:
        reason = str(error).strip().split("\n")[-1].removeprefix("Error tokenizing data. C error: ")
        if isinstance(error, pd.errors.ParserWarning):
            reason = (
                "a row has more cells than there are column names: a separator at its end, or a "
                "first column without a name?"
            )
        if len(names) == 1:
            reason = "its first line is one cell: is it the line of column names?"
        raise DemixError(f"{path} is not a table of rows of equal length ({reason}).") from error
    frame.columns = pd.Index(names)
    check_shape(len(frame), names, path)
    frame = frame.fillna("")
    ends = "\r\n" if "\r\n" in text[: 2**20] else "\n"
    as_read = {"sep": delimiter, "encoding": encoding, "lineterminator": ends}
    short = _short_rows(text, delimiter, len(names), len(frame))
    frame.attrs = {**as_read, "header": header, "short_rows": short}
    return frame


def _short_rows(text: str, delimiter: str, columns: int, rows: int) -> list[int]:
    """Return which rows end before the last column; pandas pads them silently."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        cells = [len(line) for line in lines if len(line) > 1 or "".join(line).strip()][1:]
    except csv.Error:  # a cell is too long for this reader
        return []
    # If the two readers disagree on the number of rows, rows cannot be matched.
    return [row for row, count in enumerate(cells) if count < columns and len(cells) == rows]


def _decoded(raw: bytes, path: Path, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except LookupError as error:
        raise DemixError(f"unknown encoding {encoding!r}; use utf-8, latin-1 or cp1252.") from error
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        raise DemixError(
            f"{path} is not {encoding} text (byte {at + 1:,}): save it as UTF-8, "
            "or say what it is, for example --encoding latin-1."
        ) from error


def _header(text: str, path: Path, delimiters: Sequence[str]) -> tuple[list[str], str]:
    """Return the column names and the separator: the one that splits the first lines best."""
    found = [(_first_lines(text[: 2**20], delimiter), delimiter) for delimiter in delimiters]
    (names, *_), delimiter = max(found, key=lambda lines: _how_alike(lines[0]))
    if not any(name.strip() for name in names):
        raise DemixError(f"{path} has no column names in its first line.")
    return names, delimiter


def _blanks_separate(text: str) -> bool:
    """Return whether blanks split the names, and the first rows into as many cells or one more."""
    names, *rows = map(len, _first_lines(_with_single_blanks(text[: 2**20]), " "))
    return names > 1 and (set(rows) == {names} or set(rows) == {names + 1})


def _with_single_blanks(text: str) -> str:
    return re.sub(" +", " ", re.sub("^ +| +$", "", text, flags=re.MULTILINE))


def _first_lines(text: str, delimiter: str) -> list[list[str]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    found: list[list[str]] = []
    with suppress(csv.Error):  # a very long line without this separator
        found.extend(line for line in islice(lines, FIRST_LINES) if line)
    return found or [[]]


def _how_alike(lines: list[list[str]]) -> tuple[bool, float, int]:
    """Return whether rows are split, which share has as many cells as the first line, and how many.

    The three values rank the separators, from first to last.
    """
    names, *rows = map(len, lines)
    usual = max(statistics.multimode(rows or [names]))
    return usual > 1, rows.count(names) / max(len(rows), 1), names
