"""`Executor` does what the standard library's executors do, over every way to have one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

import pytest
from clusters import DEADLINE_S, until

from distcomp import Client, Executor, TaskCrashedError
from distcomp.errors import ForkedClientError, UnpicklableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

SLOTS = 4


@pytest.fixture(scope="module", autouse=True)
def _no_cluster_around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing but embedded clusters can be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTCOMP_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("DISTCOMP_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def client(_no_cluster_around: None) -> Iterator[Client]:
    with Client(slots=SLOTS) as made:
        made.wait_for_workers()
        yield made


@pytest.fixture(params=["own", "shared", "bounded"])
def executor(request: pytest.FixtureRequest, client: Client) -> Iterator[Executor]:
    """An executor with a cluster of its own, one on a cluster it was given, and one with a bound there."""
    make = {
        "own": lambda: Executor(2),
        "shared": lambda: Executor(client=client),
        "bounded": lambda: Executor(2, client=client),
    }
    with make[request.param]() as made:
        yield made


class Thing:
    """Can be referred to weakly, and has something to do."""

    def work(self) -> int:
        return 7


class Unpicklable:
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("not this one")


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def span(_: int, seconds: float) -> tuple[float, float]:
    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic()


def most_at_once(spans: list[tuple[float, float]]) -> int:
    return max(sum(low <= begun < high for low, high in spans) for begun, _ in spans)


def collected(seen: weakref.ref[Any]) -> bool:
    gc.collect()
    return seen() is None


# --- what every executor does ---------------------------------------------------------------------


def test_calls_are_submitted_with_any_arguments(executor: Executor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result() == 256
    assert executor.submit(echo, 1, self=2, fn=3).result() == ((1,), {"self": 2, "fn": 3})
    with pytest.raises(TypeError):
        executor.submit()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit(fn=echo)  # type: ignore[call-arg]


@pytest.mark.parametrize("chunksize", [1, 3, 40, 50])
def test_map_gives_results_in_order(executor: Executor, chunksize: int) -> None:
    expected = [pow(number, 2) for number in range(40)]
    assert list(executor.map(pow, range(40), [2] * 50, chunksize=chunksize)) == expected
    assert list(executor.map(pow, iter(range(40)), itertools.repeat(2), chunksize=chunksize)) == expected


def test_map_of_nothing_gives_nothing(executor: Executor) -> None:
    assert list(executor.map(pow, [], [])) == []
    assert list(executor.map(pow, iter([]), [1])) == []
    assert list(executor.map(pow)) == []


def test_map_checks_how_many_at_a_time(executor: Executor) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(abs, [1], chunksize=0)
    with pytest.raises(ValueError, match="buffersize must be None or > 0"):
        executor.map(abs, [1], buffersize=0)
    with pytest.raises(TypeError, match="buffersize must be an integer or None"):
        executor.map(abs, [1], buffersize=1.5)  # type: ignore[arg-type]


def test_map_raises_what_a_call_raised_at_its_place(executor: Executor) -> None:
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert [next(results), next(results)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_gives_up_at_its_timeout_and_cancels_the_rest(executor: Executor) -> None:
    assert list(executor.map(abs, [-1])) == [1]  # by now there is a slot
    begun = time.monotonic()
    for timeout_s in (1.0, 10.0, 100.0):  # until the first call comes in time, on a slow machine, too
        results = executor.map(time.sleep, [0, 3600], timeout=timeout_s)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            assert next(results) is None
            break
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    executor.shutdown(cancel_futures=True) if executor._turnstile is None else executor.terminate()
    assert time.monotonic() - begun < 3000


def test_map_with_a_buffer_draws_no_further(executor: Executor) -> None:
    drawn: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            drawn.append(number)
            yield number

    results = executor.map(abs, numbers(), buffersize=3)
    assert len(drawn) == 3
    assert [next(results) for _ in range(5)] == list(range(5))
    assert len(drawn) <= 8
    results.close()  # type: ignore[attr-defined]  # it is a generator
    assert list(executor.map(abs, range(10), chunksize=4, buffersize=1)) == list(range(10))


def test_what_cannot_be_pickled_surfaces_from_the_result(executor: Executor) -> None:
    with pytest.raises(pickle.PicklingError, match="not this one") as caught:
        executor.submit(id, Unpicklable()).result()
    assert isinstance(caught.value.__cause__, UnpicklableError)
    assert "argument 1" in str(caught.value.__cause__)
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        executor.submit(lambda: lock).result()
    results = executor.map(lambda _: lock, [1])
    with pytest.raises(TypeError, match="lock"):
        next(results)
    with pytest.raises(pickle.PicklingError, match="not this one"):
        list(executor.map(id, [Unpicklable()]))


def test_nothing_used_is_held(executor: Executor) -> None:
    thing = Thing()
    seen = weakref.ref(thing)
    executor.submit(thing.work)
    del thing
    until(lambda: collected(seen), "the argument is let go of")
    result = executor.submit(Thing).result()
    seen = weakref.ref(result)
    del result
    until(lambda: collected(seen), "the result is let go of")
    future = executor.submit(abs, -1)
    future.result()
    held = weakref.ref(future)
    del future
    until(lambda: collected(held), "the future is let go of")
    for result in executor.map(lambda _: Thing(), range(10)):
        seen = weakref.ref(result)
        del result
        until(lambda: collected(seen), "each result is let go of")  # noqa: B023 - now


def test_futures_can_be_waited_for_by_the_standard_library(executor: Executor) -> None:
    futures = [executor.submit(pow, number, 2) for number in range(10)]
    done, not_done = concurrent.futures.wait([*futures, *futures])
    assert (done, not_done) == (set(futures), set())
    arrived = concurrent.futures.as_completed(executor.submit(abs, number) for number in range(5))
    assert sorted(future.result() for future in arrived) == list(range(5))
    fails, naps = executor.submit(divmod, 1, 0), executor.submit(time.sleep, 0.3)
    done, not_done = concurrent.futures.wait(
        [fails, naps], return_when=concurrent.futures.FIRST_EXCEPTION, timeout=DEADLINE_S
    )
    assert fails in done
    assert isinstance(fails.exception(), ZeroDivisionError)


def test_a_loop_runs_calls_in_it(executor: Executor) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, pow, number, 2) for number in range(5)]
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(executor, divmod, 1, 0)
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]


def test_a_traceback_names_the_line_that_raised(executor: Executor) -> None:
    def fail() -> None:
        raise RuntimeError(123)  # this very line

    with pytest.raises(RuntimeError) as caught:
        executor.submit(fail).result()
    assert caught.value.args == (123,)
    assert "raise RuntimeError(123)  # this very line" in str(caught.value.__cause__)


def test_a_task_that_ends_its_process_fails_alone(executor: Executor) -> None:
    with pytest.raises(TaskCrashedError) as caught:
        executor.submit(os._exit, 3).result()
    assert isinstance(caught.value, BrokenExecutor)
    assert executor.submit(abs, -1).result() == 1


# --- its end --------------------------------------------------------------------------------------


def test_shutting_down_waits_and_takes_nothing_more(executor: Executor) -> None:
    futures = [executor.submit(time.sleep, 0.02) for _ in range(20)]
    results = executor.map(abs, [-1, -2])
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert list(results) == [1, 2]
    for call in (lambda: executor.submit(abs, -1), lambda: executor.map(abs, [1])):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call()
    executor.shutdown()


def wait_at(gate: str) -> None:
    while not os.path.exists(gate):  # noqa: PTH110 - no path is needed
        time.sleep(0.01)


def test_shutting_down_can_cancel_what_no_worker_has(executor: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    futures = [executor.submit(wait_at, str(gate)) for _ in range(50)]
    until(futures[0].running, "the first one runs")

    def let_go() -> None:
        until(futures[-1].cancelled, "the last one is cancelled")
        gate.touch()

    opener = threading.Thread(target=let_go)
    opener.start()
    executor.shutdown(cancel_futures=True)
    opener.join()
    assert all(future.done() for future in futures)
    others = [future for future in futures if not future.cancelled()]
    assert 0 < len(others) < 30
    assert [future.exception() for future in others] == [None] * len(others)


def test_shutting_down_without_waiting_lets_tasks_end(executor: Executor) -> None:
    future, results = executor.submit(pow, 2, 3), executor.map(abs, [-1, -2])
    executor.shutdown(wait=False)
    assert (future.result(), list(results)) == (8, [1, 2])
    executor.shutdown()


def test_shutting_down_takes_what_another_thread_is_handing_in(client: Client) -> None:
    executor, late = Executor(client=client), [concurrent.futures.Future[int]()]
    executor.submit(abs, -1)

    def hand_in() -> None:
        late.append(executor._hand_in(abs, (-len(late),), {}))  # it was open a moment ago

    def overtake(frame: FrameType, _event: str, _argument: object) -> None:
        if "weakref" in frame.f_code.co_filename:
            thread = threading.Thread(target=hand_in)
            thread.start()
            thread.join()

    sys.setprofile(overtake)
    try:
        executor.shutdown()
    finally:
        sys.setprofile(None)
    assert len(late) > 1
    assert [future.result(DEADLINE_S) for future in late[1:]] == [*range(1, len(late))]


def test_a_future_can_be_cancelled_right_before_the_end(executor: Executor) -> None:
    future = executor.submit(int)
    was_open = future.cancel()
    executor.shutdown()
    assert (future.done(), future.cancelled()) == (True, was_open)


def test_terminating_ends_what_runs(executor: Executor) -> None:
    running = executor.submit(time.sleep, 600)
    more = [executor.submit(time.sleep, 600) for _ in range(20)]
    executor.terminate()
    executor.shutdown()
    for future in (running, *more):
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()


def test_terminating_ends_what_another_thread_is_handing_in(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Executor(client=client)
    submit = client.submit

    def overtaken(*call: Any) -> Any:
        future = submit(*call)
        thread = threading.Thread(target=executor.terminate)
        thread.start()
        thread.join()
        return future

    monkeypatch.setattr(client, "submit", overtaken)
    assert executor.submit(time.sleep, DEADLINE_S).cancelled()


def test_an_executor_nobody_has_any_more_lets_its_tasks_end() -> None:
    executor = Executor(1)
    client = executor.client
    results = executor.map(abs, [-1, -2, -3])
    gone = weakref.ref(executor)
    del executor
    assert list(results) == [1, 2, 3]
    until(lambda: collected(gone), "the executor is gone")
    until(lambda: client.closed, "its client is closed")


# --- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1])
def test_there_must_be_a_worker(number: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Executor(max_workers=number)


def test_arguments_that_cannot_be(client: Client) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        Executor(initializer=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not both"):
        Executor(address="tcp://localhost:1", client=client)


def test_an_embedded_cluster_has_as_many_slots_as_wanted() -> None:
    with Executor(3) as executor:
        assert executor._max_workers == 3
        (worker,) = executor.client.wait_for_workers()
        assert worker.slots == 3
    with Executor() as executor:
        executor.client.wait_for_workers()
        slots = sum(row.slots for row in executor.client.workers())
        assert executor._max_workers == slots
    assert executor._max_workers >= 1


def test_a_bound_holds_on_a_shared_cluster(client: Client) -> None:
    with Executor(2, client=client) as executor:
        assert executor._max_workers == 2
        spans = [executor.submit(span, number, 0.05) for number in range(12)]
        mapped = list(executor.map(span, range(6), [0.02] * 6, chunksize=2))
        assert most_at_once([each.result() for each in spans] + mapped) == 2
    assert not client.closed


def test_a_call_that_waits_for_its_turn_can_be_cancelled(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Executor(1, client=client) as executor:
        first, second = executor.submit(wait_at, str(gate)), executor.submit(time.sleep, 3600)
        assert second.cancel()
        assert not first.cancel()
        gate.touch()
        assert concurrent.futures.wait([second]).done == {second}


# --- initializers ---------------------------------------------------------------------------------


def remember(value: int) -> None:
    sys.__dict__.setdefault("_values", []).append(value)


def remembered() -> list[int]:
    return list(sys.__dict__["_values"])


def fail_to_begin() -> None:
    raise ValueError("nothing works here")


@pytest.mark.parametrize("bound", [None, 2])
def test_an_initializer_runs_once_in_each_process(client: Client, bound: int | None) -> None:
    with Executor(bound, client=client, initializer=remember, initargs=(5,)) as executor:
        values = [executor.submit(remembered).result() for _ in range(6)]
        values += executor.map(lambda _: remembered(), range(6))
        assert {value.count(5) for value in values} == {1 if bound is None else 2}
        with pytest.raises(TypeError, match="argument"):
            executor.submit(abs).result()


@pytest.mark.parametrize("bound", [None, 2])
def test_an_initializer_that_fails_breaks_the_executor(
    client: Client, bound: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    with Executor(bound, client=client, initializer=fail_to_begin) as executor:
        futures = [executor.submit(abs, -1)]
        with contextlib.suppress(BrokenExecutor):  # that may be known by now
            futures.append(executor.submit(abs, -1))
        for future in futures:
            with pytest.raises(BrokenExecutor, match="nothing works here"):
                future.result()
        until(lambda: executor._broken, "the executor is broken")
        for call in (lambda: executor.submit(abs, -1), lambda: executor.map(abs, [1])):
            with pytest.raises(BrokenExecutor, match="nothing works here"):
                call()
    with Executor(client=client, initializer=fail_to_begin) as executor:
        with pytest.raises(BrokenExecutor, match="nothing works here"):
            list(executor.map(abs, [-1]))
        with pytest.raises(BrokenExecutor, match="nothing works here"):
            executor.submit(abs, -1)
    assert "ValueError: nothing works here" in caplog.text


# --- processes and interpreters that end ----------------------------------------------------------


def run_script(text: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DISTCOMP_EXPLAIN_AFTER_S": "3600"}  # nothing is said on a slow machine, too
    command = [sys.executable, "-c", text]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False
    )


NAP = """
import time, atexit, os
from distcomp import Client, Executor

