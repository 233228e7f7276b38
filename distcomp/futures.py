"""`Future`: the handle on one outcome.

A `Future` is a `concurrent.futures.Future` that costs next to nothing until somebody waits: its
condition, waiters and callbacks are made at first use, and its result stays packed until it is asked for.
Who waits for one result alone sleeps at its *bell*, a lock that is free from the moment the future settles.

Law of a future's state, which keeps three kinds of threads apart (the loop's, which settles; waiting
ones; cancelling ones):

- An *unwatched* future changes state under its host's lock.
- Once it is watched, which happens under the host's lock and for good, it changes state under its own
  condition, and never while the host's lock is held. So no thread ever waits for a future's condition
  while it has the host's lock, and the two cannot wait for each other.
- It leaves the open states once, and then rings its bell. A bell is made under the host's lock while the
  future is open.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypeVar, cast

from distcomp.errors import UnpicklableError, UsageError
from distcomp.explanations import FINISHED as FINISHED_WELL
from distcomp.explanations import explain_failure, explain_open
from distcomp.handles import (
    CANCELLED,
    FINISHED,
    OPEN,
    PENDING,
    RUNNING,
    ResultRun,
    error_of,
    slices,
)
from distcomp.html import card, explanation_html
from distcomp.rows import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from types import TracebackType

    from distcomp.explanations import TaskExplanation
    from distcomp.handles import Book, Host
    from distcomp.remembered_calls import RememberedCall

__all__ = ["Future"]

T = TypeVar("T")

_log = logging.getLogger("distcomp")


class Watch:
    """What a future has only once somebody waits for it: as in the standard library."""

    __slots__ = ("callbacks", "condition", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []
        self.callbacks: list[Callable[[Any], object]] = []


class Woken(NamedTuple):
    """A watched future that is to enter a state, once the host's lock is released."""

    future: Future[Any]
    state: str


