"""What the kernel knows of processes and descriptors, for tests that ask what is left of something."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

PROC = Path("/proc")
PR_SET_CHILD_SUBREAPER = 36
DEAD = "ZX"


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, so that none gets out of sight."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    return _stat(pid)[0] not in DEAD


def children(pid: int) -> list[int]:
    """The running children of a process."""
    return [each for each, (state, parent) in _processes().items() if parent == pid and state not in DEAD]


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        found += children(parent)
    return found


def reap_adopted(known: set[int]) -> None:
    """Take leave of ended children that are not `known`: they were adopted, and nobody else will."""
    for pid, (state, parent) in _processes().items():
        if parent == os.getpid() and state in DEAD and pid not in known:
            with contextlib.suppress(ChildProcessError):  # somebody has
                os.waitpid(pid, os.WNOHANG)


def command_line(pid: int) -> str:
    """How a process was started, for people."""
    return _read(pid, "cmdline").replace("\0", " ").strip()


def descriptors(pid: int) -> dict[int, str]:
    """The open descriptors of a process, and what they lead to."""
    leads = {int(entry.name): _leads_to(entry) for entry in (PROC / str(pid) / "fd").iterdir()}
    return {number: what for number, what in leads.items() if what}


def _leads_to(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:  # the one by which the folder was listed
        return ""


def _processes() -> dict[int, tuple[str, int]]:
    return {int(entry.name): _stat(int(entry.name)) for entry in PROC.glob("[0-9]*")}


def _stat(pid: int) -> tuple[str, int]:
    """State and parent of a process; one that is gone is dead."""
    words = _read(pid, "stat").rpartition(")")[2].split()
    return (words[0], int(words[1])) if words else ("X", 0)


def _read(pid: int, file: str) -> str:
    try:
        return (PROC / str(pid) / file).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
