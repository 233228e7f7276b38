"""`AsyncClient` by every way to connect: with asyncio's own loop, and with uvloop's."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from distcomp import (
    AsyncClient,
    AsyncTaskArray,
    AsyncTaskStream,
    Client,
    ClientClosedError,
    RemoteTracebackError,
    UnknownRunError,
    UnpicklableError,
    UnreachableError,
    UsageError,
)
from distcomp.config import ClientSettings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

DEADLINE_S = 120


def run(main: Coroutine[Any, Any, None], *, on_uvloop: bool = False) -> None:
    loop = uvloop.new_event_loop() if on_uvloop else asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(main, DEADLINE_S))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def inc(number: int) -> int:
    return number + 1


def invert(number: int) -> float:
    return 1 / number


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_at(gate: str) -> str:
    while not Path(gate).exists():
        time.sleep(0.005)
    return gate


@pytest.mark.parametrize("on_uvloop", [False, True])
def test_submit_map_and_gather(way: str, *, on_uvloop: bool) -> None:
    async def main() -> None:
        async with AsyncClient(way or None) as client:
            assert await client.submit(pow, 2, 10) == 1024
            assert await client.gather([client.submit(inc, number) for number in range(50)]) == list(
                range(1, 51)
            )
            array = client.map(inc, range(5000))
            assert isinstance(array, AsyncTaskArray)
            assert [result async for result in array] == list(range(1, 5001))
            assert sum([future.result() async for future in array.as_completed()]) == sum(range(1, 5001))
            assert (len(array), array.done_count, array.done()) == (5000, 5000, True)
            assert await array.futures[3] == 4
            stream = client.map(inc, iter(range(5000)))
            assert isinstance(stream, AsyncTaskStream)
            assert await stream.__anext__() == 1
            assert [result async for result in stream] == list(range(2, 5001))
            assert stream.done_count == 5000
            (worker,) = await client.wait_for_workers(1, timeout_s=DEADLINE_S)
            assert worker == (await client.workers())[0]._replace(**_changing(worker))
            assert (await client.status()).totals.workers == 1
            with pytest.raises(TimeoutError):
                await client.wait_for_workers(5, timeout_s=0.1)

    run(main(), on_uvloop=on_uvloop)


def _changing(worker: Any) -> dict[str, Any]:
    """What of a worker's row may change between two looks at it."""
    names = ("busy", "leased", "settled", "failed", "busy_s", "running", "slot_busy_s", "slot_settled")
    return {name: getattr(worker, name) for name in names}


def test_failures(way: str) -> None:
    async def main() -> None:
        async with AsyncClient(way or None) as client:
            with pytest.raises(ZeroDivisionError) as caught:
                await client.submit(invert, 0)
            assert isinstance(caught.value.__cause__, RemoteTracebackError)
            with pytest.raises(UnpicklableError):
                client.submit(len, threading.Lock())
            array = client.map(invert, [1, 0, 2])
            assert await array.results("skip") == [1.0, 0.5]
            assert list(array.failures()) == [1]
            with pytest.raises(ZeroDivisionError):
                await array.retry().results()
            stream = client.map(invert, iter([1, 0, 2]))
            assert await stream.results("skip") == [1.0, 0.5]
            with pytest.raises(ZeroDivisionError):
                _ = [result async for result in client.map(invert, iter([1, 0, 2]))]

    run(main())


def test_no_call_blocks_the_loop(way: str, tmp_path: Path) -> None:
    """While all of them wait, the loop goes round."""
    marker = tmp_path / "go"

    def hold(path: Path) -> int:
        while not path.exists():
            time.sleep(0.005)
        return 1

    def slowly() -> Iterator[Path]:
        for _ in range(3):
            time.sleep(0.1)
            yield marker

    async def main() -> None:
        async with AsyncClient(way or None, settings=ClientSettings(window_tasks=4)) as client:
            calls = [
                asyncio.ensure_future(client.gather([client.submit(hold, marker) for _ in range(20)])),
                asyncio.ensure_future(client.map(hold, [marker] * 6).results()),
                asyncio.ensure_future(client.map(hold, slowly()).results()),
            ]
            rounds = 0
            for _ in range(30):
                await asyncio.sleep(0.01)
                rounds += 1
            assert rounds == 30
            assert not any(call.done() for call in calls)
            marker.touch()
            assert await asyncio.gather(*calls) == [[1] * 20, [1] * 6, [1] * 3]

    run(main())


def test_what_waits_for_room_is_as_it_was_at_the_call(way: str) -> None:
    async def main() -> None:
        async with AsyncClient(way or None, settings=ClientSettings(window_tasks=1)) as client:
            given = [0]
            futures = []
            for _ in range(6):
                futures.append(client.submit(list, given))
                given[0] += 1
            assert await client.gather(futures) == [[number] for number in range(6)]

    run(main())