def nap(path):
    time.sleep(0.5)
    with open(path, "a") as file:
        file.write("apple ")
"""


@pytest.mark.parametrize("make", ["Executor(2)", "Executor(1, client=Client(slots=2))"])
@pytest.mark.parametrize("end", ["", "executor.shutdown(wait=False)"])
def test_the_interpreter_waits_for_tasks_at_its_end(tmp_path: Path, make: str, end: str) -> None:
    mark = tmp_path / "mark"
    ended = run_script(
        f"{NAP}\nexecutor = {make}\n[executor.submit(nap, {str(mark)!r}) for _ in 'ab']\n{end}"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert mark.read_text() == "apple apple "


def test_nothing_is_taken_when_the_interpreter_has_ended() -> None:
    ended = run_script(
        f"{NAP}\n@atexit.register\ndef last():\n    executor.submit(abs, -1)\n"
        "executor = Executor(1)\nprint(executor.submit(abs, -2).result())"
    )
    assert ended.stdout == "2\n"
    assert "RuntimeError: cannot schedule new futures after interpreter shutdown" in ended.stderr


def test_a_forked_child_leaves_its_parents_executor_alone(client: Client) -> None:
    with Executor(client=client) as executor:
        assert executor.submit(abs, -1).result() == 1
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                executor.submit(abs, -1)
            except ForkedClientError:
                os.write(write, b"refused")
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(pid, 0)
        assert os.read(read, 100) == b"refused"
        os.close(read)
        assert executor.submit(abs, -2).result() == 2


def test_callbacks_may_submit_more(executor: Executor) -> None:
    results: list[int] = []
    ended = threading.Event()

    def then(action: Callable[[], object]) -> Callable[[Any], object]:
        return lambda _: action()

    def again() -> None:
        executor.submit(abs, -5).add_done_callback(last)

    def last(future: concurrent.futures.Future[int]) -> None:
        results.append(future.result())
        ended.set()

    executor.submit(abs, -1).add_done_callback(then(again))
    assert ended.wait(DEADLINE_S)
    assert results == [5]


@pytest.mark.parametrize("bound", [None, 2])
def test_calls_can_run_in_this_process(bound: int | None) -> None:
    with Executor(bound, address="inline:") as executor:
        futures = [executor.submit(os.getpid) for _ in range(5)]
        assert concurrent.futures.wait(futures, DEADLINE_S).not_done == set()
        assert {future.result() for future in futures} == {os.getpid()}
        assert list(executor.map(abs, range(-5, 0), chunksize=2)) == [5, 4, 3, 2, 1]
