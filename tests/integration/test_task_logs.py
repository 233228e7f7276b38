"""What tasks print and log, at the client, over a real cluster."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from clusters import until

from distcomp.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    with Client(slots=2) as made:
        yield made


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """All that was printed to stdout so far."""
    parts: list[str] = []

    def read() -> str:
        parts.append(capsys.readouterr().out)
        return "".join(parts)

    return read


def talk(number: int) -> int:
    print(f"number {number}")  # noqa: T201 - that is what is tested
    logging.getLogger("talk").info("logged %d", number)
    sys.stdout.write("no end")
    return number


def talk_and_wait(path: str) -> None:
    print("now")  # noqa: T201 - that is what is tested
    while not __import__("os").path.exists(path):
        time.sleep(0.01)


def flood() -> None:
    for number in range(50_000):
        print(number)  # noqa: T201 - that is what is tested


def test_lines_come_with_function_index_and_worker(
    client: Client, printed: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    worker = client.wait_for_workers(1, 90)[0].name
    with caplog.at_level(logging.INFO, "distcomp.tasks"):
        array = client.options(logs=True).map(talk, [7, 8, 9], cost=[1, 2, 3])
        assert array.results() == [7, 8, 9]
        until(lambda: printed().count("no end") == 3, "all lines")
        assert sorted(printed().splitlines()) == sorted(
            f"test_task_logs.talk[{index}]@{worker}: {text}"
            for index in range(3)
            for text in (f"number {index + 7}", "no end")
        )
        until(lambda: len(logged(caplog)) >= 3, "all records")
    records = logged(caplog)
    assert {(record.name, record.levelno) for record in records} == {("distcomp.tasks.talk", logging.INFO)}
    assert sorted(record.getMessage() for record in records) == [
        f"test_task_logs.talk[{index}]@{worker}: logged {index + 7}" for index in range(3)
    ]


def logged(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """The records that came from tasks."""
    return [record for record in caplog.records if record.name.startswith("distcomp.tasks")]


def test_lines_come_while_the_task_runs(client: Client, printed: Callable[[], str], tmp_path: Path) -> None:
    future = client.options(logs=True).submit(talk_and_wait, str(tmp_path / "go"))
    until(lambda: printed().endswith(": now\n"), "the line")
    assert printed().startswith("test_task_logs.talk_and_wait@")
    assert not future.done()
    (tmp_path / "go").touch()
    future.result(90)


def test_nothing_comes_unasked(client: Client, printed: Callable[[], str]) -> None:
    assert client.submit(talk, 1).result() == 1
    assert client.options(logs=True).submit(talk, 2).result() == 2
    until(lambda: "number 2" in printed(), "what was asked for")
    assert "number 1" not in printed()


def test_a_flood_is_cut_and_said(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.options(logs=True).submit(flood).result(90)
    client.close()
    written = capsys.readouterr()
    assert 1 <= len(written.out.splitlines()) < 10_000
    dropped = [line for line in written.err.splitlines() if "were dropped" in line]
    counts = [int(line.split()[1].replace(",", "")) for line in dropped]
    assert sum(counts) + len(written.out.splitlines()) == 50_000
