"""What users write, under the type checker; nothing here is run."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distcomp
from distcomp import (
    AsyncClient,
    AsyncRun,
    AsyncTaskArray,
    AsyncTaskStream,
    Client,
    Executor,
    Future,
    Pool,
    TaskArray,
    TaskExplanation,
    TaskStream,
    as_completed,
    compute_this,
    gather,
    progress,
    wait,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor as StandardExecutor
    from concurrent.futures import Future as StandardFuture

    from distcomp.pool_results import AsyncResult


@compute_this
def square(number: int) -> int:
    return number * number


@compute_this(retries=2, timeout_s=60, priority=5)
def label(number: int, prefix: str = "n") -> str:
    return f"{prefix}{number}"


def decorated() -> None:
    value: int = square.compute(25)
    text: str = label.compute(3, prefix="x")
    future: Future[int] = square.submit(3)
    array: TaskArray[int] = square.map(range(1_000))
    local: int = square.local(3)
    strict: Future[str] = label.options(timeout_s=5).submit(3)
    call = square(2)
    again: int = call.run() + call.compute() + call.submit().result()
    print(value, text, future.result(timeout=1.0), len(array), local, strict, again)


def with_a_client() -> None:
    distcomp.connect("tcp://127.0.0.1:7077", project="src/")
    with Client("tcp://127.0.0.1:7077") as client:
        future: Future[int] = client.submit(pow, 2, 3)
        standard: StandardFuture[int] = future
        lengths: TaskArray[int] = client.map(len, ["a", "bb"])
        results: Iterator[int] = iter(lengths)
        one: Future[int] = lengths.futures[0]
        client.wait_for_workers(1, timeout_s=10)
        urgent: Future[int] = client.options(priority=9, logs=True).submit(len, "abc")
        everything: list[int] = client.gather([future, one, urgent])
        client.cancel([future])
        stream: TaskStream[int] = client.map(len, iter(["a", "bb"]))
        drawn: TaskStream[int] = client.options(retries=1).map(pow, count(), range(3))
        with square.map(number for number in range(3)) as squares:
            first: int = next(squares)
        for finished in stream.as_completed():
            length: int = finished.result()
            print(length)
        print(standard, results, everything, drawn.results("skip"), first)


def with_a_store() -> None:
    with Client(store="results.db", journal=Path("work.db"), slots=2) as client:
        kept: Future[int] = client.options(cache=True, version=2).submit(len, "abc")
        client.options(run="fit").map(len, ["a", "bb"])
        with client.attach("fit") as run:
            arrays: list[TaskArray[Any]] = run.arrays
            told = run.name, len(run), run.done_count, run.failed_count, run.done(), run.futures
            print(kept.result(), arrays, told, run.gather(), list(run))
            run.forget()


def with_an_executor() -> None:
    with Executor(2, initializer=print, initargs=("begun",)) as executor:
        future: StandardFuture[int] = executor.submit(pow, 2, 3)
        standard: StandardExecutor = executor
        lengths: Iterator[int] = executor.map(len, ["a", "bb"], timeout=5, chunksize=2, buffersize=3)
        client: Client = executor.client
        executor.shutdown(wait=False, cancel_futures=True)
        print(future.failed() if isinstance(future, Future) else future, standard, list(lengths), client)


def with_a_pool() -> None:
    with Pool(2, maxtasksperchild=5) as pool:
        value: int = pool.apply(pow, (2, 3))
        lengths: list[int] = pool.map(len, ["a", "bb"], chunksize=2)
        later: AsyncResult[list[int]] = pool.starmap_async(pow, [(2, 3)], callback=print)
        lazily: Iterator[int] = pool.imap_unordered(len, iter(["a"]))
        pool.close()
        pool.join()
        print(value, lengths, later.get(timeout=1), list(lazily))


def with_the_module() -> None:
    futures = [square.submit(number) for number in range(3)]
    for future in as_completed(futures):
        number: int = future.result()
        print(number)
    done, not_done = wait(futures)
    values: list[int] = gather(progress(futures))
    print(done, not_done, values)
    array: TaskArray[int] = progress(square.map([1, 2, 3]))
    streamed: Iterator[int] = progress(square.map(iter([1, 2, 3])))
    print(array.progress().failed_count, array.retried_count, list(streamed))


def debugging(future: Future[int]) -> int:
    explained: TaskExplanation = future.explain()
    for attempt in explained.attempts:
        place: tuple[str, str] = (attempt.worker, attempt.host)
        print(explained.state, attempt.attempt, place)
    return future.replay(debugger=print)


def publishing() -> None:
    with Client("http://127.0.0.1:8077", token="dct_…") as client:  # noqa: S106 - it is none
        told: dict[str, object] = client.publish(square, "square", version="2")
        print(told, distcomp.publish(square))


async def in_asyncio() -> int:
    return await square.submit(3)


async def with_an_async_client() -> None:
    async with AsyncClient("inline:") as client:
        value: int = await client.submit(pow, 2, 3)
        async for length in client.map(len, ["a", "bb"]):
            number: int = length
            print(number)
        array: AsyncTaskArray[int] = client.options(retries=1).map(len, ["a"])
        stream: AsyncTaskStream[int] = client.map(len, iter(["a"]))
        results: list[int] = await array.results()
        values: list[int] = await client.gather([client.submit(len, "a"), array.futures[0]])
        async for future in stream.as_completed():
            print(future.result() + value)
        attached: AsyncRun = await client.attach("fit")
        print([result async for result in attached], await attached.gather(), attached.done_count)
        client.cancel([array, stream])
        await client.wait_for_workers(1)
        print(results, values, (await client.status()).totals)
