from __future__ import annotations

from typing import Any

import pytest
from scheduler_world import SchedulerWorld, versions

from distcomp.protocol import OpenSession, Refused, Submit, WatchStatus
from distcomp.rows import TaskOptions
from distcomp.worker_protocol import AckSettles, GrantLease, LeaseSettled, RegisterWorker

SUBMIT = Submit((b"s" * 16, 0), b"f" * 32, TaskOptions(), 0, 1, b"", True)
REGISTER = RegisterWorker(b"w" * 16, "w", "h", 1, 1, versions("3.11.4"), ())


def test_a_first_message_out_of_place_ends_the_connection() -> None:
    world = SchedulerWorld()
    for role in ("client", "admin"):
        peer = world.connect(role)
        world.say(peer, SUBMIT)
        assert world.got(peer, Refused)[0].code == "malformed"
        assert world.closed == [peer]
    stranger = world.connect("client")
    world.say(stranger, AckSettles(()))
    assert world.got(stranger, Refused)[0].code == "malformed"
    assert world.books.counts.nonsense == 3


@pytest.mark.parametrize(
    ("role", "message", "needed"),
    [
        ("client", REGISTER, "worker"),
        ("admin", REGISTER, "worker"),
        ("worker", OpenSession(b"s" * 16, versions("3.11.4"), "h", 1, "p", b"", False), "client"),
        ("worker", WatchStatus(0.0), "observer"),
        ("observer", SUBMIT, "client"),
        ("stranger", SUBMIT, "client"),
    ],
)
def test_a_connection_of_the_wrong_role_hears_which_it_needs(role: str, message: Any, needed: str) -> None:
    world = SchedulerWorld()
    peer = world.connect(role)
    world.say(peer, message)
    (refused,) = world.got(peer, Refused)
    assert refused.code == "role"
    assert f"this connection has the role {role}: use a join string for the role {needed}" in refused.text
    assert world.closed == [peer]
    assert world.books.counts.nonsense == 0


def test_nonsense_within_a_message_ends_the_connection() -> None:
    world = SchedulerWorld()
    worker = world.worker()
    world.say(worker, LeaseSettled(1, (7, 1), ((3, 3, b""),), (), 0.0, 0))
    assert world.got(worker, Refused)[0].code == "malformed"
    world.settle(worker, (7, 1), (0, 1))
    assert world.got(worker, AckSettles) == []


def test_strangers_and_the_gone_are_ignored() -> None:
    world = SchedulerWorld()
    world.say(44, RegisterWorker(b"w" * 16, "w", "h", 1, 1, versions("3.11.4"), ()))
    world.cut(44)
    observer = world.connect("observer")
    world.cut(observer)
    assert world.books.links == {}
    assert world.books.workers == {}


def test_settles_are_acknowledged_once_a_turn() -> None:
    world = SchedulerWorld()
    worker = world.worker()
    world.say(worker, *(LeaseSettled(seq, (7, 99), (), (), 0.0, 0) for seq in (4, 5)))
    assert world.got(worker, AckSettles) == [AckSettles((4, 5))]


def test_time_is_measured_for_slots_and_for_those_that_idle_though_tasks_wait() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(2), world.client()
    world.teach(worker, client, 1e-5)
    world.submit(client, 0, 6)
    world.books.timers.run(world.now)
    (first, second, *_) = world.got(worker, GrantLease)
    world.wait(1.0)
    usage = world.books.usage
    usage.add_up(world.now)
    assert usage.slot_s == 2.0
    assert usage.idle_while_queued_s == 0.0
    world.settle(worker, first.token, (first.start, first.stop), busy_s=1e-5)
    world.settle(worker, second.token, (second.start, second.stop), busy_s=1e-5)
    world.wait(1.0)
    usage.add_up(world.now)
    assert (usage.uptime_s, usage.slot_s) == (2.0, 4.0)


def test_a_slot_that_comes_when_all_is_leased_idles_although_tasks_wait() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.teach(worker, client, 1e-5)
    world.submit(client, 0, 6)
    world.worker(2)
    world.wait(1.0)
    usage = world.books.usage
    usage.add_up(world.now)
    assert (usage.uptime_s, usage.slot_s, usage.idle_while_queued_s) == (1.0, 3.0, 2.0)


def test_the_turn_asks_to_be_woken_for_the_first_of_all_that_is_due() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    assert world.wake_at is None
    world.cut(worker)
    assert world.wake_at == world.now + 2.0
    world.cut(client)
    assert world.wake_at == world.now + 2.0
