from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from distcomp import listening, protocol, transport
from distcomp.auth import ClientHandshake, ServerHandshake
from distcomp.config import Address, WireLimits
from distcomp.errors import (
    AuthenticationError,
    ForeignProtocolError,
    SchedulerBusyError,
    UnreachableError,
    VersionMismatchError,
    WrongClusterError,
)
from distcomp.ids import ClusterId
from distcomp.protocol import ExplainWait, Heartbeat, PiecesStored, Refused, Submit, codec
from distcomp.rows import TaskOptions
from distcomp.transport import Connection
from distcomp.worker_protocol import AckSettles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from distcomp.protocol import Message

CLUSTER = ClusterId(b"c" * 16)
SECRET = b"s" * 32
LIMITS = WireLimits(heartbeat_s=60.0, silence_s=600.0, handshake_s=60.0, linger_s=60.0)
"""However long the machine is held up, no time of these runs out."""

BEATING = replace(LIMITS, heartbeat_s=0.01)
DEADLINE_S = 60.0


@pytest.fixture(params=["fastest", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    make = transport.new_event_loop if request.param == "fastest" else asyncio.new_event_loop

    def to_its_end(coroutine: Coroutine[Any, Any, None]) -> None:
        loop = make()
        troubles: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: troubles.append(context))
        try:
            loop.run_until_complete(asyncio.wait_for(coroutine, 2 * DEADLINE_S))
        finally:
            loop.close()
        assert troubles == []

    return to_its_end


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.001)


class Side:
    """What one side's callbacks were told."""

    def __init__(self, limits: WireLimits, handshake: Callable[[], Any]) -> None:
        self.limits, self.handshake = limits, handshake
        self.connections: list[Connection] = []
        self.ready: list[Connection] = []
        self.messages: list[Message] = []
        self.ends: list[Exception | None] = []
        self.failures: list[Exception] = []

    def make(self) -> Connection:
        connection = Connection(
            self.handshake(),
            on_messages=lambda _, messages: self.messages.extend(messages),
            on_closed=lambda _, error: self.ends.append(error),
            on_ready=self.ready.append,
            on_failed=lambda _, error: self.failures.append(error),
            limits=self.limits,
        )
        self.connections.append(connection)
        return connection


class Pair:
    """A server, and clients that dial it."""

    def __init__(self, listener: listening.Listener, far: Side, near: Side) -> None:
        self.listener, self.far, self.near = listener, far, near
        self.address = listener.addresses[0]

    async def dial(self, handshake: Callable[[], Any] | None = None) -> Connection:
        if handshake is not None:
            self.near.handshake = handshake
        return await transport.dial(self.address, self.near.make, timeout_s=DEADLINE_S)


def client_handshake(**changes: Any) -> ClientHandshake:
    fields = {"role": "worker", "owner": "alice", "cluster_id": CLUSTER, "secret": SECRET}
    return ClientHandshake(**{**fields, **changes})


def server_handshake(**changes: Any) -> ServerHandshake:
    return ServerHandshake(CLUSTER, lambda *_: SECRET, **changes)


@asynccontextmanager
async def pair(
    near: WireLimits = LIMITS, far: WireLimits = LIMITS, handshake: Callable[[], Any] = server_handshake
) -> AsyncIterator[Pair]:
    sides = Side(far, handshake), Side(near, client_handshake)
    listener = await listening.listen(listening.bind("127.0.0.1", 0), sides[0].make)
    try:
        yield Pair(listener, *sides)
    finally:
        listener.close()
        for side in sides:
            for connection in side.connections:
                connection.abort()
            await until(lambda side=side: all(each.closed for each in side.connections))
            await until(lambda side=side: len(side.ends) + len(side.failures) >= len(side.connections) - 1)


def submit(array: int, chunk: bytes = b"") -> Submit:
    return Submit((b"s" * 16, array), b"f" * 32, TaskOptions(), 0, 1, chunk, last=True)


def raw(*messages: Message) -> bytes:
    return codec.frame([codec.pack(message) for message in messages])


