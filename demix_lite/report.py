"""Say what a run found, in words and tables a person reads."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from demix_lite.diagnosis import ERROR_TYPES
from demix_lite.errors import DemixError, unknown_name

VARIANTS = {
    "dirty": "trained on the dirty rows",
    "repaired": "after our repair",
    "oracle": "repaired with the true errors",
    "clean": "trained on clean rows",
}


def detection_table(row: Mapping[str, Any]) -> pd.DataFrame:
    """Return F1 and average precision per error type, as a table.

    Examples
    --------
    >>> row = {f"{m}_{k}": 0.5 for m in ("f1", "ap") for k in ERROR_TYPES} | {"f1_macro": 0.5}
    >>> detection_table(row).index.tolist()
    ['label', 'feature', 'spurious', 'mean']
    """
    table = pd.DataFrame(
        {
            "F1": [row[f"f1_{kind}"] for kind in ERROR_TYPES],
            "average precision": [row[f"ap_{kind}"] for kind in ERROR_TYPES],
        },
        index=list(ERROR_TYPES),
    )
    table.loc["mean"] = table.mean()
    return table


def performance_table(row: Mapping[str, Any]) -> pd.DataFrame:
    """Return the task metric of the four models, on average and in the worst group."""
    return pd.DataFrame(
        {
            row["metric_name"]: [row[f"metric_{name}"] for name in VARIANTS],
            "worst group": [row[f"worst_group_{name}"] for name in VARIANTS],
        },
        index=list(VARIANTS.values()),
    )


def recovered(row: Mapping[str, Any]) -> float:
    """Return the share of the distance from dirty to oracle that the repair recovers.

    Examples
    --------
    >>> recovered({"metric_dirty": 0.8, "metric_repaired": 0.84, "metric_oracle": 0.85})
    0.8
    """
    distance = row["metric_oracle"] - row["metric_dirty"]
    gain = row["metric_repaired"] - row["metric_dirty"]
    return round(gain / distance, 4) if distance > 0 else float("nan")


def run_report(row: Mapping[str, Any]) -> str:
    """Return the printed report of one run."""
    seconds = {k.removeprefix("seconds_"): v for k, v in row.items() if k.startswith("seconds_")}
    spent = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())
    detected = detection_table(row).map("{:.3f}".format)
    performed = performance_table(row).map("{:.4f}".format)
    return "\n".join(
        [
            f"{row['task']} ({row['source']}), clean ratio {row['clean_ratio']:g}, "
            f"{row['architecture']}, seed {row['seed']}: {row['train_rows']:,} training rows, "
            f"M = {row['validation']}",
            f"spurious rule: {row['rule']} (the task's shortcut in this run)",
            "",
            "Errors found and named in the training rows",
            detected.to_string(),
            "",
            "The task model on clean test rows",
            performed.to_string(),
            f"recovered from dirty to oracle: {100 * recovered(row):.0f} %",
            "",
            f"seconds: {spent}; total {sum(seconds.values()):.1f}; peak {row['peak_mb']:.0f} MB",
            f"device: {row['device']}, {row['cores']} core(s); {row['versions']}",
        ]
    )


def check_parameters(given: Mapping[str, Any], known: Mapping[str, type]) -> None:
    """Refuse an unknown or ill-typed notebook parameter at once.

    Parameters
    ----------
    given : mapping
        The notebook's variables after the parameters cell, usually ``globals()``; names beginning
        with an underscore, modules and functions are ignored.
    known : mapping
        Parameter name to its type; ``float`` also accepts an ``int``.

    Raises
    ------
    DemixError
        One sentence naming the parameter.

    Examples
    --------
    >>> check_parameters({"seed": 0}, {"seed": int})
    >>> check_parameters({"seed": "zero"}, {"seed": int})
    Traceback (most recent call last):
    ...
    demix_lite.errors.DemixError: parameter 'seed' must be of type int, not str ('zero').
    """
    plain = (bool, int, float, str, list, dict, type(None))
    for name, value in given.items():
        if name.startswith("_") or name in ("In", "Out") or not isinstance(value, plain):
            continue
        if name not in known:
            raise unknown_name("parameter", name, known)
        wanted = (int, float) if known[name] is float else known[name]
        wrong_bool = isinstance(value, bool) and known[name] is not bool
        if wrong_bool or not isinstance(value, wanted):
            raise DemixError(
                f"parameter {name!r} must be of type {known[name].__name__}, "
                f"not {type(value).__name__} ({value!r})."
            )
