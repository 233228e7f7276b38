"""The legs of a `TaskArray`: which of its tasks travel together, and where their outcomes belong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.core.ranges import RangeSet
from distcomp.handles import MovedRun, ResultRun, entry_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from distcomp.core.client_effects import Failed, Returned
    from distcomp.detours import Detour
    from distcomp.futures import Woken
    from distcomp.rows import Failure
    from distcomp.task_arrays import TaskArray


class Entry(NamedTuple):
    """What came of the indexes `start` to `stop`."""

    start: int
    stop: int
    state: str
    outcome: ResultRun | Failure


class Leg:
    """Tasks of a `TaskArray` on their way as one array of the cluster.

    Args:
        array: whose tasks they are.
        tasks: how many there are.
        order: the array's index of each task in the order in which they travel; None if it is the same.

    Attributes:
        ended: nothing of it is wanted any more; what has not left stays.
    """

    __slots__ = (
        "_places",
        "_wanted",
        "array",
        "counter",
        "detours",
        "ended",
        "open_tasks",
        "order",
        "retried",
        "tasks",
    )

    def __init__(self, array: TaskArray[Any], tasks: int, order: Sequence[int] | None) -> None:
        self.array = array
        self.counter = 0
        self.detours: list[Detour] | None = None
        self.tasks = tasks
        self.open_tasks = tasks
        self.retried = 0
        self.order = order
        self.ended = False
        self._wanted: RangeSet | None = None
        self._places: dict[int, int] | None = None

    def place_of(self, index: int) -> int | None:
        """Where the task with the array's `index` stands in this leg, if it does."""
        if self.order is None:
            return index
        if self._places is None:
            self._places = {each: place for place, each in enumerate(self.order)}
        return self._places.get(index)

    def retire(self, place: int) -> None:
        """Take no more outcomes for a task: it travels in another leg from now on."""
        if self._wanted is None:
            self._wanted = RangeSet()
            self._wanted.add(0, self.tasks)
        self._wanted.cut(place, place + 1)

    def wants(self, place: int) -> bool:
        """Whether an outcome for a task would still be taken."""
        return self._wanted is None or place in self._wanted

    def settle(self, outcome: Returned | Failed, woken: list[Woken]) -> None:
        """Take in what came of some tasks, with the host's lock held."""
        stop = min(outcome.stop, self.tasks)
        self.ended = self.ended or outcome.stop > self.tasks
        self.open_tasks -= stop - outcome.start
        state, content = entry_of(outcome)
        spans = [(outcome.start, stop)] if self._wanted is None else self._wanted.cut(outcome.start, stop)
        for first, behind in spans:
            if self.order is None:
                self.array.take_in(Entry(first, behind, state, content), woken)
                continue
            for place in range(first, behind):
                index = self.order[place]
                single = MovedRun(content, place) if isinstance(content, ResultRun) else content
                self.array.take_in(Entry(index, index + 1, state, single), woken)

    def label(self, place: int) -> str:
        """The index of a task, in brackets."""
        return f"[{place if self.order is None else self.order[place]}]"

    def settle_here(self, failed: Failed, woken: list[Woken]) -> None:
        """Take in a failure that the cluster will still report in its own way."""
        count = min(failed.stop, self.tasks) - failed.start
        self.settle(failed, woken)
        self.open_tasks += count

    def began(self, indexes: Iterable[int], woken: list[Woken]) -> None:
        """Take in that tasks were said to run, with the host's lock held."""
        for place in indexes:
            if place < self.tasks and self.wants(place):
                self.array.take_in_began(place if self.order is None else self.order[place], woken)
