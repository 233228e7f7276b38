from __future__ import annotations

from scheduler_world import SchedulerWorld

from distcomp.protocol import (
    AckOutcomes,
    CloseSession,
    GaveNotice,
    MissingFunction,
    Refused,
    SessionOpened,
    TasksSettled,
)
from distcomp.rows import TaskOptions
from distcomp.worker_protocol import EndSession, WorkerLeft


def settled(world: SchedulerWorld, worker: int, client: int, array: int = 0) -> TasksSettled:
    world.submit(client, array, 1)
    world.settle(worker, world.grants(worker)[0].token, (0, 1))
    return world.got(client, TasksSettled)[0]


def test_outcomes_are_sent_again_until_they_are_acknowledged() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    outcome = settled(world, worker, client)
    world.cut(client)
    back = world.connect("client", "ann")
    world.open(back, session=client, resumes=True)
    assert world.got(back, TasksSettled) == [outcome]
    world.say(back, AckOutcomes((outcome.seq, 99)))
    assert world.books.held_bytes == 0


def test_a_resumed_session_hears_what_is_known_of_its_arrays() -> None:
    world = SchedulerWorld()
    client = world.connect("client", "ann")
    world.open(client)
    world.submit(client, 4, 7)
    second = world.connect("client", "ann")
    world.open(second, session=client)
    assert world.got(second, SessionOpened)[0].known == (((client.to_bytes(16, "big"), 4), 7),)
    assert len(world.got(second, MissingFunction)) == 1
    assert world.closed == [client]


def test_a_session_ends_when_its_client_stays_away() -> None:
    world = SchedulerWorld(result_retention_s=100.0)
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 3)
    world.cut(client)
    world.wait(60.0)
    assert len(world.books.sessions) == 1
    world.wait(40.0)
    assert world.got(worker, EndSession) == [EndSession(client.to_bytes(16, "big"))]
    assert world.books.sessions == {}
    back = world.connect("client", "ann")
    world.open(back, session=client, resumes=True)
    assert world.got(back, Refused)[0].code == "expired"


def test_a_client_that_came_back_in_time_is_not_expired() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.cut(client)
    world.wait(30.0)
    back = world.connect("client", "ann")
    world.open(back, session=client, resumes=True)
    world.wait(60.0)
    assert len(world.books.sessions) == 1


def test_detached_arrays_outlive_their_session() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 2, TaskOptions(detach=True))
    first = world.grants(worker)[0]
    world.submit(client, 1, 2)
    world.say(client, CloseSession())
    assert world.closed == [client]
    again = world.connect("client", "ann")
    world.open(again, session=client)
    assert world.got(again, Refused)[0].code == "expired"
    world.settle(worker, first.token, (0, 1))
    world.settle(worker, world.grants(worker)[0].token, (1, 2))
    assert world.books.sessions == {}
    assert len(world.got(worker, EndSession)) == 1


def test_a_detached_array_that_nobody_can_go_on_with_ends_with_what_it_has() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1, TaskOptions(detach=True), last=False)
    world.settle(worker, world.grants(worker)[0].token, (0, 1))
    world.submit(client, 1, 1, TaskOptions(detach=True), last=False)
    (lease,) = world.grants(worker)
    world.say(client, CloseSession())
    world.settle(worker, lease.token, (0, 1))
    assert world.books.sessions == {}


def test_a_detached_array_without_its_function_ends_with_its_session() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 1, TaskOptions(detach=True), function=b"?" * 32)
    world.say(client, CloseSession())
    assert world.books.sessions == {}


def test_a_closed_session_is_not_expired_again() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 1, TaskOptions(detach=True))
    world.cut(client)
    world.wait(60.0)
    session = world.books.sessions[client.to_bytes(16, "big")]
    assert session.left
    world.wait(60.0)
    assert session.arrays


def test_sessions_are_bounded_and_belong_to_their_owner() -> None:
    world = SchedulerWorld(max_sessions=1)
    client = world.client("ann")
    thief = world.connect("client", "bob")
    world.open(thief, session=client, resumes=True)
    assert world.got(thief, Refused)[0].code == "role"
    second = world.connect("client", "bob")
    world.open(second)
    assert world.got(second, Refused)[0].code == "full"


def test_a_python_version_has_to_be_one() -> None:
    world = SchedulerWorld()
    client = world.connect("client", "ann")
    world.open(client, python="snake")
    assert world.got(client, Refused)[0].code == "malformed"


