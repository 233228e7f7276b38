"""The laws of the books, tested. For tests, simulation and debug mode; it looks at everything."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from distcomp.core.flow import can_run
from distcomp.core.outbox import AHEAD, FETCHED, UNDER_WAY
from distcomp.core.sleeping import asleep, awake
from distcomp.core.spans import contains

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import Books, WorkerPool
    from distcomp.core.functions import Definition
    from distcomp.core.outbox import Outcome
    from distcomp.core.roster import WorkerEntry
    from distcomp.core.scheduler_state import SchedulerState
    from distcomp.core.sessions import Session

SECONDS_OFF = 1e-6
"""How far sums of seconds may be off by rounding."""


def check(state: SchedulerState) -> None:
    """Hold the books to their laws.

    Raises:
        AssertionError: one is broken; its text says which, and where.
    """
    books = state.books
    for session in books.sessions.values():
        _check_session(books, session)
        for array in awake(session):
            _check_array(array)
    for worker in books.workers.values():
        _check_worker(worker)
    for pool in books.pools.values():
        _check_pool(books, pool)
    _check_leases(books)
    _check_sums(books)


def check_placed(state: SchedulerState) -> None:
    """Hold the books to what is true after a placement pass, that is right after `take_effects`.

    Raises:
        AssertionError: a slot idles while a task waits that it could run.
    """
    for pool in state.books.pools.values():
        idle = pool.roster.idle if pool.queue.pending else 0
        _hold("no slot idles while a task waits", not idle, pool.python, idle)


def _hold(law: str, holds: object, *where: object) -> None:
    if not holds:
        raise AssertionError(f"{law}: {where}")


def _check_array(array: TaskArrayState) -> None:
    places: list[tuple[int, int]] = [*array.pending, *((index, index + 1) for index in array.delayed)]
    _hold("pending counts its spans", array.pending.count == sum(b - a for a, b in array.pending), array.id)
    for token, lease in array.leases.items():
        _hold("a lease is in its worker", lease.worker.leases.get(token) is lease, token)
    leased = [span for lease in array.leases.values() for span in lease.open]
    places = sorted([*places, *leased])
    for (_, stop), (start, _) in pairwise(places):
        _hold("an index is in one place", stop <= start, array.id, start)
    inside = not places or (places[0][0] >= 0 and places[-1][1] <= array.accepted)
    _hold("an index was accepted", inside, array.id, places)
    open_tasks = sum(stop - start for start, stop in places)
    _hold("pending, leased and settled partition", open_tasks + array.settled == array.accepted, array.id)
    _hold("chunks hold what is not settled", sum(c.unsettled for c in array.chunks) == open_tasks, array.id)
    _hold("a finished array is forgotten", not array.finished, array.id)
    queued = bool(array.pending.count) and can_run(array)
    _hold("an array is queued if it can run", array.queued == queued, array.id)
    _hold("queued means in the queue", (array in array.session.pool.queue) == array.queued, array.id)
    lacking = sum(bundle.message is None for bundle in array.bundles)
    _hold("an array knows how many bundles it lacks", array.lacking == lacking, array.id)
    needed = {chunk.bundle for chunk in array.chunks if chunk.bundle}
    _hold("chunks have their bundles", needed <= {bundle.id for bundle in array.bundles}, array.id)
    for index in array.trials:
        _hold("only open tasks have a past", any(a <= index < b for a, b in places), array.id, index)
    if array.eager:
        for index, trial in array.trials.items():
            _hold("starts are bounded", 0 <= trial.starts <= array.options.max_attempts, array.id, index)


def _check_session(books: Books, session: Session) -> None:
    _hold("a closed session has detached arrays", not session.closed or session.arrays, session.id)
    _hold("a closed session has nothing to send", not session.closed or not len(session.outbox), session.id)
    _hold("no finished array is open", not any(c in session.finished for c in session.arrays), session.id)
    is_away = session.peer is None and not session.closed
    _hold("who is left is away", not session.left or is_away, session.id)
    _hold("who is left is known so", session.left == (session.id in books.left), session.id)
    _hold("who is paused is known so", session.paused == (session.id in books.paused), session.id)
    named = session.run and not session.closed
    key = session.owner.name, session.run
    _hold("a run is found by its name", not named or books.runs.get(key) is session, session.id)
    _hold("what is past is finished", all(c in session.finished for c in session.past), session.id)
    past = session.finished.count
    _hold("a run remembers its arrays", not session.run or len(session.past) == past, session.id)
    _check_outcomes(books, session)
    link = books.links.get(session.peer) if session.peer is not None else None
    _hold("a session's link knows it", session.peer is None or (link and link.session is session), session.id)
    for worker in session.told.values():
        _hold("told both ways", books.workers.get(worker.id) is worker, session.id, worker.id)


def _check_outcomes(books: Books, session: Session) -> None:
    box = session.outbox
    outcomes = list(box.by_seq.values())
    _hold("outcomes are in order", list(box.by_seq) == sorted(x.seq for x in outcomes), session.id)
    for outcome in outcomes:
        _hold("an outcome is here or in a file", outcome.here or outcome.number, session.id, outcome.seq)
        _hold("what is here is in memory", not outcome.here or outcome.message, session.id, outcome.seq)
        known = books.spilled.get(outcome.number)
        _hold("a file is known", (known is not None) == bool(outcome.number), session.id, outcome.seq)
        kept = outcome.here or outcome.wanted or outcome.place == FETCHED
        _hold("only what is needed is in memory", kept or outcome.message is None, session.id, outcome.seq)
    waiting = [x.seq for x in (*box.fetched, *box.ahead) if not x.gone]
    places = [x.seq for x in outcomes if x.place in (AHEAD, FETCHED)] if session.peer is not None else []
    _hold("what is not sent waits in order", waiting == places, session.id)
    _hold("outcomes are counted", box.size_bytes == _sum(outcomes), session.id)
    _hold("memory is counted", box.here_bytes == _sum(x for x in outcomes if x.here), session.id)
    _hold("files are counted", box.stored_bytes == _sum(x for x in outcomes if not x.here), session.id)
    _hold("what is fetched is counted", box.fetched_bytes == _sum(box.fetched), session.id)
    under_way = [x for x in outcomes if x.place == UNDER_WAY]
    _hold("what is under way is counted", box.under_way_bytes == _sum(under_way), session.id)
    most = max(books.settings.outcome_window_bytes, max((x.size_bytes for x in outcomes), default=0))
    _hold("what is under way is bounded", box.under_way_bytes <= most, session.id)
    stuck = box.fetched and box.fetched[0].message is not None and not under_way
    _hold("nothing waits for room that is there", not stuck, session.id)


def _sum(outcomes: Iterable[Outcome]) -> int:
    return sum(outcome.size_bytes for outcome in outcomes)


def _check_worker(worker: WorkerEntry) -> None:
    working = worker.peer is not None and not worker.draining
    _hold("in the roster means at work", working or not worker.enrolled, worker.id)
    _hold("a place is for the roster", worker.enrolled or worker.place is None, worker.id)
    _hold("an idle slot has a place", not (worker.enrolled and worker.idle) or worker.place, worker.id)
    leases = worker.leases.values()
    _hold("long leases are counted", worker.long == sum(lease.long for lease in leases), worker.id)
    _hold("brisk leases are counted", worker.brisk == sum(lease.brisk for lease in leases), worker.id)
    _hold("urgent leases are counted", worker.urgent == sum(lease.urgent for lease in leases), worker.id)
    waiting = sorted(lease.token for lease in worker.waiting)
    _hold("waiting leases wait", waiting == sorted(x.token for x in leases if x.waits), worker.id)
    load_s = sum(lease.size * lease.pace_s for lease in leases)
    _check_nesting(worker)
    _hold("load is the sum of leases", abs(worker.load_s - load_s) < SECONDS_OFF, worker.id, load_s)


def _check_nesting(worker: WorkerEntry) -> None:
    """Of a worker's tasks that submit tasks; those that are over have left their leases in this turn."""
    over = [task for task in worker.pool.over if task.lease.worker is worker]
    tasks = [task for lease in worker.leases.values() for task in (lease.nests or {}).values()]
    for task in tasks:
        _hold("a nesting task is open", contains(task.lease.open, task.index) and not task.over, worker.id)
    for task in (*tasks, *over):
        _hold("a task lends while it waits", task.lends == bool(task.waiting), worker.id, task.index)
        _hold("only open sessions wait", task.waiting <= task.sessions.keys(), worker.id, task.index)
        for session in task.sessions.values():
            _hold("a task's sessions are its own", session.task is task and not session.closed, session.id)
    lent = sum(task.lends for task in (*tasks, *over))
    _hold("lent slots are counted", worker.lent == lent, worker.id, worker.lent, lent)
    own = worker.record.slots
    _hold("a worker has its slots and those lent", worker.slots == own + lent, worker.id, worker.slots)


