"""What `Client("inline:")` has in the place of a cluster: tasks that run where somebody waits for them.

It answers to the same calls as `ClientState`, and decides the same things in a smaller way. Everything goes
through the same pickles as on the way to a cluster, so that isolation and errors are the same.

Law, under the program's mutex: an index of an array is *pending* (in `pending`), *delayed* (in the heap
of the delayed), or *taken* by a spell until that has settled it or given it back; it is in `open` until
it settles. An array with pending indexes is in the queue exactly once. Tasks submitted by a task (of higher
`depth`) go before all others, then higher priority, then age.
"""

from __future__ import annotations

import heapq
import os
import socket
import time
from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from distcomp.core.client_effects import ClientEffects, Explanation, Failed, KeptOutcomes, Returned
from distcomp.core.ranges import RangeSet
from distcomp.ids import SessionId, WorkerId
from distcomp.kinds import MAX_COUNTER
from distcomp.payload import load_function, open_chunk
from distcomp.protocol import ExplainTask, StatusReported, TaskExplained, TasksRetried
from distcomp.rows import Failure, Totals, WorkerRow
from distcomp.versions import installed_versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from distcomp.ids import FunctionId
    from distcomp.payload import Chunk, LoadedFunction
    from distcomp.rows import TaskOptions

    Spans = tuple[tuple[int, int], ...]

SPELL_TASKS = 1024
RETRIED_KINDS = frozenset({"exception", "timeout"})
"""Kinds of failure that `retries` may be spent on."""
_CANCELLED = Failure("cancelled", text="cancelled by its client")


class InlinePart:
    """The arguments of the indexes `start` to `stop`, of which `left` are open."""

    __slots__ = ("chunk", "left", "opened", "start", "stop")

    def __init__(self, start: int, stop: int, chunk: bytes) -> None:
        self.start = start
        self.stop = stop
        self.chunk = chunk
        self.left = stop - start
        self.opened: Chunk | None = None

    def open(self) -> Chunk:
        """The calls in it."""
        if self.opened is None:
            self.opened = open_chunk(self.chunk)
        return self.opened


_start_of = attrgetter("start")


class InlineArray:
    """One task array.

    Attributes:
        parts: those with open indexes, in order.
        failures: how often an index has failed, as far as it was tried again.
        starts: how often an index was started, if there is a limit to that.
    """

    def __init__(
        self, counter: int, function: FunctionId, blob: bytes, options: TaskOptions, depth: int
    ) -> None:
        self.counter = counter
        self.function = function
        self.blob = blob
        self.options = options
        self.depth = depth
        self.rank = (-depth, -options.priority, counter)
        self.parts: list[InlinePart] = []
        self.pending = RangeSet()
        self.open = RangeSet()
        self.failures: dict[int, int] = {}
        self.starts: dict[int, int] = {}
        self.retried = 0
        self.submitted = 0
        self.closed = False
        self.queued = False
        self.kept = self.is_single = False
        self.loaded: LoadedFunction | None = None

    def load(self) -> LoadedFunction:
        """The function, rebuilt from its bytes when its first task has begun."""
        if self.loaded is None:
            self.loaded = load_function(self.blob)
        return self.loaded

    def attempt(self, index: int) -> int:
        """The number of the present try of a task, from 1."""
        return 1 + self.failures.get(index, 0)

    def place_of(self, index: int) -> int:
        """Where in `parts` the one is that holds an open index."""
        return bisect_right(self.parts, index, key=_start_of) - 1


class Spell:
    """Neighbouring tasks that one thread runs, one after the other.

    Attributes:
        values: the results so far.
    """

    def __init__(self, array: InlineArray, part: InlinePart, start: int, stop: int) -> None:
        self.array = array
        self.start = start
        self.stop = stop
        self.values: list[Any] = []
        self._part = part
        self._calls: Iterator[tuple[Sequence[Any], dict[str, Any]]] | None = None

    @property
    def index(self) -> int:
        """The next task."""
        return self.start + len(self.values)

    def wants_next(self) -> bool:
        """Whether there is a next task, and somebody wants it."""
        return self.index < self.stop and self.index in self.array.open

    def call_next(self) -> Any:
        """Run the next task; whatever is raised here is its outcome."""
        function = self.array.load().function
        if self._calls is None:
            base = self._part.start
            self._calls = self._part.open().calls(self.start - base, self.stop - base)
        args, kwargs = next(self._calls)
        return function(*args, **kwargs)

    def is_retriable(self, error: BaseException) -> bool:
        """Whether `retries` are for such an error."""
        loaded = self.array.loaded
        return loaded is not None and loaded.is_retriable(error)


class NoReceipts:
    """Nobody but this process has what came, so nobody waits to hear that it is stored."""

    def stored(self, life: int, seqs: list[int]) -> None:
        """It is."""

    def not_stored(self, life: int, seqs: list[int]) -> None:
        """It is not."""


