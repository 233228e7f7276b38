from __future__ import annotations

from scheduler_world import SchedulerWorld

from distcomp.core.flow import pause, resume
from distcomp.core.leases import lease_length
from distcomp.rows import TaskOptions


def test_tasks_of_unknown_length_are_granted_one_by_one() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(3), world.client()
    world.submit(client, 0, 100)
    assert [(grant.start, grant.stop) for grant in world.grants(worker)] == [(0, 1), (1, 2), (2, 3)]


def test_leases_hold_the_target_and_leave_enough_for_others() -> None:
    world = SchedulerWorld(lease_target_s=0.002)
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 0.0005)
    world.submit(client, 0, 100, last=False)
    assert [grant.stop - grant.start for grant in world.grants(worker)] == [4, 4]
    array = world.pool.queue.first()
    assert lease_length(array, 1, 0.002, 20_000) == 4
    assert lease_length(array, 1000, 0.002, 20_000) == 1
    assert lease_length(array, 4, 0.002, 400) == 12


def test_a_lease_stays_within_its_chunk() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 1e-6)
    world.submit(client, 0, 2, last=False, chunk=b"one")
    (grant,) = world.grants(worker)
    assert (grant.start, grant.stop) == (0, 2)
    world.settle(worker, grant.token, (0, 2), busy_s=1e-6)
    session = world.books.sessions[client.to_bytes(16, "big")]
    pause(world.books, session)
    world.submit(client, 0, 3, start=2, last=False, chunk=b"two")
    world.submit(client, 0, 90, start=5, chunk=b"three")
    resume(world.books, session)
    world.turn()
    (grant, *_) = world.grants(worker)
    assert (grant.start, grant.stop, grant.chunk) == (2, 5, b"two")


def test_arrays_with_bounded_attempts_never_wait() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 1e-6)
    world.submit(client, 0, 5, TaskOptions(max_attempts=1))
    (grant,) = world.grants(worker)
    assert grant.eager
    assert grant.stop - grant.start == 1


def busy_world(owner: str = "bob") -> tuple[SchedulerWorld, int, int]:
    """One slot busy with short tasks of ann, and another client."""
    world = SchedulerWorld()
    worker, ann = world.worker(), world.client("ann")
    world.teach(worker, ann, 0.001)
    world.submit(ann, 0, 1000)
    return world, worker, world.client(owner)


def test_one_that_is_owed_more_goes_at_the_next_task_border() -> None:
    world, worker, bob = busy_world()
    world.submit(bob, 0, 2)
    (grant,) = world.grants(worker)
    assert grant.urgent
    assert grant.array[0] == bob.to_bytes(16, "big")


def test_another_session_of_the_same_owner_is_owed_its_share_too() -> None:
    world, worker, ann = busy_world("ann")
    world.submit(ann, 0, 1)
    assert world.grants(worker)[0].urgent


def test_higher_priority_goes_at_the_next_task_border_once_a_slot() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 0.001)
    world.submit(client, 0, 1000)
    world.submit(client, 1, 1000, TaskOptions(priority=1))
    (grant,) = world.grants(worker)
    assert grant.urgent
    assert grant.priority == 1
    world.submit(client, 2, 1000, TaskOptions(priority=2))
    assert world.grants(worker) == []
    world.settle(worker, grant.token, (grant.start, grant.stop))
    assert [each.priority for each in world.grants(worker)] == [2]


def test_nobody_goes_before_those_of_the_same_standing() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 0.001)
    world.submit(client, 0, 1000, TaskOptions(priority=1))
    for grant in world.grants(worker):
        assert not grant.urgent
    world.submit(client, 1, 10)
    assert world.grants(worker) == []
    bob = world.client("bob")
    world.submit(bob, 0, 10)
    assert world.grants(worker) == []


def test_slots_with_long_tasks_are_not_interrupted() -> None:
    world = SchedulerWorld()
    worker, ann = world.worker(), world.client("ann")
    world.submit(ann, 0, 5)
    bob = world.client("bob")
    world.submit(bob, 0, 1)
    assert world.grants(worker) == []
    world.settle(worker, next(iter(world.books.leases)), (0, 1), busy_s=1.0)
    assert world.grants(worker)[0].array[0] == bob.to_bytes(16, "big")


def test_what_ranks_higher_is_not_interrupted() -> None:
    world = SchedulerWorld()
    worker, ann = world.worker(), world.client("ann")
    world.teach(worker, ann, 0.001)
    world.submit(ann, 0, 3, TaskOptions(priority=1))
    assert len(world.grants(worker)) == 2
    bob = world.client("bob")
    world.submit(bob, 0, 1)
    assert world.grants(worker) == []
