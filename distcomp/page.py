"""The page that a slot process shares with its supervisor: layout and access, over any writable buffer.

The law of the page. Every word has one writer:

    run, begun, begun_at        the slot
    stop, wanted_run/_index     the supervisor (which also lays out a lane before it sends the run)
    printed_…, the ring         the slot

A run has a lane, `run % LANES`. Before each task the slot writes `begun_at`, then `begun`, then reads
`stop`; it goes ahead only if `begun < stop`. The supervisor only ever lowers `stop`, waits until both
stores must have become visible, and reads `begun`: what lies from `max(stop, begun + 1)` on will never
begin in that slot. What lies below, the slot runs or reports as not reached. `max(stop, begun)` would
be wrong: the slot may have passed the test for `begun` just before `stop` was lowered.

`begun_at` is 0 while no task runs. It is written before `begun`, so that whoever reads `begun` first
never takes a task for older than it is.
"""

from __future__ import annotations

import time
from typing import NamedTuple

LANES = 8
"""Runs that may be started and not ended in one slot process."""

LANE_WORDS = 8
BEGUN, STOP, BEGUN_AT = 0, 1, 2
"""Places within a lane. A lane fills a cache line, so that lanes do not slow each other."""

RUN = 0
WANTED_RUN, WANTED_INDEX = 8, 9
PRINTED_RUN, PRINTED_INDEX, PRINTED_BYTES = 16, 17, 18
FIRST_LANE = 24
HEADER_BYTES = 4096

SETTLE_NS = 10_000
"""How long a store may stay unseen by another core: tens of nanoseconds; this is far beyond."""


class Begun(NamedTuple):
    """What a slot has begun: run 0 and task -1 if nothing; `at_ns` on the monotonic clock."""

    run: int
    task_index: int
    at_ns: int


NOTHING = Begun(0, -1, 0)


def page_bytes(output_bytes: int) -> int:
    """The size of a page whose ring keeps the last `output_bytes` that a task printed."""
    return HEADER_BYTES + output_bytes


def lane_of(run: int) -> int:
    """The place of the first word of a run's lane."""
    return FIRST_LANE + (run % LANES) * LANE_WORDS


class Page:
    """One side's view of a page.

    Args:
        buffer: at least `page_bytes` writable bytes, shared between the two sides, at first all zero.

    Attributes:
        words: the header as signed 64-bit integers; the slot's loop writes them directly.
    """

    def __init__(self, buffer: memoryview) -> None:
        self.words = buffer[:HEADER_BYTES].cast("q")
        self._ring = buffer[HEADER_BYTES:]

    def release(self) -> None:
        """Let go of the buffer; nothing of this view may be used afterwards."""
        self.words.release()
        self._ring.release()

    # --- the supervisor's side --------------------------------------------------------------------

    def open_lane(self, run: int, start: int, stop: int) -> None:
        """Lay out the lane of a run that the slot has not been told of yet."""
        lane = lane_of(run)
        self.words[lane + BEGUN] = start - 1
        self.words[lane + STOP] = stop
        self.words[lane + BEGUN_AT] = 0

    def lower_stop(self, run: int, stop: int) -> int:
        """Take back what has not begun from `stop` on.

        Returns:
            The first index that this slot will never begin.
        """
        lane = lane_of(run)
        self.words[lane + STOP] = min(stop, self.words[lane + STOP])
        settled_ns = time.monotonic_ns() + SETTLE_NS
        while time.monotonic_ns() < settled_ns:
            pass
        return max(self.words[lane + STOP], self.words[lane + BEGUN] + 1)

    def begun(self) -> Begun:
        """What the slot runs now."""
        for _ in range(LANES):
            run = self.words[RUN]
            lane = lane_of(run)
            index, at_ns = self.words[lane + BEGUN], self.words[lane + BEGUN_AT]
            if run == self.words[RUN]:
                return Begun(run, index, at_ns) if run and at_ns else NOTHING
        return NOTHING

    def want_end(self, run: int, index: int) -> None:
        """Name the task that an interrupt is meant for."""
        self.words[WANTED_INDEX] = index
        self.words[WANTED_RUN] = run

    # --- the slot's side --------------------------------------------------------------------------

    def is_wanted(self) -> bool:
        """Whether the task now begun is the one that an interrupt is meant for."""
        run = self.words[RUN]
        index = self.words[lane_of(run) + BEGUN]
        return run != 0 and self.words[WANTED_RUN] == run and self.words[WANTED_INDEX] == index

    def printed(self, data: bytes) -> None:
        """Keep what the task now begun has printed: its last bytes, in a ring."""
        words, ring = self.words, self._ring
        run = words[RUN]
        index = words[lane_of(run) + BEGUN]
        if words[PRINTED_RUN] != run or words[PRINTED_INDEX] != index:
            words[PRINTED_BYTES], words[PRINTED_RUN], words[PRINTED_INDEX] = 0, run, index
        at, kept = words[PRINTED_BYTES] % len(ring), data[-len(ring) :]
        at = (at + len(data) - len(kept)) % len(ring)
        head = kept[: len(ring) - at]
        ring[at : at + len(head)] = head
        ring[: len(kept) - len(head)] = kept[len(head) :]
        words[PRINTED_BYTES] += len(data)  # last: whoever looks meanwhile sees no byte that is not there yet

    # --- either side ------------------------------------------------------------------------------

    def output(self, run: int, index: int) -> bytes:
        """The last bytes that this task printed, if it was the last to print."""
        if (self.words[PRINTED_RUN], self.words[PRINTED_INDEX]) != (run, index):
            return b""
        size, whole = self.words[PRINTED_BYTES], len(self._ring)
        if size <= whole:
            return bytes(self._ring[:size])
        at = size % whole
        return bytes(self._ring[at:]) + bytes(self._ring[:at])