def _check_pool(books: Books, pool: WorkerPool) -> None:
    workers = [worker for worker in books.workers.values() if worker.pool is pool]
    enrolled = [worker for worker in workers if worker.enrolled]
    roster = pool.roster
    _hold("workers of a pool are counted", pool.workers == len(workers), pool.python)
    _hold("the roster counts workers", roster.workers == len(enrolled), pool.python)
    _hold("the roster counts lent slots", roster.lent == sum(w.lent for w in enrolled), pool.python)
    _hold("the roster counts slots", roster.slots == sum(w.slots for w in enrolled), pool.python)
    _hold("the roster counts idle slots", roster.idle == sum(w.idle for w in enrolled), pool.python)
    sessions = [session for session in books.sessions.values() if session.pool is pool]
    _hold("sessions of a pool are counted", pool.sessions == len(sessions), pool.python)
    arrays = [array for session in sessions for array in awake(session)]
    pending = sum(array.pending.count for array in arrays if array.queued)
    sleeping = [told for session in sessions if not session.paused for told in asleep(session).values()]
    pending += sum(told.tasks for told in sleeping)
    _hold("the queue counts pending tasks", pool.queue.pending == pending, pool.python)
    leases = {token: lease for worker in workers for token, lease in worker.leases.items()}
    _hold("the pool counts leased tasks", pool.leased == sum(x.size for x in leases.values()), pool.python)
    for priority, count in pool.priorities.items():
        found = sum(lease.array.options.priority == priority for lease in leases.values())
        _hold("leases by priority are counted", found == count, pool.python, priority)
    for token in pool.divisible:
        _hold("what can be divided is leased", token in leases, pool.python, token)


