"""Virtual time, and processes that can be frozen in it."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """What happens, in the order of its time; what happens at one time, in the order it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        heappush(self._heap, (max(time, self.now), next(self._order), action, arguments))

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        heappush(self._heap, (self.now + delay_s, next(self._order), action, arguments))

    def run(self, until: Callable[[], bool], deadline: float) -> bool:
        """Let time pass until something is true; says whether it came to that before `deadline`."""
        while not until():
            if not self._heap or self._heap[0][0] > deadline:
                return False
            self.now, _, action, arguments = heappop(self._heap)
            action(*arguments)
        return True


class Host:
    """A process. While it is frozen nothing happens in it; then all of it does, in order."""

    def __init__(self, clock: Clock, name: str) -> None:
        self.clock = clock
        self.name = name
        self.alive = True
        self.frozen_until = 0.0
        self._missed: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    @property
    def frozen(self) -> bool:
        return self.clock.now < self.frozen_until

    def freeze(self, seconds: float) -> None:
        self.frozen_until = max(self.frozen_until, self.clock.now + seconds)
        self.clock.at(self.frozen_until, self._thaw)

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        self.clock.after(delay_s, self.run, action, *arguments)

    def run(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do it now, or when the process is no longer frozen; a dead one does nothing."""
        if self.frozen or self._missed:
            self._missed.append((action, arguments))
        elif self.alive:
            action(*arguments)

    def _thaw(self) -> None:
        if self.frozen:
            return
        missed, self._missed = self._missed, deque()
        for action, arguments in missed:
            self.run(action, *arguments)
