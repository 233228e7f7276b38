"""What is to happen later: actions by time, none of which is ever taken back.

An action checks for itself whether it still has to do anything; that is cheaper and safer than finding
it again to remove it.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Timers:
    """Actions in the order of their times; those of one time in the order in which they came."""

    __slots__ = ("_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> float | None:
        """When the next action is due."""
        return self._heap[0][0] if self._heap else None

    def add(self, at: float, action: Callable[..., None], *arguments: Any) -> None:
        """At the time `at`, call `action(*arguments, now)`."""
        heappush(self._heap, (at, next(self._order), action, arguments))

    def run(self, now: float) -> None:
        """Do what is due; what an action adds for a time that has come is done as well."""
        while self._heap and self._heap[0][0] <= now:
            _, _, action, arguments = heappop(self._heap)
            action(*arguments, now)
