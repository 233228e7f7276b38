from __future__ import annotations

import asyncio
import re
import socket
from typing import TYPE_CHECKING, cast

import pytest
from leaping import LeapingLoop

from distcomp import Client, UnreachableError, transport
from distcomp.client_program import NOTICE_S, ClientProgram
from distcomp.config import ClientSettings, WireLimits
from distcomp.core.client_state import ClientState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = ClientSettings(connect_timeout_s=60.0, wire=WireLimits(handshake_s=60.0))


@pytest.fixture
def silent_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port at which nobody listens, and nobody else will."""
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.setattr(transport, "new_event_loop", LeapingLoop)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_who_waits_for_a_scheduler_that_does_not_answer_is_told_so_and_until_when(
    silent_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTCOMP_ADDRESS", f"tcp://127.0.0.1:{silent_port}")
    fail = ClientState.dial_failed

    def leap(state: ClientState, now: float, *, refused: bool) -> None:
        """With the first failure it is time to tell, and with the next one to give up."""
        fail(state, now, refused=refused)
        loop = cast("LeapingLoop", asyncio.get_running_loop())
        loop.leapt_s += SETTINGS.connect_timeout_s if loop.leapt_s else NOTICE_S

    monkeypatch.setattr(ClientState, "dial_failed", leap)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        Client(settings=SETTINGS)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for word in (f"127.0.0.1:{silent_port}", "as DISTCOMP_ADDRESS says", "cannot be reached"):
        assert word in said
    assert "connect_timeout_s" in said
    (left_s,) = re.findall(r"for (\d+\.\d) s more", said)
    assert 0 < float(left_s) < SETTINGS.connect_timeout_s


@pytest.mark.usefixtures("silent_port")
def test_so_is_who_waits_for_one_that_takes_the_call_and_says_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = ClientProgram._tell_of_trying

    def leap(program: ClientProgram, give_up_at: float) -> None:
        tell(program, give_up_at)
        cast("LeapingLoop", asyncio.get_running_loop()).leapt_s = 2 * SETTINGS.connect_timeout_s

    monkeypatch.setattr(ClientProgram, "_tell_of_trying", leap)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UnreachableError):
            Client(address, settings=SETTINGS)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "no answer yet" in said
