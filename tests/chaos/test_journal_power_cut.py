"""The journal when the power fails: a disk that keeps what was synced, and any part of what was not.

SQLite runs on a file system of ours that notes every write and every sync. A cut is a place in that log:
what had been synced before it is on the disk, and of each sector written since then a coin decides. The
journal that is found there has to hold every batch that had been told to be durable.
"""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
import threading
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import apsw
import pytest

from distcomp.config import JournalSettings
from distcomp.errors import JournalDamagedError
from distcomp.ids import ClusterId, FunctionId
from distcomp.journal import Journal
from distcomp.journal_rows import CommitRow
from distcomp.records import CompactionBegan, EpochBegan, FunctionDefined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distcomp.journal_storing import StoreRequest
    from distcomp.records import Record

CUTS = int(os.environ.get("CHAOS_POWER_CUTS", "500"))
"""How often the power fails; set the variable for more."""

SEED = int(os.environ.get("CHAOS_SEED", "1"))

CLUSTER = ClusterId(b"c" * 16)
LIVES = (range(1, 121), range(121, 241))
COMPACTED_AT = 150
SECTOR_BYTES = 512
PATIENCE_S = 90.0
SETTINGS = JournalSettings(journal_checkpoint_bytes=1 << 18, journal_drop_bytes=1 << 16)

_names = count()


