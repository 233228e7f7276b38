"""What workers say of their leases: outcomes, and what they give back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core.cancelling import fail_session
from distcomp.core.failing import retry, with_past
from distcomp.core.flow import end_lease, finish, forward, settle
from distcomp.core.sleeping import awake
from distcomp.core.workforce import rest, unwind
from distcomp.errors import MalformedMessageError
from distcomp.protocol import TasksBegan
from distcomp.rows import Failure

if TYPE_CHECKING:
    from distcomp.core.books import Books, Link
    from distcomp.core.leases import OpenLease
    from distcomp.core.roster import WorkerEntry
    from distcomp.core.sessions import Session
    from distcomp.core.spans import Span
    from distcomp.worker_protocol import LeaseReturned, LeaseSettled, SlotsReported

PACE_WEIGHT = 0.3
"""How much one settle moves the measured time per task."""


def on_lease_settled(books: Books, link: Link, message: LeaseSettled, now: float) -> None:
    """Take in outcomes; those that the lease no longer answers for come too late."""
    worker = link.worker
    assert worker is not None  # noqa: S101 - see `Link.working`
    books.owing[link.peer].append(message.seq)
    reported = len(message.failures)
    for start, stop, _ in message.runs:
        if start >= stop:
            raise MalformedMessageError("a run of results without a task")
        reported += stop - start
    lease = worker.leases.get(message.token)
    if lease is None:
        books.counts.late += reported
        return
    array = lease.array
    lease.heard_at = now
    if lease.waits:
        lease.begin(now)
        worker.waiting.remove(lease)
    before = lease.size
    _take_runs(books, lease, message)
    if message.failures:
        _take_failures(books, lease, message, now)
    taken = before - lease.size
    books.counts.late += reported - taken
    busy_s, slot = message.busy_s, message.slot
    worker.settled += taken
    worker.busy_s += busy_s
    worker.changed_at = array.changed_at = now
    if slot < len(worker.slot_busy_s):
        worker.slot_busy_s[slot] += busy_s
        worker.slot_settled[slot] += taken
    if reported:
        array.session.unprepared = 0
        array.observe(busy_s / reported, PACE_WEIGHT)
        worker.pool.queue.correct(array, busy_s - taken * lease.pace_s)
    if not lease.size and not lease.cancelled:
        end_lease(books, lease, now)
    if array.closed and array.settled == array.accepted:
        finish(books, array)


def _take_runs(books: Books, lease: OpenLease, message: LeaseSettled) -> None:
    """Settle results. A run goes on whole if any of it was awaited: it cannot be opened here."""
    array = lease.array
    runs = message.runs
    left: list[Span] = []
    for run in runs:
        spans = lease.answer(run[0], run[1])
        left += spans
        for start, stop in spans:
            books.chunk_bytes -= array.settle_in(lease.chunk, start, stop)
            books.counts.settled += stop - start
        if not spans:
            runs = tuple(other for other in runs if other is not run)
    if runs:
        forward(books, array, runs, (), (lease.token, left))


def _take_failures(books: Books, lease: OpenLease, message: LeaseSettled, now: float) -> None:
    """Try failed tasks again or settle them."""
    final: list[tuple[int, Failure]] = []
    left: list[Span] = []
    for index, failure in message.failures:
        spans = lease.answer(index, index + 1)
        if spans and not retry(books, lease, index, failure, now):
            final.append((index, with_past(lease.array, index, failure)))
            settle(books, lease.array, spans)
            left += spans
    if final:
        lease.worker.failed += len(final)
        forward(books, lease.array, (), tuple(final), (lease.token, left))


def on_lease_returned(books: Books, link: Link, message: LeaseReturned, now: float) -> None:
    """Make pending what a worker gives back; it has not run, so nothing is charged."""
    worker = link.working()
    books.owing[link.peer].append(message.seq)
    lease = worker.leases.get(message.token)
    if lease is None:
        return
    spans = [span for start, stop in message.spans for span in lease.answer(start, stop)]
    unwind(books, lease, spans)
    lease.retract_until = 0.0
    worker.pool.look_at = now
    worker.changed_at = lease.array.changed_at = now
    if lease.over:
        end_lease(books, lease, now)
    if message.reason == "waited":
        worker.overdue = True
        if worker.enrolled:
            worker.pool.roster.update(worker, now)
    elif spans and message.reason in ("unprepared", "refused"):
        rest(books, worker, now)
        if message.reason == "unprepared":
            _count_unprepared(books, lease.array.session, worker, now)


def _count_unprepared(books: Books, session: Session, worker: WorkerEntry, now: float) -> None:
    """Let the tasks of a session fail for which nobody could prepare a slot again and again.

    What comes back within the rest of a worker counts once, however many slots and workers there are.
    """
    if session.unprepared and now - session.unprepared_at < books.settings.rest_s:
        return
    session.unprepared_at = now
    session.unprepared += 1
    if session.unprepared < books.settings.unprepared_limit:
        return
    times, session.unprepared = session.unprepared, 0
    if _runs(session):
        return
    text = (
        f"no slot process could be prepared for this session {times} times in a row, "
        f"at last by worker {worker.record.name} on {worker.record.host}, whose log may say why"
    )
    books.effects.log("error", "a session fails", owner=session.owner.name, why=text)
    fail_session(books, session, Failure("unloadable", text=text, host=worker.record.host))


def _runs(session: Session) -> bool:
    """Whether some worker has said that it runs a task of the session."""
    return any(
        token in array.leases
        for array in awake(session)
        for worker in {lease.worker for lease in array.leases.values()}
        for token, _ in worker.running
    )


def on_slots_reported(books: Books, link: Link, message: SlotsReported, now: float) -> None:
    """Note what runs, for charges and for observers, and tell the clients what began."""
    worker = link.working()
    before = worker.running
    worker.running = {(task.token, task.task_index): task.running_s for task in message.running}
    worker.changed_at = now
    began: dict[int, tuple[OpenLease, list[int]]] = {}
    for token, index in worker.running:
        lease = worker.leases.get(token)
        if lease is not None and (token, index) not in before:
            began.setdefault(lease.array.order, (lease, []))[1].append(index)
    for lease, indexes in began.values():
        books.tell(lease.array.session.peer, TasksBegan(lease.array.id, tuple(indexes)))
