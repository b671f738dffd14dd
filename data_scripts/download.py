"""Get the raw files of a source, from the network or a folder; accept only exact copies."""

import gzip
import hashlib
import http.client
import io
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from data_scripts.source import UNPACK_ERRORS, Lines, RawFile, Source
from demix_lite.errors import DemixError
from demix_lite.whole_file import whole_file

TEMPORARY_HTTP = {408, 416, 425, 429, 500, 502, 503, 504}
NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError)  # a broken header or address
ATTEMPTS, TIMEOUT, PAUSE = 3, 30.0, 1.0
"""Tries per address, seconds without data that end a try, and the first pause (it doubles)."""


def choose_edition(source: Source, folder: Path) -> Source:
    """Return the first edition of ``source``, itself included, whose files a folder contains.

    The folder was filled by a person, with plain or ``.gz`` files. If it contains no complete
    edition, the error names the missing files of each.
    """
    if not folder.is_dir():
        raise DemixError(f"there is no folder {folder}.")
    lacking = []
    for edition in (source, *source.editions):
        missing = [file.name for file in edition.files if not _candidates(file, folder)]
        if not missing:
            return edition
        lacking.append(f"for {edition.facts['title']} it lacks {' and '.join(missing)}")
    listing = "; ".join(lacking)
    way_out = source.by_hand or f"to download it, run: python -m data_scripts {source.name}"
    raise DemixError(f"{folder} holds no whole edition of {source.name!r}: {listing}; {way_out}")


def read_raw(source: Source, folder: Path) -> dict[str, Any]:
    """Read the files of an edition that :func:`choose_edition` found in a folder."""
    raw: dict[str, Any] = {}
    for file in source.files:
        path = _find(file, folder)
        if source.streamed:
            raw[file.key] = Lines(path)
            continue
        try:
            content = _unpack(path.read_bytes(), path.name, file.name)
            if not _is_exact(content, file):
                kind = "packed" if file.packed else "uncompressed"
                raise DemixError(
                    f"{path} is not the official {file.name} (its {kind} sha256 should be "
                    f"{file.sha256}); download it again."
                )
            raw[file.key] = _opened(content, file)
        except UNPACK_ERRORS as error:
            raise DemixError(f"{path} is damaged ({error}); download it again.") from error
    return raw


def unverified_note(source: Source, folder: Path) -> str:
    """Name the files of ``folder`` that have no published checksum; empty if there are none."""
    names = [_find(file, folder).name for file in source.files if not file.sha256]
    said = "not verified, no checksum of these files is published."
    return f"Read from {' and '.join(names)}: {said}" if names else ""


def _find(file: RawFile, folder: Path) -> Path:
    first, *others = _candidates(file, folder)
    if others and "*" in file.name:
        listing = ", ".join(path.name for path in (first, *others))
        raise DemixError(f"{folder} has several files {file.name}: {listing}; keep one of them.")
    return first


def _candidates(file: RawFile, folder: Path) -> list[Path]:
    """Look for a plain file, then for a packed one."""
    endings = [""] if file.packed else ["", ".gz"]
    found = [path for end in endings for path in sorted(folder.glob(f"{file.name}{end}"))]
    return [path for path in found if path.is_file()]


def fetch_raw(source: Source, folder: Path) -> dict[str, Any]:
    """Download the files of ``source`` into ``folder`` and return their content.

    An existing file with the right checksum is not fetched again. Between tries, ``folder`` also
    has unfinished files (``*.part``), which are resumed.
    """
    if source.by_hand:
        raise DemixError(f"{source.name!r} cannot be downloaded: {source.by_hand}")
    folder.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {}
    for file in source.files:
        done = folder / file.name
        content = done.read_bytes() if done.is_file() else b""
        if not (content and _is_exact(content, file)):
            content = _fetch_one(file, folder, source.name)
            with whole_file(done) as part:
                part.write_bytes(content)
            for left_over in folder.glob(f"{file.name}.*.part"):
                left_over.unlink()
        raw[file.key] = Lines(done) if source.streamed else _opened(content, file)
    return raw


def _fetch_one(file: RawFile, folder: Path, name: str) -> bytes:
    tried = []
    for url in file.urls:
        try:
            return _fetch_from(url, file, folder)
        except NETWORK_ERRORS as error:
            tried.append(f"{url} ({str(error) or type(error).__name__})")
    raise DemixError(
        f"could not download {file.name}: tried {', then '.join(tried)}; try again later, or get "
        f"the file yourself and run: python -m data_scripts {name} --raw FOLDER"
    )


def _fetch_from(url: str, file: RawFile, folder: Path) -> bytes:
    part = folder / f"{file.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
    failure: Exception = OSError("not tried")
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
        try:
            resumed = _transfer(url, part)
        except NETWORK_ERRORS as error:
            failure = error
            if isinstance(error, urllib.error.HTTPError) and error.code not in TEMPORARY_HTTP:
                break
            continue
        packed = part.read_bytes()
        part.unlink()
        try:
            content = _unpack(packed, url, file.name)
            if _is_exact(content, file):
                return content
            failure = OSError("wrong checksum")
        except UNPACK_ERRORS as error:
            failure = OSError(f"cannot be unpacked: {error}")
        if not resumed:  # a complete response with a wrong checksum would be wrong again
            break
    raise failure


def _write(out: BinaryIO, chunk: bytes, part: Path) -> None:
    """Write at once, so that a full disk is not taken for a failure of the network."""
    try:
        out.write(chunk)
        out.flush()
    except OSError as error:
        with suppress(OSError):
            out.close()
        part.unlink(missing_ok=True)
        raise DemixError(f"cannot write {part.parent}: {error.strerror}.") from error


def _transfer(url: str, part: Path) -> bool:
    """Download ``part`` completely; return whether it was resumed instead of started anew."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "demix-lite data_scripts"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url.partition("#")[0], headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
        raise
    with answer:
        resumed = answer.status == 206
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        show = {"unit": "B", "unit_scale": True, "desc": part.stem, "disable": None}
        with (
            open(part, "ab" if resumed else "wb") as out,
            tqdm(total=total, initial=have, **show) as bar,
        ):
            while chunk := answer.read1(1 << 16):
                _write(out, chunk, part)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise OSError("the connection ended early")
    return resumed


def _unpack(content: bytes, place: str, name: str) -> bytes:
    """Follow ``place``: gunzip a ``.gz`` unless ``name`` is one, open the archive at each ``#``."""
    archive, *members = place.split("#")
    if archive.endswith(".gz") and not name.endswith(".gz"):
        content = gzip.decompress(content)
    for member in members:
        content = zipfile.ZipFile(io.BytesIO(content)).read(member)
    return content


def _opened(content: bytes, file: RawFile) -> bytes:
    """Return the uncompressed content of a file whose packed or plain form was checked."""
    return gzip.decompress(content) if file.packed else content


def _is_exact(content: bytes, file: RawFile) -> bool:
    return not file.sha256 or hashlib.sha256(content).hexdigest() == file.sha256
