"""One tunnel, with a fake scheduler at its far end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.config import WireLimits
from distcomp.gateway.problems import Problem
from distcomp.gateway.tokens import BearerToken
from distcomp.gateway.tunnels import PIECE_BYTES, Tunnel
from distcomp.gateway_settings import GatewaySettings
from distcomp.protocol import Heartbeat, codec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SETTINGS = GatewaySettings(
    wire=WireLimits(heartbeat_s=2.0, silence_s=10.0),
    tunnel_window_bytes=1 << 16,
    tunnel_idle_s=60.0,
    tunnel_keepalive_s=15.0,
)
BEAT = codec.frame([codec.pack(Heartbeat())])


class FarEnd:
    """A transport that keeps what is written, and like uvloop's takes nothing once it is closed."""

    def __init__(self) -> None:
        self.written = b""
        self.reads = True
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.closed:
            raise RuntimeError("the handler is closed")
        self.written += data

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def frame(size_bytes: int) -> bytes:
    return size_bytes.to_bytes(4, "big") + bytes(size_bytes)


def run(test: Callable[[Tunnel, FarEnd], Awaitable[None]]) -> None:
    async def within() -> None:
        far = FarEnd()
        token = BearerToken(id="t", name="t", scope="submit", owner="alice", created=0.0)
        tunnel = Tunnel(token, SETTINGS)
        tunnel.begin(far)
        await test(tunnel, far)

    asyncio.run(within())


def kind_of(call: Callable[[], Any]) -> str:
    with pytest.raises(Problem) as problem:
        call()
    return problem.value.kind


def test_the_scheduler_gets_whole_frames_once_however_they_come() -> None:
    async def test(tunnel: Tunnel, far: FarEnd) -> None:
        whole = frame(5) + frame(0) + frame(300)
        tunnel.take(0, whole[:7])
        assert far.written == b""
        tunnel.take(3, whole[3:12])
        assert far.written == frame(5)
        tunnel.take(0, whole[:10])
        tunnel.take(12, whole[12:])
        assert far.written == whole
        assert tunnel.received == len(whole)
        assert kind_of(lambda: tunnel.take(len(whole) + 1, b"x")) == "conflict"

    run(test)


def test_what_is_not_confirmed_is_given_again() -> None:
    async def test(tunnel: Tunnel, _: FarEnd) -> None:
        said = frame(1000) + frame(10)
        tunnel.data_received(said[:500])
        pieces = tunnel.pieces(0)
        assert await anext(pieces) == said[:500]
        tunnel.data_received(said[500:])
        assert await anext(pieces) == said[500:]
        tunnel.confirm(300)
        tunnel.check_offset(400)
        again = tunnel.pieces(400)
        assert await anext(again) == said[400:]
        assert [piece async for piece in pieces] == [], "the first reader was displaced"
        assert kind_of(lambda: tunnel.check_offset(399)) == "gone"
        assert kind_of(lambda: tunnel.check_offset(len(said) + 1)) == "conflict"

    run(test)


def test_a_full_window_stops_the_scheduler_until_the_client_confirms() -> None:
    async def test(tunnel: Tunnel, far: FarEnd) -> None:
        tunnel.data_received(frame(SETTINGS.tunnel_window_bytes - 5))
        assert far.reads
        tunnel.data_received(frame(0))
        assert not far.reads
        for beat in range(20):
            tunnel.beat(tunnel.left_at + beat)
        assert not tunnel.over, "a scheduler that is not read is not silent"
        tunnel.confirm(100)
        assert far.reads

    run(test)


def test_large_news_leaves_in_bounded_pieces() -> None:
    async def test(tunnel: Tunnel, _: FarEnd) -> None:
        for _ in range(3):
            tunnel.data_received(frame(PIECE_BYTES))
        pieces, total = tunnel.pieces(0), 0
        while total < 3 * (PIECE_BYTES + 4):
            piece = await anext(pieces)
            assert len(piece) <= PIECE_BYTES
            total += len(piece)

    run(test)


