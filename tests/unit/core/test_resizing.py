from __future__ import annotations

from typing import Any

import pytest
from scheduler_world import SchedulerWorld

from distcomp.core import invariants
from distcomp.protocol import Refused, ResizeWorker, WatchStatus, WorkerResized
from distcomp.records import WorkerCame
from distcomp.worker_protocol import SetSlots, SlotsSet

NAME: Any = b"w" * 16


class Resizing(SchedulerWorld):
    """A scheduler with one worker, a client, and an admin."""

    def __init__(self, slots: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.one: Any = self.worker(slots, name=NAME)
        self.ann = self.client()
        self.admin = self.connect("admin")

    @property
    def entry(self) -> Any:
        return self.books.workers[NAME]

    def resize(self, slots: int, name: Any = NAME) -> str:
        """Ask for so many slots; gives the code of the answer."""
        self.say(self.admin, ResizeWorker(5, name, slots))
        (answer,) = self.got(self.admin, WorkerResized)
        assert answer.request == 5
        return str(answer.code)

    def has(self, slots: int) -> None:
        """The worker has so many."""
        self.say(self.one, SlotsSet(slots, 4 * slots))


def test_new_slots_get_work_as_soon_as_the_worker_has_them() -> None:
    world = Resizing(1)
    world.submit(world.ann, 0, 9)
    assert len(world.entry.leases) == 1
    assert world.resize(3) == "asked"
    assert world.got(world.one, SetSlots) == [SetSlots(3)]
    assert (world.entry.record.slots, world.pool.roster.slots) == (1, 1)
    world.has(3)
    assert len(world.grants(world.one)) == 2
    assert (world.entry.slots, world.entry.record.slots, world.entry.record.max_lent) == (3, 3, 12)
    assert (world.entry.wanted, len(world.entry.slot_busy_s), len(world.entry.slot_settled)) == (0, 3, 3)


def test_what_waited_begins_at_new_slots() -> None:
    world = Resizing(1)
    world.teach(world.one, world.ann, 0.01)
    world.submit(world.ann, 0, 2)
    assert len(world.entry.waiting) == 1
    world.resize(4)
    world.has(4)
    assert not world.entry.waiting
    assert world.pool.roster.idle == 2


def test_fewer_slots_count_at_once() -> None:
    world = Resizing(3)
    world.submit(world.ann, 0, 9)
    grants = world.grants(world.one)
    assert len(grants) == 3
    world.resize(1)
    assert world.got(world.one, SetSlots) == [SetSlots(1)]
    assert (world.pool.roster.slots, world.pool.roster.idle) == (1, 0)
    for seq, grant in enumerate(grants[:2]):
        world.settle(world.one, grant.token, (grant.start, grant.stop), busy_s=5.0, seq=seq)
        assert not world.grants(world.one), "others still run"
    world.has(1)
    assert len(world.entry.slot_busy_s) == 1
    world.settle(world.one, grants[2].token, (grants[2].start, grants[2].stop), busy_s=5.0, seq=9, slot=2)
    assert len(world.grants(world.one)) == 1
    assert world.entry.settled == 3


def test_only_the_last_wish_counts() -> None:
    world = Resizing(2)
    world.resize(8)
    world.resize(1)
    world.has(8)
    assert (world.entry.slots, world.entry.wanted) == (1, 1)
    world.has(1)
    assert (world.entry.slots, world.entry.wanted) == (1, 0)
    world.has(5)
    assert world.entry.slots == 1, "nobody asked for that"


def test_a_worker_that_lost_its_connection_first_is_asked_again() -> None:
    world = Resizing(4)
    world.resize(2)
    world.cut(world.one)
    assert world.resize(3) == "away"
    again = world.connect("worker")
    world.register(again, 4, name=NAME)
    assert world.got(again, SetSlots) == [SetSlots(2)]
    assert (world.entry.slots, world.pool.roster.slots) == (2, 2)
    world.say(again, SlotsSet(2, 8))
    world.cut(again)
    last = world.connect("worker")
    world.register(last, 2, name=NAME)
    assert world.got(last, SetSlots) == []
    assert world.pool.roster.slots == 2


def test_an_unknown_worker_is_said_so() -> None:
    world = Resizing(1)
    assert world.resize(3, b"x" * 16) == "unknown"


def test_an_admin_that_watches_may_ask() -> None:
    world = Resizing(1)
    world.say(world.admin, WatchStatus(0.0))
    assert world.resize(2) == "asked"


@pytest.mark.parametrize("role", ["client", "observer", "worker"])
def test_nobody_else_may_ask(role: str) -> None:
    world = Resizing(1)
    peer = world.connect(role)
    world.say(peer, ResizeWorker(1, NAME, 4))
    (refused,) = world.got(peer, Refused)
    assert refused.code == "role"
    assert "the role admin" in refused.text
    assert world.entry.wanted == 0


def test_the_new_number_is_recorded() -> None:
    world = Resizing(1)
    world.books.journalled = True
    world.resize(4)
    world.state.receive(world.one, SlotsSet(4, 16), world.now)
    effects = world.state.take_effects(world.now)
    invariants.check(world.state)
    (record,) = [each for each in effects.records if isinstance(each, WorkerCame)]
    assert (record.worker, record.slots) == (NAME, 4)
