"""What the gateway sees of the cluster: a connection that watches, and who listens to it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from typing import TYPE_CHECKING, Any

from distcomp import transport
from distcomp.errors import ConfigError, ConnectError
from distcomp.gateway.doors import dial
from distcomp.ids import Peer
from distcomp.protocol import StatusReported, WatchStatus

if TYPE_CHECKING:
    from distcomp.auth import ClientHandshake
    from distcomp.gateway.doors import Doors
    from distcomp.gateway_settings import GatewaySettings
    from distcomp.ids import ArrayId, WorkerId
    from distcomp.protocol import Message
    from distcomp.rows import ArrayRow, WorkerRow
    from distcomp.transport import Connection

WATCH_S = 1.0
"""So often the scheduler reports what changed."""
BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.1, 2.0
LISTENER_EVENTS = 1000
"""Events that wait for a slow listener; then it is told that it missed some."""

_log = logging.getLogger("distcomp")


class ClusterView:
    """The latest picture of the cluster.

    Args:
        settings: of the gateway.
        doors: the ways to the scheduler.

    Attributes:
        report: the last report's numbers; None while there is no connection.
        workers: every worker.
        arrays: unfinished task arrays.
        problem: why there is no connection, in words.
    """

    def __init__(self, settings: GatewaySettings, doors: Doors) -> None:
        self.report: StatusReported | None = None
        self.workers: dict[WorkerId, WorkerRow] = {}
        self.arrays: dict[ArrayId, ArrayRow] = {}
        self.problem = "the gateway has not reached its scheduler yet"
        self._settings = settings
        self._doors = doors
        self._listeners: set[EventReader] = set()
        self._connection: Connection | None = None
        self._over: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._peers = itertools.count(1)

    def start(self) -> None:
        """Connect, and again whenever the connection is gone."""
        self._task = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        """Disconnect, and end every listener."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._connection is not None:
            self._connection.close("the gateway was stopped")
        for listener in list(self._listeners):
            listener.end()

    def listen(self) -> EventReader:
        """A new listener; to be left by `drop`."""
        listener = EventReader()
        self._listeners.add(listener)
        return listener

    @property
    def has_listeners(self) -> bool:
        """Whether anybody would be told."""
        return bool(self._listeners)

    def drop(self, listener: EventReader) -> None:
        """Tell a listener no more."""
        self._listeners.discard(listener)

    def tell(self, kind: str, owner: str, event: Any) -> None:
        """Tell listeners of something that concerns an owner; everybody, if that is empty."""
        for listener in self._listeners:
            listener.put(kind, owner, event)

    async def _watch(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            self._over = asyncio.get_running_loop().create_future()
            try:
                await dial(self._doors.observer(), self._settings, self._make)
                backoff_s = BACKOFF_FIRST_S
                await self._over
            except (ConnectError, ConfigError) as error:
                self.problem = str(error)
            self.report = None
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            backoff_s = min(2 * backoff_s, BACKOFF_MOST_S)

    def _make(self, handshake: ClientHandshake) -> Connection:
        return transport.Connection(
            handshake,
            on_ready=self._on_ready,
            on_messages=self._on_messages,
            on_closed=self._on_closed,
            limits=self._settings.wire,
        )

    def _on_ready(self, connection: Connection) -> None:
        connection.peer = Peer(next(self._peers))
        self._connection = connection
        self.workers, self.arrays = {}, {}
        connection.send([WatchStatus(WATCH_S)])

    def _on_messages(self, connection: Connection, messages: list[Message]) -> None:
        del connection
        for message in messages:
            if isinstance(message, StatusReported):
                self._take(message)
            else:
                _log.debug("an observer is not told this: %s", type(message).__name__)

    def _take(self, report: StatusReported) -> None:
        if report.whole:
            self.workers, self.arrays = {}, {}
        for worker in report.workers:
            self.workers[worker.worker] = worker
        for gone in report.workers_gone:
            self.workers.pop(gone, None)
        for array in report.arrays:
            self.arrays[array.array] = array
        for over in report.arrays_gone:
            self.arrays.pop(over, None)
        self.report = report
        if not report.more:
            self.tell("status", "", None)

    def _on_closed(self, connection: Connection, error: Exception | None) -> None:
        self.report, self._connection = None, None
        self.problem = str(error) if error else connection.reason or "the scheduler closed the connection"
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


class EventReader:
    """One reader of events: at most `LISTENER_EVENTS` wait for it."""

    def __init__(self) -> None:
        self._events: list[tuple[str, str, Any]] = []
        self._news = asyncio.Event()
        self.missed = 0
        self.over = False

    def put(self, kind: str, owner: str, event: Any) -> None:
        """Note an event, or that it is missed. A status that nobody has read yet counts for the next one."""
        if kind == "status" and any(each[0] == kind for each in self._events):
            return
        if len(self._events) < LISTENER_EVENTS:
            self._events.append((kind, owner, event))
        else:
            self.missed += 1
        self._news.set()

    def end(self) -> None:
        """Nothing follows."""
        self.over = True
        self._news.set()

    async def wait(self, timeout_s: float) -> list[tuple[str, str, Any]]:
        """The events since the last call; none if there were none for so many seconds."""
        try:
            await asyncio.wait_for(self._news.wait(), timeout_s)
        except asyncio.TimeoutError:
            return []
        self._news.clear()
        events, self._events = self._events, []
        return events
