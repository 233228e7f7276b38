"""The one placement pass of a turn: which range goes where.

No slot idles while a task waits that could run there. Beyond that, a lease may wait at a slot that comes
free soon, and an urgent one may begin at the next task border of a slot that works for others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.core.leases import OpenLease, lease_length
from distcomp.worker_protocol import DefineSession, GrantLease

if TYPE_CHECKING:
    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import Books, WorkerPool
    from distcomp.core.roster import WorkerEntry
    from distcomp.core.sessions import Session
    from distcomp.ids import BundleId


def place(books: Books, pool: WorkerPool, now: float) -> None:
    """Grant what is pending as long as there is a place for it."""
    queue, roster = pool.queue, pool.roster
    while queue.pending:
        array = queue.first()
        worker = roster.idlest()
        urgent = False
        if worker is None:
            if array.eager:
                return
            worker = _interrupted(books, pool, array)
            urgent = worker is not None
            if worker is None and array.pace_s >= 0:
                worker = roster.soonest()
            if worker is None:
                return
        grant(books, pool, array, worker, now, urgent=urgent)


def _interrupted(books: Books, pool: WorkerPool, array: TaskArrayState) -> WorkerEntry | None:
    """A worker where the array may go before others, because it ranks higher or its session is owed more."""
    priority = array.options.priority
    owed = _is_owed(books, pool, array)
    if not owed and priority <= min(pool.priorities, default=priority):
        return None
    for lease in pool.roster.brisk_leases():
        worker = lease.worker
        if not worker.enrolled or worker.overdue or worker.urgent >= min(worker.brisk, worker.slots):
            continue
        other = lease.array
        if other.options.priority < priority:
            return worker
        if owed and other.options.priority == priority and other.session is not array.session:
            return worker
    return None


def _is_owed(books: Books, pool: WorkerPool, array: TaskArrayState) -> bool:
    """Whether the array's session has fewer leases than its share of the slots."""
    session = array.session
    owner = session.owner
    owners = books.owners_holding + (not owner.holding)
    sessions = owner.holding + (not session.leases)
    return session.leases * owners * sessions < pool.roster.slots


def grant(
    books: Books, pool: WorkerPool, array: TaskArrayState, worker: WorkerEntry, now: float, *, urgent: bool
) -> None:
    """Lease the array's first pending indexes to a worker."""
    settings = books.settings
    start, stop = array.pending.first()
    chunk = array.chunk_at(start)
    if stop - start > 1:
        target_s, rate = settings.lease_target_s, settings.lease_rate
        stop = min(stop, chunk.stop, start + lease_length(array, pool.roster.slots, target_s, rate))
    attempt = 1
    if array.trials or array.eager:
        stop, attempt = _try_singly(array, start, stop)
    token = (books.epoch, next(books.lease_counter))
    horizon_s = settings.lease_horizon_s
    lease = OpenLease(token, array, chunk, worker, (start, stop), urgent=urgent, horizon_s=horizon_s, now=now)
    pool.queue.take(array, lease.size, lease.size * lease.pace_s)
    enter(books, pool, lease, now)
    definition, options = array.definition, array.options
    if array.id[0] not in worker.sessions or definition.id not in worker.functions:
        _tell(books, worker, array)
    bundle = chunk.bundle
    if bundle and bundle not in worker.bundles:
        _tell_bundle(books, worker, array, bundle)
    if books.journalled:
        recording.granted(books, lease, attempt)
    books.follow(
        lease,
        GrantLease(
            token,
            array.id,
            definition.id,
            start,
            stop,
            chunk.base,
            chunk.blob,
            attempt,
            options.timeout_s,
            options.priority,
            urgent,
            array.eager,
            bundle,
            options.logs,
        ),
    )


def _try_singly(array: TaskArrayState, start: int, stop: int) -> tuple[int, int]:
    """Where a lease from `start` ends if an index with a past has one of its own, and its attempt."""
    if array.eager:
        trial = array.trial(start)
        trial.starts += 1
        return start + 1, trial.attempt
    known = array.trials.get(start)
    if known is not None:
        return start + 1, known.attempt
    return array.next_trial(start, stop), 1


def enter(books: Books, pool: WorkerPool, lease: OpenLease, now: float) -> None:
    """Write a new lease, or one from before a restart, into all books."""
    array, worker, size = lease.array, lease.worker, lease.size
    array.leases[lease.token] = lease
    array.changed_at = worker.changed_at = now
    pool.leased += size
    session = array.session
    owner = session.owner
    if not session.leases:
        if not owner.holding:
            books.owners_holding += 1
        owner.holding += 1
    session.leases += 1
    priority = array.options.priority
    pool.priorities[priority] += 1
    if worker.enrolled:
        pool.roster.granted(worker, lease, now)
    else:
        pool.roster.restored(worker, lease)
    if size > 1 or lease.waits:
        pool.divisible[lease.token] = lease
        pool.look_at = min(pool.look_at, lease.begins_at)


def _tell(books: Books, worker: WorkerEntry, array: TaskArrayState) -> None:
    """Tell a worker what it needs to know before its first lease of a session or a function."""
    session, home = array.session, array.session.home
    if home is not session and home.id in books.sessions:
        _tell_session(books, worker, home)
    _tell_session(books, worker, session)
    definition = array.definition
    if definition.id not in worker.functions:
        if len(worker.functions) >= books.settings.max_unused_functions:
            worker.functions.clear()
        worker.functions[definition.id] = None
        assert definition.message is not None  # noqa: S101 - only arrays with a definition are queued
        books.send(worker.peer, definition.message)


def _tell_session(books: Books, worker: WorkerEntry, session: Session) -> None:
    if session.id not in worker.sessions:
        worker.sessions[session.id] = None
        session.told[worker.id] = worker
        home = b"" if session.home is session else session.home.id
        environment = session.opening.environment
        books.send(worker.peer, DefineSession(session.id, session.owner.name, environment, home))


def _tell_bundle(books: Books, worker: WorkerEntry, array: TaskArrayState, bundle: BundleId) -> None:
    """Send a worker a bundle before its first lease that needs it."""
    if len(worker.bundles) >= books.settings.max_unused_functions:
        worker.bundles.clear()
    worker.bundles[bundle] = None
    message = next(known.message for known in array.bundles if known.id == bundle)
    assert message is not None  # noqa: S101 - an array that lacks a bundle is not queued
    books.send(worker.peer, message)
