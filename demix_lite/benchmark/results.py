"""Read result files and summarise them: means, intervals over seeds, gains.

A page of results also works with a missing or incomplete file: it shows the rows that exist and
says how many they are.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from demix_lite.benchmark.ledger import KEY, read_ledger
from demix_lite.benchmark.suite import suite
from demix_lite.data.store import check_source
from demix_lite.errors import DemixError
from demix_lite.tasks import TASKS, get_task

LEVEL = 0.95
FAMILIES = tuple(dict.fromkeys(task.family for task in TASKS.values()))


def results_folder(given: str = "") -> Path:
    """Return the folder of result files: the given one, or book/results of this copy.

    Raises
    ------
    DemixError
        If the given folder does not exist.

    Examples
    --------
    >>> results_folder(".").is_dir()
    True
    """
    if given and not Path(given).is_dir():
        raise DemixError(f"there is no folder {given}.")
    if given:
        return Path(given)
    here = [Path.cwd(), Path(__file__).resolve().parent]
    places = [p / "book" / "results" for start in here for p in (start, *start.parents)]
    return next((place for place in places if place.is_dir()), places[0])


def read_rows(
    path: Path, columns: Sequence[str], *, source: str = "real", key: Sequence[str] = KEY
) -> pd.DataFrame:
    """Read rows of a result file, by task; a missing file has no rows, a missing column is NaN.

    Of several rows with the same ``key``, the last one counts. ``source`` is ``"real"`` or
    ``"twin"``.

    Raises
    ------
    DemixError
        If the source is unknown, or a line has too few or too many values.
    """
    check_source(source)
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    rows = read_ledger(path).reindex(columns=list(columns))
    rows = rows[rows["source"] == source].drop_duplicates(list(key), keep="last")
    order = {name: place for place, name in enumerate(TASKS)}
    return rows.sort_values("task", key=lambda names: names.map(order), kind="stable").reset_index(
        drop=True
    )


def expected(family: str | None = None) -> pd.DataFrame:
    """Return the keys of all rows in the complete grid of a family, or of all families.

    Examples
    --------
    >>> expected("tabular")["task"].nunique()
    6
    >>> sorted(set(expected()["task"].map(family_of)))
    ['alignment', 'recommendation', 'tabular']
    """
    rows = [
        cell.key(entry, "")[:-1]
        for name in ([family] if family else FAMILIES)
        for cell in suite(name)
        for entry in cell.entries
    ]  # the source depends on the file
    return pd.DataFrame(rows, columns=[column for column in KEY if column != "source"])


def family_of(task: str) -> str:
    """Return the family of a task.

    Examples
    --------
    >>> family_of("yelp")
    'recommendation'
    """
    return get_task(task).family


def standard(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of the standard setting: clean ratio 0.5, the first architecture of each task.

    Examples
    --------
    >>> rows = pd.DataFrame(
    ...     {"task": ["bank", "yelp"], "architecture": ["mlp2", "din"], "clean_ratio": 0.5}
    ... )
    >>> standard(rows)["task"].tolist()
    ['yelp']
    """
    first = rows["task"].map({name: task.architectures[0] for name, task in TASKS.items()})
    return rows[rows["clean_ratio"].eq(0.5) & rows["architecture"].eq(first)]


def by_family(tasks: Iterable[str]) -> dict[str, list[str]]:
    """Group tasks by family; families without tasks are left out.

    Examples
    --------
    >>> by_family(["adult", "yelp", "bank"])
    {'tabular': ['adult', 'bank'], 'recommendation': ['yelp']}
    """
    names = list(tasks)
    groups = {family: [n for n in names if family_of(n) == family] for family in FAMILIES}
    return {family: members for family, members in groups.items() if members}


def groups_of_tasks(tasks: Iterable[str]) -> dict[str, list[str]]:
    """Return the groups of tasks to average over: each family and, if there are several, all tasks.

    Examples
    --------
    >>> list(groups_of_tasks(["adult", "yelp", "bank"]))
    ['all tasks (3)', 'tabular (2)', 'recommendation (1)']
    >>> list(groups_of_tasks(["adult", "bank"]))
    ['tabular (2)']
    """
    names = list(tasks)
    families = by_family(names)
    every = {"all tasks": names} if len(families) > 1 else {}
    return {f"{name} ({len(some)})": some for name, some in {**every, **families}.items()}


