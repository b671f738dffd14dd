"""Report the results of a run in words and tables."""

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import pandas as pd

from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.errors import DemixError, refuse_unknown
from demix_lite.tasks.base import Rule, Task

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

VARIANTS = {
    "dirty": "trained on the dirty rows",
    "repaired": "after our repair",
    "oracle": "repaired with the true errors",
    "clean": "trained on clean rows",
}

ERROR_NAMES = {
    "label": "Wrong label",
    "feature": "Wrong features",
    "spurious": "Against a shortcut",
}
"""Names of the error types in reports."""

MANY = 0.1
"""Flagged share of a table from which a report warns that many flags may be wrong."""

MARK = "background: #fff3b0; color: #000"


def detection_table(row: Mapping[str, Any]) -> pd.DataFrame:
    """Return F1 and average precision per error type, as a table.

    Examples
    --------
    >>> row = {f"{m}_{k}": 0.5 for m in ("f1", "ap") for k in ERROR_TYPES} | {"f1_macro": 0.5}
    >>> detection_table(row).index.tolist()
    ['label', 'feature', 'spurious', 'mean']
    """
    measures = {"F1": "f1", "average precision": "ap"}
    table = pd.DataFrame(
        {said: {kind: row[f"{m}_{kind}"] for kind in ERROR_TYPES} for said, m in measures.items()}
    )
    table.loc["mean"] = table.mean()
    return table


def performance_table(row: Mapping[str, Any]) -> pd.DataFrame:
    """Return the task metric of the four models, overall and in the worst group.

    All clicks in a group may be equal, so groups have an accuracy instead of an AUC.
    """
    worst = "worst group (accuracy)" if row["metric_name"] == "AUC" else "worst group"
    return pd.DataFrame(
        {
            row["metric_name"]: [row[f"metric_{name}"] for name in VARIANTS],
            worst: [row[f"worst_group_{name}"] for name in VARIANTS],
        },
        index=list(VARIANTS.values()),
    )


FEW_BLOCKS = 5
"""Maximum number of blocks of samples that an axis label lists."""


def recovered(row: Mapping[str, Any]) -> float:
    """Return the share of the distance from dirty to oracle that the repair recovers.

    Works for metrics in either direction; NaN when the oracle is no better than the dirty model.

    Examples
    --------
    >>> errors = {"metric_dirty": 0.3, "metric_repaired": 0.14, "metric_oracle": 0.1}
    >>> recovered(errors | {"metric_better": "lower"})
    0.8
    """
    up = 1 if row["metric_better"] == "higher" else -1
    distance = up * (row["metric_oracle"] - row["metric_dirty"])
    gain = up * (row["metric_repaired"] - row["metric_dirty"])
    return round(gain / distance, 4) if distance > 0 else float("nan")


def worth_in_words(row: Mapping[str, Any]) -> str:
    """Say how the gain of the repair compares with that of knowing the true errors.

    Examples
    --------
    >>> found = {"metric_dirty": 0.70, "metric_repaired": 0.78, "metric_oracle": 0.80}
    >>> worth_in_words(found | {"metric_better": "higher", "metric_name": "accuracy"})
    'the repair gained 80% of what knowing the true errors gains'
    """
    share = recovered(row)
    if share != share:
        change = row["metric_repaired"] - row["metric_dirty"]
        return (
            "there was nothing to gain, because knowing the true errors does not help here; the "
            f"repair changed {row['metric_name']} by {change:+.4f}"
        )
    if share < 0:
        return "the repair did harm here"
    if share > 1:
        return "the repair gained more than knowing the true errors does"
    return f"the repair gained {share:.0%} of what knowing the true errors gains"


def blocks(values: pd.Series, name: str) -> str:
    """Describe the order of validation samples sorted by a value, block by block if few.

    Examples
    --------
    >>> blocks(pd.Series(["no", "yes", "no"]), "answer")
    'validation samples: 2 of no, then 1 of yes'
    """
    counts = values.value_counts().sort_index()
    if len(counts) > FEW_BLOCKS:
        return f"validation samples, sorted by {name}"
    return "validation samples: " + ", then ".join(f"{n} of {value}" for value, n in counts.items())


def went(gain: float) -> str:
    """Say whether a score got better or worse; a positive ``gain`` is better.

    Examples
    --------
    >>> went(0.02), went(-0.02), went(0.0)
    ('better', 'worse', 'neither better nor worse')
    """
    return "better" if gain > 0 else "worse" if gain < 0 else "neither better nor worse"


