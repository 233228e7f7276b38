from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from distcomp.rows import LogLine
from distcomp.task_prints import Said, TaskPrinter, show

if TYPE_CHECKING:
    import pytest


def test_prints_go_to_the_same_stream_with_a_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    show(Said("f[3]@left", LogLine(3, "stdout", 0, "hello")))
    show(Said("f[3]@left", LogLine(3, "stderr", 0, "oh")))
    show(Said("f@left", None, 1234))
    written = capsys.readouterr()
    assert written.out == "f[3]@left: hello\n"
    assert written.err == (
        "f[3]@left: oh\ndistcomp: 1,234 lines of f@left were dropped: they were too many\n"
    )


def test_records_go_to_loggers_of_the_same_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "distcomp.tasks"):
        show(Said("f[0]@left", LogLine(0, "a.b", logging.INFO, "50 % done")))
        show(Said("f[0]@left", LogLine(0, "root", logging.ERROR, "bad")))
        show(Said("f[0]@left", LogLine(0, "a.b", logging.DEBUG, "not wanted")))
    assert caplog.record_tuples == [
        ("distcomp.tasks.a.b", logging.INFO, "f[0]@left: 50 % done"),
        ("distcomp.tasks", logging.ERROR, "f[0]@left: bad"),
    ]


def test_a_process_without_streams_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    show(Said("f@left", LogLine(0, "stdout", 0, "hello")))
    assert capsys.readouterr() == ("", "")


def test_what_the_stream_does_not_take_in_time_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    shown: list[Any] = []

    def slow(said: Said) -> None:
        entered.set()
        assert go_on.wait(60)
        shown.append(said.dropped or (said.line and said.line.task_index))

    monkeypatch.setattr("distcomp.task_prints.show", slow)
    printer = TaskPrinter(2)
    printer.add(Said("f", LogLine(1, "stdout", 0, "")))
    assert entered.wait(60)
    for index in (2, 3, 4):
        printer.add(Said("f", LogLine(index, "stdout", 0, "")))
    printer.add(Said("f", None, 10))
    go_on.set()
    deadline = time.monotonic() + 60
    while printer._waiting.full():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    printer.add(Said("f", LogLine(5, "stdout", 0, "")))
    printer.close(60)
    assert shown == [1, 2, 3, 11, 5]


def test_a_stream_that_breaks_does_not_end_the_printer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(said: Said) -> None:
        raise OSError(said.who)

    monkeypatch.setattr("distcomp.task_prints.show", broken)
    printer = TaskPrinter(9)
    printer.add(Said("f", LogLine(1, "stdout", 0, "")))
    printer.add(Said("g", LogLine(1, "stdout", 0, "")))
    printer.close(60)
    assert [record.message for record in caplog.records] == ["what a task printed could not be shown"] * 2


def test_a_printer_that_is_stuck_is_left() -> None:
    printer = TaskPrinter(1)
    printer.close(0.0)
    printer._thread = threading.current_thread()
    printer._waiting.put(Said("f", None, 1))
    printer.close(0.001)
    assert printer._waiting.full()
