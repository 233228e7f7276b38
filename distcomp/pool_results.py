"""What the methods of a `Pool` give: results to come, and iterators over them."""

from __future__ import annotations

import logging
import multiprocessing
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from distcomp.task_arrays import TaskArray
from distcomp.turnstile import as_standard
from distcomp.waiting import wait

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Iterator

    from distcomp.turnstile import ChunkedTasks

    StandardFuture = concurrent.futures.Future[Any]
    Row = tuple[Any, ...]

T = TypeVar("T")

_log = logging.getLogger("distcomp")


class Awaited(Protocol):
    """What an `AsyncResult` waits for."""

    def done(self) -> bool:
        """Whether it is there."""

    def wait(self, timeout: float | None) -> bool:
        """Wait for it; whether it came in time."""

    def load(self) -> Any:
        """Give it, or raise it, once it is there."""

    def when_done(self, action: Callable[[], None]) -> None:
        """Have `action` called once it is there, by another thread."""


class CallOutcome:
    """The outcome of one call."""

    def __init__(self, future: StandardFuture) -> None:
        self._future = future

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._future.done()

    def wait(self, timeout: float | None) -> bool:
        """Wait until it has ended; whether that came in time."""
        return not wait([cast("Any", self._future)], timeout).not_done

    def load(self) -> Any:
        """Its result."""
        return self._future.result()

    def when_done(self, action: Callable[[], None]) -> None:
        """Have `action` called by the client's loop thread."""
        self._future.add_done_callback(lambda _: action())


class MapOutcome:
    """The outcome of all calls of a map: the list of their results, or the first exception in it."""

    def __init__(self, tasks: TaskArray[Any] | ChunkedTasks) -> None:
        self._tasks = tasks

    def done(self) -> bool:
        """Whether all calls have ended."""
        return self._tasks.done()

    def wait(self, timeout: float | None) -> bool:
        """Wait until they have; whether that came in time."""
        return self._tasks.wait(timeout)

    def load(self) -> list[Any]:
        """Their results."""
        if isinstance(self._tasks, TaskArray):
            return self._tasks.results()
        return list(self._tasks.iterate())

    def when_done(self, action: Callable[[], None]) -> None:
        """Have `action` called by a thread that waits."""

        def watch() -> None:
            self._tasks.wait()
            action()

        threading.Thread(target=watch, name="distcomp-pool-callback", daemon=True).start()


