"""`AdoptedArray`: an array of a run that another process has handed in, and those here who want its tasks."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from distcomp.core.client_effects import Returned
from distcomp.core.ranges import RangeSet
from distcomp.detours import divided, moved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distcomp.core.client_effects import Failed
    from distcomp.detours import Detour, Label, Spans
    from distcomp.futures import Woken
    from distcomp.handles import Sink
    from distcomp.rows import RunArray
    from distcomp.store import StoredFunction


class AdoptedArray:
    """What takes in the outcomes of one adopted array.

    Law, under the host's lock: an index that is in `_open` has no outcome yet, and settles those fronts that
    claim it. The outcome of one that nobody claims is in `_held` until the store has it.

    Args:
        row: what the scheduler has told of the array.
        front: who wants all of it, at the same places; None if tasks are claimed one by one.

    Attributes:
        labels_of: what its outcomes are stored under, by place, as far as the store knew when the run was
            opened, or a claim has told since.
    """

    def __init__(self, row: RunArray, front: Sink | None = None) -> None:
        self.row = row
        self.counter = row.number
        self.detours: list[Detour] | None = None
        self.retried = 0
        self.labels_of: dict[int, tuple[StoredFunction, bytes]] = {}
        self._front = front
        self._claims: dict[int, list[tuple[Sink, int]]] = {}
        self._held: dict[int, Returned] = {}
        self._open = RangeSet()
        if row.tasks:
            self._open.add(0, row.tasks)
        for start, stop in row.received:
            self._open.cut(start, min(stop, row.tasks))
        self.open_tasks = self._open.count

    def label(self, place: int) -> str:
        """The index of a task, in brackets."""
        return f"[{place}]"

    def labels(self, start: int, stop: int) -> Iterator[Label | None]:
        """What the outcomes at these places are stored under."""
        return (self.labels_of.get(place) for place in range(start, stop))

    def claim(self, place: int, front: Sink, front_place: int, woken: list[Woken]) -> bool:
        """Have the task at `place` settle one of a front's, with the host's lock held; whether it will.

        If not, then its outcome was a failure, or is in the store.
        """
        if place in self._open:
            self._claims.setdefault(place, []).append((front, front_place))
            _detour_of(front, self.counter).add(front_place, place)
            return True
        held = self._held.get(place)
        if held is not None:
            front.settle(moved(held, place, place + 1, front_place), woken)
        return held is not None

    def let_go(self, start: int, stop: int) -> None:
        """The store has these outcomes; with the host's lock held."""
        for place in range(start, stop):
            self._held.pop(place, None)

    def settle(self, outcome: Returned | Failed, woken: list[Woken]) -> None:
        """Take in what came of some tasks, with the host's lock held."""
        if self._front is not None:
            self._front.settle(outcome, woken)
        stop = min(outcome.stop, self.row.tasks)
        whole = divided(outcome, stop - outcome.start)
        for start, behind in self._open.cut(outcome.start, stop):
            self.open_tasks -= behind - start
            for place in range(start, behind):
                claims = self._claims.pop(place, ())
                for front, front_place in claims:
                    front.settle(moved(whole, place, place + 1, front_place), woken)
                if not claims and self._front is None and isinstance(whole, Returned):
                    self._held[place] = whole

    def began(self, indexes: Iterable[int], woken: list[Woken]) -> None:
        """Take in that tasks were said to run, with the host's lock held."""
        if self._front is not None:
            self._front.began(indexes, woken)
            return
        for place in indexes:
            for front, front_place in self._claims.get(place, ()):
                front.began((front_place,), woken)


class ClaimedTasks:
    """A detour through an adopted array."""

    def __init__(self, counter: int) -> None:
        self.counter = counter
        self._pairs: list[tuple[int, int]] = []

    def add(self, front_place: int, place: int) -> None:
        """One more task of the front is to come this way."""
        insort(self._pairs, (front_place, place))

    def places_of(self, spans: Spans) -> Spans:
        """Where the tasks stand that stand in the front within `spans`; all of them if there are none."""
        found = []
        for start, stop in spans or ((0, self._pairs[-1][0] + 1),):
            low, high = bisect_left(self._pairs, (start, 0)), bisect_left(self._pairs, (stop, 0))
            found += [(place, place + 1) for _, place in self._pairs[low:high]]
        return tuple(sorted(found))


def _detour_of(front: Sink, counter: int) -> ClaimedTasks:
    """The front's detour through an adopted array; made if there is none."""
    if front.detours is None:
        front.detours = []
    for detour in front.detours:
        if isinstance(detour, ClaimedTasks) and detour.counter == counter:
            return detour
    made = ClaimedTasks(counter)
    front.detours.append(made)
    return made
