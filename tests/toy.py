"""A small table that has everything: whole and real numbers, zeros, missing values, rare values."""

import numpy as np
import pandas as pd

from demix_lite.tasks.base import Rule, Splits
from demix_lite.tasks.labels import Classes, Number
from demix_lite.tasks.tabular import TabularTask

LABELS = ("no", "yes", "maybe")


def toy_task(classes: int = 2) -> TabularTask:
    """Return a task whose rows :func:`toy_frame` makes."""
    return TabularTask(
        name="toy",
        numeric=("age", "gain", "weight"),
        categorical=("colour", "shape", "always"),
        target="label",
        label=Classes(LABELS[:classes]),
        rules=(
            Rule("red", {"colour": frozenset(["red"])}, "yes"),
            Rule("round or old", {"age": (50, 70), "shape": frozenset(["round", "oval"])}, "no"),
        ),
    )


def toy_frame(rows: int, seed: int = 0, classes: int = 2) -> pd.DataFrame:
    """Draw rows of the toy table; the column ``row`` is no feature, it only names the row."""
    rng = np.random.default_rng(seed)
    colours = np.array(["red", "green", "blue", None], dtype=object)
    return pd.DataFrame(
        {
            "row": np.arange(rows) + 1000,
            "age": rng.integers(1, 90, rows),
            "gain": np.where(rng.random(rows) < 0.7, 0, rng.integers(1, 5000, rows)),
            "weight": rng.normal(70, 9, rows),
            "colour": pd.Series(colours[rng.choice(4, rows, p=[0.4, 0.3, 0.2, 0.1])], dtype="str"),
            "shape": pd.Series(rng.choice(["round", "square", "oval"], rows), dtype="str"),
            "always": pd.Series(["same"] * rows, dtype="str"),
            "label": pd.Series(rng.choice(LABELS[:classes], rows), dtype="str"),
        }
    )


def toy_splits(rows: int = 120, seed: int = 0, classes: int = 2) -> Splits:
    """Return train, validation and test rows of the toy table."""
    parts = [toy_frame(n, seed + i, classes) for i, n in enumerate((rows, rows // 2, 40))]
    return Splits(*parts, card=None)


def toy_number_task() -> TabularTask:
    """Return the toy task with a number from 0 to 100 for a label."""
    return TabularTask(
        name="toy_number",
        numeric=("age", "gain", "weight"),
        categorical=("colour", "shape", "always"),
        target="label",
        label=Number(0, 100),
        rules=(Rule("red", {"colour": frozenset(["red"])}, (50, 100)),),
    )


def toy_number_splits(rows: int = 120, seed: int = 0) -> Splits:
    """Return train, validation and test rows whose label is a number that follows the weight."""
    splits = toy_splits(rows, seed)
    parts = [
        frame.assign(label=(50 + 2.5 * (frame["weight"] - 70)).clip(0, 100))
        for frame in (splits.train, splits.valid, splits.test)
    ]
    return Splits(*parts, card=None)


def toy_learnable_splits(rows: int = 120, seed: int = 0, classes: int = 2) -> Splits:
    """Return train, validation and test rows whose class follows the weight."""
    splits = toy_number_splits(rows, seed)
    parts = [
        frame.assign(label=np.array(LABELS)[(frame["label"] * classes / 100.001).astype(int)])
        for frame in (splits.train, splits.valid, splits.test)
    ]
    return Splits(*parts, card=None)
