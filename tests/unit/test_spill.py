"""Messages in files: written, read again, let go of, by a thread or not."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.errors import DistcompError
from distcomp.ids import SessionId
from distcomp.protocol import TasksFailed, TasksSettled
from distcomp.rows import Failure
from distcomp.spill import FileNews, SpillFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSION = SessionId(b"s" * 16)
LARGE = os.urandom(100_000)
MESSAGES = [
    TasksSettled(1, (SESSION, 1), ((0, 2, b"two"), (5, 6, LARGE)), ((7, Failure("exception", text="no")),)),
    TasksFailed(2, (SESSION, 1), ((8, 9),), Failure("expired")),
    TasksSettled(3, (SESSION, 2), ((0, 1, LARGE), (1, 2, LARGE[::-1])), ()),
]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SpillFiles]:
    files = SpillFiles(tmp_path, memory_bytes=0, segment_bytes=150_000)
    yield files
    files.close()
    assert not list(tmp_path.iterdir())
    assert fds(tmp_path) == []


def fds(folder: Path) -> list[int]:
    """The open files of a folder, which have no names there."""
    entries = Path("/proc/self/fd").iterdir()
    return [int(entry.name) for entry in entries if folder in entry.resolve().parents]


def disk_bytes(folder: Path) -> int:
    return sum(os.fstat(fd).st_size for fd in fds(folder))


def test_what_is_stored_comes_back(files: SpillFiles) -> None:
    for number, message in enumerate(MESSAGES):
        files.store((number, SESSION, message))
    assert [files.load(number) for number in (2, 0, 1)] == [MESSAGES[2], MESSAGES[0], MESSAGES[1]]


def test_files_go_with_what_is_in_them(files: SpillFiles, tmp_path: Path) -> None:
    for number in range(20):
        files.store((number, SESSION, MESSAGES[number % 3]))
    before_bytes = disk_bytes(tmp_path)
    for number in range(20):
        files.drop(number)
        files.drop(number)
    assert before_bytes > 1_000_000
    assert disk_bytes(tmp_path) == 0
    assert len(fds(tmp_path)) == 1
    files.store((99, SESSION, MESSAGES[0]))
    assert files.load(99) == MESSAGES[0]


def test_what_is_left_of_an_empty_file_moves(files: SpillFiles, tmp_path: Path) -> None:
    small = TasksSettled(9, (SESSION, 1), ((0, 1, b"small"),), ())
    for number in range(40):
        files.store((number, SESSION, small if number % 2 else MESSAGES[2]))
    for number in range(0, 40, 2):
        files.drop(number)
    assert disk_bytes(tmp_path) < 500_000
    assert {files.load(number) for number in range(1, 40, 2)} == {small}


def test_a_file_that_was_changed_is_noticed(files: SpillFiles, tmp_path: Path) -> None:
    files.store((1, SESSION, MESSAGES[0]))
    (fd,) = fds(tmp_path)
    os.pwrite(fd, b"?", 60_000)
    with pytest.raises(DistcompError, match="does not hold"):
        files.load(1)
    os.ftruncate(fd, 50_000)
    with pytest.raises(DistcompError, match="does not hold"):
        files.load(1)


class Told:
    """What a thread says, and when it has said enough."""

    def __init__(self, files: SpillFiles) -> None:
        self.news: list[FileNews] = []
        self._came = threading.Condition()
        files.start(lambda call, *arguments: call(*arguments), self._take)

    def _take(self, news: list[FileNews]) -> None:
        with self._came:
            self.news += news
            self._came.notify()

    def wait(self, count: int) -> list[tuple[str, int]]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.news) >= count, 60)
        return [(news.what, news.number) for news in self.news]


def test_a_thread_does_it_in_order(files: SpillFiles) -> None:
    told = Told(files)
    files.work([(n, SESSION, m) for n, m in enumerate(MESSAGES)], [], [])
    files.work([], [1, 2, 77], [1])
    files.work([(5, SESSION, MESSAGES[1])], [1], [])
    expected = [("stored", 0), ("stored", 1), ("stored", 2), ("loaded", 1), ("loaded", 2), ("stored", 5)]
    assert told.wait(6) == expected
    assert [news.message for news in told.news[3:5]] == MESSAGES[1:]


def test_a_thread_tells_what_it_cannot_do(files: SpillFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(files)
    files.work([(1, SESSION, MESSAGES[0])], [], [])
    told.wait(1)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        patched.setattr(os, "pread", full)
        files.work([(2, SESSION, MESSAGES[0])], [1], [])
        assert told.wait(3)[1:] == [("failed", 2), ("lost", 1)]
    assert "No space" in told.news[1].why
    files.work([(2, SESSION, MESSAGES[0])], [1], [])
    assert told.wait(5)[3:] == [("stored", 2), ("loaded", 1)]


def test_what_cannot_be_moved_stays(files: SpillFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(files)
    small = TasksSettled(9, (SESSION, 1), ((0, 1, b"small"),), ())
    files.work([(1, SESSION, small), (2, SESSION, MESSAGES[2]), (3, SESSION, MESSAGES[2])], [], [])
    told.wait(3)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        files.work([], [1], [2])
        told.wait(4)
        files.work([], [1], [])
        told.wait(5)
    assert told.news[4].message == small
