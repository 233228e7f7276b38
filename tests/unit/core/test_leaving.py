from __future__ import annotations

import pytest
from scheduler_world import BLOB, FUNCTION, SchedulerWorld, versions

from distcomp.core.image import Image
from distcomp.core.recovery import restore
from distcomp.core.runs import unknown
from distcomp.core.scheduler_state import SchedulerState
from distcomp.protocol import (
    AckOutcomes,
    CloseSession,
    DefineFunction,
    OpenSession,
    Refused,
    SessionOpened,
    Submit,
    SubmitRefused,
    TasksFailed,
    TasksSettled,
)
from distcomp.rows import TaskOptions
from distcomp.worker_protocol import BindTask, CancelLease

DETACHED = TaskOptions(detach=True)


def name(peer: int) -> bytes:
    return peer.to_bytes(16, "big")


def come_back(world: SchedulerWorld, client: int) -> int:
    back = world.connect("client", "ann")
    world.open(back, session=client, resumes=True)
    return back


def test_a_client_that_was_away_for_long_hears_what_was_cancelled_and_gets_the_rest() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 3)
    (grant,) = world.grants(worker)
    world.cut(client)
    world.settle(worker, grant.token, (0, 1), busy_s=1.0)
    world.wait(60.0)
    world.wait(3600.0)
    back = come_back(world, client)
    assert world.outcomes(back) == {0: "ok", 1: "expired", 2: "expired"}
    assert world.got(back, SessionOpened)[0].known == ()
    (failed,) = world.got(back, TasksFailed)
    assert "had been away for 60 s" in failed.failure.text
    assert world.books.left == {}
    world.submit(back, 1, 1, session=client)
    assert world.pool.queue.pending == 1


def test_what_is_detached_and_lacks_its_modules_ends_with_the_grace() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 2, DETACHED, bundle=b"b" * 32)
    world.cut(client)
    world.wait(60.0)
    assert world.outcomes(come_back(world, client)) == {0: "expired", 1: "expired"}


def test_what_comes_late_to_an_array_that_was_cancelled_is_refused() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 3, last=False)
    world.submit(client, 1, 3, DETACHED, last=False)
    world.cut(client)
    world.wait(60.0)
    back = come_back(world, client)
    world.submit(back, 0, 3, session=client)
    assert world.got(back, SubmitRefused) == []
    for array, options in ((0, TaskOptions()), (1, DETACHED)):
        world.submit(back, array, 3, options, session=client, start=3)
        assert [message.code for message in world.got(back, SubmitRefused)] == ["expired"]


def test_millions_of_tasks_expire_in_one_message() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 5_000_000)
    world.cut(client)
    world.wait(60.0)
    (outcome,) = world.books.sessions[name(client)].outbox.by_seq.values()
    assert outcome.message is not None
    assert outcome.message[2] == ((0, 5_000_000),)
    assert world.books.unread_bytes < 1000


def test_detached_arrays_and_results_are_kept_for_the_retention_time() -> None:
    world = SchedulerWorld(result_retention_s=100.0)
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 3, DETACHED)
    world.cut(client)
    world.wait(60.0)
    (token,) = world.books.leases
    world.settle(worker, token, (0, 1), busy_s=1.0)
    world.wait(39.0)
    assert len(world.books.sessions) == 1
    world.wait(1.0)
    assert world.books.sessions == world.books.left == {}
    assert world.books.held_bytes == world.books.unread_bytes == 0
    back = come_back(world, client)
    assert world.got(back, Refused)[0].code == "expired"


def test_a_session_with_nothing_left_is_forgotten_after_the_grace() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1)
    world.settle(worker, world.grants(worker)[0].token, (0, 1))
    world.say(client, AckOutcomes((world.got(client, TasksSettled)[0].seq,)))
    world.cut(client)
    world.wait(60.0)
    assert world.books.sessions == {}


