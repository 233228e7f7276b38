"""Progress over a real cluster: what is counted, and that tqdm can be used as with any futures."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clusters import until

from distcomp import displays
from distcomp.client import Client
from distcomp.displays import Silence, Tally
from distcomp.waiting import as_completed
from distcomp.watching import progress

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tallies(monkeypatch: pytest.MonkeyPatch) -> list[Tally]:
    """The last tally of each display."""
    last: list[Tally] = []

    class Seen(Silence):
        def close(self, tally: Tally) -> None:
            last.append(tally)

    monkeypatch.setattr(displays, "_fitting", lambda _: Seen())
    return last


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    with Client(slots=2) as made:
        yield made


def half(number: int) -> int:
    if number == 3:
        raise ValueError(number)
    return number // 2


def second_time(folder: str, number: int) -> int:
    try:
        Path(folder, str(number)).mkdir()
    except FileExistsError:
        return number
    raise ValueError("the first time")


def hold(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.005)


def test_an_array_is_counted_to_its_end(client: Client, tallies: list[Tally]) -> None:
    array = client.map(half, range(10))
    assert progress(array) is array
    assert array.done()
    assert tallies == [Tally(10, 10, 1, 0)]
    assert (array.failed_count, array.retried_count) == (1, 0)
    array.retry().wait()
    assert array.failed_count == 1


def test_retries_are_told(client: Client, tallies: list[Tally], tmp_path: Path) -> None:
    patient = client.options(retries=1)
    array = patient.map(second_time, [str(tmp_path)] * 8, range(8))
    assert array.progress().results() == list(range(8))
    futures = [patient.submit(second_time, str(tmp_path), number) for number in (8, 9)]
    progress(futures)
    assert tallies == [Tally(8, 8, 0, 8), Tally(2, 2, 0, 2)]


def test_a_stream_shows_how_far_it_was_read(client: Client, tallies: list[Tally]) -> None:
    stream = client.map(abs, iter(range(100)))
    results = progress(stream)
    assert next(results) == 0
    assert tallies == []
    assert list(results) == list(range(1, 100))
    assert tallies == [Tally(None, 100, 0, 0)]


def test_tqdm_over_as_completed(client: Client) -> None:
    tqdm = pytest.importorskip("tqdm", reason="the extra for progress bars is not installed")
    futures = [client.submit(abs, -number) for number in range(20)]
    with Path(os.devnull).open("w") as nowhere:
        bar = tqdm.tqdm(as_completed(futures), total=len(futures), file=nowhere)
        assert sorted(future.result() for future in bar) == list(range(20))
        assert bar.n == 20
        array = client.map(abs, range(20))
        assert sum(1 for _ in tqdm.tqdm(array, file=nowhere)) == 20


def test_a_second_of_work_is_a_line_in_a_terminal_without_tqdm(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(displays, "find_spec", lambda _: None)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    watching = threading.Thread(target=client.map(hold, [str(tmp_path / "gate")] * 4).progress)
    watching.start()
    written: list[str] = []
    until(lambda: written.append(capsys.readouterr().err) or "of 4 done" in "".join(written), "a line")  # type: ignore[func-returns-value]
    (tmp_path / "gate").touch()
    watching.join()
    assert "4 of 4 done" in (last := capsys.readouterr().err)
    assert last.endswith("\n")
