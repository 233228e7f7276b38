"""The tasks of a `TaskStream` on their way: where arguments are drawn, and where outcomes wait to be read.

Law of a leg, under the host's lock: of the first `handed_in` indexes each is open (in `_open`), or waits to
be read (in `_entries`), or was read. What was read is kept nowhere; once the reader has `left`, nothing is.

How far a source runs ahead: whenever the reader has to wait, more is drawn, until a window is under way;
else as much as was read. So a fast reader is ahead enough, and a slow one draws no more than it needs. The
window counts the tasks that were not read and the bytes of their arguments and results; results that are
still to come are taken to be as large as those that came last.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, Protocol

from distcomp.array_legs import Entry
from distcomp.core.client_effects import Failed
from distcomp.core.ranges import RangeSet
from distcomp.errors import ClientClosedError, UsageError
from distcomp.feeder import DRAW_BYTES, GROWTH, FedClient, copied
from distcomp.handles import CANCELLED, FINISHED, Host, ResultRun, entry_of, error_of, wait_until
from distcomp.payload import CHUNK_BYTES, CHUNK_TASKS, pack_calls, pack_columns
from distcomp.rows import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distcomp.config import ClientSettings
    from distcomp.core.client_effects import Returned
    from distcomp.core.client_state import ClientState
    from distcomp.detours import Detour
    from distcomp.futures import Woken
    from distcomp.ids import FunctionId
    from distcomp.payload import Packed
    from distcomp.protocol import TaskExplained
    from distcomp.remembered_calls import RememberedCall
    from distcomp.rows import TaskOptions

DRAW_S = 0.002
"""What was drawn for so long is handed in, however few they are: an iterable may take its time."""
UNKNOWN_RESULT_BYTES = 4096
"""What a result is taken to weigh until one has come."""
SIZE_WEIGHT = 0.2
"""How much one run of results moves the expected size."""
_CANCELLED = Failure("cancelled", text="cancelled by its client")


class StreamClient(FedClient, Host, Protocol):
    """What a stream needs of its client."""

    settings: ClientSettings

    def check_usable(self) -> None:
        """Raise if nothing can be handed in."""

    def wait_for_room(self, tasks: int, size_bytes: int) -> None:
        """Wait until tasks fit into the client's window."""


