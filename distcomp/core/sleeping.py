"""Arrays that a restarted scheduler has not looked at yet: one record each.

Law of sleeping: an array sleeps if its tasks came at once, nothing else is known of it, and what it needs is
here. It counts as user of that, its arguments count as held, and unless its session is paused it has its
place in the queue and counts there, all as if it were awake. It wakes when it is looked up: by what its
client or an observer asks, or as its turn comes. None falls asleep again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, TypeAlias

from distcomp.core.arrays import HeldChunk, TaskArrayState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from distcomp.core.functions import Definition
    from distcomp.core.sessions import Session
    from distcomp.ids import ArrayId
    from distcomp.protocol import DefineBundle, DefineFunction
    from distcomp.records import TasksAccepted

    Needs: TypeAlias = tuple[Definition[DefineFunction], tuple[Definition[DefineBundle], ...]]


class SleepingArrays(MutableMapping[int, TaskArrayState]):
    """The unfinished arrays of a session by number, some of which sleep until they are looked up.

    Args:
        session: whose they are.
        asleep: the records of those that sleep, by number.
        numbers: of all its arrays, sorted.
        order: the age of the first of these; the others follow.
        now: since when they are here.

    Attributes:
        awake: all others by number.
    """

    def __init__(
        self,
        session: Session,
        asleep: dict[int, TasksAccepted],
        numbers: Sequence[int],
        order: int,
        now: float,
    ) -> None:
        self.awake: dict[int, TaskArrayState] = {}
        self.asleep = asleep
        self._needs: dict[tuple[bytes, bytes], Needs] = {}
        self.session = session
        self._numbers = numbers
        self._order = order
        self._now = now

    def provide(self, told: TasksAccepted, needs: Needs) -> None:
        """Note what arrays need that are like this one."""
        self._needs[told.function, told.bundle] = needs

    def queue(self, orders: Sequence[int], told: Sequence[TasksAccepted]) -> None:
        """Queue arrays that sleep, and have the same options."""
        session = self.session
        claim = session.pool.queue.claim_of(session, told[0].options.priority)
        claim.sleepers[session.id] = self
        session.pool.queue.offer_asleep(claim, orders, told)

    def _wake(self, number: int) -> TaskArrayState:
        told, session = self.asleep.pop(number), self.session
        definition, bundles = self._needs[told.function, told.bundle]
        claim = session.pool.queue.claim_of(session, told.options.priority)
        order = self._order + bisect_left(self._numbers, number)
        array = TaskArrayState(
            told.array, session, definition, told.options, claim, order=order, now=self._now
        )
        array.bundles = bundles
        array.accepted, array.closed = told.tasks, True
        array.pending.add(0, told.tasks)
        array.chunks.append(HeldChunk(told.base, 0, told.tasks, told.chunk, told.bundle))
        if order in claim.arrays:
            array.queued = True
            claim.arrays[order] = array
        self.awake[number] = array
        if not self.asleep:
            self._end()
        return array

    def _end(self) -> None:
        """Let go of what only those that sleep need."""
        session = self.session
        session.arrays = self.awake
        for claim in session.claims.values():
            claim.sleepers.pop(session.id, None)

    def __getitem__(self, number: int) -> TaskArrayState:
        array = self.awake.get(number)
        return self._wake(number) if array is None else array

    def __setitem__(self, number: int, array: TaskArrayState) -> None:
        self.awake[number] = array

    def __delitem__(self, number: int) -> None:
        del self.awake[number]

    def __contains__(self, number: object) -> bool:
        return number in self.awake or number in self.asleep

    def __iter__(self) -> Iterator[int]:
        return iter([*self.awake, *self.asleep])

    def __len__(self) -> int:
        return len(self.awake) + len(self.asleep)


def awake(session: Session) -> Iterable[TaskArrayState]:
    """The arrays of a session of which there may be more to say than that they wait."""
    arrays = session.arrays
    return arrays.awake.values() if isinstance(arrays, SleepingArrays) else arrays.values()


def asleep(session: Session) -> Mapping[int, TasksAccepted]:
    """The other arrays of a session."""
    arrays = session.arrays
    return arrays.asleep if isinstance(arrays, SleepingArrays) else {}


def accepted(session: Session) -> Iterator[tuple[ArrayId, int]]:
    """How many tasks were accepted of each array."""
    yield from ((array.id, array.accepted) for array in awake(session))
    yield from ((record.array, record.tasks) for record in asleep(session).values())
