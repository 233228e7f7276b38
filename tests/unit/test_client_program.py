from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from distcomp import Client, UnreachableError, client_program
from distcomp.config import ClientSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def silent_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port at which nobody listens, and nobody else will."""
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.setattr(client_program, "NOTICE_S", 0.05)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_who_waits_for_a_scheduler_that_does_not_answer_is_told_so_and_until_when(
    silent_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTCOMP_ADDRESS", f"tcp://127.0.0.1:{silent_port}")
    with pytest.raises(UnreachableError, match="refused"):
        Client(settings=ClientSettings(connect_timeout_s=0.3))
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for word in (f"127.0.0.1:{silent_port}", "as DISTCOMP_ADDRESS says", "refused", "connect_timeout_s"):
        assert word in said
    assert "for 0.2" in said or "for 0.3" in said, said


@pytest.mark.usefixtures("silent_port")
def test_so_is_who_waits_for_one_that_takes_the_call_and_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UnreachableError):
            Client(address, settings=ClientSettings(connect_timeout_s=0.2))
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "no answer yet" in said
