from __future__ import annotations

from scheduler_world import SchedulerWorld

from distcomp.core.roster import SPARE_ENTRIES
from distcomp.worker_protocol import LeaseSettled


def test_idle_workers_take_turns() -> None:
    world = SchedulerWorld()
    workers = [world.worker() for _ in range(3)]
    client = world.client()
    order = []
    for counter in range(9):
        world.submit(client, counter, 1)
        (chosen,) = [worker for worker in workers if world.grants(worker)]
        order.append(chosen)
        world.settle(chosen, world.grants(chosen)[0].token, (0, 1))
    assert order == workers * 3


def test_the_least_loaded_worker_comes_first() -> None:
    world = SchedulerWorld()
    small, large = world.worker(2), world.worker(4)
    client = world.client()
    world.submit(client, 0, 3)
    assert len(world.grants(small)) == 1
    assert len(world.grants(large)) == 2


def test_a_second_lease_waits_only_behind_short_ones() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(2), world.client()
    world.teach(worker, client, 0.01)
    world.submit(client, 0, 10)
    assert len(world.grants(worker)) == 4
    entry = next(iter(world.books.workers.values()))
    assert len(entry.waiting) == 2
    assert world.pool.roster.idle == 0
    assert world.pool.roster.soonest() is None


def test_nothing_waits_behind_long_or_unknown_tasks() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(1), world.client()
    world.submit(client, 0, 3)
    (grant,) = world.grants(worker)
    world.settle(worker, grant.token, (0, 1), busy_s=1.0)
    assert len(world.grants(worker)) == 1


def test_the_oldest_waiting_lease_is_taken_to_begin_next() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(1), world.client()
    world.teach(worker, client, 0.01)
    world.submit(client, 0, 10)
    first, second = world.grants(worker)
    world.give_back(worker, second.token, (1, 2))
    assert next(iter(world.books.workers.values())).waiting[0].token != second.token
    world.settle(worker, first.token, (0, 1))
    assert len(world.books.leases) == 2


def test_stale_places_are_swept() -> None:
    world = SchedulerWorld()
    world.worker(3)
    worker, client = world.worker(1), world.client()
    for counter in range(2 * SPARE_ENTRIES):
        world.submit(client, counter, 2)
        for peer in (1, 2):
            for grant in world.grants(peer):
                runs = ((grant.start, grant.stop, b""),)
                world.state.receive(peer, LeaseSettled(1, grant.token, runs, (), 0.001, 0), world.now)
        world.turn()
    assert len(world.pool.roster._idle) <= SPARE_ENTRIES + 4
    assert worker == 2
