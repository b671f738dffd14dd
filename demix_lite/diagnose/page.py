"""The report: one HTML page that needs nothing but itself."""

from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from demix_lite.debugger.estimator import short, suspicion
from demix_lite.diagnosis import ERROR_TYPES

if TYPE_CHECKING:
    from demix_lite.diagnose.command import Outcome

MOST_ROWS = 30
MOST_CELLS = 40
LONGEST_CELL = 80
COLOURS = {"label": "#0072B2", "feature": "#B35900", "spurious": "#00734F"}
NAMES = {"label": "Wrong label", "feature": "Wrong features", "spurious": "Against a shortcut"}
ALWAYS_UNCHECKED = (
    "Whether a suspected shortcut is a true link. The data cannot say that; you can.",
    "Errors that all rows share, such as a unit that is wrong in the whole file.",
    "Whether rows are missing, or come from the wrong place or time.",
    "Cells that were missing when you gave us the file.",
)
STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0;background:#f5f6f8;color:#1c2530;font:16px/1.55 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.2rem}
h1{font-size:1.7rem;line-height:1.25;margin:.6rem 0;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.2rem 0 .6rem}h3{font-size:1.05rem;margin:0 0 .3rem}
.lead{font-size:1.1rem}.dim{color:#566270;font-size:.92rem}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.9rem}
.card{background:#fff;border:1px solid #d9dee5;border-radius:10px;padding:.9rem 1rem;margin:.7rem 0}
.grid .card{margin:0;border-top:5px solid var(--c)}
.big{font-size:1.9rem;font-weight:650;line-height:1.2}
.pill{display:inline-block;color:#fff;background:var(--c);border-radius:99px;padding:.05rem .65rem;
font-size:.85rem;margin:0 .35rem .25rem 0}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.35rem .8rem;
margin:.6rem 0}dl div{min-width:0}dt{color:#566270;font-size:.8rem;overflow-wrap:anywhere}
dd{margin:0;overflow-wrap:anywhere;white-space:pre-wrap}
.mark{background:#fff3b0;border-left:4px solid #b35900;padding-left:.4rem}
.lab{background:#e3f1fb;border-left:4px solid #0072b2;padding-left:.4rem}
.scroll{overflow-x:auto}table{border-collapse:collapse}td,th{padding:.3rem .7rem;text-align:left;
border-bottom:1px solid #d9dee5}svg{max-width:100%;height:auto;display:block}
li{margin:.3rem 0;overflow-wrap:anywhere}details summary{cursor:pointer}
"""


def report_page(outcome: "Outcome") -> str:
    """Return the whole page; every word of the file is escaped."""
    about = outcome.summary
    sections = [
        _head(about),
        _section("What was found", _cards(about)),
        _section("Suspected shortcuts", _shortcuts(about)),
        _section("The most suspicious rows", _rows(outcome)),
        _section("What the repair is worth", _score(about)),
        _section("Self-check", _self_check(outcome.checked)),
        _section("What was not checked", _list([*ALWAYS_UNCHECKED, *_blind(about)])),
        _section("How your columns were read", _list(about["notes"] or ["All of them as given."])),
        _section("How to go on", _next_steps(outcome.checked is None)),
        _foot(about),
    ]
    title = f"Diagnosis of {about['file']}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        + "\n".join(sections)
        + "</main></body></html>\n"
    )


def _head(about: dict[str, Any]) -> str:
    flagged, judged = about["flagged_any"], about["judged"]
    if flagged:
        lead = (
            f"{_rows_in_words(flagged)} of {judged:,} look wrong ({flagged / judged:.1%}). "
            "Look at the rows below before you change anything: a suspicion is not a proof."
        )
    else:
        lead = (
            f"None of the {judged:,} rows looks wrong enough to be flagged. That is no proof that "
            "all are right: see what was not checked."
        )
    what = "a class" if about["kind"] == "classification" else "a number"
    return (
        f"<h1>Diagnosis of {escape(about['file'])}</h1><p class=lead>{lead}</p>"
        f"<p class=dim>Label: {escape(about['target'])} ({what}), from "
        f"{about['features']} features.</p>"
    )


def _rows_in_words(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _cards(about: dict[str, Any]) -> str:
    cards = []
    for kind in ERROR_TYPES:
        said, flagged = about["errors"][kind], about["flagged"][kind]
        if said["seen"]:
            words = (
                f"Estimated share of rows: {said['share']:.1%} "
                f"(95 % interval {said['low']:.1%} to {said['high']:.1%})."
            )
            words += _controls(said)
        elif kind == "spurious":
            words = (
                "No rule on one column explains enough rows well enough to be called a shortcut."
            )
        else:
            words = (
                "The detector cannot see such errors in this table: rows that we broke on purpose "
                "look no more suspicious to it than yours. Nothing is flagged."
            )
        picture = _bar(kind, said) if said["seen"] else ""
        cards.append(
            f'<div class=card style="--c:{COLOURS[kind]}"><h3>{NAMES[kind]}</h3>'
            f"<div class=big>{flagged:,}</div><div class=dim>rows flagged</div>{picture}"
            f"<p class=dim>{words}</p></div>"
        )
    return f"<div class=grid>{''.join(cards)}</div>"


def _controls(said: dict[str, Any]) -> str:
    found = said["controls_found"]
    if found is None:
        return ""
    return f" Of the rows that we broke on purpose, {found:.0%} would be flagged."


def _bar(kind: str, said: dict[str, Any]) -> str:
    """Draw a share between 0 and the next round number, with its interval."""
    top = next(t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if t >= min(said["high"], 1.0))
    low, share, high = (230 * min(said[k], top) / top for k in ("low", "share", "high"))
    alt = f"{NAMES[kind]}: {said['share']:.1%} of rows, {said['low']:.1%} to {said['high']:.1%}"
    return (
        f'<svg viewBox="0 0 240 44" role="img" aria-label="{alt}"><title>{alt}</title>'
        '<rect x="4" y="8" width="230" height="12" fill="#e8ebef"/>'
        f'<rect x="4" y="8" width="{share:.1f}" height="12" fill="{COLOURS[kind]}"/>'
        f'<path d="M{4 + low:.1f} 14H{4 + high:.1f}M{4 + low:.1f} 9v10M{4 + high:.1f} 9v10" '
        'stroke="#000" stroke-width="1.6"/>'
        '<text x="4" y="38" font-size="12" fill="#566270">0 %</text>'
        f'<text x="234" y="38" font-size="12" fill="#566270" text-anchor="end">{top:.0%}</text>'
        "</svg>"
    )


def _shortcuts(about: dict[str, Any]) -> str:
    if not about["shortcuts"]:
        return ""
    lines = [f"{s['rule']}: {_rows_in_words(s['rows'])} break it." for s in about["shortcuts"]]
    return (
        "<p>The rows that look out of place are best explained by these rules. If a rule is true "
        "of the world, keep its rows as they are. If it only holds in the way the data were "
        "collected, a model that learns it will fail the rows that break it: give them more "
        f"weight, or collect more of them.</p>{_list(lines)}"
    )


def _rows(outcome: "Outcome") -> str:
    debugger = outcome.debugger
    chance = suspicion(debugger.diagnosis_)
    chosen = chance[chance > 0].sort_values(ascending=False, kind="stable").index[:MOST_ROWS]
    if not len(chosen):
        return "<p>No row is flagged.</p>"
    cards = "".join(_row_card(outcome, row) for row in chosen)
    return (
        f"<p>The first {len(chosen)}, as they stand in your file (row 1 is the first below the "
        "column names). <span class=mark>Yellow</span>: cells that stand out; "
        "<span class=lab>blue</span>: the label. All rows are in diagnosis.csv.</p>" + cards
    )


def _row_card(outcome: "Outcome", row: Any) -> str:
    line = outcome.debugger.diagnosis_.loc[row]
    raw = outcome.raw.loc[row]
    flagged = [kind for kind in ERROR_TYPES if line[f"{kind}_error"]]
    pills = "".join(
        f'<span class=pill style="--c:{COLOURS[kind]}">{NAMES[kind]} '
        f"{line[f'{kind}_probability']:.0%}</span>"
        for kind in flagged
    )
    suspicious = set(line["suspicious_cells"].split("; ")) - {""}
    order = sorted(raw.index, key=lambda c: (c != outcome.target, c not in suspicious))
    marks = {**dict.fromkeys(suspicious, "mark"), outcome.target: "lab"}
    cells = "".join(
        f'<div class="{marks.get(str(c), "")}"><dt>{escape(str(c))}</dt>'
        f"<dd>{escape(_cell(raw[c]))}</dd></div>"
        for c in order[:MOST_CELLS]
    )
    more = len(order) - MOST_CELLS
    rest = f"<p class=dim>and {more} more columns</p>" if more > 0 else ""
    reasons = _list(_reasons(outcome, row, line, flagged))
    return (
        f"<article class=card><h3>Row {outcome.raw.index.get_loc(row) + 1}</h3>{pills}{reasons}"
        f"<dl>{cells}</dl>{rest}</article>"
    )


def _cell(value: Any) -> str:
    text = short(value) if value != "" else "(empty)"
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _reasons(outcome: "Outcome", row: Any, line: pd.Series, flagged: list[str]) -> list[str]:
    said = []
    if "label" in flagged:
        given = _cell(outcome.raw.loc[row, outcome.target])
        verb = "fits better" if outcome.summary["kind"] == "classification" else "is expected"
        said.append(
            f"The label is {given}; by models that never saw this row, "
            f"{line['suggested_label']} {verb}."
        )
    if "feature" in flagged:
        said.append(_cells_in_words(line))
    if "spurious" in flagged:
        position = outcome.debugger.diagnosis_.index.get_loc(row)
        named = zip(outcome.debugger.shortcuts_, outcome.summary["shortcuts"], strict=True)
        broken = [words["rule"] for shortcut, words in named if shortcut.breaks[position]]
        said.append(
            f"It breaks the suspected shortcut {broken[0]}."
            if broken
            else "It goes against a pattern that most rows follow."
        )
    return [*said, *_witnesses(outcome, row)]


def _cells_in_words(line: pd.Series) -> str:
    if not line["suspicious_cells"]:
        return "Its features do not go together; no single cell stands out."
    typical = f" Typical: {line['suggested_values']}." if line["suggested_values"] else ""
    return f"Unusual for a row of its label: {line['suspicious_cells']}.{typical}"


def _witnesses(outcome: "Outcome", row: Any) -> list[str]:
    """Name the validation rows behind the verdict, with their labels."""
    table = outcome.debugger.witnesses_
    mine = table[table["row"] == row]
    if outcome.validation is None:
        labels, where = outcome.raw[outcome.target], "row"
    else:
        labels, where = outcome.validation, "validation row"
    said = []
    for word, part in (
        ("harms the model most on", mine[mine["influence"] < 0].sort_values("influence")),
        ("helps it most on", mine[mine["influence"] > 0].sort_values("influence")[::-1]),
    ):
        named = ", ".join(
            f"{where} {labels.index.get_loc(w) + 1} (label {_cell(labels.loc[w])}, {i:+.2f})"
            for w, i in zip(part["validation_row"], part["influence"], strict=True)
        )
        if named:
            said.append(f"Learning from it {word} {named}.")
    return said


def _score(about: dict[str, Any]) -> str:
    score = about["score"]
    if score["before"] is None or score["after"] is None:
        return ""
    return (
        f"<p>A model trained on your rows as they are reaches {escape(score['metric'])} "
        f"<b>{score['before']:.4f}</b> on {_rows_in_words(score['rows'])} that it was not trained "
        f"on; after the repair <b>{score['after']:.4f}</b>.</p><p class=dim>Measured on your own "
        "rows that are not flagged, so take it as a hint: only clean test rows from elsewhere "
        "tell for sure.</p>"
    )


def _self_check(checked: pd.DataFrame | None) -> str:
    if checked is None:
        return ""
    lines = "".join(
        f"<tr><th scope=row>{NAMES[kind]}</th><td>{line['errors']:.0f}</td>"
        f"<td>{line['recall']:.0%}</td><td>{line['precision']:.0%}</td></tr>"
        for kind, line in checked.iterrows()
    )
    return (
        "<p>We put errors of our own into your rows and looked whether they are found. Errors that "
        "were there before count as false alarms here, so the truth is rather better.</p>"
        "<div class=scroll><table><tr><th>Error</th><th>Put in</th><th>Found</th>"
        f"<th>Right among flags</th></tr>{lines}</table></div>"
    )


def _blind(about: dict[str, Any]) -> list[str]:
    words = {"label": "Wrong labels", "feature": "Wrong features"}
    return [
        f"{words[kind]}: the detector cannot see them in this table."
        for kind in words
        if not about["errors"][kind]["seen"]
    ] + (["Small table: below 200 rows verdicts say little."] if about["judged"] < 200 else [])


def _next_steps(unchecked: bool) -> str:
    steps = [
        "Read the rows above and correct what you know to be wrong, at its source if you can.",
        "Run the diagnosis again on the corrected file.",
        "Use --repaired to get a copy of your file with the suggestions in it, and compare models "
        "trained on both on test rows that nobody touched.",
    ]
    if unchecked:
        steps.append("Use --self-check to see how far these verdicts can be trusted in your table.")
    return _list(steps)


def _foot(about: dict[str, Any]) -> str:
    return (
        f"<p class=dim>demix_lite {escape(about['version'])}, seed {about['seed']}, "
        f"{about['seconds']:.0f} s. This page needs no network and holds rows of your data: "
        "share it as you would share the file.</p>"
    )
