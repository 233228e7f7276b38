"""What holds of every client, however it is connected: to programs, to a cluster of its own, or to none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from clusters import DEADLINE_S, until

import distcomp
from distcomp import (
    BlockingCallError,
    Client,
    ClientClosedError,
    RemoteTracebackError,
    TaskTimeoutError,
    UnpicklableError,
    UnpicklableResultError,
    as_completed,
    compute_this,
    gather,
    wait,
)
from distcomp.config import ClientSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def client(way: str) -> Iterator[Client]:
    with Client(way or None) as made:
        made.wait_for_workers(1, timeout_s=DEADLINE_S)
        yield made


def inc(number: int) -> int:
    return number + 1


def invert(number: int) -> float:
    return 1 / number


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def too_long_s(client: Client) -> float:
    """A nap that does not end before it is noticed that it is too long; in this process nobody ends it."""
    return 3600 if client.inline is None else 0.4


# --- work -----------------------------------------------------------------------------------------


def test_submit_and_map(client: Client) -> None:
    assert client.submit(pow, 2, 10).result(DEADLINE_S) == 1024
    assert client.submit(sorted, [3, 1], reverse=True).result(DEADLINE_S) == [3, 1]
    assert list(client.map(pow, [2, 3], (3, 2))) == [8, 9]
    assert sum(client.map(abs, range(-20_000, 0))) == sum(range(20_001))
    assert client.gather([client.submit(lambda x: x + 1, number) for number in range(100)]) == list(
        range(1, 101)
    )


def test_a_remote_exception_shows_where_it_was_raised(client: Client) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        client.submit(invert, 0).result(DEADLINE_S)
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTracebackError)
    assert "return 1 / number" in str(cause)
    assert "attempt 1" in str(cause)
    assert "distcomp/" not in str(cause)
    array = client.map(invert, [1, 0, 2])
    assert array.results("skip") == [1.0, 0.5]
    assert list(array.failures()) == [1]


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration("s"), KeyError("k")])
def test_whatever_a_task_raises_is_raised_here(client: Client, error: BaseException) -> None:
    def fail() -> None:
        raise error

    future = client.submit(fail)
    assert type(future.exception(DEADLINE_S)) is type(error)
    with pytest.raises(type(error)):
        future.result()
    assert client.submit(abs, -1).result(DEADLINE_S) == 1


def test_no_two_tasks_share_an_object_and_the_caller_none(client: Client) -> None:
    given: list[int] = []

    def append(items: list[int]) -> list[int]:
        items.append(1)
        return items

    first, second = client.submit(append, given), client.submit(append, given)
    given.append(7)
    assert first.result(DEADLINE_S) == second.result(DEADLINE_S) == [1]
    assert client.map(append, [given] * 3).results() == [[7, 1]] * 3
    assert given == [7]
    assert first.result() is first.result()


def test_what_cannot_be_pickled_is_said(client: Client) -> None:
    with pytest.raises(UnpicklableError):
        client.submit(len, threading.Lock())
    with pytest.raises(UnpicklableResultError):
        client.submit(threading.Lock).result(DEADLINE_S)
    assert client.map(inc, [1, 2]).results() == [2, 3]


def test_options_travel_along(client: Client) -> None:
    with pytest.raises(TaskTimeoutError, match=r"longer than its timeout of 0\.1 s"):
        client.options(timeout_s=0.1).submit(nap, too_long_s(client)).result(DEADLINE_S)
    assert client.options(priority=9).options(retries=1).submit(abs, -1).result(DEADLINE_S) == 1
    with pytest.raises(ValueError, match="priority"):
        client.options(priority=5000)


@pytest.mark.parametrize(
    ("options", "tries"),
    [
        ({"retries": 2}, 3),
        ({"retries": 2, "retry_delay_s": 0.01}, 3),
        ({"retries": 9, "max_attempts": 2}, 2),
        ({"retries": 2, "retry_on": KeyError}, 1),
        ({"retries": 1, "timeout_s": 0.05}, 2),
    ],
)
def test_retries_are_spent_by_the_rules(
    client: Client, tmp_path: Path, options: dict[str, Any], tries: int
) -> None:
    trace = tmp_path / "trace"
    slow = "timeout_s" in options
    slow_s = too_long_s(client)

    def fail() -> None:
        with trace.open("a") as file:
            file.write("x")
        if slow:
            time.sleep(slow_s)
        raise OSError("always")

    error = client.options(**options).submit(fail).exception(DEADLINE_S)
    assert isinstance(error, TaskTimeoutError if slow else OSError)
    assert trace.read_text() == "x" * tries
    assert f"attempt {tries}" in str(error.__cause__ if not slow else error)


def test_retry_runs_failed_tasks_again(client: Client, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def fragile(number: int) -> int:
        if number == 2 and not marker.exists():
            raise ValueError("not yet")
        return number

    array = client.map(fragile, range(4))
    assert array.results("skip") == [0, 1, 3]
    marker.touch()
    assert list(array.retry()) == [0, 1, 2, 3]


def test_map_says_what_it_cannot_do(client: Client) -> None:
    with pytest.raises(TypeError, match="at least one"):
        client.map(abs)
    with pytest.raises(ValueError, match="2 values for 3"):
        client.map(abs, [1, 2, 3], cost=[1, 2])
    with pytest.raises(TypeError, match="length"):
        client.map(abs, iter([1]), cost=abs)  # type: ignore[call-overload]  # this is what is tested
    assert client.map(abs, [-1, -2], cost=abs).results() == [1, 2]


def test_an_iterable_that_breaks_fails_what_it_did_not_give(client: Client) -> None:
    class Breaking:
        def __len__(self) -> int:
            return 10

        def __iter__(self) -> Iterator[int]:
            yield from range(3)
            raise OSError("the disk is gone")

    array = client.map(abs, Breaking())
    with pytest.raises(OSError, match="disk"):
        list(array)
    assert len(array.failures()) >= 7


def test_a_small_window_holds_nobody_up(way: str) -> None:
    with Client(way or None, settings=ClientSettings(window_tasks=100)) as narrow:
        futures = [narrow.submit(inc, number) for number in range(1000)]
        array = narrow.map(inc, range(5000))
        stream = narrow.map(inc, iter(range(5000)))
        assert sum(stream) == sum(array) == sum(range(1, 5001))
        assert gather(futures) == list(range(1, 1001))


def test_high_priority_goes_first(client: Client, tmp_path: Path) -> None:
    order, gate = tmp_path / "order", tmp_path / "gate"
    others = 20 * sum(worker.slots for worker in client.workers())

    def note(name: str) -> None:
        while not gate.exists():
            time.sleep(0.005)
        with order.open("a") as file:
            file.write(name)
        time.sleep(0.02)

    low = client.map(note, ["l"] * others)
    high = client.options(priority=5).submit(note, "h")
    client.status()  # by now the scheduler knows of both
    gate.touch()
    high.result(DEADLINE_S)
    assert low.wait(DEADLINE_S)
    assert order.read_text().index("h") < others // 2


# --- waiting --------------------------------------------------------------------------------------


def test_cancel_ends_what_waits(client: Client) -> None:
    single, array = client.submit(nap, 3600), client.map(nap, [3600] * 5)
    client.cancel([single])
    assert array.cancel() == 5
    assert single.cancelled()
    assert single.done()
    with pytest.raises(concurrent.futures.CancelledError):
        list(array)
    assert client.submit(abs, -1).result(DEADLINE_S) == 1


def test_timeouts_of_waits(client: Client) -> None:
    futures = [client.submit(nap, too_long_s(client)) for _ in range(8)]
    with pytest.raises(concurrent.futures.TimeoutError):
        futures[-1].result(0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        list(as_completed(futures, 0.05))
    assert wait(futures, 0.01).not_done
    for future in futures:
        future.cancel()


def test_looking_gets_on(client: Client) -> None:
    future, array = client.submit(inc, 1), client.map(inc, range(2000))
    until(future.done, "the future is done")
    until(array.done, "the array is done")
    assert until(lambda: array.done_count == 2000, "all are done")


def test_callbacks_and_the_standard_library(client: Client) -> None:
    called = threading.Event()
    seen: list[BaseException] = []

    def callback(done: Any) -> None:
        assert done.result() == 2
        try:
            client.submit(nap, 1).result()
        except BlockingCallError as error:
            seen.append(error)
        called.set()

    client.submit(inc, 1).add_done_callback(callback)
    assert called.wait(DEADLINE_S)
    assert len(seen) == (client.inline is None)  # there it was done at once, and called by this thread
    futures = [client.submit(abs, number) for number in range(5)]
    assert len(concurrent.futures.wait(futures, DEADLINE_S).done) == 5
    futures = [client.submit(abs, number) for number in range(5)]
    assert sorted(f.result() for f in concurrent.futures.as_completed(futures, DEADLINE_S)) == list(range(5))
    futures = [client.submit(abs, number) for number in range(5)]
    assert sorted(future.result() for future in as_completed(futures, DEADLINE_S)) == list(range(5))
    futures = [client.submit(abs, number) for number in range(5)]
    assert wait(futures, return_when="FIRST_COMPLETED").done
    assert gather(futures) == list(range(5))
    assert not wait(futures).not_done


def test_asyncio_code(client: Client) -> None:
    async def one(number: int) -> int:
        return await client.submit(abs, number)

    async def inner() -> str:
        return "inner"

    async def main() -> list[Any]:
        loops_inside = client.submit(lambda: asyncio.run(inner()))
        return list(await asyncio.gather(*map(one, range(3)), asyncio.wrap_future(loops_inside)))

    assert asyncio.run(main()) == [0, 1, 2, "inner"]


def test_several_threads_wait(client: Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        rounds = pool.map(lambda number: client.submit(inc, number).result(DEADLINE_S), range(200))
        assert list(rounds) == list(range(1, 201))


def test_ending(way: str) -> None:
    with Client(way or None) as other:
        future = other.submit(nap, 0.1)
    assert future.result(0) == 0.1
    with pytest.raises(KeyError), Client(way or None) as other:  # noqa: PT012 - the block is what is tested
        future = other.submit(nap, 3600)
        raise KeyError
    assert future.cancelled()
    with pytest.raises(ClientClosedError):
        other.submit(abs, 1)
    other.close()


def test_status_and_workers(client: Client) -> None:
    (worker,) = client.workers()
    assert worker.slots >= 1
    assert client.status().totals.workers == 1
    with pytest.raises(TimeoutError):
        client.wait_for_workers(5, timeout_s=0.1)


def test_decorated_functions(client: Client) -> None:
    @compute_this(client=client)
    def square(number: int) -> int:
        return number * number

    assert square.compute(5) == 25
    assert square.map([1, 2]).results() == [1, 4]
    assert list(square.map(number for number in range(4))) == [0, 1, 4, 9]

    class Scale:
        factor = 3

        @compute_this(client=client)
        def times(self, number: int) -> int:
            return self.factor * number

    assert list(Scale().times.map(iter([1, 2]))) == [3, 6]


# --- streams --------------------------------------------------------------------------------------


def test_a_stream_gives_results_in_order(client: Client) -> None:
    stream = client.map(inc, (number for number in range(10_000)))
    assert isinstance(stream, distcomp.TaskStream)
    assert next(stream) == 1
    assert list(stream) == list(range(2, 10_001))
    assert list(client.options(retries=1).map(pow, itertools.count(2), [3, 2])) == [8, 9]
    assert list(client.map(abs, iter([]))) == []


def test_an_endless_stream_can_be_left(client: Client) -> None:
    with client.map(inc, itertools.count()) as stream:
        assert list(itertools.islice(stream, 5000)) == list(range(1, 5001))
    for number in client.map(inc, itertools.count()):
        if number > 100:
            break
    until(lambda: client.status().totals.pending == 0, "the rest is cancelled")
    assert client.submit(abs, -1).result(DEADLINE_S) == 1


def test_a_stream_raises_what_its_tasks_and_its_iterable_raise(client: Client) -> None:
    def some() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the disk is gone")

    stream = client.map(invert, some())
    assert (next(stream), next(stream)) == (1.0, 0.5)
    with pytest.raises(OSError, match="disk"):
        next(stream)
    stream = client.map(invert, iter([1, 0, 2]))
    assert next(stream) == 1.0
    with pytest.raises(ZeroDivisionError) as caught:
        next(stream)
    assert isinstance(caught.value.__cause__, RemoteTracebackError)
    assert client.map(invert, iter([1, 0, 2])).results("skip") == [1.0, 0.5]


def test_a_stream_as_completed(client: Client) -> None:
    results = [future.result() for future in client.map(inc, iter(range(3000))).as_completed()]
    assert sorted(results) == list(range(1, 3001))


def test_lists_in_a_stream_are_their_tasks_own(client: Client) -> None:
    shared: list[int] = []

    def grow(items: list[int]) -> int:
        items.append(1)
        return len(items)

    assert list(client.map(grow, (shared for _ in range(100)))) == [1] * 100
