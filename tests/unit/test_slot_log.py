from __future__ import annotations

import logging
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from overtaking import Overtaken

from distcomp.ids import FunctionId
from distcomp.rows import LINE_CHARACTERS
from distcomp.slot import Finished
from distcomp.slot_log import SlotLog
from distcomp.slot_protocol import RECEIVE_BYTES, RunProgressed, RunTasks, SlotStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class Task:
    """What runs, and what was kept as printed by it."""

    def __init__(self) -> None:
        self.index = 4
        self.kept: list[bytes] = []
        self.log = SlotLog(lambda: (1, self.index), self.kept.append)

    def taken(self) -> list[tuple[int, str, int, str]]:
        logged = self.log.take(1)
        return [] if logged is None else [tuple(line) for line in logged.lines]  # type: ignore[misc]


@contextmanager
def running() -> Iterator[Task]:
    """A task whose client wants what it logs; in a process whose root logger is as in a slot's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:], root.level = [], logging.WARNING
    made = Task()
    made.log.begin(5, 1 << 20)
    try:
        yield made
        made.log.end()
        assert root.handlers == []
    finally:
        root.handlers[:], root.level = handlers, level


def test_whole_lines_go_at_once_and_the_rest_with_the_task() -> None:
    with running() as task:
        task.log.printed("stdout", b"one\ntw")
        task.log.printed("stderr", b"err\n")
        assert task.taken() == [(4, "stdout", 0, "one"), (4, "stderr", 0, "err")]
        task.log.printed("stdout", b"o")
        assert task.taken() == []
        task.index = 5
        task.log.printed("stdout", b"next")
        assert task.taken() == [(4, "stdout", 0, "two")]
        task.log.end()
        assert task.taken() == [(5, "stdout", 0, "next")]
        assert not task.log.wanted
        task.log.begin(5, 1 << 20)


def test_records_are_taken_with_their_level_and_kept_for_failures() -> None:
    with running() as task:
        logging.getLogger("a.b").info("grün %s", "\ud800")
        logging.getLogger("a.b").debug("not wanted")
        try:
            {}["key"]
        except KeyError:
            logging.getLogger().exception("it failed")
        first, second = task.taken()
        assert first == (4, "a.b", logging.INFO, "grün \\ud800")
        assert second[1:3] == ("root", logging.ERROR)
        assert second[3].startswith("it failed\nTraceback")
        assert second[3].endswith("KeyError: 'key'")
        assert task.kept[0] == "grün \\ud800\n".encode()


def test_the_root_logger_is_left_as_it_was_or_as_the_task_set_it() -> None:
    with running() as task:
        root = logging.getLogger()
        task.log.end()
        assert root.level == logging.WARNING
        task.log.begin(5, 1 << 20)
        assert root.level == logging.INFO
        root.setLevel(logging.DEBUG)
        task.log.end()
        assert root.level == logging.DEBUG
        task.log.begin(5, 1 << 20)
        assert root.level == logging.DEBUG


def test_what_other_handlers_write_is_not_kept_twice() -> None:
    with running() as task:
        task.log.end()
        other = logging.NullHandler()
        logging.getLogger().addHandler(other)
        task.log.begin(5, 1 << 20)
        logging.getLogger("x").warning("once")
        assert task.kept == []
        assert len(task.taken()) == 1
        logging.getLogger().removeHandler(other)


def test_too_much_is_dropped_and_counted() -> None:
    with running() as task:
        task.log.printed("stdout", b"x\n" * 8)
        logged = task.log.take(7)
        assert logged is not None
        assert (logged.run, len(logged.lines), logged.dropped) == (7, 5, 3)
        assert task.log.take(7) is None


def test_a_line_without_end_is_cut() -> None:
    with running() as task:
        for _ in range(64):
            task.log.printed("stdout", b"x" * 1024)
        assert task.taken() == []
        task.log.printed("stdout", b"\n")
        ((_, _, _, text),) = task.taken()
        assert len(text) == LINE_CHARACTERS


def test_a_record_that_cannot_be_formatted_is_its_loggers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as task:
        monkeypatch.setattr(logging, "raiseExceptions", False)
        logging.getLogger("x").warning("%d", "no number")
        assert task.taken() == []


def test_what_threads_log_that_a_run_left_behind_is_not_sent_after_its_end() -> None:
    near, far = socket.socketpair()
    with near, far, running() as task:
        finished: Any = Finished(near, SlotStream())
        finished.open(RunTasks(1, FunctionId(b"f" * 32), 0, 1, 0, b"", eager=False))
        finished.log = task.log

        def end() -> None:
            task.log.end()
            finished.flush(ended=True)
            task.log.logged("left.behind", logging.INFO, "it was about to say this before the end")

        finished._lock = Overtaken(end)
        finished.flush_late()
        near.close()
        sent = b"".join(iter(lambda: far.recv(RECEIVE_BYTES), b""))
        (last,) = SlotStream().feed(sent)
        assert isinstance(last, RunProgressed)
        assert last.ended
        task.log.begin(5, 1 << 20)


def test_what_nobody_takes_is_never_more_than_a_seconds_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with running() as task:
        for _ in range(40):
            task.log.printed("stdout", b"x\n")
            now += 0.5
        logged = task.log.take(1)
        assert logged is not None
        assert (len(logged.lines), logged.dropped) == (5, 35)
        task.log.printed("stdout", b"x\n" * 6)
        logged = task.log.take(1)
        assert logged is not None
        assert (len(logged.lines), logged.dropped) == (5, 1)
