"""`StoreDesk`: where single submits of a client with a store wait until they were looked for there."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from distcomp.core.client_effects import Failed
from distcomp.detour_feed import DetourFeed, KnownTasks
from distcomp.errors import DistcompError
from distcomp.future_groups import FutureGroup
from distcomp.futures import wake_all
from distcomp.payload import call_size_bytes, dump_failure, pack_calls
from distcomp.rows import Failure

if TYPE_CHECKING:
    from distcomp.bound_client import BoundClient
    from distcomp.futures import Future, Woken
    from distcomp.ids import FunctionId
    from distcomp.keeper import Keeper
    from distcomp.store import StoredFunction
    from distcomp.stream_source import StreamClient
    from distcomp.window import Window

    Named = tuple[FunctionId, str, bytes]

LOOK_S = 0.002
"""Time between two looks whether everything was looked for."""


class WaitingBatch:
    """Single submits of one function with the same options, which were not looked for yet."""

    __slots__ = ("calls", "group", "keys", "size_bytes", "work")

    def __init__(self, work: KnownTasks, group: FutureGroup) -> None:
        self.work = work
        self.group = group
        self.calls: list[Any] = []
        self.keys: list[bytes] = []
        self.size_bytes = 0


class StoreDesk:
    """One thread that looks for what was submitted, and hands in what is not there.

    Law, under the client's lock: a call that was added is in `_batches`, or is looked for, or was found or
    handed in. The window counts it until it has settled.

    Args:
        client: whose calls they are.
        window: counts them.
        keeper: the store.
    """

    def __init__(self, client: StreamClient, window: Window, keeper: Keeper) -> None:
        self._client = client
        self._window = window
        self._keeper = keeper
        self._batches: dict[tuple[BoundClient, FunctionId, int], WaitingBatch] = {}
        self._changed = threading.Event()
        self._closing = self._busy = False
        self._thread: threading.Thread | None = None

    def add(
        self, bound: BoundClient, function: Named, known: StoredFunction, call: Any, key: bytes
    ) -> Future[Any]:
        """Take in one call, with the client's lock held; `wake` has to follow."""
        named = (bound, function[0], id(known))
        batch = self._batches.get(named)
        if batch is None:
            group = FutureGroup(self._client)
            group.detours = []
            work = KnownTasks(function, bound.on_wire, known)
            batch = self._batches[named] = WaitingBatch(work, group)
        batch.calls.append(call)
        batch.keys.append(key)
        batch.size_bytes += call_size_bytes(call)
        return batch.group.add()

    def wake(self) -> None:
        """Have what was added looked for: now if the tasks run in this process, else by a thread."""
        if self._client.inline is not None:
            self._turn()
            return
        self._changed.set()
        if self._thread is None:
            with self._client.lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="distcomp-desk", daemon=True)
                    self._thread.start()

    def drain(self) -> None:
        """Wait until all that was added was looked for."""
        while self._batches or self._busy:
            time.sleep(LOOK_S)

    def cancel_all(self) -> None:
        """Let everything settle as cancelled that was not looked for yet."""
        with self._client.lock:
            batches, self._batches = list(self._batches.values()), {}
        for batch in batches:
            self._end(batch, Failure("cancelled", text="cancelled by its client"))

    def close(self) -> None:
        """End the thread; whatever still waits is cancelled."""
        self._closing = True
        self._changed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self.cancel_all()

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            self._changed.wait()
            self._changed.clear()
            self._turn()

    def _turn(self) -> None:
        while batches := self._take_batches():
            for batch in batches:
                self._see_to(batch)

    def _see_to(self, batch: WaitingBatch) -> None:
        try:
            self._keeper.wait_until_open()
            self._keeper.wait_for_room(lambda: self._closing)
            self._hand_in(batch)
        except DistcompError as error:
            self._end(batch, Failure("refused", text=str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the calls must not wait for ever
            self._end(batch, dump_failure(error))

    def _take_batches(self) -> list[WaitingBatch]:
        with self._client.lock:
            self._busy = bool(self._batches)  # first, as `drain` looks without the lock
            batches, self._batches = list(self._batches.values()), {}
        return batches

    def _hand_in(self, batch: WaitingBatch) -> None:
        group, lock = batch.group, self._client.lock
        with lock:
            group.open_tasks = len(batch.calls)
            places = [at for at, future in enumerate(group.futures) if future and future.is_open()]
        feed = DetourFeed(self._client, self._keeper, group, batch.work, grows=False)
        missing = [places[at] for at in feed.look_up(places, [batch.keys[at] for at in places])]
        parts = pack_calls([batch.calls[at] for at in missing]) if missing else []
        with lock:
            size_bytes = sum(len(part.blob) for part in parts)
            found = len(batch.calls) - len(missing), batch.size_bytes - size_bytes
            self._window.release(*found, singles=found)
        batch.calls.clear()  # what may still fail is no reason to release them twice
        batch.size_bytes = 0
        if missing:
            feed.tasks.keep_calls(batch.work.function[2], parts)
            feed.send(missing, [batch.keys[at] for at in missing], parts)
            feed.close()

    def _end(self, batch: WaitingBatch, failure: Failure) -> None:
        woken: list[Woken] = []
        with self._client.lock:
            batch.group.settle(Failed(0, 0, len(batch.group.futures), failure), woken)
            ended = len(batch.calls), batch.size_bytes
            self._window.release(*ended, singles=ended)
        wake_all(woken)
