"""`explain` and `replay` of tasks that run, wait and fail in a real cluster."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clusters import DEADLINE_S, until

from distcomp.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    with Client(slots=1) as made:
        yield made


def reciprocal(number: int, of: int = 1) -> float:
    return of / number


def crash_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("after the crash")


def test_a_task_runs_and_the_next_one_waits(client: Client) -> None:
    first = client.submit(time.sleep, 3600)
    until(first.running, "the task runs")
    second = client.options(priority=-1).submit(time.sleep, 3600)
    assert first.explain().state == "running"
    explained = until(lambda: told if (told := second.explain()).state == "waiting" else None, "it waits")
    assert "all 1 slot are busy" in explained.text
    array = client.map(time.sleep, [3600] * 3)
    assert until(lambda: array.futures[2].explain().state == "waiting", "the array waits, too")
    client.cancel([first, second, array])
    assert second.explain().state == "cancelled"


def test_a_failure_tells_of_all_attempts(client: Client, tmp_path: Path) -> None:
    future = client.options(retries=1).submit(crash_once, str(tmp_path / "crashed"))
    with pytest.raises(ValueError, match="after the crash"):
        future.result()
    explained = future.explain()
    assert explained.state == "failed"
    assert [attempt.kind for attempt in explained.attempts] == ["crashed", "exception", "exception"]
    assert [attempt.attempt for attempt in explained.attempts] == [1, 2, 3]
    assert all(attempt.worker and attempt.host for attempt in explained.attempts)
    assert "SIGKILL" in str(explained)


def test_failed_calls_are_replayed_with_their_arguments(client: Client) -> None:
    frames: list[dict[str, Any]] = []

    def look(trace: Any) -> None:
        frames.append(dict(trace.tb_frame.f_locals))

    alone = [client.submit(reciprocal, number, of=7) for number in (1, 0)]
    array = client.map(reciprocal, [2, 1, 0], [5, 6, 7], cost=[1, 2, 3])
    assert array.wait(DEADLINE_S)
    for future in (alone[1], array.futures[2]):
        with pytest.raises(ZeroDivisionError):
            future.replay(debugger=look)
    assert frames == [{"number": 0, "of": 7}] * 2
