from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler_world import SchedulerWorld

from distcomp.core.queue import SPARE_ENTRIES, Claim, Crowd
from distcomp.rows import TaskOptions

if TYPE_CHECKING:
    from distcomp.core.queue import FairQueue


def take_turns(queue: FairQueue, count: int, seconds: float = 1.0) -> list[tuple[int, int]]:
    """Grant one task `count` times; by session and array."""
    order = []
    for _ in range(count):
        array = queue.first()
        queue.take(array, 1, seconds)
        order.append((int.from_bytes(array.session.id, "big"), array.id[1]))
    return order


def test_priority_comes_before_age() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 1)
    world.submit(client, 1, 1, TaskOptions(priority=5))
    world.submit(client, 2, 1, TaskOptions(priority=-5))
    world.submit(client, 3, 1)
    assert [array for _, array in take_turns(world.pool.queue, 4)] == [1, 0, 3, 2]


def test_owners_share_and_then_their_sessions() -> None:
    world = SchedulerWorld()
    ann, ann2, bob = world.client("ann"), world.client("ann"), world.client("bob")
    for client in (ann, ann2, bob):
        world.submit(client, 0, 100)
    sessions = [session for session, _ in take_turns(world.pool.queue, 40)]
    assert (sessions.count(bob), sessions.count(ann), sessions.count(ann2)) == (20, 10, 10)


def test_nobody_saves_up_while_away() -> None:
    world = SchedulerWorld()
    ann, bob = world.client("ann"), world.client("bob")
    world.submit(ann, 0, 100)
    world.pool.queue.correct(world.pool.queue.first(), 50.0)
    world.submit(bob, 0, 100)
    sessions = [session for session, _ in take_turns(world.pool.queue, 20)]
    assert sessions[0] == bob
    assert sessions.count(bob) == 10


def test_what_was_estimated_too_high_is_given_back() -> None:
    world = SchedulerWorld()
    ann, bob = world.client("ann"), world.client("bob")
    world.submit(ann, 0, 100)
    world.submit(bob, 0, 100)
    queue = world.pool.queue
    take_turns(queue, 2, 10.0)
    array = world.books.sessions[ann.to_bytes(16, "big")].arrays[0]
    queue.correct(array, -10.0)
    assert [session for session, _ in take_turns(queue, 8)] == [ann] * 8


def test_dead_entries_are_swept() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 5)
    for counter in range(1, 3 * SPARE_ENTRIES):
        world.submit(client, counter, 5)
        world.cancel(client, counter)
    claim = world.pool.queue.first().claim
    assert len(claim._orders) <= SPARE_ENTRIES + 3
    assert take_turns(world.pool.queue, 5) == [(client, 0)] * 5


def test_a_crowd_sweeps_entries_of_those_that_came_and_went() -> None:
    crowd: Crowd[Claim] = Crowd()
    first, second = Claim(), Claim()
    crowd.enter(first)
    for _ in range(3 * SPARE_ENTRIES):
        crowd.enter(second)
        crowd.leave(second)
    assert len(crowd._heap) <= SPARE_ENTRIES + 4
    assert crowd.first() is first


def test_time_goes_on_for_those_away_while_an_array_is_alone() -> None:
    world = SchedulerWorld()
    worker, ann, bob = world.worker(), world.client("ann"), world.client("bob")
    world.teach(worker, ann, 5.0, array=1)
    world.teach(worker, ann, 5.0, array=2)
    world.cut(worker)
    world.submit(bob, 0, 100)
    world.submit(ann, 0, 100)
    sessions = [session for session, _ in take_turns(world.pool.queue, 15)]
    assert sessions.count(bob) == 10
