"""Shows at the client what its tasks print and log while they run."""

from __future__ import annotations

import logging
import queue
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from distcomp.rows import LogLine

ROOT = "distcomp.tasks"
"""The logger that records of tasks go to: each to a logger below it, of the name that it has in its task."""

STDERR, STDOUT = "stderr", "stdout"


class Said(NamedTuple):
    """A line of a task, or a number of lines of several that were dropped: `line` is None then.

    `who` names the task, such as `solve[3]@left`.
    """

    who: str
    line: LogLine | None
    dropped: int = 0


class TaskPrinter:
    """Prints in a thread of its own, because what it prints to may be slow; what is too much is dropped.

    Args:
        most_lines: how many lines may wait.
    """

    def __init__(self, most_lines: int) -> None:
        self._waiting: queue.Queue[Said | None] = queue.Queue(most_lines)
        self._thread: threading.Thread | None = None
        self._dropped = 0

    def add(self, said: Said) -> None:
        """Have something shown; only the client's loop thread calls this."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._show_all, name="distcomp-printer", daemon=True)
            self._thread.start()
        if self._dropped and not self._waiting.full():
            self._waiting.put_nowait(Said("the tasks", None, self._dropped))
            self._dropped = 0
        try:
            self._waiting.put_nowait(said)
        except queue.Full:
            self._dropped += 1 if said.line is not None else said.dropped

    def close(self, timeout_s: float) -> None:
        """Show what waits, within a time, and end the thread."""
        if self._thread is None:
            return
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return  # it is stuck, and ends with the process
        self._thread.join(timeout_s)

    def _show_all(self) -> None:
        while (said := self._waiting.get()) is not None:
            try:
                show(said)
            except Exception:  # noqa: PERF203 - the next line may go well
                logging.getLogger("distcomp").exception("what a task printed could not be shown")


def show(said: Said) -> None:
    """Print or log what a task said."""
    line = said.line
    if line is None:
        _print(STDERR, f"distcomp: {said.dropped:,} lines of {said.who} were dropped: they were too many")
    elif not line.level:
        _print(line.source, f"{said.who}: {line.text}")
    else:
        logger = logging.getLogger(ROOT if line.source == "root" else f"{ROOT}.{line.source}")
        if logger.isEnabledFor(line.level):
            logger.log(line.level, "%s: %s", said.who, line.text)


def _print(source: str, text: str) -> None:
    stream = sys.stdout if source == STDOUT else sys.stderr
    if stream is not None:
        stream.write(f"{text}\n")
        stream.flush()
