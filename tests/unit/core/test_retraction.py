from __future__ import annotations

from scheduler_world import SchedulerWorld

from distcomp.worker_protocol import GrantLease, RetractLease


def lopsided(
    pace_s: float, tasks: int = 10, **settings: object
) -> tuple[SchedulerWorld, int, int, list[GrantLease]]:
    """One slot with leases, and another that has just come and found nothing."""
    world = SchedulerWorld(**settings)
    busy, client = world.worker(), world.client()
    world.teach(busy, client, pace_s)
    world.submit(client, 0, tasks)
    grants = world.grants(busy)
    while world.pool.queue.pending:
        array = world.pool.queue.first()
        world.cancel(client, 0, array.pending.first())
    return world, busy, world.worker(), grants


def test_a_lease_that_waits_is_taken_back_when_it_waits_too_long() -> None:
    world, busy, idle, (_, second) = lopsided(0.01)
    assert world.got(busy, RetractLease) == []
    assert world.wake_at == world.now + 0.01
    world.wait(0.016)
    assert world.got(busy, RetractLease) == [RetractLease(second.token, everything=True)]
    world.give_back(busy, second.token, (second.start, second.stop))
    assert world.grants(idle)[0].start == second.start


def test_half_of_a_long_lease_is_taken_back() -> None:
    world, busy, idle, grants = lopsided(0.01, 100, lease_target_s=0.2)
    (retract,) = world.got(busy, RetractLease)
    assert retract == RetractLease(grants[0].token, everything=False)
    world.give_back(busy, retract.token, (10, 20))
    assert world.grants(idle)[0].start == 10


def test_a_lease_that_overruns_is_taken_apart() -> None:
    world, busy, _, grants = lopsided(1e-6, 2)
    for grant in grants[1:]:
        world.give_back(busy, grant.token, (grant.start, grant.stop))
    assert world.got(busy, RetractLease) == []
    world.wait(1.0)
    assert [retract.everything for retract in world.got(busy, RetractLease)] == [False]


def test_a_request_without_answer_is_made_again_later() -> None:
    world, busy, _, _ = lopsided(0.01)
    world.wait(0.02)
    assert len(world.got(busy, RetractLease)) == 1
    world.wait(0.01)
    assert world.got(busy, RetractLease) == []
    world.wait(0.3)
    assert len(world.got(busy, RetractLease)) == 1


def test_nothing_is_asked_of_workers_that_are_away() -> None:
    world, busy, _, _ = lopsided(0.01)
    world.cut(busy)
    world.wait(1.0)
    assert world.got(busy, RetractLease) == []


def test_a_single_task_that_runs_cannot_be_taken_back() -> None:
    world, busy, _, (first, second) = lopsided(0.01)
    world.settle(busy, first.token, (first.start, first.stop), busy_s=0.01)
    assert second.token in world.pool.divisible
    world.wait(1.0)
    assert world.got(busy, RetractLease) == []
