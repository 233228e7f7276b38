"""`DetourFeed`: hands in those tasks of a front that were found nowhere, as an array of the cluster."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.detours import MissingTasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.feeder import FedClient
    from distcomp.handles import Sink
    from distcomp.ids import FunctionId
    from distcomp.keeper import Keeper
    from distcomp.payload import Packed
    from distcomp.rows import TaskOptions
    from distcomp.store import StoredFunction


class KnownTasks(NamedTuple):
    """What tasks are handed in with.

    Attributes:
        function: the function's identity, name and bytes.
        options: how the tasks are to be treated.
        known: the function as the store knows it.
    """

    function: tuple[FunctionId, str, bytes]
    options: TaskOptions
    known: StoredFunction


class Sending:
    """Tasks `start` to `stop` of a detour on their way; `noted` once nothing holds them back."""

    __slots__ = ("noted", "parts", "start", "stop")

    def __init__(self, start: int, stop: int, parts: Sequence[Packed]) -> None:
        self.start = start
        self.stop = stop
        self.parts = parts
        self.noted = False


class DetourFeed:
    """The way of tasks to the cluster, by way of the store if they belong to a run.

    Law, on the loop's thread: the array is open from its first tasks on, and is closed when it was said that
    no more will come and all that did was handed in, which for a run waits for the store. What is `_waiting`
    goes in the order in which it came, whatever is noted first: places depend on it.

    Args:
        client: whose tasks they are.
        keeper: its store.
        front: what takes in the outcomes; its `detours` get one more.
        work: what the tasks are handed in with.
        grows: more may come until `close`; if not, they were submitted one by one, and the first are all.
    """

    def __init__(
        self,
        client: FedClient,
        keeper: Keeper,
        front: Sink,
        work: KnownTasks,
        *,
        grows: bool,
    ) -> None:
        self.tasks = MissingTasks(front, work.known, grows=grows)
        self._client = client
        self._keeper = keeper
        self._front = front
        self._work = work
        self._opened = self._through = False
        self._single = not grows
        self._waiting: deque[Sending] = deque()
        front.detours = [*(front.detours or ()), self.tasks]

    def look_up(self, places: Sequence[int], keys: Sequence[bytes]) -> list[int]:
        """Settle what is found; gives the positions of the others."""
        return self._keeper.look_up(self._front, self._work.known, places, keys)

    def send(self, places: Sequence[int], keys: Sequence[bytes], parts: Sequence[Packed]) -> None:
        """Hand in tasks, from any thread: their places in the front, and their chunks in order."""
        with self._client.lock:
            start = self.tasks.add(places, keys)
        self._client.post(lambda state: self._send(state, start, keys, parts))

    def close(self) -> None:
        """No more tasks will come; from any thread."""
        self._client.post(self._close)

    # --- the loop's thread ------------------------------------------------------------------------

    def _send(self, state: Any, start: int, keys: Sequence[bytes], parts: Sequence[Packed]) -> None:
        tasks = self.tasks
        if not self._opened:
            self._opened = True
            tasks.counter = state.submit(*self._work.function, self._work.options, kept=True)
            self._client.sinks[tasks.counter] = tasks
        sending = Sending(start, start + len(keys), parts)
        self._waiting.append(sending)

        def go_on(state: Any) -> None:
            sending.noted = True
            while self._waiting and self._waiting[0].noted:
                self._extend(state, self._waiting.popleft())
            self._close_if_through(state)

        if self._keeper.notes_first:
            self._keeper.submitted(self._work.known, tasks.counter, start, keys, go_on)
        else:
            go_on(state)

    def _extend(self, state: Any, sending: Sending) -> None:
        counter = self.tasks.counter
        for part in sending.parts:
            state.extend(counter, part.stop - part.start, part.blob, last=False, single=self._single)
        unwanted = self.tasks.unwanted(sending.start, sending.stop)
        if unwanted:  # cancelled while they were looked for
            state.cancel(counter, unwanted)

    def _close(self, state: Any) -> None:
        self._through = True
        self._close_if_through(state)

    def _close_if_through(self, state: Any) -> None:
        if not self._through or self._waiting or not self._opened:
            return
        tasks = self.tasks
        state.extend(tasks.counter, 0, b"", last=True)
        with self._client.lock:
            tasks.close()
            if tasks.open_tasks <= 0:
                self._client.sinks.pop(tasks.counter, None)
