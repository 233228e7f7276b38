from __future__ import annotations

from scheduler_world import FUNCTION, SchedulerWorld

from distcomp.protocol import CancelTasks, Refused, Submit, TasksSettled
from distcomp.rows import TaskOptions
from distcomp.worker_protocol import CancelLease


def test_pending_and_leased_tasks_are_settled_at_once() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 10)
    (grant,) = world.grants(worker)
    world.cancel(client, 0)
    assert world.got(worker, CancelLease) == [CancelLease(grant.token, ((0, 1),))]
    assert world.got(client, TasksSettled) == []
    assert world.books.counts.cancelled == 10
    assert world.books.sessions[client.to_bytes(16, "big")].arrays == {}


def test_spans_name_what_is_cancelled() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 1e-6)
    world.submit(client, 0, 40)
    first, second = world.grants(worker)
    world.cancel(client, 0, (first.stop - 2, first.stop + 2), (2, 4), (90, 95))
    assert world.got(worker, CancelLease) == [
        CancelLease(first.token, ((2, 4), (first.stop - 2, first.stop))),
        CancelLease(second.token, ((second.start, second.start + 2),)),
    ]
    world.cancel(client, 0, (0, first.stop))
    world.cancel(client, 0, (0, first.stop))
    assert world.got(worker, CancelLease) == []


def test_an_empty_array_and_an_unknown_one_can_be_cancelled() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 0, last=False)
    world.cancel(client, 0)
    world.cancel(client, 77)
    world.say(client, CancelTasks((b"nobody" + bytes(10), 0), ()))
    assert world.books.sessions[client.to_bytes(16, "big")].arrays == {}


def test_only_the_owner_and_the_admin_may_cancel() -> None:
    world = SchedulerWorld()
    ann, bob = world.client("ann"), world.client("bob")
    world.submit(ann, 0, 1)
    world.cancel(bob, 0, session=ann)
    assert world.got(bob, Refused)[0].code == "role"
    admin = world.connect("admin", "root")
    world.cancel(admin, 0, session=ann)
    assert world.outcomes(ann) == {0: "cancelled"}


def test_another_session_of_the_owner_may_cancel_and_the_first_is_told() -> None:
    world = SchedulerWorld()
    first, second = world.client("ann"), world.client("ann")
    world.submit(first, 0, 3)
    world.cancel(second, 0, (1, 2), session=first)
    assert world.outcomes(first) == {1: "cancelled"}


def test_pending_tasks_that_are_not_queued_can_be_cancelled() -> None:
    world = SchedulerWorld()
    client = world.connect("client", "ann")
    world.open(client)
    world.submit(client, 0, 10, TaskOptions())
    world.cancel(client, 0, (0, 3), (5, 9), (20, 30))
    assert world.books.counts.cancelled == 7


def test_a_cancelled_lease_that_settles_late_finishes_nothing_twice() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    world.cancel(client, 0)
    world.settle(worker, grant.token, (0, 1))
    assert world.books.counts.late == 1
    assert world.books.leases == {}


# --- only what no lease holds ---------------------------------------------------------------------


def test_what_no_lease_holds_is_cancelled_after_the_placement_pass() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    session = client.to_bytes(16, "big")
    submit = Submit((session, 0), FUNCTION, TaskOptions(), 0, 5, b"args", last=True)
    world.say(client, submit, CancelTasks((session, 0), (), pending_only=True))
    (grant,) = world.grants(worker)
    assert (grant.start, grant.stop) == (0, 1)
    assert world.got(worker, CancelLease) == []
    assert world.outcomes(client) == dict.fromkeys(range(1, 5), "cancelled")
    world.settle(worker, grant.token, (0, 1))
    assert world.books.sessions[session].arrays == {}


def test_spans_name_what_is_cancelled_unless_it_is_leased() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    session = client.to_bytes(16, "big")
    world.submit(client, 0, 6)
    assert len(world.grants(worker)) == 1
    world.say(client, CancelTasks((session, 0), ((0, 2), (4, 9)), pending_only=True))
    assert world.outcomes(client) == {1: "cancelled", 4: "cancelled", 5: "cancelled"}
    assert world.books.sessions[session].arrays[0].pending.count == 2
    assert world.books.counts.cancelled == 3


def test_tasks_that_wait_to_be_tried_again_are_cancelled() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    session = client.to_bytes(16, "big")
    world.submit(client, 0, 1, TaskOptions(retries=1, retry_delay_s=5.0))
    (grant,) = world.grants(worker)
    world.fail(worker, grant.token, 0, "exception")
    world.say(client, CancelTasks((session, 0), (), pending_only=True))
    assert world.outcomes(client) == {0: "cancelled"}
    assert world.books.sessions[session].arrays == {}


def test_an_array_that_ended_in_the_same_turn_is_not_cancelled_again() -> None:
    world = SchedulerWorld()
    client = world.client()
    session = client.to_bytes(16, "big")
    world.submit(client, 0, 3)
    world.state.receive(client, CancelTasks((session, 0), (), pending_only=True), world.now)
    world.say(client, CancelTasks((session, 0), ()))
    assert world.outcomes(client) == {}
    assert world.books.counts.cancelled == 3


def test_an_array_may_be_without_tasks_when_its_pending_ones_are_cancelled() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 0, last=False)
    world.say(client, CancelTasks((client.to_bytes(16, "big"), 0), (), pending_only=True))
    assert world.outcomes(client) == {}
    assert len(world.books.sessions[client.to_bytes(16, "big")].arrays) == 1