def means_by_group(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the mean over tasks (columns) by seed, for all tasks and for each family.

    Examples
    --------
    >>> table = pd.DataFrame({"adult": [0.2, 0.4], "yelp": [0.4, np.nan]})
    >>> {name: values.round(1).tolist() for name, values in means_by_group(table).items()}
    {'all tasks (2)': [0.3], 'tabular (1)': [0.2, 0.4], 'recommendation (1)': [0.4]}
    """
    known = table.dropna(axis=1, how="all")
    return {name: mean_over_tasks(known[some]) for name, some in groups_of_tasks(known).items()}


def settings_of(tasks: Iterable[str]) -> str:
    """Describe in one sentence how the runs of some tasks differ between families.

    Examples
    --------
    >>> settings_of(["bank"])
    'Tabular (1): task model mlp1, at most 8,000 training rows, up to 15 % break the shortcut.'
    """
    said = []
    for family, names in by_family(tasks).items():
        members = [get_task(name) for name in names]
        rows = max(task.judged_rows for task in members)
        cut = 100 * max(task.minority_share for task in members)
        said.append(
            f"{family} ({len(names)}): task model {members[0].architectures[0]}, at most {rows:,} "
            f"training rows, up to {cut:g} % break the shortcut"
        )
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def interval(values: Iterable[float], level: float = LEVEL) -> pd.Series:
    """Return the mean, the half-width of its t-interval and the number of values.

    Raises
    ------
    DemixError
        If ``level`` is not between 0 and 1.

    Examples
    --------
    >>> interval([1.0, 2.0, 3.0]).round(2).tolist()
    [2.0, 2.48, 3.0]
    """
    known = pd.Series(list(values), dtype=float).dropna()
    half = _half_width(known.std(), len(known), level)
    return pd.Series({"mean": known.mean(), "half": half, "n": len(known)}, dtype=float)


def _half_width(deviation: Any, n: Any, level: float) -> Any:
    """Return the half-width of the t-interval of a mean of ``n`` values, or of many means."""
    if not 0 < level < 1:
        raise DemixError(
            f"the confidence level must lie between 0 and 1 (such as 0.95), not {level}."
        )
    return student.ppf((1 + level) / 2, n - 1) * deviation / np.sqrt(n)


def intervals(
    rows: pd.DataFrame, by: Sequence[str], column: str, level: float = LEVEL
) -> pd.DataFrame:
    """Return mean, half-width and number of values of a column for every group of rows.

    Examples
    --------
    >>> rows = pd.DataFrame({"task": ["a", "a", "b"], "f1": [0.4, 0.6, 0.5]})
    >>> intervals(rows, ["task"], "f1")["n"].tolist()
    [2.0, 1.0]
    """
    found = rows.astype({column: float}).groupby(list(by), sort=False)[column]
    found = found.agg(["mean", "std", "count"]).astype(float)
    found["half"] = _half_width(found["std"], found["count"], level)
    return found[["mean", "half", "count"]].rename(columns={"count": "n"})


def intervals_over_tasks(
    rows: pd.DataFrame, by: Sequence[str], column: str, level: float = LEVEL
) -> pd.DataFrame:
    """Return the mean over tasks of a column, with an interval over seeds, for every group.

    Only tasks and seeds that every group has are used, so that groups are compared on the same
    runs. Groups with fewer than half as many runs as the largest group are left out.

    Examples
    --------
    >>> rows = pd.DataFrame({"task": list("abab"), "seed": [0, 0, 1, 1], "method": "x", "f1": 0.5})
    >>> intervals_over_tasks(rows, ["method"], "f1").loc["x", "n"]
    np.float64(2.0)
    """
    return intervals(_means_by_seed(rows, by, column), by, column, level)


def _means_by_seed(rows: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Return the mean over tasks of a column for every group and seed, on common runs."""
    known = rows.dropna(subset=[column])
    if known.empty:
        return pd.DataFrame(columns=[*by, "seed", column])
    table = known.pivot_table(index=["task", "seed"], columns=list(by), values=column)
    counts = table.notna().sum()
    table = table.loc[:, counts >= counts.max() / 2].dropna()
    tasks = table.reset_index().groupby("seed")["task"].agg(frozenset)
    if len(tasks):
        # Means of different tasks cannot be compared, even of equally many.
        most = max(tasks, key=lambda own: (len(own), (tasks == own).sum()))
        full = tasks.index[tasks == most]
        table = table[table.index.get_level_values("seed").isin(full)]
    by_seed = table.groupby("seed").mean()
    levels = list(range(by_seed.columns.nlevels))
    return by_seed.stack(levels, future_stack=True).rename(column).reset_index()


def ratio(values: pd.Series, reference: pd.Series) -> pd.Series:
    """Return one value per seed, such that their mean is the ratio of the two means.

    The values are those of the linearised ratio. So a t-interval over them is the usual interval of
    a ratio of means, and a reference near zero in one seed does no harm. Seeds that only one of the
    two has are left out; the result is NaN if the mean of the reference is zero or less.

    Examples
    --------
    >>> found = ratio(pd.Series([2.0, 4.0]), pd.Series([1.0, 1.0]))
    >>> float(found.mean())
    3.0
    """
    pair = pd.concat([values, reference], axis=1, keys=["value", "reference"]).dropna()
    base = pair["reference"].mean()
    if not base > 0:
        return pd.Series(np.nan, index=pair.index, dtype=float)
    share = pair["value"].mean() / base
    return share + (pair["value"] - share * pair["reference"]) / base


def gain_over_best(
    ours: pd.DataFrame, others: pd.DataFrame, column: str, *, better: str = "higher"
) -> tuple[str, pd.Series]:
    """Return the best other method of a task and our relative gain over it, one value per seed.

    The best method is the one with the best mean over the seeds it shares with us; methods with
    fewer than half of our seeds are not considered. ``better`` is ``"higher"`` or ``"lower"``. A
    positive gain is always an improvement.

    Examples
    --------
    >>> ours = pd.DataFrame({"method": "x", "seed": [0, 1], "mse": [0.1, 0.1]})
    >>> others = pd.DataFrame({"method": "y", "seed": [0, 1], "mse": [0.2, 0.2]})
    >>> name, gain = gain_over_best(ours, others, "mse", better="lower")
    >>> name, float(gain.mean())
    ('y', 0.5)
    """
    own = ours.set_index("seed")[column].dropna()
    table = others.pivot_table(index="seed", columns="method", values=column).reindex(own.index)
    counts = table.notna().sum()
    table = table.loc[:, counts >= max(1, len(own) / 2)]
    if table.empty:
        return "", pd.Series(dtype=float)
    means = table.mean()
    best = str(means.idxmax() if better == "higher" else means.idxmin())
    gain = ratio(own, table[best]) - 1
    return best, gain if better == "higher" else -gain


def gains_by_task(
    ours: pd.DataFrame, others: pd.DataFrame, column: str
) -> tuple[pd.Series, pd.DataFrame]:
    """Return the best other method of every task and our gain over it, one column per task.

    The rows have the columns of the ledger. For metrics of the task model, ``metric_better`` says
    whether higher or lower is better; for F1 and average precision, higher is better.

    Examples
    --------
    >>> gains_by_task(pd.DataFrame(columns=["task"]), pd.DataFrame(), "f1_macro")[1].empty
    True
    """
    best, gains = {}, {}
    for task, part in ours.groupby("task", sort=False):
        better = "higher"
        if column.startswith(("metric", "worst_group")):
            better = str(part["metric_better"].iloc[0])
        rivals = others[others["task"] == task]
        best[task], gains[task] = gain_over_best(part, rivals, column, better=better)
    table = pd.DataFrame(gains, dtype=float).dropna(axis=1, how="all")
    return pd.Series(best, dtype=object).reindex(table.columns), table


def mean_over_tasks(table: pd.DataFrame) -> pd.Series:
    """Return the mean over tasks (columns) for every seed (index) that has all of them.

    Examples
    --------
    >>> mean_over_tasks(pd.DataFrame({"a": [0.1, 0.3], "b": [0.3, np.nan]})).tolist()
    [0.2]
    """
    return table.dropna(axis=1, how="all").dropna().mean(axis=1)


def differences(ours: pd.DataFrame, others: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return ours minus theirs on the same runs: one line per seed, one column per task.

    Examples
    --------
    >>> ours = pd.DataFrame({"task": "a", "seed": [0, 1], "f1": [0.7, 0.8]})
    >>> differences(ours, ours.assign(f1=0.5), "f1").round(1)["a"].tolist()
    [0.2, 0.3]
    """
    first, second = (
        rows.pivot_table(index="seed", columns="task", values=column) for rows in (ours, others)
    )
    return (first - second).dropna(axis=1, how="all").dropna(how="all")


def plus_minus(
    found: pd.Series, unit: str = "", *, digits: int = 3, scale: float = 1, count: bool = True
) -> str:
    """Write a mean, its half-width and, unless ``count`` is false, the number of values as text.

    Examples
    --------
    >>> plus_minus(interval([0.4, 0.6]), " %", digits=0, scale=100)
    '50 ± 127 % (n = 2)'
    >>> plus_minus(interval([]))
    'no rows yet'
    """
    if not np.isfinite(found["mean"]):
        return "no rows yet"
    half = "" if np.isnan(found["half"]) else f" ± {scale * found['half']:.{digits}f}"
    value = round(float(scale * found["mean"]), digits) + 0.0  # no negative zero
    mean = f"{value:.{digits}f}".replace("-", "−")
    return f"{mean}{half}{unit}" + (f" (n = {found['n']:.0f})" if count else "")


def absent(name: str, command: str) -> str:
    """Say that a result file has nothing to show yet, and which command fills it.

    Examples
    --------
    >>> absent("ledger.csv", "demix-lite bench")
    '*Nothing to show yet: `book/results/ledger.csv` is filled by `demix-lite bench`.*'
    """
    return f"*Nothing to show yet: `book/results/{name}` is filled by `{command}`.*"
