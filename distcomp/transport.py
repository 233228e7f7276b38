"""Connections: messages in and out of one TCP socket, with their handshake, credit and signs of life.

State law of a `Connection`: it is made, then `ready` once its handshake is done, then `closed`; it
never goes back. Who asked for a connection that never became ready hears it from `on_failed`, or from
`dial`; the end of a ready one comes by `on_closed`, exactly once. After `closed` nothing is read and
nothing written.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

from distcomp.config import Address, WireLimits
from distcomp.errors import (
    ConnectError,
    DistcompError,
    ProtocolError,
    UnreachableError,
)
from distcomp.ids import Peer
from distcomp.ordering import PATIENT
from distcomp.protocol import Heartbeat, PiecesStored, Refused, SendPiece, codec
from distcomp.transfers import Incoming, Outgoing
from distcomp.wire import FrameSplitter

try:
    import uvloop as fastest
except ImportError:  # it is not there on every platform; asyncio's own loop does the same, slower
    import asyncio as fastest  # type: ignore[no-redef] # they share what is used of them

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from distcomp.protocol import Message

_HEARTBEAT = codec.frame([codec.pack(Heartbeat())])
_PAUSE_AT_BYTES = 512 << 10
"""More pieces wait while so much is unsent, so that a small message never has much before it."""


class Handshake(Protocol):
    """What `distcomp.auth` offers for both sides."""

    serves: bool
    done: bool
    rest: bytes
    farewell: bytes

    @property
    def identity(self) -> tuple[str, str] | None:
        """The peer's role and owner, once the side that listens knows them."""
        ...

    def greeting(self) -> bytes:
        """What to send first."""
        ...

    def receive(self, data: bytes) -> bytes:
        """Take in bytes, give back what is to be sent; raises `ConnectError`."""
        ...


class Relayed(Protocol):
    """What takes over the socket of a connection; an `asyncio.Protocol` besides."""

    def begin(self, transport: Any) -> None:
        """Take over a transport that stands."""


