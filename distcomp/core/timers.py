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


NEVER = float("inf")


class Timers:
    """Actions in the order of their times; those of one time in the order in which they came.

    Attributes:
        next_at: when the next action is due, or `NEVER`.
    """

    __slots__ = ("_heap", "_order", "next_at")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self.next_at = NEVER

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: float, action: Callable[..., None], *arguments: Any) -> None:
        """At the time `at`, call `action(*arguments, now)`."""
        heappush(self._heap, (at, next(self._order), action, arguments))
        self.next_at = self._heap[0][0]

    def run(self, now: float) -> None:
        """Do what is due; what an action adds for a time that has come is done as well."""
        while self._heap and self._heap[0][0] <= now:
            _, _, action, arguments = heappop(self._heap)
            self.next_at = self._heap[0][0] if self._heap else NEVER
            action(*arguments, now)