class Write(NamedTuple):
    """Bytes written to a file, not yet durable."""

    file: str
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A file cut short, not yet durable."""

    file: str
    size: int


class Delete(NamedTuple):
    """A file removed, not yet durably; `synced` if its folder is synced by this."""

    file: str
    synced: bool


class Sync(NamedTuple):
    """Everything done to a file is durable. SQLite syncs its folder too if the file is new."""

    file: str


class Told(NamedTuple):
    """The journal said that all batches up to this one are durable; `last` is its note of that."""

    batch: int
    last: bytes


Change: TypeAlias = "Write | Truncate | Delete"
Entry: TypeAlias = "Change | Sync | Told"


class RecordingDisk(apsw.VFS):  # type: ignore[misc] # the package's classes are not known to the checker
    """The real file system, with a log of what is done to it."""

    def __init__(self) -> None:
        self.name = f"recording{next(_names)}"
        self.log: list[Entry] = []
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> RecordingFile:  # noqa: N802 - the name is SQLite's
        return RecordingFile(name, flags, self.log)

    def xDelete(self, name: str, sync_folder: bool) -> None:  # noqa: N802, FBT001 - the name and order are SQLite's
        super().xDelete(name, sync_folder)
        self.log.append(Delete(Path(name).name, sync_folder))


class RecordingFile(apsw.VFSFile):  # type: ignore[misc] # as above
    """A real file, with a log of what is done to it."""

    def __init__(self, name: Any, flags: list[int], log: list[Any]) -> None:
        self._log = log
        self._file = Path(name.filename() if hasattr(name, "filename") else str(name)).name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - the name is SQLite's
        self._log.append(Write(self._file, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802 - the name is SQLite's
        self._log.append(Truncate(self._file, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802 - the name is SQLite's
        super().xSync(flags)
        self._log.append(Sync(self._file))


class Connection:
    """What a journal needs of `sqlite3.Connection`, on a disk that records."""

    def __init__(self, path: str, disk: RecordingDisk, synchronous: str) -> None:
        self._connection = apsw.Connection(path, vfs=disk.name)
        self._synchronous = synchronous

    @property
    def in_transaction(self) -> bool:
        return bool(self._connection.in_transaction)

    def execute(self, statement: str, values: Any = ()) -> list[Any]:
        statement = statement.replace("synchronous=FULL", f"synchronous={self._synchronous}")
        try:
            return list(self._connection.execute(statement, values))
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error

    def executemany(self, statement: str, values: list[Any]) -> None:
        self._connection.executemany(statement, values)

    def close(self) -> None:
        self._connection.close()


def said(batch: int) -> list[Record]:
    """What a batch holds: sometimes little, sometimes several pages."""
    size_bytes = 100 + (batch * 7919) % 9000
    function = FunctionId(batch.to_bytes(32, "big"))
    return [EpochBegan(batch, 1.0, "1"), FunctionDefined(function, "f", bytes([batch % 256]) * size_bytes)]


def fail(error: object) -> None:
    raise AssertionError(error)


def live(journal: Journal, batches: range, on_committed: Callable[[int], None]) -> None:
    """Commit batch after batch, each when the one before is durable; then close."""
    told = threading.Semaphore(0)

    def tell(batch: int) -> None:
        on_committed(batch)
        told.release()

    journal.start(
        lambda function, value: function(value),
        on_committed=tell,
        on_full=fail,
        on_no_room=fail,
        on_failed=fail,
    )
    for batch in batches:
        if batch == COMPACTED_AT:
            journal.begin_compaction()
            journal.append(batch, [CompactionBegan(), *said(batch)])
            journal.end_compaction()
        else:
            journal.append(batch, said(batch))
        assert told.acquire(timeout=PATIENCE_S)
    journal.close()


def recorded(folder: Path, synchronous: str) -> list[Entry]:
    """What journals do to their disk in two lives with many commits, checkpoints and a compaction."""
    disk = RecordingDisk()
    path = folder / "journal.db"
    for batches in LIVES:
        journal = Journal(path, CLUSTER, SETTINGS, connect=lambda name: Connection(name, disk, synchronous))
        list(journal.recovered)
        live(
            journal,
            batches,
            lambda batch: disk.log.append(Told(batch, Path(f"{path}-last").read_bytes())),
        )
    disk.unregister()
    return disk.log


class Platter:
    """What is durable of one file, and what was done to it since."""

    def __init__(self) -> None:
        self._durable: bytearray | None = None
        self._since: list[Change] = []

    @property
    def is_new(self) -> bool:
        """Whether nothing of it is durable."""
        return self._durable is None

    def change(self, change: Change) -> None:
        """Go on with what was done."""
        self._since.append(change)

    def sync(self) -> None:
        """Have everything durable."""
        for change in self._since:
            self._durable = _changed(self._durable, change)
        self._since.clear()

    def sync_folder(self) -> None:
        """Have it gone for good if it was removed."""
        if self._since and isinstance(self._since[-1], Delete):
            self.sync()

    def after_cut(self, chance: random.Random) -> bytes | None:
        """What is found after the power came back; None if not even the file is."""
        found = None if self._durable is None else self._durable[:]
        kept = chance.choice((0.0, 0.5, 0.95, 1.0))
        for change in self._since:
            for part in _sectors(change):
                if chance.random() < kept:
                    found = _changed(found, part)
        return None if found is None else bytes(found)


def _changed(content: bytearray | None, change: Change) -> bytearray | None:
    """A file after a change; the content may be used for it."""
    if isinstance(change, Delete):
        return None
    content = bytearray() if content is None else content
    if isinstance(change, Truncate):
        del content[change.size :]
    else:
        end = change.offset + len(change.data)
        content.extend(bytes(max(0, end - len(content))))
        content[change.offset : end] = change.data
    return content


def _sectors(change: Change) -> Iterator[Change]:
    """The parts of a change that reach the disk or not, each for itself."""
    if not isinstance(change, Write):
        yield change
        return
    start, end = change.offset, change.offset + len(change.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        at = start - change.offset
        yield Write(change.file, start, change.data[at : at + stop - start])
        start = stop


class Found(NamedTuple):
    """What was told to be durable before a cut, and what is there after it; `noticed` if it is refused."""

    told: int
    batches: list[int]
    noticed: bool


def happen(entry: Change | Sync, platters: dict[str, Platter]) -> None:
    platter = platters.setdefault(entry.file, Platter())
    syncs_folder = platter.is_new if isinstance(entry, Sync) else isinstance(entry, Delete) and entry.synced
    if isinstance(entry, Sync):
        platter.sync()
    else:
        platter.change(entry)
    if syncs_folder:
        for each in platters.values():
            each.sync_folder()


def after_cuts(log: list[Entry], folder: Path, cuts: int, seed: int) -> Iterator[Found]:
    """What is found after each of many cuts."""
    chance = random.Random(seed)  # noqa: S311 - where the power fails is no secret
    platters: dict[str, Platter] = {}
    told = [Told(0, b"")]
    position = 0
    for cut in sorted(chance.randrange(len(log)) for _ in range(cuts)):
        for entry in log[position:cut]:
            if isinstance(entry, Told):
                told.append(entry)
            else:
                happen(entry, platters)
        position = cut
        for path in folder.iterdir():
            path.unlink()
        for name, platter in platters.items():
            content = platter.after_cut(chance)
            if content is not None:
                (folder / name).write_bytes(content)
        (folder / "journal.db-last").write_bytes(chance.choice((chance.choice(told), *told[-3:])).last)
        yield found_in(folder / "journal.db", told[-1].batch)


def found_in(path: Path, told: int) -> Found:
    batches: list[int] = []
    try:
        journal = Journal(path, CLUSTER, SETTINGS)
    except JournalDamagedError:
        return Found(told, batches, noticed=True)
    for commit in journal.recovered:
        (epoch,) = [record.epoch for record in commit.records if isinstance(record, EpochBegan)]
        assert said(epoch) == commit.records[-2:]
        batches.append(epoch)
    journal.close()
    return Found(told, batches, noticed=False)


def goes_on(path: Path, last: int) -> bool:
    """Whether the journal found after a cut can be written to and read again."""
    journal = Journal(path, CLUSTER, SETTINGS)
    list(journal.recovered)
    live(journal, range(last + 1, last + 3), lambda _: None)
    return found_in(path, 0).batches[-2:] == [last + 1, last + 2]


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes folders, in memory where there is such a disk: nothing is tested by waiting for a real one."""
    memory = Path("/dev/shm")  # noqa: S108 - each folder in it has a name of its own
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as parent:

        def make(name: str) -> Path:
            folder = Path(parent) / name
            folder.mkdir()
            return folder

        yield make


