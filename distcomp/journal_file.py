"""The file of a journal: numbered commits in SQLite, each whole or not there, none missing unnoticed.

Law of the file `<path>`:

- Table `commits` has a row for each commit, or several if it is large; their numbers have no gap. Row 0 is
  the head: a `JournalBegan` that names the cluster and the `first` row that counts. What lies between them
  is dead, and is freed bit by bit.
- Every row carries a CRC over its journal, its number, its time, and what it holds.
- `<path>-last` holds the number of the last durable row. SQLite takes a damaged end of its write-ahead log
  for an end that was never written; this number tells one from the other, see `distcomp.journal_note`.
- `<path>-blobs` holds large blobs, see `distcomp.journal_blobs`; `<path>-lock` is locked while a scheduler
  uses all of these.

One thread at a time uses a `JournalFile`; another may use its `blobs`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from distcomp.errors import (
    JournalBusyError,
    JournalDamagedError,
    JournalError,
    JournalFailedError,
    JournalFormatError,
    JournalFullError,
    MalformedMessageError,
)
from distcomp.journal_blobs import BlobFolder, disk_error, open_private, sync_folder
from distcomp.journal_lock import JournalLock
from distcomp.journal_note import NoteFile
from distcomp.journal_rows import CommitRow, row_of, seed_of
from distcomp.records import FORMAT, JournalBegan, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distcomp.config import JournalSettings
    from distcomp.ids import ClusterId
    from distcomp.journal_note import Noted
    from distcomp.journal_rows import PackedRecords
    from distcomp.records import Record

Connect: TypeAlias = "Callable[[str], Any]"
"""Opens SQLite: gives what behaves as a `sqlite3.Connection` in autocommit mode, usable in any thread."""

APPLICATION = 0x64634A31
"""Marks a SQLite file as a journal of distcomp."""

COMMIT_BYTES = 12 << 10
"""What a commit is taken to add to the write-ahead log besides its rows."""

_TABLE = (
    "CREATE TABLE commits (sequence INTEGER PRIMARY KEY, crc INTEGER NOT NULL, committed_at REAL NOT NULL, "
    "digests BLOB NOT NULL, packed BLOB NOT NULL)"
)
_INSERT = "INSERT INTO commits (sequence, crc, committed_at, digests, packed) VALUES (?, ?, ?, ?, ?)"
_SELECT = (
    "SELECT sequence, crc, committed_at, digests, packed FROM commits WHERE sequence >= ? ORDER BY sequence"
)
_SIZE = "SELECT ifnull(sum(length(packed)), 0) FROM commits WHERE sequence >= ?"
_DEAD = "SELECT sequence, length(packed) FROM commits WHERE sequence BETWEEN 1 AND ? ORDER BY 1 LIMIT 256"


def connect_sqlite(path: str) -> sqlite3.Connection:
    """Open SQLite as a journal needs it."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)


