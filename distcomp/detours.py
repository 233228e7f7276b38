"""Where tasks of a handle travel that has found other tasks of its elsewhere.

A handle's tasks have places, from 0, in its *front*: a `FutureGroup`, or a leg. With a store, some of them
settle by what the store has, and some by an array that another process has handed in. Those that are left
travel as another array of the cluster, the detour, in which they have other places.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Protocol, cast

from distcomp.core.client_effects import Failed, Returned
from distcomp.future_groups import FutureGroup
from distcomp.handles import SharedBlob
from distcomp.remembered_calls import RememberedCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from distcomp.futures import Woken
    from distcomp.handles import Sink
    from distcomp.payload import Packed
    from distcomp.store import StoredFunction

    Spans = tuple[tuple[int, int], ...]
    Label = tuple[StoredFunction, bytes]


class Detour(Protocol):
    """An array of the cluster that has some of a front's tasks."""

    counter: int

    def places_of(self, spans: Spans) -> Spans:
        """Where the tasks stand that stand in the front within `spans`; nowhere if there are none."""


class MissingTasks:
    """A sink for those tasks of a front that were found nowhere.

    Law: places grow with the front's, so that each can be found by the other. One more task counts as open
    until the array is closed.

    Args:
        front: what takes in the outcomes.
        function: as the store knows it.
        grows: more may be added until the array is closed.

    Attributes:
        keys: what the outcomes are stored under, by place.
    """

    def __init__(self, front: Sink, function: StoredFunction, *, grows: bool) -> None:
        self.counter = 0
        self.open_tasks = 1
        self.detours: list[Detour] | None = None
        self.keys: list[bytes] = []
        self._front = front
        self._function = function
        self._grows = grows
        self._front_places: list[int] = []
        self._blob = b""
        self._parts: Sequence[Packed] = ()

    @property
    def tasks(self) -> int:
        """How many tasks were added."""
        return len(self.keys)

    @property
    def retried(self) -> int:
        """How many tries were followed by another one."""
        return self._front.retried

    @retried.setter
    def retried(self, count: int) -> None:
        self._front.retried = count

    def add(self, front_places: Sequence[int], keys: Sequence[bytes]) -> int:
        """More tasks travel this way, with the host's lock held; gives the place of the first."""
        start = len(self.keys)
        self._front_places += front_places
        self.keys += keys
        self.open_tasks += len(keys)
        return start

    def keep_calls(self, function: bytes, parts: Sequence[Packed]) -> None:
        """Keep what was sent, by reference, until all is settled: failed calls can be made again here."""
        self._blob, self._parts = function, parts

    def close(self) -> None:
        """No more tasks will be added; with the host's lock held."""
        self.open_tasks -= 1

    def label(self, place: int) -> str:
        """What tells a user which of the tasks stands at `place`."""
        return self._front.label(self._front_places[place])

    def labels(self, start: int, stop: int) -> Iterator[Label | None]:
        """What the outcomes at these places are stored under."""
        function = self._function
        return ((function, key) for key in self.keys[start:stop])

    def places_of(self, spans: Spans) -> Spans:
        """Where the tasks stand that stand in the front within `spans`."""
        found = []
        for start, stop in spans:
            low, high = bisect_left(self._front_places, start), bisect_left(self._front_places, stop)
            if low < high:
                found.append((low, high))
        return tuple(found)

    def unwanted(self, start: int, stop: int) -> Spans:
        """Which of these tasks have settled in the front before they were handed in."""
        if not isinstance(self._front, FutureGroup):
            return ()
        futures, places = self._front.futures, self._front_places
        gone = (at for at in range(start, stop) if not ((one := futures[places[at]]) and one.is_open()))
        return tuple((at, at + 1) for at in gone)

    def settle(self, outcome: Returned | Failed, woken: list[Woken]) -> None:
        """Take in what came of some tasks, with the host's lock held."""
        stop = min(outcome.stop, self.tasks)
        self.open_tasks -= stop - outcome.start
        if outcome.stop > self.tasks:
            self.open_tasks = 0
        if self._parts and isinstance(outcome, Failed):
            self._remember(outcome.start, stop)
        pieces = list(stretches(self._front_places, outcome.start, stop))
        whole = divided(outcome, len(pieces))
        for first, behind, front_place in pieces:
            self._front.settle(moved(whole, first, behind, front_place), woken)
        if outcome.stop > self.tasks and self._grows:  # nothing more can be handed in
            self._end_front(outcome, woken)
        if self.open_tasks <= 0:
            self._parts = ()

    def began(self, indexes: Iterable[int], woken: list[Woken]) -> None:
        """Take in that tasks were said to run, with the host's lock held."""
        self._front.began([self._front_places[place] for place in indexes if place < self.tasks], woken)

    def _remember(self, start: int, stop: int) -> None:
        front: Any = self._front
        for part in self._parts:
            for place in range(max(start, part.start), min(stop, part.stop)):
                call = RememberedCall(self._blob, part.blob, place - part.start)
                front.remember(self._front_places[place], call)

    def _end_front(self, outcome: Returned | Failed, woken: list[Woken]) -> None:
        first = self._front_places[-1] + 1 if self._front_places else 0
        self._front.settle(outcome._replace(start=first), woken)


def stretches(front_places: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Cut `start` to `stop` into stretches with neighbouring values; gives bounds and the first value.

    Example:
        >>> list(stretches([5, 6, 9], 0, 3))
        [(0, 2, 5), (2, 3, 9)]
    """
    while start < stop:
        first = front_places[start]
        behind = start + 1
        if front_places[stop - 1] - first == stop - 1 - start:
            behind = stop
        while behind < stop and front_places[behind] - first == behind - start:
            behind += 1
        yield start, behind, first
        start = behind


def shared(blob: bytes, pieces: int) -> bytes:
    """Packed results that several take some of, unpacked once for all of them; for `ResultRun` only."""
    return blob if pieces == 1 else cast("bytes", SharedBlob(blob, pieces))


def divided(outcome: Returned | Failed, pieces: int) -> Returned | Failed:
    """An outcome that several take some of."""
    if isinstance(outcome, Failed):
        return outcome
    return outcome._replace(blob=shared(outcome.blob, pieces))


def moved(outcome: Returned | Failed, start: int, stop: int, place: int) -> Returned | Failed:
    """What of an outcome lies between `start` and `stop`, as it stands in a front from `place` on."""
    until = place + stop - start
    if isinstance(outcome, Returned):
        return outcome._replace(start=place, stop=until, base=outcome.base + place - start)
    return outcome._replace(start=place, stop=until)
