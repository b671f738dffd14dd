"""Write files atomically: completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demix_lite.errors import DemixError


def check_writable(path: Path | None) -> None:
    """Raise :class:`DemixError` before the work begins if ``path`` cannot be written."""
    if path is None:
        return
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DemixError(f"cannot write {path}: choose a file in a folder that exists.")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to ``path`` when the block succeeds.

    If the block fails, an existing file at ``path`` is unchanged and nothing else is left behind.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "a.txt") as part:
    ...         _ = part.write_text("whole")
    ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
    [('a.txt', 'whole')]
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
