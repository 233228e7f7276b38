"""Passes on what tasks print and log while they run, for clients that asked for it.

Law: all under the lock. `_parts` holds what a task has printed of a line that is not complete, by stream;
`_lines` what is complete and was not taken, never more than a second's allowance; what goes beyond it is
only counted. The handler is at the root logger exactly while `wanted`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from distcomp.allowance import Allowance
from distcomp.rows import LINE_CHARACTERS, LogLine
from distcomp.slot_protocol import RunLogged

if TYPE_CHECKING:
    from collections.abc import Callable

LOGGED_LEVEL = logging.INFO
"""Records from this level on are made while somebody wants them, whatever the root logger's level."""


class SlotLog:
    """What the tasks of a slot process print and log.

    Args:
        task: gives the run and the index of the task that runs.
        keep: keeps bytes as printed by it, for its failure.
    """

    def __init__(self, task: Callable[[], tuple[int, int]], keep: Callable[[bytes], None]) -> None:
        self.wanted = False
        self._task, self._keep = task, keep
        self._lock = threading.RLock()  # a signal handler of a task may print while the task prints
        self._parts: dict[str, tuple[int, bytes]] = {}
        self._lines: list[LogLine] = []
        self._dropped = 0
        self._allowed: tuple[int, int] = (0, 0)
        self._allowance = Allowance(0, 0, 0.0)
        self._taken_at = 0.0
        self._handler = _RecordHandler(self)
        self._level_before = logging.NOTSET

    def begin(self, lines_per_s: int, bytes_per_s: int) -> None:
        """Pass on from now on what is printed and logged."""
        with self._lock:
            if self._allowed != (lines_per_s, bytes_per_s):
                self._allowed = lines_per_s, bytes_per_s
                self._allowance = Allowance(lines_per_s, bytes_per_s, time.monotonic())
            self._taken_at = time.monotonic()
            self.wanted = True
        root = logging.getLogger()
        self._level_before = root.level
        self._handler.alone = not root.handlers
        root.addHandler(self._handler)
        if root.level > LOGGED_LEVEL:
            root.setLevel(LOGGED_LEVEL)

    def end(self) -> None:
        """Pass on nothing more; what is not a whole line yet is one now."""
        self.leave()
        with self._lock:
            for name in list(self._parts):
                index, part = self._parts.pop(name)
                self._add(index, name, 0, part)

    def leave(self) -> None:
        """Hear of nothing more; in a child that a task forked, where the lock may be another thread's."""
        self.wanted = False
        root = logging.getLogger()
        root.removeHandler(self._handler)
        if root.level == LOGGED_LEVEL < self._level_before:  # else the task has set it
            root.setLevel(self._level_before)

    def printed(self, name: str, data: bytes) -> None:
        """Take in what the task that runs has written to a stream."""
        with self._lock:
            _, index = self._task()
            begun_by, part = self._parts.pop(name, (index, b""))
            if begun_by != index:
                self._add(begun_by, name, 0, part)
                part = b""
            *lines, rest = (part + data).split(b"\n")
            for line in lines:
                self._add(index, name, 0, line)
            if rest:
                self._parts[name] = index, rest[-4 * LINE_CHARACTERS :]

    def logged(self, name: str, level: int, text: str) -> None:
        """Take in a log record of the task that runs."""
        data = text.encode("utf-8", "backslashreplace")
        if self._handler.alone:  # then nobody else writes it to where failures take it from
            self._keep(data + b"\n")
        with self._lock:
            _, index = self._task()
            self._add(index, name[:256], level, data)

    def take(self, run: int) -> RunLogged | None:
        """What came since the last time, if anything did."""
        with self._lock:
            self._taken_at = time.monotonic()
            if not self._lines and not self._dropped:
                return None
            taken = RunLogged(run, tuple(self._lines), self._dropped)
            self._lines, self._dropped = [], 0
            return taken

    def _add(self, index: int, source: str, level: int, data: bytes) -> None:
        if self._allowance.take(len(data), self._taken_at):  # while nobody takes, no more is allowed
            text = data.decode("utf-8", "replace")[:LINE_CHARACTERS]
            self._lines.append(LogLine(max(0, index), source, level, text))
        else:
            self._dropped += 1


class _RecordHandler(logging.Handler):
    """Hands log records to a `SlotLog`.

    Attributes:
        alone: the root logger has no other handler.
    """

    def __init__(self, log: SlotLog) -> None:
        super().__init__()
        self.alone = False
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on a record; one that cannot be formatted is an error of who logged it."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - it may be anything, and logging reports it
            self.handleError(record)
        else:
            self._log.logged(record.name, max(1, record.levelno), text)
