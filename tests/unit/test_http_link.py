from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from fake_gateway import FakeGateway

from distcomp import transport
from distcomp.config import ClientSettings, WireLimits
from distcomp.errors import (
    AuthenticationError,
    ConnectError,
    ForeignProtocolError,
    SchedulerBusyError,
    TunnelLostError,
    UnreachableError,
    VersionMismatchError,
)
from distcomp.http_link import HttpLink, dial
from distcomp.http_roads import Road
from distcomp.relay import TunnelHandshake
from distcomp.web_address import parse_web_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

DEADLINE_S = 60.0
SETTINGS = ClientSettings(
    backoff_first_s=0.001,
    backoff_most_s=0.01,
    connect_timeout_s=60.0,
    wire=WireLimits(silence_s=60.0, linger_s=60.0),
)


class Carried:
    """What a link carries in a test: it records."""

    def __init__(self) -> None:
        self.handshake = TunnelHandshake()
        self.address = ""
        self.came = bytearray()
        self.pauses: list[bool] = []
        self.over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.link: HttpLink
        self.on_data: Callable[[bytes], None] = self.came.extend

    def connection_made(self, link: HttpLink) -> None:
        link.set_write_buffer_limits(high=1000)
        self.link = link

    def data_received(self, data: bytes) -> None:
        if self.handshake.done:
            self.on_data(data)
        self.handshake.receive(b"")

    def pause_writing(self) -> None:
        self.pauses.append(True)

    def resume_writing(self) -> None:
        self.pauses.append(False)

    def connection_lost(self, error: Exception | None) -> None:
        self.over.set_result(error)


def road_to(port: int, prefix: str = "") -> Road:
    return Road(parse_web_address(f"http://127.0.0.1:{port}{prefix}"), "dct_1", {})


@contextlib.asynccontextmanager
async def linked(gateway: FakeGateway) -> AsyncIterator[tuple[Carried, HttpLink]]:
    """A link to a gateway; both gone afterwards."""
    port = await gateway.start()
    made: list[Carried] = []

    def make() -> Carried:
        made.append(Carried())
        return made[0]

    try:
        await dial(road_to(port), make, SETTINGS)
        try:
            yield made[0], made[0].link
        finally:
            made[0].link.abort()
            await asyncio.wait_for(made[0].over, DEADLINE_S)
    finally:
        await gateway.stop()