# --- getting ready --------------------------------------------------------------------------------


def test_dialling_gives_a_ready_connection(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            assert connection.ready
            assert connection.address == str(both.address)
            await until(lambda: both.far.ready)
            assert both.far.ready[0].handshake.identity == ("worker", "alice")
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 600_000

    run(body())


@pytest.mark.parametrize(
    ("near", "far", "error"),
    [
        ({"secret": b"t" * 32}, {}, AuthenticationError),
        ({"secret": None}, {}, AuthenticationError),
        ({"cluster_id": b"d" * 16}, {}, WrongClusterError),
        ({}, {"auth_required": False}, AuthenticationError),
        ({}, {"busy": True}, SchedulerBusyError),
    ],
)
def test_a_failed_handshake_is_told_to_both_sides(
    run: Any, near: Any, far: Any, error: type[Exception]
) -> None:
    async def body() -> None:
        async with pair(handshake=lambda: server_handshake(**far)) as both:
            with pytest.raises(error):
                await both.dial(lambda: client_handshake(**near))
            await until(lambda: both.far.failures or both.far.ends)
            assert both.near.ready == []
            assert both.near.ends == []

    run(body())


def test_dialling_nobody(run: Any) -> None:
    async def body() -> None:
        side = Side(LIMITS, client_handshake)
        with socket.socket() as taken:  # nobody listens there, and nobody else will
            taken.bind(("127.0.0.1", 0))
            address = Address(*taken.getsockname())
            with pytest.raises(UnreachableError, match=rf"{address} cannot be reached"):
                await transport.dial(address, side.make, timeout_s=DEADLINE_S)
        with pytest.raises(UnreachableError, match="name is unknown"):
            await transport.dial(Address("no.such.host.invalid", 1), side.make, timeout_s=DEADLINE_S)
        assert side.ends == side.failures == []

    run(body())


def test_dialling_a_server_that_says_nothing(run: Any) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = Address(*silent.getsockname())
            with pytest.raises(UnreachableError, match=r"did not answer within 0\.05 s"):
                await transport.dial(address, Side(LIMITS, client_handshake).make, timeout_s=0.05)
            hasty = Side(replace(LIMITS, handshake_s=0.05), client_handshake)
            with pytest.raises(UnreachableError, match="did not finish the handshake"):
                await transport.dial(address, hasty.make, timeout_s=DEADLINE_S)

    run(body())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ForeignProtocolError),
        (b"", UnreachableError),
        (struct.pack(">8sHB29s", b"distcomp", 77, 1, b"9.9"), VersionMismatchError),
    ],
)
def test_dialling_something_else(run: Any, answer: bytes, error: type[Exception]) -> None:
    async def body() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = Address(*server.sockets[0].getsockname())
        with pytest.raises(error):
            await transport.dial(address, Side(LIMITS, client_handshake).make, timeout_s=DEADLINE_S)
        server.close()
        await server.wait_closed()

    run(body())


def test_giving_up_a_dial_leaves_nothing(run: Any) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            side = Side(LIMITS, client_handshake)
            dialling = asyncio.ensure_future(
                transport.dial(Address(*silent.getsockname()), side.make, timeout_s=DEADLINE_S)
            )
            await until(lambda: side.connections)
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
            await until(lambda: side.connections[0].closed)

    run(body())


@pytest.mark.parametrize("steps", range(3))
def test_a_dial_that_is_given_up_as_it_succeeds_leaves_nothing(run: Any, steps: int) -> None:
    async def body() -> None:
        async with pair() as both:

            def give_up(left: int) -> None:
                if left:
                    asyncio.get_running_loop().call_soon(give_up, left - 1)
                else:
                    dialling.cancel()

            def make() -> Connection:
                connection = both.near.make()
                connection.on_ready = lambda _: give_up(steps)
                return connection

            dialling = asyncio.ensure_future(transport.dial(both.address, make, timeout_s=DEADLINE_S))
            with pytest.raises(asyncio.CancelledError):
                await dialling
            await until(lambda: both.near.connections[0].closed)

    run(body())