class AsyncResult(Generic[T]):
    """What comes of a call or map of a `Pool`, as `multiprocessing.pool.AsyncResult`.

    Args:
        outcome: what to wait for.
        callback: called with the result, by another thread, before anyone who waits goes on.
        error_callback: called with the exception likewise.

    Example:
        `pool.apply_async(pow, (2, 10)).get(timeout=5)` gives 1024.
    """

    def __init__(
        self,
        outcome: Awaited,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._outcome = outcome
        self._callback = callback
        self._error_callback = error_callback
        self._lock = threading.Lock()
        self._loaded: tuple[T | None, BaseException | None] | None = None
        self._told: threading.Event | None = None
        if callback or error_callback:
            self._told = threading.Event()
            outcome.when_done(self._tell)

    def get(self, timeout: float | None = None) -> T:
        """The result, waiting for it if need be.

        Args:
            timeout: seconds to wait at most; None waits for ever.

        Raises:
            multiprocessing.TimeoutError: it is not there in time.
            Exception: what the call raised; of a map, the first in its order.
        """
        self.wait(timeout)
        if not self.ready():
            raise multiprocessing.TimeoutError
        value, error = self._load()
        if error is not None:
            raise error
        return cast("T", value)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there, and callbacks have been called, or `timeout` seconds are over."""
        if self._told is None:
            self._outcome.wait(timeout)
        else:
            self._told.wait(timeout)

    def ready(self) -> bool:
        """Whether the result is there."""
        return self._outcome.done() if self._told is None else self._told.is_set()

    def successful(self) -> bool:
        """Whether the call has ended without an exception.

        Raises:
            ValueError: it has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._load()[1] is None

    def _load(self) -> tuple[T | None, BaseException | None]:
        with self._lock:
            if self._loaded is None:
                try:
                    self._loaded = (self._outcome.load(), None)
                except Exception as error:  # noqa: BLE001 - it is the outcome
                    self._loaded = (None, as_standard(error))
        return self._loaded

    def _tell(self) -> None:
        value, error = self._load()
        try:
            if error is None and self._callback is not None:
                self._callback(cast("T", value))
            elif error is not None and self._error_callback is not None:
                self._error_callback(error)
        except Exception:  # noqa: BLE001 - it may be anything, and who waits must go on
            _log.exception("a callback of a pool failed")
        finally:
            cast("threading.Event", self._told).set()
            self._callback = self._error_callback = None


class ImapIterator(Generic[T]):
    """The results of `imap` and `imap_unordered`, as they are asked for.

    Calls are handed in a bounded number ahead of what is read; each result is let go of as it is given.
    Threads that read at once take turns.

    Args:
        rows: the arguments of the calls by the chunk.
        hand_in: makes a chunk of calls a task; gives the future of the list of its results.
        most: how many tasks may be handed in and not read.
        in_order: whether results are given in the order of the calls, or as they come.
    """

    def __init__(
        self,
        rows: Iterator[tuple[Row, ...]],
        hand_in: Callable[[tuple[Row, ...]], StandardFuture],
        most: int,
        *,
        in_order: bool,
    ) -> None:
        self._rows: Iterator[tuple[Row, ...]] | None = rows
        self._hand_in = hand_in
        self._most: float = most
        self._lock = threading.Lock()
        self._turn = threading.RLock()
        self._unread = 0
        self._futures: deque[StandardFuture] | None = deque() if in_order else None
        self._arrived: queue.SimpleQueue[StandardFuture] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._values: list[T] = []
        self._fill()

    def __iter__(self) -> ImapIterator[T]:
        return self

    def __next__(self) -> T:
        return self.next()

    def next(self, timeout: float | None = None) -> T:
        """The next result, waiting for it if need be.

        Args:
            timeout: seconds to wait at most; None waits for ever.

        Raises:
            StopIteration: there are no more.
            multiprocessing.TimeoutError: it is not there in time.
            Exception: what a call raised, or drawing its arguments.
        """
        if not self._turn.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise multiprocessing.TimeoutError
        try:
            return self._read(timeout)
        finally:
            self._turn.release()

    def feed_all(self) -> None:
        """Hand in all that is left, however much is read."""
        self._most = float("inf")
        self._fill()

    def stop(self) -> None:
        """Hand in nothing more."""
        self._rows = None

    def _read(self, timeout_s: float | None) -> T:
        """The next result, for the thread whose turn it is."""
        if not self._values:
            if not self._unread:
                error, self._error = self._error, None
                raise StopIteration if error is None else error
            future = self._next_done(timeout_s)
            with self._lock:
                self._unread -= 1
            self._fill()
            self._values = future.result()
            self._values.reverse()
        return self._values.pop()

    def _next_done(self, timeout_s: float | None) -> StandardFuture:
        if self._futures is None:
            try:
                return self._arrived.get(timeout=timeout_s)
            except queue.Empty:
                raise multiprocessing.TimeoutError from None
        if wait([cast("Any", self._futures[0])], timeout_s).not_done:
            raise multiprocessing.TimeoutError
        return self._futures.popleft()

    def _fill(self) -> None:
        with self._lock:
            while self._rows is not None and self._unread < self._most:
                try:
                    row = next(self._rows, None)
                except Exception as error:  # noqa: BLE001 - it is raised behind the results of what came before
                    row, self._error = None, error
                if row is None:
                    self._rows = None
                    return
                future = self._hand_in(row)
                self._unread += 1
                if self._futures is None:
                    future.add_done_callback(self._arrived.put)
                else:
                    self._futures.append(future)
