"""Leases, arrays and sessions as records leave them, in sets of ranges: the parts of an `image.Image`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core.arrays import Trial
from distcomp.core.ranges import RangeSet

if TYPE_CHECKING:
    from distcomp import records
    from distcomp.core.outbox import Outcome
    from distcomp.core.sessions import PastArray
    from distcomp.core.spans import Span
    from distcomp.ids import ArrayId, Token, WorkerId
    from distcomp.rows import TaskOptions


class LeaseImage:
    """A lease with something open."""

    __slots__ = ("array", "open", "token", "worker")

    def __init__(self, token: Token, array: ArrayImage, worker: WorkerId, spans: list[Span]) -> None:
        self.token = token
        self.array = array
        self.worker = worker
        self.open = spans


class ArrayImage:
    """An array that is not over.

    Attributes:
        chunks: the records that brought them, by the first index that each brought.
        cut: see `arrays.TaskArrayState`.
        delays: seconds before the next try of an index, by index.
        partial: not all of its chunks may have come yet.
    """

    __slots__ = (
        "accepted",
        "chunks",
        "closed",
        "cut",
        "delays",
        "failed",
        "function",
        "id",
        "leases",
        "options",
        "partial",
        "pending",
        "retried",
        "trials",
    )

    def __init__(self, array: ArrayId, function: bytes, options: TaskOptions) -> None:
        self.id = array
        self.function = function
        self.options = options
        self.accepted = 0
        self.closed = self.partial = self.cut = False
        self.failed = self.retried = 0
        self.pending = RangeSet()
        self.chunks: dict[int, records.TasksAccepted | records.ChunkRestated] = {}
        self.leases: dict[Token, LeaseImage] = {}
        self.trials: dict[int, Trial] = {}
        self.delays: dict[int, float] = {}

    def add(self, record: records.TasksAccepted) -> None:
        """Take in more tasks."""
        self.accepted = stop = record.start + record.tasks
        self.pending.add(record.start, stop)
        self.chunks[record.start] = record

    def trial(self, index: int) -> Trial:
        """The past of `index`, begun if it had none."""
        trial = self.trials.get(index)
        if trial is None:
            trial = self.trials[index] = Trial()
        return trial


class SessionImage:
    """A session that is not gone.

    Attributes:
        arrays: by counter, those that are not over; see also `untouched`.
        untouched: by counter, arrays that came at once and of which nothing else is known, but perhaps that
            they are `begun`. Where tasks come one by one, nearly all are such, and two records are read in
            a fraction of the time.
        begun: by counter, the leases that hold all of an array.
        outbox: what its client has not acknowledged, by number.
        leases: those of all sessions, by token.
        past, received: see `sessions.Session`.
        run: how it was last opened if it is a run.
        left_at: since when it has been without client, on the wall clock; below 0 if it had one.
        partial: not all of its arrays may have come yet.
    """

    __slots__ = (
        "arrays",
        "beginning",
        "begun",
        "closed",
        "finished",
        "leases",
        "left_at",
        "outbox",
        "partial",
        "past",
        "received",
        "run",
        "seq",
        "untouched",
    )

    def __init__(
        self,
        beginning: records.SessionBegan,
        leases: dict[Token, LeaseImage | records.LeaseGranted],
        *,
        partial: bool,
    ) -> None:
        self.beginning = beginning
        self.leases = leases
        self.partial = partial
        self.closed = False
        self.seq = 0
        self.arrays: dict[int, ArrayImage] = {}
        self.untouched: dict[int, records.TasksAccepted] = {}
        self.begun: dict[int, records.LeaseGranted] = {}
        self.finished = RangeSet()
        self.past: dict[int, PastArray] = {}
        self.received: dict[int, RangeSet] = {}
        self.outbox: dict[int, Outcome] = {}
        self.run: records.RunOpened | None = None
        self.left_at = -1.0

    def array(self, counter: int) -> ArrayImage | None:
        """The array with this counter, as one that something is said of."""
        array = self.arrays.get(counter)
        if array is None and counter in self.untouched:
            record = self.untouched.pop(counter)
            array = self.arrays[counter] = ArrayImage(record.array, record.function, record.options)
            array.add(record)
            array.closed = True
            granted = self.begun.pop(counter, None)
            if granted is not None:
                lease = LeaseImage(granted.token, array, granted.worker, array.pending.clear())
                array.leases[lease.token] = self.leases[lease.token] = lease
        return array

    def begin(self, record: records.LeaseGranted) -> bool:
        """Note a lease that holds all of an array that is untouched; whether it does."""
        counter = record.array[1]
        told = self.untouched.get(counter)
        if told is None or counter in self.begun or told.options.max_attempts:
            return False
        if record.stop - record.start != told.tasks or record.token in self.leases:
            return False
        self.begun[counter] = self.leases[record.token] = record
        return True

    def settle(self, record: records.TasksEnded) -> records.TasksAccepted | None:
        """Forget an array that is begun if this is the end of all of it; returns what it was."""
        counter = record.array[1]
        granted = self.begun.get(counter)
        if granted is None or granted.token != record.token:
            return None
        if record.spans != ((granted.start, granted.stop),):
            return None
        del self.begun[counter], self.leases[granted.token]
        return self.untouched.pop(counter)

    def finish(self, counter: int) -> None:
        """Note that the array with this counter is over."""
        self.arrays.pop(counter, None)
        if counter not in self.finished:
            self.finished.add(counter, counter + 1)
