from __future__ import annotations

from scheduler_world import SchedulerWorld

from distcomp.protocol import AckOutcomes, ExplainWait, WaitExplained, WorkerDraining
from distcomp.rows import TaskOptions


def explain(world: SchedulerWorld, client: int) -> tuple[str, str]:
    world.say(client, ExplainWait(5))
    (answer,) = world.got(client, WaitExplained)
    assert answer.request == 5
    return answer.code, answer.text


def test_no_workers() -> None:
    world = SchedulerWorld()
    assert explain(world, world.client()) == ("no_workers", "no workers are connected")


def test_workers_of_another_python() -> None:
    world = SchedulerWorld()
    world.worker(python="3.12.1")
    code, text = explain(world, world.client())
    assert code == "unfit"
    assert text == "1 worker of Python 3.12 cannot run tasks of this client, which needs Python 3.11"


def test_workers_that_are_leaving() -> None:
    world = SchedulerWorld()
    world.say(world.worker(), WorkerDraining())
    code, text = explain(world, world.client())
    assert code == "no_workers"
    assert "leaving" in text


def test_running() -> None:
    world = SchedulerWorld()
    world.worker(2)
    client = world.client()
    world.submit(client, 0, 1)
    assert explain(world, client) == ("running", "1 lease of this client are with workers, of 2 slots")


def test_busy_with_others() -> None:
    world = SchedulerWorld()
    world.worker(2)
    ann, bob = world.client("ann"), world.client("bob")
    world.submit(ann, 0, 1)
    world.submit(ann, 1, 1)
    world.submit(bob, 0, 1)
    assert explain(world, bob) == ("busy", "all 2 slots are busy with 2 task arrays of ann")


def test_idle_for_reasons_of_the_client() -> None:
    world = SchedulerWorld(max_unread_bytes=1)
    worker, client = world.worker(), world.client()
    assert "arguments are on their way" in explain(world, client)[1]
    world.submit(client, 0, 1, function=b"?" * 32)
    assert "waits for a function" in explain(world, client)[1]
    world.cancel(client, 0)
    world.submit(client, 1, 1, TaskOptions(retries=1, retry_delay_s=9.0))
    world.fail(worker, world.grants(worker)[0].token, 0, "exception")
    assert "1 task failed" in explain(world, client)[1]
    world.submit(client, 2, 9)
    for grant in world.grants(worker):
        world.settle(worker, grant.token, (grant.start, grant.stop))
    assert "not being read" in explain(world, client)[1]
    world.state.receive(client, AckOutcomes((1, 2)), world.now)
    world.state.receive(client, ExplainWait(5), world.now)
    assert "about to start" in world.books.effects.sends[client][-1].text