def test_who_came_back_and_left_again_is_kept_anew() -> None:
    world = SchedulerWorld(result_retention_s=100.0)
    client = world.client()
    world.submit(client, 0, 1, DETACHED)
    world.cut(client)
    world.wait(90.0)
    world.cut(come_back(world, client))
    world.wait(90.0)
    assert len(world.books.sessions) == 1
    world.wait(10.0)
    assert world.books.sessions == {}


def test_the_longest_away_makes_room_for_a_new_session() -> None:
    world = SchedulerWorld(max_sessions=2)
    for _ in range(2):
        client = world.client()
        world.submit(client, 0, 1, DETACHED)
        world.cut(client)
        world.wait(1.0)
    new = world.connect("client", "bob")
    world.open(new)
    assert world.got(new, Refused)[0].code == "full", "both may come back any moment"
    world.wait(60.0)
    new = world.connect("client", "bob")
    world.open(new)
    assert len(world.got(new, SessionOpened)) == 1
    assert name(client - 1) not in world.books.sessions
    assert name(client) in world.books.sessions


@pytest.mark.parametrize("waits", [True, False])
def test_a_run_makes_room_only_when_all_of_it_was_received(*, waits: bool) -> None:
    world = SchedulerWorld(max_sessions=1)
    client = world.client()
    session = world.books.sessions[name(client)]
    session.run = "fit"
    world.books.runs["ann", "fit"] = session
    if waits:
        world.submit(client, 0, 1, DETACHED)
    world.cut(client)
    world.wait(60.0)
    new = world.connect("client", "bob")
    world.open(new)
    assert [refused.code for refused in world.got(new, Refused)] == ["full"] * waits
    assert len(world.got(new, SessionOpened)) == (not waits)
    told = "was let go of, as all of its results had been received, 0 s ago"
    assert (told in unknown(world.books, "ann", "fit", world.now)) is not waits


def test_restarts_do_not_prolong_the_retention() -> None:
    world = SchedulerWorld(result_retention_s=100.0)
    world.books.journalled = True
    world.books.wall_offset_s = 1000.0
    client = world.connect("client", "ann")
    opening = OpenSession(b"2" * 16, versions("3.11.4"), "h", 1, "p", b"", resumes=False)
    submit = Submit((b"2" * 16, 0), FUNCTION, DETACHED, 0, 1, b"a", last=True)
    for message in (opening, DefineFunction(FUNCTION, "f", BLOB), submit):
        world.state.receive(client, message, world.now)
    world.state.disconnect(client, world.now)
    image = Image()
    image.replay(world.state.take_records().records)
    image.end()
    state = SchedulerState(world.books.settings, 8, "c", auth=True, wall_offset_s=1150.0)
    restore(state.books, image, 10.0)
    (session,) = state.books.sessions.values()
    assert session.away_since == -50.0
    state.tick(69.0)
    assert len(state.books.sessions) == 1
    state.tick(70.0)
    assert state.books.sessions == {}


def test_the_session_of_a_task_ends_after_the_grace() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(name=b"w" * 16, bind_key=b"key"), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    child = world.connect("worker")
    world.say(child, BindTask(b"w" * 16, b"key", grant.token, 0))
    world.open(child)
    world.submit(child, 0, 1)
    world.cut(child)
    world.wait(60.0)
    assert name(child) not in world.books.sessions


def test_nobody_is_told_of_the_end_of_what_a_closed_session_left() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 3, DETACHED)
    world.say(client, CloseSession())
    admin = world.connect("admin", "root")
    world.cancel(admin, 0, session=client)
    assert world.books.counts.failed == 3
    assert world.books.unread_bytes == 0
    assert world.got(worker, CancelLease) != []


def test_an_array_that_was_cancelled_before_goes_with_its_session() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 3, last=False)
    world.cancel(client, 0, (0, 3))
    world.cut(client)
    world.wait(60.0)
    assert world.books.sessions == {}
