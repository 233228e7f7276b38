"""`Pool`: the cluster as a `multiprocessing.Pool`."""

from __future__ import annotations

import warnings
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from distcomp.errors import PayloadTooLargeError, UnpicklableError
from distcomp.executor import Executor, alive
from distcomp.pool_results import AsyncResult, CallOutcome, ImapIterator, MapOutcome
from distcomp.turnstile import HeldFuture, as_standard, chunks
from distcomp.wrapped_calls import ChunkCall, StarCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from distcomp.access import Access
    from distcomp.client import Client
    from distcomp.pool_results import Awaited

__all__ = ["Pool"]

T = TypeVar("T")

CHUNKS_PER_PROCESS = 4
"""Into how many tasks for each process a map is cut where its tasks are bounded."""


class Pool:
    """The cluster as a pool of processes: whatever takes a `multiprocessing.Pool`, takes this.

    It does what the standard library's pool does, with these differences: functions of `__main__` and
    lambdas travel; a call that ends its process fails, with `TaskCrashedError`, and others go on; the
    iterables of `imap` and `imap_unordered` are drawn as results are read, some ahead (`imap_tasks`); a call
    that `terminate` ends raises `CancelledError` where its result is asked for.

    Args:
        processes: how many calls run at a time; see `max_workers` of `Executor`.
        initializer: called in each slot process before the first call of this pool there.
        initargs: what the initializer is called with.
        maxtasksperchild: checked, and of no other effect: which process runs a task is the cluster's choice,
            and no other session's task runs there.
        address: which cluster, as for `Client`; None leaves the choice to the surroundings.
        client: a client to use instead of one of its own; it is not closed with the pool.

    Raises:
        ValueError: `processes` or `maxtasksperchild` is below 1.
        TypeError: the initializer cannot be called, or both `address` and `client` are given.
        ConnectError: the cluster cannot be reached; see `Client`.

    Example:
        >>> with Pool(2, address="inline:") as pool:
        ...     pool.map(abs, [-1, -2])
        [1, 2]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        address: str | Access | None = None,
        client: Client | None = None,
    ) -> None:
        self._state = "INIT"
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild < 1):
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._executor = PoolExecutor(processes, address, client, initializer, initargs)
        self._iterators: weakref.WeakKeyDictionary[ImapIterator[Any], None] = weakref.WeakKeyDictionary()
        self._state = "RUN"

    @property
    def client(self) -> Client:
        """The client that the calls are handed in with."""
        return self._executor.client

    @property
    def _processes(self) -> int:
        """How many calls run at a time; others' code reads it of the standard library's pool."""
        return self._executor.size

    # --- calls ------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., T], args: Sequence[Any] = (), kwds: Mapping[str, Any] = {}) -> T:
        """Run `func(*args, **kwds)`, wait, and give its result.

        Example:
            >>> pool.apply(pow, (2, 10))
            1024
        """
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Sequence[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]:
        """Have `func(*args, **kwds)` run.

        Args:
            func: what to call.
            args: with these arguments.
            kwds: and these keyword arguments.
            callback: called with the result, by a thread of the client, which it must not block.
            error_callback: called with the exception likewise.

        Returns:
            What waits for its result.

        Raises:
            ValueError: the pool is closed.

        Example:
            >>> pool.apply_async(pow, (2, 10)).get()
            1024
        """
        self._check_running()
        future = self._executor.submit(func, *args, **kwds)
        return AsyncResult(CallOutcome(future), callback, error_callback)

    # --- maps -------------------------------------------------------------------------------------

    def map(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int | None = None) -> list[T]:
        """Run `func` for each item, wait for all, and give the list of the results; see `map_async`.

        Example:
            >>> pool.map(abs, [-1, -2])
            [1, 2]
        """
        return self.map_async(func, iterable, chunksize).get()

    def map_async(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """Have `func` run for each item.

        Args:
            func: what to call.
            iterable: the items, drawn at once.
            chunksize: how many calls travel as one task where `processes` bounds them on a shared cluster.
            callback: called with the list of the results by another thread.
            error_callback: called with the first exception, when all calls have ended.

        Returns:
            What waits for all results.

        Raises:
            ValueError: the pool is closed.

        Example:
            >>> pool.map_async(abs, [-1, -2]).get()
            [1, 2]
        """
        return self._map_async(func, iterable, chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[T]:
        """As `map`, for items that are each the arguments of a call.

        Example:
            >>> pool.starmap(pow, [(2, 3), (3, 2)])
            [8, 9]
        """
        return self.starmap_async(func, iterable, chunksize).get()

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """As `map_async`, for items that are each the arguments of a call."""
        return self._map_async(StarCall(func), iterable, chunksize, callback, error_callback)

    def imap(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int = 1) -> ImapIterator[T]:
        """Run `func` for items as they are drawn, and give the results in their order.

        Args:
            func: what to call.
            iterable: the items, however many: at most `imap_tasks` tasks are handed in ahead of what is read.
            chunksize: how many calls travel as one task.

        Returns:
            An iterator over the results, with a method `next(timeout)`.

        Raises:
            ValueError: the pool is closed, or `chunksize` is below 1.

        Example:
            >>> next(pool.imap(abs, [-1, -2]))
            1
        """
        return self._imap(func, iterable, chunksize, in_order=True)

    def imap_unordered(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int = 1
    ) -> ImapIterator[T]:
        """As `imap`, with the results in the order in which they come."""
        return self._imap(func, iterable, chunksize, in_order=False)

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more calls. Those there are run to their end."""
        if self._state == "RUN":
            self._state = "CLOSE"

    def terminate(self) -> None:
        """Take no more calls, cancel those there are, and end those that run."""
        self._state = "TERMINATE"
        for iterator in alive(self._iterators):
            iterator.stop()
        self._executor.terminate()
        self._executor.shutdown()

    def join(self) -> None:
        """Wait until all calls have ended, and leave the cluster.

        Raises:
            ValueError: the pool was neither closed nor terminated.
        """
        if self._state == "RUN":
            raise ValueError("Pool is still running")
        for iterator in alive(self._iterators):
            iterator.feed_all()
        self._executor.shutdown()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    def __del__(self) -> None:
        if self._state == "RUN":
            text = f"unclosed running multiprocessing pool {self!r}"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<distcomp.Pool state={self._state}>"

    def __reduce__(self) -> NoReturn:
        """A pool is of use only where it was made."""
        raise UnpicklableError("a Pool cannot leave its process")

    # --- inside -----------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._state != "RUN":
            raise ValueError("Pool not running")

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[list[Any]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult[list[Any]]:
        self._check_running()
        items = list(iterable)
        size = chunksize or self._executor.chunk_size(len(items))
        try:
            outcome: Awaited = MapOutcome(self._executor.spread(func, [items], size))
        except (UnpicklableError, PayloadTooLargeError) as error:
            failed: HeldFuture[Any] = HeldFuture()
            failed.set_exception(as_standard(error))
            outcome = CallOutcome(failed)
        return AsyncResult(outcome, callback, error_callback)

    def _imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int, *, in_order: bool
    ) -> ImapIterator[Any]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        call, executor = ChunkCall(func), self._executor
        most = max(1, executor.client.settings.imap_tasks // chunksize)
        iterator: ImapIterator[Any] = ImapIterator(
            chunks([iterable], chunksize), lambda rows: executor.submit(call, rows), most, in_order=in_order
        )
        self._iterators[iterator] = None
        return iterator


class PoolExecutor(Executor):
    """What a pool hands its calls to."""

    @property
    def size(self) -> int:
        """How many calls run at a time."""
        return self._max_workers

    def chunk_size(self, items: int) -> int:
        """Into chunks of how many items to cut a map; it counts where tasks are bounded."""
        if self._given_workers is None:
            return 1
        return max(1, -(-items // (CHUNKS_PER_PROCESS * self._given_workers)))

    def end_with_interpreter(self) -> None:
        """End what is left of the pool, as the standard library does."""
        if not self.client.forked and not self.client.closed:
            self.terminate()
