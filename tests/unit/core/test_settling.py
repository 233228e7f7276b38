from __future__ import annotations

from scheduler_world import SchedulerWorld

from distcomp.protocol import TasksBegan, TasksFailed, TasksSettled
from distcomp.rows import TaskOptions
from distcomp.worker_protocol import LeaseSettled


def test_outcomes_go_to_the_client_as_they_come() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    world.settle(worker, grant.token, (0, 1))
    (message,) = world.got(client, TasksSettled)
    assert message.runs == ((0, 1, b"r"),)
    assert world.books.leases == {}


def test_a_lease_settles_in_parts() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 1e-6)
    world.submit(client, 0, 20)
    grant = world.grants(worker)[0]
    assert grant.stop == 11
    world.settle(worker, grant.token, (0, 4), busy_s=1e-5)
    assert world.books.leases[grant.token].size == 7
    world.settle(worker, grant.token, (4, 11), busy_s=1e-5, slot=9)
    assert grant.token not in world.books.leases


def test_a_part_from_a_lease_thought_to_wait_shows_that_it_runs() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 0.0005)
    world.submit(client, 0, 20)
    _, second = world.grants(worker)
    assert world.books.leases[second.token].waits
    world.settle(worker, second.token, (second.start, second.start + 1))
    assert not world.books.leases[second.token].waits


def test_news_of_unknown_leases_is_late_and_changes_nothing() -> None:
    world = SchedulerWorld()
    worker, other, client = world.worker(), world.worker(), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    world.settle(other, grant.token, (0, 1))
    world.settle(worker, (6, 1), (0, 1))
    world.give_back(other, grant.token, (0, 1))
    assert world.books.counts.late == 2
    assert grant.token in world.books.leases


def test_news_of_indexes_that_the_lease_does_not_hold_is_late() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 2)
    (grant,) = world.grants(worker)
    world.settle(worker, grant.token, (5, 7))
    assert world.got(client, TasksSettled) == []
    world.fail(worker, grant.token, 5, "exception")
    assert world.books.counts.late == 3
    world.say(worker, LeaseSettled(1, grant.token, (), (), 0.0, 0))
    assert grant.token in world.books.leases


def test_a_lease_whose_indexes_were_all_cancelled_keeps_its_slot() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    world.cancel(client, 0)
    world.submit(client, 1, 1)
    assert world.grants(worker) == []
    world.give_back(worker, grant.token, (0, 1), reason="cancelled")
    assert len(world.grants(worker)) == 1


def test_what_comes_back_is_pending_again_and_goes_first() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 1e-6)
    world.submit(client, 0, 20)
    first, _ = world.grants(worker)
    world.give_back(worker, first.token, (5, 11))
    other = world.worker()
    assert world.grants(other)[0].start == 5


def test_a_worker_that_returned_a_lease_as_waited_too_long_gets_no_second_one() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 0.01)
    world.submit(client, 0, 20)
    first, second = world.grants(worker)
    world.give_back(worker, second.token, (1, 2), reason="waited")
    assert world.grants(worker) == []
    world.settle(worker, first.token, (0, 1))
    assert len(world.grants(worker)) == 2


def test_a_return_from_a_worker_that_drains_changes_no_place() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    next(iter(world.books.workers.values())).pool.roster.dismiss(next(iter(world.books.workers.values())))
    world.give_back(worker, grant.token, (0, 1), reason="waited")
    assert world.pool.queue.pending == 1


def test_a_worker_that_gives_back_what_was_cancelled_needs_no_rest() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    world.cancel(client, 0)
    world.give_back(worker, grant.token, (0, 1), reason="unprepared")
    world.submit(client, 1, 1)
    assert len(world.grants(worker)) == 1


def test_a_worker_that_cannot_prepare_rests() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    world.give_back(worker, grant.token, (0, 1), reason="unprepared")
    assert world.grants(worker) == []
    world.wait(1.0)
    (again,) = world.grants(worker)
    world.give_back(worker, again.token, (0, 1), reason="refused")
    world.give_back(worker, again.token, (0, 1), reason="refused")
    world.cut(worker)
    world.wait(1.0)
    assert world.pool.roster.workers == 0


def test_a_start_that_did_not_happen_is_not_counted() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1, TaskOptions(max_attempts=1))
    for _ in range(3):
        (grant,) = world.grants(worker)
        assert grant.attempt == 1
        world.give_back(worker, grant.token, (0, 1))


def test_clients_hear_what_began_once() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(2), world.client()
    world.submit(client, 0, 2)
    first, second = world.grants(worker)
    world.running(worker, (first.token, 0), ((1, 1), 4))
    assert world.got(client, TasksBegan)[0].indexes == (0,)
    world.running(worker, (first.token, 0), (second.token, 1))
    assert world.got(client, TasksBegan)[0].indexes == (1,)


def unprepared(world: SchedulerWorld, worker: int, times: int) -> None:
    """Let a worker give back what it gets, so many times, as often as it is given something."""
    for _ in range(times):
        (grant,) = world.grants(worker)
        world.give_back(worker, grant.token, (grant.start, grant.stop), reason="unprepared")
        world.wait(1.0)


def test_a_session_that_nobody_can_prepare_a_slot_for_fails() -> None:
    world = SchedulerWorld(unprepared_limit=3, rest_s=1.0)
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 5, TaskOptions(retries=9))
    unprepared(world, worker, 2)
    (grant,) = world.grants(worker)
    world.give_back(worker, grant.token, (0, 1), reason="unprepared")
    assert world.outcomes(client) == dict.fromkeys(range(5), "unloadable")
    (message,) = world.got(client, TasksFailed)
    assert "3 times in a row, at last by worker w1 on h" in message.failure.text
    world.wait(1.0)
    world.submit(client, 1, 1)
    assert len(world.grants(worker)) == 1, "what is submitted later has a chance of its own"


def test_what_comes_back_at_once_counts_once() -> None:
    world = SchedulerWorld(unprepared_limit=3, rest_s=1.0)
    workers, client = [world.worker(2), world.worker(2)], world.client()
    world.submit(client, 0, 4)
    for peer, grant in [(each, grant) for each in workers for grant in world.grants(each)]:
        world.give_back(peer, grant.token, (grant.start, grant.stop), reason="unprepared")
    world.wait(1.0)
    assert sum(len(world.grants(peer)) for peer in workers) == 4


def test_only_times_in_a_row_count() -> None:
    world = SchedulerWorld(unprepared_limit=3, rest_s=1.0)
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 2)
    unprepared(world, worker, 2)
    world.settle(worker, world.grants(worker)[0].token, (0, 1))
    unprepared(world, worker, 2)
    assert len(world.grants(worker)) == 1


def test_a_session_with_a_running_task_does_not_fail() -> None:
    world = SchedulerWorld(unprepared_limit=3, rest_s=1.0)
    good, client = world.worker(), world.client()
    world.submit(client, 0, 2)
    world.running(good, (world.grants(good)[0].token, 0))
    bad = world.worker()
    unprepared(world, bad, 7)
    assert len(world.grants(bad)) == 1