class StreamLeg:
    """The tasks of a stream on their way, and outcomes that were not read; what the client keeps of a stream.

    Attributes:
        counter: the number of the array that they travel as.
        open_tasks: tasks without an outcome, and one more until the array is closed.
        ended: nothing more is to be handed in.
        left: nobody reads any more.
        handed_in: how many tasks there are so far.
        read: how many of them were read.
        loss: why the array ended before its time.
    """

    def __init__(self, host: StreamClient) -> None:
        self.host: Host = host
        self.counter = 0
        self.detours: list[Detour] | None = None
        self.open_tasks = 1
        self.retried = 0
        self.ended = False
        self.left = False
        self.handed_in = 0
        self.read = 0
        self.loss: Failure | None = None
        self._settings = host.settings
        self._open = RangeSet()
        self._entries: dict[int, Entry] = {}
        self._arrived: deque[int] | None = None
        self._argument_bytes = 0
        self._result_bytes = 0
        self._expected_bytes = float(UNKNOWN_RESULT_BYTES)
        self._sizes: dict[int, int] = {}
        self._changed = threading.Condition(host.lock)
        self._ready: Callable[[], bool] | None = None

    # --- what the source and the reader call ------------------------------------------------------

    @property
    def retried_count(self) -> int:
        """How many tries of its tasks were followed by another one."""
        return self.retried

    @property
    def under_way(self) -> int:
        """How many tasks were handed in and have no outcome."""
        return self._open.count

    def room(self, row_bytes: int) -> int:
        """How many more tasks the window takes; at least one if there is nothing to be read."""
        if self.handed_in == self.read:
            return max(1, self._settings.window_tasks)
        expected = int(self._expected_bytes)
        held_bytes = self._argument_bytes + self._result_bytes + self._open.count * expected
        by_bytes = (self._settings.window_bytes - held_bytes) // (row_bytes + expected + 1)
        return max(0, min(self._settings.window_tasks - self.handed_in + self.read, by_bytes))

    def admit(self, tasks: int, size_bytes: int) -> int | None:
        """Count tasks as handed in; gives the first one's index, or None if nothing more is wanted."""
        with self.host.lock:
            if self.ended:
                return None
            start = self.handed_in
            self.handed_in += tasks
            self._open.add(start, self.handed_in)
            self.open_tasks += tasks
            self._argument_bytes += size_bytes
            return start

    def read_as_completed(self) -> None:
        """From now on give outcomes in the order in which they come."""
        with self.host.lock:
            self._arrived = deque(self._entries)

    def take(self) -> Entry | None:
        """The outcomes to be read next, if they are here; they are the reader's from now on."""
        with self.host.lock:
            start = self.read if self._arrived is None else self._arrived.popleft() if self._arrived else -1
            entry = self._entries.pop(start, None)
            if entry is not None:
                self.read += entry.stop - entry.start
                self._result_bytes -= self._sizes.pop(start)
            return entry

    def wait(self, deadline: float | None, *, for_any: bool) -> None:
        """Wait until there is something to be read, or nothing under way; if asked so, for any outcome."""
        seen = self._open.count

        def ready() -> bool:
            here = self.read in self._entries if self._arrived is None else bool(self._arrived)
            count = self._open.count
            return here or not count or self.ended or (for_any and count != seen)

        self.host.check_process()
        with self._changed:
            self._ready = ready
            try:
                timeout_s = None if deadline is None else deadline - time.monotonic()
                if not wait_until(self.host, self._changed, ready, timeout_s):
                    raise FutureTimeoutError(f"{seen} tasks of the stream have no outcome yet")
            finally:
                self._ready = None

    def cancel(self) -> int:
        """Let everything under way settle as cancelled at once; returns how many tasks that were."""
        with self.host.lock:
            self.ended = True
            self.loss = self.loss or _CANCELLED
            count = self._open.count
            self._keep(self._open.clear(), CANCELLED, _CANCELLED, 0)
            self._wake()
        self.host.cancel_tasks(self, ())
        return count

    def cancel_pending(self) -> None:
        """Hand in no more, and have those cancelled that no worker was given."""
        with self.host.lock:
            self.ended = True
            self.loss = self.loss or _CANCELLED
            self._wake()
        self.host.cancel_tasks(self, (), pending_only=True)

    # --- what the client and futures call ---------------------------------------------------------

    def settle(self, outcome: Returned | Failed, woken: list[Woken]) -> None:
        """Take in what came of some tasks, with the host's lock held."""
        del woken  # no future of a stream is made before its task has settled
        stop = min(outcome.stop, self.handed_in)
        self.open_tasks -= stop - outcome.start
        before = self._open.count
        spans = self._open.cut(outcome.start, stop)
        settled = before - self._open.count
        self._argument_bytes -= self._argument_bytes * settled // max(before, 1)
        state, content = entry_of(outcome)
        size_bytes = _size_bytes(outcome) // max(outcome.stop - outcome.start, 1)
        if settled and state == FINISHED:
            self._expected_bytes += SIZE_WEIGHT * (size_bytes - self._expected_bytes)
        self._keep(spans, state, content, size_bytes)
        if isinstance(outcome, Failed) and outcome.stop > stop:  # the whole array is over
            self.open_tasks = 0
            self.ended = True
            self.loss = self.loss or outcome.failure
        self._wake()

    def began(self, indexes: Iterable[int], woken: list[Woken]) -> None:
        """Nobody can ask whether a task of a stream runs."""

    def label(self, place: int) -> str:
        """The index of a task, in brackets."""
        return f"[{place}]"

    def cancel_task(self, index: int, *, pending_only: bool = False) -> None:
        """Have one task cancelled in the cluster."""
        self.host.cancel_tasks(self, ((index, index + 1),), pending_only=pending_only)

    def explain_task(self, index: int) -> TaskExplained:
        """Ask the scheduler where a task is."""
        return self.host.explain_task(self, index)

    def call_of(self, index: int) -> RememberedCall:
        """A stream lets go of arguments as they are sent."""
        raise UsageError(f"the arguments of task {index} are gone: a stream does not keep them")

    def _keep(
        self, spans: Sequence[tuple[int, int]], state: str, content: ResultRun | Failure, size_bytes: int
    ) -> None:
        if self.left:
            return
        for start, stop in spans:
            self._entries[start] = Entry(start, stop, state, content)
            self._sizes[start] = size_bytes * (stop - start)
            self._result_bytes += self._sizes[start]
            if self._arrived is not None:
                self._arrived.append(start)

    def _wake(self) -> None:
        if self._ready is not None and self._ready():
            self._changed.notify_all()


