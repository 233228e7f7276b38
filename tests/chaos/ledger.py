"""The ledger that tasks write, as a reader sees it: every try of every task."""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from chaos_work import RECORD

if TYPE_CHECKING:
    from pathlib import Path


RECORD_BYTES = struct.calcsize(RECORD)


class Try(NamedTuple):
    """One try of a task: `attempt` counts them from 1 as they began; `ended_at` is 0 if it did not end."""

    number: int
    attempt: int
    pid: int
    began_at: float
    ended_at: float


def read_ledger(path: Path) -> dict[int, list[Try]]:
    """All tries by task, each task's in the order in which they began; times are monotonic."""
    data = path.read_bytes() if path.exists() else b""
    ends: dict[tuple[int, float, int], float] = {}
    for number, began_at, ended_at, pid in struct.iter_unpack(
        RECORD, data[: len(data) // RECORD_BYTES * RECORD_BYTES]
    ):
        key = (number, began_at, pid)
        ends[key] = max(ends.get(key, 0.0), ended_at)
    tries: dict[int, list[Try]] = defaultdict(list)
    for number, began_at, pid in sorted(ends):
        some = tries[number]
        some.append(Try(number, len(some) + 1, pid, began_at, ends[number, began_at, pid]))
    return dict(tries)


def begun_count(path: Path) -> int:
    """How many records there are: a measure of how far the work is."""
    return path.stat().st_size // RECORD_BYTES if path.exists() else 0
