"""Large blobs of a journal: files beside it, named by the digest of what they hold.

Law:

- A blob is *stored* once its file and the name of it are whole and on the disk. It is stored before the
  commit that names it, and stays until no commit names it and nobody *holds* it.
- Who stores a blob holds it from before its file gets its name, until the commit that names it is made, or
  it is given up. After a commit of which is not known whether it was made nothing is let go of.
- Two threads use a folder: that of the commits, and that of what is stored beside them. What is stored,
  named and held changes under one lock, and under it a file loses its name; all that takes long is outside.
- What a crash leaves over is removed at the next start, once all commits are read.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter, deque
from contextlib import suppress
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING

from distcomp.errors import JournalFailedError, JournalFullError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from pathlib import Path

DIGEST_BYTES = 32

SLICE_BYTES = 4 << 20
"""What is digested, or written and synced, at once: a commit beside it waits no longer than for that."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def digesting(blob: bytes) -> Generator[int, None, bytes]:
    """Find what names a blob, a slice at a time; gives the bytes of each, and returns the digest."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    view = memoryview(blob)
    for at in range(0, len(blob), SLICE_BYTES):
        part = view[at : at + SLICE_BYTES]
        digest.update(part)
        yield len(part)
    return digest.digest()


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
        size_bytes: what is stored, together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.size_bytes = 0
        self._lock = threading.Lock()
        self._sizes: dict[bytes, int] = {}
        self._named_by: dict[bytes, int] = {}
        self._holds: Counter[bytes] = Counter()
        self._nameless: deque[Path] = deque()
        self._numbers = count()

    # --- storing ---

    def hold(self, digest: bytes) -> bool:
        """Have a blob stay that no commit names; whether it is stored."""
        with self._lock:
            self._holds[digest] += 1
            return digest in self._sizes

    def let_go(self, digests: Iterable[bytes]) -> None:
        """Hold blobs once less; `remove` deletes those that nobody holds and no commit names."""
        with self._lock:
            for digest in digests:
                self._holds[digest] -= 1
                if not self._holds[digest]:
                    del self._holds[digest]
                    self._take_name(digest)

    def is_stored(self, digest: bytes) -> bool:
        """Whether a blob is whole and on the disk."""
        return digest in self._sizes

    def writing(self, digest: bytes, blob: bytes) -> Generator[int, None, None]:
        """Write the file of a blob that is held, a slice at a time; gives the bytes of each. Then `seal` it.

        Raises:
            JournalFullError: there is no room.
            JournalFailedError: anything else went wrong.
        """
        path = self.folder / digest.hex()
        unfinished = path.with_suffix(f".{next(self._numbers)}.part")
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(mode=0o700, exist_ok=True)
                sync_folder(self.folder.parent)
            try:
                yield from _writing_synced(unfinished, blob)
                unfinished.rename(path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(path, error) from error

    def seal(self, written: Sequence[tuple[bytes, bytes]]) -> None:
        """Make the names of written blobs durable, and so the blobs stored; raises as `writing` does."""
        try:
            sync_folder(self.folder)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        with self._lock:
            for digest, blob in written:
                if digest not in self._sizes:
                    self._sizes[digest] = len(blob)
                    self.size_bytes += len(blob)

    # --- what commits name ---

    def note(self, digest: bytes, sequence: int) -> None:
        """A commit names a blob; later commits come later."""
        with self._lock:
            self._named_by[digest] = sequence

    def drop_before(self, first: int) -> None:
        """Have only commits from `first` on name anything; `remove` deletes what nobody needs then."""
        with self._lock:
            for digest in [digest for digest, sequence in self._named_by.items() if sequence < first]:
                del self._named_by[digest]
                self._take_name(digest)

    def remove(self) -> None:
        """Delete the files that have lost their names, the end of each first.

        What frees much at once holds up whatever else the disk is to make durable.
        """
        while self._nameless:
            with suppress(IndexError, FileNotFoundError):  # the other thread took it, or somebody else
                path = self._nameless.popleft()
                for end in reversed(range(0, path.stat().st_size, SLICE_BYTES)):
                    os.truncate(path, end)
                path.unlink()

    def _take_name(self, digest: bytes) -> None:
        """Under the lock: take a blob's name from it if nobody needs it, so that it can be written anew."""
        if digest in self._named_by or digest in self._holds:
            return
        path = self.folder / digest.hex()
        nameless = path.with_suffix(f".{next(self._numbers)}.gone")
        self.size_bytes -= self._sizes.pop(digest, 0)
        try:
            path.rename(nameless)
            self._nameless.append(nameless)
        except FileNotFoundError:
            return  # it was given up before it was written
        except OSError:  # a full disk may have no room for another name
            path.unlink()

    # --- at the start ---

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

    def sweep(self) -> None:
        """Remove what no commit names; all of them have been read."""
        known = {digest.hex() for digest in self._named_by}
        for path in self._files():
            if path.name not in known:
                path.unlink()

    def _files(self) -> Iterable[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else ()


def _writing_synced(path: Path, blob: bytes) -> Generator[int, None, None]:
    """Write a file, each slice durable before the next."""
    view = memoryview(blob)
    folder = os.statvfs(path.parent)
    if folder.f_bavail * folder.f_frsize < len(blob):  # do not fill the disk to find that out
        raise OSError(errno.ENOSPC, f"{len(blob)} bytes do not fit")
    with os.fdopen(open_private(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb", 0) as file:
        for at in range(0, len(blob), SLICE_BYTES):
            part = view[at : at + SLICE_BYTES]
            while part:
                part = part[file.write(part) :]
            os.fsync(file.fileno())
            yield min(SLICE_BYTES, len(blob) - at)


def open_private(path: str, flags: int) -> int:
    """A file descriptor; a file that is made by it is its owner's alone."""
    return os.open(path, flags, 0o600)
