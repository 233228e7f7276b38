"""Leases as the scheduler keeps them, and how long they are made.

Law of a lease: an index of it is `open` (the array counts it as leased), or `cancelled` (settled for the
array, but the worker has not said that it is gone), or answered. A lease is over when nothing is open or
cancelled; until then it keeps a slot of its worker busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core.nesting import leave_task
from distcomp.core.spans import Span, cut, joined

if TYPE_CHECKING:
    from distcomp.core.arrays import HeldChunk, TaskArrayState
    from distcomp.core.nesting import NestingTask
    from distcomp.core.roster import WorkerEntry
    from distcomp.ids import Token

UNKNOWN_S = 1.0
"""What a task is taken to last until one of its kind was measured."""

SHORTEST_S = 1e-7
"""No task is taken to be faster: a slot needs longer to begin one."""


class OpenLease:
    """A lease that is not over.

    Attributes:
        open: what of it the array counts as leased, as spans; `size` counts their indexes.
        cancelled: what was cancelled and not answered for.
        pace_s: expected seconds per task when it was granted.
        long: expected to last longer than another lease may wait behind it.
        brisk: expected to reach a task border within that time.
        waits: granted behind another lease; whether it has begun is the worker's to know.
        begins_at: when it was granted, or is expected to begin if it waits.
        heard_at: when it was granted, began, or was last partly settled.
        nests: its tasks of which clients speak, by index; None if there are none.
        retract_until: until when an answer to `RetractLease` is awaited.
        batch: what its grant waits for; see `recording`.
    """

    __slots__ = (
        "array",
        "batch",
        "begins_at",
        "brisk",
        "cancelled",
        "chunk",
        "heard_at",
        "long",
        "nests",
        "open",
        "pace_s",
        "retract_until",
        "size",
        "token",
        "urgent",
        "waits",
        "worker",
    )

    def __init__(
        self,
        token: Token,
        array: TaskArrayState,
        chunk: HeldChunk,
        worker: WorkerEntry,
        span: Span,
        *,
        urgent: bool,
        horizon_s: float,
        now: float,
    ) -> None:
        start, stop = span
        pace_s = array.pace_s
        known = pace_s >= 0 and not array.definition.nests
        if pace_s < 0:
            pace_s = UNKNOWN_S
        self.token = token
        self.array = array
        self.chunk = chunk
        self.worker = worker
        self.open = [span]
        self.size = size = stop - start
        self.cancelled: list[Span] = []
        self.pace_s = pace_s
        self.brisk = known and pace_s <= horizon_s
        self.long = not known or array.eager or size * pace_s > horizon_s
        self.waits = False
        self.urgent = urgent
        self.begins_at = self.heard_at = now
        self.retract_until = 0.0
        self.batch = 0
        self.nests: dict[int, NestingTask] | None = None

    def begin(self, now: float) -> None:
        """Note that it waits no more."""
        self.waits = False
        self.begins_at = now

    @property
    def over(self) -> bool:
        """Whether the worker has answered for all of it."""
        return not self.size and not self.cancelled

    def answer(self, start: int, stop: int) -> list[Span]:
        """Note that the worker has answered for `start` to `stop`; return what of it was open.

        Here alone indexes leave a lease, whatever becomes of them.
        """
        taken = cut(self.open, start, stop)
        left = 0
        for low, high in taken:
            left += high - low
        worker = self.worker
        self.size -= left
        worker.pool.leased -= left
        worker.load_s -= left * self.pace_s
        if self.nests is not None:
            leave_task(self, taken)
        if self.cancelled:
            cut(self.cancelled, start, stop)
        return taken

    def cancel(self, start: int, stop: int) -> list[Span]:
        """Move what is open between `start` and `stop` to what is cancelled, and return it."""
        cancelled, self.cancelled = self.cancelled, []
        taken = self.answer(start, stop)
        self.cancelled = joined([*cancelled, *taken])
        return taken


def lease_length(array: TaskArrayState, slots: int, target_s: float, rate: float) -> int:
    """How many of the array's pending tasks one lease should hold.

    Args:
        array: has something pending.
        slots: how many slots can run it.
        target_s: the seconds of work that a lease should hold.
        rate: how many leases may settle in a second; more slots get longer leases for it.
    """
    pace_s = array.pace_s
    if pace_s < 0 or array.eager or array.definition.nests:
        return 1
    by_time = int(max(target_s, slots / rate) / (pace_s or SHORTEST_S))
    return max(1, min(by_time, array.pending.count // (2 * slots) + 1))
