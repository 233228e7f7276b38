"""`TaskStream`: the handle on tasks whose arguments come from something without a length; read once.

Three parts, which refer to each other in one direction only, so that a stream nobody reads any more is
garbage at once: the stream reads; its source draws arguments and hands them in; its leg, which the client
keeps, holds outcomes until they are read. See `distcomp.stream_source`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

from distcomp.displays import Tally, shown
from distcomp.errors import UnpicklableError, UsageError
from distcomp.futures import Future
from distcomp.handles import CANCELLED, ResultRun, error_of

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from typing_extensions import Self

    from distcomp.array_legs import Entry
    from distcomp.stream_source import StreamLeg, StreamSource

__all__ = ["TaskStream"]

T = TypeVar("T")


class TaskStream(Iterator[T]):
    """Results of tasks whose arguments come from something without a length; made by `map`.

    It is read once, and lets go of each result as it is read. Arguments are drawn in the thread that reads,
    at most a window ahead of it, so the iterable may be endless; nothing is drawn before the first read. A
    failed task raises its exception at its place, and so does the iterable.

    Whoever leaves a stream cancels the rest of it: by `close()`, at the end of a `with` block, by an
    exception that comes out of it, or by dropping it (`break` out of a loop over one that has no name).

    Example:
        >>> next(client.map(str.upper, iter(["a", "b"])))
        'A'
    """

    def __init__(self, source: StreamSource, leg: StreamLeg) -> None:
        self._source = source
        self._leg = leg
        self._reading: Generator[T, None, None] | None = None
        self._used = False

    # --- what users call --------------------------------------------------------------------------

    def __iter__(self) -> Iterator[T]:  # noqa: PYI034 - what reads is faster without this object between
        return self._in_order()

    def __next__(self) -> T:
        return next(self._in_order())

    def as_completed(self, timeout: float | None = None) -> Iterator[Future[T]]:
        """Give the tasks' futures as they settle; the stream can then not be read in order.

        Args:
            timeout: seconds that all of it may take at most; None waits for ever.

        Returns:
            An iterator over futures that have settled, in the order in which they did.

        Raises:
            UsageError: the stream is being read already.
            concurrent.futures.TimeoutError: not all settled in time; the rest is cancelled.

        Example:
            >>> sorted(future.result() for future in client.map(abs, iter([-1, -2])).as_completed())
            [1, 2]
        """
        return chain.from_iterable(self.completed_runs(timeout))

    def completed_runs(self, timeout: float | None = None) -> Iterator[list[Future[T]]]:
        """The same as `as_completed`, in lists as they arrived."""
        self._begin()
        self._leg.read_as_completed()
        deadline = None if timeout is None else time.monotonic() + timeout
        return _futures(self._leg, _entries(self._source, self._leg, deadline))

    def runs(self) -> Iterator[Sequence[T]]:
        """Give the results in order, in lists as they arrived: for those who take many at once.

        Raises:
            UsageError: the stream is being read already.
        """
        self._begin()
        return _runs(self._source, _entries(self._source, self._leg, None))

    @overload
    def results(self, on_error: Literal["raise", "skip"] = "raise") -> list[T]: ...

    @overload
    def results(self, on_error: Literal["return"]) -> list[T | BaseException]: ...

    def results(self, on_error: str = "raise") -> Any:
        """Read to the end and give all results in order; an endless stream has none.

        Args:
            on_error: what to do about a task that failed: `raise` its exception, `return` the exception in
                its place, or `skip` it.

        Returns:
            A list of the results that were not read before.

        Raises:
            ValueError: `on_error` is none of these.
            UsageError: the stream is being read already, and errors are not to be raised.

        Example:
            >>> client.map(len, iter(["a", 7, "bc"])).results(on_error="skip")
            [1, 2]
        """
        if on_error not in ("raise", "return", "skip"):
            raise ValueError(f"on_error must be 'raise', 'return' or 'skip', not {on_error!r}")
        if on_error == "raise":
            return list(self)
        self._begin()
        gathered: list[Any] = []
        with contextlib.closing(_entries(self._source, self._leg, None)) as entries:
            for entry in entries:
                if isinstance(entry.outcome, ResultRun):
                    gathered.extend(entry.outcome.values(entry.start, entry.stop))
                elif on_error == "return":
                    gathered.extend(_error_in(entry) for _ in range(entry.start, entry.stop))
        return gathered

    def progress(self) -> Iterator[T]:
        """Give the results in order, as iterating does, and show how far it is; see `distcomp.progress`.

        Raises:
            UsageError: the stream is being read already.
        """
        return _in_progress(self._leg, self.runs())

    @property
    def done_count(self) -> int:
        """How many tasks have an outcome so far, those read included."""
        return self._leg.handed_in - self._leg.under_way

    @property
    def futures(self) -> NoReturn:
        """A stream keeps no futures.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a TaskStream has no futures: it lets go of results as they are read; "
            "read its as_completed(), or map over list(...) of what is not endless"
        )

    def cancel(self) -> int:
        """Cancel every task that has no outcome, and draw no more. What is here can still be read.

        Returns:
            How many tasks were under way.
        """
        self._leg.host.check_process()
        return self._leg.cancel()

    def cancel_pending(self) -> None:
        """Cancel what no worker was given, and draw no more; see `Client.cancel`."""
        self._leg.host.check_process()
        self._leg.cancel_pending()

    def close(self) -> None:
        """Leave the stream: cancel the rest of it, and drop what was not read."""
        if self._reading is not None:
            try:
                self._reading.close()
            except ValueError:  # another thread reads; it learns of it by what it waits for
                self._leg.cancel()
                return
        self._source.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TaskStream, {self._leg.read} results read, {self._leg.under_way} tasks under way>"

    def __reduce__(self) -> NoReturn:
        """A handle is of use only where its client is."""
        raise UnpicklableError("a TaskStream cannot leave its process; pass its results instead")

    # --- inside -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._used:
            raise UsageError("a TaskStream is read once, in one way, and this one is being read already")
        self._used = True

    def _in_order(self) -> Generator[T, None, None]:
        reading = self._reading
        if reading is None:
            self._begin()
            entries = _entries(self._source, self._leg, None)
            reading = self._reading = _flat(self._source, _runs(self._source, entries))
        return reading


