from __future__ import annotations

from typing import Any

from scheduler_world import SchedulerWorld

from distcomp.protocol import StatusReported, WatchStatus, codec
from distcomp.worker_protocol import WorkerDraining


def watch(world: SchedulerWorld, role: str = "observer", owner: str = "eve", interval_s: float = 1.0) -> int:
    peer = world.connect(role, owner)
    world.say(peer, WatchStatus(interval_s))
    return peer


def report(world: SchedulerWorld, peer: int) -> Any:
    (message,) = world.got(peer, StatusReported)
    return message


def test_the_first_report_is_whole() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(2), world.client()
    world.submit(client, 0, 5)
    world.running(worker, (world.grants(worker)[0].token, 0))
    world.wait(3.0)
    observer = watch(world)
    whole = report(world, observer)
    assert whole.whole
    (row,) = whole.workers
    assert (row.slots, row.busy, row.leased, row.state, row.unfit) == (2, 2, 2, "ready", "")
    assert row.running[0].running_s == 1.0
    (array,) = whole.arrays
    assert (array.tasks, array.pending, array.leased, array.age_s) == (5, 3, 2, 3.0)
    totals = whole.totals
    assert (totals.pending, totals.leased, totals.busy, totals.slots) == (3, 2, 2, 2)
    assert totals.slot_s == 6.0
    assert codec.decode(codec.frame([codec.pack(whole)])[4:]) == [whole]


def test_later_reports_hold_what_changed() -> None:
    world = SchedulerWorld()
    worker, other, client = world.worker(), world.worker(), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    observer = watch(world)
    world.wait(1.0)
    assert not report(world, observer).whole
    world.wait(1.0)
    assert report(world, observer).workers == ()
    world.settle(worker, grant.token, (0, 1))
    world.say(other, WorkerDraining())
    world.wait(1.0)
    change = report(world, observer)
    assert [(row.name, row.state) for row in change.workers] == [("w1", "ready"), ("w2", "draining")]
    assert [array[1] for array in change.arrays_gone] == [0]
    world.cut(other)
    world.wait(1.0)
    assert [row.state for row in report(world, observer).workers] == ["away"]
    world.wait(1.0)
    world.wait(1.0)
    assert world.books.workers.keys() == {(1).to_bytes(16, "big")}


def test_workers_that_went_are_named() -> None:
    world = SchedulerWorld()
    worker = world.worker()
    observer = watch(world)
    world.cut(worker)
    world.wait(2.0)
    world.wait(1.0)
    gone = [message.workers_gone for message in world.got(observer, StatusReported)]
    assert gone in ([((1).to_bytes(16, "big"),)], [()])


def test_a_resting_worker_and_an_unfit_one_are_told() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.worker(python="3.12.1")
    world.submit(client, 0, 1)
    world.give_back(worker, world.grants(worker)[0].token, (0, 1), reason="unprepared")
    rows = report(world, watch(world)).workers
    assert [row.state for row in rows] == ["resting", "ready"]
    assert rows[1].unfit == "runs Python 3.12, the clients run 3.11"


def test_a_client_sees_the_work_of_its_owner() -> None:
    world = SchedulerWorld()
    ann, bob = world.client("ann"), world.client("bob")
    world.submit(ann, 0, 1)
    world.say(bob, WatchStatus(0.0))
    assert report(world, bob).arrays == ()
    world.say(ann, WatchStatus(0.0))
    assert len(report(world, ann).arrays) == 1
    assert len(report(world, watch(world, "admin")).arrays) == 1


def test_without_an_interval_there_is_one_report() -> None:
    world = SchedulerWorld()
    observer = watch(world, interval_s=0.0)
    world.wait(100.0)
    assert world.got(observer, StatusReported) == []


def test_a_second_watch_takes_the_place_of_the_first_and_ends_with_the_link() -> None:
    world = SchedulerWorld()
    observer = watch(world)
    world.say(observer, WatchStatus(1.0))
    world.wait(1.0)
    assert len(world.got(observer, StatusReported)) == 1
    world.cut(observer)
    world.wait(1.0)
    assert world.got(observer, StatusReported) == []
    assert len(world.books.timers) == 0


def test_the_journal_is_reported_as_its_program_measures_it() -> None:
    world = SchedulerWorld()
    observer = watch(world, interval_s=0.0)
    before = report(world, observer)
    assert (before.journal, before.journal_bytes, before.committed_ago_s, before.shut) == ("off", 0, 0.0, "")
    world.books.journal, world.books.journalled = "/j", True
    world.state.journal_measured(1 << 20, world.now)
    world.state.shut("its disk is full")
    world.state.lack_room({3: 1000, 4: 500})
    world.wait(2.0)
    world.say(observer, WatchStatus(0.0))
    after = report(world, observer)
    assert (after.journal, after.journal_bytes, after.shut) == ("/j", 1 << 20, "its disk is full")
    assert after.committed_ago_s == 2.0
    assert after.no_room.startswith("1,500 bytes of arguments or results do not fit")


def test_large_pictures_come_in_parts_that_fit() -> None:
    world = SchedulerWorld()
    for _ in range(90):
        world.worker(1500)
    client = world.client()
    for array in range(150):
        world.submit(client, array, 1, last=False)
    messages = []
    peer = world.connect("observer")
    world.say(peer, WatchStatus(0.0))
    messages = world.got(peer, StatusReported)
    assert [message.whole for message in messages] == [True] + [False] * (len(messages) - 1)
    assert len(messages) > 2
    assert sum(len(message.workers) for message in messages) == 90
    assert sum(len(message.arrays) for message in messages) == 150
    assert all(len(codec.pack(message)) < 1 << 20 for message in messages)


def test_what_has_settled_runs_no_more() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(2), world.client()
    world.teach(worker, client, 1e-6)
    world.submit(client, 0, 40)
    first, second, *_ = world.grants(worker)
    world.running(worker, (first.token, 3), (second.token, second.start))
    world.settle(worker, first.token, (0, 4))
    (row,) = report(world, watch(world)).workers
    assert [task[:2] for task in row.running] == [(second.token, second.start)]
    world.settle(worker, second.token, (second.start, second.stop))
    (row,) = report(world, watch(world)).workers
    assert row.running == ()
