"""Everything the scheduler knows, in one place, without a decision in it.

The modules beside this one decide: each is a few functions over the books. Together they keep the laws
written at the top of `arrays`, `leases`, `sessions`, `roster` and `queue`, and these:

    a lease is in its array's `leases` and in its worker's, from its grant until it is over
    a worker is in its pool's roster exactly if it is connected, not draining and not resting
    `chunk_bytes` is the size of all chunks

`invariants.check` tests them all.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from distcomp.core.effects import Close, Effects
from distcomp.core.queue import FairQueue
from distcomp.core.roster import Roster
from distcomp.core.timers import Timers
from distcomp.protocol import Refused

if TYPE_CHECKING:
    from distcomp.config import SchedulerSettings
    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.functions import DefinitionBook
    from distcomp.core.leases import OpenLease
    from distcomp.core.nesting import NestingTask
    from distcomp.core.outbox import Outcome
    from distcomp.core.roster import WorkerEntry
    from distcomp.core.sessions import EndedRun, Owner, RunKey, Session
    from distcomp.core.spans import Span
    from distcomp.ids import ArrayId, Peer, SessionId, Token, WorkerId
    from distcomp.protocol import DefineBundle, DefineFunction, Message
    from distcomp.records import EpochBegan


class Link:
    """One connection.

    Attributes:
        phase: `new` until its first message, then `session`, `worker` or `watch`; `closed` after a refusal.
        session, worker, watch: who speaks or watches here, once that is known.
        task: the task that a client speaks for; None for all others.
    """

    __slots__ = ("address", "owner", "peer", "phase", "role", "session", "task", "watch", "worker")

    def __init__(self, peer: Peer, role: str, owner: str, address: str) -> None:
        self.peer = peer
        self.role = role
        self.owner = owner
        self.address = address
        self.phase = "new"
        self.session: Session | None = None
        self.worker: WorkerEntry | None = None
        self.watch: StatusWatch | None = None
        self.task: NestingTask | None = None

    def working(self) -> WorkerEntry:
        """The worker that speaks here; only links in phase `worker` are asked."""
        assert self.worker is not None  # noqa: S101 - the table of messages lets only workers come here
        return self.worker

    def opened(self) -> Session:
        """The session that speaks here; only links in phase `session` are asked."""
        assert self.session is not None  # noqa: S101 - the table of messages lets only sessions come here
        return self.session


class StatusWatch:
    """One observer.

    Attributes:
        reported_at: when it last got a report; before the first, below all times.
        workers, arrays: what it was told of and not yet told to be gone.
    """

    __slots__ = ("arrays", "interval_s", "link", "reported_at", "workers")

    def __init__(self, link: Link, interval_s: float) -> None:
        self.link = link
        self.interval_s = interval_s
        self.reported_at = float("-inf")
        self.workers: dict[WorkerId, None] = {}
        self.arrays: dict[ArrayId, None] = {}


class WorkerPool:
    """Workers of one Python version, and the tasks that only they can run.

    Attributes:
        workers: workers that are not forgotten, in the roster or not.
        sessions: sessions whose tasks run here.
        leased: indexes that leases hold.
        divisible: leases of which something could be taken back.
        priorities: leases by priority.
        look_at: when the next of `divisible` may be worth taking back.
        look_after: they are not looked at again before.
        unnoticed: sessions whose user should hear that nobody fits.
        over: nesting tasks that have left their leases in this turn.
    """

    def __init__(self, python: str) -> None:
        self.python = python
        self.queue = FairQueue()
        self.roster = Roster()
        self.workers = 0
        self.sessions = 0
        self.leased = 0
        self.divisible: dict[Token, OpenLease] = {}
        self.priorities: defaultdict[int, int] = defaultdict(int)
        self.look_at = float("inf")
        self.look_after = 0.0
        self.unnoticed: dict[SessionId, Session] = {}
        self.over: list[NestingTask] = []


@dataclass(slots=True)
class Counts:
    """What happened since the scheduler started, in tasks; `nonsense` counts peers closed for it."""

    accepted: int = 0
    settled: int = 0
    failed: int = 0
    retried: int = 0
    cancelled: int = 0
    lost: int = 0
    late: int = 0
    nonsense: int = 0


class Usage:
    """Time added up: of the scheduler, of all slots, and of those that idled although tasks had not begun.

    Attributes:
        slots, idle: how many slots there are, and idle so, since time was last added up; `slots` is
            below 0 before the first turn.
    """

    __slots__ = ("_since", "idle", "idle_while_queued_s", "slot_s", "slots", "uptime_s")

    def __init__(self) -> None:
        self.slots = -1
        self.idle = 0
        self.uptime_s = self.slot_s = self.idle_while_queued_s = 0.0
        self._since = 0.0

    def add_up(self, now: float) -> None:
        """Bring the sums up to date."""
        if self.slots >= 0:
            elapsed_s = now - self._since
            self.uptime_s += elapsed_s
            self.slot_s += elapsed_s * self.slots
            self.idle_while_queued_s += elapsed_s * self.idle
        self._since = now

    def change(self, slots: int, idle: int, now: float) -> None:
        """Note that from now on there are other numbers of slots."""
        self.add_up(now)
        self.slots = slots
        self.idle = idle


@dataclass(slots=True)
class Books:
    """All state of one scheduler.

    `owing` are the workers whose settles are to be acknowledged, `given_up` the tasks that clients can do
    without if the next placement pass finds no place for them.

    Whether facts are recorded says `journalled`; see `recording`. Turns that recorded something are numbered
    in batches: `batch` is the last one handed over, all up to `committed` are durable. `journal`,
    `journal_bytes` and `committed_at` are what observers are told of it, `shut` is why it takes no submits
    for now; empty if it does. `no_room` are the bytes of each peer that wait for room on the disk. `began` is
    the record of this start, and `wall_offset_s` what the wall clock was ahead of monotonic time then.

    Of outcomes that no client has acknowledged, `outcome_bytes` is the size of those in memory,
    `spilled_bytes` of those in files; `spilled` are these and those on their way there, by number, and
    `spill_rests` says that none is written for now. `paused` are the sessions of which too much waits,
    `left` those whose client stays away, the longest first. `runs` are the sessions with a name, `ended_runs`
    what is remembered of those that are no more. No session is paused for fewer than `pausing_bytes`.
    """

    settings: SchedulerSettings
    epoch: int
    cluster: str
    auth: bool
    functions: DefinitionBook[DefineFunction]
    bundles: DefinitionBook[DefineBundle]
    links: dict[Peer, Link] = field(default_factory=dict)
    sessions: dict[SessionId, Session] = field(default_factory=dict)
    owners: dict[str, Owner] = field(default_factory=dict)
    owners_holding: int = 0
    workers: dict[WorkerId, WorkerEntry] = field(default_factory=dict)
    pools: dict[str, WorkerPool] = field(default_factory=dict)
    owing: defaultdict[Peer, list[int]] = field(default_factory=lambda: defaultdict(list))
    given_up: list[tuple[TaskArrayState, tuple[Span, ...]]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    usage: Usage = field(default_factory=Usage)
    timers: Timers = field(default_factory=Timers)
    effects: Effects = field(default_factory=Effects)
    journalled: bool = False
    journal: str = "off"
    journal_bytes: int = 0
    committed_at: float = 0.0
    shut: str = ""
    no_room: dict[Peer, int] = field(default_factory=dict)
    batch: int = 0
    committed: int = 0
    began: EpochBegan | None = None
    wall_offset_s: float = 0.0
    chunk_bytes: int = 0
    pausing_bytes: int = field(init=False)
    outcome_bytes: int = 0
    spilled_bytes: int = 0
    spilled: dict[int, tuple[Session, Outcome]] = field(default_factory=dict)
    spill_numbers: count[int] = field(default_factory=lambda: count(1))
    spill_rests: bool = False
    paused: dict[SessionId, Session] = field(default_factory=dict)
    left: OrderedDict[SessionId, Session] = field(default_factory=OrderedDict)
    runs: dict[RunKey, Session] = field(default_factory=dict)
    ended_runs: OrderedDict[RunKey, EndedRun] = field(default_factory=OrderedDict)
    orders: count[int] = field(default_factory=lambda: count(1))
    lease_counter: count[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        settings = self.settings
        self.pausing_bytes = min(settings.max_unread_bytes, settings.session_outcome_bytes)

    @property
    def leases(self) -> dict[Token, OpenLease]:
        """All leases, gathered from the workers; for those who look at everything."""
        return {token: lease for worker in self.workers.values() for token, lease in worker.leases.items()}

    @property
    def held_bytes(self) -> int:
        """The size of all chunks, and of all outcomes in memory that no client has acknowledged."""
        return self.chunk_bytes + self.outcome_bytes

    @property
    def unread_bytes(self) -> int:
        """The size of all outcomes that no client has acknowledged."""
        return self.outcome_bytes + self.spilled_bytes

    @property
    def is_durable(self) -> bool:
        """Whether all that is true by now is durable, as far as it ever will be."""
        return self.batch <= self.committed and not self.effects.records

    def send(self, peer: Peer | None, message: Message) -> None:
        """Send to a peer, if it is there."""
        if peer is not None:
            self.effects.sends.setdefault(peer, []).append(message)

    def tell(self, peer: Peer | None, message: Message) -> None:
        """Send to a peer, if it is there, once all that is true by now is durable."""
        if peer is not None:
            effects = self.effects
            waits = effects.acks if self.journalled else effects.sends
            waits.setdefault(peer, []).append(message)

    def follow(self, lease: OpenLease, message: Message) -> None:
        """Send to a lease's worker, behind the grant if that waits for its commit."""
        peer = lease.worker.peer
        if lease.batch > self.committed:
            self.tell(peer, message)
        elif peer is not None:
            self.effects.sends.setdefault(peer, []).append(message)

    def refuse(self, link: Link, code: str, text: str) -> None:
        """End a connection, with a word to the peer."""
        link.phase = "closed"
        self.send(link.peer, Refused(code, text))
        self.effects.closes.append(Close(link.peer, text))

    def pool(self, python: str) -> WorkerPool:
        """The pool of a Python version given as `major.minor.micro`; made at its first use."""
        minor = ".".join(python.split(".")[:2])
        pool = self.pools.get(minor)
        if pool is None:
            pool = self.pools[minor] = WorkerPool(minor)
        return pool
