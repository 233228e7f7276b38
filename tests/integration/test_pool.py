"""`Pool` does what `multiprocessing.Pool` does, over every way to have one."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import BrokenExecutor, CancelledError
from typing import TYPE_CHECKING, Any

import pytest
from clusters import until

from distcomp import Client, Pool, TaskCrashedError, UnpicklableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
def pool(request: pytest.FixtureRequest, client: Client) -> Iterator[Pool]:
    """A pool with a cluster of its own, one on a cluster it was given, and one with a bound there."""
    make = {
        "own": lambda: Pool(2),
        "shared": lambda: Pool(client=client),
        "bounded": lambda: Pool(2, client=client),
    }
    with make[request.param]() as made:
        yield made


class Thing:
    """Can be referred to weakly."""


class DrawError(Exception):
    """Drawing arguments failed."""


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not this one")


def square(number: int = 0, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return number * number


def hold(gate: str) -> int:
    """Wait until the gate is there."""
    while not os.path.exists(gate):  # noqa: PTH110 - it travels by value, with what it needs
        time.sleep(0.005)
    return 36


def numbers(until_fails: int) -> Iterator[int]:
    yield from range(until_fails)
    raise DrawError


# --- calls and maps -------------------------------------------------------------------------------


def test_calls(pool: Pool) -> None:
    assert pool.apply(square, (5,)) == 25
    assert pool.apply(square, (), {"number": 3}) == 9
    assert pool.apply_async(square, (7, 0.01)).get(timeout=90) == 49


def test_maps(pool: Pool) -> None:
    squares = [number * number for number in range(100)]
    assert pool.map(square, range(100)) == squares
    assert pool.map(square, iter(range(100)), chunksize=20) == squares
    assert pool.map_async(square, range(100)).get() == squares
    pairs = list(zip(range(100), range(99, -1, -1), strict=True))
    products = [one * other for one, other in pairs]
    assert pool.starmap(lambda one, other: one * other, pairs) == products
    assert pool.starmap_async(lambda one, other: one * other, iter(pairs), chunksize=7).get() == products


def test_maps_of_nothing(pool: Pool) -> None:
    assert pool.map(square, []) == []
    assert pool.map_async(square, [], chunksize=1).get(timeout=90) == []
    assert list(pool.imap(square, [])) == []
    assert list(pool.imap_unordered(square, iter([]))) == []


def test_a_map_raises_the_first_exception_when_all_has_ended(pool: Pool) -> None:
    result = pool.map_async(int, ["1", "x", "y", "2"], chunksize=1)
    with pytest.raises(ValueError, match="'x'"):
        result.get()
    with pytest.raises(ValueError, match="'x'"):
        result.get()
    assert result.ready()
    assert not result.successful()


def test_errors_of_drawing_come_from_the_call(pool: Pool) -> None:
    for _ in range(2):
        with pytest.raises(DrawError):
            pool.map(square, numbers(3), 1)


@pytest.mark.parametrize("unordered", [False, True])
@pytest.mark.parametrize("chunksize", [1, 7, 100])
def test_imap(pool: Pool, chunksize: int, unordered: bool) -> None:  # noqa: FBT001 - a parameter of the test
    results = (pool.imap_unordered if unordered else pool.imap)(square, range(50), chunksize)
    assert iter(results) is results
    expected = [number * number for number in range(50)]
    assert (sorted(results) if unordered else list(results)) == expected
    with pytest.raises(StopIteration):
        next(results)


def test_imap_gives_what_was_drawn_before_an_error(pool: Pool) -> None:
    results = pool.imap(square, numbers(3))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(DrawError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    results = pool.imap(square, numbers(7), chunksize=4)
    assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
    with pytest.raises(DrawError):
        next(results)
    with pytest.raises(DrawError):
        next(pool.imap_unordered(square, numbers(0)))
    with pytest.raises(ValueError, match="Chunksize must be 1"):
        pool.imap(square, [1], 0)


def test_imap_draws_a_bounded_number_ahead(pool: Pool) -> None:
    drawn = itertools.count()
    results = pool.imap(square, drawn, chunksize=500)
    assert next(drawn) == 1000
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert next(drawn) == 1501


def test_imap_waits_no_longer_than_told(pool: Pool, tmp_path: Path) -> None:
    for method in (pool.imap, pool.imap_unordered):
        gate = tmp_path / method.__name__
        results = method(hold, [str(gate)])
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(timeout=0.001)
        gate.touch()
        assert results.next(timeout=90) == 36


def test_results_can_be_waited_for(pool: Pool, tmp_path: Path) -> None:
    result = pool.apply_async(hold, (str(tmp_path / "gate"),))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.001)
    (tmp_path / "gate").touch()
    result.wait()
    assert (result.ready(), result.successful(), result.get()) == (True, True, 36)
    failed = pool.apply_async(divmod, (1, 0))
    with pytest.raises(ZeroDivisionError):
        failed.get()
    assert not failed.successful()


def test_callbacks_have_been_called_when_a_wait_ends(pool: Pool) -> None:
    told: list[Any] = []
    pool.map_async(int, ["1"], callback=told.append, error_callback=told.append).wait()
    assert told == [[1]]
    pool.map_async(int, ["x"], callback=told.append, error_callback=told.append).wait()
    assert isinstance(told[1], ValueError)
    pool.apply_async(abs, (-1,), callback=told.append).wait()
    pool.apply_async(divmod, (1, 0), error_callback=told.append).wait()
    assert told[2] == 1
    assert isinstance(told[3], ZeroDivisionError)


def test_a_callback_that_fails_holds_nobody_up(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    result = pool.apply_async(abs, (-1,), callback=lambda _: 1 / 0)
    assert result.get(timeout=90) == 1
    assert "a callback of a pool failed" in caplog.text


def test_a_callback_may_hand_in_more(pool: Pool) -> None:
    more: list[Any] = []
    pool.apply_async(abs, (-1,), callback=lambda _: more.append(pool.apply_async(abs, (-2,)))).wait()
    assert more[0].get() == 2


def test_what_cannot_be_pickled_raises_what_it_raised(pool: Pool) -> None:
    with pytest.raises(RuntimeError, match="not this one"):
        pool.map(square, [Unpicklable()] * 10)
    with pytest.raises(RuntimeError, match="not this one"):
        pool.apply(square, (Unpicklable(),))
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        pool.map(lambda _: lock, [1])
    with pytest.raises(UnpicklableError, match="cannot leave its process"):
        pickle.dumps(pool)


def test_nothing_used_is_held(pool: Pool) -> None:
    things = [Thing() for _ in range(10)]
    seen = [weakref.ref(thing) for thing in things]
    copies = pool.map(lambda thing: thing, things)
    seen += map(weakref.ref, copies)
    del things, copies
    until(lambda: gc.collect() >= 0 and not any(each() for each in seen), "arguments and results are gone")
    for result in pool.imap(lambda _: Thing(), range(5), chunksize=2):
        held = weakref.ref(result)
        del result
        until(lambda held=held: held() is None, "it is let go of")  # type: ignore[misc]


def test_a_call_that_ends_its_process_fails_alone(pool: Pool) -> None:
    with pytest.raises(TaskCrashedError):
        pool.apply(os._exit, (1,))
    assert pool.apply(abs, (-1,)) == 1


# --- its end --------------------------------------------------------------------------------------


def test_closing_lets_calls_end(pool: Pool) -> None:
    results = [pool.apply_async(square, (number, 0.05)) for number in range(6)]
    lazily = pool.imap(square, range(3000))
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    pool.close()
    pool.join()
    assert [result.get() for result in results] == [number * number for number in range(6)]
    assert list(lazily) == [number * number for number in range(3000)]
    for call in (lambda: pool.apply(abs, (-1,)), lambda: pool.map(abs, []), lambda: pool.imap(abs, [])):
        with pytest.raises(ValueError, match="Pool not running"):
            call()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.__enter__()


def test_terminating_ends_what_runs(pool: Pool) -> None:
    result = pool.map_async(time.sleep, [600.0] * 1000, chunksize=1)
    single = pool.apply_async(time.sleep, (600,))
    lazily = pool.imap(time.sleep, itertools.repeat(600))
    pool.terminate()
    pool.join()
    for each in (result, single):
        with pytest.raises(CancelledError):
            each.get(timeout=90)
    with pytest.raises(CancelledError):
        next(lazily)


def test_a_pool_that_nobody_ended_is_told_of() -> None:
    pool = Pool(1)
    client = pool.client
    assert pool.map(abs, [-1]) == [1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del pool
        gc.collect()
    assert [each.category for each in caught] == [ResourceWarning]
    caught.clear()  # a warning knows what it is about
    until(lambda: client.closed, "its client is closed")


# --- how it is made -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1])
def test_there_must_be_a_process(number: int) -> None:
    with pytest.raises(ValueError, match="Number of processes must be at least 1"):
        Pool(number)


@pytest.mark.parametrize("tasks", [0, -1, 0.5, "12"])
def test_processes_must_have_a_task(tasks: Any) -> None:
    with pytest.raises(ValueError, match="maxtasksperchild must be a positive int or None"):
        Pool(1, maxtasksperchild=tasks)


def test_it_has_as_many_processes_as_wanted(client: Client) -> None:
    with Pool(3, maxtasksperchild=5) as pool:
        assert pool._processes == 3
        (worker,) = pool.client.wait_for_workers()
        assert worker.slots == 3
    with Pool(client=client) as pool:
        assert pool._processes == SLOTS
        assert repr(pool) == "<distcomp.Pool state=RUN>"
    assert not client.closed


def set_value(value: int) -> None:
    sys.__dict__["_pool_value"] = value


def value(_: Any = None) -> Any:
    return sys.__dict__.get("_pool_value")


def test_an_initializer_comes_first(pool: Pool) -> None:
    with Pool(client=pool.client, initializer=set_value, initargs=(7,)) as other:
        assert other.map(value, range(4)) == [7] * 4
        assert list(other.imap(value, range(4))) == [7] * 4
        assert other.apply(value) == 7
    broken = Pool(client=pool.client, initializer=int, initargs=("x",))
    with broken, pytest.raises(BrokenExecutor, match="initializer"):
        broken.map(abs, [-1])
    with pytest.raises(TypeError, match="initializer must be a callable"):
        Pool(initializer=5)  # type: ignore[arg-type]


def test_the_interpreter_ends_a_pool_that_was_left(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"""
import pathlib, time
from distcomp import Pool

def nap(seconds):
    pathlib.Path({str(mark)!r}).touch()
    time.sleep(seconds)

pool = Pool(1)
result = pool.apply_async(nap, (600,))
while not pathlib.Path({str(mark)!r}).exists():
    time.sleep(0.01)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_calls_can_run_in_this_process() -> None:
    told: list[Any] = []
    with Pool(address="inline:") as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        pool.map_async(abs, [-3], callback=told.append).wait()
        pool.apply_async(abs, (-4,), callback=told.append).wait()
        assert sorted(pool.imap_unordered(abs, range(5))) == list(range(5))
        assert list(pool.imap(abs, range(5), chunksize=2)) == list(range(5))
    assert told == [[3], 4]
