"""Clients whose gateway never lets their session begin."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

import pytest
from fake_gateway import FakeGateway

from distcomp import Client
from distcomp.config import ClientSettings, WireLimits
from distcomp.errors import AuthenticationError, ConnectError, TunnelLostError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

HASTY = ClientSettings(connect_timeout_s=0.3, wire=WireLimits(silence_s=0.2, heartbeat_s=0.05))
REFUSALS = 1000
WORD = "dct_1"


@contextlib.contextmanager
def serving(gateway: FakeGateway) -> Iterator[str]:
    """The address of a gateway in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(gateway.start(), loop).result()
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_stream_that_something_holds_back_is_not_waited_for() -> None:
    with serving(FakeGateway()) as address, pytest.raises(UnreachableError, match="has been silent"):
        Client(address, token=WORD, settings=HASTY)


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("open", 503, UnreachableError),
        ("up", 404, TunnelLostError),
        ("down", 410, TunnelLostError),
        ("down", 401, AuthenticationError),
    ],
)
def test_why_no_session_begins_is_said(kind: str, status: int, error: type[ConnectError]) -> None:
    gateway = FakeGateway()
    for _ in range(REFUSALS):
        gateway.refuse(kind, status, '{"detail": "as it says"}')
    with serving(gateway) as address, pytest.raises(error, match="as it says"):
        Client(address, token=WORD, settings=HASTY)
