"""Diagnose a file or a DataFrame: read it, fit the debugger, summarise, write the results."""

import time
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from demix_lite import __version__
from demix_lite.data.user_file import look_like_cells, read_user_file
from demix_lite.debugger import DataDebugger
from demix_lite.debugger.judging import Announce, say_nothing
from demix_lite.debugger.self_check import self_check
from demix_lite.debugger.shortcut_names import NamedShortcut
from demix_lite.detector import ErrorDetector
from demix_lite.diagnose.files import without_formulas, write_together
from demix_lite.diagnose.known import check_known
from demix_lite.diagnose.page import report_page
from demix_lite.diagnosis import ERROR_TYPES, compare
from demix_lite.errors import DemixError
from demix_lite.report import diagnosis_summary, rule_in_words
from demix_lite.tasks.labels import Number
from demix_lite.tasks.own_table import (
    LEAST_ROWS,
    DataError,
    Kind,
    OwnTable,
    check_names,
    check_target,
    rows_in_words,
    without_label,
)
from demix_lite.tasks.reading import as_text, has_decimal_comma, unit_of, without_unit

AS_READ = ("sep", "encoding", "lineterminator", "header")
"""Format of a text file that is kept, so that the repaired file is written in the same way."""

FEW_ROWS = 30
"""Fewer validation rows than this are noted in the report."""

FLAGS = [f"{kind}_error" for kind in ERROR_TYPES]


