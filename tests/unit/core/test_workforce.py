from __future__ import annotations

from scheduler_world import PLAIN, SchedulerWorld

from distcomp.protocol import DefineFunction, Refused
from distcomp.rows import HeldLease, TaskOptions
from distcomp.worker_protocol import (
    CancelLease,
    DefineSession,
    EndSession,
    GrantLease,
    WorkerDraining,
    WorkerLeft,
    WorkerRegistered,
)

NAME = b"worker----------"


def with_lease(
    tasks: int = 1, options: TaskOptions = PLAIN, **settings: object
) -> tuple[SchedulerWorld, int, int, GrantLease]:
    world = SchedulerWorld(**settings)
    worker, client = world.worker(name=NAME), world.client()
    world.submit(client, 0, tasks, options)
    return world, worker, client, world.grants(worker)[0]


def test_a_worker_is_told_of_a_session_and_a_function_once() -> None:
    world, worker, client, grant = with_lease(2)
    kinds = [type(message) for message in world.sent[worker]]
    assert kinds.index(DefineSession) < kinds.index(DefineFunction) < kinds.index(GrantLease)
    world.settle(worker, grant.token, (0, 1))
    assert world.got(worker, DefineSession) == world.got(worker, DefineFunction) == []
    assert client


def test_what_a_worker_was_told_is_bounded() -> None:
    world, worker, _, grant = with_lease(2, max_unused_functions=1)
    entry = world.books.workers[NAME]
    del entry.functions[grant.function]
    entry.functions[b"x" * 32] = None
    world.settle(worker, grant.token, (0, 1))
    assert len(world.got(worker, DefineFunction)) == 1
    assert list(entry.functions) == [grant.function]


def test_leases_are_kept_over_a_short_cut() -> None:
    world, worker, client, grant = with_lease()
    world.cut(worker)
    world.wait(1.0)
    back = world.connect("worker")
    world.register(back, 1, name=NAME, leases=(HeldLease(grant.token, ((0, 1),)),))
    assert world.got(back, WorkerRegistered)[0].stale == ()
    world.wait(5.0)
    world.settle(back, grant.token, (0, 1))
    assert world.outcomes(client) == {0: "ok"}


def test_a_grant_that_died_in_the_wire_is_made_again_uncharged() -> None:
    world, worker, _, grant = with_lease(options=TaskOptions(max_attempts=1))
    world.cut(worker)
    back = world.connect("worker")
    world.register(back, 1, name=NAME)
    (again,) = world.grants(back)
    assert again.token != grant.token
    assert again.attempt == 1


def test_leases_that_only_the_worker_knows_are_stale() -> None:
    world = SchedulerWorld()
    peer = world.connect("worker")
    world.register(peer, 1, name=NAME, leases=(HeldLease((3, 3), ((0, 1),)),))
    assert world.got(peer, WorkerRegistered)[0].stale == ((3, 3),)


def test_a_cancel_that_the_worker_did_not_hear_is_said_again() -> None:
    world, worker, client, grant = with_lease()
    world.cut(worker)
    world.cancel(client, 0)
    back = world.connect("worker")
    world.register(back, 1, name=NAME, leases=(HeldLease(grant.token, ((0, 1),)),))
    assert world.got(back, CancelLease) == [CancelLease(grant.token, ((0, 1),))]


def test_a_second_connection_takes_the_place_of_the_first() -> None:
    world, worker, client, grant = with_lease()
    back = world.connect("worker")
    world.register(back, 3, name=NAME, leases=(HeldLease(grant.token, ((0, 1),)),))
    assert world.closed == [worker]
    world.cut(worker)
    world.wait(5.0)
    assert world.pool.roster.slots == 3
    world.settle(back, grant.token, (0, 1), slot=2)
    assert world.outcomes(client) == {0: "ok"}


def test_a_lost_worker_charges_only_what_ran() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(name=NAME), world.client()
    world.teach(worker, client, 1e-6)
    world.submit(client, 0, 20)
    grant = world.grants(worker)[0]
    world.running(worker, (grant.token, 3))
    world.cut(worker)
    world.wait(2.0)
    other = world.worker(10)
    attempts = {grant.start: grant.attempt for grant in world.grants(other)}
    assert attempts[3] == 2
    assert attempts[0] == 1
    assert NAME not in world.books.workers


def test_a_task_that_takes_its_worker_down_three_times_is_lost() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 1)
    for number in range(3):
        worker = world.worker(name=bytes([number]) * 16)
        world.running(worker, (world.grants(worker)[0].token, 0))
        world.cut(worker)
        world.wait(2.0)
    assert world.outcomes(client) == {0: "lost"}
    assert world.books.counts.lost == 1


def test_a_task_that_may_have_started_is_not_started_twice() -> None:
    world, worker, client, _ = with_lease(options=TaskOptions(max_attempts=1))
    world.cut(worker)
    world.wait(2.0)
    assert world.outcomes(client) == {0: "lost"}


def test_a_running_task_of_one_attempt_is_lost_with_its_worker() -> None:
    world, worker, client, grant = with_lease(options=TaskOptions(max_attempts=1))
    world.running(worker, (grant.token, 0))
    world.cut(worker)
    world.wait(2.0)
    assert world.outcomes(client) == {0: "lost"}


def test_a_draining_worker_gets_nothing_more() -> None:
    world, worker, client, grant = with_lease(2)
    world.say(worker, WorkerDraining(), WorkerDraining())
    world.settle(worker, grant.token, (0, 1))
    assert world.grants(worker) == []
    other = world.worker()
    assert len(world.grants(other)) == 1
    assert client


def test_a_worker_that_comes_draining_is_not_used() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(draining=True), world.client()
    world.submit(client, 0, 1)
    assert world.grants(worker) == []


def test_what_a_leaving_worker_never_got_is_pending_uncharged() -> None:
    world, worker, _, _ = with_lease(options=TaskOptions(max_attempts=1))
    world.say(worker, WorkerLeft())
    world.cut(worker)
    other = world.worker()
    assert world.grants(other)[0].attempt == 1


def test_the_number_of_workers_is_bounded() -> None:
    world = SchedulerWorld(max_workers=1)
    world.worker()
    assert world.got(world.worker(), Refused)[0].code == "full"


def test_a_rest_ends_only_for_those_that_are_still_there() -> None:
    world, worker, _, grant = with_lease()
    world.give_back(worker, grant.token, (0, 1), reason="unprepared")
    world.say(worker, WorkerDraining())
    world.wait(1.0)
    assert world.grants(worker) == []
    assert world.pool.roster.workers == 0


def test_a_worker_that_comes_back_hears_which_of_its_sessions_are_over() -> None:
    world, worker, client, grant = with_lease()
    session = client.to_bytes(16, "big")
    world.cut(worker)
    back = world.connect("worker")
    held = (HeldLease(grant.token, ((0, 1),)),)
    world.register(back, 1, name=NAME, leases=held, sessions=(session, b"over" * 4))
    assert world.got(back, EndSession) == [EndSession(b"over" * 4)]
    world.submit(client, 1, 1)
    world.settle(back, grant.token, (0, 1))
    assert world.got(back, DefineSession) == []


def test_a_worker_that_rests_already_is_left_alone() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(2), world.client()
    world.submit(client, 0, 2)
    first, second = world.grants(worker)
    world.give_back(worker, first.token, (0, 1), reason="unprepared")
    world.give_back(worker, second.token, (1, 2), reason="unprepared")
    assert len(world.books.timers) == 1
