"""What goes wrong with processes and connections, and what it costs: only what ran there, and only once."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import signal
import subprocess
import time
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from clusters import DEADLINE_S, Programs, programs, quickest, until
from processes import alive, command_line, family
from proxy import Proxy

from distcomp import Client, SessionExpiredError, TaskCrashedError, TaskLostError, TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHORT_SILENCE = {
    "DISTCOMP_SILENCE_S": "0.8",
    "DISTCOMP_HEARTBEAT_S": "0.2",
    "DISTCOMP_RECONNECT_GRACE_S": "0.2",
}
GONE_WITHIN_S = 1.0
WORKS_WITHIN_S = 0.1
HELD = (1100, 2100, 3100, 4100, 5100)
"""Tasks in the middle of arrays of 200 each: one of them at least is not the last of its lease."""


class Diary:
    """A folder in which tasks note that they began, and a gate at which they wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pids(self, name: object) -> list[int]:
        """The processes that began a task, one for each time."""
        return [int(line.split()[0]) for line in self._lines(name)]

    def times(self, name: object) -> list[float]:
        """When a task was begun, by the monotonic clock."""
        return [float(line.split()[1]) for line in self._lines(name)]

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def _lines(self, name: object) -> list[str]:
        path = self.folder / str(name)
        return (
            [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if path.exists()
            else []
        )


def begin(folder: Path, name: object) -> None:
    with (folder / str(name)).open("a") as file:
        file.write(f"{os.getpid()} {time.monotonic()}\n")


def hold(folder: Path, number: int) -> int:
    begin(folder, number)
    while not (folder / "gate").exists():
        time.sleep(0.005)
    begin(folder, f"{number}-ended")
    return number


def hold_with_child(folder: Path, number: int) -> int:
    with subprocess.Popen(["sleep", "3600"], start_new_session=True) as child:
        hold(folder, number)
        child.kill()
    return number


def step(folder: Path, number: int, held: int) -> int:
    if number == held:
        return hold(folder, number)
    begin(folder, number)
    return number


def step_or_compute(folder: Path, number: int, held: int) -> int:
    begin(folder, number)
    if number == held:
        hold_the_gil()
    return number


def crash(folder: Path, number: int, which: int) -> int:
    begin(folder, number)
    if number == which:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def with_child(folder: Path, *, own_session: bool, ends: str) -> None:
    child = subprocess.Popen(["sleep", "3600"], start_new_session=own_session)
    (folder / "child.new").write_text(str(child.pid))
    (folder / "child.new").rename(folder / "child")
    if ends == "crash":
        while not (folder / "gate").exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


def sleep_long() -> None:
    time.sleep(3600)


def spin() -> None:
    while True:
        pass


def hold_the_gil() -> int:
    return 7**300_000_000


def match_for_ever() -> object:
    return re.match(r"(a+)+$", "a" * 64 + "b")


ENDLESS = [sleep_long, spin, hold_the_gil, match_for_ever]


def noted(function: Callable[[], Any], folder: Path, name: str) -> Any:
    begin(folder, name)
    return function()


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    folder = tmp_path / "diary"
    folder.mkdir()
    return Diary(folder)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """A scheduler that lets no task crash twice, and a worker of one slot, which tests leave as they are."""
    with programs(tmp_path_factory.mktemp("home")) as made:
        made.scheduler(DISTCOMP_CRASH_LIMIT="1")
        made.worker(slots=1)
        yield made


@pytest.fixture
def client(single: Programs) -> Iterator[Client]:
    # By value: to import this module takes pytest, and slots longer than the times measured here.
    with Client(single.access(), project=False) as made:
        made.wait_for_workers(1, timeout_s=DEADLINE_S)
        yield made


def worker_of(workers: list[subprocess.Popen[str]], pid: int) -> subprocess.Popen[str]:
    """The worker whose slot process has this number."""
    return next(each for each in workers if pid in family(each.pid))


def others_are_leased(client: Client, patience_s: float = 3.0) -> bool:
    """Whether, in a while, more is leased than the one task that runs."""
    with contextlib.suppress(AssertionError):
        return until(lambda: client.status().workers[0].leased > 1, "others are leased with it", patience_s)
    return False


def teach(client: Client, function: Callable[..., Any], folder: Path) -> None:
    """Show the scheduler that tasks of a function are short, so that leases of many are granted."""
    list(client.map(function, [folder] * 400, range(400), [-1] * 400))


# --- slot processes -------------------------------------------------------------------------------


def test_a_killed_slot_process_costs_only_the_task_it_had_begun(client: Client, diary: Diary) -> None:
    teach(client, step, diary.folder)

    def others_were_leased(held: int) -> bool:
        numbers = range(held - 100, held + 100)
        array = client.map(step, [diary.folder] * 200, numbers, [held] * 200)
        until(lambda: diary.pids(held), "the task in the middle runs")
        leased = others_are_leased(client)
        os.kill(diary.pids(held)[0], signal.SIGKILL)
        outcomes = array.results("return")
        assert isinstance(outcomes.pop(100), TaskCrashedError)
        assert outcomes == [number for number in numbers if number != held]
        assert [len(diary.pids(number)) for number in numbers[100:]] == [1] * 100
        return leased

    assert any(map(others_were_leased, HELD))


def test_a_task_that_kills_its_process_three_times_fails_alone(cluster: Programs, diary: Diary) -> None:
    cluster.scheduler()
    cluster.worker()
    with Client() as client:
        outcomes = client.map(crash, [diary.folder] * 4, range(4), [2] * 4).results("return")
    error = outcomes.pop(2)
    assert isinstance(error, TaskCrashedError)
    assert isinstance(error, BrokenExecutor)
    assert "SIGKILL" in str(error)
    assert outcomes == [0, 1, 3]
    assert [len(diary.pids(number)) for number in range(4)] == [1, 1, 3, 1]


@pytest.mark.parametrize("function", ENDLESS)
def test_a_cancelled_task_is_gone_within_a_second(client: Client, function: Callable[[], Any]) -> None:
    def gone_after_s() -> float:
        future = client.submit(function)
        until(future.running, "the task runs")
        since = time.monotonic()
        assert future.cancel()
        assert client.submit(abs, -1).result(DEADLINE_S) == 1
        return time.monotonic() - since

    assert quickest(gone_after_s, GONE_WITHIN_S) < GONE_WITHIN_S


@pytest.mark.parametrize("function", ENDLESS)
def test_a_task_past_its_timeout_is_gone_within_a_second_and_shows_its_stacks(
    client: Client, diary: Diary, function: Callable[[], Any]
) -> None:
    def gone_after_s() -> float:
        future = client.options(timeout_s=0.3).submit(noted, function, diary.folder, "long")
        after = client.submit(begin, diary.folder, "after")
        with pytest.raises(TaskTimeoutError) as caught:
            future.result(DEADLINE_S)
        after.result(DEADLINE_S)
        if function.__name__ not in str(caught.value.__cause__):
            return math.inf  # the slot had no time for it
        return diary.times("after")[-1] - diary.times("long")[-1] - 0.3

    assert quickest(gone_after_s, GONE_WITHIN_S) < GONE_WITHIN_S


def test_what_is_leased_with_a_killed_task_runs_uncharged(client: Client, diary: Diary) -> None:
    teach(client, step_or_compute, diary.folder)

    def others_were_leased(held: int) -> bool:
        numbers = range(held - 100, held + 100)
        array = client.map(step_or_compute, [diary.folder] * 200, numbers, [held] * 200)
        until(lambda: diary.pids(held), "the task in the middle runs")
        leased = others_are_leased(client)
        assert array.futures[100].cancel()
        assert array.results("skip") == [number for number in numbers if number != held]
        assert [len(diary.pids(number)) for number in numbers[100:]] == [1] * 100
        return leased

    assert any(map(others_were_leased, HELD))


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("ends", ["cancel", "timeout", "crash"])
def test_what_a_task_started_ends_with_it(
    client: Client, diary: Diary, ends: str, *, own_session: bool
) -> None:
    has_child = (diary.folder / "child").exists
    for timeout_s in (0.5, 5, 50) if ends == "timeout" else (None,):
        options = client.options(timeout_s=timeout_s)
        future = options.submit(with_child, diary.folder, own_session=own_session, ends=ends)
        if until(lambda: has_child() or (future.done() and "late"), "the task has a child") is True:  # noqa: B023 - now
            break
    child = int((diary.folder / "child").read_text())
    assert alive(child) or ends == "timeout"
    if ends == "cancel":
        future.cancel()
    diary.open_gate()
    until(lambda: not alive(child), "the child ends")


# --- workers --------------------------------------------------------------------------------------


def test_a_killed_worker_leaves_nothing_and_its_task_runs_elsewhere(cluster: Programs, diary: Diary) -> None:
    cluster.scheduler()
    workers = [cluster.worker(slots=1), cluster.worker(slots=1)]
    with Client() as client:
        client.wait_for_workers(2, timeout_s=DEADLINE_S)
        array = client.map(hold_with_child, [diary.folder] * 3, range(3))
        until(lambda: diary.pids(0) and diary.pids(1), "both work")
        victim = worker_of(workers, diary.pids(0)[0])
        theirs = family(victim.pid)
        assert "sleep 3600" in map(command_line, theirs)
        victim.kill()
        until(lambda: not any(map(alive, theirs)), "nothing of the worker is left")
        diary.open_gate()
        assert list(array) == [0, 1, 2]
    assert [len(diary.pids(number)) for number in range(3)] == [2, 1, 1]


def test_a_stopped_worker_is_given_up_and_comes_back(
    cluster: Programs, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in SHORT_SILENCE.items():
        monkeypatch.setenv(name, text)
    cluster.scheduler()
    workers = [cluster.worker(slots=1), cluster.worker(slots=1)]
    with Client() as client:
        client.wait_for_workers(2, timeout_s=DEADLINE_S)
        array = client.map(hold, [diary.folder] * 2, range(2))
        until(lambda: diary.pids(0) and diary.pids(1), "both work")
        victim = worker_of(workers, diary.pids(0)[0])
        victim.send_signal(signal.SIGSTOP)
        until(lambda: len(client.workers()) == 1, "the silent worker is given up")
        diary.open_gate()
        assert list(array) == [0, 1]
        victim.send_signal(signal.SIGCONT)
        client.wait_for_workers(2, timeout_s=DEADLINE_S)
        assert sorted(client.map(abs, range(-9, 0))) == list(range(1, 10))
        lost = cluster.said(cluster.running[0]).count("worker lost")
    assert len(diary.pids(0)) >= 2
    assert (
        sum(len(diary.pids(number)) for number in range(2)) <= 2 + lost
    )  # of which a busy machine adds some


def test_a_task_that_may_start_once_is_lost_with_its_worker_and_others_are_not(
    cluster: Programs, diary: Diary
) -> None:
    cluster.scheduler()
    worker = cluster.worker(slots=1)
    with Client() as client:
        client.wait_for_workers(1, timeout_s=DEADLINE_S)
        once = client.options(max_attempts=1)
        running, waiting = (once.submit(hold, diary.folder, number) for number in range(2))
        until(lambda: diary.pids(0), "the first one runs")
        worker.kill()
        with pytest.raises(TaskLostError) as caught:
            running.result(DEADLINE_S)
        assert isinstance(caught.value, BrokenExecutor)
        diary.open_gate()
        cluster.worker(slots=1)
        assert waiting.result(DEADLINE_S) == 1
    assert [len(diary.pids(number)) for number in range(2)] == [1, 1]


def test_a_drained_worker_finishes_what_runs_and_hands_back_the_rest(cluster: Programs, diary: Diary) -> None:
    cluster.scheduler()
    workers = [cluster.worker(slots=1), cluster.worker(slots=1)]
    with Client() as client:
        client.wait_for_workers(2, timeout_s=DEADLINE_S)
        array = client.map(hold, [diary.folder] * 6, range(6))
        until(lambda: diary.pids(0) and diary.pids(1), "both work")
        leaving = worker_of(workers, diary.pids(0)[0])
        leaving.send_signal(signal.SIGTERM)
        until(lambda: {row.state for row in client.workers()} == {"ready", "draining"}, "it drains")
        assert leaving.poll() is None
        diary.open_gate()
        assert list(array) == list(range(6))
        assert leaving.wait(DEADLINE_S) == 0
        until(lambda: len(client.workers()) == 1, "it has left")
    assert [len(diary.pids(number)) for number in range(6)] == [1] * 6
    stayed = {pid for number in range(1, 6) for pid in diary.pids(number)}
    assert diary.pids(0)[0] not in stayed


def test_asked_twice_a_worker_leaves_at_once(cluster: Programs, diary: Diary) -> None:
    cluster.scheduler()
    worker = cluster.worker(slots=1)
    with Client() as client:
        future = client.submit(hold, diary.folder, 0)
        until(lambda: diary.pids(0), "the task runs")
        theirs = family(worker.pid)
        worker.send_signal(signal.SIGTERM)
        until(lambda: [row.state for row in client.workers()] == ["draining"], "it drains")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DEADLINE_S) == 0
        until(lambda: not any(map(alive, theirs)), "nothing of it is left")
        diary.open_gate()
        cluster.worker(slots=1)
        assert future.result(DEADLINE_S) == 0
    assert len(diary.pids(0)) == 2


def nap(folder: Path, number: int) -> int:
    begin(folder, number)
    time.sleep(0.02)
    return number


def test_a_worker_that_joins_in_the_middle_has_work_within_100_ms(cluster: Programs, diary: Diary) -> None:
    cluster.scheduler()
    cluster.worker(slots=1)
    with Client(project=False) as client:
        client.wait_for_workers(1, timeout_s=DEADLINE_S)
        array = client.map(nap, [diary.folder] * 20_000, range(20_000))
        until(lambda: array.done_count > 10, "the first worker works")
        counts = itertools.count(2)

        def delay_s() -> float:
            joined_s = joins_at(cluster, client, next(counts))
            return first_work_of(cluster, diary) - joined_s

        assert quickest(delay_s, WORKS_WITHIN_S) < WORKS_WITHIN_S
        array.cancel()


def joins_at(cluster: Programs, client: Client, count: int) -> float:
    """Start one more worker; an early bound of when the scheduler took it in, by the monotonic clock."""
    cluster.worker(slots=1)
    seen_s = time.monotonic()
    while len(client.workers()) < count:
        seen_s = time.monotonic()
    return seen_s


def first_work_of(cluster: Programs, diary: Diary) -> float:
    """When the first task of the newest worker began."""
    found: list[float] = []

    def look() -> bool:
        slots = set(family(cluster.running[-1].pid))
        found[:] = [
            diary.times(path.name)[0] for path in diary.folder.iterdir() if slots & set(diary.pids(path.name))
        ]
        return bool(found)

    until(look, "the new worker works")
    return min(found)


# --- connections ----------------------------------------------------------------------------------


def port_of(cluster: Programs) -> int:
    return int(cluster.access().addresses[0].rpartition(":")[2])


def test_a_worker_whose_connection_is_cut_keeps_its_task(cluster: Programs, diary: Diary) -> None:
    cluster.scheduler(DISTCOMP_RECONNECT_GRACE_S="120")
    with Proxy(port_of(cluster)) as proxy, Client() as client:
        join = replace(cluster.access("worker"), addresses=(proxy.address,)).to_join()
        cluster.worker(slots=1, join=join)
        array = client.map(hold, [diary.folder] * 2, range(2))
        until(lambda: diary.pids(0), "the task runs")
        proxy.cut()
        until(lambda: proxy.joined >= 2, "the worker comes back")
        diary.open_gate()
        assert list(array) == [0, 1]
        assert [len(diary.pids(number)) for number in range(2)] == [1, 1]
        assert client.status().totals.lost == 0
        cluster.stop()


def test_a_session_survives_a_cut_connection(cluster: Programs, diary: Diary) -> None:
    cluster.scheduler()
    cluster.worker(slots=2)
    with Proxy(port_of(cluster)) as proxy:
        access = replace(cluster.access(), addresses=(proxy.address,))
        with Client(access) as client:
            array = client.map(hold, [diary.folder] * 4, range(4))
            until(lambda: diary.pids(0) and diary.pids(1), "tasks run")
            proxy.cut(stays_cut=True)
            diary.open_gate()
            later = client.submit(abs, -5)
            until(lambda: diary.pids("3-ended"), "all tasks end meanwhile")
            assert array.done_count == 0
            proxy.mend()
            assert list(array) == [0, 1, 2, 3]
            assert later.result(DEADLINE_S) == 5
    assert [len(diary.pids(number)) for number in range(4)] == [1] * 4


def test_a_client_that_is_away_too_long_loses_what_is_not_detached(cluster: Programs, diary: Diary) -> None:
    cluster.scheduler(DISTCOMP_CLIENT_GRACE_S="0.4")
    cluster.worker(slots=2)
    with Proxy(port_of(cluster)) as proxy, Client() as witness:
        access = replace(cluster.access(), addresses=(proxy.address,))
        with Client(access) as client:
            attached = client.submit(hold, diary.folder, 0)
            detached = client.options(detach=True).submit(hold, diary.folder, 1)
            until(lambda: diary.pids(0) and diary.pids(1), "both run")
            proxy.cut(stays_cut=True)
            until(lambda: witness.status().totals.busy == 1, "the attached task is ended")
            diary.open_gate()
            until(lambda: diary.pids("1-ended"), "the detached task goes on")
            assert not diary.pids("0-ended")
            proxy.mend()
            with pytest.raises(SessionExpiredError):
                attached.result(DEADLINE_S)
            assert detached.exception(DEADLINE_S) is None
            until(lambda: client.submit(abs, -1).exception(DEADLINE_S) is None, "the client is of use again")
