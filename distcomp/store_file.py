"""The SQLite file of a store: its tables, how it is opened, and what SQLite's errors mean for it.

Law of the file `<path>`:

- `outcomes` has a row for each task that has ended, by key. A result stays; a failure gives way to whatever
  comes later. Each row names a row of `payloads`, which several may share: results travel in runs.
- `payloads` holds the bytes, or the name of a file in `<path>-files`, with the digest that they must have.
- `places` says for each run which tasks it has, and where each was submitted last (`calls`); `earlier_places`
  where else, as the same call may be made twice.
- `functions`, `runs` and `reasons` say what the numbers in the other tables stand for, and why there was
  something to compute.
- Whatever is written in one transaction is all there or not at all, whenever a process or the power ends.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from distcomp.errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFormatError,
    StoreFullError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distcomp.config import StoreSettings

APPLICATION = 0x64635331
"""Marks a SQLite file as a store of distcomp."""

FORMAT = 2
CACHE_KIBIBYTES = 32 << 10
"""How much of the file SQLite keeps in memory: keys have no order, so each is looked for somewhere else."""

_PAUSE_S = 0.01
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL = "no room for the store {}: free some on that disk"

_TABLES = """
CREATE TABLE functions (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL, version TEXT NOT NULL,
    parts TEXT NOT NULL, used_at REAL NOT NULL, UNIQUE (name, digest, version))

CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, began_at REAL NOT NULL)

CREATE TABLE calls (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, function INTEGER NOT NULL, cluster BLOB NOT NULL,
    session BLOB NOT NULL, array INTEGER NOT NULL, submitted_at REAL NOT NULL)

CREATE INDEX calls_of_runs ON calls (run)

CREATE TABLE places (
    run INTEGER, key BLOB, call INTEGER NOT NULL, place INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (run, key)) WITHOUT ROWID

CREATE TABLE earlier_places (
    run INTEGER, call INTEGER, place INTEGER, key BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (run, call, place)) WITHOUT ROWID

CREATE TRIGGER submitted_again BEFORE UPDATE ON places
BEGIN INSERT OR IGNORE INTO earlier_places VALUES (OLD.run, OLD.call, OLD.place, OLD.key, OLD.crc); END

CREATE TABLE payloads (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL, size_bytes INTEGER NOT NULL,
    file TEXT, data BLOB)

CREATE TABLE outcomes (
    key BLOB PRIMARY KEY, function INTEGER NOT NULL, payload INTEGER NOT NULL, place INTEGER NOT NULL,
    failed INTEGER NOT NULL, crc INTEGER NOT NULL, stored_at REAL NOT NULL) WITHOUT ROWID

CREATE TRIGGER failures_give_way AFTER UPDATE ON outcomes
BEGIN DELETE FROM payloads WHERE id = OLD.payload; END

CREATE TABLE reasons (
    function TEXT, text TEXT, said_at REAL NOT NULL, PRIMARY KEY (function, text)) WITHOUT ROWID
"""


def open_store(path: Path, settings: StoreSettings, *, must_exist: bool = False) -> sqlite3.Connection:
    """Open the file of a store, or make it.

    Args:
        path: the file; its folder has to be there.
        settings: how long to wait for other processes.
        must_exist: make none.

    Returns:
        A connection in autocommit mode, usable in any thread but by one at a time.

    Raises:
        StoreError: it cannot be used; each kind says why.
    """
    with translated(path):
        if not path.exists():
            if must_exist:
                raise StoreError(f"there is no store at {path}: name the file that store= was given")
            _make_private(path)
        connection = sqlite3.connect(
            str(path), isolation_level=None, check_same_thread=False, timeout=settings.store_busy_s
        )
        # A damaged row may hold any bytes as text, and has to be seen as what it is.
        connection.text_factory = lambda text: text.decode(errors="replace")
        try:
            _prepare(connection, path, settings)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, settings: StoreSettings) -> None:
    if _is_new(connection, path):
        if not os.access(path, os.W_OK):
            raise StoreError(f"the store {path} cannot be written: it needs a file that is yours")
        _use_log(connection, path, settings)
        with transaction(connection):
            if _is_new(connection, path):  # another process may have been faster
                connection.execute(f"PRAGMA application_id={APPLICATION}")
                connection.execute(f"PRAGMA user_version={FORMAT}")
                for statement in _TABLES.split("\n\n"):
                    connection.execute(statement)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIBIBYTES}")


def _use_log(connection: sqlite3.Connection, path: Path, settings: StoreSettings) -> None:
    """Have SQLite write ahead; other processes that do the same make it give up without waiting."""
    give_up_at = time.monotonic() + settings.store_busy_s
    while True:
        try:
            ((mode,),) = connection.execute("PRAGMA journal_mode=WAL").fetchall()
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up_at:
                raise
        time.sleep(_PAUSE_S)
    if mode != "wal":
        raise StoreError(
            f"the disk with {path} cannot hold a store: SQLite finds no way to write ahead there"
        )


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether nothing was ever written; raises if what was is no store of this version."""
    # In this order, as another process may make it meanwhile, the mark and the tables at once.
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if application == 0 and not tables:
        return True
    if application != APPLICATION:
        raise StoreFormatError(f"{path} is no store of distcomp: give store= another file")
    if version != FORMAT:
        raise StoreFormatError(
            f"the store {path} has format {version}, and this distcomp uses format {FORMAT}: use the version "
            "of distcomp that wrote it, or give store= another file"
        )
    return False


def _make_private(path: Path) -> None:
    """Make an empty file that only its owner can read; another process may do the same."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside becomes durable together, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """What SQLite or the disk refuses, as what it means for the store."""
    try:
        yield
    except StoreError:
        raise
    except sqlite3.Error as error:
        raise _meaning(path, str(error)) from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFullError(_FULL.format(path)) from error
        raise StoreError(f"the store {path} cannot be used: {error}") from error


def _meaning(path: Path, said: str) -> StoreError:
    if "full" in said:
        return StoreFullError(_FULL.format(path))
    if "locked" in said:
        return StoreBusyError(
            f"the store {path} is busy: other processes write to it without a pause (store_busy_s)"
        )
    if "not a database" in said:
        return StoreFormatError(f"{path} is no store of distcomp: give store= another file")
    if "malformed" in said or "corrupt" in said or "no such" in said:
        return StoreDamagedError(
            f"the store {path} is damaged (SQLite says: {said}): restore it from a backup, or move it away; "
            "then what it held is computed again"
        )
    return StoreError(f"the store {path} cannot be used (SQLite says: {said}): look at that disk and folder")
