"""What observers see: a whole picture first, then at every interval what changed.

A watch keeps the time of its last report; a row is sent when something of it changed since. Reports are
cut so that each fits into a frame with room to spare.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from distcomp.core.books import StatusWatch
from distcomp.core.explaining import room_words
from distcomp.core.spans import contains
from distcomp.protocol import StatusReported
from distcomp.rows import ArrayRow, RunningTask, Totals, WorkerRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import Books, Link
    from distcomp.core.roster import WorkerEntry
    from distcomp.ids import ArrayId
    from distcomp.protocol import WatchStatus

REPORT_BYTES = 256 << 10
ROW_BYTES = 2048
RUNNING_BYTES = 48
SLOT_BYTES = 9
ALL_SEEN = frozenset({"observer", "admin"})
"""Roles that see the arrays of all owners; a client sees those of its own."""


def on_watch_status(books: Books, link: Link, message: WatchStatus, now: float) -> None:
    """Report now and, if asked to, again and again; a second request takes the place of the first."""
    if link.phase == "new":
        link.phase = "watch"
    interval_s = message.interval_s
    if interval_s > 0:
        interval_s = max(interval_s, books.settings.status_interval_s)
    watch = link.watch = StatusWatch(link, interval_s)
    report(books, watch, now)


def report(books: Books, watch: StatusWatch, now: float) -> None:
    """Send what changed since the last report, and plan the next one."""
    link = watch.link
    if link.watch is not watch or books.links.get(link.peer) is not link or link.phase == "closed":
        return
    for message in _messages(books, watch, now):
        books.send(link.peer, message)
    watch.reported_at = now
    if watch.interval_s > 0:
        books.timers.add(now + watch.interval_s, report, books, watch)


def _messages(books: Books, watch: StatusWatch, now: float) -> Iterator[StatusReported]:
    workers = _changed_workers(books, watch)
    arrays = _changed_arrays(books, watch, now)
    workers_gone = tuple(worker for worker in watch.workers if worker not in books.workers)
    arrays_gone = tuple(array for array in watch.arrays if not _is_open(books, array))
    for worker in workers_gone:
        del watch.workers[worker]
    for array in arrays_gone:
        del watch.arrays[array]
    parts = _cut(workers, arrays)
    totals = totals_of(books, now)
    whole = watch.reported_at == float("-inf")
    for number, (worker_rows, array_rows) in enumerate(parts):
        first = number == 0
        yield StatusReported(
            whole and first,
            books.cluster,
            books.epoch,
            books.auth,
            totals,
            worker_rows,
            workers_gone if first else (),
            array_rows,
            arrays_gone if first else (),
            more=number < len(parts) - 1,
            journal=books.journal,
            journal_bytes=books.journal_bytes,
            committed_ago_s=max(0.0, now - books.committed_at) if books.journalled else 0.0,
            shut=books.shut,
            no_room=room_words(books, sum(books.no_room.values())) if books.no_room else "",
        )


def _cut(
    workers: list[WorkerRow], arrays: list[ArrayRow]
) -> list[tuple[tuple[WorkerRow, ...], tuple[ArrayRow, ...]]]:
    """Rows in parts of at most about `REPORT_BYTES`; at least one part."""
    parts: list[tuple[list[WorkerRow], list[ArrayRow]]] = [([], [])]
    size_bytes = 0
    for worker in workers:
        weight = ROW_BYTES + RUNNING_BYTES * len(worker.running) + SLOT_BYTES * worker.slots
        if size_bytes and size_bytes + weight > REPORT_BYTES:
            parts.append(([], []))
            size_bytes = 0
        size_bytes += weight
        parts[-1][0].append(worker)
    for array in arrays:
        if size_bytes and size_bytes + ROW_BYTES > REPORT_BYTES:
            parts.append(([], []))
            size_bytes = 0
        size_bytes += ROW_BYTES
        parts[-1][1].append(array)
    return [(tuple(some_workers), tuple(some_arrays)) for some_workers, some_arrays in parts]


def _changed_workers(books: Books, watch: StatusWatch) -> list[WorkerRow]:
    rows = []
    for worker in books.workers.values():
        if worker.changed_at >= watch.reported_at or worker.id not in watch.workers:
            watch.workers[worker.id] = None
            rows.append(worker_row(books, worker))
    return rows


def _changed_arrays(books: Books, watch: StatusWatch, now: float) -> list[ArrayRow]:
    """Rows of unfinished arrays, as many as one observer is told of."""
    rows = []
    room = books.settings.max_status_arrays
    for array in islice(_visible_arrays(books, watch.link), room):
        if array.changed_at >= watch.reported_at or array.id not in watch.arrays:
            watch.arrays[array.id] = None
            rows.append(array_row(array, now))
    return rows


def _visible_arrays(books: Books, link: Link) -> Iterator[TaskArrayState]:
    for session in books.sessions.values():
        if link.role in ALL_SEEN or session.owner.name == link.owner:
            yield from session.arrays.values()


def _is_open(books: Books, array: ArrayId) -> bool:
    session = books.sessions.get(array[0])
    return session is not None and array[1] in session.arrays


def worker_row(books: Books, worker: WorkerEntry) -> WorkerRow:
    """One worker as observers see it."""
    record = worker.record
    running = tuple(
        RunningTask(token, index, running_s)
        for (token, index), running_s in worker.running.items()
        if token in worker.leases and contains(worker.leases[token].open, index)
    )
    return WorkerRow(
        worker.id,
        record.name,
        record.host,
        record.pid,
        record.slots,
        min(max(0, len(worker.leases) - worker.lent), record.slots),
        sum(lease.size for lease in worker.leases.values()),
        worker.settled,
        worker.failed,
        worker.busy_s,
        _state_of(worker),
        record.versions.python,
        _why_unfit(books, worker),
        running,
        tuple(worker.slot_busy_s),
        tuple(worker.slot_settled),
        worker.lent,
    )


def _state_of(worker: WorkerEntry) -> str:
    if worker.peer is None:
        return "away"
    if worker.draining:
        return "draining"
    return "ready" if worker.enrolled else "resting"


def _why_unfit(books: Books, worker: WorkerEntry) -> str:
    """Why no open session can use a worker; empty if one can, or if there is none."""
    if worker.pool.sessions or not books.sessions:
        return ""
    wanted = sorted(pool.python for pool in books.pools.values() if pool.sessions)
    return f"runs Python {worker.pool.python}, the clients run {', '.join(wanted)}"


def array_row(array: TaskArrayState, now: float) -> ArrayRow:
    """One unfinished array as observers see it."""
    return ArrayRow(
        array.id,
        array.session.owner.name,
        array.definition.name,
        array.options.priority,
        array.accepted,
        array.pending.count + len(array.delayed),
        array.leased,
        array.settled,
        array.failed,
        now - array.accepted_at,
    )


def totals_of(books: Books, now: float) -> Totals:
    """The cluster in numbers."""
    counts, usage, pools = books.counts, books.usage, books.pools.values()
    usage.add_up(now)
    slots = sum(pool.roster.slots - pool.roster.lent for pool in pools)
    return Totals(
        uptime_s=usage.uptime_s,
        sessions=len(books.sessions),
        workers=len(books.workers),
        slots=slots,
        busy=slots - sum(pool.roster.idle for pool in pools),
        pending=counts.accepted - counts.settled - sum(pool.leased for pool in pools),
        leased=sum(pool.leased for pool in pools),
        accepted=counts.accepted,
        settled=counts.settled,
        failed=counts.failed,
        retried=counts.retried,
        cancelled=counts.cancelled,
        lost=counts.lost,
        late=counts.late,
        idle_while_queued_s=usage.idle_while_queued_s,
        slot_s=usage.slot_s,
        nonsense=counts.nonsense,
        bundles=len(books.bundles),
        bundle_bytes=books.bundles.held_bytes,
        unread_bytes=books.unread_bytes,
        spilled_bytes=books.spilled_bytes,
    )
