"""`AsyncClient`: the client for asyncio code. No call blocks the user's loop.

It stands on a `Client`: what may take long there, connecting, reading and closing, goes on in threads, one
for each such wait; what does not is called as it is. So the two have the same names and the same meanings.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from distcomp.async_handles import AsyncRun, AsyncTaskArray, AsyncTaskStream, in_thread
from distcomp.client import Client
from distcomp.errors import ClientClosedError, UsageError, WindowFullError
from distcomp.payload import dump_call, open_chunk, pack_calls
from distcomp.task_streams import TaskStream

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable
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

__all__ = ["AsyncBoundClient", "AsyncClient"]

P = ParamSpec("P")
T = TypeVar("T")

POLL_S = 0.05


class AsyncBoundClient:
    """An `AsyncClient` with task options; made by `AsyncClient.options`.

    Example:
        >>> async def main():
        ...     async with AsyncClient("inline:") as client:
        ...         return await client.options(timeout_s=5).submit(len, "abc")
        >>> asyncio.run(main())
        3
    """

    def __init__(self, client: Client, bound: BoundClient) -> None:
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
            await in_thread(self._bound.session.window.wait_to_enter)
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
        journal: as for `Client`.
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
        journal: str | os.PathLike[str] | None = None,
        settings: ClientSettings | None = None,
        project: str | os.PathLike[str] | bool | None = None,
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        self._make: Callable[[], Client] = lambda: Client(
            address,
            token=token,
            slots=slots,
            journal=journal,
            settings=settings,
            project=project,
            store=store,
        )
        self._connecting = asyncio.Lock()
        self._client: Client | None = None
        self._plain: AsyncBoundClient | None = None
        self._gone = False

    # --- its life ---------------------------------------------------------------------------------

    async def connect(self) -> Self:
        """Connect, unless that was done; entering the client and awaiting it do the same."""
        async with self._connecting:
            if self._client is None and not self._gone:
                client = await in_thread(self._connect, on_cancel=self._give_up)
                self._client, self._plain = client, AsyncBoundClient(client, client.options())
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

    async def attach(self, name: str) -> AsyncRun:
        """Collect a run, from any process; see `Client.attach`.

        Returns:
            A handle on all its tasks, in the order in which they were submitted.

        Raises:
            UnknownRunError: neither the scheduler nor the store has such a run.
            RunTakenError: another process has it open.
            UsageError: this client has submitted to it, and so has its handles.

        Example:
            >>> async def main():
            ...     async with AsyncClient("inline:", store="results.db") as client:
            ...         await client.options(run="fit").submit(abs, -1)
            ...     async with AsyncClient("inline:", store="results.db") as client:
            ...         return await client.attach("fit")
            >>> asyncio.run(main())
            <AsyncRun fit of 1 tasks, 1 done>
        """
        client = self._connected().client
        return AsyncRun(await in_thread(client.attach, name))

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
