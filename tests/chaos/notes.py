"""What a client notes outside the system: what it offered, what was acknowledged, and what it got.

Each note is one line, appended by one write, so that a client can be killed at any moment.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Array: TypeAlias = "tuple[str, int]"
"""A task array: its session in hexadecimal digits, and its counter."""


class Got(NamedTuple):
    """An outcome as the client's program saw it: a value, or the name of an error and its text."""

    at: float
    number: int
    value: int | None
    error: str = ""
    text: str = ""


@dataclass
class Notes:
    """All notes of one client, or of several that did the same work one after the other.

    Attributes:
        offered: the task at each index of each array, and when it was handed in.
        acknowledged: how many tasks of each array were, and when that was said.
        got: outcomes in order.
        done: whether the client came to its end.
    """

    offered: dict[Array, dict[int, tuple[float, int]]] = field(default_factory=dict)
    acknowledged: dict[Array, list[tuple[float, int]]] = field(default_factory=dict)
    got: list[Got] = field(default_factory=list)
    done: bool = False


class NoteBook:
    """Where a client writes."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def offered(self, session: str, counter: int, start: int, numbers: Sequence[int]) -> None:
        """Tasks were handed in, the first at index `start`."""
        self._write("offered", session, counter, start, ",".join(map(str, numbers)))

    def acknowledged(self, session: str, counter: int, tasks: int) -> None:
        """The first `tasks` tasks of an array are the scheduler's now."""
        self._write("acknowledged", session, counter, tasks)

    def got(self, number: int, value: int) -> None:
        """A task's result is here."""
        self._write("got", number, value)

    def failed(self, number: int, error: BaseException) -> None:
        """A task's failure is here."""
        self._write("failed", number, type(error).__name__, *str(error).split())

    def done(self) -> None:
        """All work has ended."""
        self._write("done")

    def _write(self, *words: object) -> None:
        line = " ".join(map(str, (f"{time.monotonic():.4f}", *words)))
        os.write(self._file, f"{line}\n".encode(errors="replace"))


def read_notes(*paths: Path) -> Notes:
    """All that clients have noted so far; of a line that is being written nothing is seen."""
    notes = Notes()
    for path in paths:
        notes.done = False
        for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
            if line.endswith("\n"):
                _take_in(notes, line.split())
    return notes


def _take_in(notes: Notes, words: list[str]) -> None:
    at, kind, rest = float(words[0]), words[1], words[2:]
    if kind == "offered":
        indexes = notes.offered.setdefault((rest[0], int(rest[1])), {})
        for index, number in enumerate(rest[3].split(","), int(rest[2])):
            indexes[index] = (at, int(number))
    elif kind == "acknowledged":
        notes.acknowledged.setdefault((rest[0], int(rest[1])), []).append((at, int(rest[2])))
    elif kind == "got":
        notes.got.append(Got(at, int(rest[0]), int(rest[1])))
    elif kind == "failed":
        notes.got.append(Got(at, int(rest[0]), None, rest[1], " ".join(rest[2:])))
    else:
        notes.done = True
