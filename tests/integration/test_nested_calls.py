"""Tasks that submit tasks, with real programs. The tasks are made in functions, so that they go by value."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clusters import Programs, programs, until
from processes import alive

import distcomp
from distcomp import Client, NestedSubmitError, compute_this
from distcomp.default_client import default_client
from distcomp.errors import TaskTimeoutError, UnpicklableError, UnpicklableResultError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 90.0


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """A scheduler and a worker of one slot for tests that leave them as they are."""
    with programs(tmp_path_factory.mktemp("home")) as cluster:
        cluster.scheduler()
        cluster.worker(slots=1)
        yield cluster


@pytest.fixture
def client(narrow: Programs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("DISTCOMP_HOME", str(narrow.home))
    with Client() as made:
        made.wait_for_workers(1, timeout_s=PATIENCE_S)
        yield made
    with Client() as made:
        until(lambda: not made.status().arrays and made.workers()[0].busy == 0, "nothing runs any more")
        assert made.workers()[0].lent == 0


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    with programs(tmp_path) as cluster:
        yield cluster


def make_fib() -> Callable[[int], int]:
    @compute_this
    def fib(n: int) -> int:
        return n if n < 2 else fib.compute(n - 1) + fib.compute(n - 2)

    return fib  # type: ignore[return-value]  # called in tasks only


def make_deep() -> Callable[[int], int]:
    @compute_this
    def deep(n: int) -> int:
        return 0 if n == 0 else 1 + deep.compute(n - 1)

    return deep  # type: ignore[return-value]


def make_parent(child: Callable[..., Any]) -> Callable[..., Any]:
    """A task that submits one task and waits for it."""

    def parent(*args: Any) -> Any:
        return Client().submit(child, *args).result()

    return parent


# --- it works -------------------------------------------------------------------------------------


def test_fib_ends_on_two_slots(own: Programs) -> None:
    own.scheduler()
    own.worker(slots=2)
    with Client() as client:
        assert client.submit(make_fib(), 12).result(PATIENCE_S) == 144


def test_fifty_levels_end_on_one_slot(client: Client) -> None:
    assert client.submit(make_deep(), 50).result(PATIENCE_S) == 50


def test_an_array_within_each_task_of_an_array(client: Client) -> None:
    def outer(n: int) -> int:
        return sum(Client().map(lambda x: x * x, range(n)))

    assert list(client.map(outer, [100] * 20)) == [328350] * 20


def test_all_ways_of_waiting_lend_the_slot(client: Client) -> None:
    def outer() -> list[Any]:
        inner = Client()
        futures = [inner.submit(pow, 2, n) for n in range(3)]
        done, _ = distcomp.wait([inner.submit(abs, -1)])
        array = inner.map(abs, [-3, -4])

        async def ask() -> int:
            return await inner.submit(abs, -9)

        return [
            distcomp.gather(futures),
            len(done),
            sorted(each.result() for each in distcomp.as_completed(inner.map(abs, [-1, -2]).futures)),
            [each.result() for each in array.as_completed()],
            array.results(),
            asyncio.run(ask()),
            list(inner.map(abs, iter([-5, -6]))),
            concurrent.futures.wait([inner.submit(abs, -7)]).done.pop().result(),
            heard(inner.submit(abs, -8)),
        ]

    def heard(future: distcomp.Future[int]) -> int:
        come = queue.SimpleQueue[int]()
        future.add_done_callback(lambda each: come.put(each.result()))
        return come.get()

    given = client.submit(outer).result(PATIENCE_S)
    assert given == [[1, 2, 4], 1, [1, 2], [3, 4], [3, 4], 9, [5, 6], 7, 8]


def test_threads_of_a_task_may_wait(client: Client) -> None:
    def outer() -> list[int]:
        inner = Client()
        with ThreadPoolExecutor(4) as threads:
            return list(threads.map(lambda n: inner.submit(pow, n, 2).result(), range(8)))

    assert client.submit(outer).result(PATIENCE_S) == [n * n for n in range(8)]


def test_each_task_has_a_client_of_its_own(client: Client) -> None:
    def outer() -> int:
        inner = default_client()
        assert default_client() is inner
        assert inner.submit(abs, -1).result() == 1
        return os.getpid()

    def look_back() -> list[bool]:
        return [each.closed for each in gc.get_objects() if isinstance(each, Client)]

    assert len({client.submit(outer).result(PATIENCE_S) for _ in range(3)}) < 3, "one process runs several"
    assert all(client.submit(look_back).result(PATIENCE_S))


def test_a_script_with_nothing_around_it(tmp_path: Path) -> None:
    script = tmp_path / "nested.py"
    script.write_text(
        "from distcomp import compute_this\n"
        "@compute_this\n"
        "def fib(n):\n"
        "    return n if n < 2 else fib.compute(n - 1) + fib.compute(n - 2)\n"
        "print(fib.compute(6))\n"
    )
    environment = {**os.environ, "DISTCOMP_HOME": str(tmp_path), "DISTCOMP_EXPLAIN_AFTER_S": "600"}
    ran = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert (ran.stdout, ran.stderr) == ("8\n", "")


# --- what a task leaves ---------------------------------------------------------------------------


def make_sleeper(folder: Path) -> Callable[[str, float], None]:
    def sleep_and_tell(name: str, seconds: float) -> None:
        (folder / f"{name}-began").write_text(str(os.getpid()))
        time.sleep(seconds)
        (folder / f"{name}-ended").touch()

    return sleep_and_tell


def pid_in(path: Path) -> int:
    return int(until(lambda: path.exists() and path.read_text(), f"{path} is written", PATIENCE_S))


@pytest.mark.parametrize("way", ["cancel", "timeout", "kill"])
def test_the_end_of_a_task_ends_its_children(client: Client, tmp_path: Path, way: str) -> None:
    sleeper = make_sleeper(tmp_path)
    grandparent = make_parent(make_parent(sleeper))

    def told() -> Any:
        (tmp_path / "top").write_text(str(os.getpid()))
        return grandparent("leaf", 600.0)

    future, leaf = with_a_leaf(client, told, tmp_path / "leaf-began", way)
    if way == "cancel":
        assert future.cancel()
    elif way == "kill":
        os.kill(pid_in(tmp_path / "top"), signal.SIGKILL)
    if way != "cancel":
        error = future.exception(PATIENCE_S)
        assert isinstance(error, TaskTimeoutError if way == "timeout" else distcomp.TaskCrashedError)
    until(lambda: not alive(leaf) or not client.status().arrays, "the leaf is ended", PATIENCE_S)
    assert not (tmp_path / "leaf-ended").exists()


def with_a_leaf(
    client: Client, told: Callable[[], Any], began: Path, way: str
) -> tuple[distcomp.Future[Any], int]:
    """The task, and the process of its grandchild, which has begun; a timeout may be too short for that."""
    for timeout_s in (3.0, 15.0, PATIENCE_S):
        options: dict[str, Any] = {"timeout_s": timeout_s} if way == "timeout" else {"max_attempts": 1}
        future = client.options(**options).submit(told)
        until(lambda f=future: f.done() or (began.exists() and began.read_text()), "the leaf", 2 * PATIENCE_S)  # type: ignore[misc]
        if began.exists():
            break
    return future, pid_in(began)


def test_what_was_not_waited_for_is_cancelled_unless_detached(client: Client, tmp_path: Path) -> None:
    sleeper = make_sleeper(tmp_path)

    def leave() -> str:
        inner = Client()
        inner.submit(sleeper, "plain", 600.0)
        inner.options(detach=True).submit(sleeper, "detached", 0.0)
        return "left"

    assert client.submit(leave).result(PATIENCE_S) == "left"
    until((tmp_path / "detached-ended").exists, "the detached task ends")
    until(lambda: not client.status().arrays, "the other one is gone")
    assert not (tmp_path / "plain-ended").exists()


def test_a_lost_worker_in_a_chain_is_no_harm(own: Programs, tmp_path: Path) -> None:
    own.scheduler()
    workers = [own.worker(slots=1, DISTCOMP_MAX_LENT_PER_SLOT="4") for _ in range(2)]
    go = tmp_path / "go"

    def leaf() -> int:
        (tmp_path / f"leaf-{os.getppid()}-{os.getpid()}").touch()
        deadline = time.monotonic() + PATIENCE_S
        while not go.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return 1

    chain = make_parent(make_parent(leaf))
    with Client() as client:
        client.wait_for_workers(2, timeout_s=PATIENCE_S)
        future = client.submit(chain)
        until(lambda: list(tmp_path.glob("leaf-*")), "the leaf runs")
        workers[0].kill()
        go.touch()
        assert future.result(PATIENCE_S) == 1
        until(lambda: not client.status().arrays, "nothing is left")
        until(lambda: ready(client) == [(0, 0)], "one worker is left, with nothing to do")


def ready(client: Client) -> list[tuple[int, int]]:
    """How many slots of each worker that takes tasks are busy and lent."""
    return [(row.busy, row.lent) for row in client.workers() if row.state == "ready"]


# --- what does not go -----------------------------------------------------------------------------


def test_too_deep_a_chain_is_named(own: Programs) -> None:
    own.scheduler()
    own.worker(slots=1, DISTCOMP_MAX_LENT_PER_SLOT="2")

    @compute_this
    def inner(n: int) -> int:
        return 0 if n == 0 else 1 + inner.compute(n - 1)

    def outermost(n: int) -> int:
        return inner.compute(n)

    with Client() as client:
        words = r"\.outermost > .*\.inner \(2 times\): .* at most 2 slots"
        with pytest.raises(NestedSubmitError, match=words) as caught:
            client.submit(outermost, 9).result(PATIENCE_S)
        assert [name.rpartition(".")[2] for name in caught.value.chain] == ["outermost", "inner", "inner"]
        assert client.submit(outermost, 1).result(PATIENCE_S) == 1


def test_a_task_sees_no_secret_and_no_way_to_the_scheduler(client: Client) -> None:
    def look() -> tuple[dict[str, str], list[str], int]:
        assert Client().submit(abs, -1).result() == 1
        links = []
        for each in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the one by which they are listed
                links.append(str(each.readlink()))
        ours = {link[8:-1] for link in links if link.startswith("socket:")}
        tcp = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        inodes = {line.split()[9] for line in tcp.splitlines() if not line.lstrip().startswith("sl")}
        return dict(os.environ), sorted(ours & inodes), len(ours)

    environ, tcp_sockets, sockets = client.submit(look).result(PATIENCE_S)
    assert {name for name in environ if name.startswith("DISTCOMP_")} == {"DISTCOMP_IN_SLOT"}
    assert tcp_sockets == []
    assert sockets >= 3


def test_handles_stay_in_their_task(client: Client) -> None:
    def give_future() -> Any:
        return Client().submit(abs, -1)

    def give_client() -> Any:
        return Client()

    for give in (give_future, give_client):
        with pytest.raises(UnpicklableResultError, match="cannot leave its process"):
            client.submit(give).result(PATIENCE_S)
    with pytest.raises(UnpicklableError, match="Client"):
        client.submit(print, client)


def test_what_a_task_starts_or_forks_submits_nothing(client: Client) -> None:
    def start() -> str:
        text = "import distcomp\ntry: distcomp.Client()\nexcept distcomp.UsageError as error: print(error)"
        return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout

    def refusal(use: Callable[[], Any]) -> str:
        try:
            use()
        except distcomp.UsageError as error:
            return type(error).__name__
        return "none"

    def fork() -> list[str]:
        inner = Client()
        read, write = os.pipe()
        if not (pid := os.fork()):
            said = [refusal(lambda: inner.submit(abs, -1)), refusal(Client)]
            os.write(write, json.dumps(said).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        said = json.loads(os.read(read, 999))
        os.close(read)
        os.close(write)
        assert inner.submit(abs, -1).result() == 1
        return said

    assert "started by a task" in client.submit(start).result(PATIENCE_S)
    assert client.submit(fork).result(PATIENCE_S) == ["ForkedClientError", "UsageError"]