class Future(concurrent.futures.Future[T], Generic[T]):
    """The outcome of one task, present or to come; made by `submit`.

    It behaves like the standard library's future, with one difference: `cancel` also stops a running
    task. Dropping a future never cancels its task.

    Example:
        >>> future = client.submit(pow, 2, 10)
        >>> future.result(), future.done()
        (1024, True)
    """

    __slots__ = (
        "_bell",
        "_book",
        "_error",
        "_failed_call",
        "_failure",
        "_index",
        "_outcome",
        "_state",
        "_value",
        "_watch",
    )

    _outcome: ResultRun | Failure | None
    _value: T
    _error: BaseException | None
    _failure: Failure  # there once a failure was unpacked
    _failed_call: RememberedCall  # there if the call was submitted alone and has failed

    def __init__(self, book: Book, index: int) -> None:
        self._book = book
        self._index = index
        self._state = PENDING
        self._outcome = None
        self._watch: Watch | None = None
        self._bell: threading.Lock | None = None

    @property
    def book(self) -> Book:
        """What this future settles with: the array that its task belongs to."""
        return self._book

    @property
    def host(self) -> Host:
        """The client that this future belongs to."""
        return self._book.host

    # --- what users call --------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> T:
        """The task's result, waiting for it if need be.

        Args:
            timeout: seconds to wait at most; None waits for ever.

        Returns:
            What the task returned.

        Raises:
            concurrent.futures.TimeoutError: there is no outcome yet.
            BlockingCallError: the call would have to wait, on the client's own loop thread.
            CancelledError: the task was cancelled.
            Exception: whatever the task raised, with the remote traceback as its cause.

        Example:
            >>> client.submit(pow, 2, 10).result(timeout=60)
            1024
        """
        if self._state in OPEN:
            self._wait(timeout)
        if self._state == CANCELLED:
            raise CancelledError
        outcome = self._outcome
        if outcome is not None:
            self._load(outcome)
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            del self  # the traceback refers to this frame: no cycle through the future

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that the task raised, or None; waits for `timeout` seconds and raises like `result`.

        Example:
            >>> client.submit(len, 7).exception()
            TypeError("object of type 'int' has no len()")
        """
        if self._state in OPEN:
            self._wait(timeout)
        if self._state == CANCELLED:
            raise CancelledError
        outcome = self._outcome
        if outcome is not None:
            self._load(outcome)
        return self._error

    def done(self) -> bool:
        """Whether there is an outcome: a result, an exception, or a cancellation."""
        if self._state not in OPEN:
            return True
        inline = self._book.host.inline
        if inline is not None:
            inline.look(self._is_settled)
        return self._state not in OPEN

    def is_open(self) -> bool:
        """Whether there is no outcome yet; unlike `done()` it only looks."""
        return self._state in OPEN

    def running(self) -> bool:
        """Whether the worker last said that the task runs."""
        return self._state == RUNNING

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._state == CANCELLED

    def cancel(self) -> bool:
        """Cancel the task, running or not. This future settles at once.

        Returns:
            True, unless the task had another outcome before.

        Raises:
            ForkedClientError: the task is another process's, which forked this one.
        """
        if self._state in OPEN:
            self._book.host.check_process()
        if not self._end(CANCELLED, None):
            return self._state == CANCELLED
        self._book.cancel_task(self._index)
        return True

    def cancel_pending(self) -> None:
        """Cancel the task unless a worker has it, which the scheduler decides: this future settles then."""
        if self._state in OPEN:
            self._book.host.check_process()
            self._book.cancel_task(self._index, pending_only=True)

    def failed(self) -> bool:
        """Whether the task has ended with an exception; the exception is not unpickled for that."""
        outcome = self._outcome
        if self._state != FINISHED:
            return False
        return self._error is not None if outcome is None else not isinstance(outcome, ResultRun)

    def explain(self) -> TaskExplanation:
        """Say where the task is, why it waits or why it failed, with its attempts.

        Returns:
            An explanation, which prints as a text.

        Raises:
            UnreachableError: the task is open, and the scheduler did not answer.

        Example:
            >>> future = client.submit(abs, -1)
            >>> future.result(), print(future.explain())
            finished: the task has ended, and its result is here
            (1, None)
        """
        if self._state in OPEN:
            told = self._book.explain_task(self._index)
            if self._state in OPEN:
                return explain_open(told)
        outcome = self._outcome
        if self._state == CANCELLED:
            cancelled = Failure("cancelled", text="the task was cancelled")
            return explain_failure(outcome if isinstance(outcome, Failure) else cancelled, None)
        if isinstance(outcome, ResultRun) or (outcome is None and self._error is None):
            return FINISHED_WELL
        return explain_failure(
            outcome or getattr(self, "_failure", None), self._error if outcome is None else None
        )

    def replay(self, debugger: Callable[[TracebackType], object] | None = None) -> T:
        """Make the failed call again, in this process, with the same arguments, under the debugger.

        Waits for the outcome if need be. What the call prints and does, it does here.

        Args:
            debugger: called with the traceback of what the call raises; `pdb.post_mortem` if left out.

        Returns:
            What the call returned, if it fails in the cluster only.

        Raises:
            UsageError: the task did not fail.
            concurrent.futures.CancelledError: the task was cancelled.
            Exception: whatever the call raised, once the debugger is left.

        Example:
            >>> client.submit(divmod, 1, 0).replay(debugger=lambda traceback: print("here"))
            Traceback (most recent call last):
            ZeroDivisionError: ...
        """
        if self._state in OPEN:
            self._wait(None)
        if self._state == CANCELLED:
            raise CancelledError
        if not self.failed():
            raise UsageError("the task did not fail: there is nothing to replay")
        call = getattr(self, "_failed_call", None) or self._book.call_of(self._index)
        return cast("T", call.replay(debugger))

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Have `fn(future)` called once the outcome is here; at once if it is.

        The call is made by the client's loop thread, which must not block: a blocking call of
        distcomp raises `BlockingCallError` there.

        Example:
            >>> future = client.submit(abs, -1)
            >>> wait([future]) and future.add_done_callback(lambda future: print(future.result()))
            1
        """
        if self._state in OPEN:
            self._want()
            watch = self._watched()
            with watch.condition:
                if self._state in OPEN:
                    watch.callbacks.append(fn)
                    return
        self._call(fn)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in asyncio code. Cancelling the waiting coroutine cancels the task."""
        import asyncio  # noqa: PLC0415 - only asyncio code comes here

        stay = self._book.host.stay
        with stay.waiting() if stay is not None else contextlib.nullcontext():
            return (yield from asyncio.wrap_future(self).__await__())

    def __repr__(self) -> str:
        word = {PENDING: "pending", RUNNING: "running", CANCELLED: "cancelled"}.get(self._state, "finished")
        return f"<Future {word}>"

    def _repr_html_(self) -> str:
        if self._state in OPEN:
            return card(f"Future: {'running' if self._state == RUNNING else 'pending'}")
        outcome = self._outcome or getattr(self, "_failure", None)
        state, text, attempts = self.explain()
        return explanation_html(f"Future: {state}", text, attempts, getattr(outcome, "traceback", ""))

    def __reduce__(self) -> NoReturn:
        """A handle is of use only where its client is."""
        raise UnpicklableError("a Future cannot leave its process; pass its result() instead")

    # --- what the standard library's wait, as_completed and wrap_future read -----------------------

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # only read there
        self._want()
        return self._watched().condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]  # only read there
        self._want()
        return self._watched().waiters

    def set_running_or_notify_cancel(self) -> bool:
        """Not for users: the client alone settles its futures."""
        raise concurrent.futures.InvalidStateError("the client alone settles its futures")

    def set_result(self, result: T) -> None:
        """Not for users: the client alone settles its futures."""
        del result
        raise concurrent.futures.InvalidStateError("the client alone settles its futures")

    def set_exception(self, exception: BaseException | None) -> None:
        """Not for users: the client alone settles its futures."""
        del exception
        raise concurrent.futures.InvalidStateError("the client alone settles its futures")

    # --- what books call --------------------------------------------------------------------------

    def enter(self, state: str, outcome: ResultRun | Failure | None, woken: list[Woken]) -> None:
        """Take in news with the host's lock held; a watched future goes to `woken` instead."""
        if self._state not in OPEN:
            return
        if outcome is not None:
            self._outcome = outcome
        if self._watch is None:
            self._state = state
            if self._bell is not None and state != RUNNING:
                self._bell.release()
        else:
            woken.append(Woken(self, state))

    def wake(self, state: str) -> None:
        """Enter a state without the host's lock, and tell everyone who waits for it."""
        watch = self._watched()
        with watch.condition:
            if self._state not in OPEN:
                return
            self._state = state
            if state == RUNNING:
                return
            watch.condition.notify_all()
            for waiter in watch.waiters:
                if state == CANCELLED:
                    waiter.add_cancelled(self)
                elif isinstance(self._outcome, ResultRun):
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
        with self._book.host.lock:
            bell = self._bell
        if bell is not None:
            bell.release()
        callbacks, watch.callbacks = watch.callbacks, []
        for callback in callbacks:
            self._call(callback)

    def remember(self, call: RememberedCall) -> None:
        """Keep the call, which has failed, for `replay`."""
        self._failed_call = call

    # --- inside -----------------------------------------------------------------------------------

    def _is_settled(self) -> bool:
        return self._state not in OPEN

    def _want(self) -> None:
        """Have the task run, if it runs in this process or needs its slot: somebody waits by other means."""
        host = self._book.host
        if host.inline is not None:
            host.inline.want(self._is_settled)
        if host.stay is not None:
            host.stay.give_way()

    def _watched(self) -> Watch:
        watch = self._watch
        if watch is None:
            with self._book.host.lock:
                watch = self._watch
                if watch is None:
                    watch = self._watch = Watch()
        return watch

    def _end(self, state: str, outcome: Failure | None) -> bool:
        """Settle from a user's thread; whether this call did it."""
        woken: list[Woken] = []
        with self._book.host.lock:
            if self._state not in OPEN:
                return False
            self.enter(state, outcome, woken)
        wake_all(woken)
        return self._state == state

    def _wait(self, timeout_s: float | None) -> None:
        host = self._book.host
        host.check_process()
        with host.lock:
            if self._state not in OPEN:
                return
            bell = self._bell
            if bell is None:
                bell = self._bell = threading.Lock()
                bell.acquire()
        try:
            if host.inline is not None:
                host.check_may_wait()
                host.inline.work(self._is_settled, timeout_s)
                timeout_s = 0.0
            for slice_s in slices(host, timeout_s):
                if bell.acquire(timeout=slice_s):
                    bell.release()  # for others who wait
                if self._state not in OPEN:
                    return
        except KeyboardInterrupt:
            if not host.is_run:
                self.cancel()
            raise
        raise concurrent.futures.TimeoutError

    def _load(self, outcome: ResultRun | Failure) -> None:
        """Unpack the outcome, once unless two threads do it at the same moment."""
        value: Any = None
        error: BaseException | None = None
        if isinstance(outcome, ResultRun):
            try:
                value = outcome.value(self._index)
            except Exception as problem:  # noqa: BLE001 - it is this future's outcome
                error = problem
        else:
            error = error_of(outcome)
            self._failure = outcome
        if self._outcome is not None:
            self._value, self._error = value, error
            self._outcome = None

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except Exception:  # noqa: BLE001 - it may be anything, and others' callbacks come after it
            _log.exception("a callback of %r failed", self)


def wake_all(woken: Iterable[Woken]) -> None:
    """Have watched futures enter their states, with the host's lock free."""
    for future, state in woken:
        future.wake(state)
