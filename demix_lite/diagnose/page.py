"""The report: one self-contained HTML page."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader

from demix_lite import report
from demix_lite.debugger.estimator import exact, leading_rows
from demix_lite.diagnosis import ERROR_TYPES

if TYPE_CHECKING:
    from demix_lite.diagnose.command import Outcome

MOST_CELLS, MOST_COMPARED, MOST_BARS = 40, 15, 8
LONGEST_CELL = 80
PARTS = 60
"""Number of parts of the file in the picture of where its flagged rows are."""


def report_page(outcome: "Outcome") -> str:
    """Return the whole page; all text from the file is escaped."""
    environment = Environment(loader=PackageLoader("demix_lite", "diagnose"), autoescape=True)
    return environment.get_template("report.html.jinja").render(
        about=outcome.summary,
        report=report,
        places=_places(outcome),
        validated=outcome.validation is not None,
        groups=list(_groups(outcome)),
    )


def _places(outcome: "Outcome") -> dict[str, Any] | None:
    """Count the flagged rows along the file, relative to the part with the most."""
    rows = len(outcome.raw)
    parts = min(PARTS, rows)
    flags = outcome.debugger.diagnosis_.reindex(outcome.raw.index)
    where = {k: np.flatnonzero(flags[f"{k}_error"].eq(True)) * parts // rows for k in ERROR_TYPES}
    counts = {k: np.bincount(found, minlength=parts) for k, found in where.items() if len(found)}
    most = max((int(count.max()) for count in counts.values()), default=0)
    lines = {kind: (count / most).tolist() for kind, count in counts.items()}
    return {"lines": lines, "most": most, "each": -(-rows // parts)} if most else None


def _groups(outcome: "Outcome") -> Iterator[dict[str, Any]]:
    """Yield the leading rows of every error type; no row appears twice."""
    shown: set[Any] = set()
    for kind, rows in leading_rows(outcome.debugger.diagnosis_).items():
        if len(rows):
            title, lines = _counts(outcome, kind)
            cards = [_card(outcome, row) for row in rows if row not in shown]
            shown.update(rows)
            yield {"kind": kind, "cards": cards, "title": title, "bars": lines}


def _counts(outcome: "Outcome", kind: str) -> tuple[str, list[tuple[str, int]]]:
    """Count which labels are suspicious, or the cells of which columns."""
    lines = outcome.debugger.diagnosis_
    flagged = lines[lines[f"{kind}_error"]]
    if kind == "label" and outcome.summary["kind"] == "classification":
        given = outcome.raw.loc[flagged.index, outcome.target].astype(object).map(_cell)
        title = "Given label → label that fits better"
        found = given + " → " + flagged.suggested_label
    elif kind == "feature":
        title = "Columns of the cells that stand out"
        found = flagged.suspicious_cells.map(_split).explode().dropna()
    else:
        return "", []
    return title, Counter(found).most_common(MOST_BARS)


def _split(cells: str) -> list[str]:
    return cells.split("; ") if cells else []


def _card(outcome: "Outcome", row: Any) -> dict[str, Any]:
    """Collect everything the report says about one row."""
    position = outcome.debugger.diagnosis_.index.get_loc(row)
    line, raw = outcome.debugger.diagnosis_.iloc[position], _cells(outcome.raw, row)
    flagged = [kind for kind in ERROR_TYPES if line[f"{kind}_error"]]
    suspicious = _split(line["suspicious_cells"])
    marks = {**dict.fromkeys(suspicious, "mark"), outcome.target: "lab"}
    order = sorted(raw.index, key=lambda c: (c != outcome.target, c not in suspicious))
    # The detector judged the row after its slips were mended: witnesses do not apply to slips.
    by_slip = flagged == ["feature"] and set(suspicious) == set(_with_slip(outcome, position))
    witnesses = [] if by_slip else list(_witnesses(outcome, row))
    used = set(outcome.debugger.table_.source.values())
    return {
        "number": outcome.raw.index.get_loc(row) + 1,
        "flags": [(kind, line[f"{kind}_probability"]) for kind in flagged],
        "reasons": [_reason(outcome, position, kind) for kind in flagged],
        "cells": [
            {"column": c, "value": _cell(raw[c]), "mark": marks.get(str(c), "")}
            for c in order[:MOST_CELLS]
        ],
        "more": max(0, len(order) - MOST_CELLS),
        "witnesses": witnesses,
        "compared": [
            [c, _cell(raw[c]), *(_cell(w["cells"][c]) for w in witnesses)]
            for c in [c for c in order if c == outcome.target or c in used][:MOST_COMPARED]
        ],
    }


def _cells(frame: pd.DataFrame, row: Any) -> pd.Series:
    return frame.loc[[row]].astype(object).iloc[0]  # ``loc[row]`` turns whole numbers into floats


def _cell(value: Any) -> str:
    value = value if pd.api.types.is_scalar(value) else str(value)
    text = "(empty)" if isinstance(value, str) and not value else exact(value)
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _reason(outcome: "Outcome", position: int, kind: str) -> str:
    """Say why the row at a position of the diagnosis is flagged for this error."""
    line = outcome.debugger.diagnosis_.iloc[position]
    if kind == "label":
        given = _cell(outcome.raw.loc[line.name, outcome.target])
        verb = "fits better" if outcome.summary["kind"] == "classification" else "is expected"
        better = line["suggested_label"]
        return (
            f"The label is {given}; according to models that never saw this row, {better} {verb}."
        )
    if kind == "feature":
        if not line["suspicious_cells"]:
            return "Its features do not go together; no single cell stands out."
        suggested = f" Suggested: {line['suggested_values']}." if line["suggested_values"] else ""
        moved = outcome.debugger.table_.moved
        aside = moved.columns if moved is not None and moved.rows[position] else ()
        written = _with_slip(outcome, position)
        unusual = [c for c in _split(line["suspicious_cells"]) if c not in written]
        said = {
            "One column to the side": aside,
            "Written unlike its column": [c for c in written if c not in aside],
            "Unusual for a row of its label": unusual,
        }
        return " ".join(f"{how}: {'; '.join(c)}." for how, c in said.items() if c) + suggested
    named = zip(outcome.debugger.shortcuts_, outcome.summary["shortcuts"], strict=True)
    broken = [words["rule"] for shortcut, words in named if shortcut.breaks[position]]
    if broken:
        return f"It breaks the suspected shortcut {broken[0]}: one side holds without the other."
    return "It goes against a pattern that most rows follow."


def _with_slip(outcome: "Outcome", position: int) -> list[str]:
    """Return the columns in which a row has a slip."""
    table = outcome.debugger.table_
    slips = table.slips.iloc[position]
    return list(dict.fromkeys(table.source[column] for column in slips.index[slips]))


def _witnesses(outcome: "Outcome", row: Any) -> Iterator[dict[str, Any]]:
    """Yield the validation rows that the row harms and helps most."""
    table = outcome.debugger.witnesses_
    rows = outcome.raw if outcome.validation is None else outcome.validation
    for line in table[table["row"] == row].sort_values("influence").itertuples():
        number = rows.index.get_loc(line.validation_row) + 1
        yield {
            "name": f"row {number}" if rows is outcome.raw else f"validation row {number}",
            "influence": line.influence,
            "cells": _cells(rows, line.validation_row),
        }