def _check_leases(books: Books) -> None:
    counted: Counter[Session] = Counter()
    for token, lease in books.leases.items():
        array, worker = lease.array, lease.worker
        _hold("a lease is in its array", array.leases.get(token) is lease, token)
        _hold("a lease knows its worker", worker.leases.get(token) is lease, token)
        _hold("a lease is not over", not lease.over, token)
        _hold("a lease counts its spans", lease.size == sum(b - a for a, b in lease.open), token)
        chunk = lease.chunk
        _hold("a lease has its arguments", not lease.size or chunk in array.chunks, token)
        counted[array.session] += 1
    for session, leases in counted.items():
        _hold("a session's leases are counted", session.leases == leases, session.id)
    for owner in books.owners.values():
        sessions = sum(session.owner is owner for session in counted)
        _hold("an owner's sessions with leases are counted", owner.holding == sessions, owner.name)
    holding = sum(owner.holding > 0 for owner in books.owners.values())
    _hold("owners that hold leases are counted", books.owners_holding == holding)


def _check_sums(books: Books) -> None:
    users: dict[Definition[Any], int] = {}
    chunk_bytes = 0
    for session in books.sessions.values():
        for array in awake(session):
            chunk_bytes += sum(len(chunk.blob) for chunk in array.chunks)
            needed: list[Definition[Any]] = [array.definition, *array.bundles]
            for definition in needed:
                users[definition] = users.get(definition, 0) + 1
        for told in asleep(session).values():
            chunk_bytes += len(told.chunk)
            places: list[tuple[Any, bytes]] = [(books.functions, told.function), (books.bundles, told.bundle)]
            for book, digest in places[: 1 + bool(told.bundle)]:
                known = book.get(digest)
                _hold("what sleeps has what it needs", known is not None and known.message, told.array)
                users[known] = users.get(known, 0) + 1
    boxes = [session.outbox for session in books.sessions.values()]
    _hold("outcome bytes are counted", books.outcome_bytes == sum(box.here_bytes for box in boxes))
    _hold("spilled bytes are counted", books.spilled_bytes == sum(box.stored_bytes for box in boxes))
    for number, (session, outcome) in books.spilled.items():
        _hold("a file is an outcome's", session.outbox.by_seq.get(outcome.seq) is outcome, number)
    for key, session in books.runs.items():
        _hold("a name is a run's", books.sessions.get(session.id) is session and not session.closed, key)
        _hold("a run has not ended", key not in books.ended_runs, key)
    _hold("those that have left are known", books.left.keys() <= books.sessions.keys())
    _hold("those that are paused are known", books.paused.keys() <= books.sessions.keys())
    for definition, count in users.items():
        _hold("a definition counts its arrays", definition.users == count, definition.id)
    _hold("chunk bytes are counted", chunk_bytes == books.chunk_bytes, chunk_bytes, books.chunk_bytes)
