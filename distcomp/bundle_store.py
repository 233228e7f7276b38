"""Where a worker keeps the bundles of local modules that its slot processes import from.

The law of this file. Each session has a folder of its own for each of its bundles, so that none meets what
another's tasks wrote. A folder is *in use* from `enter` to `leave` of the last process that imports from
it. Of those not in use a bounded number is kept, the longest unused goes first; those of a session that is
over go at once. All lie in one private folder, which is there from the first bundle to `close`; one that a
killed worker left behind is removed by its template as that ends, or by the next worker that makes one.

Only slot processes open an archive (see `distcomp.payload.enter_bundle`): a bad one costs nobody else.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distcomp.ids import BundleId, SessionId
    from distcomp.protocol import DefineBundle

PREFIX = "distcomp-bundles-"
ARCHIVE = "archive"
LOCK = "lock"
MOST_ATTEMPTS = 5
"""How often a folder is made anew that another worker removed as it was made."""


class _Folder:
    """An unpacked bundle, or one about to be. `over` says that its session is."""

    __slots__ = ("over", "path", "users")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users: set[int] = set()
        self.over = False


class BundleStore:
    """The folders of one worker.

    Args:
        max_unused: folders kept that no process imports from.

    Example:
        `folder = store.enter(process, session, definition)`, …, `store.leave(process)`
    """

    def __init__(self, max_unused: int) -> None:
        self._most = max_unused
        self._root: Path | None = None
        self._lock = -1
        self._made = 0
        self._folders: OrderedDict[tuple[SessionId, BundleId], _Folder] = OrderedDict()
        self._entered: dict[int, tuple[SessionId, BundleId]] = {}

    def __len__(self) -> int:
        return len(self._folders)

    def enter(self, process: int, session: SessionId, definition: DefineBundle) -> str:
        """A folder for a process, with the archive in it until a process has unpacked it.

        Args:
            process: who imports from it.
            session: whose process that is.
            definition: the bundle.

        Returns:
            Its path; empty if there is nothing to unpack.

        Raises:
            OSError: it cannot be made.
        """
        if not definition.files:
            return ""
        key = session, definition.bundle
        folder = self._folders.get(key)
        if folder is None:
            folder = self._make(definition.blob)
            self._folders[key] = folder
        self._folders.move_to_end(key)
        folder.over = False
        folder.users.add(process)
        self._entered[process] = key
        self._trim()
        return str(folder.path)

    def leave(self, process: int) -> None:
        """A process is gone."""
        key = self._entered.pop(process, None)
        if key is not None:
            folder = self._folders[key]
            folder.users.discard(process)
            if folder.over and not folder.users:
                self._remove(key)
            self._trim()

    def end_session(self, session: SessionId) -> None:
        """Remove a session's folders, each as soon as no process imports from it."""
        for key, folder in list(self._folders.items()):
            if key[0] == session:
                folder.over = True
                if not folder.users:
                    self._remove(key)

    def close(self) -> None:
        """Remove everything."""
        if self._root is not None:
            _remove_tree(self._root)
            os.close(self._lock)
            self._root = None
        self._folders.clear()
        self._entered.clear()

    def _make(self, blob: bytes) -> _Folder:
        if self._root is None:
            sweep()
            self._root, self._lock = _begin_root()
        self._made += 1
        path = self._root / str(self._made)
        path.mkdir(mode=0o700)
        try:
            (path / ARCHIVE).write_bytes(blob)
        except OSError:
            _remove_tree(path)  # a disk that has become full by it is not to stay so
            raise
        return _Folder(path)

    def _trim(self) -> None:
        unused = [key for key, folder in self._folders.items() if not folder.users]
        for key in unused[: max(0, len(unused) - self._most)]:
            self._remove(key)

    def _remove(self, key: tuple[SessionId, BundleId]) -> None:
        _remove_tree(self._folders.pop(key).path)


def _begin_root() -> tuple[Path, int]:
    """A private folder with its lock.

    Another worker that sweeps between the making of the file and its lock takes the folder for that of a
    dead one.
    """
    attempts = MOST_ATTEMPTS
    while True:
        root = Path(tempfile.mkdtemp(prefix=PREFIX))
        attempts -= 1
        try:
            lock = _locked(root / LOCK, os.O_CREAT)
        except OSError:
            if not attempts:
                raise
            continue
        if (root / LOCK).exists() or not attempts:
            return root, lock
        os.close(lock)


def _locked(path: Path, flags: int = 0) -> int:
    """A descriptor whose lock says that the folder's worker lives.

    Raises:
        OSError: another process has the lock, or there is no such file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sweep() -> None:
    """Remove what workers of this user left behind that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # it lives, has just been made, is another user's, or was removed by now
            if folder.stat().st_uid == os.getuid() and not folder.is_symlink():
                descriptor = _locked(folder / LOCK)
                _remove_tree(folder)
                os.close(descriptor)


def _remove_tree(path: Path) -> None:
    # A task may have put anything there; what cannot be removed must not stop a worker.
    shutil.rmtree(path, ignore_errors=True)
