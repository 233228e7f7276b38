"""`TaskArray`: the handle on many tasks of one function, whose outcomes it keeps.

Outcomes are kept as they came, in runs; nothing is made for a single task until it is asked for.

Law of the outcomes, all under the host's lock: `_entries` holds runs of neighbouring indexes that
neither overlap nor are empty, by their first index; `_starts` holds, in order, the first indexes of those
that are longer than one; `_open` is exactly what they do not cover. An index that `retry` opens again can
only be settled by the leg that it then travels in.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right, insort
from collections.abc import Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar, overload

from distcomp.array_legs import Entry
from distcomp.core.ranges import FlagSet, RangeSet
from distcomp.displays import Tally, follow
from distcomp.errors import UnpicklableError, UsageError
from distcomp.futures import Future, wake_all
from distcomp.handles import CANCELLED, RUNNING, ResultRun, error_of, wait_until
from distcomp.html import bar, card, failures_html, line
from distcomp.protocol import TaskExplained
from distcomp.rows import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distcomp.array_legs import Leg
    from distcomp.futures import Woken
    from distcomp.handles import Host
    from distcomp.remembered_calls import RememberedCall

__all__ = ["TaskArray"]

T = TypeVar("T")


class TaskArray(Generic[T]):
    """Many tasks of one function; made by `map`.

    The tasks run to their end whether or not anyone reads. Iterating gives the results in order, each as
    soon as it and all before it are there, and can be repeated; a failed task raises its exception at
    its place.

    Example:
        >>> array = client.map(abs, [-1, -2, -3])
        >>> sum(array), array.done(), array.futures[1].result()
        (6, True, 2)
    """

    def __init__(
        self,
        host: Host,
        tasks: int,
        resubmit: Callable[[Sequence[int]], Leg],
        *,
        recall: Callable[[int], RememberedCall] | None = None,
        in_order: bool = True,
    ) -> None:
        self.host = host
        self._recall = recall
        self._tasks = tasks
        self._resubmit = resubmit
        self._legs: list[Leg] = []
        self._open: RangeSet | FlagSet = RangeSet() if in_order else FlagSet(tasks)
        if tasks and in_order:
            self._open.add(0, tasks)
        self._starts: list[int] = []
        self._entries: dict[int, Entry] = {}
        self._arrived: list[Entry] = []
        self._failed = 0
        self._handles: dict[int, Future[T]] = {}
        self._changed = threading.Condition(host.lock)
        self._waiting: list[Callable[[], bool]] = []

    # --- what users call --------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._tasks

    def __repr__(self) -> str:
        return f"<TaskArray of {self._tasks} tasks, {self._tasks - self._open.count} done>"

    @property
    def done_count(self) -> int:
        """How many tasks have an outcome: a result, a failure or a cancellation."""
        return self._tasks - self._still_open()

    @property
    def failed_count(self) -> int:
        """How many tasks have failed or were cancelled: those that `failures` tells of."""
        return self._failed

    @property
    def retried_count(self) -> int:
        """How many tries were followed by another one, as far as the cluster has told."""
        return sum(leg.retried for leg in self._legs)

    def done(self) -> bool:
        """Whether all tasks have an outcome."""
        return not self._still_open()

    @property
    def futures(self) -> Futures[T]:
        """One future for each task, made when it is asked for."""
        return Futures(self)

    def __iter__(self) -> Iterator[T]:
        return self.iterate()

    def iterate(self, timeout: float | None = None) -> Iterator[T]:
        """Give the results in order, as iterating does, within a time; each is let go of as it is given.

        Args:
            timeout: seconds from the first `next` that all of it may take at most; None waits for ever.

        Returns:
            An iterator over the results.

        Raises:
            concurrent.futures.TimeoutError: a result was not there in time.
            Exception: what a task raised, at its place.

        Example:
            >>> list(client.map(abs, [-1, -2]).iterate(timeout=60))
            [1, 2]
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        index = 0
        while index < self._tasks:
            entry = self._entry_at(index, deadline)
            if entry.state == CANCELLED:
                raise CancelledError
            if not isinstance(entry.outcome, ResultRun):
                raise error_of(entry.outcome)
            values = list(entry.outcome.values(index, entry.stop))
            values.reverse()
            index = entry.stop
            while values:
                yield values.pop()

    def as_completed(self, timeout: float | None = None) -> Iterator[Future[T]]:
        """Give the tasks' futures as they settle.

        Args:
            timeout: seconds that all of it may take at most; None waits for ever.

        Returns:
            An iterator over the futures in the order in which they settle.

        Raises:
            concurrent.futures.TimeoutError: not all settled in time.

        Example:
            >>> sorted(future.result() for future in client.map(abs, [-1, -2]).as_completed())
            [1, 2]
        """
        return chain.from_iterable(self.completed_runs(timeout))

    def runs(self) -> Iterator[Sequence[T]]:
        """Give the results in order, in lists as they arrived: for those who take many at once."""
        index = 0
        while index < self._tasks:
            entry = self._entry_at(index, None)
            if entry.state == CANCELLED:
                raise CancelledError
            if not isinstance(entry.outcome, ResultRun):
                raise error_of(entry.outcome)
            yield entry.outcome.values(index, entry.stop)
            index = entry.stop

    def completed_runs(self, timeout: float | None = None) -> Iterator[list[Future[T]]]:
        """The same as `as_completed`, in lists as they arrived."""
        deadline = None if timeout is None else time.monotonic() + timeout
        arrived, seen, given = self._arrived, 0, 0
        while given < self._tasks:
            self._wait(lambda: len(arrived) > seen or arrived is not self._arrived, deadline)  # noqa: B023 - called at once
            if arrived is not self._arrived:
                raise UsageError("retry() was called while as_completed() was being read")
            entry = arrived[seen]
            seen += 1
            yield [self.future_at(index) for index in range(entry.start, entry.stop)]
            given += entry.stop - entry.start

    @overload
    def results(self, on_error: Literal["raise", "skip"] = "raise") -> list[T]: ...

    @overload
    def results(self, on_error: Literal["return"]) -> list[T | BaseException]: ...

    def results(self, on_error: str = "raise") -> Any:
        """Wait for all tasks and give their results in order.

        Args:
            on_error: what to do about a task that failed: `raise` its exception once all before it are
                there, `return` the exception in its place, or `skip` it.

        Returns:
            A list of the results.

        Raises:
            ValueError: `on_error` is none of these.
            Exception: what a task raised.

        Example:
            >>> client.map(len, ["a", 7, "bc"]).results(on_error="skip")
            [1, 2]
        """
        if on_error not in ("raise", "return", "skip"):
            raise ValueError(f"on_error must be 'raise', 'return' or 'skip', not {on_error!r}")
        gathered: list[Any] = []
        index = 0
        while index < self._tasks:
            entry = self._entry_at(index)
            if isinstance(entry.outcome, ResultRun):
                gathered.extend(entry.outcome.values(index, entry.stop))
            elif on_error == "raise":
                raise _error_in(entry)
            elif on_error == "return":
                gathered.extend(_error_in(entry) for _ in range(index, entry.stop))
            index = entry.stop
        return gathered

    def failures(self) -> dict[int, BaseException]:
        """The exceptions of the tasks that have failed or were cancelled so far, by index."""
        with self.host.lock:
            failed = [entry for entry in self._entries.values() if not isinstance(entry.outcome, ResultRun)]
        return TaskFailures(
            (index, _error_in(entry)) for entry in sorted(failed) for index in range(entry.start, entry.stop)
        )

    def cancel(self) -> int:
        """Cancel every task that has no outcome, running or not. They settle here at once.

        Returns:
            How many tasks that were.

        Raises:
            ForkedClientError: they are another process's, which forked this one.
        """
        self.host.check_process()
        with self.host.lock:
            count = self._open.count
            failure = Failure("cancelled", text="cancelled by its client")
            woken: list[Woken] = []
            for start, stop in list(self._open):
                self.take_in(Entry(start, stop, CANCELLED, failure), woken)
            legs = list(self._legs)
        wake_all(woken)
        if count:
            for leg in legs:
                leg.ended = True
                self.host.cancel_tasks(leg, ())
        return count

    def cancel_pending(self) -> None:
        """Cancel every task that no worker has, which the scheduler decides: they settle when it says so."""
        self.host.check_process()
        with self.host.lock:
            legs = list(self._legs) if self._open.count else []
            for leg in legs:
                leg.ended = True  # so that no more is handed in; see the feeder
        for leg in legs:
            self.host.cancel_tasks(leg, (), pending_only=True)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task has an outcome.

        Args:
            timeout: seconds to wait at most; None waits for ever.

        Returns:
            Whether that came in time.

        Example:
            >>> client.map(abs, [-1, -2]).wait(timeout=60)
            True
        """
        try:
            self._wait(lambda: not self._open.count, None if timeout is None else time.monotonic() + timeout)
        except FutureTimeoutError:
            return False
        return True

    def progress(self) -> TaskArray[T]:
        """Show how far the tasks are until all have an outcome; see `distcomp.progress`.

        Returns:
            This array.

        Example:
            >>> client.map(abs, [-1, -2]).progress().results()
            [1, 2]
        """
        try:
            follow(self.wait, self._tally)
        except KeyboardInterrupt:  # it may come while the display is at work
            if not self.host.is_run:
                self.cancel()
            raise
        return self

    def retry(self) -> TaskArray[T]:
        """Run the tasks again that have failed or were cancelled so far.

        Their indexes become open again, and so do their places in `futures`; futures that were asked
        for before keep what they have.

        Returns:
            This array.
        """
        self.host.check_process()
        with self.host.lock:
            failed = sorted(
                entry for entry in self._entries.values() if not isinstance(entry.outcome, ResultRun)
            )
            indexes = [index for entry in failed for index in range(entry.start, entry.stop)]
            self._reopen(failed, indexes)
        if indexes:
            self._travel_again(failed, indexes)
        return self

    def __reduce__(self) -> NoReturn:
        """A handle is of use only where its client is."""
        raise UnpicklableError("a TaskArray cannot leave its process; pass its results() instead")

    # --- what legs, futures and clients call ------------------------------------------------------

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The ways in which its tasks travel, the first of which holds all of them."""
        return tuple(self._legs)

    def begin(self, leg: Leg) -> None:
        """Take the first leg, which holds all tasks."""
        self._legs.append(leg)

    def take_in(self, entry: Entry, woken: list[Woken]) -> None:
        """Keep an outcome, as far as it is news, with the host's lock held."""
        for start, stop in self._open.cut(entry.start, entry.stop):
            part = (
                entry if stop - start == entry.stop - entry.start else entry._replace(start=start, stop=stop)
            )
            self._entries[start] = part
            self._arrived.append(part)
            if type(part.outcome) is Failure:
                self._failed += stop - start
            if stop - start > 1:
                insort(self._starts, start)
            if self._handles:
                for index in range(start, stop):
                    future = self._handles.get(index)
                    if future is not None:
                        future.enter(part.state, part.outcome, woken)
        if self._waiting and any(ready() for ready in self._waiting):
            self._changed.notify_all()

    def take_in_began(self, index: int, woken: list[Woken]) -> None:
        """Take in that a task was said to run, with the host's lock held."""
        future = self._handles.get(index)
        if future is not None:
            future.enter(RUNNING, None, woken)

    def future_at(self, index: int) -> Future[T]:
        """The future of one task, the same one each time until it is retried."""
        future = self._handles.get(index)
        if future is not None:
            return future
        with self.host.lock:
            future = self._handles.setdefault(index, Future(self, index))
            if index not in self._open:
                entry = self._entry_of(index)
                future.enter(entry.state, entry.outcome, [])
        return future

    def cancel_task(self, index: int, *, pending_only: bool = False) -> None:
        """Have one task cancelled in the cluster; its future has settled already, or waits for that."""
        with self.host.lock:
            if not pending_only:
                failure = Failure("cancelled", text="cancelled by its client")
                self.take_in(Entry(index, index + 1, CANCELLED, failure), [])
            places = [(leg, leg.place_of(index)) for leg in self._legs]
        for leg, place in places:
            if place is not None and leg.wants(place):
                self.host.cancel_tasks(leg, ((place, place + 1),), pending_only=pending_only)

    def explain_task(self, index: int) -> TaskExplained:
        """Ask the scheduler where a task is."""
        with self.host.lock:
            places = [(leg, leg.place_of(index)) for leg in self._legs]
        for leg, place in places:
            if place is not None and leg.wants(place):
                return self.host.explain_task(leg, place)
        return TaskExplained(0, "sending", "it is about to be handed in again", ())

    def call_of(self, index: int) -> RememberedCall:
        """The call of a task, made of the arguments that are kept for `retry`."""
        if self._recall is None:
            raise UsageError("the arguments of these tasks are not kept")
        return self._recall(index)

    # --- inside -----------------------------------------------------------------------------------

    def _tally(self) -> Tally:
        return Tally(len(self), self.done_count, self.failed_count, self.retried_count)

    def _repr_html_(self) -> str:
        tally = self._tally()
        words = f"{tally.done:,} of {tally.total:,} done"
        return card("TaskArray", bar(tally), line(", ".join(filter(None, (words, tally.trouble())))))

    def _still_open(self) -> int:
        """How many tasks have no outcome; where tasks run in this process, looking gets on with them."""
        inline = self.host.inline
        if inline is not None and self._open.count:
            inline.look(lambda: not self._open.count)
        return self._open.count

    def _entry_of(self, index: int) -> Entry:
        entry = self._entries.get(index)
        return entry or self._entries[self._starts[bisect_right(self._starts, index) - 1]]

    def _entry_at(self, index: int, deadline: float | None = None) -> Entry:
        """The outcome that covers one index, waiting for it if need be."""
        self._wait(lambda: index not in self._open, deadline)
        with self.host.lock:
            return self._entry_of(index)

    def _wait(self, ready: Callable[[], bool], deadline: float | None) -> None:
        self.host.check_process()
        try:
            with self._changed:
                if ready():
                    return
                self._waiting.append(ready)
                try:
                    timeout_s = None if deadline is None else deadline - time.monotonic()
                    if not wait_until(self.host, self._changed, ready, timeout_s):
                        raise FutureTimeoutError(f"{self._open.count} tasks have no outcome yet")
                finally:
                    self._waiting.remove(ready)
        except KeyboardInterrupt:
            if not self.host.is_run:
                self.cancel()
            raise

    def _travel_again(self, entries: list[Entry], indexes: list[int]) -> None:
        """Hand in again what was reopened; what cannot be is as it was before."""
        woken: list[Woken] = []
        try:
            leg = self._resubmit(indexes)
        except BaseException:
            with self.host.lock:
                for entry in entries:
                    self.take_in(entry, woken)
            wake_all(woken)
            raise
        with self.host.lock:
            self._legs.append(leg)
            leg.ended = leg.ended or not any(index in self._open for index in indexes)
        if leg.ended:  # another thread has cancelled it meanwhile, and did not know of the leg
            self.host.cancel_tasks(leg, ())

    def _reopen(self, entries: list[Entry], indexes: list[int]) -> None:
        """Open settled indexes again, with the host's lock held; no leg there is can settle them."""
        self._failed -= len(indexes)
        for entry in reversed(entries):  # ranges grow at their low end
            del self._entries[entry.start]
            self._open.add(entry.start, entry.stop)
        self._starts = [start for start in self._starts if start in self._entries]
        self._arrived = [entry for entry in self._arrived if entry.start in self._entries]
        for index in reversed(indexes):
            self._handles.pop(index, None)
            for leg in self._legs:
                place = leg.place_of(index)
                if place is not None:
                    leg.retire(place)


class TaskFailures(dict[int, BaseException]):
    """The exceptions of failed tasks by index."""

    def _repr_html_(self) -> str:
        return failures_html(self.items())


class Futures(Sequence["Future[T]"], Generic[T]):
    """The futures of a `TaskArray`, made as they are asked for."""

    __slots__ = ("_array",)

    def __init__(self, array: TaskArray[T]) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, index: int) -> Future[T]: ...

    @overload
    def __getitem__(self, index: slice) -> list[Future[T]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        places = range(len(self._array))[index]
        if isinstance(places, range):
            return [self._array.future_at(place) for place in places]
        return self._array.future_at(places)

    def __repr__(self) -> str:
        return f"<Futures of {self._array!r}>"


def _error_in(entry: Entry) -> BaseException:
    if entry.state == CANCELLED or isinstance(entry.outcome, ResultRun):
        return CancelledError("the task was cancelled")
    return error_of(entry.outcome)
