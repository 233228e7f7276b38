"""Schedulers that are killed, stopped and started again, with real programs: no accepted task is lost."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clusters import Programs, until

from distcomp import Client, SchedulerLostError, TaskLostError
from distcomp.config import parse_address

if TYPE_CHECKING:
    import subprocess

PATIENCE_S = 90.0


def noted(folder: Path, number: int, seconds: float) -> int:
    """Note that the task has begun, last a while, and note that it has ended."""
    with (folder / "ledger").open("a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    return number * number


def held(folder: Path, number: int) -> int:
    with (folder / "ledger").open("a") as file:
        file.write(f"{number}\n")
    while not (folder / "gate").exists():
        time.sleep(0.005)
    return number * number


def noted_or_held(folder: Path, number: int, gated_from: int) -> int:
    return held(folder, number) if number >= gated_from else noted(folder, number, 0.003)


def begun(folder: Path) -> Counter[int]:
    """How often each task has begun."""
    path = folder / "ledger"
    return Counter(int(line) for line in path.read_text().split()) if path.exists() else Counter()


def port_of(cluster: Programs) -> int:
    return parse_address(cluster.access().addresses[0]).port


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def killed_and_started_again(cluster: Programs, scheduler: subprocess.Popen[str]) -> subprocess.Popen[str]:
    port = port_of(cluster)
    kill(scheduler)
    return started_again(cluster, port)


def started_again(cluster: Programs, port: int, *flags: str, **variables: str) -> subprocess.Popen[str]:
    """A scheduler where one was killed, which leaves access files behind, so that they tell nothing.

    It waits long for workers to come back: on a busy machine that may take them a while.
    """
    patient = {"DISTCOMP_RESTART_GRACE_S": "60", **variables}
    scheduler = cluster.scheduler("test", *flags, port=port, **patient)
    until(lambda: "journal " in cluster.said(scheduler), "the scheduler is up")
    return scheduler


def test_a_kill_under_load_costs_time_and_nothing_else(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler()
    cluster.worker()
    with Client() as client:
        array = client.map(noted_or_held, [tmp_path] * 400, range(400), [300] * 400)
        singles = [client.submit(noted, tmp_path, number, 0.0) for number in range(1000, 1100)]
        for share in (40, 150, 260):
            until(lambda share=share: sum(begun(tmp_path).values()) >= share, "enough work under way")  # type: ignore[misc]
            scheduler = killed_and_started_again(cluster, scheduler)
        (tmp_path / "gate").touch()
        assert list(array) == [number * number for number in range(400)]
        assert [each.result() for each in singles] == [number * number for number in range(1000, 1100)]
    assert set(begun(tmp_path)) == {*range(400), *range(1000, 1100)}
    assert "recovered" in cluster.said(scheduler)


def test_a_running_task_is_adopted_and_not_run_again(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler()
    cluster.worker()
    with Client() as client:
        futures = [client.submit(held, tmp_path, number) for number in range(2)]
        waiting = client.submit(noted, tmp_path, 7, 0.0)
        until(lambda: len(begun(tmp_path)) == 2, "both tasks run")
        until(lambda: waiting.explain().state == "waiting", "the third one is accepted")
        scheduler = killed_and_started_again(cluster, scheduler)
        assert "1 tasks pending, 2 running" in cluster.said(scheduler)
        until(lambda: "worker registered" in cluster.said(scheduler), "the worker is back")
        (tmp_path / "gate").touch()
        assert [future.result() for future in futures] == [0, 1]
        assert waiting.result() == 49
    assert set(begun(tmp_path).values()) == {1}


def nested(folder: Path, number: int) -> int:
    held(folder, number)
    with Client() as client:
        return client.submit(abs, -number).result()


def test_a_task_that_connects_before_its_worker_is_back_waits_for_it(
    cluster: Programs, tmp_path: Path
) -> None:
    scheduler = cluster.scheduler()
    slow = {"DISTCOMP_BACKOFF_FIRST_S": "6", "DISTCOMP_BACKOFF_MOST_S": "6"}
    worker = cluster.worker(**slow, DISTCOMP_CONNECT_TIMEOUT_S="60")
    with Client() as client:
        future = client.submit(nested, tmp_path, 7)
        until(lambda: begun(tmp_path), "the task runs")
        killed_and_started_again(cluster, scheduler)
        (tmp_path / "gate").touch()
        assert future.result() == 7
    assert "the connection is lost" in cluster.said(worker)


def test_a_result_that_came_while_the_scheduler_was_away_is_kept(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler()
    cluster.worker()
    with Client() as client:
        future = client.submit(held, tmp_path, 3)
        until(lambda: begun(tmp_path), "the task runs")
        port = port_of(cluster)
        kill(scheduler)
        (tmp_path / "gate").touch()
        with pytest.raises(TimeoutError):
            future.result(0.3)
        started_again(cluster, port)
        assert future.result() == 9
    assert begun(tmp_path) == {3: 1}


def test_no_task_begins_twice_that_may_not(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler()
    worker = cluster.worker()
    with Client() as client:
        once = client.options(max_attempts=1)
        lost = [once.submit(held, tmp_path, number) for number in range(2)]
        more = [once.submit(noted, tmp_path, number, 0.001) for number in range(10, 60)]
        until(lambda: len(begun(tmp_path)) == 2, "both tasks run")
        port = port_of(cluster)
        kill(scheduler)
        kill(worker)
        started_again(cluster, port, DISTCOMP_RESTART_GRACE_S="0.5")
        cluster.worker()
        for future in lost:
            assert isinstance(future.exception(), TaskLostError)
        assert [future.result() for future in more] == [number * number for number in range(10, 60)]
    assert set(begun(tmp_path).values()) == {1}


def rolling(
    cluster: Programs, scheduler: subprocess.Popen[str], workers: list[subprocess.Popen[str]]
) -> None:
    """Stop each worker, then the scheduler, in order, and start another in its place."""
    port = port_of(cluster)
    for number, worker in enumerate(workers, len(workers) + 1):
        cluster.worker()
        until(lambda n=number: cluster.said(scheduler).count("registered") >= n, "another worker")  # type: ignore[misc]
        worker.send_signal(signal.SIGTERM)
        worker.wait(PATIENCE_S)
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(PATIENCE_S) == 0, cluster.said(scheduler)
    cluster.scheduler(port=port)


def test_a_rolling_restart_loses_and_repeats_nothing(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler()
    workers = [cluster.worker(), cluster.worker()]
    until(lambda: cluster.said(scheduler).count("registered") >= len(workers), "both workers")
    with Client() as client:
        array = client.map(noted, [tmp_path] * 300, range(300), [0.01] * 300)
        until(lambda: len(begun(tmp_path)) > 20, "work is under way")
        rolling(cluster, scheduler, workers)
        assert list(array) == [number * number for number in range(300)]
    assert begun(tmp_path) == dict.fromkeys(range(300), 1)


def test_without_a_journal_a_restart_is_a_loss_and_said_to_be_one(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler("test", "--journal", "off")
    assert "journal off" in cluster.said(scheduler)
    cluster.worker()
    with Client() as client:
        future = client.submit(held, tmp_path, 1)
        until(lambda: begun(tmp_path), "the task runs")
        port = port_of(cluster)
        kill(scheduler)
        started_again(cluster, port, "--journal", "off")
        with pytest.raises(SchedulerLostError):
            future.result()
    (tmp_path / "gate").touch()


def test_a_second_scheduler_on_the_same_journal_is_refused_in_a_line(
    cluster: Programs, tmp_path: Path
) -> None:
    journal = str(tmp_path / "journal.db")
    cluster.scheduler("test", "--journal", journal)
    second = cluster.start("scheduler", "--quiet", "--port", "0", "--name", "other", "--journal", journal)
    assert second.wait() == 1
    (line,) = cluster.said(second).splitlines()
    assert "distcomp-scheduler: " in line
    assert journal in line


def test_fresh_sets_the_old_journal_aside(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler()
    with Client() as client:
        future = client.submit(noted, tmp_path, 1, 0.0)
        until(lambda: future.explain().state != "sending", "the task is accepted")
        port = port_of(cluster)
        kill(scheduler)
        scheduler = started_again(cluster, port, "--fresh")
        with pytest.raises(SchedulerLostError):
            future.result()
    said = cluster.said(scheduler)
    assert "set the old journal aside as" in said
    assert "nothing to recover" in said
    aside = said.split("set the old journal aside as ")[1].splitlines()[0]
    assert Path(aside).exists()


def plus_one(number: int) -> int:
    return number + 1


def journal_of(cluster: Programs, scheduler: subprocess.Popen[str]) -> Path:
    """The journal of a scheduler, as it says itself where that lies."""
    return Path(cluster.said(scheduler).split("journal ")[1].split(": ")[0])


def test_a_journal_shrinks_to_what_is_not_done_and_loses_none_of_it(
    cluster: Programs, tmp_path: Path
) -> None:
    bounds = {"DISTCOMP_JOURNAL_COMPACT_BYTES": "200000", "DISTCOMP_RESTATE_OBJECTS": "5"}
    scheduler = cluster.scheduler("test", **bounds)
    cluster.worker()
    with Client() as client:
        half_done = client.map(noted, [tmp_path] * 500, range(500), [0.01] * 500)
        until(lambda: len(begun(tmp_path)) > 50, "some of it is done")
        assert list(client.map(plus_one, range(200_000))) == list(range(1, 200_001))
        until(lambda: "the journal is compacted" in cluster.said(scheduler), "a compaction")
        journal = journal_of(cluster, scheduler)
        until(lambda: journal.stat().st_size < 200_000, "the journal has shrunk")
        scheduler = killed_and_started_again(cluster, scheduler)
        assert list(half_done) == [number * number for number in range(500)]
    assert set(begun(tmp_path)) == set(range(500))
