"""Worlds in which tasks submit tasks, in good weather and in bad."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from simulator.tasks import Plan
from simulator.weather import PYTHONS, ClientPlan, Weather, draw
from simulator.world import World

from distcomp.config import SchedulerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

SEEDS = range(40)
MOST_TASKS = 12


def chain(depth: int, seconds: float = 0.001) -> Plan:
    """A task that waits for a task that waits ..., so many below the first."""
    below = None
    for _ in range(depth + 1):
        below = Plan(0.0, 1, (seconds,), below=below)
    assert below is not None
    return below


def calm(workers: Iterable[int], plans: Iterable[Plan]) -> World:
    weather = Weather(1, "calm", SchedulerSettings())
    weather.workers = [(slots, PYTHONS[0]) for slots in workers]
    weather.clients = [ClientPlan("alice", PYTHONS[0], [plan], "close", 0.0) for plan in plans]
    return World(weather)


def values(world: World) -> int:
    """How many tasks gave a value."""
    return sum(book.outcomes.count(1) for book in world.ledger.books.values())


@pytest.mark.parametrize("workers", [(1,), (2,), (1, 1)])
def test_a_chain_of_fifty_ends_on_one_slot_or_more(workers: tuple[int, ...]) -> None:
    world = calm(workers, [chain(50)])
    world.run()
    assert values(world) == 51


def test_a_tree_ends_and_lends_little() -> None:
    tree = Plan(0.0, 3, (0.001,))
    for _ in range(4):
        tree = Plan(0.0, 3, (0.001,), below=tree)
    world = calm((1, 1), [tree])
    most = 0

    def watch() -> None:
        nonlocal most
        most = max([most, *(worker.state._runs.crew.lent for worker in world.workers)])
        if world.users:
            world.clock.after(0.0005, watch)

    watch()
    world.run()
    assert values(world) == 3 + 9 + 27 + 81 + 243
    assert most <= 5, "children go before other parents"


def test_many_that_nest_share_with_others() -> None:
    nests = Plan(0.0, 100, (0.001,), below=Plan(0.0, 20, (0.0005,)))
    world = calm((2, 1), [nests, Plan(0.05, 200, (0.001,))])
    world.run()
    assert values(world) == 100 * 21 + 200


def nested(plan: Plan, seed: int) -> Plan:
    """The plan with less to do, and with plans below it."""
    few = min(plan.tasks, MOST_TASKS)
    special = {index: kind for index, kind in plan.special.items() if index < few}
    cancels = tuple(
        (at_s, start, few + 1 if stop > plan.tasks else min(stop, few), pending_only)
        for at_s, start, stop, pending_only in plan.cancels
        if start < few
    )
    below: Plan | None = None
    for level in range(1 + seed % 3):
        below = Plan(0.0, 1 + (seed + level) % 4, (0.002, 0.02), below=below)
    return replace(plan, tasks=few, special=special, cancels=cancels, below=below)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_promise_is_broken_below_other_tasks(seed: int) -> None:
    weather = draw(seed)
    weather.clients = [
        client._replace(
            arrays=[nested(plan, seed) for plan in client.arrays],
            lives=tuple(
                life._replace(arrays=[nested(plan, seed) for plan in life.arrays]) for life in client.lives
            ),
        )
        for client in weather.clients
    ]
    weather.faults = [fault._replace(after_tasks=fault.after_tasks % 60) for fault in weather.faults]
    world = World(weather)
    world.run()
    assert not any(worker.state._runs.crew.lent for worker in world.workers)