def run_report(
    row: Mapping[str, Any], *, data: str = "", flagged: Mapping[str, int] | None = None
) -> str:
    """Return the printed report of one run.

    ``data`` names the data set and its edition; ``flagged`` has the number of flags by error type.
    """
    seconds = {k.removeprefix("seconds_"): v for k, v in row.items() if k.startswith("seconds_")}
    spent = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())
    detected = detection_table(row).map("{:.3f}".format).replace("nan", "-").to_string()
    if row["clean_ratio"] == 1:
        detected = "No errors were put in: every flag is a mistake, and so is every repair."
        if flagged is not None:
            counts = ", ".join(f"{kind} {count:,}" for kind, count in flagged.items())
            detected += f"\nrows flagged: {counts}"
    performed = performance_table(row).map("{:.4f}".format)
    return "\n".join(
        [
            f"{row['task']} ({row['source']}), clean ratio {row['clean_ratio']:g}, "
            f"{row['architecture']}, seed {row['seed']}: {row['train_rows']:,} training rows, "
            f"M = {row['validation']}",
            *([f"data: {data}"] if data else []),
            f"spurious rule: {row['rule']} (the task's shortcut in this run)",
            "",
            "Errors found and named in the training rows (1 is best)",
            detected,
            "",
            "The task model on clean test rows (groups: by label and by condition of the rule, if "
            "they have at least 10 rows)",
            performed.to_string(),
            worth_in_words(row),
            "",
            f"seconds: {spent}",
            f"total {sum(seconds.values()):.1f} s; peak memory {row['peak_mb']:.0f} MB",
            f"device: {row['device']}, {row['cores']} core(s); {row['versions']}",
        ]
    )


def diagnosis_summary(about: Mapping[str, Any]) -> str:
    """Return the printed summary of the diagnosis of a user's file."""
    names = {kind: name.lower() for kind, name in ERROR_NAMES.items()}
    lines = [
        f"{about['file']}: {about['flagged_any']:,} of {about['judged']:,} rows "
        f"{'is' if about['flagged_any'] == 1 else 'are'} suspicious "
        f"({about['kind']} of {about['target']})"
    ]
    for kind in ERROR_TYPES:
        said = about["errors"][kind]
        if kind == "spurious":
            share = "the number in all is not known" if said["seen"] else "no shortcut is suspected"
        elif not said["seen"]:
            share = f"{'others ' if said['slips'] else ''}cannot be seen in this table"
        else:
            count = said["share"] * about["judged"]
            share = (
                f"perhaps {count:,.0f} row{'' if round(count) == 1 else 's'} in all "
                f"({said['share']:.1%}; {said['low']:.1%} to {said['high']:.1%})"
            )
        lines.append(f"  {names[kind]:19} {about['flagged'][kind]:>6,} flagged; {share}")
        lines += [f"    {hint}"] if (hint := flags_beside_share(about, kind)) else []
    lines += [many] if (many := if_many_are_flagged(about)) else []
    lines += [
        f"suspected shortcut: {found['rule']} (this label in {found['label_share']:.0%} of the "
        f"rows with the condition, in {found['label_share_elsewhere']:.0%} of the others)"
        for found in about["shortcuts"]
    ]
    score = about["score"]
    before, after = score["before"], score["after"]
    if before is not None and after is not None:
        lines.append(
            f"{score['metric']} on {score['rows']:,} held-out row{'s' * (score['rows'] != 1)} of "
            f"yours: {in_digits(before, after)} before, {in_digits(after, before)} after the "
            f"repair: {gain_in_words(score)}"
        )
    for kind, row in (about["known"] or {}).items():
        lines.append(f"known errors, {names[kind]}: {how_right(row)}")
    for kind, row in (about["self_check"] or {}).items():
        lines.append(f"self-check, {names[kind]}: {found_and_right(row)} (errors put in by us)")
    lines += [f"plain check: {found}" for found in about["checks"]]
    return "\n".join(lines + [f"note: {note}" for note in about["notes"]])


