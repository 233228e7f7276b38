"""What the two programs of an embedded cluster share (see `distcomp.cluster`, which starts them).

Settings come as one JSON line on standard input, because everybody on this host can read command
lines. The end of standard input, or of the owner's process, ends the program at once. A line `ready`
on standard output says that it serves.

A script's first result waits for these programs: they import no flags.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from distcomp import transport
from distcomp.cli import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def run(program: Callable[[dict[str, Any]], Coroutine[Any, Any, int]]) -> int:
    """Read the settings and run the program to its end; returns its exit code."""
    settings = json.loads(sys.stdin.buffer.readline())
    with logs.opened("warning"):
        loop = transport.new_event_loop()
        try:
            return loop.run_until_complete(program(settings))
        finally:
            loop.close()


def watch_owner(owner_pid: int, on_gone: Callable[[], None]) -> None:
    """Call `on_gone` once standard input or the owner's process ends.

    A fork of the owner may hold the pipe open, so the process is watched too, where the system can.
    """
    loop = asyncio.get_running_loop()
    watched = [sys.stdin.fileno()]
    if hasattr(os, "pidfd_open") and os.getppid() == owner_pid:
        watched.append(os.pidfd_open(owner_pid))

    def gone() -> None:
        for fd in watched:
            loop.remove_reader(fd)
        on_gone()

    if os.getppid() != owner_pid:
        on_gone()
        return
    for fd in watched:
        loop.add_reader(fd, gone)


def say_ready() -> None:
    """Tell the owner that this program serves."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
