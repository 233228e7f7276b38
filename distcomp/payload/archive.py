"""The files of a project as one blob of bytes, and back into a folder.

An archive is the zlib-compressed msgpack list of `[name, content, is_executable]`, by name. It can hold
neither links nor owners nor times: the same files always give the same bytes. Names are relative, with
`/` between their parts.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from distcomp.errors import UnloadableTaskError

if TYPE_CHECKING:
    from collections.abc import Iterable

LEVEL = 1
FILE_BYTES = 512
"""What a file counts as at least, so that a bound on bytes is one on files."""

_FIELDS = 3


class ArchivedFile(NamedTuple):
    """A file in an archive."""

    name: str
    content: bytes
    is_executable: bool = False


def pack_files(files: Iterable[ArchivedFile]) -> bytes:
    """Make an archive.

    Example:
        >>> pack_files([ArchivedFile("a.py", b"")]) == pack_files([ArchivedFile("a.py", b"")])
        True
    """
    return zlib.compress(msgpack.packb([list(file) for file in sorted(files)]), LEVEL)


def unpack_files(blob: bytes, folder: Path, max_bytes: int) -> None:
    """Write the files of an archive into a folder.

    Args:
        blob: the archive.
        folder: where to; it must not be there yet.
        max_bytes: it may hold at most so many, each file counted as at least `FILE_BYTES`.

    Raises:
        UnloadableTaskError: it is no archive, too large, or has a name that leads elsewhere.
        OSError: the files cannot be written.
    """
    files = _read(blob, max_bytes)
    size_bytes = sum(max(FILE_BYTES, len(file.content)) for file in files)
    if size_bytes > max_bytes:
        raise UnloadableTaskError(f"a bundle of {size_bytes} bytes; bundle_bytes is {max_bytes} here")
    folder.mkdir(mode=0o700)
    made = {folder}
    for file in files:
        path = folder.joinpath(*_parts(file.name))
        if path.parent not in made:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.add(path.parent)
        mode = 0o700 if file.is_executable else 0o600
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as target:
            target.write(file.content)


def _read(blob: bytes, max_bytes: int) -> list[ArchivedFile]:
    try:
        opened = zlib.decompressobj()
        # Names and heads come on top of the contents; whatever is beyond twice the bound is no bundle.
        data = opened.decompress(blob, 2 * max_bytes)
        rows: Any = msgpack.unpackb(data)
    except Exception as error:
        raise UnloadableTaskError(f"a bundle that cannot be read: {error}") from error
    if type(rows) is not list or not all(map(_is_file, rows)):
        raise UnloadableTaskError("a bundle that is no list of files")
    return [ArchivedFile(*row) for row in rows]


def _is_file(row: Any) -> bool:
    return type(row) is list and len(row) == _FIELDS and list(map(type, row)) == [str, bytes, bool]


def _parts(name: str) -> list[str]:
    parts = name.split("/")
    if "\0" in name or "\\" in name or not {"", ".", ".."}.isdisjoint(parts):
        raise UnloadableTaskError(f"a bundle with a file that lies outside of it: {name!r:.200}")
    return parts


def enter_bundle(folder: str, max_bytes: int) -> None:
    """Let this process import from a bundle; the first that comes unpacks it.

    Args:
        folder: where the worker has put the archive.
        max_bytes: see `unpack_files`.

    Raises:
        UnloadableTaskError: it cannot be unpacked; the text says why.
    """
    place = Path(folder)
    modules = place / "modules"
    try:
        with (place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not modules.exists():
                _unpack(place, modules, max_bytes)
    except OSError as error:
        raise UnloadableTaskError(f"the project's modules cannot be unpacked: {error}") from error
    sys.path.insert(0, str(modules))
    importlib.invalidate_caches()


def _unpack(place: Path, modules: Path, max_bytes: int) -> None:
    half_done = place / "unpacking"
    shutil.rmtree(half_done, ignore_errors=True)  # one that was killed meanwhile may have left it
    archive = place / "archive"
    try:
        unpack_files(archive.read_bytes(), half_done, max_bytes)
    except BaseException:
        shutil.rmtree(half_done, ignore_errors=True)  # a disk that has become full by it is not to stay so
        raise
    half_done.rename(modules)
    archive.unlink()
