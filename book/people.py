"""Write the table that newcomers diagnose first, and its true errors.

``python book/people.py`` writes ``people.csv`` and ``people_errors.csv`` to ``book/_static``: rows
of the Adult twin with errors of all three types, and the error types of every row.
"""

from pathlib import Path

import pandas as pd

from demix_lite.injection import inject
from demix_lite.tasks import get_task

FOLDER = Path(__file__).parent / "_static"
ROWS, CLEAN_RATIO, SEED = 2000, 0.7, 1


def people() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows, and for every row and error type whether it has the error."""
    task = get_task("adult")
    injected = inject(task, task.load(rows=2 * ROWS + 1000), CLEAN_RATIO, seed=SEED).train
    chosen = injected.frame.sample(ROWS, random_state=0).index
    return injected.frame.loc[chosen], injected.errors.loc[chosen].astype(int)


def write(folder: Path = FOLDER) -> None:
    """Write both tables into a folder."""
    for name, frame in zip(("people", "people_errors"), people(), strict=True):
        frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    write()
