"""The HTTP server around a gateway: uvicorn, with bounds that it does not have by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from distcomp.gateway.app import Gateway
    from distcomp.gateway_settings import GatewaySettings

GRACE_S = 2.0
"""What answers under way get when the server stops."""
SPARE_FILES = 256
"""Beside those of connections, of which each may have one to the scheduler, too."""
VANISHED_MS = 30_000
"""A client that confirms nothing for so long has vanished."""

_HEAD = b"HTTP/1.1 "

_log = logging.getLogger("distcomp")


class Joining:
    """A transport that sends the head of an answer together with what follows, if that follows at once.

    uvicorn writes them one by one, and each write costs a packet and wakes the client.

    Args:
        transport: the socket's.
        loop: of it.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them for a turn of the loop if they look like a head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._send_head)
            return
        self._transport.write(data)

    def close(self) -> None:
        """End in order."""
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)


class Bounded(HttpToolsProtocol):
    """One connection: a request's head has to come whole within a time and a size.

    So has what is left of a body that was answered before it was there; nobody reads it any more.
    """

    bounds: GatewaySettings

    def connection_made(self, transport: Any) -> None:
        """Somebody connected."""
        super().connection_made(cast("asyncio.Transport", Joining(transport, self.loop)))
        _tune(transport.get_extra_info("socket"))
        self._head_bytes = 0
        self._waits = True
        self._timer: asyncio.TimerHandle | None = None
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._waits:
            self._head_bytes += len(data)
            self._set_timer()
        super().data_received(data)
        if self._waits and self._head_bytes > self.bounds.max_head_bytes:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header came; what stands behind a body in chunks is none, and is not kept."""
        if self._waits:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is here."""
        self._waits = False
        self._head_bytes = 0
        self._forget_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is here; another request may follow."""
        super().on_message_complete()
        self._waits = True
        self._forget_timer()

    def on_response_complete(self) -> None:
        """An answer has left."""
        super().on_response_complete()
        if not self._waits and self.cycle.response_complete:  # else it is the next request's body that comes
            self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._forget_timer()
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """An Upgrade that is passed over is nothing to log: uvicorn would advise to install websockets."""

    def _set_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.bounds.head_s, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        self.transport.abort()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """A server whose signals are its program's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class Serving:
    """A gateway that is served.

    Args:
        gateway: what answers.
        settings: of the gateway.
        sockets: bound, and the server's from now on.
    """

    def __init__(self, gateway: Gateway, settings: GatewaySettings, sockets: Sequence[socket.socket]) -> None:
        self._gateway = gateway
        self._sockets = list(sockets)
        for each in self._sockets:
            each.setblocking(False)
        config = uvicorn.Config(
            gateway,
            http=type("BoundedAsSet", (Bounded,), {"bounds": settings}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=settings.max_http_connections,
            timeout_keep_alive=max(1, round(settings.idle_connection_s)),
            timeout_graceful_shutdown=round(GRACE_S),
            ssl_certfile=settings.tls_certificate or None,
            ssl_keyfile=settings.tls_key or None,
        )
        self._server = Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._server.server_state.connections)

    async def start(self) -> None:
        """Serve."""
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        await self._gateway.start()
        self._task = asyncio.ensure_future(self._server.serve(sockets=self._sockets))

    async def wait_ended(self) -> None:
        """Wait until nothing is served any more."""
        if self._task is not None:
            await self._task

    async def stop(self) -> None:
        """Take nothing more in, end what lasts, let the rest be answered."""
        self._server.should_exit = True
        await self._gateway.stop()
        await self.wait_ended()
        for each in self._sockets:
            each.close()


def allow_files(wanted: int) -> int:
    """Have this process allowed to open so many files, as far as it can be; gives how many it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def _tune(sock: socket.socket | None) -> None:
    """Small pieces leave at once, and a client that vanished is noticed."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_MS)
