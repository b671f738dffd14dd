"""Errors for users: one sentence that says what is wrong, where, and what to do."""

import difflib
from collections.abc import Collection, Iterable
from numbers import Integral
from typing import Any


class DemixError(Exception):
    """A user error, explained in one sentence; the command line exits with code 2."""


def unknown_name(kind: str, name: object, known: Iterable[object]) -> DemixError:
    """Return an error that ``name`` is not one of ``known`` and suggest the closest one.

    Examples
    --------
    >>> print(unknown_name("task", "adlut", ["adult", "bank"]))
    unknown task 'adlut'; did you mean 'adult'? Known: adult, bank.
    """
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return DemixError(f"unknown {kind} {str(name)!r}{hint} Known: {', '.join(names)}.")


def refuse_unknown(kind: str, names: Iterable[object], known: Collection[Any]) -> None:
    """Raise :func:`unknown_name` for the first of ``names`` that is not ``known``.

    Examples
    --------
    >>> refuse_unknown("task", ["bank"], ["adult", "bank"])
    """
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)


def check_count(number: object, name: str, error: type[DemixError] = DemixError) -> None:
    """Raise ``error`` unless ``number`` is a whole number of at least 1.

    Examples
    --------
    >>> check_count(1000, "rows")
    """
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise error(f"{name} must be a whole number of at least 1, not {number!r}.")
