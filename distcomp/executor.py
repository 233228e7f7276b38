"""`Executor`: the cluster as a `concurrent.futures.Executor`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from distcomp.client import Client
from distcomp.errors import DistcompError, InitializerError, PayloadTooLargeError, UnpicklableError
from distcomp.task_arrays import TaskArray
from distcomp.turnstile import (
    ChunkedTasks,
    Turnstile,
    as_standard,
    chunks,
    read_chunks,
    submit_or_fail,
)
from distcomp.wrapped_calls import ChunkCall, InitializedCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distcomp.access import Access

    StandardFuture = concurrent.futures.Future[Any]
    Unfinished = weakref.WeakKeyDictionary[Any, None]

__all__ = ["Executor"]

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("concurrent.futures")
"""Where the standard library's executors tell of initializers that failed."""
_SIZED = (list, tuple, range)
"""What `map` may be given as it is; everything else is drawn at once, as the standard library does."""


class Executor(concurrent.futures.Executor):
    """The cluster as an executor of the standard library: whatever takes one, takes this.

    It does what `ProcessPoolExecutor` does, with these differences: functions of `__main__` and lambdas
    travel; a task that ends its process fails alone, with `TaskCrashedError`, and the executor lives on;
    `cancel()` of a future also ends its task if it runs, unless `max_workers` bounds the tasks on a shared
    cluster; how many items of a `map` travel at a time is measured, and `chunksize` only counts there.

    Args:
        max_workers: how many tasks run at a time. An embedded cluster is started with as many slots. On a
            cluster that others use as well, no more of this executor's tasks than that are handed in and not
            ended; the others wait in this process. None means as many as the cluster can run.
        address: which cluster, as for `Client`; None leaves the choice to the surroundings.
        client: a client to use instead of one of its own; it is not closed with the executor.
        initializer: called in each slot process before the first task of this executor there.
        initargs: what the initializer is called with.

    Raises:
        ValueError: `max_workers` is not above 0.
        TypeError: the initializer cannot be called, or both `address` and `client` are given.
        ConnectError: the cluster cannot be reached; see `Client`.

    Example:
        >>> with Executor(address="inline:") as executor:
        ...     list(executor.map(abs, [-1, -2]))
        [1, 2]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        address: str | Access | None = None,
        client: Client | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if client is not None and address is not None:
            raise TypeError("give an address or a client, not both: a client has its cluster")
        self._given_workers = max_workers
        self._client = client or Client(address, slots=max_workers)
        self._broken: str | None = None
        self._shutdown = self._terminated = False
        self._initializer = initializer
        self._initargs = initargs
        self._key = os.urandom(16)
        bounds_itself = client is None and self._client.is_embedded
        self._turnstile = (
            None if max_workers is None or bounds_itself else Turnstile(self._client, max_workers)
        )
        self._unfinished: Unfinished = weakref.WeakKeyDictionary()
        owned = self._client if client is None else None
        self._finish = partial(_finish, owned, self._unfinished)
        self._let_go = weakref.finalize(self, _finish_later, owned, self._finish)
        self._let_go.atexit = False  # the client is closed then anyway
        _remember(self)

    @property
    def client(self) -> Client:
        """The client that the tasks are handed in with."""
        return self._client

    @property
    def _max_workers(self) -> int:
        """How many tasks run at a time; others' code reads it of the standard library's executors."""
        if self._given_workers is not None:
            return self._given_workers
        try:
            return max(1, sum(row.slots for row in self._client.workers()))
        except DistcompError:  # it is closed, or nobody answers: this is but a number to go by
            return os.cpu_count() or 1

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Have `fn(*args, **kwargs)` run in the cluster.

        Returns:
            The future of its result. If function or arguments cannot be pickled, it raises that.

        Raises:
            RuntimeError: the executor was shut down, or the interpreter ends.
            BrokenExecutor: the initializer has failed.

        Example:
            >>> executor.submit(pow, 2, 10).result()
            1024
        """
        self.check_open()
        return self._hand_in(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Have `fn` run for the items of `iterables`, taken together as by the built-in `map`.

        The tasks run whether or not anyone reads; what is not read when the iterator is closed or raises is
        cancelled.

        Args:
            fn: what to call.
            *iterables: its arguments, drawn at once; the shortest counts.
            timeout: seconds from now in which all results have to be there; None waits for ever.
            chunksize: how many calls travel as one task where tasks are bounded, by `max_workers` on a shared
                cluster or by `buffersize`.
            buffersize: how many tasks to hand in ahead of what is read; None draws and hands in all at once.

        Returns:
            An iterator over the results, in order.

        Raises:
            ValueError: `chunksize` or `buffersize` is below 1.
            TypeError: `buffersize` is no number.
            TimeoutError: from the iterator, if a result is not there in time.

        Example:
            >>> list(executor.map(pow, [2, 3], [3, 2]))
            [8, 9]
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        if not iterables:
            return iter(())
        if buffersize is not None:
            self.check_open()
            return self._map_ahead(fn, chunks(iterables, chunksize), buffersize, deadline)
        try:
            return _read(self.spread(fn, iterables, chunksize), deadline, weakref.ref(self))
        except (UnpicklableError, PayloadTooLargeError) as error:
            return _raise(as_standard(error))

    def spread(
        self, fn: Callable[..., T], iterables: Sequence[Iterable[Any]], chunksize: int = 1
    ) -> TaskArray[T] | ChunkedTasks:
        """Hand in the tasks of a map; see `map`.

        Returns:
            A handle on all of them, which can be waited for, iterated and cancelled.
        """
        self.check_open()
        if self._turnstile is not None:
            call = ChunkCall(fn)
            return ChunkedTasks([self._hand_in(call, (some,), {}) for some in chunks(iterables, chunksize)])
        if all(type(each) in _SIZED for each in iterables):
            columns = cast("Sequence[Sequence[Any]]", iterables)
        else:
            rows = list(zip(*iterables, strict=False))
            columns = list(zip(*rows, strict=True)) if rows else [()]
        array: TaskArray[T] = self._client.map(self._wrap(fn), *columns)
        self._unfinished[array] = None
        if self._terminated:  # while it was handed in
            array.cancel()
        return array

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in the base class
        """Take no more tasks, and leave the cluster when those there are have ended.

        Args:
            wait: wait until they have ended.
            cancel_futures: cancel those that no worker has.

        Example:
            >>> executor.shutdown(cancel_futures=True)
        """
        self._shutdown = True
        if cancel_futures:
            self._cancel_pending(wait=wait)
        if wait:
            self._let_go.detach()
            self._finish()
        else:
            self._let_go()

    def terminate(self) -> None:
        """Cancel all tasks, end those that run, and take no more."""
        self._shutdown = self._terminated = True
        if self._turnstile is not None:
            self._turnstile.cancel()
        else:
            self._client.cancel(_open(self._unfinished))

    def check_open(self) -> None:
        """Raise if no task can be handed in.

        Raises:
            RuntimeError: the executor was shut down, or the interpreter ends.
            InitializerError: the initializer has failed.
        """
        if self._broken is not None:
            raise InitializerError(self._broken)
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _ending:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def end_with_interpreter(self) -> None:
        """See to what waits in this process, before the clients are closed: hand it in, as it ends."""
        if self._turnstile is not None and not self._client.forked:
            concurrent.futures.wait(_open(self._unfinished))

    # --- inside -----------------------------------------------------------------------------------

    def _wrap(self, fn: Callable[..., T]) -> Callable[..., T]:
        if self._initializer is None:
            return fn
        return InitializedCall(fn, self._initializer, self._initargs, self._key)

    def _hand_in(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> StandardFuture:
        call = self._wrap(fn)
        if self._turnstile is None:
            future = submit_or_fail(self._client, call, args, kwargs)
        else:
            future = self._turnstile.submit(call, args, kwargs)
        self._unfinished[future] = None
        if self._terminated:  # while it was handed in
            future.cancel()
        if self._initializer is not None:
            future.add_done_callback(partial(_look_at, weakref.ref(self)))
        return future

    def _map_ahead(
        self,
        fn: Callable[..., Any],
        some: Iterator[tuple[tuple[Any, ...], ...]],
        most: int,
        deadline: float | None,
    ) -> Iterator[Any]:
        call, futures, this = ChunkCall(fn), deque[Any](), weakref.ref(self)

        def refill() -> None:
            executor = this()
            while executor is not None and len(futures) < most:
                args = next(some, None)
                if args is None:
                    return
                futures.append(executor._hand_in(call, (args,), {}))  # noqa: SLF001 - the same class

        refill()
        return read_chunks(futures, deadline, refill)

    def _cancel_pending(self, *, wait: bool) -> None:
        """Cancel what no worker has. The worker of an embedded cluster may be just about to come."""
        if self._turnstile is not None:
            self._turnstile.cancel_waiting()
            return
        if wait and self._client.is_embedded:
            with contextlib.suppress(DistcompError, TimeoutError):
                self._client.wait_for_workers(timeout_s=self._client.settings.connect_timeout_s)
        self._client.cancel(_open(self._unfinished), pending_only=True)

    def _break(self, error: InitializerError) -> None:
        if self._broken is None:
            self._broken = str(error)
            _log.critical("Exception in initializer:", exc_info=error)


def _read(
    tasks: TaskArray[T] | ChunkedTasks, deadline: float | None, executor: weakref.ref[Executor]
) -> Iterator[T]:
    """Give the results of a map; cancel what is not read."""
    try:
        yield from tasks.iterate(None if deadline is None else deadline - time.monotonic())
    except InitializerError as error:
        _look_at_error(executor, error)
        raise
    except UnpicklableError as error:
        standard = as_standard(error)
        raise standard from standard.__cause__
    finally:
        tasks.cancel()


def _raise(error: BaseException) -> Iterator[Any]:
    """What `map` gives if its function cannot travel: it shows when it is read, as in other executors."""
    raise error
    yield


def _look_at(executor: weakref.ref[Executor], future: Any) -> None:
    """Note whether the initializer has failed, which breaks the executor; called on the loop's thread."""
    if not future.cancelled() and future.failed():
        _look_at_error(executor, future.exception())


def _look_at_error(executor: weakref.ref[Executor], error: BaseException | None) -> None:
    found = executor()
    if found is not None and isinstance(error, InitializerError):
        found._break(error)  # noqa: SLF001 - the same class


# --- the end --------------------------------------------------------------------------------------


def alive(known: weakref.WeakKeyDictionary[T, None]) -> list[T]:
    """What there still is of it, whatever other threads add meanwhile: a weak set would not allow that."""
    return [found for reference in known.keyrefs() if (found := reference()) is not None]


def _open(unfinished: Unfinished) -> list[Any]:
    """Those of the handles whose tasks have not all ended; what is open is kept alive by its client."""
    return [handle for handle in alive(unfinished) if not handle.done()]


def _finish(owned: Client | None, unfinished: Unfinished) -> None:
    """Wait for the tasks, then close the client if it is the executor's own."""
    try:
        for handle in _open(unfinished):
            if isinstance(handle, TaskArray):
                handle.wait()
        concurrent.futures.wait([each for each in _open(unfinished) if not isinstance(each, TaskArray)])
    except BaseException:
        if owned is not None:
            owned.close(cancel=True)
        raise
    if owned is not None:
        owned.close()


def _finish_later(owned: Client | None, finish: Callable[[], None]) -> None:
    if owned is not None:
        threading.Thread(target=finish, name="distcomp-executor-end", daemon=True).start()


_executors: weakref.WeakKeyDictionary[Executor, None] = weakref.WeakKeyDictionary()
_ending = False
_hooked = False


def _remember(executor: Executor) -> None:
    """Have an executor end with the interpreter: before its client, whose hook was set earlier."""
    global _hooked  # noqa: PLW0603 - the hook is set once in a process
    if not _hooked:
        _hooked = True
        threading._register_atexit(_end_all)  # type: ignore[attr-defined]  # noqa: SLF001 - as for clients
    _executors[executor] = None


def _end_all() -> None:
    global _ending  # noqa: PLW0603 - the interpreter ends once
    _ending = True
    for executor in alive(_executors):
        executor.end_with_interpreter()