def flags_beside_share(about: Mapping[str, Any], kind: str) -> str:
    """Explain why far fewer or more rows are flagged than there may be errors.

    Examples
    --------
    >>> about = {"judged": 100, "flagged": {"label": 1}, "errors": {"label": {"share": 0.1}}}
    >>> flags_beside_share(about, "label")[:31]
    'Most rows with this error look '
    """
    flagged, share = about["flagged"][kind], about["errors"][kind]["share"]
    if share is None:
        return ""
    if flagged < share * about["judged"] / 2 - 1:
        return (
            "Most rows with this error look too much like good rows to be flagged; to see the "
            f"likeliest, sort diagnosis.csv by {kind}_probability."
        )
    if flagged > share * about["judged"] * 1.25:
        return (
            "These are more flags than errors, so some of the flagged rows are right: look before "
            "you act."
        )
    return ""


def if_many_are_flagged(about: Mapping[str, Any]) -> str:
    """Say what to do if so many rows are flagged that many of them may be right.

    Examples
    --------
    >>> [if_many_are_flagged({"flagged_any": n, "judged": 100})[:29] for n in (4, 40)]
    ['', 'So many flags may be too many']
    """
    if about["flagged_any"] < MANY * about["judged"]:
        return ""
    return (
        "So many flags may be too many: where the columns say little about the label, rows that "
        "are right but rare look wrong, too. Check some by hand, and note which are wrong in a CSV "
        "file (columns row, label, feature, spurious: 1 or 0). Pass it with --known to see how far "
        "to trust the other flags."
    )


def how_right(row: Mapping[str, Any]) -> str:
    """Say how many of the known errors are flagged and how many flags are right.

    Examples
    --------
    >>> how_right({"errors": 148, "recall": 0.716, "precision": None, "rows": 1000})
    '72% of 148 found, none flagged (truth known for 1,000 rows)'
    """
    return f"{found_and_right(row)} (truth known for {row['rows']:,} rows)"


def found_and_right(row: Mapping[str, Any]) -> str:
    """Say how many errors are found and how many flags are right.

    Examples
    --------
    >>> found_and_right({"errors": 40, "recall": 0.5, "precision": 0.75})
    '50% of 40 found, 75% of the flags right'
    """
    found, right = "none to find", "none flagged"
    if row["recall"] is not None:
        found = f"{row['recall']:.0%} of {row['errors']:,} found"
    if row["precision"] is not None:
        right = f"{row['precision']:.0%} of the flags right"
    return f"{found}, {right}"


def gain_in_words(score: Mapping[str, Any]) -> str:
    """Say whether the repair made the model better on the held-out rows.

    Examples
    --------
    >>> said = {"before": 0.8, "after": 0.7, "better": "larger", "clear": True}
    >>> gain_in_words(said), gain_in_words({**said, "clear": False})
    ('worse', 'no clear difference')
    """
    if not score["clear"]:
        return "no clear difference"
    rises = score["after"] > score["before"]
    return "better" if rises == (score["better"] == "larger") else "worse"


def in_digits(score: float, *others: float) -> str:
    """Format a score: four decimals, or one where it or one of the others is 10 or larger.

    Examples
    --------
    >>> in_digits(0.76), in_digits(1266.04), in_digits(9.96, 10.1)
    ('0.7600', '1,266.0', '10.0')
    """
    return f"{score:.4f}" if max(map(abs, (score, *others))) < 10 else f"{score:,.1f}"


def error_kind(errors: pd.DataFrame) -> pd.Series:
    """Return one word per row: ``none``, the one error type it has, or ``several``.

    Examples
    --------
    >>> flags = pd.DataFrame([[0, 0, 0], [0, 1, 0], [1, 0, 1]], columns=list(ERROR_TYPES))
    >>> error_kind(flags).tolist()
    ['none', 'feature', 'several']
    """
    flags = errors[list(ERROR_TYPES)].astype(bool)
    many = flags.sum(axis=1)
    return flags.idxmax(axis=1).where(many > 0, "none").where(many < 2, "several")


def confusion_table(flag: pd.DataFrame, errors: pd.DataFrame) -> pd.DataFrame:
    """Count the rows by true error (rows) and by flagged error (columns).

    Examples
    --------
    >>> truth = pd.DataFrame([[1, 0, 0], [0, 0, 0]], columns=list(ERROR_TYPES))
    >>> int(confusion_table(truth, truth).loc["label", "label"])
    1
    """
    kinds = ["none", *ERROR_TYPES, "several"]
    counts = pd.crosstab(error_kind(errors), error_kind(flag))
    return counts.reindex(index=kinds, columns=kinds, fill_value=0)


