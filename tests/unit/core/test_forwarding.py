from __future__ import annotations

from typing import Any

from scheduler_world import SchedulerWorld

from distcomp.protocol import TasksLogged
from distcomp.rows import LogLine, TaskOptions
from distcomp.worker_protocol import LeaseLogged

LOGGED = TaskOptions(logs=True)


def lines(count: int, text: str = "x") -> tuple[LogLine, ...]:
    return tuple(LogLine(index, "stdout", 0, text) for index in range(count))


def start(**settings: Any) -> tuple[SchedulerWorld, int, int, Any]:
    world = SchedulerWorld(**settings)
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1, LOGGED)
    (grant,) = world.grants(worker)
    assert grant.logs
    return world, worker, client, grant.token


def test_lines_go_to_the_client_with_function_and_worker() -> None:
    world, worker, client, token = start()
    world.say(worker, LeaseLogged(token, lines(1), 3))
    array = (client.to_bytes(16, "big"), 0)
    assert world.got(client, TasksLogged) == [TasksLogged(array, "f", f"w{worker}", lines(1), 3)]


def test_a_session_gets_no_more_lines_than_its_allowance() -> None:
    world, worker, client, token = start(session_log_lines_per_s=2)
    for expected, dropped in ((2, 3), (0, 5)):
        world.say(worker, LeaseLogged(token, lines(5), 0))
        (logged,) = world.got(client, TasksLogged)
        assert (len(logged.lines), logged.dropped) == (expected, dropped)
    world.wait(1.0)
    world.say(worker, LeaseLogged(token, lines(5), 0))
    assert len(world.got(client, TasksLogged)[0].lines) == 2


def test_bytes_are_within_the_allowance_too() -> None:
    world, worker, client, token = start(session_log_bytes_per_s=2000)
    world.say(worker, LeaseLogged(token, lines(5, "x" * 900), 0))
    (logged,) = world.got(client, TasksLogged)
    assert (len(logged.lines), logged.dropped) == (2, 3)


def test_lines_for_nobody_are_lost() -> None:
    world, worker, client, token = start()
    world.cut(client)
    world.say(worker, LeaseLogged(token, lines(1), 0))
    world.settle(worker, token, (0, 1))
    world.say(worker, LeaseLogged(token, lines(1), 0))
    assert world.closed == []
    assert world.got(client, TasksLogged) == []
