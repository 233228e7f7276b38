"""A scheduler's books as they were: built once, from the image that its records leave.

What was granted and not settled is leased again, to workers that have not come back yet; for a grace they are
awaited, and whoever registers with such a lease goes on with it. All else that is pending goes out at once.
Sessions come back without connection, and their clients have the grace anew; those that a
task opened belong to it again, if it is still leased.
"""

from __future__ import annotations

import itertools
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp import records
from distcomp.core import recording
from distcomp.core.arrays import HeldChunk, TaskArrayState
from distcomp.core.failing import end_delay
from distcomp.core.flow import balance, can_run
from distcomp.core.leases import OpenLease
from distcomp.core.leaving import end_session, stay_away
from distcomp.core.nesting import DEEPER, NestingTask, adopt
from distcomp.core.outcomes import put_in
from distcomp.core.placement import enter
from distcomp.core.roster import WorkerEntry
from distcomp.core.runs import remember_end
from distcomp.core.sessions import Owner, Session
from distcomp.core.sleeping import SleepingArrays
from distcomp.core.spans import contains, count, overlap
from distcomp.core.workforce import await_return
from distcomp.protocol import DefineBundle, DefineFunction, OpenSession
from distcomp.records import NO_LEASE
from distcomp.worker_protocol import RegisterWorker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.core.books import Books, WorkerPool
    from distcomp.core.functions import Definition
    from distcomp.core.image import Image
    from distcomp.core.image_parts import ArrayImage, LeaseImage, SessionImage
    from distcomp.core.spans import Span
    from distcomp.ids import BundleId, Token, WorkerId

_needs_of = attrgetter("function", "bundle", "options")
_tasks_of = attrgetter("tasks")
_chunk_of = attrgetter("chunk")


class Restored(NamedTuple):
    """What was there of before, in numbers."""

    owners: tuple[str, ...]
    sessions: int
    pending: int
    leased: int
    outcomes: int
    workers: int


def restore(books: Books, image: Image, now: float) -> Restored:
    """Write all that an image holds into empty books."""
    leases: dict[Token, OpenLease] = {}
    orphans = []
    parents_first = sorted(image.sessions.values(), key=lambda session: session.beginning.depth)
    for session_image in parents_first:  # one from after a compaction began may come before its parent
        session = _open(books, session_image, leases)
        _fill_outbox(books, session, session_image)
        leases.update(_restore_arrays(books, session, image, session_image, now))
        if session.closed:
            continue
        _await_client(books, session, session_image, now)
        if session_image.beginning.parent != NO_LEASE and session.task is None:
            orphans.append(session)
    for key, ended in image.ended_runs.items():
        remember_end(books, key, ended)
    books.spill_numbers = itertools.count(image.files + 1)
    for worker in books.workers.values():
        await_return(books, worker, books.settings.restart_grace_s, now)
    for session in reversed(orphans):
        end_session(books, session, now)
    return _summary(books)


def _summary(books: Books) -> Restored:
    sessions = books.sessions.values()
    leased = sum(pool.leased for pool in books.pools.values())
    return Restored(
        tuple(sorted({session.owner.name for session in sessions})),
        len(books.sessions),
        books.counts.accepted - books.counts.settled - leased,
        leased,
        sum(len(session.outbox) for session in sessions),
        len(books.workers),
    )


# --- sessions -------------------------------------------------------------------------------------


def _open(books: Books, image: SessionImage, leases: dict[Token, OpenLease]) -> Session:
    """A session as it was; the child of a task if that is still leased."""
    told = image.beginning
    owner = books.owners.get(told.owner)
    if owner is None:
        owner = books.owners[told.owner] = Owner(told.owner)
    lease = leases.get(told.parent)
    is_child = lease is not None and contains(lease.open, told.parent_index) and not image.closed
    pool = lease.worker.pool if lease is not None and is_child else books.pool(told.versions.python)
    process = told.host, told.pid, told.program
    opening = OpenSession(told.session, told.versions, *process, told.environment, resumes=False)
    if image.run is not None:
        _, run, nonce, host, pid, program, *_ = image.run
        opening = opening._replace(run=run, nonce=nonce, host=host, pid=pid, program=program)
    session = books.sessions[told.session] = Session(opening, owner, pool)
    pool.sessions += 1
    session.closed, session.seq, session.finished = image.closed, image.seq, image.finished
    session.past, session.received = image.past, image.received
    home = books.sessions.get(told.home) if told.home else None  # type: ignore[call-overload] # an identity
    if lease is not None and is_child:
        adopt(session, _nesting(lease, told.parent_index))
    elif home is not None:
        session.home, session.claims, session.depth = home, home.claims, told.depth
    return session


