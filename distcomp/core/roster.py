"""The workers of one kind, and which of them should get the next lease.

Law of the roster: a worker is *in* it while it is connected, not draining and not resting; only then its
slots count. It has at most one valid entry (`place`): among the idle ones if a slot has nothing to do,
else among the busy ones if another lease may wait at one of its slots. An entry that is not its worker's
place counts for nothing and is dropped when it comes up; so nothing here looks at all workers.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush, heapreplace
from itertools import count, islice
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from distcomp.core.books import WorkerPool
    from distcomp.core.leases import OpenLease
    from distcomp.ids import BundleId, Peer, SessionId, Token
    from distcomp.worker_protocol import RegisterWorker

SPARE_ENTRIES = 64
"""Entries that count for nothing any more, beyond half, which a heap may hold before it is swept."""

URGENT_CHOICES = 8
"""How many workers are looked at to find one where an urgent lease can begin soon."""

Place: TypeAlias = "tuple[float, int, WorkerEntry]"
"""Seconds, and the worker's turn, which no other worker has."""


class WorkerEntry:
    """One worker.

    Attributes:
        peer: its connection, or None while it has none.
        away_since: when it lost its connection.
        rests_until: until when it gets nothing, because it could not prepare a slot process.
        turn: when it last got a lease, counted in grants of its roster.
        load_s: estimated seconds of its leases.
        lent: slots beyond its own, while tasks wait that lend theirs.
        long: leases that nothing may wait behind.
        brisk: leases that reach a task border soon.
        urgent: urgent leases.
        waiting: leases granted behind others, as far as it is known that they wait.
        overdue: gave back a lease that had waited too long; nothing waits there until a lease is over.
        functions, bundles, sessions: what it was told about, so that it is told once.
        running: what it last said runs, as `(token, index)`, with the seconds it has run.
        wanted: how many slots of its own it was asked to have and has not said that it has; 0 if it has them.
    """

    __slots__ = (
        "away_since",
        "brisk",
        "bundles",
        "busy_s",
        "changed_at",
        "draining",
        "enrolled",
        "failed",
        "functions",
        "id",
        "leases",
        "lent",
        "load_s",
        "long",
        "overdue",
        "peer",
        "place",
        "pool",
        "record",
        "rests_until",
        "running",
        "sessions",
        "settled",
        "slot_busy_s",
        "slot_settled",
        "slots",
        "turn",
        "urgent",
        "waiting",
        "wanted",
    )

    def __init__(self, record: RegisterWorker, pool: WorkerPool, now: float) -> None:
        self.id = record.worker
        self.record = record
        self.pool = pool
        self.slots = record.slots
        self.peer: Peer | None = None
        self.away_since = self.rests_until = 0.0
        self.draining = self.overdue = self.enrolled = False
        self.leases: dict[Token, OpenLease] = {}
        self.waiting: deque[OpenLease] = deque()
        self.load_s = 0.0
        self.long = self.brisk = self.urgent = self.turn = self.lent = 0
        self.place: Place | None = None
        self.functions: dict[bytes, None] = {}
        self.bundles: dict[BundleId, None] = {}
        self.sessions: dict[SessionId, None] = {}
        self.running: dict[tuple[Token, int], float] = {}
        self.settled = self.failed = 0
        self.wanted = 0
        self.busy_s = 0.0
        self.slot_busy_s = [0.0] * record.slots
        self.slot_settled = [0] * record.slots
        self.changed_at = now

    def come(self, peer: Peer, record: RegisterWorker, now: float) -> None:
        """Note that the worker has registered; it has to be told everything again."""
        self.peer = peer
        self.record = record
        self.slots = record.slots + self.lent
        self.draining = record.draining
        self.count_slots()
        self.functions.clear()
        self.bundles.clear()
        self.sessions.clear()
        self.running.clear()
        self.changed_at = now

    def count_slots(self) -> None:
        """Have a figure for each slot of its own; those of slots that are no more go."""
        more = self.record.slots - len(self.slot_settled)
        self.slot_busy_s = [*self.slot_busy_s, *[0.0] * more][: self.record.slots]
        self.slot_settled = [*self.slot_settled, *[0] * more][: self.record.slots]

    @property
    def idle(self) -> int:
        """Slots with nothing to do."""
        return max(0, self.slots - len(self.leases))


