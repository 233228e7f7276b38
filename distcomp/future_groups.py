"""`FutureGroup`: the futures of single submits that travel as one array, and what was sent of them."""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from distcomp.errors import UsageError
from distcomp.futures import Future
from distcomp.handles import FINISHED, RUNNING, entry_of
from distcomp.remembered_calls import RememberedCall
from distcomp.rows import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distcomp.core.client_effects import Failed, Returned
    from distcomp.detours import Detour
    from distcomp.futures import Woken
    from distcomp.handles import Host
    from distcomp.payload import Packed
    from distcomp.protocol import TaskExplained


class FutureGroup:
    """The futures of single submits that travel as one array.

    Args:
        host: the client.
    """

    counter = open_tasks = retried = 0
    detours: list[Detour] | None = None
    _function = b""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.futures: list[Future[Any] | None] = []
        self._parts: list[Packed] = []

    @property
    def retried_count(self) -> int:
        """How many tries of these tasks were followed by another one."""
        return self.retried

    def add(self) -> Future[Any]:
        """One more future, for the next index."""
        future: Future[Any] = Future(self, len(self.futures))
        self.futures.append(future)
        return future

    def keep_calls(self, function: bytes, parts: list[Packed]) -> None:
        """Keep what was sent, by reference, until all is settled: failed calls can be made again here."""
        self._function, self._parts = function, parts

    def settle(self, outcome: Returned | Failed, woken: list[Woken]) -> None:
        """Take in what came of some tasks, with the host's lock held; lets go of their futures."""
        start, stop = outcome.start, min(outcome.stop, len(self.futures))
        state, content = entry_of(outcome)
        if type(content) is Failure and state == FINISHED:
            self._remember_failed(start, stop)
        for future in self.futures[start:stop]:
            if future is not None:
                future.enter(state, content, woken)
        self.futures[start:stop] = [None] * (stop - start)
        self.open_tasks -= stop - start
        if self.open_tasks <= 0:
            self._parts = []
        elif stop - start == 1 and len(self._parts) > 1:
            self._let_go(start)

    def remember(self, index: int, call: RememberedCall) -> None:
        """Keep a call that has failed with its future."""
        future = self.futures[index]
        if future is not None:
            future.remember(call)

    def _remember_failed(self, start: int, stop: int) -> None:
        for part in self._parts:
            for index in range(max(start, part.start), min(stop, part.stop)):
                self.remember(index, RememberedCall(self._function, part.blob, index - part.start))

    def _let_go(self, index: int) -> None:
        """Let go of the arguments of a task that travelled alone, as large ones do."""
        place = bisect_right(self._parts, index, key=attrgetter("start")) - 1
        if place >= 0 and self._parts[place].stop - self._parts[place].start == 1:
            self._parts[place] = self._parts[place]._replace(blob=b"")

    def explain_task(self, index: int) -> TaskExplained:
        """Ask the scheduler where a task is."""
        return self.host.explain_task(self, index)

    def call_of(self, index: int) -> RememberedCall:
        """The call of a failed task; its future has it, unless it failed before it was sent."""
        raise UsageError(f"the arguments of task {index} were let go of")

    def label(self, place: int) -> str:
        """Nothing: a call that was submitted alone has no index that its user knows."""
        del place
        return ""

    def began(self, indexes: Iterable[int], woken: list[Woken]) -> None:
        """Take in that tasks were said to run, with the host's lock held."""
        for index in indexes:
            future = self.futures[index] if index < len(self.futures) else None
            if future is not None:
                future.enter(RUNNING, None, woken)

    def cancel_task(self, index: int, *, pending_only: bool = False) -> None:
        """Have one task cancelled in the cluster."""
        self.host.cancel_tasks(self, ((index, index + 1),), pending_only=pending_only)