def _await_client(books: Books, session: Session, image: SessionImage, now: float) -> None:
    """Keep a session as if its client had left when it did, or now if it was there to the end."""
    if image.run is not None:
        books.runs[session.owner.name, session.run] = session
        session.began_at = image.run.began_at - books.wall_offset_s
    since = now if image.left_at < 0 else min(now, image.left_at - books.wall_offset_s)
    stay_away(books, session, since, now)
    if image.left_at < 0:
        recording.client_left(books, session)


def _nesting(lease: OpenLease, index: int) -> NestingTask:
    if lease.nests is None:
        lease.nests = {}
    task = lease.nests.get(index)
    if task is None:
        task = lease.nests[index] = NestingTask(lease, index)
    lease.array.definition.nests = True
    return task


def _fill_outbox(books: Books, session: Session, image: SessionImage) -> None:
    for seq in sorted(image.outbox):
        put_in(books, session, image.outbox[seq])
    balance(books, session)


# --- arrays ---------------------------------------------------------------------------------------


def _restore_arrays(
    books: Books, session: Session, image: Image, known: SessionImage, now: float
) -> dict[Token, OpenLease]:
    """All arrays of a session, the younger, the higher their numbers; returns their leases."""
    for number in list(known.begun):
        known.array(number)
    untouched = known.untouched
    numbers = sorted([*known.arrays, *untouched])
    order = next(books.orders)
    books.orders = itertools.count(order + len(numbers))
    order -= session.depth * DEEPER
    arrays = SleepingArrays(session, untouched.copy(), numbers, order, now)
    session.arrays = arrays if untouched else arrays.awake
    leases: dict[Token, OpenLease] = {}
    alike: dict[tuple[Any, ...], tuple[list[int], list[records.TasksAccepted]]] = {}
    for are_untouched, some in itertools.groupby(numbers, untouched.__contains__):
        if are_untouched:
            for needs, run in itertools.groupby(map(untouched.__getitem__, some), _needs_of):
                orders, told = alike.setdefault(needs, ([], []))
                told += run
                begin, order = order, order + len(told) - len(orders)
                orders += range(begin, order)
            continue
        for number in some:
            array_image = known.arrays[number]
            array = _restore_array(books, session, image, array_image, order=order, now=now)
            order += 1
            for lease in array_image.leases.values():
                leases[lease.token] = _restore_lease(books, array, image, lease, now)
    for orders, told in alike.values():
        _restore_untouched(books, arrays, image, orders, told)
    return leases


def _restore_untouched(
    books: Books,
    arrays: SleepingArrays,
    image: Image,
    orders: Sequence[int],
    told: Sequence[records.TasksAccepted],
) -> None:
    """Arrays that need the same, all of which is pending: asleep, unless some of that is not here."""
    first = told[0]
    definition = _function(books, image, first.function, len(told))
    bundles = (_bundle(books, image, first.bundle, len(told)),) if first.bundle else ()
    arrays.provide(first, (definition, bundles))
    books.counts.accepted += sum(map(_tasks_of, told))
    books.chunk_bytes += sum(map(len, map(_chunk_of, told)))
    lacking = [needed for needed in (definition, *bundles) if needed.message is None]
    if not lacking:
        if not arrays.session.paused:
            arrays.queue(orders, told)
        return
    for record in told:
        array = arrays[record.array[1]]
        array.lacking = len(lacking) - (definition.message is None)
        for needed in lacking:
            needed.waiting[array.order] = array


def _function(books: Books, image: Image, function: bytes, arrays: int) -> Definition[DefineFunction]:
    """A function that so many arrays more use, with its bytes if they were there."""
    definition = books.functions.use(function, arrays)
    if definition.message is None and function in image.functions:
        books.functions.define(function, DefineFunction(*image.functions[function]))
    return definition


def _bundle(books: Books, image: Image, bundle: BundleId, arrays: int) -> Definition[DefineBundle]:
    """A bundle that so many arrays more use, with its bytes if they were there."""
    definition = books.bundles.use(bundle, arrays)
    if definition.message is None and bundle in image.bundles:
        books.bundles.define(bundle, DefineBundle(*image.bundles[bundle]))
    return definition