# --- messages -------------------------------------------------------------------------------------


def test_messages_go_both_ways_in_order(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            batch = [submit(number, b"x" * 1000) for number in range(3000)]
            connection.send(batch)
            connection.send(iter([AckSettles((1,))]))
            await until(lambda: len(both.far.messages) == 3001)
            assert both.far.messages == [*batch, AckSettles((1,))]
            both.far.ready[0].send([ExplainWait(7)])
            await until(lambda: both.near.messages)
            assert both.near.messages == [ExplainWait(7)]

    run(body())


def test_a_batch_is_one_write(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            writes: list[bytes] = []
            monkeypatch.setattr(connection, "_write", writes.append)
            connection.send(submit(number) for number in range(100))
            connection.send([])
            assert len(writes) == 1

    run(body())


def test_what_nobody_waits_for_leaves_with_the_next_message(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with pair(near=replace(LIMITS, patience_s=1.0)) as both:
            connection = await both.dial()
            writes: list[bytes] = []
            monkeypatch.setattr(connection, "_write", writes.append)
            connection.send([AckSettles((1,))])
            connection.send([AckSettles((2,))])
            assert writes == []
            connection.send([ExplainWait(3)])
            assert writes == [raw(AckSettles((1,)), AckSettles((2,)), ExplainWait(3))]

    run(body())


def test_what_nobody_waits_for_leaves_alone_after_a_while_or_at_the_end(run: Any) -> None:
    async def body() -> None:
        async with pair(near=replace(LIMITS, patience_s=0.01)) as both:
            connection = await both.dial()
            connection.send([AckSettles((1,))])
            await until(lambda: both.far.messages == [AckSettles((1,))])
            connection.send([AckSettles((2,))])
            connection.close()
            await until(lambda: both.far.messages[1:] == [AckSettles((2,))])

    run(body())


def test_what_nobody_waits_for_gets_its_whole_while_after_other_messages_left(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with pair(near=replace(LIMITS, patience_s=1.0)) as both:
            connection = await both.dial()
            now_s = 0.0
            rings: list[tuple[float, Any]] = []
            writes: list[bytes] = []
            monkeypatch.setattr(connection, "_write", writes.append)
            loop = SimpleNamespace(time=lambda: now_s, call_later=lambda *ring: rings.append(ring))
            monkeypatch.setattr(connection, "_loop", loop)
            connection.send([AckSettles((1,))])
            connection.send([ExplainWait(2)])
            now_s = 0.75
            connection.send([AckSettles((3,))])
            ((_, ring),) = rings
            now_s = 1.0
            ring()
            assert len(writes) == 1
            assert rings[1][0] == 0.75
            now_s = 1.75
            ring()
            assert writes[1:] == [raw(AckSettles((3,)))]
            assert len(rings) == 2

    run(body())


def test_large_payloads_go_both_ways_and_delay_nobody(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            large = submit(1, bytes(range(256)) * (24 << 12))
            connection.send([large, ExplainWait(1)])
            await until(lambda: both.far.messages)
            assert both.far.messages[0] == ExplainWait(1)
            both.far.ready[0].send([large])
            await until(lambda: len(both.far.messages) == 2 and both.near.messages)
            assert both.far.messages[1] == large
            assert both.near.messages == [large]
            assert connection._outgoing.parked == 0

    run(body())


def test_signs_of_life_are_not_messages(run: Any) -> None:
    async def body() -> None:
        async with pair(far=BEATING) as both:
            connection = await both.dial()
            for _ in range(5):
                heard = connection.last_heard = connection.last_heard - 1000
                await until(lambda heard=heard: connection.last_heard > heard)
                for _ in range(3):
                    connection._beat()
                assert not connection.closed, "who was heard of is not given up"
            assert both.near.messages == both.far.messages == []

    run(body())


# --- the end --------------------------------------------------------------------------------------


def test_closing_lets_the_last_words_leave(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            connection.send([ExplainWait(number) for number in range(1000)])
            connection.close("done")
            connection.close("again")
            connection.send([ExplainWait(0)])
            await until(lambda: both.near.ends and both.far.ends)
            assert len(both.far.messages) == 1000
            assert both.near.ends == both.far.ends == [None]
            assert connection.reason == "done"
            assert both.far.connections[0].reason == "the peer closed the connection"

    run(body())


def test_a_reset_is_an_error(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            await until(lambda: both.far.ready)
            sock = connection._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.abort("gone")
            await until(lambda: both.far.ends)
            assert isinstance(both.far.ends[0], UnreachableError)
            assert "broke" in both.far.connections[0].reason

    run(body())


def test_a_peer_that_closed_is_not_written_to(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            await until(lambda: both.far.ready)
            both.far.ready[0].close()
            for _ in range(50):
                connection.send([ExplainWait(1)])
                await asyncio.sleep(0)
            await until(lambda: both.near.ends)
            connection.send([ExplainWait(1)])
            assert len(both.near.ends) == 1, "the end of a connection is told once, whatever is sent after it"

    run(body())


class Stranger:
    """A peer that has shaken hands and then writes what it likes, or nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def shake(cls, address: Address) -> Stranger:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        handshake = client_handshake()
        writer.write(handshake.greeting())
        while not handshake.done:
            writer.write(handshake.receive(await reader.read(4096)))
        return cls(reader, writer)

    async def last_message(self) -> Message:
        """What it was told last, heartbeats apart, before the connection was closed."""
        splitter = transport.FrameSplitter()
        bodies = splitter.feed(await self.reader.read())
        self.writer.close()
        messages = [message for body in bodies for message in codec.decode(body)]
        return next(message for message in reversed(messages) if message != Heartbeat())


NONSENSE = [
    b"GET / HTTP/1.1\r\n\r\n",
    struct.pack(">I", 1 << 31),
    struct.pack(">I", 1) + b"\xc1",
    raw(PiecesStored(1)),
    raw(protocol.SendPiece(0, 5, b"abc")),
    raw(protocol.SendPiece(1, 2, b"abc")),
]


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_closes_one_connection_and_says_why(run: Any, nonsense: bytes) -> None:
    async def body() -> None:
        async with pair() as both:
            other = await both.dial()
            stranger = await Stranger.shake(both.address)
            await until(lambda: len(both.far.ready) == 2)
            stranger.writer.write(raw(ExplainWait(1)) + nonsense)
            told = await stranger.last_message()
            assert isinstance(told, Refused)
            assert told.code == "malformed"
            await until(lambda: both.far.ends)
            assert isinstance(both.far.ends[0], transport.ProtocolError)
            assert both.far.messages == [], "what came with nonsense is dropped with it"
            other.send([ExplainWait(2)])
            await until(lambda: both.far.messages)

    run(body())


def test_nonsense_from_a_scheduler_is_not_answered(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            await until(lambda: both.far.ready)
            both.far.ready[0]._transport.write(NONSENSE[1])
            await until(lambda: both.near.ends)
            assert isinstance(both.near.ends[0], transport.ProtocolError)
            assert connection.closed
            await until(lambda: both.far.ends)
            assert both.far.messages == []

    run(body())


def test_silence_ends_a_connection(run: Any) -> None:
    async def body() -> None:
        async with pair(far=replace(BEATING, silence_s=0.1)) as both:
            stranger = await Stranger.shake(both.address)
            told = await stranger.last_message()
            assert isinstance(told, Refused)
            assert told.code == "silent"
            await until(lambda: both.far.ends)
            assert "silent" in str(both.far.ends[0])

    run(body())


def test_a_late_beat_alone_is_no_silence(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            connection.last_heard -= 1000
            connection._beat()
            assert not connection.closed
            assert connection._timer is not None
            left_s = connection._timer.when() - asyncio.get_running_loop().time()
            assert left_s > LIMITS.heartbeat_s / 2
            connection._beat()
            assert not connection.closed
            connection._beat()
            assert connection.closed

    run(body())


def test_a_slow_handshake_is_given_up(run: Any) -> None:
    async def body() -> None:
        async with pair(far=replace(LIMITS, handshake_s=0.05)) as both:
            reader, writer = await asyncio.open_connection(both.address.host, both.address.port)
            writer.write(client_handshake().greeting()[:20])
            assert await reader.read() == b""
            writer.close()
            await until(lambda: both.far.failures)
            assert "in time" in str(both.far.failures[0])

    run(body())


def test_a_peer_that_reads_nothing_is_closed(run: Any) -> None:
    async def body() -> None:
        limits = replace(LIMITS, max_write_buffer_bytes=1 << 20)
        async with pair(far=limits) as both:
            stranger = await Stranger.shake(both.address)
            await until(lambda: both.far.ready)
            stranger.writer.transport.pause_reading()
            connection = both.far.ready[0]
            while not connection.closed:
                connection.send([submit(number, bytes(60_000)) for number in range(15)])
                await asyncio.sleep(0)
            await until(lambda: both.far.ends)
            assert "does not read" in str(both.far.ends[0])
            stranger.writer.transport.abort()

    run(body())


def test_too_many_messages_behind_payloads_end_a_connection(run: Any) -> None:
    async def body() -> None:
        async with pair(near=replace(LIMITS, max_parked_messages=3)) as both:
            connection = await both.dial()
            connection.send(submit(number, bytes(30 << 20)) for number in range(4))
            assert connection.closed
            await until(lambda: both.near.ends)
            assert "takes no payloads" in str(both.near.ends[0])

    run(body())


def test_a_message_that_fits_no_frame_ends_the_connection(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:
            connection = await both.dial()
            connection.send([AckSettles(tuple(range(1 << 40, (1 << 40) + 131_000)))])
            await until(lambda: both.near.ends)
            assert isinstance(both.near.ends[0], transport.ProtocolError)

    run(body())


def test_a_close_that_cannot_flush_lingers_only_so_long(run: Any) -> None:
    async def body() -> None:
        async with pair(far=replace(LIMITS, linger_s=0.05)) as both:
            stranger = await Stranger.shake(both.address)
            await until(lambda: both.far.ready)
            stranger.writer.transport.pause_reading()
            connection = both.far.ready[0]
            connection.send([submit(number, bytes(60_000)) for number in range(300)])
            connection.close("stop")
            await until(lambda: both.far.ends)
            stranger.writer.transport.abort()

    run(body())


def test_a_connection_closed_before_it_was_made_ends_at_once(run: Any) -> None:
    async def body() -> None:
        async with pair() as both:

            def closed() -> Connection:
                connection = Side.make(both.near)
                connection.close("changed my mind")
                connection.abort()
                return connection

            with pytest.raises(UnreachableError):
                await transport.dial(both.address, closed, timeout_s=DEADLINE_S)

    run(body())


# --- alarms ---------------------------------------------------------------------------------------


def test_an_alarm_rings_once_at_the_earliest_time_it_was_set_to(run: Any) -> None:
    async def body() -> None:
        rings: list[float] = []
        alarm = transport.Alarm(lambda: rings.append(time.monotonic()))
        begin = time.monotonic()
        alarm.set(begin + 30.0, begin)
        alarm.set(begin + 0.01, begin)
        alarm.set(begin + 40.0, begin)
        alarm.set(None, begin)
        await until(lambda: rings)
        assert rings[0] - begin >= 0.009
        alarm.set(begin, time.monotonic())
        await until(lambda: len(rings) == 2)

    run(body())


def test_a_cancelled_alarm_does_not_ring(run: Any) -> None:
    async def body() -> None:
        rings: list[str] = []
        silent, heard = (
            transport.Alarm(lambda name=name: rings.append(name)) for name in ("silent", "heard")
        )
        now = time.monotonic()
        silent.set(now + 0.005, now)
        silent.cancel()
        heard.set(now + 0.02, now)
        await until(lambda: rings)
        assert rings == ["heard"]

    run(body())
