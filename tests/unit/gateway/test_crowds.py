"""Many who send or read slowly: what others ask costs the gateway no more for it."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from gateway_world import PATIENCE_S, World, until, world

from distcomp.protocol import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CROWD = 500
ASKED = 40


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("gateway_world.WATCH_S", 60.0)  # what happens by itself is not to be counted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * CROWD)), hard))
    try:
        with world(tmp_path, max_streams=CROWD, max_tunnels=CROWD, tunnel_keepalive_s=600.0) as made:
            yield made
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_crowd_that_is_slow_costs_others_nothing(gateway: World) -> None:
    """Latency is these calls and nothing else: there is one thread, and it never waits for a slow socket."""
    threads = threading.active_count()
    calls_of_requests(gateway)  # in which everything is done that is done once
    alone = calls_of_requests(gateway)
    with ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port))) for _ in range(CROWD)
        ]
        for each, words in zip(crowd, slow_ones(gateway), strict=True):
            each.sendall(words)
        until(lambda: gateway.serving.connections == CROWD)
        calls_of_requests(gateway)  # in which they are taken in
        crowded = min(
            calls_of_requests(gateway) for _ in range(3)
        )  # what happens by itself is not always there
        assert crowded < 1.2 * alone
        assert threading.active_count() <= threads
    until(lambda: gateway.serving.connections == 0)


def slow_ones(gateway: World) -> Iterator[bytes]:
    """Heads that do not end, bodies that do not come, streams that nobody reads."""
    token = gateway.texts["submit"]
    first = f"localhost\r\nAuthorization: Bearer {token}\r\n"
    tunnel = gateway.ask("POST", "/v1/tunnel", scope="submit", body={"protocol": PROTOCOL}).body["tunnel"]
    kinds = (
        "GET /healthz HTTP/1.1\r\nHost: loc",
        f"POST /v1/tunnel/{tunnel}/up?offset=0 HTTP/1.1\r\nHost: {first}Content-Length: 100\r\n\r\n",
        f"GET /v1/events HTTP/1.1\r\nHost: {first}\r\n",
        "POST /v1/functions/x/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
    )
    for number in range(CROWD):
        yield kinds[number % len(kinds)].encode()


def calls_of_requests(gateway: World) -> int:
    """How many functions the gateway's thread calls while it answers some requests."""
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        del frame, argument
        counted += event in ("call", "c_call")

    async def watch(*, on: bool) -> None:
        sys.setprofile(count if on else None)

    asyncio.run_coroutine_threadsafe(watch(on=True), gateway.loop).result(PATIENCE_S)
    for _ in range(ASKED):
        assert gateway.ask("GET", "/v1/functions").status == 200
    asyncio.run_coroutine_threadsafe(watch(on=False), gateway.loop).result(PATIENCE_S)
    return counted
