"""A scheduler's durable log: records in, and a word when they are on the disk.

Law of a journal:

- It is read first, to the end (`recovered`), then started. Only then can something be appended.
- What is appended while a commit is made goes into the next one, all of it together: so one `fsync` serves
  as many turns of the scheduler as come while the disk works.
- `on_committed` names the last batch that is durable, and so all before it. Several commits may be told of
  at once. A batch is durable as a whole or not at all.
- Large blobs are files, on the disk before the commit that names them. Those that were handed to `store` are
  stored beside the commits; with a record that has others, its commit takes as long as they do.
- While the disk is full the journal tries again by itself, and `is_full`. After any other error it writes
  nothing more: what an `fsync` that failed has left on the disk cannot be known by trying again.

All but the writing happens in the caller's thread, and nothing but `close` waits for the disk.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from distcomp.config import JournalSettings
from distcomp.errors import JournalError, JournalFailedError, JournalFullError
from distcomp.journal_backlog import Backlog
from distcomp.journal_file import JournalFile, connect_sqlite
from distcomp.journal_rows import packed_group
from distcomp.journal_storing import BlobStoring, KnownBlobs, StoreRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence
    from pathlib import Path

    from distcomp.ids import ClusterId
    from distcomp.journal_backlog import TurnRecords
    from distcomp.journal_file import Connect
    from distcomp.journal_rows import CommitRow, PackedRecords
    from distcomp.records import JournalBegan, Record


class RecoveredCommit(NamedTuple):
    """One commit as it was read; it was made at a wall-clock time."""

    sequence: int
    committed_at: float
    records: list[Record]


class CommitSource(Protocol):
    """What holds commits: a `JournalFile`, or its twin in memory."""

    head: JournalBegan

    @property
    def first(self) -> int:
        """The number of the first row that counts."""

    @property
    def next(self) -> int:
        """The number of the next row."""

    @property
    def committed_at(self) -> float:
        """When the last row was written, in wall-clock seconds."""

    def read(self) -> Iterator[tuple[CommitRow, list[Record]]]:
        """Every row that counts with its records, in order."""


class Recovered:
    """What a journal held when it was opened; to be iterated once, to its end.

    Args:
        source: where it is read from.

    Attributes:
        first, last: the numbers of the first and the last commit; `last` is below `first` if there is none.
        compacted: the first commit begins with a compaction that came to its end; see `distcomp.records`.
        created_at: when the journal was begun, in wall-clock seconds.
        committed_at: when its last commit was made.
        commits: how many have been read so far.
        counts: how many records of each kind have been read so far, by name.
        complete: whether all of it has been read.
    """

    def __init__(self, source: CommitSource) -> None:
        self._source = source
        self.first = source.first
        self.last = source.next - 1
        self.compacted = self.first > 1
        self.created_at = source.head.created_at
        self.committed_at = source.committed_at
        self.commits = 0
        self.counts: Counter[str] = Counter()
        self.complete = False

    @property
    def age_s(self) -> float:
        """Seconds since the last commit, by the wall clock."""
        return max(0.0, time.time() - self.committed_at)

    @property
    def records(self) -> int:
        """How many records have been read so far."""
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[RecoveredCommit]:
        """Every commit in order; raises `JournalDamagedError` at the first that cannot be read."""
        for row, records in self._source.read():
            self.commits += 1
            for kind, number in Counter(map(type, records)).items():
                self.counts[kind.__name__] += number
            yield RecoveredCommit(row.sequence, row.committed_at, records)
        self.complete = True


class Journal:
    """A journal on the disk.

    Args:
        path: its SQLite file; made, with its folder, if there is none. Other files of it lie beside it.
        cluster: the cluster whose journal it has to be.
        settings: the bounds to keep to.
        connect: opens SQLite; for tests of what happens when the power fails.

    Attributes:
        recovered: what it held.
        settings: as they were given.

    Raises:
        JournalBusyError: another scheduler uses it.
        JournalFormatError: it is no journal, or another cluster's, or a newer version's.
        JournalDamagedError: it does not hold what was written to it.
        JournalFullError: there is no room to begin it.
        JournalFailedError: the disk does not do what it should.

    Example:
        ```
        journal = Journal(path, cluster)
        for commit in journal.recovered:
            image.replay(commit.records)
        journal.start(loop.call_soon_threadsafe, on_committed=..., on_full=..., on_no_room=..., on_failed=...)
        journal.append(1, [EpochBegan(2, time.time(), "1.0")])
        ```
    """

    def __init__(
        self,
        path: Path,
        cluster: ClusterId,
        settings: JournalSettings | None = None,
        *,
        connect: Connect = connect_sqlite,
    ) -> None:
        self.path = path
        self.settings = settings or JournalSettings()
        self._file = JournalFile(path, cluster, self.settings, connect)
        self.recovered = Recovered(self._file)
        self._backlog = Backlog(self.settings)
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._closing = self._telling = False
        self._disk_is_full = False
        self._known = KnownBlobs()
        self._close_by = 0.0
        self._hurried = threading.Event()
        self._committed = 0
        self._opened_at = 0
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
        """Begin to write.

        Args:
            post: has a function called with one argument in the caller's thread, from any other:
                `loop.call_soon_threadsafe`.
            on_committed: gets the number of the last batch that is durable.
            on_full: gets the error once when the disk is full, and None when there is room again.
            on_no_room: gets how many bytes to be stored lack room on the disk, by their keys, whenever that
                changes.
            on_failed: gets the error after which nothing more is written.
        """
        assert self.recovered.complete, "a journal is read before it is written"  # noqa: S101 - our own order
        self._post, self._on_committed = post, on_committed
        self._on_full, self._on_failed = on_full, on_failed
        self._storing = BlobStoring(
            self._file.blobs,
            self.settings,
            self._known,
            post=post,
            on_no_room=on_no_room,
            on_failed=self._fail,
        )
        self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)
        self._thread.start()

    # --- the caller's thread ---

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
        return self._file.next - 1

    def size_bytes(self) -> int:
        """What its files hold on the disk."""
        return self._file.size_bytes()

    def wants_compaction(self, live_bytes: int) -> bool:
        """Whether it holds so much more than it has to that a compaction is worth its while.

        Args:
            live_bytes: about how many bytes a compaction would write.
        """
        settings = self.settings
        used_bytes = self._file.used_bytes + self._file.blobs.size_bytes
        return (
            used_bytes > settings.journal_compact_bytes
            and used_bytes > settings.journal_compact_factor * live_bytes
            and not self._file.dropping
        )

    def append(self, batch: int, records: Sequence[Record]) -> None:
        """Have the records of one turn made durable. Never waits.

        Args:
            batch: a number above that of the batch before.
            records: facts in order; they belong to the journal from now on.
        """
        stored_bytes = self._known.bytes_in(records) if self._known else 0
        with self._changed:
            self._backlog.add(batch, records, stored_bytes)
            self._changed.notify()

    def store(
        self, key: Hashable, blobs: Sequence[bytes], on_stored: Callable[[StoreRequest], None]
    ) -> StoreRequest:
        """Have large blobs stored beside the commits, for records to come that hold these very objects.

        Args:
            key: whose they are; one does not wait for all of another's.
            blobs: each of more than `journal_blob_bytes`.
            on_stored: called in the caller's thread once all are. Then `let_go` has to follow.

        Returns:
            What it is called with. If that is made `unwanted`, it may not be called any more.
        """
        request = StoreRequest(key, blobs, on_stored)
        self._storing.ask(request)
        return request

    def let_go(self, requests: Sequence[StoreRequest]) -> None:
        """All records that hold what was stored are appended; remove again what none of them does."""
        with self._changed:
            self._backlog.let_go(requests)
            self._changed.notify()

    def begin_compaction(self) -> None:
        """What is appended from now on says all that has to be kept, once `end_compaction` is called."""
        with self._changed:
            self._backlog.open()

    def end_compaction(self) -> None:
        """Let what was appended before `begin_compaction` go, as soon as all appended so far is durable."""
        with self._changed:
            self._backlog.drop()
            self._changed.notify()

    def close(self) -> None:
        """Wait until everything that was appended is durable, and let go of the files.

        For room on the disk it waits at most `journal_close_s`, and not at all after `hurry`.

        Raises:
            JournalError: what was appended could not be made durable.
        """
        if self._thread is None:
            self._file.close()
            return
        with self._changed:
            if not self._closing:
                self._close_by = time.monotonic() + self.settings.journal_close_s
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def hurry(self) -> None:
        """Have `close`, also one that waits in another thread, not wait for room on the disk."""
        self._hurried.set()

    # --- the writer's thread ---

    def _write_all(self) -> None:
        """Make commits until the journal is closed or fails."""
        try:
            try:
                while self._write_next():
                    pass
            finally:
                self._storing.close()
                self._file.blobs.remove()
                self._file.close()
        except JournalError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing must be taken for durable
            failed = JournalFailedError(f"the journal {self.path} stopped on {type(error).__name__}: {error}")
            failed.__cause__ = error
            self._fail(failed)

    def _fail(self, error: JournalError) -> None:
        """From either thread: end both, and tell the first reason."""
        with self._changed:
            is_first, self._error = self._error is None, self._error or error
            self._changed.notify()
        if is_first:
            self._post(self._on_failed, error)

    def _write_next(self) -> bool:
        """Make the next commit, if there is one; what it wrote is let go of before the next is awaited."""
        group = self._next_group()
        if group is not None:
            self._write(group)
        return group is not None

    def _next_group(self) -> list[TurnRecords] | None:
        """What came while the last commit was made; None when all is done and it closes, or it failed."""
        with self._changed:
            while not self._backlog or self._error is not None:
                if self._closing or self._error is not None:
                    return None
                if self._file.dropping:
                    return []
                self._changed.wait()
            return self._backlog.take()

    def _write(self, group: list[TurnRecords]) -> None:
        """Make one commit, tell of it, then do a bounded part of what makes room."""
        if group and group[0].drops:
            self._insist(lambda: self._file.drop_before(self._opened_at))
            self._storing.sweep()
        elif group:
            self._commit(group)
        self._insist(self._file.tidy)

    def _commit(self, group: list[TurnRecords]) -> None:
        if group[0].opens:
            self._opened_at = self._file.next
        pieces = packed_group(group, self.settings, self._known.digest_of)
        if pieces:
            self._write_pieces(pieces)
        self._let_go([request for entry in group for request in entry.frees])
        with self._changed:
            self._backlog.done(group)
        self._committed = group[-1].batch
        if not self._telling:
            self._telling = True
            self._post(self._tell, None)

    def _write_pieces(self, pieces: Sequence[PackedRecords]) -> None:
        """Make records durable, and before them what of their large blobs is not stored."""
        blobs = self._file.blobs
        named = [named for piece in pieces for named in piece.blobs]
        for digest, blob in named:
            if not blobs.hold(digest):
                self._insist(partial(self._file.store, digest, blob))
        self._insist(lambda: self._file.write(pieces))
        if named:
            blobs.let_go([digest for digest, _ in named])

    def _let_go(self, requests: Sequence[StoreRequest]) -> None:
        for request in requests:
            self._known.forget(request.blobs)
            self._file.blobs.let_go(request.digests)
        if requests:
            self._storing.sweep()

    def _tell(self, _nothing: None) -> None:
        """In the caller's thread: tell how far it is, of several commits at once if they were faster."""
        self._telling = False
        self._on_committed(self._committed)

    def _insist(self, act: Callable[[], None]) -> None:
        """Do what needs room on the disk; wait and try again as long as there is none."""
        pause_s = self.settings.journal_retry_first_s
        while True:
            try:
                act()
                break
            except JournalFullError as error:
                self._note_full(error)
                if self._out_of_patience():
                    raise
            if self._hurried.wait(pause_s):
                time.sleep(self.settings.journal_retry_first_s)
            pause_s = min(2 * pause_s, self.settings.journal_retry_most_s)
        self._note_full(None)

    def _note_full(self, error: JournalFullError | None) -> None:
        """Tell when commits begin to lack room on the disk, and when they do no more."""
        if self._disk_is_full != (error is not None):
            self._disk_is_full = error is not None
            self._post(self._on_full, error)

    def _out_of_patience(self) -> bool:
        return self._closing and (self._hurried.is_set() or time.monotonic() >= self._close_by)
