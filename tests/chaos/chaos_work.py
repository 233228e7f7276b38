"""What the tasks of chaos tests do. Slot processes import this file, so it needs nothing but Python.

A task's number says all of it: what it gives back, and whether it may begin twice. When it begins and when
it ends it says so in a ledger outside the system: one record at the end of a file, by one write. A
record's size divides that of a page, so a kill leaves all of it or nothing.
"""

from __future__ import annotations

import os
import signal
import struct
import time

RECORD = "<QddI4x"
"""A record of the ledger: the task's number, when it began, when it ended (0 until it has), its process."""

_ledgers: dict[str, int] = {}


def value_of(number: int) -> int:
    """What the task of a number gives back."""
    return (number * 0x9E3779B97F4A7C15 ^ number >> 7) & 0xFFFFFFFFFFFF


def may_begin_once(number: int) -> bool:
    """Whether the task of a number is submitted with `max_attempts=1`: the odd ones are."""
    return number % 2 == 1


def step(ledger: str, number: int, seconds: float) -> int:
    """Last a while."""
    began = _note(ledger, number, time.monotonic(), 0.0)
    if seconds:
        time.sleep(seconds)
    _note(ledger, number, began, time.monotonic())
    return value_of(number)


def held(ledger: str, number: int, gate: str) -> int:
    """Last until a file is there."""
    began = _note(ledger, number, time.monotonic(), 0.0)
    while not os.path.exists(gate):  # noqa: PTH110 - no path is needed
        time.sleep(0.02)
    _note(ledger, number, began, time.monotonic())
    return value_of(number)


def step_behind(ledger: str, number: int, seconds: float, gate: str) -> int:
    """Last a while once a file is there."""
    while not os.path.exists(gate):  # noqa: PTH110 - no path is needed
        time.sleep(0.02)
    return step(ledger, number, seconds)


def deadly(ledger: str, number: int, gate: str) -> int:
    """Wait for a file of this process's own, then kill it."""
    _note(ledger, number, time.monotonic(), 0.0)
    while not os.path.exists(f"{gate}-{os.getpid()}"):  # noqa: PTH110 - no path is needed
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
    return value_of(number)


def _note(ledger: str, number: int, began: float, ended: float) -> float:
    file = _ledgers.get(ledger)
    if file is None:
        file = _ledgers[ledger] = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, struct.pack(RECORD, number, began, ended, os.getpid()))
    return began
