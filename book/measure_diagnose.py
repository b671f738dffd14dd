"""Measure ``demix-lite diagnose``: its speed, clean tables, and files with independent errors.

Every run is a process of its own, so that its time and memory can be measured, and gives a line of
``book/results/diagnose.csv``; existing lines are not run again. A benchmark table is judged by the
detector that has never seen it. It is compared with two tools with default settings (Cleanlab with
cross-fitted trees for labels, an isolation forest for features) and with a ceiling: trees trained
on the true errors of other rows.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.regression.learn import CleanLearning
from independent_errors import with_errors
from sklearn import datasets
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
)
from sklearn.metrics import f1_score
from sklearn.model_selection import cross_val_predict

from demix_lite.benchmark.ledger import (
    append_rows,
    keys_of,
    peak_megabytes,
    provenance,
    read_ledger,
)
from demix_lite.detector import ErrorDetector
from demix_lite.diagnose import diagnose_file, write_outcome
from demix_lite.diagnosis import ERROR_TYPES, best_threshold
from demix_lite.tasks import get_task
from demix_lite.tasks.own_table import own_table

RESULTS = Path(__file__).resolve().parent / "results"
LARGE = (50_000, 20)
ROWS = 8000
"""Largest number of rows of a table into which errors are put, as in the runs of the ledger."""

LEDGER_TABLES = ("adult", "bank", "credit", "bike")
LESS_SEEN = ("covertype", "air")
"""Tables of the ledger whose files with errors were used for only few of the design choices."""

SMALL_TABLES = ("breast_cancer", "wine", "digits", "diabetes")
SHARES = {"errors": {}, "new draws": {}, "few errors": {"labels": 0.04, "features": 0.04}}
"""Shares of rows with label and feature errors in each kind of run; by default a quarter each."""

NEW_DRAWS = range(25, 29)
"""Seeds of files that were not used for any design choice."""

COLUMNS = (
    *("what", "table", "seed", "rows", "columns", "detector", "flagged"),
    *(f"f1_{kind}" for kind in (*ERROR_TYPES, "macro")),
    *("f1_label_cleanlab", "f1_feature_isolation_forest"),
    *(f"f1_{kind}_ceiling" for kind in (*ERROR_TYPES, "macro")),
    *("seconds", "cpu_seconds", "peak_mb", "device", "cores", "versions", "commit"),
)


def jobs() -> Iterator[tuple[str, str, int]]:
    """Yield the runs: their kind, table and seed."""
    plan = (
        ("errors", LEDGER_TABLES, range(3)),
        ("clean", SMALL_TABLES, range(3)),
        ("speed", ("made up",), range(1)),
        ("clean", ("adult", "bank"), range(1)),
        ("errors", LEDGER_TABLES, range(3, 5)),
        ("errors", SMALL_TABLES, range(3)),
        ("few errors", LEDGER_TABLES, range(3)),
        ("clean", ("credit", "bike"), range(1)),
        ("errors", LESS_SEEN, range(5)),
        ("new draws", (*LEDGER_TABLES, *LESS_SEEN), NEW_DRAWS),
    )
    for what, tables, seeds in plan:
        yield from ((what, table, seed) for seed in seeds for table in tables)


def write_diagnose(path: Path) -> pd.DataFrame:
    """Run what is missing, and return all results."""
    for job in jobs():
        if tuple(map(str, job)) in keys_of(path, ("what", "table", "seed")):
            continue
        print("diagnose:", *job, flush=True)
        command = [sys.executable, __file__, *map(str, job)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        append_rows(path, [json.loads(done.stdout.splitlines()[-1])], COLUMNS)
    return pd.read_csv(path)


def run(what: str, table: str, seed: int) -> dict[str, Any]:
    """Diagnose one file, from reading it to the report, and return the measurements."""
    frame, target = _table(table)
    truth = None
    if what in SHARES:
        frame = frame.sample(min(ROWS, len(frame)), random_state=seed, ignore_index=True)
        frame, truth = with_errors(frame, target, seed=seed, **SHARES[what])
    in_ledger = table in (*LEDGER_TABLES, *LESS_SEEN)
    name = f"tabular-without-{table}" if in_ledger else "tabular-practised"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        frame.to_csv(path, index=False)
        started, cpu = time.perf_counter(), time.process_time()
        detector = ErrorDetector.shipped(name)
        outcome = diagnose_file(path, target, detector=detector, seed=seed)
        write_outcome(outcome, Path(folder) / "out")
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        peak = round(peak_megabytes(None))
    flags = outcome.debugger.diagnosis_[[f"{kind}_error" for kind in ERROR_TYPES]].to_numpy()
    scores: dict[str, float | None] = dict.fromkeys(c for c in COLUMNS if c.startswith("f1_"))
    if truth is not None:
        each = [f1_score(truth[k], flags[:, i]) for i, k in enumerate(ERROR_TYPES)]
        told = _ceilings(frame, truth)
        plain = _plain_scores(frame, target, truth)
        found = (*each, np.mean(each), *plain, *told, np.mean(told))
        scores = dict(zip(scores, found, strict=True))
    return scores | {
        "what": what,
        "table": table,
        "seed": seed,
        "detector": name,
        "rows": len(frame),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "columns": frame.shape[1],
        "flagged": float(flags.any(axis=1).mean()),
        "peak_mb": peak,
        **provenance(None),
    }


def _plain_scores(frame: pd.DataFrame, target: str, truth: pd.DataFrame) -> tuple[float, float]:
    """Return the F1 of the labels and of the features that two tools flag by default."""
    columns = _as_numbers(frame.drop(columns=target))
    unusual = IsolationForest(random_state=0).fit_predict(columns.fillna(columns.median())) < 0
    if own_table(frame, target).task.label.classes:
        labels = pd.factorize(frame[target])[0]
        trees = HistGradientBoostingClassifier(random_state=0)
        said = cross_val_predict(trees, columns, labels, method="predict_proba")
        wrong = find_label_issues(labels, said)
    else:
        learner = CleanLearning(HistGradientBoostingRegressor(random_state=0), seed=0)
        wrong = learner.find_label_issues(columns.to_numpy(), frame[target].to_numpy(float))
        wrong = wrong["is_label_issue"]
    return f1_score(truth["label"], wrong), f1_score(truth["feature"], unusual)


def _ceilings(frame: pd.DataFrame, truth: pd.DataFrame) -> list[float]:
    """Return the best F1 of trees that know the true errors of four fifths of the rows."""
    columns, trees = _as_numbers(frame), HistGradientBoostingClassifier(random_state=0)
    reached = []
    for kind in ERROR_TYPES:
        said = cross_val_predict(trees, columns, truth[kind], cv=5, method="predict_proba")[:, 1]
        threshold = best_threshold(truth[kind].to_numpy(int), said)
        reached.append(f1_score(truth[kind], said >= threshold))
    return reached


def _as_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    numeric = frame.select_dtypes("number").columns
    return frame.apply(lambda c: c if c.name in numeric else pd.factorize(c)[0]).astype(float)


def _table(name: str) -> tuple[pd.DataFrame, str]:
    """Return a clean table and its label column."""
    if name == "made up":
        return _made_up(), "label"
    if name in SMALL_TABLES:
        return getattr(datasets, f"load_{name}")(as_frame=True).frame, "target"
    task = get_task(name)
    splits = task.load("real")
    rows = pd.concat([splits.train, splits.valid, splits.test], ignore_index=True)
    return rows, task.target


def _made_up() -> pd.DataFrame:
    """Make a large table of numbers and categories."""
    rows, columns = LARGE
    numbers, labels = datasets.make_classification(
        rows, columns - 1, n_informative=10, n_redundant=4, flip_y=0.05, random_state=0
    )
    frame = pd.DataFrame(numbers.round(4)).add_prefix("column ")
    for position, column in enumerate(frame.columns[12:], 2):
        frame[column] = "k" + pd.qcut(frame[column], 2 * position, labels=False).astype(str)
    return frame.assign(label=np.where(labels, "yes", "no"))


def diagnose_figures(found: pd.DataFrame, unseen: pd.Series | None = None) -> list[tuple]:
    """Return figures of the runs with required values; F1 also with the ledger's ``unseen``."""
    unseen = unseen_f1() if unseen is None else unseen
    speed = found[found["what"] == "speed"].iloc[0]
    title = f"diagnose, {speed['rows']:,.0f} rows × {speed['columns']:.0f} columns"
    figures: list[tuple] = [
        (title, speed["seconds"], "s", 180, "<="),
        (f"{title}: CPU seconds", speed["cpu_seconds"], "s"),
        (f"{title}: peak memory", speed["peak_mb"], "MB", 2000, "<="),
    ]
    clean = found[found["what"] == "clean"].groupby("table")["flagged"].max()
    figures += [
        (f"diagnose, {name} clean as it is: rows flagged, most of its seeds", 100 * x, "%", 5, "<=")
        for name, x in clean.items()
    ]
    few = found[found["what"] == "few errors"].groupby("table")[["f1_label", "f1_feature"]].mean()
    figures += [
        (f"diagnose, {name} with few errors of that script: F1 {kind}", f1, "")
        for name, row in few.iterrows()
        for kind, f1 in (("label", row["f1_label"]), ("feature", row["f1_feature"]))
    ]
    for what, beside in (("errors", ""), ("new draws", ", new draws")):
        dirty = found[found["what"] == what].groupby("table")["f1_macro"].mean()
        figures += _against_unseen(dirty, unseen, beside)
    return figures