class InlineEngine:
    """The books of all arrays. It runs nothing by itself: see `inline_program`."""

    def __init__(self) -> None:
        self.arrays: dict[int, InlineArray] = {}
        self.depth = 0
        self.session = SessionId(bytes(16))
        self.receipts = NoReceipts()
        self._counter = 0
        self._queue: list[tuple[tuple[int, int, int], InlineArray]] = []
        self._delayed: list[tuple[float, int, int]] = []
        self._effects = ClientEffects()
        self._loss: Failure | None = None
        self._begun_at = time.monotonic()
        self._settled = self._failed = self._retried = 0
        self._busy_s = 0.0

    # --- what the client does, as with `ClientState` ----------------------------------------------

    def submit(
        self, function: FunctionId, name: str, blob: bytes, options: TaskOptions, *, kept: bool = False
    ) -> int:
        """Open an array of tasks of one function; returns its number, for `extend`."""
        del name
        self._counter += 1
        self.arrays[self._counter] = InlineArray(self._counter, function, blob, options, self.depth)
        self.arrays[self._counter].kept = kept
        return self._counter

    def extend(self, counter: int, tasks: int, chunk: bytes, *, last: bool, single: bool = False) -> None:
        """Add tasks to an array, with their arguments in one chunk; see `ClientState.extend`."""
        array = self.arrays.get(counter)
        if array is None:
            self._effects.release(tasks, len(chunk), single=single)
            return
        start, stop = array.submitted, array.submitted + tasks
        array.submitted, array.closed = stop, last
        if tasks:
            array.is_single = single
            array.parts.append(InlinePart(start, stop, chunk))
            array.open.add(start, stop)
            self._put_back(array, start, stop)
        if self._loss is not None:
            self._fail(array, self._loss)
        self._forget_if_over(array)

    def cancel(self, counter: int, spans: Spans) -> None:
        """Settle indexes as cancelled; no spans means the whole array, whatever may be added to it."""
        array = self.arrays.get(counter)
        if array is None:
            return
        if not spans:
            self._fail(array, _CANCELLED)
            return
        for start, stop in spans:
            self._settle_as(array, start, min(stop, array.submitted), _CANCELLED)
        self._forget_if_over(array)

    def cancel_pending(self, counter: int, spans: Spans) -> None:
        """Settle indexes as cancelled that nobody runs."""
        array = self.arrays.get(counter)
        if array is None:
            return
        for start, stop in spans or ((0, array.submitted),):
            for waiting in array.pending.cut(start, stop):
                self._settle_as(array, *waiting, _CANCELLED)
        self._forget_if_over(array)

    def ask_status(self) -> None:
        """Have the effects hold a snapshot: one worker of one slot, which is this process."""
        pending = sum(array.pending.count for array in self.arrays.values())
        busy = sum(array.open.count for array in self.arrays.values()) - pending - len(self._delayed)
        host, python = socket.gethostname(), installed_versions().python
        row = WorkerRow(
            worker=WorkerId(bytes(16)),
            name="inline",
            host=host,
            pid=os.getpid(),
            slots=1,
            busy=min(busy, 1),
            leased=busy,
            settled=self._settled,
            failed=self._failed,
            busy_s=self._busy_s,
            state="ready",
            python=python,
            unfit="",
        )
        uptime_s = time.monotonic() - self._begun_at
        totals = Totals(
            uptime_s=uptime_s,
            sessions=1,
            workers=1,
            slots=1,
            busy=min(busy, 1),
            pending=pending,
            leased=busy,
            accepted=self._settled + busy + pending,
            settled=self._settled,
            failed=self._failed,
            retried=self._retried,
            cancelled=0,
            lost=0,
            late=0,
            idle_while_queued_s=0.0,
            slot_s=uptime_s,
        )
        report = StatusReported(True, "inline", 0, False, totals, (row,), (), (), ())
        self._effects.reports += (report,)

    def ask(self, question: ExplainTask) -> bool:
        """Have the effects hold where a task is."""
        array = self.arrays.get(question.array[1])
        index = question.task_index
        if array is None or index not in array.open:
            where = ("settled", "it has its outcome")
        elif index in array.pending:
            where = ("waiting", "it runs once somebody waits for it, in the thread that does")
        elif any((array.counter, index) == delayed[1:] for delayed in self._delayed):
            where = ("delayed", "it has failed, and is tried again after its retry_delay_s")
        else:
            where = ("running", "a thread of this process runs it, or one just before it")
        self._effects.news.append(TaskExplained(question.request, *where, ()))
        return True

    def explain(self, now: float) -> None:
        """Say why nothing runs."""
        del now
        text = "inline tasks run in the threads that wait for them, and another thread runs one"
        self._effects.explanations += (Explanation("busy", text),)

    def close(self) -> None:
        """End everything. What is still open settles as cancelled."""
        self._loss = Failure("cancelled", text="the client was closed")
        for array in list(self.arrays.values()):
            self._fail(array, self._loss)

    # --- what threads that run tasks call ---------------------------------------------------------

    def take_effects(self) -> ClientEffects:
        """What is to be told, exactly once."""
        effects, self._effects = self._effects, ClientEffects()
        return effects

    def take_spell(self, now: float) -> Spell | None:
        """Tasks that are to run now; they are the caller's until `give_back` or an outcome."""
        self._end_delays(now)
        while self._queue:
            array = self._queue[0][1]
            if not array.pending.count:
                heapq.heappop(self._queue)
                array.queued = False
                continue
            start, stop = array.pending.first()
            part = array.parts[array.place_of(start)]
            stop = min(stop, part.stop, start + SPELL_TASKS)
            if array.options.max_attempts:
                stop = start + 1
                array.starts[start] = array.starts.get(start, 0) + 1
            array.pending.drop_first(stop - start)
            return Spell(array, part, start, stop)
        return None

    def has_due(self) -> bool:
        """Whether tasks wait to be run."""
        return any(array.pending.count for _, array in self._queue)

    def next_delay_s(self, now: float) -> float | None:
        """Seconds until a failed task is to be tried again; None if there is none."""
        return max(0.0, self._delayed[0][0] - now) if self._delayed else None

    def give_back(self, array: InlineArray, start: int, stop: int) -> None:
        """Tasks of a spell have not run."""
        if start < stop:
            for low, high in _within(array.open, start, stop):
                self._put_back(array, low, high)

    def returned(self, array: InlineArray, start: int, stop: int, blob: bytes) -> None:
        """Tasks have results, in a blob that begins with the first one's."""
        for low, high in array.open.cut(start, stop):
            self._release(array, low, high)
            self._tell(array, Returned(array.counter, low, high, start, blob))
        self._forget_if_over(array)

    def failed(self, array: InlineArray, index: int, failure: Failure, now: float) -> None:
        """A task failed: try it again, or let that be its outcome."""
        if index not in array.open:
            return
        if not self._may_retry(array, index, failure):
            self._settle_as(array, index, index + 1, failure)
            self._forget_if_over(array)
            return
        self._retried += 1
        array.retried += 1
        self._effects.news.append(TasksRetried((self.session, array.counter), array.retried))
        if array.options.retry_delay_s:
            heapq.heappush(self._delayed, (now + array.options.retry_delay_s, array.counter, index))
        else:
            self._put_back(array, index, index + 1)

    def note_time(self, busy_s: float) -> None:
        """A spell took so long."""
        self._busy_s += busy_s

    # --- inside -----------------------------------------------------------------------------------

    def _may_retry(self, array: InlineArray, index: int, failure: Failure) -> bool:
        options = array.options
        if failure.kind not in RETRIED_KINDS or not failure.retriable:
            return False
        if failure.kind == "timeout" and not options.retries_timeouts:
            return False
        array.failures[index] = array.failures.get(index, 0) + 1
        if options.max_attempts and array.starts.get(index, 0) >= options.max_attempts:
            return False
        return array.failures[index] <= options.retries

    def _put_back(self, array: InlineArray, start: int, stop: int) -> None:
        array.pending.add(start, stop)
        if not array.queued:
            array.queued = True
            heapq.heappush(self._queue, (array.rank, array))

    def _end_delays(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            _, counter, index = heapq.heappop(self._delayed)
            array = self.arrays.get(counter)
            if array is not None and index in array.open:
                self._put_back(array, index, index + 1)

    def _settle_as(self, array: InlineArray, start: int, stop: int, failure: Failure) -> None:
        array.pending.cut(start, stop)
        for low, high in array.open.cut(start, stop):
            self._failed += high - low if failure.kind != "cancelled" else 0
            self._release(array, low, high)
            self._tell(array, Failed(array.counter, low, high, failure))

    def _tell(self, array: InlineArray, outcome: Returned | Failed) -> None:
        self._effects.outcomes.append(outcome)
        if array.kept:
            self._effects.kept.append(KeptOutcomes(0, 0, (outcome,)))

    def _release(self, array: InlineArray, start: int, stop: int) -> None:
        """Indexes have settled: let go of what was kept for them."""
        self._settled += stop - start
        self._effects.release(stop - start, 0, single=array.is_single)
        if array.failures or array.starts:
            for index in range(start, stop):
                array.failures.pop(index, None)
                array.starts.pop(index, None)
        while start < stop:
            place = array.place_of(start)
            part = array.parts[place]
            end = min(stop, part.stop)
            part.left -= end - start
            if not part.left:
                del array.parts[place]
                self._effects.release(0, len(part.chunk), single=array.is_single)
            start = end

    def _fail(self, array: InlineArray, failure: Failure) -> None:
        """Settle everything open of an array, what is still to be handed in included, and forget it."""
        self._settle_as(array, 0, array.submitted, failure)
        if not array.closed:
            self._effects.outcomes.append(Failed(array.counter, array.submitted, MAX_COUNTER, failure))
        self.arrays.pop(array.counter, None)

    def _forget_if_over(self, array: InlineArray) -> None:
        if array.closed and not array.open.count:
            self.arrays.pop(array.counter, None)


def _within(indexes: RangeSet, start: int, stop: int) -> list[tuple[int, int]]:
    """The parts of a set that lie between two indexes."""
    return [(max(low, start), min(high, stop)) for low, high in indexes if low < stop and start < high]
