"""A compaction: all that a scheduler must remember is said again, a little a turn, while it goes on.

Law of restating: what is said of an object is what is true in that turn. From then on its changes are
recorded as ever and mean something to who reads them; what was recorded of it between the compaction's
beginning and that turn finds nothing. So whatever comes into being meanwhile is not said again, and what
something stands in comes before it:

    workers, definitions    all, as recorded changes may name any of them
    a session               its beginning, and that it is closed
    its arrays              those that it had then, each without chunks
    their chunks            those that it had then, with what of them is not settled; an array of which
                            nothing has come yet is said as it was accepted
    leases, then pasts      those that it has when its chunks are said: those of unsaid chunks were not known
    outcomes, and the rest  when all arrays are said: outcomes that it had when it began to be said, and
                            what is over by then

A turn says at most `restate_objects` records, and at most `restate_bytes` but for its last record. The next
turn that says something is one after its commit, so compaction is as fast as the disk, and no faster. Large
blobs are asked for before what holds them is said, so that no commit takes long for them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from distcomp import records
from distcomp.core import recording
from distcomp.core.outcomes import fetch, release
from distcomp.core.spans import joined
from distcomp.protocol import TasksFailed, TasksSettled
from distcomp.records import RECORD_BYTES, weight_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distcomp.core.arrays import HeldChunk, TaskArrayState
    from distcomp.core.books import Books
    from distcomp.core.outbox import Outcome
    from distcomp.core.sessions import Session
    from distcomp.core.spans import Span
    from distcomp.records import Record

_END: Record = ()
SPANS_AT_ONCE = 4096
"""Spans in one record; what has more takes several."""


class Restating:
    """One compaction, from its beginning, which is recorded at once, to its end.

    Args:
        books: what is said again.
        now: monotonic seconds.
        large_bytes: blobs above that are handed to `Effects.prepares` first; nothing is said until they are
            `prepared`.

    Attributes:
        batch: what was said last becomes durable with it.
        over: all is said.
    """

    def __init__(self, books: Books, now: float, large_bytes: float) -> None:
        self._books = books
        self._now = now
        self._large_bytes = large_bytes
        self._asked: list[bytes] = []
        self._waits = False
        self._rest = self._all()
        self._open: dict[HeldChunk, list[Span]] = {}
        self._open_of: TaskArrayState | None = None
        self.over = False
        self._say(records.CompactionBegan())

    def say_more(self, now: float) -> None:
        """Record what this turn may say again."""
        settings = self._books.settings
        self._now = now
        self._open_of = None
        size_bytes = 0
        for _ in range(settings.restate_objects):
            record = next(self._rest, _END)
            if record is None:
                return
            if record is _END:
                self.over = True
                self._say(records.CompactionEnded())
                return
            self._say(record)
            size_bytes += weight_bytes(record)
            if size_bytes >= settings.restate_bytes:
                return

    def prepared(self) -> None:
        """What was asked for last is prepared."""
        self._waits = False

    def _prepare(self, *blobs: bytes) -> Iterator[None]:
        """Wait until the large ones of these are prepared; what was true may not be so any more then."""
        large = [blob for blob in blobs if len(blob) > self._large_bytes]
        if not large or large == self._asked:
            return
        self._asked, self._waits = large, True
        self._books.effects.prepares = [*self._books.effects.prepares, *large]
        while self._waits:
            yield None

    def _say(self, record: Record) -> None:
        self._books.effects.records.append(record)
        self.batch = self._books.batch + 1

    # --- what there is to say ---

    def _all(self) -> Iterator[Record | None]:
        """All records; None where something has to be read first, so that the turn says no more."""
        books = self._books
        workers, sessions = list(books.workers.values()), list(books.sessions.values())
        if books.began is not None:
            yield books.began
        for worker in workers:
            if books.workers.get(worker.id) is worker:
                yield recording.coming_of(worker)
        for function in books.functions.messages():
            yield from self._prepare(function.blob)
            yield records.FunctionDefined(*function)
        for bundle in books.bundles.messages():
            yield from self._prepare(bundle.blob)
            yield records.BundleDefined(*bundle)
        for key, ended in list(books.ended_runs.items()):
            if books.ended_runs.get(key) is ended:
                yield records.RunEnded(*key, ended.ended_at, ended.why)
        for session in sessions:
            if _is_known(books, session):
                yield from self._session(session)

    def _session(self, session: Session) -> Iterator[Record | None]:
        books = self._books
        numbers, last = list(session.arrays), session.seq
        yield recording.beginning_of(books, session)
        if _is_known(books, session):
            yield records.SessionRestated(session.id, session.seq, (), session.closed)
        if session.run and not session.closed:
            yield recording.opening_of(books, session, session.began_at)
        if session.peer is None and not session.closed:
            yield recording.leaving_of(books, session)
        for number in numbers:
            array = session.arrays.get(number)
            if array is not None and len(array.chunks) == 1:
                yield from self._prepare(array.chunks[0].blob)
                array = session.arrays.get(number)
            if array is not None:
                yield from self._array(array)
        yield from self._outcomes(session, last)
        yield from self._past(session)
        for spans in _portions(list(session.finished)):
            if not _is_known(books, session):
                return
            yield records.SessionRestated(session.id, session.seq, spans, session.closed)

    def _past(self, session: Session) -> Iterator[Record]:
        """What is known of arrays besides what they are now."""
        books = self._books
        for counter, past in list(session.past.items()):
            if _is_known(books, session):
                yield records.PastArrayRestated((session.id, counter), *past)
        for counter in list(session.received):
            for spans in _portions(list(session.received[counter])):
                if _is_known(books, session):
                    yield records.ReceivedRestated((session.id, counter), spans)

    def _outcomes(self, session: Session, last: int) -> Iterator[Record | None]:
        """What the client has not acknowledged, up to the number `last`; later ones were recorded since.

        A turn's worth of it is read from files at a time.
        """
        rest = deque(outcome for outcome in session.outbox.by_seq.values() if outcome.seq <= last)
        while rest:
            some: list[Outcome] = []
            size_bytes = 0
            while rest and size_bytes < self._books.settings.restate_bytes:
                outcome = rest.popleft()
                if not outcome.gone:
                    outcome.wanted = True
                    fetch(self._books, outcome)
                    some.append(outcome)
                    size_bytes += outcome.size_bytes + RECORD_BYTES
            for outcome in some:
                while outcome.message is None and not outcome.gone:
                    yield None
                if isinstance(outcome.message, TasksSettled):
                    yield from self._prepare(*[blob for _, _, blob in outcome.message.runs])
                message, outcome.wanted = outcome.message, False
                release(outcome)
                if message is not None and not outcome.gone:
                    yield _restated_outcome(message)

    def _array(self, array: TaskArrayState) -> Iterator[Record | None]:
        chunks = list(array.chunks)
        if _is_untouched(array):
            yield _as_accepted(array, chunks[0])
            return
        yield records.ArrayRestated(
            array.id,
            array.definition.id,
            array.options,
            array.accepted,
            array.closed,
            array.failed,
            array.retried,
            max(0.0, array.accepted_at + self._books.wall_offset_s),
        )
        if array.cut:
            yield records.ArrayClosed(array.id)
        for chunk in chunks:
            if chunk.unsettled:
                yield from self._prepare(chunk.blob)
            if chunk.unsettled:
                yield from self._chunk(array, chunk)
        for token in list(array.leases):
            lease = array.leases.get(token)
            if lease is not None and lease.open:
                trial = array.trials.get(lease.open[0][0])
                attempt = 1 if trial is None else trial.attempt
                spans = tuple(lease.open)
                yield records.LeaseRestated(token, array.id, spans, attempt, lease.worker.id)
        for index in list(array.trials):
            if index in array.trials:
                delay_s = max(0.0, array.delayed.get(index, 0.0) - self._now)
                yield recording.trial_of(array, index, delay_s=delay_s)

    def _chunk(self, array: TaskArrayState, chunk: HeldChunk) -> Iterator[Record]:
        """A chunk; with more fragments than one record takes, it is said several times, a part of them each.

        All of these are taken from one turn's truth, so none may be left to the next: they leave at once.
        """
        portions = list(_portions(self._unsettled(array, chunk)))
        for spans in portions[:-1]:
            self._say(_restated(array, chunk, spans))
        yield _restated(array, chunk, portions[-1])

    def _unsettled(self, array: TaskArrayState, chunk: HeldChunk) -> list[Span]:
        """The indexes of a chunk that are not settled."""
        if chunk.unsettled == chunk.stop - chunk.start:
            return [(chunk.start, chunk.stop)]
        pending = array.pending.within(chunk.start, chunk.stop)
        if self._open_of is not array:
            self._open_of = array
            self._look_for_open(array)
        return joined([*pending, *self._open.get(chunk, ())])

    def _look_for_open(self, array: TaskArrayState) -> None:
        """Find by chunk what is leased or delayed of an array: once a turn, not once a chunk."""
        self._open = {}
        for lease in array.leases.values():
            self._open.setdefault(lease.chunk, []).extend(lease.open)
        for index in array.delayed:
            self._open.setdefault(array.chunk_at(index), []).append((index, index + 1))


def _is_untouched(array: TaskArrayState) -> bool:
    """Whether all of an array came at once, and nothing has come of it: then its submit says all."""
    is_whole = array.closed and not array.cut and len(array.chunks) == 1
    return is_whole and array.pending.count == array.accepted and not array.trials and not array.retried


def _as_accepted(array: TaskArrayState, chunk: HeldChunk) -> records.TasksAccepted:
    tasks = (0, array.accepted, chunk.base, chunk.blob)
    return records.TasksAccepted(
        array.id, array.definition.id, array.options, *tasks, last=True, bundle=chunk.bundle
    )


def _restated(array: TaskArrayState, chunk: HeldChunk, spans: tuple[Span, ...]) -> records.ChunkRestated:
    return records.ChunkRestated(
        array.id, chunk.base, chunk.start, chunk.stop, chunk.blob, spans, chunk.bundle
    )


def _restated_outcome(message: TasksSettled | TasksFailed) -> Record:
    if isinstance(message, TasksFailed):
        return records.FailureRestated(message.array, message.seq, message.spans, message.failure)
    return records.OutcomeRestated(message.array, message.seq, message.runs, message.failures)


def _portions(spans: list[Span]) -> Iterator[tuple[Span, ...]]:
    """Spans in as few pieces as records of them may hold; one, if there are none."""
    for at in range(0, max(1, len(spans)), SPANS_AT_ONCE):
        yield tuple(spans[at : at + SPANS_AT_ONCE])


def _is_known(books: Books, session: Session) -> bool:
    return books.sessions.get(session.id) is session


def live_bytes(books: Books) -> int:
    """About how many bytes a compaction of these books would write."""
    size_bytes = books.held_bytes + books.spilled_bytes
    size_bytes += books.functions.held_bytes + books.bundles.held_bytes
    objects = len(books.workers) + len(books.sessions) + len(books.functions) + len(books.bundles)
    for session in books.sessions.values():
        size_bytes += len(session.opening.environment)
        objects += len(session.arrays) + len(session.outbox) + session.leases
    return size_bytes + objects * RECORD_BYTES
