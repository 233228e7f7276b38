"""What futures and task arrays have in common: what they need of a client, outcomes, and waiting."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from distcomp.core.client_effects import Returned
from distcomp.errors import PayloadTooLargeError, SchedulerLostError, SubmitRefusedError
from distcomp.payload import load_failure, open_results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distcomp.core.client_effects import Failed
    from distcomp.detours import Detour
    from distcomp.futures import Woken
    from distcomp.protocol import TaskExplained
    from distcomp.remembered_calls import RememberedCall
    from distcomp.rows import Failure
    from distcomp.stay import Stay
    from distcomp.waits_here import RunsHere

    Spans = tuple[tuple[int, int], ...]

SIGNAL_S = 0.1
"""Longest wait of the main thread without a look at signals."""
WAITER_S = 1e-4
"""What each of many futures adds to it, because beginning another wait takes time for each."""

PENDING = "PENDING"
RUNNING = "RUNNING"
CANCELLED = "CANCELLED_AND_NOTIFIED"
FINISHED = "FINISHED"
OPEN = frozenset({PENDING, RUNNING})
_HERE = {
    "refused": SubmitRefusedError,
    "scheduler_lost": SchedulerLostError,
    "too_large": PayloadTooLargeError,
}
"""Kinds of failures that this side makes, and the errors they are raised as."""


class Host(Protocol):
    """What a handle needs of its client.

    `inline` is there if tasks run in this process. What belongs to a run goes on without this process, so an
    interrupt here is no reason to cancel it.
    """

    lock: threading.Lock
    patience_s: float
    is_run: bool
    stay: Stay | None
    inline: RunsHere | None

    def check_process(self) -> None:
        """Raise if this process only has a copy of the client, by a fork; takes no lock."""

    def check_may_wait(self) -> None:
        """Raise if the calling thread or process must not wait for outcomes."""

    def explain_wait(self) -> None:
        """Have it said why nothing runs, if that has been so for long; takes no lock."""

    def cancel_tasks(self, sink: Sink, spans: Spans, *, pending_only: bool = False) -> None:
        """Have tasks of an array cancelled in the cluster; no spans means all of them."""

    def explain_task(self, sink: Sink, place: int) -> TaskExplained:
        """Ask the scheduler where the task is that stands at `place` of an array of the cluster."""


class Sink(Protocol):
    """What takes in the outcomes of one array of the cluster: a `FutureGroup`, or a leg of a `TaskArray`.

    Its tasks may also come by `detours`, each of which is an array of the cluster with some of them; the
    others are found elsewhere, and `counter` means nothing.
    """

    counter: int
    open_tasks: int
    retried: int
    detours: list[Detour] | None

    def settle(self, outcome: Returned | Failed, woken: list[Woken]) -> None:
        """Take in what came of some tasks, with the host's lock held."""

    def began(self, indexes: Iterable[int], woken: list[Woken]) -> None:
        """Take in that tasks were said to run, with the host's lock held."""

    def label(self, place: int) -> str:
        """What tells a user which of the tasks stands at `place`; empty if it was submitted alone."""


def routes(sink: Sink, spans: Spans) -> Iterator[tuple[int, Spans]]:
    """Which tasks of which arrays of the cluster stand at these places; no spans means at all of them.

    For the loop's own thread, on which arrays get their numbers.
    """
    if sink.detours is None:
        yield sink.counter, spans
        return
    for detour in sink.detours:
        places = detour.places_of(spans)
        if places or not spans:
            yield detour.counter, places


class Book(Protocol):
    """What a future needs of the array that its task belongs to."""

    host: Host

    @property
    def retried_count(self) -> int:
        """How many tries of its tasks were followed by another one, as far as that was told."""

    def cancel_task(self, index: int, *, pending_only: bool = False) -> None:
        """Have the task cancelled in the cluster; its future has settled already, or waits for that."""

    def explain_task(self, index: int) -> TaskExplained:
        """Ask the scheduler where a task is that has no outcome here."""

    def call_of(self, index: int) -> RememberedCall:
        """The call of a task that has failed, to be made again here."""


def error_of(failure: Failure) -> BaseException:
    """The exception that a failure is raised as."""
    here = _HERE.get(failure.kind)
    return load_failure(failure) if here is None else here(failure.text)


class SharedBlob:
    """The packed results of a run, of which several handles, or several places of one, have some.

    Args:
        blob: the packed results.
        pieces: how many have some; its length is what each is taken to weigh.
    """

    __slots__ = ("_blob", "_opened", "_pieces")

    def __init__(self, blob: bytes, pieces: int) -> None:
        self._blob = blob
        self._pieces = pieces
        self._opened: Sequence[Any] | None = None

    def __len__(self) -> int:
        return len(self._blob) // self._pieces

    def open(self) -> Sequence[Any]:
        """The results, unpacked once for all."""
        opened = self._opened
        if opened is None:
            opened = self._opened = open_results(self._blob)
        return opened


