"""Sessions and the owners they act for.

Law of a session: it is *open* with a connection (`peer`), or *away* without one, for at most
`client_grace_s`, or *closed*. A closed session only carries its detached arrays to their end.
What was sent of its outcomes stays in `outbox` until the client acknowledges it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core.ranges import RangeSet

if TYPE_CHECKING:
    from distcomp.allowance import Allowance
    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import WorkerPool
    from distcomp.core.nesting import NestingTask
    from distcomp.core.queue import SessionClaim
    from distcomp.core.roster import WorkerEntry
    from distcomp.ids import Peer, SessionId, WorkerId
    from distcomp.protocol import OpenSession, TasksSettled


class Owner:
    """A user, over all of their sessions.

    Attributes:
        holding: their sessions that have leases.
    """

    __slots__ = ("holding", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.holding = 0


class Session:
    """One client's life with the scheduler.

    Attributes:
        pool: the workers that can run its tasks, and the queue for them.
        peer: its connection, or None.
        away_since: when it lost its connection.
        finished: counters of arrays that are finished, so that a late submit never runs them again.
        outbox: outcomes not acknowledged, and the bytes that each takes, by their numbers.
        unread_bytes: those bytes of all of them.
        paused: too much is unread, so nothing of it is granted.
        told: workers that were told about the session.
        unprepared: times in a row that no worker could prepare a slot for it, the last `unprepared_at`.
        allowance: how much its client still gets of what its tasks log; None before the first line.
        noticed: the user was told that nobody can run its tasks.
        task: the task whose client opened it; None if it was no task's.
        depth: how many tasks wait above it.
        home: the session above all of them, whose slot processes and share it uses; itself if there is none.
    """

    __slots__ = (
        "allowance",
        "arrays",
        "away_since",
        "claims",
        "closed",
        "depth",
        "finished",
        "home",
        "id",
        "leases",
        "noticed",
        "opening",
        "outbox",
        "owner",
        "paused",
        "peer",
        "pool",
        "seq",
        "task",
        "told",
        "unprepared",
        "unprepared_at",
        "unread_bytes",
    )

    def __init__(self, opening: OpenSession, owner: Owner, pool: WorkerPool) -> None:
        self.id: SessionId = opening.session
        self.opening = opening
        self.owner = owner
        self.pool = pool
        self.peer: Peer | None = None
        self.away_since = 0.0
        self.closed = False
        self.arrays: dict[int, TaskArrayState] = {}
        self.finished = RangeSet()
        self.claims: dict[int, SessionClaim] = {}
        self.leases = 0
        self.seq = 0
        self.outbox: dict[int, tuple[TasksSettled, int]] = {}
        self.unread_bytes = 0
        self.paused = False
        self.told: dict[WorkerId, WorkerEntry] = {}
        self.unprepared = 0
        self.unprepared_at = 0.0
        self.allowance: Allowance | None = None
        self.noticed = False
        self.task: NestingTask | None = None
        self.depth = 0
        self.home = self