class Connection(asyncio.Protocol):
    """One peer, as messages.

    Args:
        handshake: a new one, of either side.
        on_messages: called with the connection and all messages that came whole in one read.
        on_closed: called once when a ready connection is over, with the error that ended it, or
            None if one side closed it in order.
        on_ready: called when the handshake is done.
        on_failed: called once, with the error, if the connection ends before it is ready.
        limits: its bounds.

    Example:
        `connection = await dial(address, lambda: Connection(handshake, on_messages=..., on_closed=...))`
    """

    def __init__(
        self,
        handshake: Handshake,
        *,
        on_messages: Callable[[Connection, list[Message]], None],
        on_closed: Callable[[Connection, Exception | None], None],
        on_ready: Callable[[Connection], None] | None = None,
        on_failed: Callable[[Connection, Exception], None] | None = None,
        limits: WireLimits | None = None,
    ) -> None:
        self.peer = Peer(-1)
        self.address = "?"
        self.reason = ""
        self.ready = False
        self.closed = False
        self.last_heard = 0.0
        self.opened: asyncio.Future[Connection] | None = None
        self.handshake = handshake
        self.limits = limits or WireLimits()
        self.on_messages, self.on_closed = on_messages, on_closed
        self.on_ready, self.on_failed = on_ready, on_failed
        self._outgoing = Outgoing(self.limits)
        self.incoming = Incoming(self.limits)
        self._splitter = FrameSplitter()
        self._error: Exception | None = None
        self._transport: Any = None
        self._lost = False
        self._patient: list[Message] = []
        self._patient_since = 0.0
        self._company_comes = False
        self._paused = False
        self._wrote = False
        self._heard = False
        self._quiet_beats = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- what programs call ---

    def send(self, messages: Iterable[Message]) -> None:
        """Send messages with one write; dropped if the connection is over, as the next one resends.

        A message with large blobs leaves in pieces, and others overtake it. What nobody waits for leaves
        with the next others, or after `patience_s`: a write and the peer's waking cost more than all else
        in a round trip. See `ORDER_KEYS` and `PATIENT` in `distcomp.ordering`.
        """
        if self.closed or not self.ready:
            return
        if not self._patient:
            self._patient_since = self._loop.time()
        self._patient += messages
        if not PATIENT.issuperset(map(type, self._patient)):
            self._send_now()
        elif self._patient and not self._company_comes:
            self._company_comes = True
            self._loop.call_later(self.limits.patience_s, self._send_patient)

    def _send_patient(self) -> None:
        """Send what nobody waits for, or let it wait on if others left in between and it came after them."""
        self._company_comes = False
        if not self._patient or self.closed:
            return
        left_s = self._patient_since + self.limits.patience_s - self._loop.time()
        if left_s <= ALARM_STEP_S:
            self._send_now()
            return
        self._company_comes = True
        self._loop.call_later(left_s, self._send_patient)

    def _send_now(self) -> None:
        messages, self._patient = self._patient, []
        frame = None if self._outgoing.parked else codec.small_frame(messages)
        if frame is not None:
            self._write(frame)
            return
        try:
            frames = codec.frames(self._outgoing.pack(messages))
        except ProtocolError as error:
            self._break(error)
            return
        self._write(b"".join(frames))
        if self._outgoing.parked:
            self._pump()

    def give_credit(self) -> None:
        """Let the peer send more pieces, as far as the last ones are `incoming` and it is not withheld."""
        stored = self.incoming.take_credit()
        if stored is not None:
            self.send([stored])

    def close(self, reason: str = "") -> None:
        """End the connection in order: what was written leaves first, within `linger_s`."""
        if self.closed:
            return
        if self._patient:
            self._send_now()
        self.closed = True
        self.reason = reason
        if self._transport is not None:
            self._set_timer(self.limits.linger_s, self._transport.abort)
            self._transport.close()

    def abort(self, reason: str = "") -> None:
        """End the connection at once; what was written may be lost."""
        self.closed = True
        self.reason = self.reason or reason
        if self._transport is not None and not self._lost:
            self._transport.abort()

    def let_go(self) -> None:
        """Close this process's copy of the socket, in a forked child whose parent goes on with it."""
        self.closed = True
        for each in self._transport.get_extra_info("sockets") or [self._transport.get_extra_info("socket")]:
            os.close(each.fileno())

    def hand_over(self, protocol: Relayed) -> bytes:
        """Leave a ready connection's socket to another protocol; gives the bytes that came and were not read.

        Nothing is called back any more.
        """
        self._send_patient()
        self.closed = True
        self._set_timer(0, None)
        protocol.begin(self._transport)
        if not self._transport.is_closing():
            self._transport.set_protocol(protocol)
        return self._splitter.rest()

    # --- what the event loop calls ---

    def connection_made(self, transport: Any) -> None:
        """The socket is connected: begin the handshake."""
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        if self.closed:  # while it was on its way here
            transport.abort()
            return
        self.address = _name_of(transport.get_extra_info("peername"))
        self.last_heard = self._loop.time()
        transport.set_write_buffer_limits(high=_PAUSE_AT_BYTES)
        _tune(transport.get_extra_info("socket"), self.limits.silence_s)
        self._set_timer(self.limits.handshake_s, self._give_up_handshake)
        self._write(self.handshake.greeting())

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self.closed:
            return
        self.last_heard = self._loop.time()
        self._heard = True
        try:
            if not self.ready:
                data = self._shake_hands(data)
                if not data or self.closed:
                    return
            messages = self._decoded(data)
        except DistcompError as error:
            self._break(error)
            return
        if messages:
            self.on_messages(self, messages)

    def pause_writing(self) -> None:
        """Enough is unsent: no more pieces for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._paused = False
        if not self.closed:
            self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        self.closed = self._lost = True
        self._set_timer(0, None)
        if error is not None and self._error is None:
            told = isinstance(error, ConnectError)
            self._error = (
                error if told else UnreachableError(f"the connection to {self.address} broke: {error}")
            )
        self.reason = self.reason or str(self._error or "the peer closed the connection")
        if self.ready:
            self.on_closed(self, self._error)
            return
        failed = self._error or UnreachableError(f"{self.address} closed the connection during the handshake")
        if self.opened is not None and not self.opened.done():
            self.opened.set_exception(failed)
        if self.on_failed is not None:
            self.on_failed(self, failed)

    # --- within ---

    def _shake_hands(self, data: bytes) -> bytes:
        """Go on with the handshake; what came after its end."""
        self._write(self.handshake.receive(data))
        if not self.handshake.done:
            return b""
        self.ready = True
        self._set_timer(self.limits.heartbeat_s, self._beat)
        if self.opened is not None and not self.opened.done():
            self.opened.set_result(self)
        if self.on_ready is not None:
            self.on_ready(self)
        return self.handshake.rest

    def _give_up_handshake(self) -> None:
        text = f"{self.address} did not finish the handshake in time; another program may listen there"
        self._break(UnreachableError(text))

    def _decoded(self, data: bytes) -> list[Message]:
        """The messages that are now whole, without those that are the transport's own."""
        messages: list[Message] = []
        for body in self._splitter.feed(data):
            came = codec.decode(body, self.incoming.claim)
            if not _OWN.isdisjoint(map(type, came)):
                came = [message for message in came if not self._is_own(message)]
            messages += came
        return messages

    def _is_own(self, message: Message) -> bool:
        """Whether a message is the transport's; then it is done with."""
        if type(message) is SendPiece:
            self.incoming.store(message)
            self.give_credit()
        elif type(message) is PiecesStored:
            self._outgoing.add_credit(message.size_bytes)
            self._pump()
        return type(message) in _OWN

    def _pump(self) -> None:
        """Write pieces while there are some, credit for them, and room."""
        while not self._paused and not self.closed:
            parts = self._outgoing.next_frames()
            if not parts:
                break
            for part in parts:
                self._write(part)
        if self._outgoing.parked > self.limits.max_parked_messages:
            self._break(UnreachableError(f"{self.address} takes no payloads in"))

    def _write(self, data: bytes | memoryview) -> None:
        if not data or self._transport.is_closing():
            return
        self._wrote = True
        self._transport.write(data)
        if self._paused and self._transport.get_write_buffer_size() > self.limits.max_write_buffer_bytes:
            self._error = UnreachableError(f"{self.address} does not read what it is sent")
            self.abort(str(self._error))

    def _break(self, error: Exception) -> None:
        """End the connection for `error`, telling the peer why where that is ours to do."""
        if self._error is None:
            self._error = error
        if self.ready and self.handshake.serves:
            code = "malformed" if isinstance(error, ProtocolError) else "silent"
            self._write(codec.frame([codec.pack(Refused(code, str(error)[:1000]))]))
        elif not self.ready:
            self._write(self.handshake.farewell)
        self.close(str(error))

    def _beat(self) -> None:
        """Send a sign of life if nothing else was sent; give up a peer that gave none.

        A beat that comes late, because this process was stopped or the host asleep, finds an old
        `last_heard` although bytes may wait in the socket: only a second silent beat counts, and it comes
        no sooner than usual, as the peer may have been held up by the same and needs a moment, too.
        """
        now = self._loop.time()
        self._quiet_beats = 0 if self._heard else self._quiet_beats + 1
        self._heard = False
        silent_s = now - self.last_heard
        if silent_s >= self.limits.silence_s and self._quiet_beats > 1:
            self._break(UnreachableError(f"{self.address} has been silent for {silent_s:.0f} s"))
            return
        if not self._wrote:
            self._write(_HEARTBEAT)
        self._wrote = False
        left_s = self.limits.silence_s - silent_s
        beat_s = self.limits.heartbeat_s
        self._set_timer(min(beat_s, max(left_s, ALARM_STEP_S)) if left_s > 0 else beat_s, self._beat)

    def _set_timer(self, delay_s: float, action: Callable[[], None] | None) -> None:
        """A connection waits for one thing at a time: its handshake, its next beat, its end."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if action is None else self._loop.call_later(delay_s, action)


ALARM_STEP_S = 0.001
"""An alarm rings no sooner: a time that has just passed must not keep the loop spinning."""

_OWN = frozenset({Heartbeat, SendPiece, PiecesStored})
"""Messages of the transport, which programs never see."""


# --- connecting ---------------------------------------------------------------------------------------


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop where there is one. The event loop policy is left alone."""
    loop: asyncio.AbstractEventLoop = fastest.new_event_loop()
    return loop