def _restore_array(
    books: Books, session: Session, image: Image, known: ArrayImage, *, order: int, now: float
) -> TaskArrayState:
    """An array without its leases, queued if something of it is pending."""
    definition = _function(books, image, known.function, 1)
    claim = session.pool.queue.claim_of(session, known.options.priority)
    array = TaskArrayState(known.id, session, definition, known.options, claim, order=order, now=now)
    session.arrays[known.id[1]] = array
    if definition.message is None:
        definition.waiting[order] = array
    array.accepted, array.closed, array.cut = known.accepted, known.closed, known.cut
    array.failed, array.retried = known.failed, known.retried
    unsettled = _restore_chunks(books, array, image, known)
    array.settled = array.accepted - unsettled
    books.counts.accepted += unsettled
    array.pending = known.pending
    if known.trials:
        leased = [span for lease in known.leases.values() for span in lease.open]
        array.trials = {
            index: trial
            for index, trial in known.trials.items()
            if index in known.pending or contains(leased, index)
        }
        _delay(books, array, known, now)
    if array.pending.count and can_run(array):
        session.pool.queue.offer(array)
    return array


def _delay(books: Books, array: TaskArrayState, known: ArrayImage, now: float) -> None:
    """Let what was to wait before its next try wait again."""
    for index, delay_s in known.delays.items():
        if array.pending.cut(index, index + 1):
            array.delayed[index] = now + delay_s
            books.timers.add(now + delay_s, end_delay, array, index, now + delay_s)


def _restore_chunks(books: Books, array: TaskArrayState, image: Image, known: ArrayImage) -> int:
    """The chunks that still have something to run; returns how many tasks that are."""
    leased = [span for lease in known.leases.values() for span in lease.open]
    total = known.pending.count + count(leased)
    if len(known.chunks) == 1 and total:
        (told,) = known.chunks.values()
        _hold(books, array, image, told, total)
        return total
    spans = sorted([*known.pending, *leased]) if leased else list(known.pending)
    position = 0
    for start, told in sorted(known.chunks.items()):
        stop = start + told.tasks if isinstance(told, records.TasksAccepted) else told.stop
        inside: list[Span] = []
        while position < len(spans) and spans[position][0] < stop:
            inside += overlap([spans[position]], start, stop)
            if spans[position][1] > stop:
                break
            position += 1
        if inside:
            _hold(books, array, image, told, count(inside))
    return total


def _hold(
    books: Books,
    array: TaskArrayState,
    image: Image,
    told: records.TasksAccepted | records.ChunkRestated,
    unsettled: int,
) -> None:
    """A chunk of which so many tasks are not settled."""
    stop = told.start + told.tasks if isinstance(told, records.TasksAccepted) else told.stop
    chunk = HeldChunk(told.base, told.start, stop, told.chunk, told.bundle)
    chunk.unsettled = unsettled
    array.chunks.append(chunk)
    books.chunk_bytes += len(told.chunk)
    if told.bundle and all(bundle.id != told.bundle for bundle in array.bundles):
        bundle = _bundle(books, image, told.bundle, 1)
        array.bundles += (bundle,)
        if bundle.message is None:
            bundle.waiting[array.order] = array
            array.lacking += 1


# --- leases ---------------------------------------------------------------------------------------


def _restore_lease(
    books: Books, array: TaskArrayState, image: Image, known: LeaseImage, now: float
) -> OpenLease:
    """A lease of a worker that has not come back yet."""
    spans = sorted(known.open)
    worker = _worker(books, array.session.pool, image, known.worker, now)
    lease = OpenLease(
        known.token,
        array,
        array.chunk_at(spans[0][0]),
        worker,
        spans[0],
        urgent=False,
        horizon_s=books.settings.lease_horizon_s,
        now=now,
    )
    lease.open = spans
    lease.size = count(spans)
    enter(books, worker.pool, lease, now)
    return lease


def _worker(books: Books, pool: WorkerPool, image: Image, worker_id: WorkerId, now: float) -> WorkerEntry:
    """A worker that is awaited, as it described itself before."""
    worker = books.workers.get(worker_id)
    if worker is not None:
        return worker
    told = image.workers[worker_id]
    record = RegisterWorker(told.worker, told.name, told.host, told.pid, told.slots, told.versions, leases=())
    worker = books.workers[worker_id] = WorkerEntry(record, pool, now)
    pool.workers += 1
    return worker
