"""What a journal promises, on the disk and in memory; then what only the one on the disk can do."""

from __future__ import annotations

import errno
import os
import queue
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from distcomp.config import JournalSettings
from distcomp.errors import (
    JournalBusyError,
    JournalDamagedError,
    JournalError,
    JournalFailedError,
    JournalFormatError,
    JournalFullError,
)
from distcomp.ids import ClusterId, FunctionId, SessionId
from distcomp.journal import Journal
from distcomp.journal_blobs import SLICE_BYTES
from distcomp.journal_file import connect_sqlite
from distcomp.journal_lock import set_aside
from distcomp.journal_note import NoteFile
from distcomp.memory_journal import MemoryDisk, MemoryJournal
from distcomp.records import CompactionBegan, EpochBegan, FunctionDefined, Record, SessionEnded, TasksEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from distcomp.journal_storing import StoreRequest

AnyJournal: TypeAlias = "Journal | MemoryJournal"

CLUSTER = ClusterId(b"c" * 16)
OTHER = ClusterId(b"o" * 16)
DEADLINE_S = 60.0
LARGE = 300 << 10
QUICK = JournalSettings(journal_retry_first_s=0.001, journal_retry_most_s=0.002, journal_close_s=0.01)


def said(number: int) -> list[Record]:
    """Records that name `number`."""
    return [EpochBegan(number, 1.0, "1"), SessionEnded(SessionId(number.to_bytes(16, "big")))]


def all_said(*numbers: int) -> list[Record]:
    """Records that name all `numbers`."""
    return [record for number in numbers for record in said(number)]


def defined(letter: bytes, size_bytes: int = LARGE) -> FunctionDefined:
    return FunctionDefined(FunctionId(letter * 32), letter.decode(), letter * size_bytes)


def file_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.001)


class Program:
    """What a scheduler is to its journal: a loop that has functions called, and ears."""

    def __init__(self) -> None:
        self.posted: queue.Queue[tuple[Callable[..., None], Any]] = queue.Queue()
        self.committed: list[int] = []
        self.full: list[JournalFullError | None] = []
        self.no_room: list[dict[Hashable, int]] = []
        self.failed: list[JournalError] = []

    def start(self, journal: AnyJournal) -> list[Record]:
        """Read a journal and start it; gives what it held."""
        found = [record for commit in journal.recovered for record in commit.records]
        journal.start(
            lambda function, value: self.posted.put((function, value)),
            on_committed=self.committed.append,
            on_full=self.full.append,
            on_no_room=self.no_room.append,
            on_failed=self.failed.append,
        )
        return found

    def run_until(self, happened: Callable[[], object]) -> None:
        """Call what is posted until something is so."""
        end = time.monotonic() + DEADLINE_S
        while not happened():
            function, value = self.posted.get(timeout=max(0.001, end - time.monotonic()))
            function(value)

    def store(self, journal: AnyJournal, *blobs: bytes) -> StoreRequest:
        """Have blobs stored, and wait until they are."""
        stored: list[StoreRequest] = []
        request = journal.store("peer", blobs, stored.append)
        self.run_until(lambda: stored)
        assert stored == [request]
        return request

    def run_posted(self) -> None:
        """Call what is posted now."""
        while not self.posted.empty():
            function, value = self.posted.get()
            function(value)

    def commit(self, journal: AnyJournal, batch: int, records: list[Record]) -> None:
        """Append, and wait until it is durable."""
        journal.append(batch, records)
        self.run_until(lambda: self.committed and self.committed[-1] >= batch)