# --- reading: outside of the stream, which may be garbage while it is read ------------------------


def _entries(source: StreamSource, leg: StreamLeg, deadline: float | None) -> Generator[Entry, None, None]:
    """The outcomes as they are to be read; cancels the rest when it is left."""
    try:
        while not leg.left:
            entry = leg.take()
            if entry is not None:
                yield entry
                source.keep_up(entry.stop - entry.start)
            elif not source.should_wait and source.went_on():
                continue
            elif leg.under_way:
                leg.wait(deadline, for_any=source.has_more)
            elif leg.read == leg.handed_in:
                source.finish()
                return
    finally:
        source.leave()


def _runs(
    source: StreamSource, entries: Generator[Entry, None, None]
) -> Generator[Sequence[Any], None, None]:
    try:
        for entry in entries:
            if entry.state == CANCELLED:
                raise CancelledError
            if not isinstance(entry.outcome, ResultRun):
                raise error_of(entry.outcome)
            yield entry.outcome.values(entry.start, entry.stop)
    finally:
        source.leave()  # an exception keeps this frame, and with it the generator that it reads from


def _flat(source: StreamSource, runs: Iterator[Sequence[T]]) -> Generator[T, None, None]:
    try:
        for run in runs:
            yield from run
    finally:
        source.leave()


def _in_progress(leg: StreamLeg, runs: Iterator[Sequence[T]]) -> Generator[T, None, None]:
    def tally() -> Tally:
        return Tally(None, leg.handed_in - leg.under_way, 0, leg.retried)

    with shown(tally) as display:
        for run in runs:
            yield from run
            display.show(tally())


def _futures(
    leg: StreamLeg, entries: Generator[Entry, None, None]
) -> Generator[list[Future[Any]], None, None]:
    for entry in entries:
        futures: list[Future[Any]] = [Future(leg, index) for index in range(entry.start, entry.stop)]
        for future in futures:
            future.enter(entry.state, entry.outcome, [])
        yield futures


def _error_in(entry: Entry) -> BaseException:
    if entry.state == CANCELLED or isinstance(entry.outcome, ResultRun):
        return CancelledError("the task was cancelled")
    return error_of(entry.outcome)
