"""Task arrays: what the scheduler knows of tasks, without an object for any of them.

Law of an array: of its first `accepted` indexes each is in exactly one of

    pending    waits for a lease (in `pending`)
    delayed    failed, and waits for its time to be pending again (in `delayed`)
    leased     a lease of the array holds it (in `OpenLease.open`; only found by counting the others)
    settled    has its outcome, or was cancelled (in none of the three; only counted)

so `pending.count + len(delayed) + leased + settled == accepted`. Nothing leaves `settled`. An index with a
past (it failed, or ended a slot process, or its worker was lost) has a `Trial`, until it settles.
An array is finished when it is closed and everything is settled; then the scheduler forgets it.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

from distcomp.core.ranges import RangeSet
from distcomp.ids import NO_BUNDLE
from distcomp.rows import PastAttempt

if TYPE_CHECKING:
    from distcomp.core.functions import Definition
    from distcomp.core.leases import OpenLease
    from distcomp.core.queue import SessionClaim
    from distcomp.core.sessions import Session
    from distcomp.ids import ArrayId, BundleId, Token
    from distcomp.protocol import DefineBundle, DefineFunction
    from distcomp.rows import Failure, TaskOptions

_start_of = attrgetter("start")


class HeldChunk:
    """The arguments of the indexes `start` to `stop`.

    Attributes:
        base: the index that the blob begins with; below `start` if its first tasks had come before.
        blob: the opaque bytes; let go of when all its tasks are settled.
        bundle: what its tasks find their modules in.
        unsettled: how many of its tasks are not settled.
        batch: what was recorded of it; see `recording`.
    """

    __slots__ = ("base", "batch", "blob", "bundle", "start", "stop", "unsettled")

    def __init__(self, base: int, start: int, stop: int, blob: bytes, bundle: BundleId = NO_BUNDLE) -> None:
        self.base = base
        self.start = start
        self.stop = stop
        self.blob = blob
        self.bundle = bundle
        self.unsettled = stop - start
        self.batch = 0


MAX_PAST = 16
"""Bad ends of one index that are remembered, to be told."""

PAST_CHARACTERS = 200
"""How much is remembered of what was said about one."""


class Trial:
    """The past of one index: what counts against its limits, and the last of its bad ends."""

    __slots__ = ("crashes", "failures", "losses", "past", "starts")

    def __init__(self) -> None:
        self.failures = 0
        self.crashes = 0
        self.losses = 0
        self.starts = 0
        self.past: tuple[PastAttempt, ...] = ()

    def remember(self, failure: Failure) -> None:
        """Note how a try ended that is followed by another."""
        text = failure.text[:PAST_CHARACTERS]
        end = PastAttempt(failure.attempt, failure.kind, failure.worker, failure.host, text)
        self.past = (*self.past[1 - MAX_PAST :], end)

    @property
    def attempt(self) -> int:
        """The number of the next try, from 1."""
        return 1 + self.failures + self.crashes + self.losses


class TaskArrayState:
    """One task array in the scheduler.

    Attributes:
        order: its age; older arrays of a session go first.
        bundles: the bundles that its chunks need.
        lacking: how many of them are not here; it waits until all are.
        eager: its starts are counted (`max_attempts`), so leases are single and none waits.
        claim: its place in the queue; arrays of one session and priority share it.
        queued: whether its pending indexes count in the queue.
        seconds: measured seconds per task, or below 0 while nothing is known.
        retried: how many tries were followed by another one.
        untold: its client has not heard of all of them.
        cut: it was closed by another than its client's last submit.
        changed_at: when something last changed that an observer can see.
    """

    __slots__ = (
        "accepted",
        "accepted_at",
        "bundles",
        "changed_at",
        "chunks",
        "claim",
        "closed",
        "cut",
        "definition",
        "delayed",
        "eager",
        "empty_chunks",
        "failed",
        "forgotten",
        "id",
        "lacking",
        "leases",
        "options",
        "order",
        "pending",
        "queued",
        "retried",
        "seconds",
        "session",
        "settled",
        "trials",
        "untold",
    )

    def __init__(
        self,
        array_id: ArrayId,
        session: Session,
        definition: Definition[DefineFunction],
        options: TaskOptions,
        claim: SessionClaim,
        *,
        order: int,
        now: float,
    ) -> None:
        self.id = array_id
        self.session = session
        self.definition = definition
        self.options = options
        self.claim = claim
        self.order = order
        self.eager = options.max_attempts > 0
        self.accepted = 0
        self.closed = False
        self.pending = RangeSet()
        self.delayed: dict[int, float] = {}
        self.settled = 0
        self.failed = 0
        self.bundles: tuple[Definition[DefineBundle], ...] = ()
        self.lacking = 0
        self.leases: dict[Token, OpenLease] = {}
        self.chunks: list[HeldChunk] = []
        self.empty_chunks = 0
        self.trials: dict[int, Trial] = {}
        self.retried = 0
        self.queued = self.forgotten = self.untold = self.cut = False
        self.seconds = -1.0
        self.accepted_at = self.changed_at = now

    @property
    def leased(self) -> int:
        """How many indexes its leases hold."""
        return self.accepted - self.settled - len(self.delayed) - self.pending.count

    @property
    def has_needs(self) -> bool:
        """Whether the function and all bundles that its tasks need are here."""
        return self.definition.message is not None and not self.lacking

    @property
    def finished(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.closed and self.settled == self.accepted

    @property
    def pace_s(self) -> float:
        """Expected seconds per task, from this array or its function's past; below 0 if unknown."""
        return self.seconds if self.seconds >= 0 else self.definition.seconds

    def observe(self, sample_s: float, weight: float) -> None:
        """Take in a measured time per task."""
        known = self.seconds
        if known >= 0:
            sample_s = known + weight * (sample_s - known)
        self.seconds = self.definition.seconds = sample_s

    def chunk_at(self, index: int) -> HeldChunk:
        """The chunk with the arguments of `index`, which is not settled."""
        chunks = self.chunks
        if len(chunks) == 1:
            return chunks[0]
        return chunks[bisect_right(chunks, index, key=_start_of) - 1]

    def trial(self, index: int) -> Trial:
        """The past of `index`, begun if it had none."""
        trial = self.trials.get(index)
        if trial is None:
            trial = self.trials[index] = Trial()
        return trial

    def settle(self, start: int, stop: int) -> int:
        """Count indexes that are no longer pending, delayed or leased as settled.

        Returns:
            The bytes of arguments that nobody needs any more.
        """
        freed_bytes = 0
        while start < stop:
            chunk = self.chunk_at(start)
            end = min(stop, chunk.stop)
            freed_bytes += self.settle_in(chunk, start, end)
            start = end
        return freed_bytes

    def settle_in(self, chunk: HeldChunk, start: int, stop: int) -> int:
        """Settle as `settle` does what lies in one chunk.

        Chunks without blob, if more than one, go once they are the greater part: a constant cost each.
        """
        count = stop - start
        self.settled += count
        chunk.unsettled -= count
        if self.trials:
            for index in _within(self.trials, start, stop):
                del self.trials[index]
        if chunk.unsettled:
            return 0
        freed_bytes = len(chunk.blob)
        chunk.blob = b""
        self.empty_chunks += 1
        if 2 * self.empty_chunks > len(self.chunks) + 1:
            self.chunks = [chunk for chunk in self.chunks if chunk.unsettled]
            self.empty_chunks = 0
        return freed_bytes

    def next_trial(self, start: int, stop: int) -> int:
        """The first index after `start` and below `stop` that has a past, or `stop`."""
        return min((index for index in _within(self.trials, start + 1, stop)), default=stop)


def _within(trials: dict[int, Trial], start: int, stop: int) -> list[int]:
    """The indexes from `start` to `stop` that have a past, looked up from the shorter side."""
    if stop - start < len(trials):
        return [index for index in range(start, stop) if index in trials]
    return [index for index in trials if start <= index < stop]