class OnDisk:
    """Journals of one path."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "state" / "journal.db"
        self.fault: BaseException | None = None
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        if self.fault is not None and "-blobs" in str(file_of(descriptor)):
            raise OSError(errno.ENOSPC if "full" in str(self.fault) else errno.EIO, str(self.fault))
        self._sync(descriptor)

    def open(self, cluster: ClusterId = CLUSTER, settings: JournalSettings | None = None) -> Journal:
        return Journal(self.path, cluster, settings, connect=lambda path: Faulty(path, self))

    def fill(self) -> None:
        self.fault = sqlite3.OperationalError("database or disk is full")

    def empty(self, journal: AnyJournal) -> None:
        del journal
        self.fault = None

    def blobs(self) -> list[bytes]:
        folder = Path(f"{self.path}-blobs")
        try:
            return [path.read_bytes() for path in folder.iterdir()] if folder.is_dir() else []
        except FileNotFoundError:  # one was removed meanwhile
            return self.blobs()

    def smash(self) -> None:
        self.fault = sqlite3.OperationalError("disk I/O error")

    def damage(self, sequence: int) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute("UPDATE commits SET packed = packed || x'00' WHERE sequence = ?", (sequence,))
        connection.close()

    def lose(self, sequence: int) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute("DELETE FROM commits WHERE sequence = ?", (sequence,))
        connection.close()


class Faulty:
    """A connection whose commits fail as long as that is asked for."""

    def __init__(self, path: str, disk: OnDisk) -> None:
        self._connection = connect_sqlite(path)
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, values: Any = ()) -> Any:
        if statement.startswith(("COMMIT", "INSERT")) and self._disk.fault is not None:
            raise self._disk.fault
        return self._connection.execute(statement, values)


class HeldSyncs:
    """Files that become durable only once they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        self.begun.set()
        assert self.go_on.wait(DEADLINE_S)
        self._sync(descriptor)


class InMemory:
    """Journals of one piece of memory."""

    def __init__(self) -> None:
        self.disk = MemoryDisk(CLUSTER)

    def open(self, cluster: ClusterId = CLUSTER, settings: JournalSettings | None = None) -> MemoryJournal:
        return MemoryJournal(self.disk, cluster, settings)

    def fill(self) -> None:
        self.disk.full = True

    def empty(self, journal: AnyJournal) -> None:
        self.disk.full = False
        assert isinstance(journal, MemoryJournal)
        journal.retry()

    def blobs(self) -> list[bytes]:
        return list(self.disk.blobs.values())

    def smash(self) -> None:
        self.disk.broken = True

    def damage(self, sequence: int) -> None:
        row = self.disk.rows[sequence]
        self.disk.rows[sequence] = row._replace(packed=row.packed + b"\0")

    def lose(self, sequence: int) -> None:
        del self.disk.rows[sequence]


Place: TypeAlias = "OnDisk | InMemory"


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return OnDisk(tmp_path, monkeypatch) if request.param == "disk" else InMemory()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnDisk:
    return OnDisk(tmp_path, monkeypatch)


@pytest.fixture
def program() -> Iterator[Program]:
    before = set(threading.enumerate())
    yield Program()
    assert not set(threading.enumerate()) - before, "a journal is closed with its thread"


def write(place: Place, batches: int) -> None:
    """Commit so many batches one by one."""
    program = Program()
    journal = place.open()
    program.start(journal)
    for batch in range(1, batches + 1):
        program.commit(journal, batch, said(batch))
    journal.close()


# --- what both promise ----------------------------------------------------------------------------


def test_what_was_committed_is_there_at_the_next_start(place: Place, program: Program) -> None:
    journal = place.open()
    assert program.start(journal) == []
    assert journal.recovered.last < journal.recovered.first == 1
    for number in range(1, 6):
        program.commit(journal, number, said(number))
    journal.close()
    again = place.open()
    commits = list(again.recovered)
    recovered = again.recovered
    assert [record for commit in commits for record in commit.records] == all_said(*range(1, 6))
    assert [commit.sequence for commit in commits] == [1, 2, 3, 4, 5]
    assert (recovered.first, recovered.last, recovered.commits, recovered.records) == (1, 5, 5, 10)
    assert recovered.counts == {"EpochBegan": 5, "SessionEnded": 5}
    assert not recovered.compacted
    assert recovered.complete
    assert 0 <= recovered.age_s < DEADLINE_S
    assert (
        recovered.created_at <= commits[0].committed_at <= recovered.committed_at == commits[-1].committed_at
    )
    again.close()


def test_closing_waits_for_what_was_appended(place: Place, program: Program) -> None:
    journal = place.open()
    program.start(journal)
    for number in range(1, 101):
        journal.append(number, said(number))
    journal.close()
    again = place.open()
    assert program.start(again) == all_said(*range(1, 101))
    again.close()


