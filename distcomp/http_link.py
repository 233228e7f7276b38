"""Links: the bytes of one connection with the scheduler, carried over HTTP by the tunnel of a gateway.

A link is the transport of a `transport.Connection`, which therefore works over HTTP as it does over TCP. What
is written goes up in requests, one at a time, each with what has gathered since the one before; what the
scheduler says comes down in one response that lasts. Both directions count their bytes from 0, so that after
a break each goes on where it was: see `distcomp.gateway.tunnels`.

State law: a link is *open* until it is closed, aborted, or learns that its tunnel is gone; its protocol is
then told by `connection_lost`, once, after everything that the link had open is closed. What was written
before it is closed in order still leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

from distcomp.errors import (
    ConnectError,
    ForeignProtocolError,
    SchedulerBusyError,
    UnreachableError,
    VersionMismatchError,
)
from distcomp.http_answers import error_of, fields_of, said_by
from distcomp.protocol import PROTOCOL

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from distcomp.config import ClientSettings
    from distcomp.http_roads import Road
    from distcomp.http_wires import HttpWire

PATH = "/v1/tunnel"
LEAST_BODY_BYTES = 16 << 10
"""A proxy that takes no request of this size is of no use."""

_OK, _CREATED, _CONFLICT, _TOO_LARGE = 200, 201, 409, 413
_PATIENCE = 3
"""Nothing has gone up for so many times `silence_s`: what hears the scheduler cannot speak to it."""


class Carried(Protocol):
    """What a link carries: an `asyncio.Protocol` with a handshake."""

    handshake: Any
    address: str

    def connection_made(self, transport: Any) -> None:
        """The link stands."""

    def data_received(self, data: bytes) -> None:
        """Bytes came."""

    def pause_writing(self) -> None:
        """Enough is unsent."""

    def resume_writing(self) -> None:
        """There is room again."""

    def connection_lost(self, error: Exception | None) -> None:
        """The link is gone."""


async def dial(road: Road, make: Callable[[], Carried], settings: ClientSettings) -> None:
    """Open a tunnel, and have it carry what `make` makes, whose handshake is a `relay.TunnelHandshake`.

    Raises:
        UnreachableError: nobody answered in time, or the gateway has no scheduler.
        AuthenticationError: the token is not taken.
        ConnectError: what answered is not what was wanted; see `errors`.
    """
    wire = await road.open(settings.connect_timeout_s)
    try:
        opened = await _open_tunnel(wire, road, settings.connect_timeout_s)
    except BaseException:
        wire.abort()
        raise
    carried = make()
    carried.handshake.owner, carried.handshake.met_cluster_id = opened.owner, opened.cluster_id
    link = HttpLink(road, opened, carried, settings)
    carried.connection_made(link)
    carried.address = str(road)
    link.start(wire)
    carried.data_received(b"")


class _Opened(NamedTuple):
    """What a gateway says of a new tunnel."""

    tunnel: str
    owner: str
    cluster_id: bytes
    window_bytes: int


async def _open_tunnel(wire: HttpWire, road: Road, timeout_s: float) -> _Opened:
    body = json.dumps({"protocol": PROTOCOL}).encode()
    head, answer = await wire.ask(road.request("POST", PATH, body, "application/json"), timeout_s)
    if head.status == _CONFLICT:
        raise VersionMismatchError(f"{road}: {said_by(head, answer)}")
    if head.status != _CREATED:
        raise error_of(head, answer, road)
    said = fields_of(answer)
    try:
        tunnel, owner, cluster_id = map(str, (said["tunnel"], said["owner"], said["cluster_id"]))
        return _Opened(quote(tunnel, safe=""), owner, bytes.fromhex(cluster_id), int(said["window_bytes"]))
    except (KeyError, TypeError, ValueError):
        raise ForeignProtocolError(f"what answers at {road} is no gateway: {answer[:80]!r}") from None


class HttpLink:
    """One link; in the manner of an `asyncio.Transport`, as far as connections use it.

    Args:
        road: to the gateway.
        opened: what the gateway says of the tunnel.
        carried: what is told of what comes.
        settings: of the client.
    """

    def __init__(self, road: Road, opened: _Opened, carried: Carried, settings: ClientSettings) -> None:
        self._road = road
        self._path = f"{PATH}/{opened.tunnel}"
        self._confirm_bytes = opened.window_bytes // 4
        self._carried = carried
        self._settings = settings
        self._body_bytes = settings.http_body_bytes
        self._high_bytes = 64 << 10
        self._unsent = bytearray()
        self._sent = self._seen = self._confirmed = 0
        self._is_paused = self._is_closing = self._has_left_off = False
        self._wake = asyncio.Event()
        self._wires: dict[str, HttpWire] = {}
        self._loop = asyncio.get_running_loop()
        self._rose_at = self._loop.time()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, wire: HttpWire) -> None:
        """Carry; `wire` is the one by which the tunnel was opened."""
        self._wires["up"] = wire
        self._tasks = [self._loop.create_task(work) for work in (self._rise(), self._fall())]
        self._living = self._loop.create_task(self._live())

    # --- what connections call ---

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        self._unsent += data
        self._wake.set()
        if not self._is_paused and len(self._unsent) > self._high_bytes:
            self._is_paused = True
            self._carried.pause_writing()

    def is_closing(self) -> bool:
        """Whether nothing more is to be written."""
        return self._is_closing

    def close(self) -> None:
        """End in order: what was written leaves first, and the tunnel is closed."""
        self._is_closing = True
        self._wake.set()

    def abort(self) -> None:
        """End at once."""
        self._is_closing = True
        self._leave_off()

    def set_write_buffer_limits(self, high: int) -> None:
        """With more than `high` bytes unsent, no more should be written for now."""
        self._high_bytes = high

    def get_write_buffer_size(self) -> int:
        """How many bytes are unsent."""
        return len(self._unsent)

    def get_extra_info(self, name: str) -> Any:
        """The open `sockets`; nothing else is known."""
        found: list[socket.socket | None] = [wire.socket for wire in self._wires.values()]
        return [each for each in found if each is not None] if name == "sockets" else None

    # --- within ---

    async def _live(self) -> None:
        """Carry in both directions until one of them ends, then end the other, and say so."""
        error: BaseException | None = None
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._leave_off()
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled():
                error = task.exception() or error
        self._is_closing = True
        for wire in self._wires.values():
            wire.abort()
        await asyncio.sleep(0)  # in which the wires end
        if error is not None and not isinstance(error, ConnectError):
            self._loop.call_exception_handler({"message": "a link failed", "exception": error})
        self._carried.connection_lost(error if isinstance(error, Exception) else None)

    def _leave_off(self) -> None:
        """Cancel what carries; once, as a second time would hinder it from closing what it has open."""
        if not self._has_left_off:
            self._has_left_off = True
            for task in self._tasks:
                task.cancel()

    async def _rise(self) -> None:
        """Send what is written, and confirm what has come, until the link is closed in order."""
        pause_s = self._settings.backoff_first_s
        while not self._is_closing or self._unsent:
            if not self._unsent and not self._owes():
                self._wake.clear()
                await self._wake.wait()
                self._rose_at = self._loop.time()
                continue
            try:
                await self._send()
            except (UnreachableError, SchedulerBusyError) as error:
                silent_s = self._loop.time() - self._rose_at
                if silent_s > _PATIENCE * self._settings.wire.silence_s:
                    raise UnreachableError(f"for {silent_s:.0f} s nothing could be sent: {error}") from None
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._settings.backoff_most_s)
            else:
                pause_s = self._settings.backoff_first_s
        with contextlib.suppress(ConnectError):  # the gateway notices by itself, only later
            wire = await self._idle_wire("up")
            await wire.ask(self._road.request("DELETE", self._path), self._settings.wire.linger_s)

    async def _send(self) -> None:
        """Make one request up."""
        wire = await self._idle_wire("up")
        body = bytes(memoryview(self._unsent)[: self._body_bytes])
        seen = self._seen
        request = self._road.request("POST", f"{self._path}/up?offset={self._sent}&seen={seen}", body)
        head, answer = await wire.ask(request, self._settings.wire.silence_s)
        if head.status == _TOO_LARGE and len(body) > LEAST_BODY_BYTES:
            self._body_bytes = max(LEAST_BODY_BYTES, len(body) // 2)
            return
        if head.status != _OK:
            raise error_of(head, answer, self._road)
        arrived = fields_of(answer).get("offset")
        if type(arrived) is not int or not self._sent <= arrived <= self._sent + len(self._unsent):
            raise ForeignProtocolError(f"what answers at {self._road} has lost count: {answer[:80]!r}")
        self._confirmed = seen
        self._rose_at = self._loop.time()
        del self._unsent[: arrived - self._sent]
        self._sent = arrived
        if self._is_paused and len(self._unsent) <= self._high_bytes // 2:
            self._is_paused = False
            self._carried.resume_writing()

    def _owes(self) -> bool:
        """Whether so much has come that the gateway should hear of it."""
        return self._seen - self._confirmed > self._confirm_bytes

    async def _fall(self) -> None:
        """Take in what comes down; whenever that breaks off, ask for the rest."""
        pause_s = 0.0
        while True:
            before = self._seen
            try:
                await self._receive()
            except (UnreachableError, SchedulerBusyError):
                if self._seen != before:
                    pause_s = 0.0
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s or self._settings.backoff_first_s, self._settings.backoff_most_s)

    async def _receive(self) -> None:
        """Take in one response down, to its end."""
        wire = await self._idle_wire("down")
        timer = self._loop.call_later(self._settings.wire.silence_s, wire.abort)
        try:
            head = await wire.begin(self._road.request("GET", f"{self._path}/down?offset={self._seen}"))
        finally:
            timer.cancel()
        if head.status != _OK:
            raise error_of(head, await wire.read(), self._road)
        self._confirmed = self._seen
        while data := await wire.read():
            self._seen += len(data)
            self._carried.data_received(data)
            if self._owes():
                self._wake.set()

    async def _idle_wire(self, name: str) -> HttpWire:
        """The wire of a direction, connected anew if that is needed."""
        wire = self._wires.get(name)
        if wire is not None and wire.is_idle:
            return wire
        if wire is not None:
            wire.abort()
        wire = self._wires[name] = await self._road.open(self._settings.wire.silence_s)
        return wire
