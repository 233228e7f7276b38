"""Connections to the scheduler that running tasks asked their worker for.

Each is a connection of its own, so that no task can touch the worker's. The worker shakes hands with its
secret, binds it to the task, and from then on passes bytes on; see `distcomp.relay`. They are bounded in
number, and end with their task, their slot process or the worker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from distcomp import transport
from distcomp.auth import ClientHandshake
from distcomp.config import parse_address
from distcomp.errors import ConnectError, UnreachableError
from distcomp.inside import RELAYED, UNREACHABLE
from distcomp.relay import RelayEnd
from distcomp.slot_process import refuse

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from distcomp.access import Access
    from distcomp.config import WorkerSettings
    from distcomp.protocol import Message
    from distcomp.worker_protocol import BindTask


class TaskLinks:
    """The relays of one worker.

    Args:
        settings: of the worker.
        access: how to reach the scheduler.
        log: takes facts as `log(level, text, **values)`.
    """

    def __init__(self, settings: WorkerSettings, access: Access, log: Callable[..., None]) -> None:
        self._settings = settings
        self._access = access
        self._log = log
        self._ends: set[RelayEnd] = set()
        self._dials: set[asyncio.Task[None]] = set()

    def open(self, binding: BindTask, channel: socket.socket) -> None:
        """Connect `channel`, which is ours now, to the scheduler on behalf of a task."""
        if len(self._ends) + len(self._dials) >= self._settings.max_task_connections:
            refuse(channel, UNREACHABLE, "the tasks of this worker have as many connections as they may")
            return
        dial = asyncio.ensure_future(self._open(binding, channel))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)

    def close(self) -> None:
        """End them all."""
        for dial in self._dials:
            dial.cancel()
        for end in list(self._ends):
            end.transport.abort()

    async def _open(self, binding: BindTask, channel: socket.socket) -> None:
        try:
            connection = await self._dial()
        except ConnectError as error:
            self._log("warning", "a task was not connected to the scheduler", why=str(error))
            refuse(channel, UNREACHABLE, str(error))
            return
        except BaseException:
            channel.close()
            raise
        connection.send([binding])
        far = RelayEnd()
        rest = connection.hand_over(far)
        near = RelayEnd(lambda: self._ends.discard(near))
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: near, sock=channel)
        except BaseException:
            channel.close()
            far.transport.abort()
            raise
        self._ends.add(near)
        near.transport.write(RELAYED + rest)
        near.join(far)

    async def _dial(self) -> transport.Connection:
        """A connection of this worker, for the task to speak on; raises the last address's error."""
        access = self._access

        def make() -> transport.Connection:
            return transport.Connection(
                ClientHandshake(access.role, access.owner, access.cluster_id or None, access.secret),
                on_messages=_drop,
                on_closed=_ignore,
                limits=self._settings.wire,
            )

        problem: ConnectError = UnreachableError("the worker knows no address of its scheduler")
        for text in access.addresses:
            try:
                return await transport.dial(
                    parse_address(text), make, timeout_s=self._settings.connect_timeout_s
                )
            except ConnectError as error:  # noqa: PERF203 - few rounds, each of which may fail
                problem = error
        raise problem


def _drop(connection: transport.Connection, messages: list[Message]) -> None:
    """Nothing that concerns the worker comes before the task speaks."""
    del messages
    connection.close("it spoke before the task did")


def _ignore(connection: transport.Connection, error: Exception | None) -> None:
    """The next one to use the connection finds it closed."""
    del connection, error
