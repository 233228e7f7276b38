from __future__ import annotations

from worker_world import OTHER, World

from distcomp.worker_protocol import RegisterWorker, SetSlots, SlotLent, SlotsSet


class Resized(World):
    def resize(self, slots: int) -> None:
        self.receive(SetSlots(slots))
        assert self.take(SlotsSet)[-1] == SlotsSet(slots, self.settings.max_lent_per_slot * slots)

    @property
    def running(self) -> list[int]:
        """How many runs each process has that were not taken back whole."""
        return [sum(run.stop > run.start for run in slot.runs) for slot in self.slots.values()]


def test_new_slots_take_what_waits() -> None:
    world = Resized(1)
    world.grant(9)
    world.begin()
    behind = world.grant(1)
    other = world.grant(1, array=(OTHER, 1))
    world.resize(3)
    assert world.running == [1, 1, 1]
    assert world.returned() == []
    world.begin(1)
    world.tell(1)
    world.begin(2)
    world.tell(2)
    assert {token for token, _, _ in world.settled()} == {behind, other}


def test_what_runs_beyond_the_slots_ends_and_the_rest_of_it_goes_back() -> None:
    world = Resized(2)
    first, second = world.grant(5), world.grant(5)
    world.begin(0)
    world.begin(1)
    behind, waiting = world.grant(1), world.grant(1, array=(OTHER, 1))
    world.resize(1)
    assert sorted(world.returned()) == sorted(
        [(second, ((1, 5),), "resized"), (waiting, ((0, 1),), "resized")]
    )
    assert world.running == [2, 1]
    world.tell(1)
    assert world.settled() == [(second, [(0, 1)], [])]
    assert world.running == [2]
    assert not any(slot.killed or slot.interrupted for slot in world.slots.values())
    world.tell(0)
    world.tell(0)
    assert world.settled() == [(first, [(0, 5)], []), (behind, [(0, 1)], [])]


def test_nothing_comes_behind_a_run_whose_slot_is_no_more() -> None:
    world = Resized(2)
    world.grant(9)
    world.grant(2)
    world.begin(0)
    world.begin(1)
    world.resize(1)
    world.grant(1)
    assert world.running == [2, 1]
    world.grant(1)
    assert world.running == [2, 1], "it waits for the one slot"
    world.tell(1)
    assert world.running == [2]


def test_idle_processes_leave_with_their_slots() -> None:
    world = Resized(2)
    world.grant(1)
    world.grant(1)
    world.tell(0)
    world.tell(1)
    assert len(world.slots) == 2
    world.resize(1)
    assert len(world.slots) == 1
    world.resize(4)
    for _ in range(4):
        world.grant(9)
    assert world.running == [1, 1, 1, 1]


def test_a_task_that_lends_its_slot_is_no_surplus() -> None:
    world = Resized(2)
    parent = world.grant(3)
    world.begin()
    world.receive(SlotLent(parent, 0, lent=True))
    world.returned()
    world.grant(4)
    world.grant(4)
    world.begin(1)
    world.begin(2)
    world.resize(1)
    ((_, spans, reason),) = world.returned()
    assert (spans, reason) == (((1, 4),), "resized")


def test_the_number_is_said_at_the_next_registration() -> None:
    world = Resized(1)
    world.resize(6)
    world.disconnect()
    world.connect()
    registered = world.take(RegisterWorker)[-1]
    assert (registered.slots, registered.max_lent) == (6, 6 * world.settings.max_lent_per_slot)
