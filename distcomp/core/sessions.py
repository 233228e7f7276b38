"""Sessions and the owners they act for.

Law of a session: it is *open* with a connection (`peer`), or *away* without one, or *closed*. One that is
away for longer than `client_grace_s` is *left*: what is not detached of it is cancelled, and what its client
has not acknowledged is kept for `result_retention_s`. A closed session only carries its detached arrays to
their end. Its outcomes stay in `outbox` until the client acknowledges them.

A *run* is a session with a name. Any process of its owner may open it, one at a time; all its arrays count
as detached, and it remembers those that are finished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from distcomp.core.outbox import Outcomes
from distcomp.core.ranges import RangeSet

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from distcomp.allowance import Allowance
    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import WorkerPool
    from distcomp.core.nesting import NestingTask
    from distcomp.core.queue import SessionClaim
    from distcomp.core.roster import WorkerEntry
    from distcomp.core.spans import Span
    from distcomp.ids import FunctionId, Peer, SessionId, WorkerId
    from distcomp.protocol import OpenSession


RunKey: TypeAlias = "tuple[str, str]"
"""A run's owner and name."""


class Owner:
    """A user, over all of their sessions.

    Attributes:
        holding: their sessions that have leases.
    """

    __slots__ = ("holding", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.holding = 0


class PastArray(NamedTuple):
    """A finished array of which something is remembered."""

    function: FunctionId
    name: str
    tasks: int
    failed: int


class EndedRun(NamedTuple):
    """What became of a run, `dropped`, `received` or `forgotten`, and when, on the wall clock."""

    why: str
    ended_at: float


class Session:
    """One client's life with the scheduler.

    Attributes:
        pool: the workers that can run its tasks, and the queue for them.
        peer: its connection, or None.
        away_since: when it lost its connection.
        left: that is long ago, and it is in `Books.left`.
        began_at: when it was first opened.
        arrays: those that are not finished, by number; after a restart, see `sleeping`.
        run: its name if it is a run, else empty; `opening` tells which process has or had it open.
        finished: counters of arrays that are finished, so that a late submit never runs them again.
        past: what is remembered of these: of a run all, of others those that their client did not close.
        received: of a run's arrays, the indexes whose outcomes have been acknowledged.
        outbox: outcomes not acknowledged.
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
        "began_at",
        "claims",
        "closed",
        "depth",
        "finished",
        "home",
        "id",
        "leases",
        "left",
        "noticed",
        "opening",
        "outbox",
        "owner",
        "past",
        "paused",
        "peer",
        "pool",
        "received",
        "run",
        "seq",
        "task",
        "told",
        "unprepared",
        "unprepared_at",
    )

    def __init__(self, opening: OpenSession, owner: Owner, pool: WorkerPool) -> None:
        self.id: SessionId = opening.session
        self.opening = opening
        self.owner = owner
        self.pool = pool
        self.peer: Peer | None = None
        self.away_since = self.began_at = 0.0
        self.closed = self.left = False
        self.run: str = opening.run
        self.arrays: MutableMapping[int, TaskArrayState] = {}
        self.finished = RangeSet()
        self.past: dict[int, PastArray] = {}
        self.received: dict[int, RangeSet] = {}
        self.claims: dict[int, SessionClaim] = {}
        self.leases = 0
        self.seq = 0
        self.outbox = Outcomes()
        self.paused = False
        self.told: dict[WorkerId, WorkerEntry] = {}
        self.unprepared = 0
        self.unprepared_at = 0.0
        self.allowance: Allowance | None = None
        self.noticed = False
        self.task: NestingTask | None = None
        self.depth = 0
        self.home = self

    def receive(self, counter: int, spans: Iterable[Span]) -> None:
        """Note that outcomes of a run's array have been acknowledged."""
        add_received(self.received, counter, spans)


def add_received(received: dict[int, RangeSet], counter: int, spans: Iterable[Span]) -> None:
    """Add indexes to those of an array whose outcomes have been acknowledged."""
    known = received.get(counter)
    if known is None:
        known = received[counter] = RangeSet()
    for start, stop in spans:
        known.cut(start, stop)
        known.add(start, stop)
