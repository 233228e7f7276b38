from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import distcomp
from distcomp import Client, as_completed, compute_this
from distcomp.config import ClientSettings, WireLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

ran: list[Any] = []


def note(value: Any) -> Any:
    ran.append((value, threading.current_thread()))
    return value


takes: list[float] = []
turned = threading.Event()


def take(seconds: float) -> None:
    takes.append(seconds)


def wait_for_turns() -> bool:
    return turned.wait(60)


def depth_of(number: int) -> int:
    return fib.compute(number - 1) + fib.compute(number - 2) if number > 1 else number


@compute_this
def fib(number: int) -> int:
    return depth_of(number)


@pytest.fixture
def client() -> Iterator[Client]:
    ran.clear()
    with Client("inline:") as made:
        yield made


def values() -> list[Any]:
    return [value for value, _ in ran]


def test_nothing_runs_before_somebody_asks_and_then_in_order_in_the_thread_that_asks(client: Client) -> None:
    futures = [client.submit(note, number) for number in range(4)]
    other = client.options(priority=1).submit(note, "first")
    assert (values(), repr(futures[0])) == ([], "<Future pending>")
    assert futures[2].result() == 2
    assert values() == ["first", 0, 1, 2]
    assert {thread for _, thread in ran} == {threading.current_thread()}
    assert other.done()
    assert futures[3].cancel()
    client.close()
    assert values() == ["first", 0, 1, 2]


@pytest.mark.parametrize("way", ["done", "exception", "close", "as_completed", "callback", "zero"])
def test_every_way_to_ask_has_tasks_run(client: Client, way: str) -> None:
    future = client.submit(note, way)
    called: list[Any] = []
    if way == "done":
        assert future.done()
    elif way == "exception":
        assert future.exception() is None
    elif way == "as_completed":
        assert list(as_completed([future])) == [future]
    elif way == "callback":
        future.add_done_callback(called.append)
        assert called == [future]
    elif way == "zero":
        assert future.result(0) == way
    client.close()
    assert values() == [way]


def test_a_full_window_has_tasks_run(client: Client) -> None:
    with Client("inline:", settings=ClientSettings(window_tasks=3)) as narrow:
        futures = [narrow.submit(note, number) for number in range(5)]
        assert len(values()) >= 2
        assert [future.result() for future in futures] == list(range(5))
    assert client.submit(abs, -1).result() == 1


def test_tasks_are_traced_like_everything_else_in_the_thread(client: Client) -> None:
    seen: list[str] = []

    def trace(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "note":
            seen.append(frame.f_back.f_code.co_name)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert client.submit(note, 1).result() == 1
    finally:
        sys.settrace(before)
    assert len(seen) == 1


def test_a_function_that_travels_by_value_keeps_its_file_and_lines(client: Client) -> None:
    def here() -> tuple[str, int]:
        frame = sys._getframe()
        return frame.f_code.co_filename, frame.f_lineno

    assert client.submit(here).result() == (__file__, here.__code__.co_firstlineno + 2)


def test_calls_inside_of_tasks_run_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    later = client.submit(note, "later")
    assert client.options(priority=1).submit(depth_of, 10).result() == 55
    assert values() == []

    def inside() -> int:
        with distcomp.Client() as own:
            return own.submit(pow, 2, 5).result()

    assert client.options(priority=1).submit(inside).result() == 32
    assert later.result() == "later"
    monkeypatch.setenv("DISTCOMP_ADDRESS", "inline:")
    with Client() as named:
        assert named.submit(abs, -2).result() == 2


def test_ctrl_c_interrupts_the_task_and_cancels_what_was_waited_for(client: Client) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    before, future, after = (
        client.submit(each, *args) for each, args in ((interrupted, ()), (note, (1,)), (note, (2,)))
    )
    with pytest.raises(KeyboardInterrupt):
        future.result()
    assert future.cancelled()
    with pytest.raises(CancelledError):
        before.result()
    assert after.result() == 2
    array = client.map(lambda number: interrupted() if number == 3 else number, range(6))
    with pytest.raises(KeyboardInterrupt):
        list(array)
    assert array.done()
    assert values() == [2]


def test_a_task_that_took_too_long_fails_when_it_has_ended(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distcomp.inline_program.time", SimpleNamespace(monotonic=lambda: sum(takes)))
    array = client.options(timeout_s=0.05).map(take, [0, 0.1, 0])
    first, error, third = array.results("return")
    assert (first, third) == (None, None)
    assert isinstance(error, distcomp.TaskTimeoutError)
    assert "longer than its timeout of 0.05 s" in str(error)


def test_results_that_are_too_large_fail_alone(client: Client) -> None:
    settings = ClientSettings(wire=WireLimits(max_payload_bytes=1_000_000))
    with Client("inline:", settings=settings) as small:
        first, error, third = small.map(bytes, [1, 2_000_000, 2]).results("return")
        assert (first, third) == (bytes(1), bytes(2))
        assert isinstance(error, distcomp.UnpicklableResultError)
        assert "max_payload_bytes is 1000000" in str(error)
    assert client.submit(abs, -1).result() == 1


def test_a_loop_is_not_blocked(client: Client) -> None:
    async def main() -> None:
        turned.clear()
        future = asyncio.ensure_future(asyncio.wrap_future(client.submit(wait_for_turns)))
        for _ in range(5):
            await asyncio.sleep(0.001)
            assert not future.done()
        turned.set()
        assert await future
        assert await client.submit(note, 3) == 3

    asyncio.run(main())
    assert ran[0][1].name == "distcomp-inline"


def test_two_threads_share_the_work(client: Client) -> None:
    barrier = threading.Barrier(2, timeout=60)
    travelled = {"barrier": barrier}
    sys.modules[__name__].__dict__.update(travelled)
    futures = [client.submit(meet) for _ in range(2)]
    threads = [threading.Thread(target=future.result, args=(60,)) for future in futures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [future.result() for future in futures] == [True, True]


def meet() -> bool:
    globals()["barrier"].wait()
    return True


def test_a_client_has_nothing_left_after_its_end(client: Client) -> None:
    futures = [client.submit(note, number) for number in range(3)]
    stream = client.map(note, iter(range(100)))
    assert next(stream) == 0
    stream.close()
    client.close()
    assert [future.result() for future in futures] == [0, 1, 2]
    assert not client.sinks
    assert client._program._engine.arrays == {}  # type: ignore[union-attr]
    assert (client.window.open_tasks, client.window.open_bytes) == (0, 0)
