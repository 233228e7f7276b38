"""The file of a shelf: SQLite, touched by one thread alone, which commits in groups.

Laws:

- Whatever waits while one commit runs is the next commit, so that many requests cost no more of the disk
  than few. What was written is told after its commit.
- A change that fails by itself is taken back alone. When the disk fails a group, each of its changes is
  tried once more by itself, and fails or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from distcomp.errors import ConfigError
from distcomp.gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")
BUSY_S = 1.0
MAX_GROUP = 256
"""Changes in one commit at most."""


class _Change(NamedTuple):
    """A change that waits, and where its outcome is told."""

    action: Callable[[sqlite3.Connection], Any]
    told: asyncio.Future[Any]


class ShelfFile:
    """One file.

    Args:
        path: of it; it is made if it is not there.
        tables: statements that make its tables, with semicolons in between.
        format_version: of the tables.

    Raises:
        ConfigError: the file cannot be used, or another gateway uses it.
    """

    def __init__(self, path: Path, tables: str, format_version: int) -> None:
        self._path = path
        self._tables, self._format_version = tables, format_version
        self._waiting: list[_Change] = []
        self._is_writing = False
        self._thread = ThreadPoolExecutor(1, "distcomp-shelf")
        try:
            self._db: sqlite3.Connection = self._thread.submit(self._open).result()
        except (sqlite3.Error, OSError) as error:
            self._thread.shutdown()
            raise ConfigError(f"{path} cannot be used: {error}; does another gateway run here?") from None
        except ConfigError:
            self._thread.shutdown()
            raise

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            db.execute(f"PRAGMA {pragma}")
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in self._tables.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={self._format_version}")
        db.execute("COMMIT")
        if version not in (0, self._format_version):
            db.close()
            raise ConfigError(
                f"{self._path} has format {version}, and this gateway knows {self._format_version}"
            )
        return db

    async def close(self) -> None:
        """Write all that is under way, and close the file."""
        with contextlib.suppress(Problem):
            await self.write(lambda _: None)
        await self.do(lambda db: db.close())
        self._thread.shutdown()

    async def do(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Have the thread do something; raises `Problem` if the disk does not play along."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, action, self._db)
        except sqlite3.Error as error:
            raise _disk(error) from None

    async def write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Have the thread change something, and give what that gave once it is on the disk.

        Raises:
            Problem: the disk does not play along, or what the action raises.
        """
        loop = asyncio.get_running_loop()
        told: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Change(action, told))
        if not self._is_writing:
            self._is_writing = True
            self._thread.submit(self._write_waiting, loop)
        return await told

    # --- in the thread ---

    def _write_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write all that waits by now, and tell the loop."""
        group = self._waiting[:MAX_GROUP]
        del self._waiting[: len(group)]
        try:
            found = self._commit(group)
        except sqlite3.Error:
            found = [self._commit_alone(each) for each in group]
        loop.call_soon_threadsafe(self._tell, loop, group, found)

    def _commit(self, group: Sequence[_Change]) -> list[Any]:
        """One transaction; what each change gave or raised."""
        db, found = self._db, list[Any]()
        db.execute("BEGIN IMMEDIATE")
        try:
            for change in group:
                db.execute("SAVEPOINT change")
                try:
                    found.append(change.action(db))
                except Exception as error:  # noqa: BLE001 - who asked for the change is told
                    db.execute("ROLLBACK TO change")  # which fails if the error has ended the transaction
                    found.append(_disk(error) if isinstance(error, sqlite3.Error) else error)
                db.execute("RELEASE change")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # some errors have ended it already
                db.execute("ROLLBACK")
            raise
        return found

    def _commit_alone(self, change: _Change) -> Any:
        try:
            return self._commit([change])[0]
        except sqlite3.Error as error:
            return _disk(error)

    def _tell(self, loop: asyncio.AbstractEventLoop, group: Sequence[_Change], found: Sequence[Any]) -> None:
        """On the loop: a group is on the disk, or not; go on with the next one."""
        if self._waiting:
            self._thread.submit(self._write_waiting, loop)
        else:
            self._is_writing = False
        for change, outcome in zip(group, found, strict=True):
            if change.told.done():  # who asked has gone
                continue
            if isinstance(outcome, Exception):
                change.told.set_exception(outcome)
            else:
                change.told.set_result(outcome)


def _disk(error: sqlite3.Error) -> Problem:
    return Problem("full", f"the gateway's disk does not do what it is asked: {error}")
