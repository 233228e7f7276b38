"""What has to be durable before others hear of it."""

from __future__ import annotations

from scheduler_world import FUNCTION, SchedulerWorld

from distcomp.ids import SessionId
from distcomp.protocol import CancelTasks, Submit
from distcomp.rows import TaskOptions
from distcomp.worker_protocol import CancelLease, GrantLease

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
