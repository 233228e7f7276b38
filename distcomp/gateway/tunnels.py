"""Tunnels: how a Python client speaks with the scheduler over HTTP.

A tunnel is a TCP connection to the scheduler in the role client, for the owner of a token, whose bytes a
client sends by requests and receives by one long response. Both directions count their bytes from 0, so
that after a break nothing is lost and nothing doubled:

- up: a request says at which offset its bytes begin; what is known already is skipped, a gap is refused,
  and the answer says how many bytes have arrived. The scheduler gets whole frames only.
- down: what the client has not confirmed is kept, `tunnel_window_bytes` at most, and sent again from the
  offset that it asks for. When the window is full, nothing more is read from the scheduler.

While its client is away, for `tunnel_idle_s` at most, a tunnel gives signs of life in its place. A client is
back at once after most breaks, and by another tunnel after all others; so where a token has as many tunnels
as it may, those without a client make room.

State law: a tunnel is *open* from its making until `close`, the end of its connection, or its expiry; then
`over` says why, and it never opens again. At most one response carries it down: a new one ends the one
before.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

from distcomp import transport
from distcomp.errors import FrameTooLargeError
from distcomp.gateway.doors import dial
from distcomp.gateway.frame_edges import FrameEdges
from distcomp.gateway.problems import Problem, busy
from distcomp.protocol import Heartbeat, codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from distcomp.access import Access
    from distcomp.auth import ClientHandshake
    from distcomp.gateway.tokens import BearerToken
    from distcomp.gateway_settings import GatewaySettings
    from distcomp.protocol import Message

PIECE_BYTES = 256 << 10
"""At most so many bytes leave at once towards a client."""

_HEARTBEAT = codec.frame([codec.pack(Heartbeat())])
_SILENT_BEATS = 2


class Tunnel(asyncio.Protocol):
    """One tunnel; takes over the socket of a connection that is ready.

    Args:
        token: whose it is.
        settings: of the gateway.

    Attributes:
        id: names it in requests; nobody can guess it.
        over: why it is closed; empty while it is open.
        received: how many bytes have come from the client.
    """

    def __init__(self, token: BearerToken, settings: GatewaySettings) -> None:
        self.id = secrets.token_urlsafe(18)
        self.token = token
        self.over = ""
        self.received = 0
        self._settings = settings
        self._transport: Any = None
        self._up = FrameEdges()
        self._partial = b""
        self._down = FrameEdges()
        self._buffer = bytearray()
        self._base = 0
        self._reading = True
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._reader = 0
        self._visits = 0
        self._wrote = self._heard = True
        self._quiet_beats = 0
        self.left_at = self._told_at = asyncio.get_running_loop().time()

    # --- the scheduler's side ---

    def begin(self, transport: Any) -> None:
        """Take over a transport that stands, or has just ended, of which nothing more is said."""
        self._transport = transport
        if transport.is_closing():
            self._end("the scheduler closed it")

    def data_received(self, data: bytes) -> None:
        """Bytes came from the scheduler."""
        self._heard = True
        try:
            self._down.feed(data)
        except FrameTooLargeError as error:
            self.close(f"the scheduler sent what is no frame: {error}")
            return
        self._buffer += data
        self._news.set()
        self._watch_window()

    def connection_lost(self, error: Exception | None) -> None:
        """The scheduler is gone; what it sent can still be read."""
        self._end(f"the connection to the scheduler broke: {error}" if error else "the scheduler closed it")

    def pause_writing(self) -> None:
        """The scheduler takes no more for now."""
        self._room.clear()

    def resume_writing(self) -> None:
        """There is room again."""
        self._room.set()

    # --- the client's side ---

    def visit(self) -> Visit:
        """Note that the client is here for as long as the context lasts."""
        return Visit(self)

    def take(self, offset: int, data: bytes) -> None:
        """Pass on bytes that begin at an offset; those known already are skipped.

        Raises:
            Problem: there is a gap, what came is no frame, or the tunnel is over.
        """
        self._check_open()
        skip = self.received - offset
        if skip < 0:
            raise Problem(
                "conflict",
                f"bytes from {self.received} on are missing: send them first",
                offset=self.received,
            )
        fresh = data[skip:]
        if not fresh:
            return
        try:
            edge = self._up.feed(fresh)
        except FrameTooLargeError as error:
            self.close(str(error))
            raise Problem("bad-request", f"{error}; the tunnel is closed") from None
        self.received += len(fresh)
        if edge < 0:
            self._partial += fresh
            return
        self._wrote = True
        self._write(self._partial + fresh[:edge])
        self._partial = fresh[edge:]

    async def room(self) -> None:
        """Wait until the scheduler takes more."""
        if not self._room.is_set() and not self.over:
            await self._room.wait()

    def confirm(self, offset: int) -> None:
        """Let go of what the client has received; what lies before is never asked for again.

        Raises:
            Problem: so much was never sent.
        """
        if offset > self._base + len(self._buffer):
            raise Problem("conflict", f"only {self._base + len(self._buffer)} bytes were ever sent")
        if offset > self._base:
            del self._buffer[: offset - self._base]
            self._base = offset
            self._watch_window()

    async def pieces(self, offset: int) -> AsyncIterator[bytes]:
        """Give what comes from the scheduler, from `offset` on, until it ends or another reader comes."""
        self._reader += 1
        mine, clock = self._reader, asyncio.get_running_loop().time
        self._news.set()  # whoever read before wakes, and leaves
        while mine == self._reader:
            start = offset - self._base
            piece = bytes(self._buffer[start : start + PIECE_BYTES])
            if piece:
                offset += len(piece)
                self._told_at = clock()
                yield piece
            elif self.over:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def check_offset(self, offset: int) -> None:
        """Raise a `Problem` unless the tunnel can be read from `offset` on."""
        if offset < self._base:
            raise Problem(
                "gone", f"bytes before {self._base} were confirmed, and are gone; open another tunnel"
            )
        if self.over and offset >= self._base + len(self._buffer):
            self._check_open()
        self.confirm(offset)

    def close(self, reason: str) -> None:
        """End it in order: what was passed on still leaves."""
        self._end(reason)
        if self._transport is not None:
            self._transport.close()

    def is_left(self, now: float, for_s: float) -> bool:
        """Whether its client has been away for longer than `for_s`."""
        return not self._visits and now - self.left_at > for_s

    # --- within ---

    def beat(self, now: float) -> None:
        """Give the signs of life that are due, and end a tunnel without a client or without scheduler."""
        if self.over:
            return
        if self.is_left(now, self._settings.tunnel_idle_s):
            self.close(f"its client was away for {now - self.left_at:.0f} s")
            return
        if not self._wrote and self._room.is_set():
            self._write(_HEARTBEAT)
        self._wrote = False
        if now - self._told_at > self._settings.tunnel_keepalive_s and self._down.at_edge:
            self._buffer += _HEARTBEAT
            self._told_at = now
            self._news.set()
        self._listen()

    def _listen(self) -> None:
        """Give up a scheduler that has been silent; as in `transport`, one look is not enough."""
        beats = self._settings.wire.silence_s / self._settings.wire.heartbeat_s
        self._quiet_beats = 0 if self._heard or not self._reading else self._quiet_beats + 1
        self._heard = False
        if self._quiet_beats > max(_SILENT_BEATS, beats):
            self.close("the scheduler was silent")

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():  # else the word of its end is under way
            self._transport.write(data)

    def _end(self, reason: str) -> None:
        self.over = self.over or reason
        self._news.set()
        self._room.set()

    def _check_open(self) -> None:
        if self.over:
            raise Problem("gone", f"the tunnel is closed: {self.over}; open another one")

    def _watch_window(self) -> None:
        """Read from the scheduler only while the window has room."""
        wanted = len(self._buffer) < self._settings.tunnel_window_bytes
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            self._transport.resume_reading() if wanted else self._transport.pause_reading()

    def came(self) -> None:
        """A request of the client began."""
        self._visits += 1

    def left(self) -> None:
        """A request of the client ended."""
        self._visits -= 1
        self.left_at = asyncio.get_running_loop().time()


class Visit:
    """The time during which a request of a tunnel's client is under way."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def __enter__(self) -> None:
        self._tunnel.came()

    def __exit__(self, *_: object) -> None:
        self._tunnel.left()


