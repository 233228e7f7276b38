"""What writes to a store: one thread, which makes one transaction of all that came while it made the last.

Law: what is handed in is durable when its `on_durable` is called, in that order and in the writer's thread.
While the disk has no room the writer tries again by itself; after any other error it writes nothing more.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from distcomp.errors import StoreError, StoreFullError
from distcomp.store_file import open_store, transaction, translated
from distcomp.store_rows import (
    OutcomeToStore,
    StoredFunction,
    check_of_outcome,
    check_of_place,
    digest_of,
    pack_failure,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from distcomp.config import StoreSettings
    from distcomp.store_files import ResultFiles

ENTRY_BYTES = 200
"""About what a key, or what belongs to a blob, takes in memory until it is written."""

_FIND = (
    "INSERT INTO places (run, key, call, place, crc) VALUES (?, ?, ?, ?, ?) ON CONFLICT (run, key) DO NOTHING"
)
_SUBMIT = _FIND.replace(
    "NOTHING", "UPDATE SET call = excluded.call, place = excluded.place, crc = excluded.crc"
)
_log = logging.getLogger("distcomp.store")


class Submitted(NamedTuple):
    """Tasks of a run that were handed in, or found in the store: then `cluster` is empty."""

    run: str
    function: StoredFunction
    cluster: bytes
    session: bytes
    array: int
    start: int
    keys: Sequence[bytes]

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return ENTRY_BYTES * (1 + len(self.keys))


class Received(NamedTuple):
    """Outcomes by key."""

    outcomes: Sequence[tuple[bytes, OutcomeToStore]]

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        blobs = {id(outcome.blob): len(outcome.blob) for _, outcome in self.outcomes}
        return ENTRY_BYTES * (1 + len(self.outcomes)) + sum(blobs.values())


class Reasoned(NamedTuple):
    """Why tasks of a function are computed again; without text, the function is only used."""

    function: StoredFunction
    text: str
    size_bytes: int = ENTRY_BYTES


class Damaged(NamedTuple):
    """Keys whose values are not what was written."""

    keys: Sequence[bytes]
    size_bytes: int = ENTRY_BYTES


Entry: TypeAlias = "Submitted | Received | Reasoned | Damaged"


class StoreWriter:
    """The thread that writes to one store; it starts with the first entry.

    Args:
        path: the store's file.
        files: of its large results.
        settings: the bounds to keep to.
        on_failed: gets the error after which nothing more is written.
    """

    def __init__(
        self,
        path: Path,
        files: ResultFiles,
        settings: StoreSettings,
        on_failed: Callable[[StoreError], None] | None,
    ) -> None:
        self._path = path
        self._files = files
        self._settings = settings
        self._on_failed = on_failed
        self._changed = threading.Condition(threading.Lock())
        self._entries: deque[tuple[Entry, Callable[[], None] | None]] = deque()
        self._thread: threading.Thread | None = None
        self._closing = self._no_room = False
        self._close_by = 0.0
        self.backlog_bytes = 0
        self.error: StoreError | None = None

    @property
    def is_full(self) -> bool:
        """Whether nothing should be added now that can wait; what is given up is nothing to wait for."""
        if self.error is not None:
            return False
        return self._no_room or self.backlog_bytes >= self._settings.store_backlog_bytes

    def add(self, entry: Entry, on_durable: Callable[[], None] | None = None) -> None:
        """Have something written; never waits.

        Raises:
            StoreError: nothing is written any more.
        """
        with self._changed:
            if self.error is not None:
                raise self.error
            if self._closing:
                raise StoreError(f"the store {self._path} was closed")
            self._entries.append((entry, on_durable))
            self.backlog_bytes += entry.size_bytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="store", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Wait until all is durable; for room on the disk at most `store_close_s`.

        Raises:
            StoreError: it could not be made durable.
        """
        with self._changed:
            if not self._closing:
                self._close_by = time.monotonic() + self._settings.store_close_s
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        if self.error is not None:
            raise self.error

    # --- the thread ---

    def _write_all(self) -> None:
        try:
            connection = open_store(self._path, self._settings)
            try:
                while group := self._next_group():
                    self._insist(connection, [entry for entry, _ in group])
                    self._tell(group)
            finally:
                connection.close()
        except StoreError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing must be taken for durable
            failed = StoreError(f"the store {self._path} stopped on {type(error).__name__}: {error}")
            failed.__cause__ = error
            self._fail(failed)

    def _fail(self, error: StoreError) -> None:
        with self._changed:
            self.error = error
            self._entries.clear()
        if self._on_failed is not None:
            self._on_failed(error)

    def _next_group(self) -> list[tuple[Entry, Callable[[], None] | None]]:
        """What came meanwhile, as far as it fits one commit; nothing once all is done at the end."""
        with self._changed:
            while not self._entries and not self._closing:
                self._changed.wait()
            group = []
            room_bytes = self._settings.store_commit_bytes
            while self._entries and room_bytes > 0:
                group.append(self._entries.popleft())
                room_bytes -= group[-1][0].size_bytes
            return group

    def _tell(self, group: list[tuple[Entry, Callable[[], None] | None]]) -> None:
        with self._changed:
            self.backlog_bytes -= sum(entry.size_bytes for entry, _ in group)
        for _, on_durable in group:
            if on_durable is not None:
                on_durable()

    def _insist(self, connection: sqlite3.Connection, group: Sequence[Entry]) -> None:
        """Write; wait and try again as long as the disk has no room."""
        pause_s = self._settings.store_retry_first_s
        while True:
            try:
                with translated(self._path):
                    Commit(connection, self._files, self._settings.store_file_bytes).write(group)
                break
            except StoreFullError as error:
                if not self._no_room:
                    self._no_room = True
                    _log.warning("%s; it goes on by itself", error)
                if self._closing and time.monotonic() >= self._close_by:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.store_retry_most_s)
        if self._no_room:
            self._no_room = False
            _log.warning("there is room again for the store %s", self._path)


