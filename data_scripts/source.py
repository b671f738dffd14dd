"""The interface of a data source, and the list of the modules that implement it."""

import gzip
import importlib
import pkgutil
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import data_scripts
from demix_lite.errors import DemixError

ODD = (ValueError, TypeError, OverflowError, RecursionError)
UCI = "https://archive.ics.uci.edu"
UNPACK_ERRORS = (
    *(zipfile.BadZipFile, KeyError, gzip.BadGzipFile, EOFError, zlib.error),
    RuntimeError,  # another compression, a password
)


@dataclass(frozen=True)
class RawFile:
    """One file as published, and where to get it.

    Attributes
    ----------
    name : str
        Upstream name of the uncompressed file. A name that ends in ``.gz`` means that the file
        stays packed, because only the digest of the packed file is published. A ``*`` stands for
        any text.
    sha256 : str
        Digest of the content under this name. It is empty if none is published; the file is then
        accepted unchecked, and the card says so.
    urls : tuple of str
        Addresses, tried in order. A ``.gz`` is unpacked; ``archive.zip#member`` means one member of
        an archive, and ``outer.zip#inner.zip#member`` a member of an archive inside it. Empty if
        only a person can get the file.
    """

    name: str
    sha256: str
    urls: tuple[str, ...]

    @property
    def packed(self) -> bool:
        """Whether the digest is that of the packed file."""
        return self.name.endswith(".gz")

    @property
    def key(self) -> str:
        """The name under which the parser gets the uncompressed content."""
        return self.name.removesuffix(".gz")


def _no_parser(raw: Mapping[str, Any]) -> pd.DataFrame:
    raise NotImplementedError("this source builds its table itself")


@dataclass(frozen=True)
class Source:
    """Everything that is specific to one data set.

    A new data set is one new module in this package that defines ``SOURCE = Source(...)``.

    Attributes
    ----------
    name : str
        Name on the command line and of the prepared table.
    files : tuple of RawFile
        The files to fetch.
    parse : callable
        Turns ``{key of a file: uncompressed bytes}`` into the prepared table or tables.
    facts : dict
        The card's ``title``, ``url``, ``licence``, ``numeric``, ``categorical``, ``target``,
        ``notes``, ``keys``.
    streamed : bool
        Whether ``parse`` gets the :class:`Lines` of each file instead of its bytes, so that a file
        may be larger than memory.
    by_hand : str
        How a person gets files that have no address; one sentence.
    editions : tuple of Source
        Editions with other files, such as a part of the rows. A folder may contain one of them
        instead; they are never downloaded.
    build : callable, optional
        Used instead of ``files`` and ``parse`` if the files have no fixed names: returns the
        prepared table and the facts of its card from a folder, or from upstream if given None.
    """

    name: str
    files: tuple[RawFile, ...]
    facts: dict[str, Any]
    parse: Callable[[Mapping[str, Any]], pd.DataFrame | dict[str, pd.DataFrame]] = _no_parser
    streamed: bool = False
    by_hand: str = ""
    editions: tuple["Source", ...] = ()
    build: Callable[[Path | None], tuple[pd.DataFrame, dict[str, Any]]] | None = None


@dataclass(frozen=True)
class Lines:
    """The lines of a file, plain or ``.gz``, read one at a time."""

    path: Path

    def __iter__(self) -> Iterator[bytes]:
        opened = gzip.open if self.path.suffix == ".gz" else open
        try:
            with opened(self.path, "rb") as file:
                yield from file
        except UNPACK_ERRORS as error:
            raise DemixError(f"{self.path} is damaged ({error}); download it again.") from error


def all_sources() -> dict[str, Source]:
    """Return every source of this package by name."""
    names = [m.name for m in pkgutil.iter_modules(data_scripts.__path__) if m.name != "__main__"]
    modules = [importlib.import_module(f"data_scripts.{name}") for name in names]
    found = [vars(module)["SOURCE"] for module in modules if "SOURCE" in vars(module)]
    return {source.name: source for source in found}


def uci_urls(static: str, old: str) -> tuple[str, str]:
    """Return the addresses of a file in the UCI archive: static files first, then the old tree."""
    return f"{UCI}/static/public/{static}", f"{UCI}/ml/machine-learning-databases/{old}"


def from_folder(digests: Mapping[str, str]) -> tuple[RawFile, ...]:
    """Return files that only a person can get, given their names and digests."""
    return tuple(RawFile(name, sha256, urls=()) for name, sha256 in digests.items())


@contextmanager
def reading(name: str, title: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn errors into one sentence: which file is not in the format of ``title``, and why."""
    caught: tuple[type[Exception], ...] = (*ODD, *errors)
    try:
        yield
    except caught as error:
        why = str(error).strip().partition("\n")[0].rstrip(".")
        why = f"there is no {why}" if isinstance(error, KeyError) else why
        raise DemixError(f"{name} is not in the format of {title}: {why}.") from error


def without_halves(text: str) -> str:
    r"""Replace halves of a cut emoji, which JSON may contain and no table can.

    Examples
    --------
    >>> without_halves("cut \ud83d")
    'cut ?'
    """
    return text.encode("utf-8", "replace").decode()


def known(values: pd.Series, allowed: Collection[Any]) -> pd.Series:
    """Return ``values`` if all are allowed; raise a ValueError that names the first that is not."""
    odd = values[~values.isin(list(allowed))]
    if len(odd):
        listing = ", ".join(map(str, allowed))
        raise ValueError(f"{values.name} holds {odd.tolist()[0]!r}, which is none of {listing}")
    return values