class StreamSource:
    """Draws arguments in the reader's thread, packs them into chunks, and hands these in.

    Args:
        host: the client.
        leg: what takes in the outcomes.
        function: the function's identity, name and bytes.
        options: how the tasks are to be treated.
        iterables: the arguments; the first that comes to its end ends all.
    """

    def __init__(
        self,
        host: StreamClient,
        leg: StreamLeg,
        function: tuple[FunctionId, str, bytes],
        options: TaskOptions,
        iterables: Sequence[Iterable[Any]],
    ) -> None:
        self._host = host
        self._leg = leg
        self._function = function
        self._options = options
        self._width = len(iterables)
        sources = [iter(copied(each)) for each in iterables]
        self._rows: Iterator[Any] | None = sources[0] if self._width == 1 else zip(*sources, strict=False)
        self._parts: deque[Packed] = deque()
        self._opened = False
        self._closed = False
        self._next_rows = 1
        self._row_bytes = 1
        self._owed = 0
        self._error: Exception | None = None

    def went_on(self) -> bool:
        """Hand in some more tasks; False if there is no room for them, or nothing more to draw."""
        self._owed = 0
        return self._hand_in_part() > 0

    def keep_up(self, tasks: int) -> None:
        """Hand in about as many tasks as were read."""
        self._owed += tasks
        while self._owed >= self._next_rows:
            handed_in = self._hand_in_part()
            self._owed = self._owed - handed_in if handed_in else 0

    @property
    def should_wait(self) -> bool:
        """Whether to wait before more is handed in, as nothing gains by it: the tasks run in this process."""
        return self._leg.under_way > 0 and self._host.inline is not None

    @property
    def has_more(self) -> bool:
        """Whether more can be handed in once there is room."""
        return self._rows is not None or bool(self._parts)

    def finish(self) -> None:
        """Everything was read; raise what ended it before its time, if something did."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self.has_more:
            self._host.check_usable()
            loss = self._leg.loss or _CANCELLED
            raise CancelledError if loss.kind == "cancelled" else error_of(loss)

    def leave(self) -> None:
        """Nobody reads any more: cancel what is under way.

        It takes no lock, because garbage collection may come here, in any thread at any moment.
        """
        leg = self._leg
        if leg.left:
            return
        leg.ended = leg.left = True
        self._rows = None
        self._parts = deque()  # another one: a thread may be handing in what stands in the old one
        if self._opened and not (self._closed and not leg.under_way):
            with contextlib.suppress(ClientClosedError):
                self._host.cancel_tasks(leg, ())

    # --- inside -----------------------------------------------------------------------------------

    def _hand_in_part(self) -> int:
        """Hand in one chunk, drawing if need be; returns how many tasks it has, or 0 for none."""
        leg, host = self._leg, self._host
        if leg.ended:
            return 0
        if not self._parts:
            self._draw()
        parts = self._parts  # only now: who leaves while it is drawn has put another one there
        if not parts:
            return 0
        part = parts[0]
        tasks, size_bytes = part.stop - part.start, len(part.blob)
        too_large = size_bytes > host.max_payload_bytes
        blob = pack_calls([((), {})])[0].blob if too_large else part.blob
        if not host.make_room(leg, tasks, len(blob), waits=False):
            if not leg.under_way and not leg.ended:
                host.wait_for_room(tasks, len(blob))
                return self._hand_in_part()
            return 0
        start = leg.admit(tasks, len(blob))
        if start is not None and not self._opened:
            self._opened = True
            host.post(self._open)
        # What the leg does not want any more goes the same way: the window counts it until it is let go of.
        host.post(lambda state: state.extend(leg.counter, tasks, blob, last=False))
        if start is not None and too_large:
            self._refuse(start, size_bytes)
        parts.popleft()
        self._close_if_through()
        return tasks if start is not None else 0

    def _draw(self) -> None:
        """Draw and pack one piece, if there is room."""
        room = self._leg.room(self._row_bytes)
        if self._rows is None or not room:
            return
        self._host.check_usable()
        self._host.check_may_wait()
        drawn = self._draw_rows(min(self._next_rows, room))
        if drawn and not self._leg.left:  # meanwhile, maybe by what gives the rows
            columns = self._columns(drawn)
            most_bytes = min(CHUNK_BYTES, self._host.max_payload_bytes)
            self._parts += pack_columns(columns, shares_path=self._host.shares_path, max_bytes=most_bytes)
            self._grow(len(drawn), sum(len(part.blob) for part in self._parts))
        self._close_if_through()

    def _columns(self, drawn: list[Any]) -> list[list[Any]]:
        return [drawn] if self._width == 1 else [list(column) for column in zip(*drawn, strict=True)]

    def _grow(self, rows: int, size_bytes: int) -> None:
        """Draw more at a time the next time, by what the last have weighed."""
        self._row_bytes = 1 + size_bytes // rows
        most = min(CHUNK_TASKS, DRAW_BYTES // self._row_bytes)
        self._next_rows = max(1, min(most, self._next_rows * GROWTH))

    def _draw_rows(self, count: int) -> list[Any]:
        """Up to `count` rows: fewer if they take their time; none at the end."""
        drawn: list[Any] = []
        clock = time.monotonic
        until = clock() + DRAW_S
        rows = self._rows
        if rows is None:
            return drawn
        try:
            for row in rows:
                drawn.append(row)
                if len(drawn) >= count or clock() >= until:
                    return drawn
        except Exception as error:  # noqa: BLE001 - it is the caller's iterable's, and raised to the caller at its place
            self._error = error
        self._rows = None
        return drawn

    def _open(self, state: ClientState) -> None:
        if self._leg.ended:  # then there was nothing to cancel either
            return
        self._leg.counter = state.submit(*self._function, self._options)
        self._host.sinks[self._leg.counter] = self._leg

    def _close_if_through(self) -> None:
        """Have the array closed once all that there is was handed in."""
        if self.has_more or self._closed or not self._opened:
            return
        self._closed = True
        leg, host = self._leg, self._host

        def close(state: ClientState) -> None:
            state.extend(leg.counter, 0, b"", last=True)
            with host.lock:
                leg.open_tasks -= 1
                if leg.open_tasks <= 0:
                    host.sinks.pop(leg.counter, None)

        host.post(close)

    def _refuse(self, index: int, size_bytes: int) -> None:
        """Let a task whose arguments are too large fail here; an empty one was sent in its place."""
        text = f"the arguments take {size_bytes} bytes; max_payload_bytes is {self._host.max_payload_bytes}"
        failed = Failed(0, index, index + 1, Failure("too_large", text=text))
        with self._host.lock:
            self._leg.settle(failed, [])
            self._leg.open_tasks += 1  # the cluster will report it in its own way
        self._host.cancel_tasks(self._leg, ((index, index + 1),))


def _size_bytes(outcome: Returned | Failed) -> int:
    """What keeping an outcome costs in memory, roughly."""
    if not isinstance(outcome, Failed):
        return len(outcome.blob)
    failure = outcome.failure
    return len(failure.exception) + len(failure.traceback) + len(failure.output) + len(failure.stacks)
