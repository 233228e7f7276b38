"""`AsyncClient`: the client for asyncio code. No call blocks the user's loop.

It stands on a `Client`: what may take long there, connecting, reading and closing, goes on in threads, one
for each such wait; what does not is called as it is. So the two have the same names and the same meanings.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, overload

from distcomp.client import Client
from distcomp.errors import ClientClosedError, UsageError, WindowFullError
from distcomp.payload import dump_call, open_chunk, pack_calls
from distcomp.task_streams import TaskStream

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from distcomp.access import Access
    from distcomp.bound_client import BoundClient
    from distcomp.config import ClientSettings
    from distcomp.feeder import Cost, SizedIterable
    from distcomp.futures import Future
    from distcomp.options import OptionValues
    from distcomp.protocol import StatusReported
    from distcomp.rows import WorkerRow
    from distcomp.task_arrays import TaskArray

__all__ = ["AsyncClient", "AsyncTaskArray", "AsyncTaskStream"]

P = ParamSpec("P")
T = TypeVar("T")

POLL_S = 0.05
_END: Any = object()


async def in_thread(call: Callable[..., T], *args: Any, on_cancel: Callable[[], object] | None = None) -> T:
    """Make a call in a thread of its own, without bound to how many wait at the same time.

    Args:
        call: what to call. It goes on when the waiting coroutine is cancelled.
        *args: its arguments.
        on_cancel: called then, to have it end soon.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(value)
        else:
            outcome.set_exception(error)

    def run() -> None:
        value, error = None, None
        try:
            value = call(*args)
        except BaseException as raised:  # noqa: BLE001 - it is raised where the call is awaited
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="distcomp-async", daemon=True).start()
    try:
        return await outcome
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        raise


class AsyncRuns(AsyncIterator[T]):
    """Reads what comes in lists, waiting for each list in a thread.

    Args:
        runs: gives the lists; may block.
        leave: what to do if a coroutine that waits is cancelled.
    """

    def __init__(self, runs: Iterator[Sequence[T]], leave: Callable[[], object]) -> None:
        self._runs = runs
        self._leave = leave
        self._here: Iterator[T] = iter(())

    async def __anext__(self) -> T:
        while (value := next(self._here, _END)) is _END:
            run = await in_thread(next, self._runs, _END, on_cancel=self._leave)
            if run is _END:
                raise StopAsyncIteration
            self._here = iter(run)
        return value


class AsyncTaskArray(Generic[T]):
    """Many tasks of one function; made by `AsyncClient.map`. See `TaskArray`.

    Example:
        >>> async def main():
        ...     async with AsyncClient("inline:") as client:
        ...         async for length in client.map(len, ["a", "bc"]):
        ...             print(length)
        >>> asyncio.run(main())
        1
        2
    """

    def __init__(self, array: TaskArray[T]) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __aiter__(self) -> AsyncIterator[T]:
        return AsyncRuns(self._array.runs(), self._array.cancel)

    @property
    def done_count(self) -> int:
        """How many tasks have an outcome."""
        return self._array.done_count

    @property
    def futures(self) -> Sequence[Future[T]]:
        """One future for each task, to be awaited."""
        return self._array.futures

    def done(self) -> bool:
        """Whether all tasks have an outcome."""
        return self._array.done()

    def as_completed(self, timeout: float | None = None) -> AsyncIterator[Future[T]]:
        """Give the tasks' futures as they settle; see `TaskArray.as_completed`."""
        return AsyncRuns(self._array.completed_runs(timeout), self._array.cancel)

    @overload
    async def results(self, on_error: Literal["raise", "skip"] = "raise") -> list[T]: ...

    @overload
    async def results(self, on_error: Literal["return"]) -> list[T | BaseException]: ...

    async def results(self, on_error: Any = "raise") -> Any:
        """Wait for all tasks and give their results in order; see `TaskArray.results`."""
        return await in_thread(self._array.results, on_error, on_cancel=self._array.cancel)

    def failures(self) -> dict[int, BaseException]:
        """The exceptions of the tasks that have failed so far, by index."""
        return self._array.failures()

    def cancel(self) -> int:
        """Cancel every task that has no outcome; returns how many that were."""
        return self._array.cancel()

    def retry(self) -> Self:
        """Run the tasks again that have failed or were cancelled so far."""
        self._array.retry()
        return self

    def __repr__(self) -> str:
        return f"<Async{repr(self._array)[1:]}"


