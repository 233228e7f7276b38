"""`DetourFeed`: hands in those tasks of a front that were found nowhere, as an array of the cluster."""

from __future__ import annotations

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


class DetourFeed:
    """The way of tasks to the cluster, by way of the store if they belong to a run.

    Law, on the loop's thread: the array is open from its first tasks on, and is closed when it was said that
    no more will come and all that did was handed in, which for a run waits for the store.

    Args:
        client: whose tasks they are.
        keeper: its store.
        front: what takes in the outcomes; its `detours` get one more.
        work: what the tasks are handed in with.
        grows: more may come until `close`; if not, the first are all.
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
        self._under_way = 0
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
        self._under_way += 1

        def extend(state: Any) -> None:
            for part in parts:
                state.extend(tasks.counter, part.stop - part.start, part.blob, last=False)
            unwanted = tasks.unwanted(start, start + len(keys))
            if unwanted:  # cancelled while they were looked for
                state.cancel(tasks.counter, unwanted)
            self._under_way -= 1
            self._close_if_through(state)

        if self._keeper.notes_first:
            self._keeper.submitted(self._work.known, tasks.counter, start, keys, extend)
        else:
            extend(state)

    def _close(self, state: Any) -> None:
        self._through = True
        self._close_if_through(state)

    def _close_if_through(self, state: Any) -> None:
        if not self._through or self._under_way or not self._opened:
            return
        tasks = self.tasks
        state.extend(tasks.counter, 0, b"", last=True)
        with self._client.lock:
            tasks.close()
            if tasks.open_tasks <= 0:
                self._client.sinks.pop(tasks.counter, None)