async def until(condition: Callable[[], Any], what: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline, what
        await asyncio.sleep(0.001)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test, after which no task may be left."""

    async def whole() -> None:
        await test
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    loop = transport.new_event_loop()
    try:
        loop.run_until_complete(whole())
    finally:
        loop.close()


def test_bytes_go_up_and_come_down() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        async with linked(gateway) as (carried, link):
            assert carried.handshake.owner == "alice"
            assert carried.handshake.met_cluster_id == bytes.fromhex("ab" * 16)
            assert "http://127.0.0.1" in carried.address
            wanted = b""
            for number in range(50):
                data = bytes([number]) * 7
                wanted += data
                link.write(data)
                gateway.say(data)
                await asyncio.sleep(0)
            await until(lambda: gateway.came == wanted == carried.came, "all has arrived")
            assert len(link.get_extra_info("sockets")) == 2
            assert link.get_extra_info("peername") is None
        assert all("Authorization: Bearer dct_1" in head for head in gateway.heads)
        assert "/v1/tunnel/t%2F1/up?" in "".join(gateway.heads)

    run(test())


def test_what_is_written_while_a_request_is_under_way_goes_with_the_next() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        async with linked(gateway) as (_, link):
            for number in range(100):
                link.write(bytes([number]))
            await until(lambda: not link.get_write_buffer_size(), "all has arrived")
            assert gateway.came == bytes(range(100))
            assert len(gateway.bodies) == 1

    run(test())


def test_much_unsent_pauses_whoever_writes_until_it_has_left() -> None:
    async def test() -> None:
        async with linked(FakeGateway()) as (carried, link):
            link.write(bytes(900))
            assert carried.pauses == []
            link.write(bytes(900))
            link.write(bytes(900))
            assert carried.pauses == [True]
            await until(lambda: carried.pauses == [True, False], "it goes on")

    run(test())


def test_an_answer_that_is_lost_loses_and_doubles_nothing() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        async with linked(gateway) as (_, link):
            gateway.swallowed = 3
            wanted = b""
            for number in range(20):
                wanted += bytes([number]) * 9
                link.write(bytes([number]) * 9)
                await asyncio.sleep(0.002)
            await until(
                lambda: gateway.came == wanted and not link.get_write_buffer_size(), "all is there once"
            )
            assert not gateway.swallowed

    run(test())


def test_connections_that_break_lose_and_double_nothing() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        async with linked(gateway) as (carried, link):
            wanted = b""
            for number in range(60):
                data = bytes([number]) * 5000
                wanted += data
                link.write(data)
                gateway.say(data)
                if number % 7 == 0:
                    await asyncio.sleep(0.003)
                    gateway.cut()
            await until(lambda: gateway.came == wanted == carried.came, "all has arrived, in order")

    run(test())


def test_requests_shrink_to_what_the_way_takes() -> None:
    async def test() -> None:
        gateway = FakeGateway(max_body_bytes=70_000)
        async with linked(gateway) as (_, link):
            link.write(bytes(range(256)) * 4000)
            await until(lambda: gateway.came == bytes(range(256)) * 4000, "all has arrived")
            refused = [size for size in gateway.bodies if size > 70_000]
            assert len(refused) <= 4

    run(test())


def test_what_takes_no_request_at_all_is_no_way() -> None:
    async def test() -> None:
        gateway = FakeGateway(max_body_bytes=100)
        async with linked(gateway) as (carried, link):
            link.write(bytes(100_000))
            error = await asyncio.wait_for(asyncio.shield(carried.over), DEADLINE_S)
            assert isinstance(error, ForeignProtocolError)
            assert "413" in str(error)

    run(test())


@pytest.mark.parametrize("kind", ["up", "down"])
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_succeed_later_is_tried_again(kind: str, status: int) -> None:
    async def test() -> None:
        gateway = FakeGateway()
        gateway.refuse(kind, status)
        gateway.refuse(kind, status, "<html>", "text/html")
        async with linked(gateway) as (carried, link):
            link.write(b"up")
            gateway.say(b"down")
            await until(lambda: gateway.came == b"up" and carried.came == b"down", "it has succeeded")
            assert not gateway.refusals[kind]

    run(test())


@pytest.mark.parametrize("kind", ["up", "down"])
@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (404, "application/problem+json", TunnelLostError),
        (410, "application/problem+json", TunnelLostError),
        (404, "text/html", ForeignProtocolError),
        (401, "application/problem+json", AuthenticationError),
        (403, "text/html", AuthenticationError),
        (200, "text/html", ForeignProtocolError),
        (302, "text/html", ForeignProtocolError),
    ],
)
def test_what_will_not_succeed_ends_the_link(
    kind: str, status: int, content: str, error: type[ConnectError]
) -> None:
    if (kind, status) == ("down", 200):
        return

    async def test() -> None:
        gateway = FakeGateway()
        gateway.refuse(kind, status, json.dumps({"detail": "it says so"}), content)
        async with linked(gateway) as (carried, link):
            link.write(b"up")
            met = await asyncio.wait_for(asyncio.shield(carried.over), DEADLINE_S)
            assert type(met) is error
            assert link.is_closing()
            assert link.get_extra_info("sockets") == []

    run(test())


def test_a_gateway_that_counts_otherwise_is_none() -> None:
    async def test() -> None:
        for offset in (0, 99, "2", None):
            gateway = FakeGateway()
            gateway.came += b"x"
            gateway.refuse("up", 200, json.dumps({"offset": offset}), "application/json")
            async with linked(gateway) as (carried, link):
                gateway.came.clear()
                link.write(b"")
                link.write(b"up")
                if offset == 0:  # nothing has arrived: it is sent again
                    await until(lambda got=gateway: got.came == b"up", "it has arrived")
                    continue
                met = await asyncio.wait_for(asyncio.shield(carried.over), DEADLINE_S)
                assert isinstance(met, ForeignProtocolError)
                assert "lost count" in str(met)

    run(test())


def test_who_only_listens_confirms_what_has_come() -> None:
    async def test() -> None:
        gateway = FakeGateway(window_bytes=40_000)
        async with linked(gateway) as (carried, _):
            for _ in range(10):
                gateway.say(bytes(5_000))
                await asyncio.sleep(0.001)
            await until(lambda: gateway.seen >= 40_000, "the gateway knows")
            assert len(carried.came) == 50_000

    run(test())


def test_closing_in_order_sends_the_rest_and_closes_the_tunnel() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        gateway.refuse("up", 503)
        async with linked(gateway) as (carried, link):
            link.write(b"the last words")
            link.close()
            assert link.is_closing()
            assert await asyncio.wait_for(asyncio.shield(carried.over), DEADLINE_S) is None
            assert gateway.came == b"the last words"
            assert gateway.is_deleted

    run(test())


def test_closing_needs_no_gateway() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        gateway.refuse("delete", 404)
        async with linked(gateway) as (carried, link):
            gateway.cut()
            await gateway.stop()
            link.close()
            assert await asyncio.wait_for(asyncio.shield(carried.over), DEADLINE_S) is None

    run(test())


def test_who_hears_and_cannot_speak_gives_up() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        for _ in range(1000):
            gateway.refuse("up", 503, json.dumps({"detail": "no room"}))
        async with linked(gateway) as (carried, link):
            link.write(b"up")
            await until(lambda: len(gateway.refusals["up"]) < 1000, "it has tried")
            link._rose_at -= 1000  # as if nothing had gone up for so long
            met = await asyncio.wait_for(asyncio.shield(carried.over), DEADLINE_S)
            assert isinstance(met, UnreachableError)
            assert "nothing could be sent" in str(met)
            assert "no room" in str(met)

    run(test())


def test_a_fault_of_ours_ends_the_link_and_is_reported() -> None:
    async def test() -> None:
        gateway = FakeGateway()
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with linked(gateway) as (carried, _):

            def fail(_: bytes) -> None:
                raise RuntimeError("a fault")

            carried.on_data = fail
            gateway.say(b"down")
            met = await asyncio.wait_for(asyncio.shield(carried.over), DEADLINE_S)
            assert isinstance(met, RuntimeError)
        assert [context["exception"] for context in told] == [met]

    run(test())


@pytest.mark.parametrize(
    ("status", "content", "body", "error", "words"),
    [
        (
            401,
            "application/problem+json",
            '{"detail": "send one"}',
            AuthenticationError,
            "send one; `distcomp token",
        ),
        (403, "text/html", "no", AuthenticationError, "does not take the token: it answers 403"),
        (404, "text/html", "no", ForeignProtocolError, "there is no gateway at"),
        (404, "application/problem+json", "{}", TunnelLostError, "404"),
        (407, "text/html", "no", AuthenticationError, "wants another login"),
        (409, "application/problem+json", '{"detail": "protocol 7"}', VersionMismatchError, "protocol 7"),
        (413, "text/html", "no", ForeignProtocolError, "413"),
        (429, "application/problem+json", '{"detail": "64 tunnels"}', SchedulerBusyError, "64 tunnels"),
        (502, "text/html", "[" * 100_000, UnreachableError, "502"),
        (503, "application/problem+json", '{"detail": "no scheduler"}', UnreachableError, "no scheduler"),
        (301, "text/html", "", ForeignProtocolError, "is elsewhere"),
        (200, "text/html", "<html>", ForeignProtocolError, "is no gateway"),
        (201, "text/html", "<html>", ForeignProtocolError, "is no gateway"),
        (201, "application/json", "[1]", ForeignProtocolError, "is no gateway"),
        (
            201,
            "application/json",
            '{"tunnel": 1, "owner": "a", "cluster_id": "x", "window_bytes": 1}',
            ForeignProtocolError,
            "is no gateway",
        ),
    ],
)
def test_what_refuses_a_tunnel_says_why(
    status: int, content: str, body: str, error: type[ConnectError], words: str
) -> None:
    async def test() -> None:
        gateway = FakeGateway()
        gateway.refuse("open", status, body, content)
        port = await gateway.start()
        try:
            with pytest.raises(error, match=words) as caught:
                await dial(road_to(port), Carried, SETTINGS)
            assert type(caught.value) is error
            assert "dct_1" not in str(caught.value)
        finally:
            await gateway.stop()

    run(test())


def test_a_gateway_may_be_below_a_path() -> None:
    async def test() -> None:
        gateway = FakeGateway(prefix="/a/b")
        port = await gateway.start()
        try:
            with pytest.raises(ForeignProtocolError, match="ends with that path"):
                await dial(road_to(port, "/a"), Carried, SETTINGS)
            carried: list[Carried] = []
            await dial(road_to(port, "/a/b"), lambda: carried.append(Carried()) or carried[0], SETTINGS)
            carried[0].link.write(b"up")
            await until(lambda: gateway.came == b"up", "it has arrived")
            carried[0].link.close()
            await asyncio.wait_for(carried[0].over, DEADLINE_S)
        finally:
            await gateway.stop()

    run(test())


def test_nobody_at_the_address_is_said() -> None:
    async def test() -> None:
        with socket.socket() as taken:  # nobody listens there, and nobody else will
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(UnreachableError, match="cannot be reached"):
                await dial(road_to(taken.getsockname()[1]), Carried, SETTINGS)

    run(test())
