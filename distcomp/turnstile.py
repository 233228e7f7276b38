"""Bounded numbers of tasks: calls that wait for their turn here, and maps handed in by the chunk."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from distcomp.errors import PayloadTooLargeError, RemoteTracebackError, UnpicklableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distcomp.client import Client
    from distcomp.futures import Future

    StandardFuture = concurrent.futures.Future[Any]

T = TypeVar("T")


def as_standard(error: BaseException) -> BaseException:
    """The exception that the standard library's executors would give for what cannot travel.

    That is what the object itself raised when it was pickled; our words, with the path to it, are its cause.
    """
    origin = error.__cause__
    if isinstance(origin, RemoteTracebackError):
        origin = origin.__context__
    if not isinstance(error, UnpicklableError) or origin is None:
        return error
    origin.__cause__ = UnpicklableError(str(error))
    return origin


def submit_or_fail(
    client: Client, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> StandardFuture:
    """The future of a call; one that has failed already if function or arguments cannot travel."""
    try:
        return client.submit(function, *args, **kwargs)
    except (UnpicklableError, PayloadTooLargeError) as error:
        failed: HeldFuture[Any] = HeldFuture()
        failed.set_exception(as_standard(error))
        return failed


class HeldFuture(concurrent.futures.Future[T], Generic[T]):
    """The outcome of a call that may have to wait for its turn.

    It can be cancelled while it waits. Its own result is the future of its task, which is opened by whoever
    asks for the outcome: nothing of the user's runs on the client's loop thread.
    """

    def result(self, timeout: float | None = None) -> T:
        """The task's result, waiting for it if need be; see `concurrent.futures.Future.result`."""
        task = cast("Future[T]", super().result(timeout))
        return task.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that the task raised, or None; waits like `result`."""
        error = super().exception(timeout)
        return error or cast("Future[T]", super().result()).exception()

    def failed(self) -> bool:
        """Whether it has ended with an exception; a task's exception is not unpickled for that."""
        if not self.done() or self.cancelled():
            return False
        if super().exception() is not None:
            return True
        return cast("Future[T]", super().result()).failed()


class _HeldCall(NamedTuple):
    future: HeldFuture[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Turnstile:
    """Hands in calls, never more than `most` that have not ended; the others wait here.

    Args:
        client: where they are handed in.
        most: how many may be under way.
    """

    def __init__(self, client: Client, most: int) -> None:
        self._client = client
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[_HeldCall] = deque()
        self._under_way: dict[StandardFuture, None] = {}
        self._places = most
        self._ended = False

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> HeldFuture[Any]:
        """Hand in a call, now or as soon as there is room for it."""
        future: HeldFuture[Any] = HeldFuture()
        with self._lock:
            self._waiting.append(_HeldCall(future, function, args, kwargs))
        self._hand_in()
        return future

    def cancel_waiting(self) -> None:
        """Cancel what waits here."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            if each.future.cancel():
                each.future.set_running_or_notify_cancel()

    def cancel(self) -> None:
        """Cancel what waits here, and end what is under way; so ends whatever comes later."""
        self._ended = True
        self.cancel_waiting()
        for task in tuple(self._under_way):
            task.cancel()

    def _hand_in(self) -> None:
        """Hand in what there is room for."""
        while True:
            with self._lock:
                if not self._places or not self._waiting:
                    return
                call = self._waiting.popleft()
                self._places -= 1
            if call.future.set_running_or_notify_cancel():
                self._begin(call)
            else:
                self._free_place()

    def _begin(self, call: _HeldCall) -> None:
        try:
            task = submit_or_fail(self._client, call.function, call.args, call.kwargs)
        except Exception as error:  # noqa: BLE001 - what keeps a call from being handed in is its outcome
            self._free_place()
            call.future.set_exception(error)
            return
        self._under_way[task] = None
        if self._ended:  # while it was handed in
            task.cancel()
        task.add_done_callback(partial(self._on_done, call.future))

    def _free_place(self) -> None:
        with self._lock:
            self._places += 1

    def _on_done(self, future: HeldFuture[Any], task: StandardFuture) -> None:
        self._under_way.pop(task, None)
        self._free_place()
        self._hand_in()
        if task.cancelled():
            future.set_exception(concurrent.futures.CancelledError())
        else:
            future.set_result(task)


# --- maps by the chunk ----------------------------------------------------------------------------


def chunks(iterables: Sequence[Iterable[Any]], size: int) -> Iterator[tuple[tuple[Any, ...], ...]]:
    """The arguments of a map's tasks, so many at a time."""
    rows = zip(*iterables, strict=False)
    return iter(lambda: tuple(islice(rows, size)), ())


def read_chunks(
    futures: deque[StandardFuture], deadline: float | None, refill: Callable[[], None] | None = None
) -> Iterator[Any]:
    """Give the items of the lists that futures come to, in order, and let go of each as it is given.

    What is not read when this ends is cancelled.

    Args:
        futures: of the lists; emptied as they are read.
        deadline: monotonic seconds, after which there is no more waiting.
        refill: called when a future was read, to add another.
    """
    try:
        while futures:
            left_s = None if deadline is None else deadline - time.monotonic()
            values = futures[0].result(left_s)
            futures.popleft()
            if refill is not None:
                refill()
            values.reverse()
            while values:
                yield values.pop()
    finally:
        for future in futures:
            future.cancel()


class ChunkedTasks:
    """The tasks of a map that were handed in by the chunk; its results are read once."""

    def __init__(self, futures: Iterable[StandardFuture]) -> None:
        self._futures = deque(futures)

    def done(self) -> bool:
        """Whether all chunks that are not read have ended."""
        return all(future.done() for future in self._futures)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all chunks have ended; whether that came in time."""
        return not concurrent.futures.wait(tuple(self._futures), timeout).not_done

    def iterate(self, timeout: float | None = None) -> Iterator[Any]:
        """Give the results in order; see `TaskArray.iterate`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return read_chunks(self._futures, deadline)

    def cancel(self) -> None:
        """Cancel the chunks that are not read."""
        for future in self._futures:
            future.cancel()