def test_cancelling_who_waits_cancels_the_task(way: str, tmp_path: Path) -> None:
    trace, gate = tmp_path / "trace", tmp_path / "gate"

    def note(text: str) -> None:
        with trace.open("a") as file:
            file.write(text)

    async def read(handle: Any) -> None:
        async for _ in handle:
            pass

    async def main() -> None:
        async with AsyncClient(way or None) as client:
            if way == "inline:":  # where who waits runs what is first, itself
                busy = [client.submit(nap, 0.1) for _ in range(100)]
            else:
                (worker,) = await client.wait_for_workers(1, timeout_s=DEADLINE_S)
                busy = [client.submit(wait_at, str(gate)) for _ in range(worker.slots)]
            future = client.options(priority=-1).submit(note, "x")
            waits = asyncio.ensure_future(asyncio.wait_for(future, DEADLINE_S))
            await asyncio.sleep(0)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            assert future.cancelled()
            array = client.options(priority=-1).map(note, ["x"] * 3)
            stream = client.options(priority=-1).map(note, itertools.repeat("x"))
            for handle in (array, stream):
                reader = asyncio.ensure_future(read(handle))
                await asyncio.sleep(0.01)
                reader.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reader
            assert array.done()
            gate.touch()
            client.cancel(busy)
            client.cancel(client.map(nap, [3600]))
            assert await client.submit(inc, 1) == 2

    run(main())


def test_an_endless_stream_can_be_left(way: str) -> None:
    async def main() -> None:
        async with AsyncClient(way or None) as client:
            async with client.map(inc, itertools.count()) as stream:
                assert await stream.__anext__() == 1
            async for number in client.map(inc, itertools.count()):
                if number > 100:
                    break
            completed = client.map(inc, itertools.count()).as_completed()
            assert (await completed.__anext__()).result() >= 1
            del completed
            while (await client.status()).totals.pending:  # noqa: ASYNC110 - only the scheduler knows
                await asyncio.sleep(0.01)
            assert await client.submit(inc, 1) == 2

    run(main())


def test_a_run_is_collected(way: str, tmp_path: Path) -> None:
    store = tmp_path / "results.db"

    async def main() -> None:
        async with AsyncClient(way or None, store=store, settings=ClientSettings(window_tasks=1)) as client:
            bound, gate = client.options(run="collected"), str(tmp_path / "gate")
            futures = [bound.submit(wait_at, gate), bound.submit(nap, 0), bound.submit(nap, 0.01)]
            # a full window blocks nobody, so the loop comes here
            await asyncio.to_thread(Path(gate).touch)
            assert await client.gather(futures) == [gate, 0, 0.01]
        async with AsyncClient(way or None, store=store) as client:
            with pytest.raises(UnknownRunError):
                await client.attach("collect")
            async with await client.attach("collected") as attached:
                assert len(attached) == len(attached.futures) == attached.done_count == 3
                assert [result async for result in attached] == await attached.gather()
                assert set(await attached.gather()) == {gate, 0, 0.01}
                assert attached.done()
                assert sum(map(len, attached.arrays)) == 3
                assert (attached.failed_count, attached.cancel()) == (0, 0)
            await (await client.attach("collected")).forget()
            with pytest.raises(UnknownRunError):
                await client.attach("collected")

    run(main())


def test_its_life(way: str) -> None:
    async def main() -> None:
        client = AsyncClient(way or None)
        with pytest.raises(UsageError, match="async with"):
            client.submit(inc, 1)
        assert not client.closed
        assert await client is client
        assert repr(client).startswith("<AsyncClient of")
        future = client.submit(nap, 0.1)
        await client.close()
        assert await future == 0.1
        assert client.closed
        with pytest.raises(ClientClosedError):
            client.submit(inc, 1)
        with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
            async with AsyncClient(way or None) as other:
                future = other.submit(nap, 3600)
                raise KeyError
        assert future.cancelled()

    run(main())


def test_coroutines_that_connect_at_once_have_one_client() -> None:
    async def main() -> None:
        client, made = AsyncClient("inline:"), []
        make = client._make

        def noted() -> Client:
            made.append(make())
            return made[-1]

        client._make = noted
        await asyncio.gather(client.connect(), client.connect())
        assert await client.submit(inc, 1) == 2
        await client.close()
        assert [each.closed for each in made] == [True]

    run(main())


def test_giving_up_to_connect_leaves_nothing() -> None:
    async def main() -> None:
        settings = ClientSettings(connect_timeout_s=0.5)
        with pytest.raises(UnreachableError):
            await AsyncClient("tcp://127.0.0.1:1", settings=settings)
        with pytest.raises((asyncio.TimeoutError, UnreachableError)):  # what comes first, on a slow machine
            await asyncio.wait_for(AsyncClient("tcp://127.0.0.1:1", settings=settings).connect(), 0.05)

    run(main())
