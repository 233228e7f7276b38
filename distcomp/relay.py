"""Relays: how a client within a task speaks with the scheduler through its worker, which alone has a secret.

Likewise a gateway for its clients: what both have in common is that others have shaken hands before.

The worker connects to the scheduler, shakes hands with its own secret, binds the connection to the task, and
from then on passes bytes on in both directions without a look at them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from distcomp.errors import TaskOverError, UnreachableError
from distcomp.inside import RELAYED, TASK_OVER

if TYPE_CHECKING:
    from collections.abc import Callable


class RelayHandshake:
    """The client's side: the worker has shaken hands already, or says why not."""

    serves = False
    identity = None
    farewell = b""

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def greeting(self) -> bytes:
        """Nothing: the worker begins."""
        return b""

    def receive(self, data: bytes) -> bytes:
        """Take in the worker's first byte; raises `ConnectError`."""
        verdict, self.rest = data[:1], data[1:]
        if verdict == TASK_OVER:
            raise TaskOverError("the task that this client belongs to has ended")
        if verdict != RELAYED:
            raise UnreachableError(self.rest.decode("utf-8", "replace"))
        self.done = True
        return b""


class TunnelHandshake:
    """The client's side of the handshake: the gateway has done it, with a secret of its own.

    Attributes:
        owner: whose token it is.
        met_cluster_id: of the scheduler.
    """

    serves = False
    identity = None
    farewell = b""

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self.owner = ""
        self.met_cluster_id = bytes(16)

    def greeting(self) -> bytes:
        """Nothing: the gateway has said it."""
        return b""

    def receive(self, data: bytes) -> bytes:
        """It is over as soon as there is a tunnel."""
        self.done, self.rest = True, data
        return b""


class RelayEnd(asyncio.Protocol):
    """One of two ends: what comes here leaves there, no faster than it is taken.

    Args:
        on_closed: called when this end is closed.
    """

    def __init__(self, on_closed: Callable[[], None] | None = None) -> None:
        self.transport: Any = None
        self.other: RelayEnd | None = None
        self._on_closed = on_closed

    def begin(self, transport: Any) -> None:
        """Take over a transport that stands; nothing is read before `join`."""
        self.transport = transport
        transport.pause_reading()

    def join(self, other: RelayEnd) -> None:
        """Pass on what comes from now on."""
        self.other, other.other = other, self
        if self.transport.is_closing() or other.transport.is_closing():
            self.transport.close()
            other.transport.close()
            return
        self.transport.resume_reading()
        other.transport.resume_reading()

    def connection_made(self, transport: Any) -> None:
        """The socket is this end's."""
        self.begin(transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        assert self.other is not None  # noqa: S101 - nothing is read before
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        """This side takes no more for now."""
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """There is room again."""
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """This side is gone, and so is the relay, once the rest has left."""
        del error
        if self.other is not None:
            self.other.transport.close()
        if self._on_closed is not None:
            self._on_closed()
