"""What goes wrong in a run, when, and whether it landed where it hurts."""

from __future__ import annotations

import bisect
import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from notes import Notes


class Fault(NamedTuple):
    """One fault that was made.

    Attributes:
        kind: what was done, such as `kill scheduler`.
        at, until: when it began, and when what it hit was there again, in monotonic seconds.
        pids: the processes that ended by it.
    """

    kind: str
    at: float
    until: float
    pids: frozenset[int] = frozenset()


class FaultsMissedError(Exception):
    """The faults of a run did not land while enough work was in flight: it shows nothing, well or ill."""


def dice(seed: int) -> random.Random:
    """Chance that falls the same way for the same seed."""
    return random.Random(seed)  # noqa: S311 - faults are no secret


def pauses(seed: int, low_s: float, high_s: float) -> Iterator[float]:
    """How long to wait before each fault, the same for the same seed."""
    chance = dice(seed)
    while True:
        yield chance.uniform(low_s, high_s)


class Flight:
    """How much of a client's work was in flight.

    Args:
        notes: of the client.
    """

    def __init__(self, notes: Notes) -> None:
        self._offered = sorted(at for indexes in notes.offered.values() for at, _ in indexes.values())
        self._got = sorted(got.at for got in notes.got)

    def at(self, at: float) -> int:
        """How many tasks were handed in and had no outcome."""
        return bisect.bisect_right(self._offered, at) - bisect.bisect_right(self._got, at)


def landed(faults: Sequence[Fault], notes: Notes, in_flight: int) -> list[Fault]:
    """The faults that were made while at least so many tasks were in flight."""
    flight = Flight(notes)
    return [fault for fault in faults if flight.at(fault.at) >= in_flight]


def check_landed(faults: Sequence[Fault], notes: Notes, *, wanted: int, in_flight: int) -> None:
    """Raise `FaultsMissedError` unless enough faults hit enough work.

    Args:
        faults: that were made.
        notes: of the client that was under load.
        wanted: how many of them had to land.
        in_flight: how many tasks had to be in flight for one to count.
    """
    hits = landed(faults, notes, in_flight)
    if len(hits) < wanted:
        raise FaultsMissedError(
            f"{len(hits)} of {len(faults)} faults landed while {in_flight} tasks or more were in "
            f"flight, and {wanted} should have: the run is invalid"
        )
