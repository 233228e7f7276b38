"""Large blobs of a journal: files beside it, named by the digest of what they hold.

Law: a file is whole and on the disk before the commit that names it, and stays until no commit names it.
What a crash leaves over is removed at the next start, once all commits are read.
"""

from __future__ import annotations

import errno
import os
from hashlib import blake2b
from typing import TYPE_CHECKING

from distcomp.errors import JournalFailedError, JournalFullError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DIGEST_BYTES = 32

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def digest_of(blob: bytes) -> bytes:
    """What names a blob."""
    return blake2b(blob, digest_size=DIGEST_BYTES).digest()


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error(path: Path, error: OSError) -> JournalFullError | JournalFailedError:
    """What a failed call means for the journal."""
    if error.errno in _NO_ROOM:
        return JournalFullError(f"there is no room for the journal {path}: free some on its disk")
    return JournalFailedError(
        f"the journal could not write {path} ({error}): repair the disk, then start the scheduler again; it "
        "goes on from what is durable"
    )


class BlobFolder:
    """The folder of one journal's large blobs.

    Args:
        folder: made when the first blob is stored.

    Attributes:
        size_bytes: what the files hold together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.size_bytes = 0
        self._named_by: dict[bytes, int] = {}
        self._sizes: dict[bytes, int] = {}
        self._unsynced = False

    def store(self, digest: bytes, blob: bytes) -> None:
        """Put a blob on the disk, unless it is there; `sync` has to follow.

        Raises:
            JournalFullError: there is no room.
            JournalFailedError: anything else went wrong.
        """
        if digest in self._sizes:
            return
        path = self.folder / digest.hex()
        unfinished = path.with_suffix(".part")
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(mode=0o700)
                sync_folder(self.folder.parent)
            try:
                _write_synced(unfinished, blob)
            except OSError:
                unfinished.unlink(missing_ok=True)
                raise
            unfinished.rename(path)
        except OSError as error:
            raise disk_error(path, error) from error
        self._sizes[digest] = len(blob)
        self.size_bytes += len(blob)
        self._unsynced = True

    def sync(self) -> None:
        """Make the names of what was stored durable; raises as `store` does."""
        if not self._unsynced:
            return
        try:
            sync_folder(self.folder)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        self._unsynced = False

    def note(self, digest: bytes, sequence: int) -> None:
        """A commit names a blob; later commits come later."""
        self._named_by[digest] = sequence

    def read(self, digest: bytes) -> bytes:
        """A blob.

        Raises:
            ValueError: it is not there, or is not what was stored.
        """
        path = self.folder / digest.hex()
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        if digest_of(blob) != digest:
            raise ValueError(f"{path} does not hold what was written to it")
        if digest not in self._sizes:
            self._sizes[digest] = len(blob)
            self.size_bytes += len(blob)
        return blob

    def drop_before(self, first: int) -> None:
        """Remove what only commits before `first` name."""
        for digest in [digest for digest, sequence in self._named_by.items() if sequence < first]:
            del self._named_by[digest]
            self.size_bytes -= self._sizes.pop(digest)
            (self.folder / digest.hex()).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what no commit names; all of them have been read."""
        known = {digest.hex() for digest in self._named_by}
        for path in self._files():
            if path.name not in known:
                path.unlink()

    def _files(self) -> Iterable[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else ()


def _write_synced(path: Path, data: bytes) -> None:
    with os.fdopen(open_private(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def open_private(path: str, flags: int) -> int:
    """A file descriptor; a file that is made by it is its owner's alone."""
    return os.open(path, flags, 0o600)