def test_a_client_that_does_not_read_gets_nothing_more_run() -> None:
    world = SchedulerWorld(max_unread_bytes=1)
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 9)
    world.settle(worker, world.grants(worker)[0].token, (0, 1), busy_s=1.0)
    second = world.grants(worker)[0]
    world.submit(client, 1, 9)
    world.settle(worker, second.token, (1, 2), busy_s=1.0)
    (outcome,) = world.got(client, TasksSettled)
    assert world.grants(worker) == []
    world.submit(client, 2, 1, last=False)
    world.cancel(client, 2, (0, 1))
    world.say(client, AckOutcomes((1, outcome.seq)))
    assert len(world.grants(worker)) == 1


def test_a_session_that_does_not_read_can_expire() -> None:
    world = SchedulerWorld(max_unread_bytes=1)
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 9, TaskOptions(detach=True))
    world.settle(worker, world.grants(worker)[0].token, (0, 1), busy_s=1.0)
    world.settle(worker, world.grants(worker)[0].token, (1, 2), busy_s=1.0)
    world.cut(client)
    world.wait(60.0)
    assert world.books.paused
    world.wait(7 * 86400.0)
    assert world.books.sessions == world.books.paused == {}


def test_a_user_hears_once_that_nobody_fits() -> None:
    world = SchedulerWorld()
    client = world.client(python="3.12.1")
    world.submit(client, 0, 1)
    assert world.got(client, GaveNotice) == []
    world.worker(python="3.11.4")
    (notice,) = world.got(client, GaveNotice)
    assert "3.12" in notice.text
    assert "3.11" in notice.text
    world.submit(client, 1, 1)
    assert world.got(client, GaveNotice) == []


def test_a_user_hears_that_the_last_worker_that_fits_has_left() -> None:
    world = SchedulerWorld()
    fit, _, client, idle = world.worker(), world.worker(python="3.12.1"), world.client(), world.client()
    for array in range(2):
        world.submit(client, array, 1)
    world.say(fit, WorkerLeft())
    (notice,) = world.got(client, GaveNotice)
    assert "they need Python 3.11, the workers run Python 3.12" in notice.text
    assert world.got(idle, GaveNotice) == []
    world.submit(idle, 0, 1)
    assert len(world.got(idle, GaveNotice)) == 1


def test_a_user_hears_that_the_last_worker_that_fits_was_lost() -> None:
    world = SchedulerWorld()
    fit, client = world.worker(), world.client()
    world.worker(python="3.12.1")
    world.submit(client, 0, 1)
    world.cut(fit)
    assert world.got(client, GaveNotice) == []
    world.wait(2.0)
    assert len(world.got(client, GaveNotice)) == 1


def test_no_notice_when_a_worker_that_fits_comes() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 1)
    world.worker()
    assert world.got(client, GaveNotice) == []
    assert world.pool.unnoticed == {}


def test_an_owner_holds_slots_as_long_as_one_of_the_sessions_does() -> None:
    world = SchedulerWorld()
    worker, first, second = world.worker(2), world.client("ann"), world.client("ann")
    world.submit(first, 0, 1)
    (grant,) = world.grants(worker)
    world.submit(second, 0, 1)
    world.settle(worker, grant.token, (0, 1))
    owner = world.books.owners["ann"]
    assert (owner.holding, world.books.owners_holding) == (1, 1)


def test_a_resumed_session_with_its_function_is_not_asked_for_it() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 1)
    world.cut(client)
    back = world.connect("client", "ann")
    world.open(back, session=client, resumes=True)
    assert world.got(back, MissingFunction) == []


def test_what_is_not_queued_is_not_withheld_when_nobody_reads() -> None:
    world = SchedulerWorld(max_unread_bytes=1)
    worker, client = world.worker(), world.client()
    world.submit(client, 1, 1, function=b"?" * 32)
    world.submit(client, 0, 2)
    world.settle(worker, world.grants(worker)[0].token, (0, 1), busy_s=1.0)
    world.settle(worker, world.grants(worker)[0].token, (1, 2), busy_s=1.0)
    assert world.books.sessions[client.to_bytes(16, "big")].paused


def test_an_empty_session_is_forgotten_at_once() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.say(client, CloseSession())
    assert world.books.sessions == {}
