from __future__ import annotations

import pytest
from scheduler_world import SchedulerWorld

from distcomp.core import invariants


def busy_world() -> SchedulerWorld:
    world = SchedulerWorld()
    worker, client = world.worker(2), world.client()
    world.submit(client, 0, 9)
    assert worker
    return world


@pytest.mark.parametrize(
    ("breakage", "law"),
    [
        (lambda b: setattr(next(iter(b.leases.values())).array, "settled", 7), "leased and settled"),
        (lambda b: next(iter(b.workers.values())).leases.clear(), "in its worker"),
        (lambda b: setattr(b.pools["3.11"], "leased", 5), "counts leased"),
        (lambda b: setattr(b, "chunk_bytes", 5), "chunk bytes"),
        (lambda b: setattr(b.pools["3.11"].queue, "pending", 1), "queue counts"),
        (lambda b: setattr(b.pools["3.11"].roster, "idle", 5), "counts idle"),
        (lambda b: setattr(next(iter(b.workers.values())), "load_s", 9.0), "load is"),
        (lambda b: setattr(b, "owners_holding", 9), "owners that hold"),
    ],
)
def test_a_broken_law_is_named(breakage: object, law: str) -> None:
    world = busy_world()
    breakage(world.books)
    with pytest.raises(AssertionError, match=law):
        invariants.check(world.state)


def test_a_slot_that_idles_while_a_task_waits_is_named() -> None:
    world = busy_world()
    world.pool.roster.idle = 1
    with pytest.raises(AssertionError, match="no slot idles"):
        invariants.check_placed(world.state)


def test_a_law_is_held_for_tasks_with_a_past_and_counted_starts() -> None:
    world = busy_world()
    array = next(iter(world.books.leases.values())).array
    array.trial(3).failures = 1
    invariants.check(world.state)
    array.eager = True
    array.trial(4).starts = 9
    with pytest.raises(AssertionError, match="starts are bounded"):
        invariants.check(world.state)