def test_a_tunnel_speaks_for_its_client_and_ends_when_that_stays_away() -> None:
    async def test(tunnel: Tunnel, far: FarEnd) -> None:
        now = tunnel.left_at
        with tunnel.visit():
            tunnel.data_received(BEAT)
            tunnel.beat(now + 100)
        assert not tunnel.over
        now = tunnel.left_at
        for second in range(2, 60, 2):
            tunnel.data_received(BEAT)
            tunnel.beat(now + second)
        assert far.written.count(BEAT) >= 28
        tunnel.take(0, frame(9)[:8])
        tunnel.beat(now + 60)
        assert not far.written.endswith(frame(9)[:8])
        tunnel.beat(now + 61)
        assert (far.closed, "away for 61 s" in tunnel.over) == (True, True)
        assert kind_of(lambda: tunnel.take(8, b"\0")) == "gone"

    run(test)


def test_something_comes_down_even_if_nothing_happens() -> None:
    async def test(tunnel: Tunnel, _: FarEnd) -> None:
        tunnel.beat(tunnel.left_at + 14)
        pieces = tunnel.pieces(0)
        tunnel.beat(tunnel.left_at + 16)
        assert await anext(pieces) == BEAT
        tunnel.data_received(frame(10)[:6])
        assert await anext(pieces) == frame(10)[:6]
        tunnel.beat(tunnel.left_at + 50)
        tunnel.data_received(frame(10)[6:])
        assert await anext(pieces) == frame(10)[6:], "nothing was put into a frame"

    run(test)


def test_a_silent_scheduler_is_given_up_at_the_second_look() -> None:
    async def test(tunnel: Tunnel, far: FarEnd) -> None:
        with tunnel.visit():
            for beat in range(20):
                tunnel.beat(tunnel.left_at + 2 * beat)
                if tunnel.over:
                    break
        assert (tunnel.over, far.closed) == ("the scheduler was silent", True)
        assert 5 <= beat <= 8

    run(test)


def test_a_scheduler_that_was_gone_before_its_tunnel_stood_is_gone() -> None:
    async def test(tunnel: Tunnel, far: FarEnd) -> None:
        far.close()
        tunnel.begin(far)
        assert tunnel.over == "the scheduler closed it"
        assert kind_of(lambda: tunnel.take(0, frame(5))) == "gone"

    run(test)


def test_a_scheduler_is_not_written_to_whose_end_is_not_told_yet() -> None:
    async def test(tunnel: Tunnel, far: FarEnd) -> None:
        now = asyncio.get_running_loop().time()
        far.close()
        tunnel.take(0, frame(5))
        tunnel.beat(now)
        tunnel.beat(now)
        assert far.written == b""
        tunnel.connection_lost(None)
        assert tunnel.over == "the scheduler closed it"

    run(test)


def test_the_last_words_of_a_scheduler_can_be_read() -> None:
    async def test(tunnel: Tunnel, _: FarEnd) -> None:
        tunnel.data_received(frame(3))
        tunnel.connection_lost(None)
        tunnel.check_offset(0)
        assert b"".join([piece async for piece in tunnel.pieces(0)]) == frame(3)
        assert kind_of(lambda: tunnel.check_offset(len(frame(3)))) == "gone"

    run(test)


def test_nonsense_of_either_side_ends_it() -> None:
    async def from_below(tunnel: Tunnel, far: FarEnd) -> None:
        assert kind_of(lambda: tunnel.take(0, b"\xff" * 8)) == "bad-request"
        assert far.closed

    async def from_above(tunnel: Tunnel, far: FarEnd) -> None:
        tunnel.data_received(b"\xff" * 8)
        assert (far.closed, "no frame" in tunnel.over) == (True, True)

    run(from_below)
    run(from_above)


def test_a_sender_waits_while_the_scheduler_takes_nothing() -> None:
    async def test(tunnel: Tunnel, _: FarEnd) -> None:
        await tunnel.room()
        tunnel.pause_writing()
        waiting = asyncio.ensure_future(tunnel.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        tunnel.resume_writing()
        await waiting
        tunnel.pause_writing()
        waiting = asyncio.ensure_future(tunnel.room())
        await asyncio.sleep(0)
        tunnel.close("stopped")
        await waiting

    run(test)