def _against_unseen(dirty: pd.Series, unseen: pd.Series, beside: str) -> list[tuple]:
    """Return figures that compare the F1 of tables with errors with that of the ledger."""
    figures: list[tuple] = []
    for name, f1 in dirty.items():
        figure = f"diagnose, {name} with errors of an independent script{beside}: macro F1"
        figures.append((figure, f1, ""))
        if name in unseen.index:
            against = f"diagnose, {name}{beside}: that F1 against leave-one-task-out"
            figures.append((against, 100 * f1 / unseen[name], "%", 90, ">="))
    both = dirty.index.intersection(unseen.index)
    if len(both):
        mean = 100 * dirty[both].mean() / unseen[both].mean()
        title = f"diagnose, mean of these {len(both)} tables{beside}: the same"
        figures.append((title, mean, "%", 90, ">="))
    return figures


def unseen_f1(path: Path = RESULTS / "ledger.csv") -> pd.Series:
    """Return the ledger's macro F1 per task of detectors that never saw it, mean over seeds."""
    ledger = read_ledger(path)
    mine = ledger[
        (ledger["method"] == "demix_lite")
        & (ledger["protocol"] == "leave-one-task-out")
        & (ledger["clean_ratio"] == 0.5)
        & (ledger["architecture"] == "mlp1")
    ]
    return mine.groupby("task")["f1_macro"].mean()


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
