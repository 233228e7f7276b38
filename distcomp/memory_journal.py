"""The journal's twin in memory, under the same contract: for tests, and for what needs no thread and no disk.

Its commits are made where `post` has them made, so in the order that a test or a simulation chooses.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from distcomp.config import JournalSettings
from distcomp.errors import (
    JournalBusyError,
    JournalDamagedError,
    JournalFailedError,
    JournalFormatError,
    JournalFullError,
)
from distcomp.journal import Recovered
from distcomp.journal_backlog import Backlog
from distcomp.journal_blobs import digest_of
from distcomp.journal_rows import packed_group, seed_of
from distcomp.journal_storing import KnownBlobs, StoreRequest
from distcomp.records import FORMAT, JournalBegan

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from distcomp.errors import JournalError
    from distcomp.ids import ClusterId
    from distcomp.journal_backlog import TurnRecords
    from distcomp.journal_rows import CommitRow, PackedRecords
    from distcomp.records import Record


class MemoryDisk:
    """What outlives a `MemoryJournal`.

    Attributes:
        rows: the rows by number.
        blobs: large blobs by digest.
        held: how often each is held though no row names it.
        in_use: whether a journal is open on it.
        full: set it, and nothing can be written until it is unset.
        broken: set it, and the next write fails for good.
    """

    def __init__(self, cluster: ClusterId) -> None:
        self.head = JournalBegan(FORMAT, cluster, time.time(), 1)
        self._seed = seed_of(self.head)
        self.rows: dict[int, CommitRow] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.held: Counter[bytes] = Counter()
        self.in_use = self.full = self.broken = False

    @property
    def first(self) -> int:
        """The number of the first row that counts."""
        return self.head.first

    @property
    def next(self) -> int:
        """The number of the next row."""
        return max(self.rows, default=self.first - 1) + 1

    @property
    def committed_at(self) -> float:
        """When the last row was written, in wall-clock seconds."""
        return self.rows[self.next - 1].committed_at if self.rows else self.head.created_at

    def read(self) -> Iterator[tuple[CommitRow, list[Record]]]:
        """Every row with its records, in order; raises `JournalDamagedError`."""
        for sequence in range(self.first, self.next):
            row = self.rows.get(sequence)
            if row is None or row.sequence != sequence or not row.is_whole(self._seed):
                raise JournalDamagedError(f"the journal in memory is damaged at commit {sequence}", sequence)
            yield row, row.records(self.blobs.__getitem__)

    def write(self, pieces: Sequence[PackedRecords]) -> None:
        """Add a row for each piece."""
        self._check()
        for piece in pieces:
            self.blobs.update(piece.blobs)
            row = piece.row(self._seed, self.next, time.time())
            self.rows[row.sequence] = row

    def _check(self) -> None:
        if self.broken:
            raise JournalFailedError("the journal in memory was told to fail")
        if self.full:
            raise JournalFullError("the journal in memory was told to be full")

    def drop_before(self, first: int) -> None:
        """Forget rows, and the blobs that only they name."""
        self.head = self.head._replace(first=max(first, self.first))
        self.rows = {sequence: row for sequence, row in self.rows.items() if sequence >= self.first}
        self._drop_unnamed()

    def store(self, blobs: Sequence[bytes]) -> list[bytes]:
        """Store blobs and hold them; returns their digests."""
        self._check()
        digests = [digest_of(blob) for blob in blobs]
        self.blobs.update(zip(digests, blobs, strict=True))
        self.held.update(digests)
        return digests

    def let_go(self, digests: Iterable[bytes]) -> None:
        """Hold blobs once less, and forget those that nobody holds and no row names."""
        self.held.subtract(digests)
        self._drop_unnamed()

    def _drop_unnamed(self) -> None:
        needed = {digest for row in self.rows.values() for digest in row.named()}
        needed.update(+self.held)
        self.blobs = {digest: blob for digest, blob in self.blobs.items() if digest in needed}

    def size_bytes(self) -> int:
        """What it holds."""
        return sum(len(row.packed) for row in self.rows.values()) + sum(map(len, self.blobs.values()))


class MemoryJournal:
    """A journal in memory; it means what `distcomp.journal.Journal` means.

    Args:
        disk: what it is kept on.
        cluster: the cluster whose journal it has to be.
        settings: the bounds to keep to.

    Attributes:
        recovered: what it held.
        settings: as they were given.

    Raises:
        JournalBusyError: another journal is open on the disk.
        JournalFormatError: the disk holds another cluster's journal.

    Example:
        `MemoryJournal(MemoryDisk(cluster), cluster)`
    """

    def __init__(self, disk: MemoryDisk, cluster: ClusterId, settings: JournalSettings | None = None) -> None:
        if disk.in_use:
            raise JournalBusyError("another scheduler uses the journal in memory")
        if disk.head.cluster != cluster:
            raise JournalFormatError(
                f"the journal in memory belongs to cluster {disk.head.cluster.hex()[:12]}"
            )
        self.disk = disk
        disk.held.clear()
        disk.let_go(())
        self.settings = settings or JournalSettings()
        self.recovered = Recovered(disk)
        disk.in_use = True
        self._backlog = Backlog(self.settings)
        self._group: list[TurnRecords] = []
        self._asked: deque[StoreRequest] = deque()
        self._known = KnownBlobs()
        self._posted = self._disk_is_full = False
        self._lacking: dict[Hashable, int] = {}
        self._opened_at = self._committed = 0
        self._error: JournalError | None = None

    def start(
        self,
        post: Callable[[Callable[..., None], Any], Any],
        *,
        on_committed: Callable[[int], None],
        on_full: Callable[[JournalFullError | None], None],
        on_no_room: Callable[[dict[Hashable, int]], None],
        on_failed: Callable[[JournalError], None],
    ) -> None:
        """Begin to write: a commit is made when what `post` is given is called."""
        assert self.recovered.complete, "a journal is read before it is written"  # noqa: S101 - our own order
        self._post, self._on_committed = post, on_committed
        self._on_full, self._on_no_room, self._on_failed = on_full, on_no_room, on_failed

    @property
    def is_full(self) -> bool:
        """Whether nothing should be accepted now: too much waits, the disk is full, or the journal failed."""
        return self._disk_is_full or self._error is not None or self._backlog.is_full

    @property
    def backlog_bytes(self) -> int:
        """About how many bytes wait for their commit."""
        return self._backlog.weight_bytes

    @property
    def sequence(self) -> int:
        """The number of the last commit."""
        return self.disk.next - 1

    def size_bytes(self) -> int:
        """What it holds."""
        return self.disk.size_bytes()

    def wants_compaction(self, live_bytes: int) -> bool:
        """Whether it holds so much more than `live_bytes` that a compaction is worth its while."""
        used_bytes = self.disk.size_bytes()
        settings = self.settings
        return used_bytes > max(settings.journal_compact_bytes, settings.journal_compact_factor * live_bytes)

    def append(self, batch: int, records: Sequence[Record]) -> None:
        """Have the records of one turn made durable."""
        self._backlog.add(batch, records, self._known.bytes_in(records) if self._known else 0)
        self._plan()

    def store(
        self, key: Hashable, blobs: Sequence[bytes], on_stored: Callable[[StoreRequest], None]
    ) -> StoreRequest:
        """Have large blobs stored for records to come that hold these very objects."""
        self._asked.append(StoreRequest(key, blobs, on_stored))
        self._plan()
        return self._asked[-1]

    def let_go(self, requests: Sequence[StoreRequest]) -> None:
        """All records that hold what was stored are appended; remove again what none of them does."""
        self._backlog.let_go(requests)
        self._plan()

    def begin_compaction(self) -> None:
        """What is appended from now on says all that has to be kept, once `end_compaction` is called."""
        self._backlog.open()

    def end_compaction(self) -> None:
        """Let what was appended before `begin_compaction` go, as soon as all appended so far is durable."""
        self._backlog.drop()
        self._plan()

    def retry(self) -> None:
        """Try again to write what the disk had no room for."""
        self._plan()

    def close(self) -> None:
        """Make everything durable that was appended, and let go of the disk.

        Raises:
            JournalError: it could not be made durable.
        """
        if not self.disk.in_use:
            return
        try:
            if self._error is None:
                self._commit_all()
        finally:
            self.disk.in_use = False
        if self._error is not None:
            raise self._error

    def hurry(self) -> None:
        """Have `close` not wait for room, as it never does here."""

    def _plan(self) -> None:
        if not self._posted:
            self._posted = True
            self._post(self._commit_posted, None)

    def _commit_posted(self, _nothing: None) -> None:
        self._posted = False
        if self._error is not None or not self.disk.in_use:
            return
        try:
            self._store_all()
            self._commit_all()
        except JournalFullError as error:
            if not self._disk_is_full:
                self._disk_is_full = True
                self._on_full(error)
        except JournalFailedError as error:
            self._error = error
            self._on_failed(error)

    def _store_all(self) -> None:
        """Store what is still wanted and for which there is room, and tell of it."""
        lacking: dict[Hashable, int] = {}
        asked, self._asked = self._asked, deque()
        for request in asked:
            if request.unwanted:
                continue
            try:
                request.digests += self.disk.store(request.blobs)
            except JournalFullError:
                lacking[request.key] = lacking.get(request.key, 0) + sum(map(len, request.blobs))
                self._asked.append(request)
                continue
            for digest, blob in request.named():
                self._known.add(blob, digest)
            self._post(request.on_stored, request)
        if lacking != self._lacking:
            self._lacking = lacking
            self._on_no_room(lacking)

    def _commit_all(self) -> None:
        """Write group after group; one for which there is no room stays, and all behind it."""
        before = self._committed
        try:
            while self._group or self._backlog:
                self._group = self._group or self._backlog.take()
                self._write(self._group)
                self._backlog.done(self._group)
                self._group = []
        finally:
            if self._committed != before:
                self._on_committed(self._committed)
        if self._disk_is_full:
            self._disk_is_full = False
            self._on_full(None)

    def _write(self, group: list[TurnRecords]) -> None:
        if group[0].drops:
            self.disk.drop_before(self._opened_at)
            return
        opened_at = self.disk.next if group[0].opens else self._opened_at
        pieces = packed_group(group, self.settings, self._known.digest_of)
        if pieces:
            self.disk.write(pieces)
        for request in (request for entry in group for request in entry.frees):
            self._known.forget(request.blobs)
            self.disk.let_go(request.digests)
        self._opened_at = opened_at
        self._committed = group[-1].batch
