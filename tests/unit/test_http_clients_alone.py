"""Clients whose gateway never lets their session begin."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, cast

import pytest
from fake_gateway import FakeGateway
from leaping import LeapingLoop

from distcomp import Client, transport
from distcomp.client_program import ClientProgram
from distcomp.config import ClientSettings, WireLimits
from distcomp.core.client_state import ClientState
from distcomp.errors import AuthenticationError, ConnectError, TunnelLostError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distcomp.transport import Connection

SETTINGS = ClientSettings(connect_timeout_s=60.0, wire=WireLimits(silence_s=60.0, heartbeat_s=0.05))
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


@pytest.fixture(autouse=True)
def _loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "new_event_loop", LeapingLoop)


def leap() -> None:
    """Move the time of the client's loop on, to behind what its settings wait for."""
    cast("LeapingLoop", asyncio.get_running_loop()).leapt_s += 61.0


def test_a_stream_that_something_holds_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = ClientProgram._on_ready

    def then_leap(program: ClientProgram, connection: Connection) -> None:
        begin(program, connection)
        leap()

    monkeypatch.setattr(ClientProgram, "_on_ready", then_leap)
    with serving(FakeGateway()) as address, pytest.raises(UnreachableError, match="has been silent"):
        Client(address, token=WORD, settings=SETTINGS)


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("open", 503, UnreachableError),
        ("up", 404, TunnelLostError),
        ("down", 410, TunnelLostError),
        ("down", 401, AuthenticationError),
    ],
)
def test_why_no_session_begins_is_said(
    kind: str, status: int, error: type[ConnectError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClientState, "dial_failed", lambda *_, **__: leap())
    gateway = FakeGateway()
    for _ in range(REFUSALS):
        gateway.refuse(kind, status, '{"detail": "as it says"}')
    with serving(gateway) as address, pytest.raises(error, match="as it says"):
        Client(address, token=WORD, settings=SETTINGS)