class Alarm:
    """Calls `action` at a time that moves.

    A call that is due too early is left to come, as it does no harm and making timers is dear; so each turn
    of a program may set its alarm anew.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, at: float | None, now: float) -> None:
        """Call at the time `at`, which is `at - now` seconds away, at the latest; not at all for None."""
        if at is None or (self._timer is not None and self._at <= at):
            return
        self.cancel()
        self._at = at
        self._timer = asyncio.get_running_loop().call_later(max(ALARM_STEP_S, at - now), self._ring)

    def cancel(self) -> None:
        """Call no more, unless it is set again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._action()


async def dial(address: Address, make: Callable[[], Connection], *, timeout_s: float) -> Connection:
    """Connect and shake hands.

    Args:
        address: where to.
        make: makes the connection, with a new handshake.
        timeout_s: for all of it.

    Returns:
        A connection that is ready; it may have delivered messages already.

    Raises:
        UnreachableError: nobody answered in time.
        ConnectError: what answered is not what was wanted; see `errors`.
    """
    loop = asyncio.get_running_loop()
    opening = _open(lambda made: loop.create_connection(made, address.host, address.port), make)
    try:
        return await _within(timeout_s, opening, f"{address} did not answer")
    except DistcompError:
        raise
    except socket.gaierror as error:
        raise UnreachableError(f"{address}: the name is unknown here ({error.strerror})") from None
    except OSError as error:
        raise UnreachableError(f"{address} cannot be reached: {error.strerror or error}") from None