class Roster:
    """Workers that can run the same tasks.

    Attributes:
        slots: the slots of all workers that are in it, those included that are lent.
        idle: how many of them have nothing to do.
        lent: how many of them are lent.
    """

    def __init__(self) -> None:
        self.slots = 0
        self.idle = 0
        self.lent = 0
        self.workers = 0
        self._turns = count(1)
        self._idle: list[Place] = []
        self._busy: list[Place] = []
        self._brisk: dict[Token, OpenLease] = {}

    def idle_though_leased(self, tasks: int) -> int:
        """How many slots idle although a task could run there that has not begun, of so many leased ones."""
        begun = min(tasks, self.slots - self.idle)
        return min(self.idle, tasks - begun)

    def enrol(self, worker: WorkerEntry, now: float) -> None:
        """Put a worker in, behind those that have waited longer."""
        worker.enrolled = True
        worker.turn = next(self._turns)
        self.workers += 1
        self.slots += worker.slots
        self.idle += worker.idle
        self.lent += worker.lent
        self.update(worker, now)

    def dismiss(self, worker: WorkerEntry) -> None:
        """Take a worker out."""
        worker.enrolled = False
        worker.place = None
        self.workers -= 1
        self.slots -= worker.slots
        self.idle -= worker.idle
        self.lent -= worker.lent

    def lend(self, worker: WorkerEntry, slots: int, now: float) -> None:
        """Note that a worker has so many slots more, lent by tasks that wait; below 0, fewer."""
        worker.lent += slots
        if worker.enrolled:
            self.lent += slots
        self._widen(worker, slots, now)

    def resize(self, worker: WorkerEntry, slots: int, now: float) -> None:
        """Note that a worker has another number of slots of its own."""
        more = slots - worker.record.slots
        worker.record = worker.record._replace(slots=slots)
        worker.count_slots()
        self._widen(worker, more, now)

    def _widen(self, worker: WorkerEntry, slots: int, now: float) -> None:
        """Count so many slots more of a worker; below 0, fewer."""
        idle = worker.idle
        worker.slots += slots
        worker.changed_at = now
        for _ in range(min(slots, len(worker.waiting))):
            worker.waiting.popleft().begin(now)
        if worker.enrolled:
            self.slots += slots
            self.idle += worker.idle - idle
            self.update(worker, now)

    def granted(self, worker: WorkerEntry, lease: OpenLease, now: float) -> None:
        """Note a new lease of a worker that is in the roster."""
        if len(worker.leases) < worker.slots:
            self.idle -= 1
        else:
            lease.waits = True
            lease.begins_at = now + worker.load_s / worker.slots
        worker.turn = next(self._turns)
        worker.leases[lease.token] = lease
        worker.load_s += lease.size * lease.pace_s
        if lease.long:
            worker.long += 1
        if lease.brisk:
            worker.brisk += 1
            self._brisk[lease.token] = lease
        if lease.urgent:
            worker.urgent += 1
            worker.waiting.appendleft(lease)
        elif lease.waits:
            worker.waiting.append(lease)
        self.update(worker, now)

    def restored(self, worker: WorkerEntry, lease: OpenLease) -> None:
        """Note a lease from before a restart, of a worker that has not come back."""
        worker.leases[lease.token] = lease
        worker.load_s += lease.size * lease.pace_s
        worker.long += lease.long

    def ended(self, worker: WorkerEntry, lease: OpenLease, now: float) -> None:
        """Note that a lease of a worker is over."""
        del worker.leases[lease.token]
        if not worker.leases:
            worker.load_s = 0.0
        worker.overdue = False
        if lease.long:
            worker.long -= 1
        if lease.brisk:
            worker.brisk -= 1
            del self._brisk[lease.token]
        if lease.urgent:
            worker.urgent -= 1
        if lease.waits:
            worker.waiting.remove(lease)
        elif worker.waiting:
            worker.waiting.popleft().begin(now)
        if worker.enrolled:
            if len(worker.leases) < worker.slots:
                self.idle += 1
            self.update(worker, now)

    def update(self, worker: WorkerEntry, now: float) -> None:
        """Give a worker of the roster the place that is due to it now."""
        slots, leases = worker.slots, len(worker.leases)
        if leases < slots:
            place = (worker.load_s / slots, worker.turn, worker)
            heap = self._idle
        elif leases - slots < (quick_slots := slots - worker.long) and not worker.overdue:
            place = (now + worker.load_s / quick_slots, worker.turn, worker)
            heap = self._busy
        else:
            worker.place = None
            return
        before, worker.place = worker.place, place
        if heap and heap[0] is before:
            heapreplace(heap, place)
            return
        heappush(heap, place)
        if len(heap) > 2 * self.workers + SPARE_ENTRIES:
            heap[:] = sorted(entry for entry in heap if entry[2].place is entry)

    def idlest(self) -> WorkerEntry | None:
        """The worker with an idle slot that has the least to do, or of those the longest without a grant."""
        return self._first(self._idle) if self.idle else None

    def soonest(self) -> WorkerEntry | None:
        """The worker without idle slot where one more lease would begin first, if it may wait anywhere."""
        return self._first(self._busy)

    def _first(self, heap: list[Place]) -> WorkerEntry | None:
        while heap:
            place = heap[0]
            worker = place[2]
            if worker.place is place:
                return worker
            heappop(heap)
        return None

    def brisk_leases(self) -> list[OpenLease]:
        """Some leases that reach a task border soon; the next call gives others."""
        some = list(islice(self._brisk.values(), URGENT_CHOICES))
        for lease in some:
            del self._brisk[lease.token]
            self._brisk[lease.token] = lease
        return some
