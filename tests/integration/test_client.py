"""The client with real programs: schedulers and workers as processes, scripts as users write them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from clusters import DEADLINE_S, Programs, programs, quickest, until

from distcomp.client import Client
from distcomp.config import ClientSettings, WireLimits
from distcomp.errors import (
    AmbiguousClusterError,
    BlockingCallError,
    ClientClosedError,
    PayloadTooLargeError,
    SchedulerLostError,
    UnpicklableError,
    UnreachableError,
    WindowFullError,
)
from distcomp.waiting import as_completed, gather, wait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEARD_WITHIN_S = 0.2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """A scheduler and a worker of two slots for tests that leave them as they are."""
    with programs(tmp_path_factory.mktemp("home")) as cluster:
        cluster.scheduler()
        cluster.worker()
        yield cluster


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    """A user folder for programs of one test."""
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    with programs(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def client(shared: Programs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("DISTCOMP_HOME", str(shared.home))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    with Client() as made:
        made.wait_for_workers(1, timeout_s=DEADLINE_S)
        yield made


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def run_script(text: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    quiet = {"DISTCOMP_EXPLAIN_AFTER_S": "3600", "DISTCOMP_AWAY_NOTICE_S": "3600"}  # on a slow machine, too
    environment = {**os.environ, "DISTCOMP_HOME": str(home), **quiet, **variables}
    environment.pop("DISTCOMP_ADDRESS", None)
    command = [sys.executable, "-c", text]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False
    )


# --- work -----------------------------------------------------------------------------------------


def test_submit_and_map(client: Client) -> None:
    assert client.submit(pow, 2, 10).result(DEADLINE_S) == 1024
    assert client.submit(sorted, [3, 1], reverse=True).result(DEADLINE_S) == [3, 1]
    assert list(client.map(pow, [2, 3], (3, 2))) == [8, 9]
    assert sum(client.map(abs, range(-50_000, 0))) == sum(range(50_001))
    assert client.gather([client.submit(lambda x: x + 1, number) for number in range(100)]) == list(
        range(1, 101)
    )


def test_failures_keep_their_type_and_cost_one_result(client: Client) -> None:
    def invert(number: int) -> float:
        return 1 / number

    with pytest.raises(ZeroDivisionError) as caught:
        client.submit(invert, 0).result(DEADLINE_S)
    assert "invert" in str(caught.value.__cause__)
    array = client.map(invert, [1, 0, 2])
    assert array.results("skip") == [1.0, 0.5]
    assert list(array.failures()) == [1]


def test_what_cannot_be_pickled_is_said_at_the_call(client: Client) -> None:
    with pytest.raises(UnpicklableError):
        client.submit(len, threading.Lock())


def test_options_travel_along(client: Client) -> None:
    with pytest.raises(TimeoutError):
        client.options(timeout_s=0.1).submit(nap, 60).result(DEADLINE_S)
    assert client.options(priority=9).options(retries=1).submit(abs, -1).result(DEADLINE_S) == 1
    with pytest.raises(ValueError, match="priority"):
        client.options(priority=5000)


def test_cost_starts_the_longest_first_and_keeps_the_order(client: Client) -> None:
    started = list(client.map(lambda _: time.monotonic(), range(6), cost=range(6)))
    assert sorted(started, reverse=True)[:2] != sorted(started)[:2]
    assert started.index(min(started)) in (4, 5)


def test_cancel_ends_what_waits_and_what_runs(client: Client) -> None:
    running = client.submit(nap, 3600)
    waiting = client.map(nap, [3600] * 5)
    until(running.running, "the task runs")
    client.cancel([running])
    assert waiting.cancel() == 5
    assert running.cancelled()
    assert client.submit(abs, -1).result(DEADLINE_S) == 1


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
    with pytest.raises(TypeError, match="length"):
        client.map(abs, iter([1]), cost=[1])  # type: ignore[call-overload]  # this is what is tested
    with pytest.raises(TypeError, match="at least one"):
        client.map(abs)
    with pytest.raises(ValueError, match="2 values for 3"):
        client.map(abs, [1, 2, 3], cost=[1, 2])


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


def test_large_arguments_and_results(client: Client) -> None:
    data = os.urandom(5_000_000)
    assert client.submit(lambda blob: blob[::-1], data).result(DEADLINE_S) == data[::-1]
    assert [len(blob) for blob in client.map(bytes, [300_000] * 8)] == [300_000] * 8


def test_a_small_window_slows_the_feeder_not_the_caller(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def wait_here(number: int) -> int:
        while not gate.exists():
            time.sleep(0.01)
        return number

    with Client(settings=ClientSettings(window_tasks=1000)) as narrow:
        array = narrow.map(wait_here, range(100_000))
        gate.touch()  # a caller that was held up would not come here
        assert sum(array) == sum(range(100_000))
    assert client.submit(abs, 1).result(DEADLINE_S) == 1


def test_waiting_on_the_loops_thread_is_refused_and_so_is_a_flood(client: Client) -> None:
    seen: list[BaseException] = []
    done = threading.Event()

    def callback(_: Any) -> None:
        for action in (client.submit(nap, 1).result, client.status, client.close):
            with pytest.raises(BlockingCallError) as caught:
                action()
            seen.append(caught.value)
        done.set()

    client.submit(abs, -1).add_done_callback(callback)
    assert done.wait(DEADLINE_S)
    assert len(seen) == 3
    with Client(settings=ClientSettings(window_tasks=10)) as narrow:
        flooded: concurrent.futures.Future[int] = concurrent.futures.Future()

        def flood(_: Any) -> None:
            try:
                for count in range(100):
                    narrow.submit(abs, count)
            except WindowFullError:
                flooded.set_result(count)

        narrow.submit(abs, -1).add_done_callback(flood)
        assert flooded.result(DEADLINE_S) == 20


def test_asyncio_code_and_the_standard_library(client: Client) -> None:
    async def main() -> list[int]:
        return list(await asyncio.gather(*(_await(client, number) for number in range(3))))

    assert asyncio.run(main()) == [0, 1, 2]
    futures = [client.submit(abs, number) for number in range(5)]
    assert len(concurrent.futures.wait(futures, DEADLINE_S).done) == 5
    assert sorted(future.result() for future in as_completed(futures, DEADLINE_S)) == list(range(5))
    assert gather(futures) == list(range(5))
    assert not wait(futures).not_done


async def _await(client: Client, number: int) -> int:
    return await client.submit(abs, number)


def test_status_and_workers(client: Client) -> None:
    (worker,) = client.workers()
    assert worker.slots == 2
    assert client.status().totals.workers == 1
    with pytest.raises(TimeoutError):
        client.wait_for_workers(5, timeout_s=0.1)


# --- waiting and ending ---------------------------------------------------------------------------


def test_ctrl_c_cancels_what_was_waited_for_and_leaves_the_client_usable(client: Client) -> None:
    assert quickest(lambda: heard_after_s(client), HEARD_WITHIN_S) < HEARD_WITHIN_S


def heard_after_s(client: Client) -> float:
    """How long it takes until Ctrl-C ends a wait."""
    future = client.submit(nap, 3600)
    sent_at: list[float] = []

    def interrupt() -> None:
        until(future.running, "the task runs")
        sent_at.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        future.result()
    took_s = time.monotonic() - sent_at[0]
    thread.join()
    assert future.cancelled()
    assert client.submit(abs, -1).result(DEADLINE_S) == 1
    return took_s


def test_the_end_of_with_waits_and_an_exception_cancels(client: Client) -> None:
    with Client() as other:
        future = other.submit(nap, 0.3)
    assert future.result(0) == 0.3
    with pytest.raises(KeyError), Client() as other:  # noqa: PT012 - the block is what is tested
        future = other.submit(nap, 60)
        raise KeyError
    assert future.cancelled()
    with pytest.raises(ClientClosedError):
        other.submit(abs, 1)
    other.close()
    assert client.submit(abs, -1).result(DEADLINE_S) == 1


def test_the_end_of_the_interpreter_waits(shared: Programs, tmp_path: Path) -> None:
    done = run_script(
        "import pathlib, time\nfrom distcomp import Client\n"
        f"path = pathlib.Path({str(tmp_path / 'x')!r})\n"
        "Client().submit(lambda: time.sleep(0.3) or path.touch())",
        shared.home,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x").exists()


def test_a_forked_child_has_no_use_of_its_parents_client(shared: Programs) -> None:
    done = run_script(
        """