@dataclass(frozen=True)
class Outcome:
    """The result of diagnosing a file or a table.

    ``raw`` and ``validation`` are the tables as given, with rows numbered from 0 and names as text;
    ``axes`` are the index and the columns that the table had. ``target`` is the label column,
    ``debugger`` was fitted on the rows that have a label, and ``summary`` has the main numbers,
    ready for JSON.
    """

    raw: pd.DataFrame
    target: str
    debugger: DataDebugger
    summary: dict[str, Any]
    validation: pd.DataFrame | None = None
    axes: tuple[pd.Index, pd.Index] | None = None

    def __str__(self) -> str:
        """Summarise the main findings in a few lines."""
        return diagnosis_summary(self.summary)

    def diagnosis(self) -> pd.DataFrame:
        """Return the diagnosis of every row, with the index of the table, numbered from 1."""
        lines = self.debugger.diagnosis_.reindex(self.raw.index).round(4)
        judged = self.raw.index.isin(self.debugger.diagnosis_.index)
        lines[FLAGS] = lines[FLAGS].eq(True).astype(int)
        lines.insert(0, "row", np.arange(1, len(lines) + 1))
        notes = pd.Series("not judged: it has no label", lines.index).mask(judged, "")
        far = (self.debugger.table_.far | self.debugger.table_.codes).set_axis(
            self.debugger.diagnosis_.index
        )
        for row, cells in far[far.any(axis=1)].iterrows():
            notes[row] = f"far from the others: {', '.join(cells.index[cells])}"
        return self._as_given(lines.assign(note=notes))

    def repaired(self) -> pd.DataFrame:
        """Return the table as given, index included, with suggested values in suspicious cells.

        With two classes (not counting classes with too few rows to be learned), a flagged label is
        replaced by the other class. With more possible labels it is emptied: a model learns more
        without the row than from a guess, and the score after the repair is that of such a model.
        """
        table, after = self.debugger.table_, self.debugger.repaired_
        before = table.frame.set_axis(after.index)
        mended = self.raw.copy()
        for column in [c for c in after if table.source.get(str(c), c) == c]:
            new, old = after[column], before[column]
            changed = after.index[(new != old) & ~(new.isna() & old.isna())]
            if len(changed):
                given, kind = self.raw[column], self.raw[column].dtype
                cells, known = given.astype(object), new[changed].dropna()
                cells.loc[changed] = np.nan  # a number moved here may come from an empty cell
                cells.loc[known.index] = _as_in_file(given.loc[after.index], old, known)
                if isinstance(kind, pd.CategoricalDtype):
                    added = [c for c in cells.dropna().unique() if c not in kind.categories]
                    kind = given.cat.add_categories(added).dtype
                elif kind.kind in "iu" and cells.isna().any():
                    kind = given.convert_dtypes().dtype
                mended[column] = cells.astype(kind)
        if not _one_other(table):
            lines, labels = self.debugger.diagnosis_, self.raw[self.target]
            if labels.dtype.kind in "biu":  # a nullable dtype is needed
                labels = labels.convert_dtypes()
            mended[self.target] = labels.mask(labels.index.isin(lines.index[lines["label_error"]]))
        mended = self._as_given(mended)
        return mended if self.axes is None else mended.set_axis(self.axes[1], axis=1)

    def _as_given(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table of all rows with the index that they came with."""
        return table if self.axes is None else table.set_axis(self.axes[0])


def diagnose_file(
    path: Path | str,
    target: str,
    *,
    validation_file: Path | str | None = None,
    known_file: Path | str | None = None,
    encoding: str | None = None,
    announce: Announce = say_nothing,
    **options: Any,
) -> Outcome:
    """Diagnose a CSV or Parquet file; further ``options`` are those of :func:`diagnose_frame`.

    Text files are read as UTF-8 unless ``encoding`` is given; files beside the first one may still
    be UTF-8 then.
    """
    announce("read the file")
    raw = read_user_file(path, encoding=encoding)
    validation, known = (
        None if file is None else _read_beside(file, encoding)
        for file in (validation_file, known_file)
    )
    beside: Any = {"validation": validation, "known": known, "name": Path(path).name}
    return diagnose_frame(raw, target, announce=announce, **beside, **options)


def diagnose_frame(
    frame: pd.DataFrame,
    target: str,
    *,
    validation: pd.DataFrame | None = None,
    known: pd.DataFrame | None = None,
    name: str = "your table",
    kind: Kind = "auto",
    with_self_check: bool = False,
    detector: ErrorDetector | None = None,
    repeats: int | None = None,
    seed: int = 0,
    announce: Announce = say_nothing,
) -> Outcome:
    """Diagnose a table in memory.

    Parameters
    ----------
    frame : DataFrame
        Features and label; rows without a label are not judged.
    target : str
        The label column.
    validation : DataFrame, optional
        Your own validation rows, with the same columns.
    known : DataFrame, optional
        Errors that you know of, to measure how right the flags are; the verdicts do not use them.
        One line per row, with columns among ``label``, ``feature`` and ``spurious``: 1, 0, or
        missing where nobody looked.
    name : str
        Name of the table in the report.
    with_self_check : bool
        Whether to also put known errors into the rows and measure how many are found.
    kind, detector, repeats, seed, announce
        As for :class:`~demix_lite.debugger.DataDebugger`.

    Raises
    ------
    DataError
        If the table is too small or has no usable column or label. It is a ``ValueError``.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> wines = load_wine(as_frame=True).frame
    >>> print(diagnose_frame(wines[wines["target"] < 2], "target", repeats=1))
    your table: ... of 130 rows ... suspicious (classification of target)
    ...
    """
    started = time.perf_counter()
    raw, target = _numbered(frame, name), str(target)
    target = target if target in raw else target.strip()
    truth = None if known is None else check_known(known, len(raw), "the table of known errors")
    held: dict[str, Any] = {}
    if validation is not None:
        validation = _numbered(validation, "the validation table")
        held["X_valid"], held["y_valid"] = _labelled(validation, target, "the validation table")
    detector = detector or ErrorDetector.shipped("tabular-practised")
    how: dict[str, Any] = {"kind": kind, "detector": detector, "repeats": repeats}
    debugger = DataDebugger(**how, random_state=seed, announce=announce)
    debugger.fit(*_labelled(raw, target, name), **held)
    checked = None
    if with_self_check:
        task, rows = debugger.table_.task, debugger.table_.mended
        checked = self_check(task, rows, detector, seed=seed, announce=announce)
    seconds = time.perf_counter() - started
    summary = _summary(name, raw, debugger, checked, truth, seed, seconds)
    return Outcome(raw, target, debugger, summary, validation, (frame.index, frame.columns))


def _read_beside(path: Path | str, encoding: str | None) -> pd.DataFrame:
    """Read a file beside the main one: UTF-8, or in the encoding of the main one."""
    try:
        return read_user_file(path)
    except DemixError:
        if encoding is None:
            raise
        return read_user_file(path, encoding=encoding)


def write_outcome(outcome: Outcome, folder: Path | str, *, repaired: str = "") -> list[Path]:
    """Write ``diagnosis.csv``, ``report.html`` and, if a suffix is given, the repaired file.

    A repaired text file has the separator, the encoding and the line endings of the original. With
    ``repaired`` ``".parquet"`` or ``".pq"``, ``repaired.parquet`` is written; if that cannot hold
    the table, and with any other suffix, ``repaired.csv``.
    """
    as_read: Any = {k: v for k, v in outcome.raw.attrs.items() if k in AS_READ}
    writers = {
        "diagnosis.csv": lambda p: without_formulas(outcome.diagnosis()).to_csv(p, index=False),
        "report.html": lambda p: p.write_text(report_page(outcome), encoding="utf-8"),
    }
    packed = _as_parquet(outcome) if repaired.lower().lstrip(".") in ("parquet", "pq") else None
    if packed is not None:
        writers["repaired.parquet"] = lambda p: p.write_bytes(packed)
    elif repaired:
        writers["repaired.csv"] = lambda p: outcome.repaired().to_csv(p, index=False, **as_read)
    return write_together(Path(folder), writers)


def _as_parquet(outcome: Outcome) -> bytes | None:
    """Return the repaired table as Parquet; None if a column of it cannot be written so."""
    named = outcome.repaired().set_axis(outcome.raw.columns, axis=1)
    with suppress(ValueError, TypeError, NotImplementedError):  # Arrow raises all of these
        return named.to_parquet(index=False)
    return None


def _numbered(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the table with rows numbered from 0 and unique column names as text."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"{name} must be a pandas DataFrame, not a {type(frame).__name__}.")
    check_names(frame, name)
    return frame.reset_index(drop=True).set_axis([str(c) for c in frame.columns], axis=1)


def _labelled(frame: pd.DataFrame, target: str, name: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return features and labels of the rows that have a label."""
    check_target(frame, target, name)
    rows = frame[~without_label(frame[target])]
    if rows.empty:
        raise DataError(f"{name}: the column {target!r} is empty, so there is no label.")
    if len(frame.columns) == 1:
        raise DataError(f"{name} has no column besides {target!r} to learn it from.")
    return rows.drop(columns=target), rows[target]


def _one_other(table: OwnTable) -> bool:
    """Return whether only one other label is possible, not counting rare labels (slips)."""
    frequent = table.frame[table.task.target].value_counts() >= LEAST_ROWS
    return table.task.label.other_known or bool(table.task.label.classes and frequent.sum() == 2)


def _as_in_file(raw: pd.Series, read: pd.Series, new: pd.Series) -> list[Any]:
    """Write new values in the format that the file uses for the column."""
    if pd.api.types.is_numeric_dtype(read.dtype):
        is_whole = (read.dropna() % 1 == 0).all()
        numbers = [round(v) if is_whole else float(f"{v:.15g}") for v in new]
        known = raw[read.notna()]
        if isinstance(known.iloc[0], Decimal):  # its type may not allow more decimals
            most = max(-int(v.as_tuple().exponent) for v in known if isinstance(v, Decimal))
            return [round(Decimal(str(v)), most) for v in numbers]
        if not isinstance(known.iloc[0], str):
            return numbers
        written = as_text(raw)
        before, after = unit_of(written)
        point = "," if has_decimal_comma(without_unit(written)) else "."
        return [before + str(v).replace(".", point) + after for v in numbers]
    often = pd.DataFrame({"read": read, "raw": raw.astype(object)}).value_counts()[::-1]
    spelled = dict(often.index)
    return [spelled.get(value, value) for value in new]


def _summary(
    name: str,
    raw: pd.DataFrame,
    debugger: DataDebugger,
    checked: pd.DataFrame | None,
    truth: pd.DataFrame | None,
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    task, lines = debugger.table_.task, debugger.diagnosis_
    notes = list(debugger.table_.notes)
    if len(lines) < len(raw):
        notes.append(f"Rows without a label, which were not judged: {len(raw) - len(lines):,}.")
    if debugger.score_.rows < FEW_ROWS:
        notes.append(f"Validation rows: {debugger.score_.rows}. So few say little.")
    return {
        "file": name,
        "target": task.target,
        "kind": "classification" if task.label.classes else "regression",
        "rows": len(raw),
        "judged": len(lines),
        "features": len(task.features),
        "flagged": {k: int(lines[f"{k}_error"].sum()) for k in ERROR_TYPES},
        "flagged_any": int(lines[FLAGS].any(axis=1).sum()),
        "errors": {
            said.kind: {
                "seen": said.seen,
                "share": _number(said.share),
                "low": _number(said.low),
                "high": _number(said.high),
                "controls_found": _number(said.found),
                "slips": said.slips,
            }
            for said in debugger.evidence_
        },
        "shortcuts": [
            _shortcut(s, debugger.table_.mended, task.target) for s in debugger.shortcuts_
        ],
        "score": _score(debugger),
        "known": None if truth is None else _how_right(truth, lines),
        "self_check": None if checked is None else _without_nan(checked.round(3)),
        "checks": [*_file_checks(raw), *debugger.table_.checks],
        "notes": notes,
        "seed": seed,
        "seconds": round(seconds, 1),
        "version": __version__,
    }


def _file_checks(raw: pd.DataFrame) -> list[str]:
    """Report what a text file seems to lack: a line of column names, cells at the end of lines."""
    checks = []
    if look_like_cells(raw.attrs.get("header", [])):
        some = ", ".join(raw.columns[:3]) + (", ..." if len(raw.columns) > 3 else "")
        checks.append(f"The first line was read as the names of the columns ({some}): is it a row?")
    short = pd.Index(raw.attrs.get("short_rows", []))
    if len(short):
        said = f"Lines with fewer cells than columns, read as empty there: {len(short):,}"
        checks.append(f"{said} ({rows_in_words(short)}).")
    return checks


def _shortcut(found: NamedShortcut, rows: pd.DataFrame, target: str) -> dict[str, Any]:
    """Describe a shortcut: its rule, how many rows have only one side of it, how many have both."""
    condition = found.rule.holds(rows)
    label = found.rule.matches_target(rows[target])
    return {
        "rule": rule_in_words(found.rule, target),
        "rows": int(found.breaks.sum()),
        "both_sides": int((condition & label).sum()),
        "condition_alone": int((found.breaks & condition).sum()),
        "label_alone": int((found.breaks & ~condition).sum()),
        "label_share": float(label[condition].mean()),
        "label_share_elsewhere": float(label[~condition].mean()),
    }


def _how_right(truth: pd.DataFrame, lines: pd.DataFrame) -> dict[str, Any]:
    """Compare the flags with the known errors; rows that were not judged count as not flagged."""
    flags = lines[FLAGS].set_axis(ERROR_TYPES, axis=1).reindex(truth.index, fill_value=False)
    return _without_nan(compare(truth, flags))


def _without_nan(table: pd.DataFrame) -> dict[str, Any]:
    return table.astype(object).where(table.notna(), None).to_dict("index")


def _score(debugger: DataDebugger) -> dict[str, Any]:
    """Return the scores; for a numeric label, the error in the unit of the file."""
    score, label = debugger.score_, debugger.table_.task.label
    metric, before, after = score.metric, score.before, score.after
    if isinstance(label, Number):
        metric = "root mean squared error"
        before, after = (np.sqrt(v) * (label.high - label.low) for v in (before, after))
    return {
        "metric": metric,
        "better": "larger" if score.larger_is_better else "smaller",
        "before": _number(before),
        "after": _number(after),
        "clear": score.clear,
        "rows": score.rows,
    }


def _number(value: float) -> float | None:
    return None if not np.isfinite(value) else round(float(value), 4)
