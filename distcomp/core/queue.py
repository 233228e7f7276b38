"""Whose turn it is: priority first, then fair shares between owners and their sessions, then age.

Law of the queue: an array is in it (`queued`) as long as it has something pending and may run; `pending`
is the sum of what its arrays have pending. A claim is placed in its crowd as long as there is something
in the queue under it; only an array that came to an empty queue is `alone`, and is placed nowhere until
another comes, as it shares with nobody.

Shares are kept by start-time fair queueing: every claim carries a tag, the seconds granted to it so far;
the lowest tag is next; who comes back after a pause starts where the others are, so that nobody saves up.
Estimates are granted, and corrected when the true time is known.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar

from distcomp.records import TasksAccepted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.sessions import Session
    from distcomp.core.spans import Span
    from distcomp.ids import SessionId

SPARE_ENTRIES = 64
"""Entries that count for nothing any more, beyond half, which a heap may hold before it is swept."""

_tasks_of = attrgetter("tasks")

NEWCOMER = 1 << 62
"""Puts who comes back before others with the same tag, which have just been served."""


class Claim:
    """What shares with its siblings.

    Attributes:
        tag: seconds granted so far, on the scale of its crowd.
        place: its entry in the crowd, or None while nothing under it is queued.
    """

    __slots__ = ("place", "tag")

    def __init__(self) -> None:
        self.tag = 0.0
        self.place: tuple[float, int, Claim] | None = None


C = TypeVar("C", bound=Claim)


class Crowd(Generic[C]):
    """Claims that share with each other. An entry that is not its claim's place counts for nothing.

    Attributes:
        size: how many claims are placed.
        virtual: the tag of the claim that was served last; nobody comes with a lower one.
    """

    __slots__ = ("_heap", "_order", "size", "virtual")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, C]] = []
        self._order = count()
        self.size = 0
        self.virtual = 0.0

    def enter(self, claim: C) -> None:
        """Place a claim that has something to run again: level with the lowest, and before it."""
        if self.size:
            self.first()
        claim.tag = max(claim.tag, self.virtual)
        self.put(claim, claim.tag)

    def put(self, claim: C, tag: float) -> None:
        """Place a claim before all others with this tag, which is its own or was before it was served."""
        self.size += 1
        self._place(claim, tag, next(self._order) - NEWCOMER)

    def leave(self, claim: C) -> None:
        """Displace a claim that has nothing to run any more."""
        claim.place = None
        self.size -= 1

    def first(self) -> C:
        """The placed claim with the lowest tag; there must be one.

        A tag that grew is noticed here, when its entry comes up. That of a claim alone needs no notice.
        """
        heap = self._heap
        while True:
            place = heap[0]
            claim = place[2]
            if claim.place is not place:
                heappop(heap)
            elif place[0] != claim.tag and self.size > 1:
                claim.place = place = (claim.tag, next(self._order), claim)
                heapreplace(heap, place)
            else:
                self.virtual = claim.tag
                return claim

    def lowered(self, claim: C) -> None:
        """Note that the tag of a placed claim shrank, so that it is not found too late."""
        if self.size > 1:
            self._place(claim, claim.tag, next(self._order))

    def _place(self, claim: C, tag: float, order: int) -> None:
        claim.place = place = (tag, order, claim)
        heap = self._heap
        heappush(heap, place)
        if len(heap) > 2 * self.size + SPARE_ENTRIES:
            heap[:] = sorted(entry for entry in heap if entry[2].place is entry)


class OwnerClaim(Claim):
    """What an owner claims at one priority."""

    __slots__ = ("crowd", "name", "priority", "sessions")

    def __init__(self, name: str, priority: int, crowd: Crowd[OwnerClaim]) -> None:
        super().__init__()
        self.name = name
        self.priority = priority
        self.crowd = crowd
        self.sessions: Crowd[SessionClaim] = Crowd()


class SessionClaim(Claim):
    """What a session, with those of its tasks, claims at one priority: its arrays, the oldest first.

    Attributes:
        arrays: by order; those that sleep as their records.
        sleepers: where these wake by being looked up, by session; see `sleeping`.
    """

    __slots__ = ("_orders", "arrays", "owner", "sleepers")

    def __init__(self, owner: OwnerClaim) -> None:
        super().__init__()
        self.owner = owner
        self.arrays: dict[int, TaskArrayState | TasksAccepted] = {}
        self.sleepers: dict[SessionId, Mapping[int, TaskArrayState]] = {}
        self._orders: list[int] = []

    def put(self, array: TaskArrayState) -> None:
        """Add an array."""
        self.arrays[array.order] = array
        orders = self._orders
        heappush(orders, array.order)
        if len(orders) > 2 * len(self.arrays) + SPARE_ENTRIES:
            orders[:] = sorted(self.arrays)

    def put_asleep(self, orders: Sequence[int], told: Sequence[TasksAccepted]) -> None:
        """Add arrays that sleep."""
        self.arrays.update(zip(orders, told, strict=True))
        for order in orders:
            heappush(self._orders, order)

    def first(self) -> TaskArrayState:
        """The oldest array, awake; there must be one."""
        while True:
            array = self.arrays.get(self._orders[0])
            if array is None:
                heappop(self._orders)
            elif isinstance(array, TasksAccepted):
                session, number = array.array
                return self.sleepers[session][number]
            else:
                return array


class FairQueue:
    """The arrays that wait for slots of one kind.

    Attributes:
        pending: tasks in the queue.
    """

    def __init__(self) -> None:
        self.pending = 0
        self._alone: TaskArrayState | None = None
        self._levels: dict[int, Crowd[OwnerClaim]] = {}
        self._owners: dict[tuple[int, str], OwnerClaim] = {}
        self._ranks: list[int] = []
        self._ranked: set[int] = set()

    def __contains__(self, array: TaskArrayState) -> bool:
        return array is self._alone or array.order in array.claim.arrays

    def claim_of(self, session: Session, priority: int) -> SessionClaim:
        """The claim of a session at a priority, made at its first use."""
        claim = session.claims.get(priority)
        if claim is None:
            owner = self._owners.get((priority, session.owner.name))
            if owner is None:
                level = self._levels.setdefault(priority, Crowd())
                owner = OwnerClaim(session.owner.name, priority, level)
                self._owners[(priority, session.owner.name)] = owner
            claim = session.claims[priority] = SessionClaim(owner)
        return claim

    def offer(self, array: TaskArrayState) -> None:
        """Queue an array that has something pending and may run."""
        array.queued = True
        claim = array.claim
        owner = claim.owner
        if not self.pending:
            owner.tag = owner.crowd.virtual = max(owner.tag, owner.crowd.virtual)
            claim.tag = owner.sessions.virtual = max(claim.tag, owner.sessions.virtual)
            self._alone = array
        else:
            self._enter(claim)
            claim.put(array)
        self.pending += array.pending.count

    def offer_asleep(self, claim: SessionClaim, orders: Sequence[int], told: Sequence[TasksAccepted]) -> None:
        """Queue arrays that sleep."""
        self._enter(claim)
        claim.put_asleep(orders, told)
        self.pending += sum(map(_tasks_of, told))

    def _enter(self, claim: SessionClaim) -> None:
        """Place a claim that gets something to run, beside one that was alone."""
        if self._alone is not None:
            self._join(self._alone)
        if not claim.arrays:
            owner = claim.owner
            if not owner.sessions.size:
                self._rank(owner.priority)
                owner.crowd.enter(owner)
            owner.sessions.enter(claim)

    def _join(self, array: TaskArrayState) -> None:
        """Place the array that was alone where it would be had it never been."""
        self._alone = None
        claim = array.claim
        owner = claim.owner
        self._rank(owner.priority)
        owner.crowd.put(owner, owner.crowd.virtual)
        owner.sessions.put(claim, owner.sessions.virtual)
        claim.put(array)

    def withhold(self, array: TaskArrayState) -> None:
        """Take an array out of the queue."""
        array.queued = False
        self.pending -= array.pending.count
        if array is self._alone:
            self._alone = None
            return
        claim = array.claim
        del claim.arrays[array.order]
        if not claim.arrays:
            owner = claim.owner
            owner.sessions.leave(claim)
            if not owner.sessions.size:
                owner.crowd.leave(owner)

    def first(self) -> TaskArrayState:
        """The array whose turn it is; the queue must not be empty."""
        if self._alone is not None:
            return self._alone
        while True:
            level = self._levels[-self._ranks[0]]
            if level.size:
                return level.first().sessions.first().first()
            self._ranked.discard(heappop(self._ranks))

    def _rank(self, priority: int) -> None:
        if -priority not in self._ranked:
            self._ranked.add(-priority)
            heappush(self._ranks, -priority)

    def take(self, array: TaskArrayState, count: int, seconds: float) -> None:
        """Take the first `count` pending indexes out of a queued array, granted as so many seconds."""
        array.pending.drop_first(count)
        self.pending -= count
        claim = array.claim
        owner = claim.owner
        if array is self._alone:
            owner.crowd.virtual = owner.tag
            owner.sessions.virtual = claim.tag
        claim.tag += seconds
        owner.tag += seconds
        if not array.pending.count:
            self.withhold(array)

    def put_back(self, array: TaskArrayState, start: int, stop: int) -> None:
        """Make indexes of a queued array pending again."""
        array.pending.add(start, stop)
        self.pending += stop - start

    def cut(self, array: TaskArrayState, start: int, stop: int) -> list[Span]:
        """Take what is pending between `start` and `stop` out of a queued array, and return it."""
        before = array.pending.count
        taken = array.pending.cut(start, stop)
        self.pending -= before - array.pending.count
        if not array.pending.count:
            self.withhold(array)
        return taken

    def correct(self, array: TaskArrayState, seconds: float) -> None:
        """Add to what was granted to the array's session and owner; below 0, give it back."""
        claim = array.claim
        owner = claim.owner
        claim.tag += seconds
        owner.tag += seconds
        if seconds < 0:
            if claim.place is not None:
                owner.sessions.lowered(claim)
            if owner.place is not None:
                owner.crowd.lowered(owner)
