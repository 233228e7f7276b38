"""One connection: real frames and transfers over a stream of bytes that takes its time, stalls and breaks.

Bytes arrive in order and possibly cut anywhere. What may overtake what is decided by the real
`distcomp.transfers`. Signs of life are not sent; who would miss them is told when it would have.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from distcomp.config import WireLimits
from distcomp.ids import Peer
from distcomp.protocol import PiecesStored, Refused, SendPiece, codec
from distcomp.transfers import Incoming, Outgoing
from distcomp.wire import FrameSplitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from distcomp.protocol import Message
    from simulator.clock import Clock

LIMITS = WireLimits(credit_bytes=1 << 20)
PIECE_S = 0.002
"""How long the line is taken by a piece of a transfer; smaller messages leave in between."""

BROKEN_WITHIN_S = 0.05
"""Both ends notice a broken connection within this time, each at its own."""


LOST_UNREAD_CHANCE = 0.5
"""How often a broken connection takes with it what had arrived and was not read."""


class Program(Protocol):
    """Who is at an end of a connection."""

    name: str

    @property
    def frozen(self) -> bool: ...
    def run(self, action: Callable[..., None], *arguments: object) -> None: ...
    def on_messages(self, end: End, messages: list[Message]) -> None: ...
    def on_closed(self, end: End) -> None: ...


class Air:
    """What all connections of a world have in common: their weather, and who listens in."""

    def __init__(
        self, clock: Clock, rng: Random, *, delay_s: float, jitter_s: float, cut_chance: float
    ) -> None:
        self.clock, self.rng = clock, rng
        self.delay_s, self.jitter_s, self.cut_chance = delay_s, jitter_s, cut_chance
        self.tap: Callable[[End, Message], None] | None = None

    def draw_delay_s(self) -> float:
        return self.delay_s + self.rng.random() * self.jitter_s


class End:
    """One side of a connection, as its program sees it."""

    def __init__(self, air: Air, host: Program, *, serves: bool) -> None:
        self.air, self.host, self.serves = air, host, serves
        self.far = self
        self.peer = Peer(-1)
        self.open = True
        self.closed = False
        self.broken = False
        self.lost_at: float | None = None
        self.stalled_until = 0.0
        self._outgoing, self._incoming, self._splitter = Outgoing(LIMITS), Incoming(LIMITS), FrameSplitter()
        self._inbox: deque[bytes | None] = deque()
        self._arrives_at = 0.0
        self._pumping = False

    # --- what programs call ---

    def send(self, messages: Iterable[Message]) -> None:
        if not self.closed:
            self._write(b"".join(codec.frames(self._outgoing.pack(messages))))
            self._pump_soon()

    def close(self) -> None:
        """End the connection in order: what was written arrives first."""
        if not self.closed:
            self._write(None)
            self.closed = True
            self.air.clock.after(0, self.host.run, self._lose)

    def drop(self, *, sent: bool) -> None:
        """The process here is killed; says whether what it had written is still sent."""
        if sent:
            self._write(None)
        else:
            self.far.arrive(None)
        self.broken = True

    # --- the stream ---

    def _write(self, data: bytes | None) -> None:
        if self.closed or self.broken or data == b"":
            return
        air = self.air
        self._arrives_at = max(
            self._arrives_at, air.clock.now + air.draw_delay_s(), self.stalled_until, self.far.stalled_until
        )
        if data and air.cut_chance and air.rng.random() < air.cut_chance:
            cut = air.rng.randrange(len(data))
            air.clock.at(self._arrives_at, self.far.arrive, data[:cut])
            self._arrives_at += air.draw_delay_s()
            data = data[cut:]
        air.clock.at(self._arrives_at, self.far.arrive, data)

    def arrive(self, data: bytes | None) -> None:
        """Bytes are in the socket; None is the end of the stream."""
        if data is None and self.broken and self.air.rng.random() < LOST_UNREAD_CHANCE:
            self._inbox.clear()
        if self.open:
            self._inbox.append(data)
            self.host.run(self._drain)

    def _drain(self) -> None:
        messages: list[Message] = []
        while self._inbox:
            data = self._inbox.popleft()
            if data is None:
                self._hand_on(messages)
                self._lose()
                return
            if self.closed:
                continue
            for body in self._splitter.feed(data):
                came = codec.decode(body, self._incoming.claim)
                messages += [message for message in came if not self._is_own(message)]
        self._hand_on(messages)

    def _hand_on(self, messages: list[Message]) -> None:
        if messages and self.open:
            if self.air.tap is not None:
                for message in messages:
                    self.air.tap(self, message)
            self.host.on_messages(self, messages)

    def _lose(self) -> None:
        if self.open:
            self.open, self.closed = False, True
            self.lost_at = self.air.clock.now
            self._inbox.clear()
            self.host.on_closed(self)

    # --- transfers ---

    @property
    def is_transferring(self) -> bool:
        return self._outgoing.parked > 0

    def _is_own(self, message: Message) -> bool:
        if type(message) is SendPiece:
            self._incoming.store(message)
            stored = self._incoming.take_credit()
            if stored is not None:
                self.send([stored])
        elif type(message) is PiecesStored:
            self._outgoing.add_credit(message.size_bytes)
            self._pump_soon()
        else:
            return False
        return True

    def _pump_soon(self) -> None:
        if self._outgoing.parked and not self._pumping:
            self._pumping = True
            self.air.clock.after(PIECE_S, self.host.run, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if not self.closed and (frame := b"".join(self._outgoing.next_frames())):
            self._write(frame)
            self._pump_soon()

    # --- weather ---

    def reset(self) -> None:
        """The connection breaks: what is under way may be lost, and each side notices in its own time."""
        for end in (self, self.far):
            end.broken = True
            self.air.clock.after(self.air.rng.random() * BROKEN_WITHIN_S, end.arrive, None)

    def stall(self, seconds: float) -> None:
        """Nothing arrives for a while, and what was sent meanwhile arrives then."""
        self.stalled_until = self.air.clock.now + seconds
        for end in (self, self.far):
            end.miss(self.stalled_until)

    def miss(self, until: float) -> None:
        """Nothing is heard of the far side before `until`: that may be too long."""
        at = self.air.clock.now + LIMITS.silence_s + self.air.rng.random() * 2 * LIMITS.heartbeat_s
        if at < until:
            self.air.clock.at(at, self.host.run, self._give_up)

    def _give_up(self) -> None:
        if self.serves:
            self.send([Refused("silent", "silent")])
        self.close()


def connect(air: Air, near: Program, far: Program) -> tuple[End, End]:
    """The two ends of a new connection; `far` is the one that listens."""
    ends = End(air, near, serves=False), End(air, far, serves=True)
    ends[0].far, ends[1].far = ends[1], ends[0]
    return ends
