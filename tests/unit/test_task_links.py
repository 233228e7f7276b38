from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from distcomp import listening, transport
from distcomp.access import Access
from distcomp.auth import ServerHandshake
from distcomp.config import SlotSettings, WorkerSettings
from distcomp.ids import ClusterId
from distcomp.inside import RELAYED, REQUEST, TASK_OVER, UNREACHABLE
from distcomp.protocol import Heartbeat, OpenSession, codec
from distcomp.rows import Versions
from distcomp.slot_process import Progress, SlotProcess
from distcomp.task_links import TaskLinks
from distcomp.worker_protocol import BindTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from distcomp.protocol import Message

SECRET, CLUSTER = b"s" * 32, ClusterId(b"c" * 16)
BINDING = BindTask(b"w" * 16, b"k" * 32, (7, 1), 4)  # type: ignore[arg-type]  # identities are bytes
OPENING = OpenSession(b"x" * 16, Versions("0", "3.11.0", "3"), "h", 1, "p", b"", resumes=False)  # type: ignore[arg-type]


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


class Scheduler:
    """What listens, and notes what it is told on each connection."""

    def __init__(self) -> None:
        self.connections: list[transport.Connection] = []
        self.heard: list[Message] = []
        self.gone = 0

    async def __aenter__(self) -> Self:
        self._listener = await listening.listen(listening.bind("127.0.0.1", 0), self._take_in)
        self.address = str(self._listener.addresses[0])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for each in self.connections:
            each.abort()
        await until(lambda: self.gone == len(self.connections))

    def _take_in(self) -> transport.Connection:
        shake = ServerHandshake(CLUSTER, lambda _role, _owner: SECRET, auth_required=True)
        return transport.Connection(
            shake, on_messages=self._hear, on_closed=self._lose, on_ready=self.connections.append
        )

    def _hear(self, _connection: transport.Connection, messages: list[Message]) -> None:
        self.heard += messages

    def _lose(self, _connection: transport.Connection, _error: Exception | None) -> None:
        self.gone += 1


def links_to(*addresses: str, **settings: Any) -> TaskLinks:
    access = Access(
        role="worker",
        owner="pool",
        cluster_id=CLUSTER,
        cluster_name="test",
        addresses=addresses,
        secret=SECRET,
    )
    return TaskLinks(WorkerSettings(**settings), access, lambda *_args, **_values: None)


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 1 << 16)


def ends() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    return near, far


def test_a_task_speaks_on_a_connection_that_was_bound_for_it() -> None:
    async def speak() -> None:
        async with Scheduler() as scheduler:
            links = links_to("tcp://127.0.0.1:1", scheduler.address)
            near, far = ends()
            with near:
                links.open(BINDING, far)
                assert await receive(near) == RELAYED
                await until(lambda: scheduler.heard)
                near.send(codec.frame([codec.pack(OPENING)]))
                await until(lambda: len(scheduler.heard) == 2)
                assert scheduler.heard == [BINDING, OPENING]
                assert scheduler.connections[0].handshake.identity == ("worker", "pool")
                scheduler.connections[0].send([Heartbeat()])
                assert await receive(near) == codec.frame([codec.pack(Heartbeat())])
            await until(lambda: scheduler.gone == 1)
            await until(lambda: not links._ends)

    asyncio.run(speak())


def test_the_end_of_the_worker_ends_them() -> None:
    async def end() -> None:
        async with Scheduler() as scheduler:
            links = links_to(scheduler.address)
            near, far = ends()
            with near:
                links.open(BINDING, far)
                assert await receive(near) == RELAYED
                links.close()
                assert await receive(near) == b""
            await until(lambda: scheduler.gone == 1)
            near, far = ends()
            with near:
                links.open(BINDING, far)
                await asyncio.sleep(0)
                links.close()
                assert await receive(near) == b""
            await until(lambda: not links._dials)

    asyncio.run(end())


@pytest.mark.parametrize("addresses", [(), ("tcp://127.0.0.1:1",)])
def test_a_scheduler_out_of_reach_is_said(addresses: tuple[str, ...]) -> None:
    async def ask() -> bytes:
        near, far = ends()
        with near:
            links_to(*addresses).open(BINDING, far)
            return await receive(near)

    said = asyncio.run(ask())
    assert said.startswith(UNREACHABLE)
    assert b"no address" in said or b"cannot be reached" in said


def test_there_is_a_bound() -> None:
    async def ask() -> bytes:
        async with Scheduler() as scheduler:
            links = links_to(scheduler.address, max_task_connections=1)
            (first, far), (second, beyond) = ends(), ends()
            with first, second:
                links.open(BINDING, far)
                links.open(BINDING, beyond)
                said = await receive(second)
                assert await receive(first) == RELAYED
            await until(lambda: scheduler.gone == 1)
            return said

    assert asyncio.run(ask()).startswith(UNREACHABLE + b"the tasks of this worker have as many")


# --- the door of a slot process -------------------------------------------------------------------


class Wanted(NamedTuple):
    run: int
    task_index: int
    channel: socket.socket


class Supervisor:
    """Hears of what a task wants; runs nothing."""

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []

    def order(self, what: bytes, number: int, argument: int = 0, descriptors: tuple[int, ...] = ()) -> None:
        """Nothing is ordered of a template."""

    def connection_wanted(
        self, _process: SlotProcess, run: int, task_index: int, channel: socket.socket
    ) -> None:
        self.wanted.append(Wanted(run, task_index, channel))


def test_only_the_task_that_runs_gets_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def knock() -> None:
        supervisor: Any = Supervisor()
        process = SlotProcess(1, supervisor, supervisor, SlotSettings(), asyncio.get_running_loop())
        kept = socket.socket(fileno=os.dup(process.files[3]))
        process.hand_over_files()
        near, far = ends()
        with kept, near, far:
            kept.send(REQUEST.pack(1, 4))
            socket.send_fds(kept, [b"?"], [far.fileno()])
            assert await receive(near) == TASK_OVER
            socket.send_fds(kept, [REQUEST.pack(1, 4)], [far.fileno()])
            assert await receive(near) == TASK_OVER
            monkeypatch.setattr(SlotProcess, "progress", lambda _self: Progress(1, 4, 0.5))
            socket.send_fds(kept, [REQUEST.pack(1, 4)], [far.fileno()])
            await until(lambda: supervisor.wanted)
        ((run, task_index, channel),) = supervisor.wanted
        channel.close()
        assert (run, task_index) == (1, 4)
        process.close()

    asyncio.run(knock())