class AsyncTaskStream(AsyncIterator[T]):
    """Results of tasks whose arguments come from something without a length; made by `AsyncClient.map`.

    Arguments are drawn in a thread. See `TaskStream`.

    Example:
        >>> async def main():
        ...     async with AsyncClient("inline:") as client, client.map(abs, itertools.count(5)) as stream:
        ...         return await anext(stream)
        >>> asyncio.run(main())
        5
    """

    def __init__(self, stream: TaskStream[T]) -> None:
        self._stream = stream
        self._reading: AsyncRuns[T] | None = None

    def __aiter__(self) -> AsyncIterator[T]:  # noqa: PYI034 - what reads is faster without this object between
        return self._in_order()

    async def __anext__(self) -> T:
        return await self._in_order().__anext__()

    @property
    def done_count(self) -> int:
        """How many tasks have an outcome so far, those read included."""
        return self._stream.done_count

    def as_completed(self, timeout: float | None = None) -> AsyncIterator[Future[T]]:
        """Give the tasks' futures as they settle; see `TaskStream.as_completed`."""
        return AsyncRuns(self._stream.completed_runs(timeout), self._stream.cancel)

    @overload
    async def results(self, on_error: Literal["raise", "skip"] = "raise") -> list[T]: ...

    @overload
    async def results(self, on_error: Literal["return"]) -> list[T | BaseException]: ...

    async def results(self, on_error: Any = "raise") -> Any:
        """Read to the end and give all results in order; see `TaskStream.results`."""
        return await in_thread(self._stream.results, on_error, on_cancel=self._stream.cancel)

    def cancel(self) -> int:
        """Cancel every task that has no outcome, and draw no more."""
        return self._stream.cancel()

    async def aclose(self) -> None:
        """Leave the stream: cancel the rest of it, and drop what was not read."""
        self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Async{repr(self._stream)[1:]}"

    def _in_order(self) -> AsyncRuns[T]:
        if self._reading is None:
            self._reading = AsyncRuns(self._stream.runs(), self._stream.cancel)
        return self._reading