async def take_up(sock: socket.socket, make: Callable[[], Connection], *, timeout_s: float) -> Connection:
    """Shake hands over a local socket that is connected already, and is the connection's from now on.

    Raises:
        UnreachableError: nobody answered in time.
        ConnectError: what answered is not what was wanted; see `errors`.
    """
    loop = asyncio.get_running_loop()
    opening = _open(lambda made: loop.create_unix_connection(made, sock=sock), make)
    return await _within(timeout_s, opening, "the worker did not connect this task")


async def _within(timeout_s: float, opening: Coroutine[Any, Any, Connection], late: str) -> Connection:
    """A connection that opens in time; `asyncio.wait_for` may pass over that it is cancelled."""
    task = asyncio.ensure_future(opening)
    try:
        await asyncio.wait([task], timeout=timeout_s)
        if not task.done():
            raise UnreachableError(f"{late} within {timeout_s:g} s")  # noqa: TRY301 - as if given up from without
        return task.result()
    except BaseException:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            task.result().abort("given up")
        raise


async def _open(
    connect: Callable[[Callable[[], Connection]], Awaitable[Any]], make: Callable[[], Connection]
) -> Connection:
    opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def made() -> Connection:
        connection = make()
        connection.opened = opened
        return connection

    try:
        _, connection = await connect(made)
        try:
            return await opened
        except BaseException:
            connection.abort("given up")
            raise
    finally:
        opened.cancel()


def _tune(sock: socket.socket | None, silence_s: float) -> None:
    """Small messages leave at once, and a peer that vanished is noticed by the kernel, too."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    silence = max(1, int(silence_s))
    timed = {"TCP_KEEPIDLE": silence, "TCP_USER_TIMEOUT": silence * 1000}
    for name, value in {**timed, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}.items():
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _name_of(peername: Any) -> str:
    return str(Address(*peername[:2])) if isinstance(peername, tuple) else "a local peer"
