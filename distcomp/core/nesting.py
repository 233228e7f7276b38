"""Tasks that submit tasks: whose children they are, and the slots that waiting tasks lend.

Law of a nesting task, which is one index of a lease of which a client speaks:

- It is in `OpenLease.nests` from the first connection that its worker binds to it until the index leaves the
  lease, whatever became of it. Then it is *over*: it waits in `WorkerPool.over` for the end of the turn,
  which ends its sessions, and so cancels what they submitted, and what that submitted in turn.
- Its sessions run in the slot processes of the *home* of them all, the session that no task opened. They
  share that session's claim, so its owner's share, and there the deeper go first: children go before all
  that their client has waiting, and none is less urgent than its parent.
- It *lends* its slot while one of its sessions says that it waits, so at most one slot; its worker and the
  worker's roster have that one more. A worker lends at most `max_lent`.

So a chain of waiting tasks always ends in one that can run. Where it could not be lent any more, the wait
fails and names the chain.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import TYPE_CHECKING

from distcomp.core.spans import contains
from distcomp.errors import MalformedMessageError
from distcomp.protocol import LendRefused
from distcomp.worker_protocol import SlotLent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distcomp.core.books import Books, Link
    from distcomp.core.leases import OpenLease
    from distcomp.core.roster import WorkerEntry
    from distcomp.core.sessions import Session
    from distcomp.core.spans import Span
    from distcomp.ids import SessionId
    from distcomp.protocol import LendSlot, Submit
    from distcomp.worker_protocol import BindTask

DEEPER = 1 << 48
"""By so much older is an array taken to be for each task that waits above it: the deeper go first."""

MOST_NAMES = 1000
"""Names of a chain that are told; those in the middle are left out."""


class NestingTask:
    """A leased task of which clients speak.

    Attributes:
        sessions: those its clients have opened and not closed.
        waiting: those of them that say that the task waits.
        lends: whether its slot is lent.
        over: the index has left its lease.
    """

    __slots__ = ("index", "lease", "lends", "over", "sessions", "waiting")

    def __init__(self, lease: OpenLease, index: int) -> None:
        self.lease = lease
        self.index = index
        self.sessions: dict[SessionId, Session] = {}
        self.waiting: set[SessionId] = set()
        self.lends = self.over = False

    def chain(self) -> tuple[str, ...]:
        """The functions of the tasks that wait for each other, the outermost first, this one's last."""
        names: list[str] = []
        task: NestingTask | None = self
        while task is not None:
            array = task.lease.array
            names.append(array.definition.name)
            task = array.session.task
        names.reverse()
        if len(names) > MOST_NAMES:
            names[MOST_NAMES // 2 : -MOST_NAMES // 2] = ["..."]
        return tuple(names)


def on_bind_task(books: Books, link: Link, message: BindTask, now: float) -> None:
    """Let a client speak that acts for a task's owner as long as the task runs."""
    del now
    worker = books.workers.get(message.worker)
    if worker is not None and worker.peer is None and not worker.record.bind_key:
        books.refuse(link, "silent", "the worker has not come back since the scheduler was started")
        return
    if worker is not None and not _is_key(worker.record.bind_key, message.bind_key):
        books.refuse(link, "role", "this is not the key of the worker that is registered here")
        return
    lease = None if worker is None else worker.leases.get(message.token)
    if lease is None or not contains(lease.open, message.task_index):
        books.refuse(link, "expired", "the task has ended")
        return
    if lease.nests is None:
        lease.nests = {}
    task = lease.nests.get(message.task_index)
    if task is None:
        task = lease.nests[message.task_index] = NestingTask(lease, message.task_index)
    lease.array.definition.nests = True
    link.role, link.owner, link.task = "client", lease.array.session.owner.name, task


def _is_key(key: bytes, said: bytes) -> bool:
    """Whether it is the worker's key, if the worker has one; the time it takes tells nothing of it."""
    return bool(key) and compare_digest(key, said)


def adopt(session: Session, task: NestingTask) -> None:
    """Make a new session the child of a task."""
    parent = task.lease.array.session
    session.task = task
    session.depth = parent.depth + 1
    session.home = parent.home
    session.claims = parent.claims
    session.opening = session.opening._replace(environment=parent.home.opening.environment)
    task.sessions[session.id] = session


def part(books: Books, session: Session, now: float) -> None:
    """Let a closed session's task go on without it; what is detached runs to its end."""
    task = session.task
    if task is not None and task.sessions.pop(session.id, None) is not None:
        task.waiting.discard(session.id)
        _lend(books, task, now)


def raised(session: Session, message: Submit) -> Submit:
    """A submit of a task: no child is less urgent than its parent, which waits for it."""
    assert session.task is not None  # noqa: S101 - asked for sessions of tasks only
    least = session.task.lease.array.options.priority
    if message.options.priority >= least:
        return message
    return message._replace(options=message.options._replace(priority=least))


def leave_task(lease: OpenLease, spans: Iterable[Span]) -> None:
    """Note which nesting tasks are over, as their indexes left the lease."""
    assert lease.nests is not None  # noqa: S101 - asked for such leases only
    gone = [index for start, stop in spans for index in lease.nests if start <= index < stop]
    for index in gone:
        task = lease.nests.pop(index)
        task.over = True
        lease.worker.pool.over.append(task)
    if not lease.nests:
        lease.nests = None


def take_back(books: Books, task: NestingTask, now: float) -> list[Session]:
    """Have the slot of a task that is over back; gives the sessions that end with it."""
    task.waiting.clear()
    _lend(books, task, now)
    sessions = list(task.sessions.values())
    task.sessions.clear()
    return sessions


def on_lend_slot(books: Books, link: Link, message: LendSlot, now: float) -> None:
    """Lend a task's slot while it waits; refuse if its worker has lent as many as it may."""
    session = link.opened()
    task = session.task
    if task is None:
        raise MalformedMessageError("a slot was lent by a client that is no task")
    worker = task.lease.worker
    if not message.lent:
        task.waiting.discard(session.id)
    elif not task.over and (task.lends or worker.lent < worker.record.max_lent):
        task.waiting.add(session.id)
    else:
        books.send(link.peer, LendRefused(task.chain(), worker.record.max_lent))
    _lend(books, task, now)


def tell_lent(books: Books, worker: WorkerEntry) -> None:
    """Say again to a worker that has come back which of its tasks lend their slots."""
    for lease in worker.leases.values():
        for task in (lease.nests or {}).values():
            books.send(worker.peer, SlotLent(lease.token, task.index, task.lends))


def _lend(books: Books, task: NestingTask, now: float) -> None:
    lends = bool(task.waiting)
    if lends == task.lends:
        return
    task.lends = lends
    worker = task.lease.worker
    worker.pool.roster.lend(worker, 1 if lends else -1, now)
    books.send(worker.peer, SlotLent(task.lease.token, task.index, lends))