class Tunnels:
    """Every open tunnel of a gateway.

    Args:
        settings: of the gateway.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._open: dict[str, Tunnel] = {}
        self._opening: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, token: BearerToken, access: Access) -> Tunnel:
        """Connect to the scheduler for a token's owner.

        Raises:
            Problem: the token has as many tunnels as it may.
            ConnectError: the scheduler cannot be reached, or refuses.
        """
        opening = self._opening.get(token.id, 0)
        held = [each for each in self._open.values() if each.token.id == token.id]
        if len(held) + opening >= self._settings.max_tunnels:
            self._make_room(held)
        self._opening[token.id] = opening + 1
        try:
            connection = await dial(access, self._settings, self._make)
        finally:
            self._opening[token.id] -= 1
            if not self._opening[token.id]:
                del self._opening[token.id]
        tunnel = Tunnel(token, self._settings)
        rest = connection.hand_over(tunnel)
        if rest:
            tunnel.data_received(rest)
        self._open[tunnel.id] = tunnel
        if self._timer is None:
            self._beat()
        return tunnel

    def find(self, number: str, token: BearerToken) -> Tunnel:
        """An open tunnel of a token, or one that has just ended; raises `Problem` if there is none."""
        tunnel = self._open.get(number)
        if tunnel is None or tunnel.token.id != token.id:
            raise Problem("not-found", "there is no such tunnel (any more): open another one")
        return tunnel

    def close(self, reason: str) -> None:
        """End all of them."""
        for tunnel in self._open.values():
            tunnel.close(reason)
        self._open.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self, held: Sequence[Tunnel]) -> None:
        """Drop a tunnel that is over, or else the one whose client has been away for longest.

        Raises:
            Problem: all of them are in use.
        """
        now = asyncio.get_running_loop().time()
        left = [each for each in held if each.over or each.is_left(now, self._settings.tunnel_yield_s)]
        if not left:
            raise busy(f"this token has {len(held)} tunnels, as many as it may: close one")
        chosen = min(left, key=lambda each: (not each.over, each.left_at))
        chosen.close("another one took its place")
        del self._open[chosen.id]

    def _make(self, handshake: ClientHandshake) -> transport.Connection:
        return transport.Connection(
            handshake, on_messages=_drop, on_closed=_ignore, limits=self._settings.wire
        )

    def _beat(self) -> None:
        """Look after every tunnel, as often as a sign of life is due."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for number, tunnel in list(self._open.items()):
            tunnel.beat(now)
            if tunnel.over and now - tunnel.left_at > self._settings.tunnel_idle_s:
                del self._open[number]
        self._timer = loop.call_later(self._settings.wire.heartbeat_s, self._beat) if self._open else None


def _drop(connection: transport.Connection, messages: list[Message]) -> None:
    """Nothing that concerns a client comes before it speaks."""
    del messages
    connection.close("it spoke before the client did")


def _ignore(connection: transport.Connection, error: Exception | None) -> None:
    """The tunnel that takes it over finds it closed."""
    del connection, error