import os, distcomp
client = distcomp.Client()
future = client.submit(__import__("time").sleep, 0.2)
array = client.map(__import__("time").sleep, [0.2])
stream = client.map(abs, iter([1]))
handles = future, array, array.futures[0], stream
if os.fork() == 0:
    client.lock.acquire()  # as another thread may have held it when this process was forked
    for call in (
        *(handle.cancel for handle in handles),
        *(handle.cancel_pending for handle in handles),
        lambda: client.submit(abs, 1), future.result, array.wait, client.status, array.retry,
    ):
        try:
            call()
        except distcomp.ForkedClientError:
            print("refused", flush=True)
    raise SystemExit
os.wait()
print(future.result(), client.submit(abs, -3).result())
""",
        shared.home,
    )
    assert done.stdout.split() == ["refused"] * 13 + ["None", "3"], done.stderr
    assert done.stderr == ""


def test_a_forked_child_keeps_no_connection_open(shared: Programs) -> None:
    done = run_script(
        """
import os, socket, stat, distcomp

def connections():
    found = 0
    for fd in map(int, os.listdir("/dev/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as one:
                    found += one.family == socket.AF_INET
        except OSError:
            pass
    return found

client = distcomp.Client()
if os.fork() == 0:
    print("child", connections(), flush=True)
    os._exit(0)
os.wait()
print("parent", connections(), client.submit(abs, -3).result())
""",
        shared.home,
    )
    assert done.stdout.split() == ["child", "0", "parent", "1", "3"], done.stderr


def test_a_long_wait_is_explained_once(own: Programs, capfd: pytest.CaptureFixture[str]) -> None:
    own.scheduler()
    said = ""
    with Client(settings=ClientSettings(explain_after_s=0.2)) as client:
        future = client.submit(abs, -1)
        while "still waiting" not in said:
            with pytest.raises(concurrent.futures.TimeoutError):
                future.result(1.5)
            said += capfd.readouterr().err
        own.worker()
        assert future.result(DEADLINE_S) == 1
    said += capfd.readouterr().err
    assert said.count("still waiting") == 1
    assert "worker" in said


def test_a_wait_goes_on_where_nobody_can_be_told_why(
    own: Programs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = mock.Mock(write=mock.Mock(side_effect=BrokenPipeError))
    caplog.set_level("INFO", "distcomp")
    own.scheduler()
    with Client(settings=ClientSettings(explain_after_s=0.2)) as client:
        future = client.submit(abs, -1)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", broken)
            while not broken.write.called:
                with pytest.raises(concurrent.futures.TimeoutError):
                    future.result(1.5)
        own.worker()
        assert future.result(DEADLINE_S) == 1
        assert "is gone" not in caplog.text


# --- connections that break -----------------------------------------------------------------------


def test_a_cut_connection_goes_unnoticed(client: Client) -> None:
    def cut(_state: object) -> None:
        if client._program._connection is not None:
            client._program._connection.abort("cut")

    futures = [client.submit(nap, 0.05) for _ in range(10)]
    array = client.map(abs, range(20_000))
    for _ in range(3):
        client.post(cut)
        time.sleep(0.05)
    assert client.gather(futures) == [0.05] * 10
    assert sum(array) == sum(range(20_000))


def test_a_defect_fails_what_is_open_and_is_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    future = client.submit(nap, 3600)
    client.post(lambda _: int("defect"))
    with pytest.raises(SchedulerLostError, match=r"a defect in distcomp's client \(ValueError"):
        future.result(DEADLINE_S)
    (logged,) = (record for record in caplog.records if record.exc_info is not None)
    assert (logged.levelname, "in distcomp" in logged.message) == ("ERROR", True)
    until(lambda: client.submit(abs, -1).exception(DEADLINE_S) is None, "another session is open")


@pytest.mark.parametrize("back", [False, True])
def test_a_scheduler_that_is_gone_with_what_it_had_fails_it(own: Programs, *, back: bool) -> None:
    scheduler = own.scheduler("test", "--journal", "off")
    own.worker("--grace-s", "0.5")
    with Client() as client:
        client.wait_for_workers(1, timeout_s=DEADLINE_S)
        future = client.submit(nap, 3600)
        array = client.map(nap, [3600] * 3)
        until(future.running, "the task runs")
        port = int(client._target.addresses[0].rpartition(":")[2])
        scheduler.kill()
        scheduler.wait()
        if back:
            own.scheduler("test", "--journal", "off", port=port)
        with pytest.raises(SchedulerLostError):
            future.result(DEADLINE_S)
        with pytest.raises(SchedulerLostError):
            list(array)
        if back:
            assert client.submit(abs, -1).result(DEADLINE_S) == 1
        else:
            with pytest.raises(SchedulerLostError):
                client.submit(abs, -1).result(DEADLINE_S)


# --- which cluster --------------------------------------------------------------------------------


def test_an_address_without_a_scheduler_is_an_error(own: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own.home
    settings = ClientSettings(connect_timeout_s=0.5)

    def refused_after_s(*address: str) -> float:
        begin = time.monotonic()
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
            Client(*address, settings=settings)
        return time.monotonic() - begin

    assert quickest(lambda: refused_after_s("tcp://127.0.0.1:1"), 1.5) < 1.5
    monkeypatch.setenv("DISTCOMP_ADDRESS", "tcp://127.0.0.1:1")
    assert quickest(refused_after_s, 1.5) < 1.5


def test_two_running_schedulers_have_to_be_told_apart(own: Programs) -> None:
    own.scheduler("left")
    own.scheduler("right")
    with pytest.raises(AmbiguousClusterError, match=r"(?s)left.*right|right.*left"):
        Client()


def test_a_script_alone_gets_a_cluster_of_its_own(tmp_path: Path) -> None:
    done = run_script(
        "import distcomp\n@distcomp.compute_this\ndef square(x):\n    return x * x\n"
        "print(square.compute(25), sum(square.map(range(10))))",
        tmp_path,
    )
    assert (done.stdout.split(), done.returncode) == (["625", "285"], 0), done.stderr


def test_what_is_too_large_for_a_client_is_told_and_never_waited_for(client: Client) -> None:
    large = b"x" * 2_000_000
    settings = ClientSettings(wire=WireLimits(max_payload_bytes=1_000_000))
    with Client(settings=settings) as small:
        for refused in (lambda: small.submit(len, large), lambda: small.submit(lambda: len(large))):
            with pytest.raises(PayloadTooLargeError, match="max_payload_bytes is 1000000"):
                refused()
        with pytest.raises(PayloadTooLargeError, match="the function takes"):
            small.map(lambda _: len(large), [1])
        with pytest.raises(SchedulerLostError, match=r"a payload of \d+ bytes; at most 1000000 may come"):
            small.submit(bytes, len(large)).result(DEADLINE_S)
        small.wait_for_workers(1, timeout_s=DEADLINE_S)
        assert small.submit(abs, -3).result(DEADLINE_S) == 3
    assert client.submit(len, large).result(DEADLINE_S) == len(large)


# --- one thread closes the client, another one hands in -------------------------------------------


class Overtaken:
    """A lock at which another thread closes the client, once, before it is taken."""

    def __init__(self, client: Client) -> None:
        self._lock = client.lock
        self._threads = iter([threading.Thread(target=client.close)])

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()
            thread.join()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("store", [None, "results.db"])
def test_what_is_handed_in_as_the_client_closes_is_refused(tmp_path: Path, store: str | None) -> None:
    client: Any = Client(store=store and tmp_path / store)
    client.lock = Overtaken(client)
    with pytest.raises(ClientClosedError):
        client.submit(abs, -1)
    assert client.closed


@pytest.mark.usefixtures("client")
def test_everyone_who_comes_when_the_loop_is_gone_is_told_so() -> None:
    with Client() as client:
        pass
    for _ in range(2):
        with pytest.raises(ClientClosedError):
            client._program.post(lambda _: None)


@pytest.mark.usefixtures("client")
def test_what_is_handed_in_while_the_loop_ends_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        array = client.map(len, [1, 2])
        assert array.results("skip") == []
        loop: Any = client._program._loop  # type: ignore[union-attr]  # it has a cluster
        close = loop.close

        def overtaken() -> None:
            thread = threading.Thread(target=array.retry)
            thread.start()
            thread.join()
            close()

        monkeypatch.setattr(loop, "close", overtaken)
    assert array.wait(DEADLINE_S)
    assert {type(error) for error in array.failures().values()} == {concurrent.futures.CancelledError}