class ResultRun:
    """The results of neighbouring tasks, unpacked when the first is asked for.

    Args:
        base: the index to which the blob's first result belongs.
        blob: the packed results.
    """

    __slots__ = ("_blob", "_opened", "base")

    def __init__(self, base: int, blob: bytes | SharedBlob) -> None:
        self.base = base
        self._blob = blob
        self._opened: Sequence[Any] | None = None

    def value(self, index: int) -> Any:
        """The result of one task; what is unpacked for it is kept for its neighbours."""
        opened = self._opened
        if opened is None:
            opened = self._opened = self._open()
            self._blob = b""
        return opened[index - self.base]

    def values(self, start: int, stop: int) -> Sequence[Any]:
        """The results of several tasks; nothing is kept."""
        opened = self._opened
        if opened is None:
            opened = self._open()
        first, behind = start - self.base, stop - self.base
        return opened if first == 0 and behind == len(opened) else opened[first:behind]

    def _open(self) -> Sequence[Any]:
        blob, opened = self._blob, self._opened  # in this order: another thread lets go of the blob last
        if opened is not None:
            return opened
        return blob.open() if isinstance(blob, SharedBlob) else open_results(blob)


class MovedRun(ResultRun):
    """One result of a run whose task has another index in its `TaskArray` than in its run."""

    __slots__ = ("_place", "_run")

    def __init__(self, run: ResultRun, place: int) -> None:
        self._run = run
        self._place = place

    def value(self, index: int) -> Any:
        """The one result, whatever its index."""
        del index
        return self._run.value(self._place)

    def values(self, start: int, stop: int) -> Sequence[Any]:
        """The one result in a list."""
        del start, stop
        return [self._run.value(self._place)]


def entry_of(outcome: Returned | Failed) -> tuple[str, ResultRun | Failure]:
    """The state that an outcome leads to, and what its futures keep of it."""
    if isinstance(outcome, Returned):
        return FINISHED, ResultRun(outcome.base, outcome.blob)
    return CANCELLED if outcome.failure.kind == "cancelled" else FINISHED, outcome.failure


def wait_until(
    host: Host, condition: threading.Condition, done: Callable[[], bool], timeout_s: float | None
) -> bool:
    """Wait on a held condition until `done()`; returns whether that came in time."""
    if host.inline is not None:
        return _work_until(host, host.inline, condition, done, timeout_s)
    return any(condition.wait_for(done, slice_s) for slice_s in slices(host, timeout_s))


def _work_until(
    host: Host,
    inline: RunsHere,
    condition: threading.Condition,
    done: Callable[[], bool],
    timeout_s: float | None,
) -> bool:
    """The same where this thread runs the tasks: the condition is let go of meanwhile."""

    def is_done() -> bool:
        with condition:
            return done()

    if done():
        return True
    host.check_may_wait()
    condition.release()
    try:
        inline.work(is_done, timeout_s)
    finally:
        condition.acquire()
    return done()


def slices(host: Host, timeout_s: float | None, short_s: float = SIGNAL_S) -> Iterator[float]:
    """Times to wait, one after the other, until `timeout_s` is over; says why nothing runs in between.

    On the main thread they last `short_s`: a signal that arrives just before a lock is waited for does not
    interrupt that wait, and Ctrl-C is not to be slow even then. Elsewhere the first one does, too: most waits
    are over by then, and need not look which thread it is.
    """
    stay = host.stay
    if stay is None:
        return _slices(host, timeout_s, short_s)
    return _slices_in_task(host, stay, timeout_s, short_s)


def _slices_in_task(host: Host, stay: Stay, timeout_s: float | None, short_s: float) -> Iterator[float]:
    """The same for a client in a task, whose slot is lent meanwhile."""
    stay.begin_wait()
    try:
        for slice_s in _slices(host, timeout_s, short_s):
            yield slice_s
            stay.check()
    finally:
        stay.end_wait()


def _slices(host: Host, timeout_s: float | None, short_s: float) -> Iterator[float]:
    host.check_may_wait()
    slice_s = min(host.patience_s, short_s)
    now = time.monotonic()
    deadline = math.inf if timeout_s is None else now + timeout_s
    explain_at = now + host.patience_s
    while deadline - now > slice_s:
        yield slice_s
        if host.stay is None and threading.current_thread() is not threading.main_thread():
            slice_s = host.patience_s
        now = time.monotonic()
        if now >= explain_at:
            host.explain_wait()
            explain_at = now + host.patience_s
    yield max(deadline - now, 0.0)
