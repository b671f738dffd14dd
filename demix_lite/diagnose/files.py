"""Write several files together: all of them completely, or none."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from demix_lite.errors import DemixError
from demix_lite.whole_file import whole_file

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def check_folder(folder: Path) -> None:
    """Raise an error, before the work begins, if a folder cannot be made or written to."""
    path = folder.absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir() or not os.access(path, os.W_OK):
        raise DemixError(f"cannot write to {folder}: choose another folder with --out.")


def write_together(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> list[Path]:
    """Write files under temporary names, and rename them when all of them are complete.

    ``writers`` maps each file name to a function that writes the file to a path. The folder is made
    if it does not exist.

    Raises
    ------
    DemixError
        If the files cannot be written to the folder or the disk; no file is left behind.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as together:  # files get their final names when it is closed
            for name, write in writers.items():
                write(together.enter_context(whole_file(folder / name)))
    except OSError as error:
        raise DemixError(f"cannot write to {folder}: {error.strerror or error}.") from error
    finally:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return [folder / name for name in writers]


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before cells that a spreadsheet would evaluate as a formula.

    Examples
    --------
    >>> without_formulas(pd.DataFrame({"a": ["=1+1", "-2.5", "x"]}))["a"].tolist()
    ["'=1+1", '-2.5', 'x']
    """

    def safe(cell: object) -> object:
        if not isinstance(cell, str) or not cell.startswith(FORMULA):
            return cell
        try:
            float(cell)
        except ValueError:
            return "'" + cell
        return cell

    return frame.rename(columns=safe).map(safe)