class Commit:
    """One transaction with all that a group of entries says.

    Args:
        connection: to the store.
        files: of its large results.
        file_bytes: blobs above this have files.
    """

    def __init__(self, connection: sqlite3.Connection, files: ResultFiles, file_bytes: int) -> None:
        self._connection = connection
        self._files = files
        self._file_bytes = file_bytes
        self._now = time.time()
        self._functions: dict[tuple[str, bytes, str], int] = {}
        self._file_of: dict[int, str] = {}

    def write(self, group: Sequence[Entry]) -> None:
        """Make everything durable.

        Raises:
            sqlite3.Error, OSError: nothing of it is.
        """
        large = {
            id(outcome.blob): outcome.blob
            for entry in group
            if type(entry) is Received
            for _, outcome in entry.outcomes
            if len(outcome.blob) > self._file_bytes
        }
        names = self._files.write(large.values())
        self._file_of = dict(zip(large, names, strict=True))
        try:
            with transaction(self._connection):
                for entry in group:
                    _WRITE[type(entry)](self, entry)
        except BaseException:
            self._files.remove(names)
            raise

    def submitted(self, entry: Submitted) -> None:
        """Note which tasks a run has, and where they are."""
        ask = self._connection.execute
        ask("INSERT OR IGNORE INTO runs (name, began_at) VALUES (?, ?)", (entry.run, self._now))
        ((run,),) = ask("SELECT id FROM runs WHERE name = ?", (entry.run,)).fetchall()
        function, cluster, session, array = (
            self._function(entry.function),
            entry.cluster,
            entry.session,
            entry.array,
        )
        call = ask(
            "INSERT INTO calls (run, function, cluster, session, array, submitted_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (run, function, cluster, session, array, self._now),
        ).lastrowid
        rows = (
            (run, key, call, index, check_of_place(key, cluster, session, array, index))
            for index, key in enumerate(entry.keys, entry.start)
        )
        self._connection.executemany(_SUBMIT if cluster else _FIND, rows)

    def received(self, entry: Received) -> None:
        """Store outcomes: a result stays, a failure gives way."""
        payloads: dict[int, tuple[int, bytes]] = {}
        rows = []
        for key, outcome in entry.outcomes:
            if outcome.failure is not None:
                payload, digest = self._payload(pack_failure(outcome.failure))
            elif id(outcome.blob) in payloads:
                payload, digest = payloads[id(outcome.blob)]
            else:
                payload, digest = payloads[id(outcome.blob)] = self._payload(outcome.blob)
            place, failed = outcome.position, outcome.failure is not None
            crc = check_of_outcome(key, digest, place, failed=failed)
            rows.append((key, self._function(outcome.function), payload, place, failed, crc, self._now))
        self._connection.executemany(
            "INSERT INTO outcomes (key, function, payload, place, failed, crc, stored_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET function = excluded.function, "
            "payload = excluded.payload, place = excluded.place, failed = excluded.failed, "
            "crc = excluded.crc, stored_at = excluded.stored_at WHERE failed",
            rows,
        )

    def reasoned(self, entry: Reasoned) -> None:
        """Note that a function is used, and what it is computed again for."""
        self._function(entry.function)
        if entry.text:
            self._connection.execute(
                "INSERT OR REPLACE INTO reasons (function, text, said_at) VALUES (?, ?, ?)",
                (entry.function.name, entry.text, self._now),
            )

    def damaged(self, entry: Damaged) -> None:
        """Forget outcomes that cannot be read."""
        self._connection.executemany("DELETE FROM outcomes WHERE key = ?", [(key,) for key in entry.keys])

    def _payload(self, blob: bytes) -> tuple[int, bytes]:
        """The number of a blob in the store, and its digest."""
        digest, file = digest_of(blob), self._file_of.get(id(blob))
        number = self._connection.execute(
            "INSERT INTO payloads (digest, size_bytes, file, data) VALUES (?, ?, ?, ?)",
            (digest, len(blob), file, blob if file is None else None),
        ).lastrowid
        assert number is not None  # noqa: S101 - SQLite says so of every INSERT
        return number, digest

    def _function(self, function: StoredFunction) -> int:
        """The number of a function in the store."""
        named = (function.name, function.digest, function.version)
        number = self._functions.get(named)
        if number is None:
            parts = json.dumps({name: digest.hex() for name, digest in function.parts.items()})
            self._connection.execute(
                "INSERT INTO functions (name, digest, version, parts, used_at) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET used_at = excluded.used_at",
                (*named, parts, self._now),
            )
            ((number,),) = self._connection.execute(
                "SELECT id FROM functions WHERE name = ? AND digest = ? AND version = ?", named
            ).fetchall()
            self._functions[named] = number
        return number


_WRITE: dict[type[Any], Callable[[Commit, Any], None]] = {
    Submitted: Commit.submitted,
    Received: Commit.received,
    Reasoned: Commit.reasoned,
    Damaged: Commit.damaged,
}