def test_commits_are_told_in_order_and_several_at_once(place: Place, program: Program) -> None:
    journal = place.open()
    program.start(journal)
    for number in range(1, 501):
        journal.append(number, said(number))
    program.run_until(lambda: program.committed and program.committed[-1] == 500)
    assert program.committed == sorted(set(program.committed))
    assert len(program.committed) < 500
    assert journal.sequence < 500, "what comes while a commit is made shares the next"
    assert journal.backlog_bytes == 0
    journal.close()


def test_a_turn_without_records_is_told_too(place: Place, program: Program) -> None:
    journal = place.open()
    program.start(journal)
    program.commit(journal, 7, [])
    assert journal.sequence == 0
    journal.close()


def test_a_large_turn_is_one_commit_of_several_rows(place: Place, program: Program) -> None:
    journal = place.open(settings=JournalSettings(journal_commit_bytes=1 << 10))
    program.start(journal)
    records = all_said(*range(100))
    program.commit(journal, 1, records)
    assert journal.sequence > 3
    journal.close()
    again = place.open()
    assert program.start(again) == records
    again.close()


def test_large_blobs_come_back(place: Place, program: Program) -> None:
    array = (SessionId(b"s" * 16), 1)
    records = [
        defined(b"a"),
        defined(b"b", 100 << 10),
        TasksEnded(array, (1, 1), 1, ((0, 2),), ((0, 1, b"x" * LARGE), (1, 2, b"y" * LARGE))),
        defined(b"a"),
    ]
    journal = place.open()
    program.start(journal)
    program.commit(journal, 1, records)
    journal.close()
    again = place.open()
    assert program.start(again) == records
    again.close()


