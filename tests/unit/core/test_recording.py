"""What has to be durable before others hear of it."""

from __future__ import annotations

from scheduler_world import FUNCTION, SchedulerWorld, versions

from distcomp.ids import SessionId
from distcomp.protocol import CancelTasks, Submit
from distcomp.rows import HeldLease, TaskOptions
from distcomp.worker_protocol import CancelLease, GrantLease, RegisterWorker, WorkerRegistered

ONCE = TaskOptions(max_attempts=1)


def name(client: int) -> SessionId:
    return SessionId(client.to_bytes(16, "big"))


def kinds(messages: list[object]) -> set[type]:
    return {type(message) for message in messages}


def test_a_worker_hears_of_a_cancel_once_it_is_durable() -> None:
    world = SchedulerWorld()
    world.books.journalled = True
    worker, client = world.worker(), world.client()
    world.submit(client, 1, 1, ONCE)
    assert world.grants(worker)
    world.state.committed(world.books.batch)
    world.state.receive(client, CancelTasks((name(client), 1), ()), world.now)
    effects = world.state.take_effects(world.now)
    assert CancelLease not in kinds(effects.sends.get(worker, []))
    assert CancelLease in kinds(effects.acks[worker])


def test_a_counted_start_leaves_once_it_is_durable() -> None:
    world = SchedulerWorld()
    world.books.journalled = True
    worker, client = world.worker(), world.client()
    world.state.receive(
        client, Submit((name(client), 1), FUNCTION, ONCE, 0, 1, b"args", last=True), world.now
    )
    effects = world.state.take_effects(world.now)
    assert GrantLease not in kinds(effects.sends.get(worker, []))
    assert GrantLease in kinds(effects.acks[worker])


def come_back(world: SchedulerWorld, worker: int, *held: HeldLease) -> tuple[set[type], set[type]]:
    """A worker registers anew; what is said to it at once, and what once all before is durable."""
    peer = world.connect("worker")
    name = worker.to_bytes(16, "big")
    world.state.receive(
        peer, RegisterWorker(name, "w", "h", 1, 1, versions("3.11.4"), leases=held), world.now
    )
    effects = world.state.take_effects(world.now)
    for message in effects.sends[peer]:
        assert type(message) is not WorkerRegistered or not message.stale
    return kinds(effects.sends[peer]), kinds(effects.acks.get(peer, []))


def test_a_worker_that_comes_back_hears_of_a_cancel_once_it_is_durable() -> None:
    world = SchedulerWorld()
    world.books.journalled = True
    worker, client = world.worker(), world.client()
    world.submit(client, 1, 1, ONCE)
    (grant,) = world.grants(worker)
    world.state.committed(world.books.batch)
    world.cancel(client, 1, (0, 1))
    world.cut(worker)
    at_once, later = come_back(world, worker, HeldLease(grant.token, ((0, 1),)))
    assert CancelLease not in at_once
    assert CancelLease in later


def test_a_worker_that_comes_back_late_goes_on_until_its_loss_is_durable() -> None:
    world = SchedulerWorld(reconnect_grace_s=1.0)
    world.books.journalled = True
    worker, client = world.worker(), world.client()
    world.submit(client, 1, 1, ONCE)
    (grant,) = world.grants(worker)
    world.running(worker, (grant.token, 0))
    world.state.committed(world.books.batch)
    world.cut(worker)
    world.wait(2.0)
    at_once, later = come_back(world, worker, HeldLease(grant.token, ((0, 1),)))
    assert WorkerRegistered in at_once
    assert later == {CancelLease}
