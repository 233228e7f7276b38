"""The files of a store's large results, beside its SQLite file.

Law: a file is whole and on the disk before a row names it; each has one row, and a name that no other ever
has. What a killed process leaves over is removed once it is old: another may be about to name it.
"""

from __future__ import annotations

import os
import time
from secrets import token_hex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path


class ResultFiles:
    """The folder with the large results of one store.

    Args:
        folder: made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, blobs: Iterable[bytes]) -> list[str]:
        """Put blobs on the disk.

        Args:
            blobs: each gets a file of its own.

        Returns:
            The names of the files, which are durable.

        Raises:
            OSError: the disk has no room, or does not do what it should; nothing is left behind then.
        """
        names: list[str] = []
        try:
            for blob in blobs:
                if not names and not self.folder.is_dir():
                    self.folder.mkdir(mode=0o700, exist_ok=True)
                    _sync(self.folder.parent)
                names.append(token_hex(16))
                self._write_one(names[-1], blob)
            if names:
                _sync(self.folder)
        except OSError:
            self.remove(names)
            raise
        return names

    def _write_one(self, name: str, blob: bytes) -> None:
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())

    def read(self, name: str) -> bytes:
        """What a file holds; empty if there is none."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that no row names any more."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def sweep(self, named: Collection[str], older_s: float) -> None:
        """Remove files of at least that age which no row names."""
        before = time.time() - older_s
        for path in list(self.folder.iterdir()) if self.folder.is_dir() else ():
            try:
                if path.name not in named and path.stat().st_mtime < before:
                    path.unlink()
            except OSError:  # noqa: PERF203 - another process swept it away
                continue


def _sync(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
