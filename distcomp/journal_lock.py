"""Who uses a journal, and how it is set aside while nobody does."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from distcomp.errors import JournalBusyError, JournalFailedError
from distcomp.journal_blobs import open_private, sync_folder

_PARTS = ("-wal", "-wal-damaged", "-blobs", "", "-last")
"""What belongs to a journal. Renamed in this order, it is never taken for whole without its end."""


class JournalLock:
    """The right to use a journal; it ends with the process, however that ends.

    Args:
        path: the journal; its folder is made if there is none.

    Raises:
        JournalBusyError: another one has it.
        JournalFailedError: the folder cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = open_private(f"{path}-lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise JournalFailedError(f"no journal can be kept at {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise JournalBusyError(
                f"another scheduler (process {holder or 'unknown'}) uses the journal {path}: stop it, or "
                "give this one a --name or --journal of its own"
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise JournalFailedError(f"the disk with {path} cannot hold a journal: no locks") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let others use it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def set_aside(path: Path) -> Path | None:
    """Rename all files of a journal, so that the next scheduler begins a new one; nothing is deleted.

    Args:
        path: the journal.

    Returns:
        Where it is now, which a scheduler can be given again; None if there was none.

    Raises:
        JournalBusyError: a scheduler uses it.
        JournalFailedError: it cannot be renamed.

    Example:
        `set_aside(Path("state/journal.db"))` gives `state/journal.db.20260314T150926Z`
    """
    lock = JournalLock(path)
    try:
        present = [part for part in _PARTS if Path(f"{path}{part}").exists()]
        if not present:
            return None
        aside = _unused(path)
        for part in present:
            Path(f"{path}{part}").rename(f"{aside}{part}")
        sync_folder(path.parent)
    except OSError as error:
        raise JournalFailedError(f"the journal {path} cannot be set aside: {error}") from error
    finally:
        lock.release()
    return aside


def _unused(path: Path) -> Path:
    """A name with the present time that no file has."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name = f"{path}.{stamp}"
    place = 1
    while any(Path(f"{name}{part}").exists() for part in _PARTS):
        place += 1
        name = f"{path}.{stamp}.{place}"
    return Path(name)