def test_what_was_stored_beforehand_is_neither_read_nor_written_with_its_commit(
    place: Place, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = place.open()
    program.start(journal)
    record = defined(b"a")
    request = program.store(journal, record.blob)
    assert place.blobs() == [record.blob]
    monkeypatch.setattr("distcomp.journal_storing.digest_of", pytest.fail)
    place.fill()
    journal.append(1, [record])
    assert journal.backlog_bytes < LARGE, "it weighs nothing any more"
    journal.let_go([request])
    place.empty(journal)
    program.run_until(lambda: program.committed == [1])
    journal.close()
    again = place.open()
    assert program.start(again) == [record]
    again.close()


def test_what_was_stored_and_is_not_recorded_is_removed(place: Place, program: Program) -> None:
    journal = place.open()
    program.start(journal)
    requests = [program.store(journal, letter * LARGE) for letter in (b"a", b"b", b"b")]
    journal.append(1, [defined(b"a")])
    journal.let_go(requests[:2])
    program.run_until(lambda: program.committed == [1])
    assert sorted(place.blobs()) == [b"a" * LARGE, b"b" * LARGE], "somebody else holds the same"
    journal.let_go(requests[2:])
    wait_until(lambda: program.run_posted() or place.blobs() == [b"a" * LARGE])
    journal.close()
    assert place.blobs() == [b"a" * LARGE]


def test_what_is_held_outlives_a_compaction(place: Place, program: Program) -> None:
    journal = place.open()
    program.start(journal)
    program.commit(journal, 1, [defined(b"a")])
    request = program.store(journal, b"a" * LARGE)
    journal.begin_compaction()
    journal.append(2, [CompactionBegan()])
    journal.end_compaction()
    program.commit(journal, 3, [defined(b"a")])
    journal.let_go([request])
    journal.close()
    again = place.open()
    assert program.start(again) == [CompactionBegan(), defined(b"a")]
    again.close()


def test_what_has_no_room_to_be_stored_waits_and_all_else_is_accepted(place: Place, program: Program) -> None:
    journal = place.open(settings=QUICK)
    program.start(journal)
    place.fill()
    stored: list[StoreRequest] = []
    request = journal.store("peer", [b"a" * LARGE, b"b" * LARGE], stored.append)
    program.run_until(lambda: program.no_room)
    assert not journal.is_full
    place.empty(journal)
    program.run_until(lambda: stored and len(program.no_room) == 2)
    assert program.no_room == [{"peer": 2 * LARGE}, {}]
    assert not program.full
    journal.let_go([request])
    journal.close()
    assert place.blobs() == []


def test_what_cannot_be_stored_for_any_other_reason_ends_it(place: Place, program: Program) -> None:
    journal = place.open(settings=QUICK)
    program.start(journal)
    place.smash()
    journal.store("peer", [b"a" * LARGE], pytest.fail)
    program.run_until(lambda: program.failed)
    assert journal.is_full
    with pytest.raises(JournalFailedError) as failure:
        journal.close()
    assert program.failed == [failure.value]
    assert place.blobs() == []


def test_what_is_unwanted_is_not_stored(place: Place, program: Program) -> None:
    journal = place.open(settings=QUICK)
    program.start(journal)
    place.fill()
    request = journal.store("peer", [b"a" * LARGE], pytest.fail)
    program.run_until(lambda: program.no_room)
    request.unwanted = True
    place.empty(journal)
    program.run_until(lambda: program.no_room[-1] == {})
    program.store(journal, b"b" * LARGE)
    journal.close()
    assert b"a" * LARGE not in place.blobs()


def test_closing_gives_up_what_is_not_stored(place: Place, program: Program) -> None:
    journal = place.open(settings=QUICK)
    program.start(journal)
    place.fill()
    journal.store("peer", [b"a" * LARGE], pytest.fail)
    program.run_until(lambda: program.no_room)
    journal.close()
    assert place.blobs() == []


def test_a_full_backlog_says_so_until_it_is_written(place: Place, program: Program) -> None:
    journal = place.open(settings=JournalSettings(journal_backlog_bytes=1 << 16))
    program.start(journal)
    assert not journal.is_full
    place.fill()
    journal.append(1, [defined(b"a", 1 << 16)])
    assert journal.is_full
    place.empty(journal)
    program.run_until(lambda: program.committed == [1])
    program.run_posted()
    assert not journal.is_full
    journal.close()


def test_a_full_disk_is_told_once_and_tried_again(place: Place, program: Program) -> None:
    journal = place.open(settings=QUICK)
    program.start(journal)
    program.commit(journal, 1, said(1))
    place.fill()
    journal.append(2, said(2))
    journal.append(3, said(3))
    program.run_until(lambda: program.full)
    assert journal.is_full
    assert program.committed == [1], "acknowledgements are withheld"
    place.empty(journal)
    program.run_until(lambda: program.committed[-1] == 3 and len(program.full) == 2)
    assert [type(news) for news in program.full] == [JournalFullError, type(None)]
    assert not journal.is_full
    assert not program.failed
    journal.close()
    again = place.open()
    assert program.start(again) == all_said(1, 2, 3)
    again.close()


def test_closing_on_a_full_disk_says_what_is_lost(place: Place, program: Program) -> None:
    journal = place.open(settings=QUICK)
    program.start(journal)
    program.commit(journal, 1, said(1))
    place.fill()
    journal.append(2, said(2))
    with pytest.raises(JournalFullError):
        journal.close()
    place.empty(journal)
    again = place.open()
    assert program.start(again) == said(1)
    again.close()


def test_closing_in_a_hurry_does_not_wait_for_room(place: Place, program: Program) -> None:
    journal = place.open(settings=JournalSettings(journal_close_s=1000.0))
    program.start(journal)
    place.fill()
    journal.append(1, said(1))
    program.run_until(lambda: program.full)
    hurrying = threading.Timer(0.05, journal.hurry)
    hurrying.start()
    with pytest.raises(JournalFullError):
        journal.close()
    hurrying.join()


def test_any_other_error_is_for_good(place: Place, program: Program) -> None:
    journal = place.open(settings=QUICK)
    program.start(journal)
    program.commit(journal, 1, said(1))
    place.smash()
    journal.append(2, said(2))
    program.run_until(lambda: program.failed)
    assert journal.is_full
    journal.append(3, said(3))
    with pytest.raises(JournalFailedError) as failure:
        journal.close()
    assert program.failed == [failure.value]
    assert program.committed == [1]


def test_a_compaction_lets_what_stands_before_it_go(place: Place, program: Program) -> None:
    journal = place.open()
    program.start(journal)
    program.commit(journal, 1, [defined(b"a"), defined(b"b")])
    for batch in range(2, 6):
        program.commit(journal, batch, said(batch))
    journal.begin_compaction()
    journal.append(6, [CompactionBegan()])
    journal.append(7, [defined(b"b")])
    journal.append(8, said(8))
    journal.end_compaction()
    program.commit(journal, 9, said(9))
    journal.close()
    again = place.open()
    found = program.start(again)
    assert found == [CompactionBegan(), defined(b"b"), *said(8), *said(9)]
    assert again.recovered.compacted
    assert again.recovered.first == 6
    program.commit(again, 10, said(10))
    again.close()
    last = place.open()
    assert program.start(last)[-2:] == said(10)
    assert last.size_bytes() < 3 * LARGE
    last.close()


def test_a_compaction_that_did_not_end_changes_nothing(place: Place, program: Program) -> None:
    journal = place.open()
    program.start(journal)
    program.commit(journal, 1, said(1))
    journal.begin_compaction()
    program.commit(journal, 2, [CompactionBegan()])
    journal.close()
    again = place.open()
    assert program.start(again) == [*said(1), CompactionBegan()]
    assert not again.recovered.compacted
    again.end_compaction()
    program.commit(again, 3, said(3))
    again.close()
    last = place.open()
    assert program.start(last) == [*said(1), CompactionBegan(), *said(3)]
    last.close()


def test_compaction_is_wanted_when_most_of_it_is_dead(place: Place, program: Program) -> None:
    settings = JournalSettings(journal_compact_bytes=10_000, journal_compact_factor=3)
    journal = place.open(settings=settings)
    program.start(journal)
    assert not journal.wants_compaction(0)
    program.commit(journal, 1, [defined(b"a", 60_000)])
    program.commit(journal, 2, said(2))
    assert not journal.wants_compaction(30_000)
    assert journal.wants_compaction(15_000)
    journal.close()


def test_damage_is_named_by_its_commit(place: Place) -> None:
    write(place, 5)
    place.damage(3)
    journal = place.open()
    with pytest.raises(JournalDamagedError, match="commit 3") as damage:
        list(journal.recovered)
    assert damage.value.sequence == 3
    assert not journal.recovered.complete
    assert journal.recovered.commits == 2
    journal.close()


def test_a_gap_is_damage(place: Place) -> None:
    write(place, 5)
    place.lose(3)
    journal = place.open()
    with pytest.raises(JournalDamagedError) as damage:
        list(journal.recovered)
    assert damage.value.sequence == 3
    journal.close()


def test_only_one_can_use_it(place: Place) -> None:
    journal = place.open()
    with pytest.raises(JournalBusyError) as refusal:
        place.open()
    assert "\n" not in str(refusal.value)
    journal.close()
    place.open().close()


def test_a_journal_of_another_cluster_is_refused_by_name(place: Place) -> None:
    write(place, 1)
    with pytest.raises(JournalFormatError, match=CLUSTER.hex()[:12]):
        place.open(OTHER)
    place.open().close()


def test_nothing_is_appended_before_all_is_read(place: Place, program: Program) -> None:
    journal = place.open()
    with pytest.raises(AssertionError):
        journal.start(
            lambda *_: None,
            on_committed=program.committed.append,
            on_full=program.full.append,
            on_no_room=program.no_room.append,
            on_failed=program.failed.append,
        )
    journal.close()


def test_closing_twice_does_no_harm(place: Place, program: Program) -> None:
    journal = place.open()
    program.start(journal)
    journal.append(1, said(1))
    journal.close()
    journal.close()
    assert [commit.records for commit in place.open().recovered] == [said(1)]


# --- what only the disk can do ---------------------------------------------------------------------


def test_nobody_else_can_read_it(disk: OnDisk, program: Program) -> None:
    journal = disk.open()
    program.start(journal)
    program.commit(journal, 1, [defined(b"a")])
    folder = disk.path.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"journal.db", "journal.db-wal", "journal.db-last"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (folder / "journal.db-blobs").stat().st_mode & 0o777 == 0o700
    journal.close()


def test_blobs_of_any_number_of_records_are_kept_once_and_as_long_as_one_names_them(
    disk: OnDisk, program: Program
) -> None:
    blobs = Path(f"{disk.path}-blobs")
    journal = disk.open()
    program.start(journal)
    program.commit(journal, 1, [defined(b"a"), defined(b"b")])
    program.commit(journal, 2, [defined(b"a")])
    assert len(list(blobs.iterdir())) == 2
    assert journal.size_bytes() >= 2 * LARGE
    journal.begin_compaction()
    program.commit(journal, 3, [CompactionBegan(), defined(b"a")])
    journal.end_compaction()
    journal.close()
    (kept,) = blobs.iterdir()
    assert kept.read_bytes() == b"a" * LARGE


def test_what_a_crash_left_of_blobs_is_removed_once_all_is_read(disk: OnDisk, program: Program) -> None:
    write(disk, 1)
    blobs = Path(f"{disk.path}-blobs")
    blobs.mkdir()
    (blobs / ("0" * 64)).write_bytes(b"named by no commit")
    (blobs / ("1" * 64 + ".part")).write_bytes(b"unfinished")
    journal = disk.open()
    assert len(list(blobs.iterdir())) == 2
    program.start(journal)
    assert list(blobs.iterdir()) == []
    journal.close()


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_harmed_blob_is_damage_of_the_commit_that_names_it(
    disk: OnDisk, program: Program, harm: str
) -> None:
    journal = disk.open()
    program.start(journal)
    program.commit(journal, 1, said(1))
    program.commit(journal, 2, [defined(b"a")])
    journal.close()
    (blob,) = Path(f"{disk.path}-blobs").iterdir()
    if harm == "missing":
        blob.unlink()
    else:
        blob.write_bytes(b"b" * LARGE)
    again = disk.open()
    with pytest.raises(JournalDamagedError) as damage:
        list(again.recovered)
    assert damage.value.sequence == 2
    again.close()


def test_a_commit_whose_note_has_no_room_is_made_once(
    disk: OnDisk, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []
    write = NoteFile.write

    def write_later(note: NoteFile, sequence: int, created_at: float) -> None:
        noted.append(sequence)
        if len(noted) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(note, sequence, created_at)

    monkeypatch.setattr(NoteFile, "write", write_later)
    journal = disk.open()
    program.start(journal)
    program.commit(journal, 1, said(1))
    program.commit(journal, 2, said(2))
    journal.close()
    assert (noted, program.full) == ([1, 2], [])
    journal = disk.open()
    assert Program().start(journal) == all_said(1, 2)
    journal.close()


def test_no_room_for_the_name_of_a_blob_is_a_full_disk_too(
    disk: OnDisk, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = disk.open(settings=QUICK)
    program.start(journal)
    real = os.fsync

    def full(descriptor: int) -> None:
        if file_of(descriptor).name == "journal.db-blobs":
            raise OSError(errno.ENOSPC, "no space left")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    stored: list[StoreRequest] = []
    journal.store("peer", [b"a" * LARGE], stored.append)
    program.run_until(lambda: program.no_room)
    assert not stored
    monkeypatch.setattr(os, "fsync", real)
    program.run_until(lambda: stored and len(program.no_room) == 2)
    journal.close()


def test_closing_gives_up_what_is_written_and_has_no_room_for_its_name(
    disk: OnDisk, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = disk.open(settings=QUICK)
    program.start(journal)

    def full(*_: object) -> None:
        raise JournalFullError("no space left")

    monkeypatch.setattr(journal._file.blobs, "seal", full)
    journal.store("peer", [b"a" * LARGE], pytest.fail)
    program.run_until(lambda: program.no_room)
    journal.close()
    assert disk.blobs() == []


def test_no_room_for_another_name_is_none_to_let_go_of_a_blob(
    disk: OnDisk, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = disk.open()
    program.start(journal)
    request = program.store(journal, b"a" * LARGE)

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, f"no space left for {target}", path)

    monkeypatch.setattr(Path, "rename", full)
    journal.let_go([request])
    program.commit(journal, 1, said(1))
    assert (disk.blobs(), program.failed) == ([], [])
    journal.close()


def test_keys_take_turns_in_what_is_stored(
    disk: OnDisk, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = disk.open()
    program.start(journal)
    held = HeldSyncs(monkeypatch)
    order: list[StoreRequest] = []
    large = journal.store("one", [bytes(3 * SLICE_BYTES)], order.append)
    held.begun.wait(DEADLINE_S)
    small = journal.store("other", [b"a" * LARGE], order.append)
    last = journal.store("one", [b"b" * LARGE], order.append)
    held.go_on.set()
    program.run_until(lambda: len(order) == 3)
    assert order == [small, large, last]
    journal.close()


def test_what_lacks_room_on_the_disk_holds_up_nothing_of_other_keys(
    disk: OnDisk, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = disk.open(settings=JournalSettings(journal_retry_first_s=3600.0, journal_retry_most_s=3600.0))
    program.start(journal)
    real = os.statvfs
    sizes = {"f_blocks": 100, "f_frsize": 1 << 10, "f_bavail": (5 * SLICE_BYTES) >> 10}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**sizes))
    order: list[StoreRequest] = []
    journal.store("large", [bytes(5 * SLICE_BYTES + 1024)], order.append)
    behind = journal.store("large", [b"a" * LARGE], order.append)
    program.run_until(lambda: program.no_room)
    others = [
        journal.store("other", [bytes([number]) * (3 * SLICE_BYTES)], order.append) for number in (1, 2)
    ]
    program.run_until(lambda: len(order) == 2)
    program.commit(journal, 1, said(1))
    assert order == others
    assert behind not in order
    assert program.no_room[-1] == {"large": 5 * SLICE_BYTES + 1024 + LARGE}
    assert not journal.is_full
    monkeypatch.setattr(os, "statvfs", real)
    journal.close()


def test_a_commit_does_not_wait_for_what_is_stored_beside_it(
    disk: OnDisk, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = disk.open()
    program.start(journal)
    held = HeldSyncs(monkeypatch)
    stored: list[StoreRequest] = []
    journal.store("peer", [b"a" * LARGE], stored.append)
    held.begun.wait(DEADLINE_S)
    program.commit(journal, 1, said(1))
    assert not stored
    held.go_on.set()
    program.run_until(lambda: stored)
    journal.close()


def test_what_was_stored_and_never_let_go_of_is_removed_at_the_next_start(
    disk: OnDisk, program: Program
) -> None:
    journal = disk.open()
    program.start(journal)
    program.store(journal, b"a" * LARGE)
    journal.close()
    assert disk.blobs()
    again = disk.open()
    program.start(again)
    assert not disk.blobs()
    again.close()


def test_no_room_for_a_blob_is_a_full_disk(
    disk: OnDisk, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = disk.open(settings=QUICK)
    program.start(journal)
    real = os.fsync

    def full(descriptor: int) -> None:
        if threading.current_thread().name == "journal":
            raise OSError(errno.ENOSPC, "no space left")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    journal.append(1, [defined(b"a")])
    program.run_until(lambda: program.full)
    monkeypatch.setattr(os, "fsync", real)
    program.run_until(lambda: program.committed == [1])
    journal.close()
    again = disk.open()
    assert program.start(again) == [defined(b"a")]
    again.close()


def test_dead_rows_are_given_back_to_the_disk_bit_by_bit(disk: OnDisk, program: Program) -> None:
    settings = JournalSettings(journal_drop_bytes=1 << 14, journal_compact_bytes=1)
    journal = disk.open(settings=settings)
    program.start(journal)
    for batch in range(1, 41):
        program.commit(journal, batch, [defined(b"a", 50_000)])
    journal.begin_compaction()
    journal.append(41, [CompactionBegan()])
    journal.end_compaction()
    wait_until(lambda: journal.sequence == 41 and not journal.wants_compaction(1000))
    wait_until(lambda: journal.wants_compaction(0))  # nothing dead is left
    journal.close()
    assert disk.path.stat().st_size < 200_000


def test_the_log_beside_it_stays_bounded(disk: OnDisk, program: Program) -> None:
    settings = JournalSettings(journal_checkpoint_bytes=1 << 16)
    journal = disk.open(settings=settings)
    program.start(journal)
    sizes = []
    for batch in range(1, 101):
        program.commit(journal, batch, [defined(b"a", 10_000)])
        sizes.append(Path(f"{disk.path}-wal").stat().st_size)
    assert max(sizes) < 4 << 16
    journal.close()


def test_a_foreign_file_is_refused_and_left_as_it_is(disk: OnDisk) -> None:
    disk.path.parent.mkdir()
    disk.path.write_bytes(b"a letter to somebody, and a long one at that. " * 100)
    before = disk.path.read_bytes()
    with pytest.raises(JournalFormatError, match="no journal of distcomp"):
        disk.open()
    assert disk.path.read_bytes() == before


def test_a_foreign_database_is_refused_and_left_as_it_is(disk: OnDisk) -> None:
    disk.path.parent.mkdir()
    connection = sqlite3.connect(disk.path)
    connection.execute("CREATE TABLE letters (text)")
    connection.close()
    before = disk.path.read_bytes()
    with pytest.raises(JournalFormatError, match="no journal of distcomp"):
        disk.open()
    assert disk.path.read_bytes() == before


def test_a_newer_format_is_refused_by_its_number(disk: OnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("distcomp.journal_file.FORMAT", 9)
        write(disk, 1)
    with pytest.raises(JournalFormatError, match="format 9"):
        disk.open()


def test_a_newer_format_is_refused_whatever_it_looks_like(disk: OnDisk) -> None:
    write(disk, 1)
    connection = sqlite3.connect(disk.path)
    connection.execute("ALTER TABLE commits RENAME TO chapters")
    connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(JournalFormatError, match="format 9"):
        disk.open()


def test_an_older_format_is_read_and_becomes_this_one(
    disk: OnDisk, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(disk, 2)
    with monkeypatch.context() as newer:
        newer.setattr("distcomp.journal_file.FORMAT", 2)
        journal = disk.open()
        assert program.start(journal) == all_said(1, 2)
        program.commit(journal, 3, said(3))
        journal.close()
    with pytest.raises(JournalFormatError, match="format 2"):
        disk.open()


def test_a_format_that_is_told_in_two_ways_is_damage(disk: OnDisk) -> None:
    write(disk, 1)
    connection = sqlite3.connect(disk.path)
    connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(JournalDamagedError, match="its head") as damage:
        disk.open()
    assert damage.value.sequence == 0


def test_a_file_that_was_never_written_to_is_a_new_journal(disk: OnDisk, program: Program) -> None:
    disk.path.parent.mkdir()
    disk.path.touch()
    journal = disk.open()
    assert program.start(journal) == []
    journal.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalFailedError, match="no journal can be kept"):
        Journal(tmp_path / "file" / "journal.db", CLUSTER)


def test_it_is_set_aside_and_can_be_taken_up_again(disk: OnDisk, program: Program) -> None:
    assert set_aside(disk.path) is None
    journal = disk.open()
    program.start(journal)
    program.commit(journal, 1, [defined(b"a")])
    with pytest.raises(JournalBusyError):
        set_aside(disk.path)
    journal.close()
    aside = set_aside(disk.path)
    assert aside is not None
    fresh = disk.open()
    assert program.start(fresh) == []
    fresh.close()
    second = set_aside(disk.path)
    assert second not in (None, aside)
    old = Journal(aside, CLUSTER)
    assert program.start(old) == [defined(b"a")]
    old.close()


KILLED = """
import os, sys
from pathlib import Path
from distcomp.ids import ClusterId
from distcomp.journal import Journal
from distcomp.records import EpochBegan

def committed(batch):
    if batch >= 20:
        os.write(1, str(batch).encode())
        os.kill(os.getpid(), 9)

journal = Journal(Path(sys.argv[1]), ClusterId(b"c" * 16))
list(journal.recovered)
journal.start(lambda f, v: f(v), on_committed=committed, on_full=print, on_no_room=print, on_failed=print)
for batch in range(1, 100_000):
    journal.append(batch, [EpochBegan(batch, 1.0, "1")])
journal.close()
"""


def test_what_was_told_survives_a_kill_and_the_killed_leave_no_lock(disk: OnDisk, program: Program) -> None:
    script = [sys.executable, "-c", KILLED, str(disk.path)]
    done = subprocess.run(script, capture_output=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr
    told = int(done.stdout)
    journal = disk.open()
    found = program.start(journal)
    assert found == [EpochBegan(batch, 1.0, "1") for batch in range(1, len(found) + 1)]
    assert len(found) >= told >= 20
    program.commit(journal, len(found) + 1, said(1))
    journal.close()


def test_another_process_is_refused_in_one_line(disk: OnDisk) -> None:
    journal = disk.open()
    script = [sys.executable, "-c", KILLED, str(disk.path)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    journal.close()
    assert f"process {os.getpid()}) uses the journal {disk.path}" in done.stderr.splitlines()[-1]
