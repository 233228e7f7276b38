"""A gateway and its scheduler in a thread of the test's own process; there are no workers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

from distcomp import listening, transport
from distcomp.access import SchedulerAccess
from distcomp.config import SchedulerSettings, WireLimits, parse_address
from distcomp.gateway import cluster_view
from distcomp.gateway.app import Gateway
from distcomp.gateway.doors import Doors
from distcomp.gateway.serving import Serving
from distcomp.gateway.shelf import TaskShelf
from distcomp.gateway.tokens import SCOPES, TokenFile
from distcomp.gateway_settings import GatewaySettings
from distcomp.scheduler import SchedulerProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


PATIENCE_S = 60.0
WATCH_S = 0.05
"""Here nobody wants to wait a second for what the scheduler reports."""

WIRE = WireLimits(silence_s=600.0, handshake_s=600.0)
PATIENT: dict[str, Any] = {
    "wire": WIRE,
    "connect_timeout_s": 600.0,
    "head_s": 600.0,
    "idle_connection_s": 600.0,
    "body_gap_s": 600.0,
    "tunnel_idle_s": 600.0,
    "tunnel_yield_s": 600.0,
}
"""However long the machine is held up, no time runs out that a test has not set."""


class Reply(NamedTuple):
    """What came back; the body of a stream is not read."""

    status: int
    headers: http.client.HTTPMessage
    body: Any


class World:
    """What a test has: a port, and a token of each scope for `alice`."""

    def __init__(self, folder: Path, settings: GatewaySettings) -> None:
        self.settings = settings
        self.access = SchedulerAccess.open("test", folder, owner="alice")
        self.tokens = TokenFile(folder)
        self.texts = {scope: self.tokens.create(scope=scope, owner="alice")[1] for scope in SCOPES}
        self.port = 0
        self._folder = folder
        self.loop = transport.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(PATIENCE_S)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(PATIENCE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _start(self) -> None:
        await self._start_scheduler(0)
        sockets = listening.bind("127.0.0.1", 0)
        self.port = sockets[0].getsockname()[1]
        shelf = TaskShelf(self._folder / "gateway.db", self.settings.max_kept_bytes)
        gateway = Gateway(self.settings, Doors((), self.access), self.tokens, shelf)
        self.serving = Serving(gateway, self.settings, sockets)
        await self.serving.start()

    async def _start_scheduler(self, port: int) -> None:
        settings = SchedulerSettings(port=port, wire=WIRE)
        self.scheduler = SchedulerProgram(settings, self.access, log=lambda *_, **__: None)
        await self.scheduler.start()
        self.access.addresses = self.scheduler.addresses

    async def _stop_scheduler(self) -> None:
        self.scheduler.request_stop(at_once=True)
        await self.scheduler.wait_closed()

    def forget(self) -> None:
        """Have the scheduler forget everything: another one takes its place."""

        async def replace() -> None:
            port = parse_address(self.scheduler.addresses[0]).port
            await self._stop_scheduler()
            await self._start_scheduler(port)

        asyncio.run_coroutine_threadsafe(replace(), self.loop).result(PATIENCE_S)

    async def _stop(self) -> None:
        await self.serving.stop()
        await self._stop_scheduler()

    def ask(
        self,
        method: str,
        path: str,
        *,
        scope: str | None = "admin",
        body: Any = None,
        headers: dict[str, str] | None = None,
        hosts: tuple[str, ...] = ("localhost",),
    ) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.putrequest(method, path, skip_host=True)
            for host in hosts:
                connection.putheader("Host", host)
            data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            sent = {"Content-Length": str(len(data)), "Content-Type": "application/json"}
            if scope is not None:
                sent["Authorization"] = f"Bearer {self.texts[scope]}"
            for name, text in {**sent, **(headers or {})}.items():
                connection.putheader(name, text)
            connection.endheaders(data)
            answer = connection.getresponse()
            kind = answer.headers.get("content-type", "")
            if answer.headers.get("transfer-encoding") == "chunked":
                return Reply(answer.status, answer.headers, None)
            got = answer.read()
            if method == "HEAD":
                return Reply(answer.status, answer.headers, got)
            return Reply(answer.status, answer.headers, json.loads(got) if "json" in kind else got)
        finally:
            connection.close()


@contextlib.contextmanager
def world(folder: Path, **settings: Any) -> Iterator[World]:
    """A gateway with these settings."""
    made = World(folder, GatewaySettings(**{**PATIENT, **settings}))
    with mock.patch.object(cluster_view, "WATCH_S", WATCH_S):
        made.start()
        try:
            yield made
        finally:
            made.stop()


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition, and give what it gave."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