class JournalFile:
    """The commits of one journal.

    Args:
        path: the SQLite file; made, with its folder, if there is none.
        cluster: whose journal it has to be.
        settings: the bounds to keep to.
        connect: opens SQLite.

    Attributes:
        head: what row 0 says.
        first, next: the numbers of the first row that counts, and of the next to be written.
        committed_at: when the last row was written, in wall-clock seconds; of the head if there is none.
        used_bytes: what the rows that count hold, without blobs.
        dropping: whether something dead is still to be freed.

    Raises:
        JournalBusyError: another scheduler uses it.
        JournalFormatError: it is no journal, or another cluster's, or a newer version's.
        JournalDamagedError: it does not hold what was written.
        JournalFailedError, JournalFullError: the disk does not do what it should.
    """

    def __init__(self, path: Path, cluster: ClusterId, settings: JournalSettings, connect: Connect) -> None:
        self.path = path
        self.settings = settings
        self.dropping = True
        self._log_bytes = 0
        self._lock = JournalLock(path)
        self._connection: Any = None
        self._note: NoteFile | None = None
        try:
            with self._on_disk():
                _check_usable(path)
                _make_private(path)
                self._connection = connect(str(path))
                self.blobs = BlobFolder(Path(f"{path}-blobs"))
                self._note = NoteFile(f"{path}-last")
            self._open(cluster)
        except BaseException:
            self.close()
            raise

    # --- opening ---

    def _open(self, cluster: ClusterId) -> None:
        """Recognise the file, or make it; then have it as it must be, and the numbers of its rows."""
        with self._while_reading():
            self._execute("PRAGMA locking_mode=EXCLUSIVE")
            is_new = self._is_new()
            if is_new:
                self._execute("PRAGMA auto_vacuum=INCREMENTAL")
        with self._on_disk():
            (mode,) = self._execute("PRAGMA journal_mode=WAL")[0]
            if mode != "wal":
                raise JournalFailedError(f"the disk with {self.path} cannot hold a journal: no log beside it")
            self._execute("PRAGMA synchronous=FULL")
            self._execute("PRAGMA wal_autocheckpoint=0")
            self._execute(f"PRAGMA journal_size_limit={self.settings.journal_checkpoint_bytes}")
            if is_new:
                self._begin(cluster)
        with self._while_reading():
            self._look(cluster)

    def _is_new(self) -> bool:
        """Whether nothing was ever written; raises if what was is no journal."""
        ((application,),) = self._execute("PRAGMA application_id")
        ((tables,),) = self._execute("SELECT count(*) FROM sqlite_master")
        if application == 0 and not tables and self._noted is None:
            return True
        if application != APPLICATION:
            raise self._foreign()
        return False

    def _foreign(self) -> JournalError:
        """What it means that the file is no journal: damage, if the note beside it tells of one."""
        if self._noted is not None:
            return self._damaged(0, f"it held commits up to {self._noted.sequence}, and is no journal now")
        return JournalFormatError(f"{self.path} is no journal of distcomp: name another file with --journal")

    @property
    def _noted(self) -> Noted | None:
        return None if self._note is None else self._note.found

    def _begin(self, cluster: ClusterId) -> None:
        """Write the head of a new journal."""
        now = time.time()
        with self._transaction():
            self._execute(f"PRAGMA application_id={APPLICATION}")
            self._execute(f"PRAGMA user_version={FORMAT}")
            self._execute(_TABLE)
            self._write_head(JournalBegan(FORMAT, cluster, now, 1))
        sync_folder(self.path.parent)

    def _write_head(self, head: JournalBegan) -> None:
        self._execute("DELETE FROM commits WHERE sequence = 0")
        self._execute(_INSERT, row_of(0, 0, head.created_at, b"", pack([head])))

    def _look(self, cluster: ClusterId) -> None:
        """Take in the head, and compare it with what is asked for and with the rows there are."""
        self.head = self._read_head()
        self._seed = seed_of(self.head)
        if self.head.cluster != cluster:
            raise JournalFormatError(
                f"the journal {self.path} belongs to cluster {self.head.cluster.hex()[:12]}, and this is "
                f"cluster {cluster.hex()[:12]}: name another with --journal, or set it aside with --fresh"
            )
        if self._noted is not None and self._noted.created_at != self.head.created_at:
            raise self._damaged(self.head.first, f"{self.path}-last was written beside another journal")
        ((verdict,),) = self._execute("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise self._damaged(
                self._first_unreadable(), f"its structure is broken ({verdict.splitlines()[-1]})"
            )
        first = self.first = self.head.first
        ((last,),) = self._execute("SELECT max(sequence) FROM commits")
        self.next: int = max(last + 1, first)
        ((self.used_bytes,),) = self._execute(_SIZE, (first,))
        ends = self._execute("SELECT committed_at FROM commits WHERE sequence = ?", (last,))
        self.committed_at = ends[0][0]
        if self._noted is not None and self._noted.sequence >= self.next:
            self._keep_log()
            known = self._noted.sequence
            raise self._damaged(self.next, f"commits up to {known} were written, and are not there")

    def _read_head(self) -> JournalBegan:
        """What row 0 says; raises if it is damaged, or a newer version's."""
        ((version,),) = self._execute("PRAGMA user_version")
        head: JournalBegan | None = None
        try:
            rows = self._execute(_SELECT + " LIMIT 1", (0,))
            row = CommitRow(*rows[0]) if rows else None
            if row is not None and row.sequence == 0 and row.is_whole(0):
                (head,) = cast("list[JournalBegan]", row.records(self.blobs.read))
        except (sqlite3.Error, MalformedMessageError):
            if version <= FORMAT:
                raise
        if version > FORMAT and (head is None or head.format == version):
            raise JournalFormatError(
                f"the journal {self.path} has format {version}, and this distcomp reads none above {FORMAT}: "
                "start the newer version that wrote it, or set it aside with --fresh"
            )
        if head is None or head.format != version:
            raise self._damaged(0, "it is not what was written")
        return head

    def _keep_log(self) -> None:
        """Copy SQLite's log, which is cut where it cannot be read when it is closed."""
        log = Path(f"{self.path}-wal")
        copy = Path(f"{self.path}-wal-damaged")
        if log.exists() and not copy.exists():
            shutil.copyfile(log, copy)

    # --- reading ---

    def read(self) -> Iterator[tuple[CommitRow, list[Record]]]:
        """Every row that counts with its records, in order.

        Raises:
            JournalDamagedError: one of them, or what it names, is not what was written.
        """
        expected = self.first
        with self._while_reading():
            for values in self._connection.execute(_SELECT, (expected,)):
                row = CommitRow(*values)
                if row.sequence != expected:
                    raise self._damaged(expected, f"after it comes {row.sequence!r}")
                if not row.is_whole(self._seed):
                    raise self._damaged(expected, "its checksum is wrong")
                try:
                    records = row.records(self.blobs.read)
                except MalformedMessageError as error:
                    raise self._damaged(expected, str(error)) from None
                for digest in row.named():
                    self.blobs.note(digest, expected)
                expected += 1
                yield row, records
        if expected != self.next:
            raise self._damaged(expected, f"there should be commits up to {self.next - 1}")
        self.blobs.sweep()
        self._raise_format()

    def _raise_format(self) -> None:
        """Have older versions refuse what this one is going to write."""
        if self.head.format == FORMAT:
            return
        with self._on_disk():
            head = self.head._replace(format=FORMAT)
            with self._transaction():
                self._execute(f"PRAGMA user_version={FORMAT}")
                self._write_head(head)
            self.head = head

    def _first_unreadable(self) -> int:
        """The number of the first commit that cannot be read; 0 if not even the head can."""
        if not hasattr(self, "head"):
            return 0
        expected = self.head.first
        try:
            for values in self._connection.execute(_SELECT, (expected,)):
                row = CommitRow(*values)
                if row.sequence != expected or not row.is_whole(self._seed):
                    break
                expected += 1
        except sqlite3.Error:
            return expected
        return expected

    def _damaged(self, sequence: int, why: str) -> JournalDamagedError:
        place = f"commit {sequence}" if sequence else "its head"
        return JournalDamagedError(
            f"the journal {self.path} is damaged at {place}: {why}. Restore the file and those "
            "whose names begin with its name from a backup, or set them aside with --fresh: then what they "
            "hold is not taken up again",
            sequence,
        )

    # --- writing ---

    def store(self, digest: bytes, blob: bytes) -> None:
        """Store a blob that is held, unless that is done; raises as `write` does."""
        if not self.blobs.is_stored(digest):
            for _ in self.blobs.writing(digest, blob):
                pass
            self.blobs.seal([(digest, blob)])

    def write(self, pieces: Sequence[PackedRecords]) -> None:
        """Make one commit of packed records, a row for each piece; when this returns, it is durable.

        Their large blobs are stored.

        Raises:
            JournalFullError: there is no room, and nothing was written.
            JournalFailedError: anything else went wrong.
        """
        now = time.time()
        rows = [piece.row(self._seed, self.next + place, now) for place, piece in enumerate(pieces)]
        with self._on_disk():
            if (
                len(rows) == 1
            ):  # nearly always; each statement more lets the other thread in, and waits for it
                self._execute(_INSERT, rows[0])
            else:
                with self._transaction():
                    self._connection.executemany(_INSERT, rows)
            self.next += len(rows)
            self.committed_at = now
        with suppress(JournalFullError), self._on_disk():  # what has no room for its note is written
            cast("NoteFile", self._note).write(self.next - 1, self.head.created_at)
        for row in rows:
            size_bytes = len(row.packed)
            self.used_bytes += size_bytes
            self._log_bytes += size_bytes
            for digest in row.named():
                self.blobs.note(digest, row.sequence)
        self._log_bytes += COMMIT_BYTES

    def tidy(self) -> None:
        """Move what is written to its place, once it is enough of it, and free some of what is dead.

        Raises as `write` does.
        """
        with self._on_disk():
            if self._log_bytes > self.settings.journal_checkpoint_bytes:
                self._execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._log_bytes = 0
            if self.dropping:
                self._free_some()

    def drop_before(self, first: int) -> None:
        """Let only rows from `first` on count; `tidy` frees the others.

        Raises as `write` does.
        """
        if first <= self.first:
            return
        with self._on_disk():
            head = self.head._replace(first=first)
            with self._transaction():
                self._write_head(head)
            self.head, self.first, self.dropping = head, first, True
            self.blobs.drop_before(first)
            ((self.used_bytes,),) = self._execute(_SIZE, (first,))

    def _free_some(self) -> None:
        """Delete some dead rows; once there are none, give some free pages back to the disk."""
        most_bytes = self.settings.journal_drop_bytes
        ((page_bytes,),) = self._execute("PRAGMA page_size")
        upto = freed_bytes = 0
        for sequence, size_bytes in self._execute(_DEAD, (self.first - 1,)):
            if freed_bytes >= most_bytes:
                break
            upto, freed_bytes = sequence, freed_bytes + size_bytes
        if upto:
            with self._transaction():
                self._execute("DELETE FROM commits WHERE sequence BETWEEN 1 AND ?", (upto,))
        else:
            ((free_pages,),) = self._execute("PRAGMA freelist_count")
            spare_pages = free_pages - most_bytes // page_bytes
            self.dropping = spare_pages > 0
            if self.dropping:
                pages = min(spare_pages, most_bytes // page_bytes)
                self._execute(f"PRAGMA incremental_vacuum({pages})")
        self._log_bytes += COMMIT_BYTES

    def size_bytes(self) -> int:
        """What all files of the journal hold."""
        sizes = (_size_of(f"{self.path}{part}") for part in ("", "-wal"))
        return sum(sizes) + self.blobs.size_bytes

    def close(self) -> None:
        """Let go of the file; what was written is in it."""
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error as error:
                raise disk_error(self.path, OSError(0, str(error))) from error
            finally:
                self._connection = None
        if self._note is not None:
            self._note.close()
            self._note = None
        self._lock.release()

    # --- SQLite ---

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return list(self._connection.execute(statement, values))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """What SQLite or the disk refuses, as what it means for the journal."""
        try:
            yield
        except JournalError:
            raise
        except OSError as error:
            raise disk_error(self.path, error) from error
        except sqlite3.Error as error:
            raise self._meaning(error) from error

    @contextmanager
    def _while_reading(self) -> Iterator[None]:
        """What SQLite cannot read is damage, unless another program has it or it is none of ours."""
        try:
            yield
        except sqlite3.Error as error:
            meaning = self._meaning(error)
            if isinstance(meaning, JournalFailedError) and "disk I/O" not in str(error):
                meaning = self._damaged(self._first_unreadable(), f"SQLite says: {error}")
            raise meaning from error

    def _meaning(self, error: sqlite3.Error) -> JournalError:
        said = str(error)
        if "full" in said:
            return JournalFullError(f"there is no room for the journal {self.path}: free some on its disk")
        if "locked" in said:
            return JournalBusyError(f"another program uses the journal {self.path}: stop it first")
        if "not a database" in said:
            return self._foreign()
        return JournalFailedError(
            f"the journal {self.path} cannot be written (SQLite says: {said}): repair the disk, then start "
            "the scheduler again; it goes on from what is durable"
        )


def _check_usable(path: Path) -> None:
    """Refuse, in words that tell what to do, what cannot be opened."""
    by_us = os.access in os.supports_effective_ids
    for part in ("", "-wal", "-last"):
        file = Path(f"{path}{part}")
        if not file.exists():
            continue
        if not file.is_file():
            raise JournalFormatError(f"{file} is no file: name another journal with --journal")
        if not os.access(file, os.R_OK | os.W_OK, effective_ids=by_us):
            raise JournalFailedError(
                f"the journal {path} cannot be used: you may not read and write {file}. Change its owner or "
                "mode, or name another journal with --journal"
            )


def _make_private(path: Path) -> None:
    """Make an empty file that only its owner can read, unless there is one."""
    if not path.exists():
        os.close(open_private(str(path), os.O_RDWR | os.O_CREAT))
        sync_folder(path.parent)


def _size_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0