def test_no_batch_that_was_told_is_lost(quick_folder: Callable[[str], Path]) -> None:
    log = recorded(quick_folder("lives"), "FULL")
    assert sum(isinstance(entry, Sync) and entry.file == "journal.db" for entry in log) > 10, "checkpoints"
    folder = quick_folder("found")
    ahead = compacted = 0
    for number, found in enumerate(after_cuts(log, folder, CUTS, seed=SEED)):
        first = COMPACTED_AT if found.batches[:1] == [COMPACTED_AT] else 1
        assert not found.noticed, found.told
        assert found.batches == list(range(first, first + len(found.batches)))
        last = found.batches[-1] if found.batches else 0
        assert last in (found.told, found.told + 1), "at most the commit under way is there unsaid"
        ahead += last > found.told
        compacted += first > 1
        if number % 10 == 0:
            assert goes_on(folder / "journal.db", max(last, COMPACTED_AT))
    assert ahead, "some cuts fell between a commit and the word of it"
    assert compacted > CUTS / 10


def test_without_a_sync_at_each_commit_batches_are_lost(quick_folder: Callable[[str], Path]) -> None:
    log = recorded(quick_folder("lives"), "NORMAL")
    short = [
        found
        for found in after_cuts(log, quick_folder("found"), 100, seed=SEED)
        if found.noticed or (found.batches[-1] if found.batches else 0) < found.told
    ]
    assert len(short) > 10
    assert any(found.noticed for found in short), "the note of the last commit tells of most of it"


@pytest.mark.parametrize("beforehand", [False, True])
def test_a_large_blob_is_on_the_disk_before_a_commit_names_it(
    quick_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    beforehand: bool,  # noqa: FBT001 - a parameter
) -> None:
    path = quick_folder("life") / "journal.db"
    done: list[tuple[str, int]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        folder = Path(f"/proc/self/fd/{descriptor}").readlink()
        names = list(os.scandir(folder)) if folder.is_dir() else []
        done.append(("file", os.fstat(descriptor).st_ino))
        done.extend(("name", each.inode()) for each in names)

    class Watched(Connection):
        def execute(self, statement: str, values: Any = ()) -> list[Any]:
            if isinstance(values, CommitRow):
                named.append((values.named(), list(done)))
            return super().execute(statement, values)

        def executemany(self, statement: str, values: list[Any]) -> None:
            named.extend((row.named(), list(done)) for row in values)
            super().executemany(statement, values)

    named: list[tuple[list[bytes], list[tuple[str, int]]]] = []
    disk = RecordingDisk()
    monkeypatch.setattr(os, "fsync", noted)
    journal = Journal(path, CLUSTER, SETTINGS, connect=lambda name: Watched(name, disk, "FULL"))
    list(journal.recovered)
    committed: list[int] = []
    journal.start(
        lambda f, value: f(value),
        on_committed=committed.append,
        on_full=fail,
        on_no_room=fail,
        on_failed=fail,
    )
    blobs = [letter * (SETTINGS.journal_blob_bytes + 1) for letter in (b"a", b"b", b"a")]
    stored: SimpleQueue[StoreRequest] = SimpleQueue()
    for batch, blob in enumerate(blobs, start=1):
        request = journal.store("peer", [blob], stored.put) if beforehand else None
        if request is not None:
            assert stored.get(timeout=PATIENCE_S) is request
        journal.append(batch, [FunctionDefined(FunctionId(blob[:32]), "f", blob)])
        if request is not None:
            journal.let_go([request])
    journal.close()
    disk.unregister()
    assert committed[-1] == len(blobs)
    assert sum(len(digests) for digests, _ in named) == len(blobs)
    for digests, before in named:
        for digest in digests:
            inode = Path(f"{path}-blobs", digest.hex()).stat().st_ino
            kinds = [kind for kind, each in before if each == inode]
            assert "file" in kinds, "what it holds is synced"
            assert "name" in kinds[kinds.index("file") :], "then its name"
