"""The steps that every way of a task is made of: wait, settle, be told, be forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.core.outcomes import keep
from distcomp.core.sessions import PastArray
from distcomp.protocol import TasksFailed, TasksRetried, TasksSettled
from distcomp.records import NO_LEASE
from distcomp.worker_protocol import EndSession

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import Books
    from distcomp.core.leases import OpenLease
    from distcomp.core.sessions import Session
    from distcomp.core.spans import Span
    from distcomp.ids import Token
    from distcomp.rows import Failure

FAILURE_BYTES = 512
"""What a failure is taken to weigh besides its texts and its pickled exception."""

SPAN_BYTES = 16
"""What a span of tasks that ended alike is taken to weigh."""

UNWRITTEN_SHARES = 4
"""A session is paused when it has so many shares in memory: files are not written fast enough."""


def can_run(array: TaskArrayState) -> bool:
    """Whether tasks of the array may be granted."""
    return array.definition.message is not None and not array.lacking and not array.session.paused


def put_back(array: TaskArrayState, start: int, stop: int) -> None:
    """Make indexes pending that are nowhere else; the lowest go first, so those that return do."""
    queue = array.session.pool.queue
    if array.queued:
        queue.put_back(array, start, stop)
        return
    array.pending.add(start, stop)
    if can_run(array):
        queue.offer(array)


def settle(books: Books, array: TaskArrayState, spans: Iterable[Span]) -> None:
    """Count indexes that are nowhere else as settled."""
    for start, stop in spans:
        books.chunk_bytes -= array.settle(start, stop)
        books.counts.settled += stop - start


def end_lease(books: Books, lease: OpenLease, now: float) -> None:
    """Forget a lease that is over; its slot is free."""
    array, worker = lease.array, lease.worker
    pool, session = worker.pool, array.session
    del array.leases[lease.token]
    if pool.divisible:
        pool.divisible.pop(lease.token, None)
    priority = array.options.priority
    others = pool.priorities.pop(priority) - 1
    if others:
        pool.priorities[priority] = others
    session.leases -= 1
    if not session.leases:
        owner = session.owner
        owner.holding -= 1
        if not owner.holding:
            books.owners_holding -= 1
    pool.roster.ended(worker, lease, now)


def _size_bytes(failure: Failure) -> int:
    texts = len(failure.traceback) + len(failure.output) + len(failure.stacks)
    return FAILURE_BYTES + len(failure.exception) + texts


def outcome_bytes(runs: tuple[tuple[int, int, bytes], ...], failures: tuple[tuple[int, Failure], ...]) -> int:
    """What outcomes take in memory until their client has them."""
    size_bytes = 0
    for _, _, blob in runs:
        size_bytes += len(blob)
    for _, failure in failures:
        size_bytes += _size_bytes(failure)
    return size_bytes


def forward(
    books: Books,
    array: TaskArrayState,
    runs: tuple[tuple[int, int, bytes], ...],
    failures: tuple[tuple[int, Failure], ...],
    left: tuple[Token, Sequence[Span]] = (NO_LEASE, ()),
) -> None:
    """Send outcomes to the client that waits for them, and keep them until it acknowledges them.

    `left` are the indexes that were settled by them, and the lease which these left; none if that is
    recorded already.
    """
    session = array.session
    if failures:
        array.failed += len(failures)
        books.counts.failed += len(failures)
    seq = 0
    if not session.closed:
        session.seq = seq = session.seq + 1
    if books.journalled:
        recording.ended(books, array, seq, (runs, failures), left)
    if seq:
        message = TasksSettled(seq, array.id, runs, failures)
        keep(books, session, message, outcome_bytes(runs, failures))
        box = session.outbox
        if box.here_bytes + box.stored_bytes > books.pausing_bytes:
            balance(books, session)


def forward_alike(books: Books, array: TaskArrayState, spans: tuple[Span, ...], failure: Failure) -> None:
    """Tell the client that tasks ended alike, without a result; they are settled, and that is recorded."""
    session = array.session
    tasks = sum(stop - start for start, stop in spans)
    array.failed += tasks
    books.counts.failed += tasks
    if session.closed:
        return
    session.seq = seq = session.seq + 1
    if books.journalled:
        recording.failed_alike(books, array, seq, spans, failure)
    keep(books, session, TasksFailed(seq, array.id, spans, failure), alike_bytes(spans, failure))
    balance(books, session)


def alike_bytes(spans: tuple[Span, ...], failure: Failure) -> int:
    """What it takes in memory that tasks have ended alike."""
    return _size_bytes(failure) + SPAN_BYTES * len(spans)


def balance(books: Books, session: Session) -> None:
    """Pause a session of which too much waits, or go on with it."""
    if session.paused != _is_flooded(books, session):
        if session.paused:
            resume(books, session)
        else:
            pause(books, session)


def balance_others(books: Books) -> None:
    """Go on with what was paused because all files together were too large, if they are not any more."""
    for session in list(books.paused.values()):
        balance(books, session)


def _is_flooded(books: Books, session: Session) -> bool:
    """Whether more waits of a session than may; once paused, half of that is too much, too.

    What a run's client has not read is only bounded by the files, and what is in memory by how fast they
    are written.
    """
    settings, box = books.settings, session.outbox
    parts = 2 if session.paused else 1
    if not session.run and box.size_bytes > settings.max_unread_bytes // parts:
        return True
    if box.stored_bytes and books.spilled_bytes > settings.max_spill_bytes // parts:
        return True
    share_bytes = max(settings.session_outcome_bytes, settings.least_outcome_bytes)
    return box.here_bytes > share_bytes * UNWRITTEN_SHARES // parts


def pause(books: Books, session: Session) -> None:
    """Grant nothing more of a session whose client does not read."""
    session.paused = True
    books.paused[session.id] = session
    for array in session.arrays.values():
        if array.queued:
            session.pool.queue.withhold(array)


def resume(books: Books, session: Session) -> None:
    """Grant of a session again."""
    session.paused = False
    books.paused.pop(session.id, None)
    for array in session.arrays.values():
        if array.pending.count and can_run(array):
            session.pool.queue.offer(array)


def tell_retried(books: Books, array: TaskArrayState) -> None:
    """Tell the client how many tries were followed by another one."""
    array.untold = False
    books.tell(array.session.peer, TasksRetried(array.id, array.retried))


def finish(books: Books, array: TaskArrayState) -> None:
    """Forget an array to which nothing more can happen, unless that was done."""
    if array.forgotten:
        return
    array.forgotten = True
    if array.untold:
        tell_retried(books, array)
    session = array.session
    counter = array.id[1]
    del session.arrays[counter]
    session.finished.add(counter, counter + 1)
    definition = array.definition
    if session.run or array.cut:
        session.past[counter] = PastArray(definition.id, definition.name, array.accepted, array.failed)
    if definition.waiting:
        definition.waiting.pop(array.order, None)
    books.functions.release(definition)
    for bundle in array.bundles:
        bundle.waiting.pop(array.order, None)
        books.bundles.release(bundle)
    if session.closed and not session.arrays:
        forget(books, session)


def forget(books: Books, session: Session) -> None:
    """Forget a closed session, and let workers end its slot processes."""
    del books.sessions[session.id]
    session.pool.sessions -= 1
    session.pool.unnoticed.pop(session.id, None)
    for worker in session.told.values():
        worker.sessions.pop(session.id, None)
        books.tell(worker.peer, EndSession(session.id))
    session.told.clear()
