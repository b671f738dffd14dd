"""The contract of a data source, and the list of the modules that keep it."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

import data_scripts


@dataclass(frozen=True)
class RawFile:
    """One official file and where it can be had.

    Attributes
    ----------
    name : str
        File name as upstream gives it, uncompressed.
    sha256 : str
        Digest of the uncompressed content.
    urls : tuple of str
        Tried in order. A ``.gz`` is unpacked; ``archive.zip#member`` takes one member of an
        archive, and ``outer.zip#inner.zip#member`` a member of an archive inside it.
    """

    name: str
    sha256: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """All that is special about one data set.

    A new data set is one new module in this package that defines ``SOURCE = Source(...)``.

    Attributes
    ----------
    name : str
        The name on the command line and of the prepared table.
    files : tuple of RawFile
        What has to be fetched.
    parse : callable
        Turns ``{file name: uncompressed bytes}`` into the prepared table.
    facts : dict
        The card's ``title``, ``url``, ``licence``, ``numeric``, ``categorical``, ``target``,
        ``notes``.
    """

    name: str
    files: tuple[RawFile, ...]
    parse: Callable[[Mapping[str, bytes]], pd.DataFrame]
    facts: dict[str, Any]


def all_sources() -> dict[str, Source]:
    """Return every source of this package by name."""
    names = [m.name for m in pkgutil.iter_modules(data_scripts.__path__) if m.name != "__main__"]
    modules = [importlib.import_module(f"data_scripts.{name}") for name in names]
    found = [vars(module)["SOURCE"] for module in modules if "SOURCE" in vars(module)]
    return {source.name: source for source in found}
