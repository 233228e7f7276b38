"""Workers come, come back, rest, drain, leave and are lost.

Law of a worker: it is connected (`peer`), or *away* for at most `reconnect_grace_s`, in which its leases
are kept. Then, or when it says that it leaves, it is forgotten and its leases are no more. Only the tasks
that it was last said to run are charged for its loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.core.effects import Close
from distcomp.core.failing import lost_with, retry, with_past
from distcomp.core.flow import end_lease, finish, forward, put_back, settle
from distcomp.core.nesting import tell_lent
from distcomp.core.resizing import ask_again
from distcomp.core.roster import WorkerEntry
from distcomp.core.spans import count, cut_all
from distcomp.worker_protocol import CancelLease, EndSession, WorkerRegistered

if TYPE_CHECKING:
    from distcomp.core.books import Books, Link
    from distcomp.core.leases import OpenLease
    from distcomp.core.spans import Span
    from distcomp.ids import SessionId, Token
    from distcomp.rows import HeldLease
    from distcomp.worker_protocol import RegisterWorker, WorkerDraining, WorkerLeft


def on_register_worker(books: Books, link: Link, message: RegisterWorker, now: float) -> None:
    """Take a worker in, or back in with the leases that both sides know."""
    worker = books.workers.get(message.worker)
    is_durable = books.is_durable
    if worker is None:
        if len(books.workers) >= books.settings.max_workers:
            books.refuse(link, "full", "the scheduler has as many workers as it may hold")
            return
        worker = WorkerEntry(message, books.pool(message.versions.python), now)
        books.workers[message.worker] = worker
        worker.pool.workers += 1
        if books.journalled:
            recording.worker_came(books, worker)
    elif worker.peer is not None:
        _displace(books, worker)
    link.phase, link.worker = "worker", worker
    _untell(books, worker)
    worker.come(link.peer, message, now)
    gone, stale = _compare(worker, message.leases)
    books.send(link.peer, WorkerRegistered(books.epoch, books.cluster, stale if is_durable else ()))
    _adopt(books, gone, now)
    if not is_durable:
        _end_stale(books, worker, stale)
    _tell_ended(books, worker, message.sessions)
    tell_lent(books, worker)
    ask_again(books, worker, now)
    if not worker.draining:
        worker.pool.roster.enrol(worker, now)
    kept = {"leases": len(worker.leases)} if worker.leases else {}
    record = worker.record
    books.effects.log(
        "info", "worker registered", name=record.name, host=record.host, slots=worker.slots, **kept
    )


def _displace(books: Books, worker: WorkerEntry) -> None:
    """End the connection that a worker had before; the new one counts."""
    assert worker.peer is not None  # noqa: S101 - asked for only then
    link = books.links[worker.peer]
    link.phase = "closed"
    books.effects.closes.append(Close(link.peer, "the worker registered again"))
    step_out(worker)


def _compare(
    worker: WorkerEntry, reported: tuple[HeldLease, ...]
) -> tuple[list[tuple[OpenLease, list[Span]]], tuple[Token, ...]]:
    """What each lease here holds that the worker does not know of, and the tokens that only it knows."""
    known = {held.token: held.spans for held in reported}
    gone: list[tuple[OpenLease, list[Span]]] = []
    for lease in worker.leases.values():
        missing = [*lease.open, *lease.cancelled]
        cut_all(missing, known.get(lease.token, ()))
        gone.append((lease, missing))
    stale = tuple(token for token in known if token not in worker.leases)
    return gone, stale


def _adopt(books: Books, gone: list[tuple[OpenLease, list[Span]]], now: float) -> None:
    """Keep what both sides hold; what never reached the worker is pending again, uncharged."""
    for lease, missing in gone:
        lease.retract_until = 0.0
        unwind(books, lease, [span for start, stop in missing for span in lease.answer(start, stop)])
        if lease.over:
            end_lease(books, lease, now)
        elif lease.cancelled:
            books.tell(lease.worker.peer, CancelLease(lease.token, tuple(lease.cancelled)))


def _end_stale(books: Books, worker: WorkerEntry, stale: tuple[Token, ...]) -> None:
    """End leases at a worker once it is durable that they are over.

    A scheduler that was killed before would find them granted, and what its worker has ended not begun.
    """
    for token in stale:
        books.tell(worker.peer, CancelLease(token, ()))


def _tell_ended(books: Books, worker: WorkerEntry, sessions: tuple[SessionId, ...]) -> None:
    """Of the sessions that a worker knows, note those that go on; it hears which are over."""
    for session_id in sessions:
        session = books.sessions.get(session_id)
        if session is None:
            books.tell(worker.peer, EndSession(session_id))
        else:
            worker.sessions[session_id] = None
            session.told[worker.id] = worker


def _untell(books: Books, worker: WorkerEntry) -> None:
    """Forget which sessions a worker was told of."""
    for session_id in worker.sessions:
        books.sessions[session_id].told.pop(worker.id, None)
    worker.sessions.clear()


def unwind(books: Books, lease: OpenLease, spans: list[Span]) -> None:
    """Undo the grant of indexes that left their lease without having begun."""
    array = lease.array
    if books.journalled:
        recording.returned(books, lease, spans, begun=False)
    for start, stop in spans:
        if array.eager:
            for index in range(start, stop):
                array.trial(index).starts -= 1
        put_back(array, start, stop)
    lease.worker.pool.queue.correct(array, -count(spans) * lease.pace_s)


def step_out(worker: WorkerEntry) -> None:
    """Grant nothing more to a worker, for now."""
    if worker.enrolled:
        worker.pool.roster.dismiss(worker)


def rest(books: Books, worker: WorkerEntry, now: float) -> None:
    """Leave a worker alone for a while: it could not use what it got."""
    if worker.enrolled:
        step_out(worker)
        worker.rests_until = now + books.settings.rest_s
        books.timers.add(worker.rests_until, _end_rest, worker)


def _end_rest(worker: WorkerEntry, now: float) -> None:
    if worker.rests_until <= now and not worker.enrolled and not worker.draining and worker.peer is not None:
        worker.pool.roster.enrol(worker, now)


def on_worker_draining(_books: Books, link: Link, _message: WorkerDraining, now: float) -> None:
    """Grant nothing more to a worker that is about to leave."""
    worker = link.working()
    worker.draining = True
    worker.changed_at = now
    step_out(worker)


def on_worker_left(books: Books, link: Link, message: WorkerLeft, now: float) -> None:
    """Forget a worker. What it leaves unfinished is lost; all else that it was granted never reached it."""
    worker = link.working()
    link.phase = "closed"
    gone, _ = _compare(worker, message.leases)
    for lease, missing in gone:
        unwind(books, lease, [span for start, stop in missing for span in lease.answer(start, stop)])
    _forget(books, worker)
    _lose_all(books, worker, now)


def worker_gone(books: Books, worker: WorkerEntry, now: float) -> None:
    """Keep the leases of a worker without connection for a while."""
    worker.peer = None
    step_out(worker)
    await_return(books, worker, books.settings.reconnect_grace_s, now)


def await_return(books: Books, worker: WorkerEntry, grace_s: float, now: float) -> None:
    """Keep the leases of a worker without connection for so long."""
    worker.away_since = worker.changed_at = now
    books.timers.add(now + grace_s, _give_up, books, worker, now)


def _give_up(books: Books, worker: WorkerEntry, since: float, now: float) -> None:
    """Declare a worker lost, if it has neither come back since nor left for good."""
    if worker.peer is not None or worker.away_since != since or books.workers.get(worker.id) is not worker:
        return
    books.effects.log("warning", "worker lost", name=worker.record.name, leases=len(worker.leases))
    _forget(books, worker)
    _lose_all(books, worker, now)


def _lose_all(books: Books, worker: WorkerEntry, now: float) -> None:
    """End the leases of a worker that is forgotten."""
    running: dict[Token, list[int]] = {}
    for token, index in worker.running:
        running.setdefault(token, []).append(index)
    for lease in list(worker.leases.values()):
        _lose(books, lease, running.get(lease.token, []), now)


def _forget(books: Books, worker: WorkerEntry) -> None:
    step_out(worker)
    worker.peer = None
    del books.workers[worker.id]
    if books.journalled:
        recording.worker_gone(books, worker)
    pool = worker.pool
    pool.workers -= 1
    _untell(books, worker)
    if not pool.workers:
        pool.unnoticed.update(
            (session.id, session) for session in books.sessions.values() if session.pool is pool
        )


def _lose(books: Books, lease: OpenLease, running: list[int], now: float) -> None:
    """End a lease whose worker is lost; charge what ran, put back the rest."""
    array = lease.array
    array.changed_at = now
    lease.cancelled.clear()
    ran = [span for index in running for span in lease.answer(index, index + 1)]
    rest_of_it = [span for start, stop in lease.open.copy() for span in lease.answer(start, stop)]
    lease.worker.pool.queue.correct(array, -count([*ran, *rest_of_it]) * lease.pace_s)
    end_lease(books, lease, now)
    for index, _ in ran:
        failure = lost_with(lease.worker, array, index)
        if not retry(books, lease, index, failure, now):
            _settle_lost(books, lease, index)
    for start, stop in rest_of_it:
        if array.eager and array.trial(start).starts >= array.options.max_attempts:
            _settle_lost(books, lease, start)
        else:
            if books.journalled:
                recording.returned(books, lease, [(start, stop)], begun=True)
            put_back(array, start, stop)
    if array.finished:
        finish(books, array)


def _settle_lost(books: Books, lease: OpenLease, index: int) -> None:
    """End a task that may not be started again: it ran, or it may have run, on a worker that is lost."""
    failure = with_past(lease.array, index, lost_with(lease.worker, lease.array, index))
    settle(books, lease.array, [(index, index + 1)])
    books.counts.lost += 1
    forward(books, lease.array, (), ((index, failure),), (lease.token, ((index, index + 1),)))
