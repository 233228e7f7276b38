from __future__ import annotations

from worker_world import SESSION, World

from distcomp.core.worker_crew import Process, RunningRange
from distcomp.core.worker_leases import Lease
from distcomp.worker_protocol import CancelLease, GrantLease


def test_of_two_idle_processes_one_wakes_and_one_rests() -> None:
    world = World(slots=2)
    for _ in range(2):
        world.grant(1)
    for place in range(2):
        world.begin(place)
        world.tell(place)
    world.grant(1)
    assert len(world.slots) == 2
    assert sorted(len(slot.runs) for slot in world.slots.values()) == [0, 1]
    world.grant(1)
    assert [len(slot.runs) for slot in world.slots.values()] == [1, 1]


def test_what_lies_before_a_run_is_not_ahead_of_it() -> None:
    grant = GrantLease(
        (7, 1), (SESSION, 1), b"f" * 32, 0, 9, 0, b"chunk", 1, 0.0, 0, urgent=False, eager=False
    )  # type: ignore[arg-type]  # identities are bytes
    lease = Lease(grant, 1, 0.0)
    lease.answer(1, 5)
    run = RunningRange(Process(1, (SESSION, b""), 0), 1, lease, 5, 9)  # type: ignore[arg-type]
    assert run.ahead() == 3


def test_the_end_of_what_waits_leaves_alone_what_runs() -> None:
    world = World()
    token = world.grant(10)
    world.begin()
    world.grant(1, urgent=True)
    world.receive(CancelLease(token, ((5, 6),)))
    assert world.returned() == [(token, ((5, 6),), "cancelled")]
    assert world.slots[world.slot()].runs[0].stop == 1


def test_what_has_just_come_to_wait_stays() -> None:
    world = World()
    world.grant(1)
    world.begin()
    world.wait(0.045)
    behind = world.grant(1)
    world.wait(0.01)
    assert world.returned() == []
    world.wait(0.1)
    assert world.returned() == [(behind, ((0, 1),), "waited")]
