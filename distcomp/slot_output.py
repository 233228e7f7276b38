"""Keeps what tasks print, and sees that what they leave behind goes with them.

The streams of a slot process write into the page, which outlives it: what a task printed before it
crashed or was killed is still there for its failure. Nothing is done per task; the ring is cleared when
another task prints.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distcomp.page import Page
    from distcomp.slot_log import SlotLog

_PARENT_FIELD, _START_FIELD = 1, 19
"""Places in `/proc/PID/stat` after the program's name: its parent, and its start in ticks since boot."""


class PageStream(io.RawIOBase):
    """Bytes written here end in the page's ring. `fileno` is the descriptor it stands for.

    Attributes:
        log: what else hears of them, if it wants to.
    """

    def __init__(self, page: Page, descriptor: int, lock: threading.RLock) -> None:
        super().__init__()
        self._page: Page | None = page
        self._descriptor, self._lock = descriptor, lock
        self._name = "stdout" if descriptor == 1 else "stderr"
        self.log: SlotLog | None = None

    def writable(self) -> bool:
        """Say that it is: that is all it is for."""
        return True

    def fileno(self) -> int:
        """Give the descriptor, for programs that a task starts with this stream as theirs."""
        return self._descriptor

    def write(self, data: Any) -> int:
        """Keep `data` as printed by the task that runs."""
        if self._page is None:
            return os.write(self._descriptor, data)
        kept = bytes(data)
        with self._lock:
            self._page.printed(kept)
        if self.log is not None and self.log.wanted:
            self.log.printed(self._name, kept)
        return len(kept)

    def leave_page(self) -> None:
        """Write to the descriptor from now on, in a child that a task forked."""
        self._page = self.log = None


def capture_streams(page: Page) -> tuple[PageStream, PageStream]:
    """Make `sys.stdout` and `sys.stderr` write into the page; gives what lies below them."""
    # Reentrant, because a signal handler of a task may print while the task prints.
    lock = threading.RLock()
    streams = PageStream(page, 1, lock), PageStream(page, 2, lock)
    for name, below in zip(("stdout", "stderr"), streams, strict=True):
        # A raw stream takes the place of a buffer: the wrapper writes everything through at once.
        raw: Any = below
        stream = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    return streams


def plain_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` write to their descriptors, as in any program."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = io.TextIOWrapper(
            io.FileIO(descriptor, "w", closefd=False),
            "utf-8",
            "backslashreplace",
            write_through=True,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def end_offspring(since_s: float) -> None:
    """Kill the programs that descend from this process and were started at `since_s` (monotonic) or later.

    An interrupted task leaves them behind; what earlier tasks started on purpose is spared. Only where
    there is a `/proc`; elsewhere they end with the slot process.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    if hasattr(time, "CLOCK_BOOTTIME"):  # the clock of `/proc`, which goes on while the machine sleeps
        since_s += time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    children: dict[int, list[tuple[int, float]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):  # it ended while we looked
            rest = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            started_s = (int(rest[_START_FIELD]) + 1) / ticks
            children.setdefault(int(rest[_PARENT_FIELD]), []).append((int(folder.name), started_s))
    found = children.get(os.getpid(), [])
    for pid, started_s in found:
        found += children.get(pid, [])
        if started_s >= since_s:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
