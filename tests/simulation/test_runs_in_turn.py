"""Processes of one run that get in each other's way, as they would rarely do by chance."""

from __future__ import annotations

import pytest
from simulator.tasks import Plan
from simulator.weather import PYTHONS, ClientPlan, Fault, Life, Weather
from simulator.world import World

from distcomp.config import SchedulerSettings
from distcomp.rows import TaskOptions

NEVER = Fault(1_000_000, 0.0, "reset worker", 0.0, 0.0)
"""In a world with faults it is not held against anybody that a slot idles."""


def plan(tasks: int, seconds: float = 0.01) -> Plan:
    return Plan(0.0, tasks, (seconds,), TaskOptions(detach=True), chunk_tasks=4)


def run_of(*lives: Life, journalled: bool) -> World:
    weather = Weather(
        7, "calm", SchedulerSettings(result_retention_s=100.0), journalled=journalled, faults=[NEVER]
    )
    weather.workers = [(2, PYTHONS[0])]
    weather.clients = [ClientPlan("alice", PYTHONS[0], [], "hand on", 0.0, lives)]
    world = World(weather)
    world.run()
    return world


LAST = Life([], "time", 0, 0.0, "kill", 0.0, attaches=True, keeps=True)


@pytest.mark.parametrize("journalled", [False, True])
def test_one_that_stood_still_leaves_to_others_what_they_handed_in(journalled: bool) -> None:  # noqa: FBT001 - a parameter
    stands_still = Life([plan(20)], "told", 1, 0.0, "stop", 0.5, still_s=20.0, keeps=True)
    hands_in = Life([plan(20)], "submitting", 1, 0.02, "kill", 30.0, attaches=True, keeps=True)
    world = run_of(stands_still, hands_in, LAST, journalled=journalled)
    assert world.storm.lives["came back and had the run again"] == 1
    assert [book.outcomes.count(1) for book in world.ledger.books.values()] == [20, 20]


@pytest.mark.parametrize("journalled", [False, True])
def test_one_that_stood_still_does_not_wait_for_what_others_received(journalled: bool) -> None:  # noqa: FBT001 - a parameter
    stands_still = Life([plan(20, 1.6)], "told", 1, 0.0, "stop", 0.5, still_s=20.0, keeps=True)
    receives = Life([], "time", 1, 17.0, "leave", 30.0, attaches=True, keeps=True)
    world = run_of(stands_still, receives, LAST, journalled=journalled)
    assert world.storm.lives["came back and had the run again"] == 1
    assert world.storm.lives["found results on its disk"] == 1


@pytest.mark.parametrize("ending", ["kill", "crash", "lose", "stop", "leave"])
def test_a_run_is_whole_after_many_processes(ending: str) -> None:
    lives = [
        Life(
            [plan(20)],
            "told",
            1,
            0.03,
            ending,
            1.0,
            still_s=15.0,
            attaches=bool(place),
            keeps=bool(place % 2),
        )
        for place in range(12)
    ]
    world = run_of(*lives, LAST, journalled=True)
    assert len(world.ledger.books) == 12
    assert all(book.ended == book.submitted >= book.accepted for book in world.ledger.books.values())