class AsyncBoundClient:
    """An `AsyncClient` with task options; made by `AsyncClient.options`.

    Example:
        >>> async def main():
        ...     async with AsyncClient("inline:") as client:
        ...         return await client.options(timeout_s=5).submit(len, "abc")
        >>> asyncio.run(main())
        3
    """

    def __init__(self, client: Client, bound: BoundClient | Client) -> None:
        self.client = client
        self._bound = bound

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Have `function(*args, **kwargs)` run in the cluster; see `AsyncClient.submit`."""
        try:
            return asyncio.wrap_future(self._bound.submit(function, *args, **kwargs))
        except WindowFullError:
            call = pack_calls([dump_call(args, kwargs, shares_path=self.client.shares_path)])[0].blob
            return asyncio.ensure_future(self._submit_later(function, call))

    @overload
    def map(  # type: ignore[overload-overlap]  # what has a length is looked for first
        self, function: Callable[..., T], /, *iterables: SizedIterable, cost: Cost = None
    ) -> AsyncTaskArray[T]: ...

    @overload
    def map(self, function: Callable[..., T], /, *iterables: Iterable[Any]) -> AsyncTaskStream[T]: ...

    def map(self, function: Callable[..., T], /, *iterables: Iterable[Any], cost: Cost = None) -> Any:
        """Have `function` run for the items of `iterables`; see `AsyncClient.map`."""
        handle: Any = self._bound.map(function, *iterables, cost=cost)  # type: ignore[call-overload]  # one of them
        return AsyncTaskStream(handle) if isinstance(handle, TaskStream) else AsyncTaskArray(handle)

    def options(self, **values: Unpack[OptionValues]) -> AsyncBoundClient:
        """This client with more options, or other ones."""
        return AsyncBoundClient(self.client, self._bound.options(**values))

    async def _submit_later(self, function: Callable[..., T], call: bytes) -> T:
        """Submit once there is room. The arguments are those of the call, whatever has changed since."""
        while True:
            await in_thread(self.client.window.wait_to_enter)
            ((args, kwargs),) = open_chunk(call).calls(0, 1)
            with contextlib.suppress(WindowFullError):
                future = self._bound.submit(function, *args, **kwargs)
                break
        return await asyncio.wrap_future(future)


class AsyncClient:
    """Hands functions to a cluster from asyncio code.

    It has the names and meanings of `Client`; what may wait is a coroutine, or something to await. Cancelling
    a coroutine that waits for a task cancels the task.

    Args:
        address: as for `Client`.
        token: as for `Client`.
        slots: as for `Client`.
        settings: as for `Client`.
        project: as for `Client`.
        store: as for `Client`. A run is opened meanwhile: that it cannot be, its tasks tell.

    Raises:
        ConnectError: on entering or awaiting it; see `Client`.

    Example:
        >>> async def main():
        ...     async with AsyncClient("inline:") as client:
        ...         return await client.submit(pow, 2, 10)
        >>> asyncio.run(main())
        1024
    """

    def __init__(
        self,
        address: str | Access | None = None,
        *,
        token: str | None = None,
        slots: int | None = None,
        settings: ClientSettings | None = None,
        project: str | os.PathLike[str] | bool | None = None,
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        self._make: Callable[[], Client] = lambda: Client(
            address, token=token, slots=slots, settings=settings, project=project, store=store
        )
        self._client: Client | None = None
        self._plain: AsyncBoundClient | None = None
        self._gone = False

    # --- its life ---------------------------------------------------------------------------------

    async def connect(self) -> Self:
        """Connect, unless that was done; entering the client and awaiting it do the same."""
        if self._client is None and not self._gone:
            client = await in_thread(self._connect, on_cancel=self._give_up)
            self._client, self._plain = client, AsyncBoundClient(client, client)
        return self

    async def close(self, *, cancel: bool = False) -> None:
        """Wait for the tasks handed in, then leave the cluster; see `Client.close`."""
        client, self._gone = self._client, True
        if client is not None:
            await in_thread(lambda: client.close(cancel=cancel), on_cancel=client.cancel_all)

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(cancel=kind is not None)

    def __await__(self) -> Generator[Any, None, Self]:
        return self.connect().__await__()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._gone or (self._client is not None and self._client.closed)

    def __repr__(self) -> str:
        return f"<Async{repr(self._client)[1:]}" if self._client else "<AsyncClient, not connected>"

    # --- work -------------------------------------------------------------------------------------

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Have `function(*args, **kwargs)` run in the cluster.

        Function and arguments are pickled before this returns. If far too much is under way, the task is
        handed in as soon as there is room.

        Returns:
            The future of its result, of asyncio's own kind: to be awaited, gathered, waited for with a
            timeout, or cancelled, which cancels the task.

        Raises:
            UnpicklableError: something cannot be pickled; the text names the path to it.
            PayloadTooLargeError: the arguments or the function take more than `max_payload_bytes`.
            ClientClosedError: the client is closed.

        Example:
            >>> async def main():
            ...     async with AsyncClient("inline:") as client:
            ...         return await client.submit(pow, 2, 10)
            >>> asyncio.run(main())
            1024
        """
        return self._connected().submit(function, *args, **kwargs)

    @overload
    def map(  # type: ignore[overload-overlap]  # what has a length is looked for first
        self, function: Callable[..., T], /, *iterables: SizedIterable, cost: Cost = None
    ) -> AsyncTaskArray[T]: ...

    @overload
    def map(self, function: Callable[..., T], /, *iterables: Iterable[Any]) -> AsyncTaskStream[T]: ...

    def map(self, function: Callable[..., T], /, *iterables: Iterable[Any], cost: Cost = None) -> Any:
        """Have `function` run for the items of `iterables`; see `Client.map`.

        Returns:
            An `AsyncTaskArray`, or, if one of the iterables has no length, an `AsyncTaskStream`; both are
            read by `async for`.

        Example:
            >>> async def main():
            ...     async with AsyncClient("inline:") as client:
            ...         return [length async for length in client.map(len, ["a", "bb"])]
            >>> asyncio.run(main())
            [1, 2]
        """
        return self._connected().map(function, *iterables, cost=cost)  # type: ignore[call-overload]  # one of them

    def options(self, **values: Unpack[OptionValues]) -> AsyncBoundClient:
        """This client with task options; see `distcomp.options.Options`."""
        return self._connected().options(**values)

    async def gather(self, futures: Iterable[asyncio.Future[T] | Future[T]]) -> list[T]:
        """The results of futures, in order; see `distcomp.gather`."""
        return [await future for future in futures]

    def cancel(self, handles: Any) -> None:
        """Cancel a future, an array, a stream, or several of them; see `Client.cancel`."""
        for handle in [handles] if hasattr(handles, "cancel") else handles:
            handle.cancel()

    # --- the cluster ------------------------------------------------------------------------------

    async def status(self) -> StatusReported:
        """The cluster in numbers, as the scheduler sees it now; see `Client.status`."""
        return await in_thread(self._connected().client.status)

    async def workers(self) -> tuple[WorkerRow, ...]:
        """The cluster's workers, as the scheduler sees them now."""
        return (await self.status()).workers

    async def wait_for_workers(self, n: int = 1, timeout_s: float | None = None) -> tuple[WorkerRow, ...]:
        """Wait until at least `n` workers can run this client's tasks; see `Client.wait_for_workers`."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        while True:
            fit = tuple(row for row in await self.workers() if not row.unfit)
            if len(fit) >= n:
                return fit
            if deadline is not None and loop.time() >= deadline:
                raise TimeoutError(f"{len(fit)} of {n} workers after {timeout_s} s")
            await asyncio.sleep(POLL_S)

    # --- inside -----------------------------------------------------------------------------------

    def _connect(self) -> Client:
        """Make the client, in a thread; close it again if nobody waits for it any more."""
        client = self._make()
        client.window.may_block = False
        if self._gone:
            client.close(cancel=True)
        return client

    def _give_up(self) -> None:
        self._gone = True

    def _connected(self) -> AsyncBoundClient:
        if self._gone:
            raise ClientClosedError("the client is closed")
        if self._plain is None:
            raise UsageError("the client is not connected: enter it with `async with`, or await it")
        return self._plain