def as_text(frame: pd.DataFrame, digits: int = 6) -> pd.DataFrame:
    """Return every cell as text: floats with ``digits`` significant digits, missing as a dash.

    Examples
    --------
    >>> as_text(pd.DataFrame({"a": [2 / 3, None], "b": ["x", "y"]})).to_dict("list")
    {'a': ['0.666667', '–'], 'b': ['x', 'y']}
    """

    def text(value: object) -> str:
        if pd.isna(value):
            return "–"
        return f"{value:.{digits}g}" if isinstance(value, float) else str(value)

    return frame.map(text).astype(str)


def before_after(
    before: pd.DataFrame, after: pd.DataFrame, below: pd.DataFrame | None = None
) -> "Styler":
    """Show cells as they are now; a changed cell shows ``before → after`` and is highlighted.

    Rows of ``below``, with the same columns, are appended.

    Examples
    --------
    >>> shown = before_after(pd.DataFrame({"age": [30, 40]}), pd.DataFrame({"age": [30, 99]}))
    >>> shown.data["age"].tolist()
    ['30', '40 → 99']
    """
    old, new = as_text(before), as_text(after)
    long = as_text(before, 15), as_text(after, 15)
    changed = long[0] != long[1]
    alike = changed & (old == new)
    old, new = old.mask(alike, long[0]), new.mask(alike, long[1])
    shown = new.where(~changed, old + " → " + new)
    marks = changed.map({True: MARK, False: ""}.get)
    if below is not None:
        shown = pd.concat([shown, below])
        marks = marks.reindex(shown.index, fill_value="")
    wrapped: Any = [{"selector": "td", "props": "white-space: normal"}]
    styled = shown.style.format(escape="html").set_table_styles(wrapped)
    return styled.apply(lambda _: marks, axis=None)


def rule_in_words(rule: Rule, target: str) -> str:
    """Describe a spurious rule in words; ``target`` is the name of the label column.

    Examples
    --------
    >>> rule_in_words(Rule("old", {"age": (70, 99), "years": (16, 16)}, ">50K"), "income")
    'age from 70 to 99 and years = 16 → income = >50K'
    """

    def number(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:g}"

    def claim(column: str, wanted: object) -> str:
        if isinstance(wanted, tuple) and wanted[0] == wanted[1]:
            return f"{column} = {number(wanted[0])}"
        if isinstance(wanted, tuple):
            return f"{column} from {number(wanted[0])} to {number(wanted[1])}"
        names = sorted(wanted) if isinstance(wanted, Set) else [str(wanted)]
        return f"{column} = {' or '.join(names)}"

    condition = " and ".join(claim(column, wanted) for column, wanted in rule.condition.items())
    return f"{condition} → {claim(target, rule.target)}"


def check_family(task: Task, family: str) -> None:
    """Raise if a task is used in the chapter of another family.

    Raises
    ------
    DemixError
        Names the chapter of the task's own family.
    """
    if task.family != family:
        article = "an" if family[0] in "aeiou" else "a"
        raise DemixError(
            f"{task.name} is not {article} {family} task; its chapter is"
            f" notebooks/tasks/{task.family}.ipynb."
        )


def check_parameters(given: Mapping[str, Any], known: Mapping[str, type]) -> None:
    """Raise at once for an unknown or wrongly typed notebook parameter, or a negative seed.

    ``given`` holds the notebook's variables after the parameters cell, usually ``globals()``; names
    beginning with an underscore, modules and functions are ignored. ``known`` maps every parameter
    to its type; ``float`` also accepts an ``int``.

    Raises
    ------
    DemixError
        Names the parameter.

    Examples
    --------
    >>> check_parameters({"seed": "zero"}, {"seed": int})
    Traceback (most recent call last):
    ...
    demix_lite.errors.DemixError: parameter 'seed' must be of type int, not str ('zero').
    """
    plain = (bool, int, float, str, list, dict, type(None))
    for name, value in given.items():
        if name.startswith("_") or name in ("In", "Out") or not isinstance(value, plain):
            continue
        refuse_unknown("parameter", [name], known)
        wanted = (int, float) if known[name] is float else known[name]
        wrong_bool = isinstance(value, bool) and known[name] is not bool
        if wrong_bool or not isinstance(value, wanted):
            raise DemixError(
                f"parameter {name!r} must be of type {known[name].__name__}, "
                f"not {type(value).__name__} ({value!r})."
            )
        if name == "seed" and isinstance(value, int) and value < 0:
            raise DemixError(f"parameter 'seed' must be 0 or larger, not {value}.")
