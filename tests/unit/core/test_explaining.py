from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler_world import FUNCTION, PLAIN, SchedulerWorld

from distcomp.core import explaining
from distcomp.protocol import AckOutcomes, ExplainTask, ExplainWait, Submit, TaskExplained, WaitExplained
from distcomp.rows import TaskOptions
from distcomp.worker_protocol import WorkerDraining

if TYPE_CHECKING:
    import pytest


def explain(world: SchedulerWorld, client: int) -> tuple[str, str]:
    world.say(client, ExplainWait(5))
    (answer,) = world.got(client, WaitExplained)
    assert answer.request == 5
    return answer.code, answer.text


def test_a_scheduler_that_can_take_nothing_says_so_first() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.state.shut("the disk is full: free some")
    assert explain(world, client) == ("full", "the disk is full: free some")
    world.state.shut("")
    assert explain(world, client)[0] == "no_workers"


def test_what_lacks_room_on_the_disk_is_told_to_its_own_client() -> None:
    world = SchedulerWorld()
    concerned, other = world.client(), world.client()
    world.state.lack_room({concerned: 5 << 20})
    code, text = explain(world, concerned)
    assert code == "full"
    assert text.startswith("5,242,880 bytes of arguments or results do not fit on the scheduler's disk: free")
    assert explain(world, other)[0] == "no_workers"


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


def where(world: SchedulerWorld, client: int, array: int, index: int) -> TaskExplained:
    world.say(client, ExplainTask(6, (client.to_bytes(16, "big"), array), index))
    (answer,) = world.got(client, TaskExplained)
    assert isinstance(answer, TaskExplained)
    assert answer.request == 6
    return answer


def test_a_task_is_followed_from_its_client_to_its_end() -> None:
    world = SchedulerWorld()
    client = world.client()
    assert where(world, client, 0, 0).state == "sending"
    world.submit(client, 0, 1)
    assert where(world, client, 0, 1).state == "sending"
    waiting = where(world, client, 0, 0)
    assert (waiting.state, waiting.text) == ("waiting", "no workers are connected")
    worker = world.worker()
    (grant,) = world.grants(worker)
    held = where(world, client, 0, 0)
    assert held.state == "held"
    assert held.text.startswith(f"worker w{worker} on h has it")
    world.running(worker, (grant.token, 0))
    running = where(world, client, 0, 0)
    assert (running.state, running.text) == (
        "running",
        f"worker w{worker} on h runs it, for 1.0 s when it last said so",
    )
    world.cut(worker)
    assert "cut off just now" in where(world, client, 0, 0).text


def test_a_task_waits_for_others_or_for_its_client() -> None:
    world = SchedulerWorld(max_unread_bytes=1)
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    world.submit(client, 1, 3)
    waiting = where(world, client, 1, 2)
    assert waiting.state == "waiting"
    assert waiting.text == "all 1 slot are busy with 1 task array of ann; 3 tasks of its array wait"
    world.settle(worker, grant.token, (0, 1), busy_s=9.0)
    world.settle(worker, world.grants(worker)[0].token, (0, 1), busy_s=9.0)
    assert "not being read" in where(world, client, 1, 2).text


def test_a_failed_task_is_explained_with_its_tries() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 2, TaskOptions(retries=1, retry_delay_s=9.0))
    (token,) = {grant.token for grant in world.grants(worker)}
    world.fail(worker, token, 0, "exception")
    delayed = where(world, client, 0, 0)
    assert (delayed.state, delayed.text) == ("delayed", "it failed, and is tried again in 9.0 s")
    assert [(past.attempt, past.kind) for past in delayed.past] == [(1, "exception")]


def test_a_task_that_has_ended_is_on_its_way_to_its_client() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1)
    world.settle(worker, world.grants(worker)[0].token, (0, 1))
    assert where(world, client, 0, 0).state == "settled"
    world.submit(client, 1, 1, last=False)
    world.settle(worker, world.grants(worker)[0].token, (0, 1))
    assert where(world, client, 1, 0).state == "settled"


def test_a_task_that_came_in_this_turn_is_about_to_start() -> None:
    world = SchedulerWorld()
    world.worker()
    client = world.client()
    array = (client.to_bytes(16, "big"), 0)
    world.state.receive(client, Submit(array, FUNCTION, PLAIN, 0, 1, b"args", last=True), world.now)
    assert where(world, client, 0, 0).text == "it is about to start: slots are idle"


def test_a_task_is_found_in_the_lease_that_has_it() -> None:
    world = SchedulerWorld()
    workers = [world.worker() for _ in range(2)]
    client = world.client()
    world.submit(client, 0, 2)
    for index, worker in enumerate(workers):
        assert where(world, client, 0, index).text.startswith(f"worker w{worker} on h has it")


def test_not_all_leases_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    world = SchedulerWorld()
    world.worker()
    client = world.client()
    world.submit(client, 0, 1)
    monkeypatch.setattr(explaining, "LOOKED_AT", 0)
    assert where(world, client, 0, 0).text == "a worker has it"


def test_a_task_of_another_session_is_nonsense() -> None:
    world = SchedulerWorld()
    ann, bob = world.client("ann"), world.client("bob")
    world.submit(ann, 0, 1)
    world.say(bob, ExplainTask(1, (ann.to_bytes(16, "big"), 0), 0))
    assert world.closed == [bob]
