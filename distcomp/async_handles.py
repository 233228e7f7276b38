"""The handles that an `AsyncClient` gives: arrays, streams and runs, read from asyncio code.

What may take long goes on in threads, one for each such wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from typing_extensions import Self

    from distcomp.futures import Future
    from distcomp.run_handles import Run
    from distcomp.task_arrays import TaskArray
    from distcomp.task_streams import TaskStream

__all__ = ["AsyncRun", "AsyncTaskArray", "AsyncTaskStream"]

T = TypeVar("T")

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


class _AsyncTasks(Generic[T]):
    """What arrays and streams have in common."""

    _tasks: TaskArray[T] | TaskStream[T]

    @property
    def done_count(self) -> int:
        """How many tasks have an outcome so far; in a stream those read, too."""
        return self._tasks.done_count

    def as_completed(self, timeout: float | None = None) -> AsyncIterator[Future[T]]:
        """Give the tasks' futures as they settle; see `TaskArray.as_completed`, `TaskStream.as_completed`."""
        return AsyncRuns(self._tasks.completed_runs(timeout), self._tasks.cancel)

    @overload
    async def results(self, on_error: Literal["raise", "skip"] = "raise") -> list[T]: ...

    @overload
    async def results(self, on_error: Literal["return"]) -> list[T | BaseException]: ...

    async def results(self, on_error: Any = "raise") -> Any:
        """Wait for all tasks and give their results in order; see `TaskArray.results`.

        A stream is read to its end.
        """
        return await in_thread(self._tasks.results, on_error, on_cancel=self._tasks.cancel)

    def cancel(self) -> int:
        """Cancel every task that has no outcome, and draw no more; returns how many that were."""
        return self._tasks.cancel()

    def __repr__(self) -> str:
        return f"<Async{repr(self._tasks)[1:]}"


class AsyncTaskArray(_AsyncTasks[T]):
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
        self._tasks: TaskArray[T] = array

    def __len__(self) -> int:
        return len(self._tasks)

    def __aiter__(self) -> AsyncIterator[T]:
        return AsyncRuns(self._tasks.runs(), self._tasks.cancel)

    @property
    def futures(self) -> Sequence[Future[T]]:
        """One future for each task, to be awaited."""
        return self._tasks.futures

    def done(self) -> bool:
        """Whether all tasks have an outcome."""
        return self._tasks.done()

    def failures(self) -> dict[int, BaseException]:
        """The exceptions of the tasks that have failed so far, by index."""
        return self._tasks.failures()

    def retry(self) -> Self:
        """Run the tasks again that have failed or were cancelled so far."""
        self._tasks.retry()
        return self


class AsyncTaskStream(_AsyncTasks[T], AsyncIterator[T]):
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
        self._tasks: TaskStream[T] = stream
        self._reading: AsyncRuns[T] | None = None

    def __aiter__(self) -> AsyncIterator[T]:  # noqa: PYI034 - what reads is faster without this object between
        return self._in_order()

    async def __anext__(self) -> T:
        return await self._in_order().__anext__()

    async def aclose(self) -> None:
        """Leave the stream: cancel the rest of it, and drop what was not read."""
        self._tasks.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _in_order(self) -> AsyncRuns[T]:
        if self._reading is None:
            self._reading = AsyncRuns(self._tasks.runs(), self._tasks.cancel)
        return self._reading


class AsyncRun:
    """All tasks of a run, wherever they were submitted; made by `AsyncClient.attach`. See `Run`.

    `async for` gives the results in order, each as soon as it and all before it are there. Cancelling a
    coroutine that waits for them cancels no task: a run goes on without its readers.

    Attributes:
        name: the run's.
        arrays: its tasks, as they were handed in.

    Example:
        >>> async def main():
        ...     async with AsyncClient("inline:", store="results.db") as client:
        ...         await client.options(run="fit").map(abs, [-1, -2]).results()
        ...     async with AsyncClient("inline:", store="results.db") as client:
        ...         async with await client.attach("fit") as run:
        ...             return await run.gather()
        >>> asyncio.run(main())
        [1, 2]
    """

    def __init__(self, run: Run) -> None:
        self.name = run.name
        self.arrays: list[AsyncTaskArray[Any]] = [AsyncTaskArray(array) for array in run.arrays]
        self._run = run

    def __len__(self) -> int:
        return len(self._run)

    def __aiter__(self) -> AsyncIterator[Any]:
        runs = chain.from_iterable(array.runs() for array in self._run.arrays)
        return AsyncRuns(runs, lambda: None)

    @property
    def futures(self) -> list[Future[Any]]:
        """One future for each task, to be awaited."""
        return self._run.futures

    @property
    def done_count(self) -> int:
        """How many tasks have an outcome."""
        return self._run.done_count

    @property
    def failed_count(self) -> int:
        """How many tasks have failed or were cancelled."""
        return self._run.failed_count

    def done(self) -> bool:
        """Whether all tasks have an outcome."""
        return self._run.done()

    async def gather(self) -> list[Any]:
        """Wait for all tasks and give their results in order; see `Run.gather`."""
        return await in_thread(self._run.gather)

    def cancel(self) -> int:
        """Cancel every task that has no outcome; returns how many that were."""
        return self._run.cancel()

    async def forget(self) -> None:
        """Have scheduler and store let go of the run, for good; see `Run.forget`."""
        await in_thread(self._run.forget)

    async def close(self) -> None:
        """Leave the run, which goes on. What has not come settles here as cancelled."""
        await in_thread(self._run.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Async{repr(self._run)[1:]}"
