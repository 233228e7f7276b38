from __future__ import annotations

from scheduler_world import SchedulerWorld

from distcomp.protocol import TasksRetried, TasksSettled
from distcomp.rows import Failure, PastAttempt, TaskOptions
from distcomp.worker_protocol import LeaseSettled


def start(options: TaskOptions) -> tuple[SchedulerWorld, int, int]:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1, options)
    return world, worker, client


def test_a_failed_task_is_tried_again_as_often_as_it_may() -> None:
    world, worker, client = start(TaskOptions(retries=2))
    for attempt in (1, 2, 3):
        (grant,) = world.grants(worker)
        assert grant.attempt == attempt
        world.fail(worker, grant.token, 0, "exception" if attempt < 3 else "timeout")
    assert world.outcomes(client) == {0: "timeout"}
    assert (world.books.counts.retried, world.books.counts.failed) == (2, 1)


def test_an_exception_that_is_not_to_be_retried_is_final() -> None:
    world, worker, client = start(TaskOptions(retries=2))
    world.fail(worker, world.grants(worker)[0].token, 0, "exception", retriable=False)
    assert world.outcomes(client) == {0: "exception"}


def test_a_timeout_is_final_if_retries_are_for_something_else() -> None:
    world, worker, client = start(TaskOptions(retries=2, retries_timeouts=False))
    world.fail(worker, world.grants(worker)[0].token, 0, "exception")
    world.fail(worker, world.grants(worker)[0].token, 0, "timeout")
    assert world.outcomes(client) == {0: "timeout"}


def test_a_retry_waits_for_its_delay() -> None:
    world, worker, _ = start(TaskOptions(retries=1, retry_delay_s=5.0))
    world.fail(worker, world.grants(worker)[0].token, 0, "exception")
    assert world.grants(worker) == []
    due = world.now + 5.0
    world.wait(0.25)  # when its client is told
    assert world.wake_at == due
    world.wait(due - world.now)
    assert world.grants(worker)[0].attempt == 2


def test_a_delayed_task_can_be_cancelled() -> None:
    world, worker, client = start(TaskOptions(retries=1, retry_delay_s=5.0))
    world.fail(worker, world.grants(worker)[0].token, 0, "exception")
    world.cancel(client, 0, (7, 9))
    assert world.books.counts.cancelled == 0
    world.cancel(client, 0, (0, 1))
    world.wait(5.0)
    assert world.grants(worker) == []
    assert world.books.counts.cancelled == 1


def test_a_task_that_ends_its_process_does_so_three_times() -> None:
    world, worker, client = start(TaskOptions())
    for _ in range(3):
        world.fail(worker, world.grants(worker)[0].token, 0, "crashed")
    assert world.outcomes(client) == {0: "crashed"}


def test_starts_of_any_cause_are_bounded() -> None:
    world, worker, client = start(TaskOptions(max_attempts=2, retries=9))
    world.fail(worker, world.grants(worker)[0].token, 0, "crashed")
    world.fail(worker, world.grants(worker)[0].token, 0, "exception")
    assert world.outcomes(client) == {0: "exception"}


def test_an_index_with_a_past_runs_alone() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 1e-6)
    world.submit(client, 0, 20, TaskOptions(retries=1))
    first, second = world.grants(worker)
    assert (first.start, first.stop) == (0, 11)
    world.fail(worker, first.token, 5, "exception")
    grants = [*world.grants(worker), second]
    for span in ((0, 5), (6, 11)):
        world.settle(worker, first.token, span, busy_s=1e-6)
        grants += world.grants(worker)
    while grants:
        grant = grants.pop()
        assert (grant.start, grant.stop) == (5, 6) or not grant.start <= 5 < grant.stop
        assert grant.attempt == 1 + (grant.start == 5)
        world.settle(worker, grant.token, (grant.start, grant.stop), busy_s=1e-6)
        grants += world.grants(worker)
    assert world.books.counts.settled == 21


def test_the_client_hears_of_retries_once_in_a_while_and_at_the_end() -> None:
    world = SchedulerWorld(tell_retries_s=0.25)
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1, TaskOptions(retries=9))
    for _ in range(3):
        world.fail(worker, world.grants(worker)[0].token, 0, "exception")
        assert world.got(client, TasksRetried) == []
    (grant,) = world.grants(worker)
    world.wait(0.25)
    assert [message.retried for message in world.got(client, TasksRetried)] == [3]
    world.fail(worker, grant.token, 0, "exception")
    world.settle(worker, world.grants(worker)[0].token, (0, 1))
    assert [message.retried for message in world.got(client, TasksRetried)] == [4]
    world.wait(0.25)
    assert world.got(client, TasksRetried) == []


def test_the_last_failure_tells_of_those_before_it() -> None:
    world, worker, client = start(TaskOptions(retries=1))
    for attempt, text in ((1, "x" * 999), (2, "at last")):
        failure = Failure("exception", True, text=text, host="h", worker="w", attempt=attempt)
        (grant,) = world.grants(worker)
        world.say(worker, LeaseSettled(1, grant.token, (), ((0, failure),), 0.001, 0))
    (settled,) = world.got(client, TasksSettled)
    ((_, last),) = settled.failures
    assert last.text == "at last"
    assert last.past == (PastAttempt(1, "exception", "w", "h", "x" * 200),)


def test_only_the_last_tries_are_remembered() -> None:
    world, worker, client = start(TaskOptions(retries=99))
    for _ in range(20):
        world.fail(worker, world.grants(worker)[0].token, 0, "exception")
    array = world.books.sessions[client.to_bytes(16, "big")].arrays[0]
    assert len(array.trials[0].past) == 16
