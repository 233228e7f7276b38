from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler_world import SchedulerWorld

from distcomp.rows import TaskOptions

if TYPE_CHECKING:
    from distcomp.core.arrays import TaskArrayState


def array_of(world: SchedulerWorld, counter: int) -> TaskArrayState:
    return world.books.sessions[(1).to_bytes(16, "big")].arrays[counter]


def test_chunks_are_let_go_when_their_tasks_are_settled() -> None:
    world = SchedulerWorld()
    client = world.client()
    for start in range(0, 40, 10):
        world.submit(client, 0, 10, start=start, last=False, chunk=b"x" * 100)
    array = array_of(world, 0)
    assert world.books.held_bytes == 400
    world.cancel(client, 0, (0, 10), (15, 30))
    assert world.books.held_bytes == 200
    world.cancel(client, 0, (10, 15))
    assert [chunk.start for chunk in array.chunks] == [30]
    assert array.chunk_at(35).base == 30


def test_a_chunk_that_begins_too_early_counts_from_where_it_is_new() -> None:
    world = SchedulerWorld()
    client, worker = world.client(), None
    world.submit(client, 0, 2, last=False)
    world.submit(client, 0, 4, start=1)
    chunk = array_of(world, 0).chunks[1]
    assert (chunk.base, chunk.start, chunk.stop) == (1, 2, 5)
    worker = world.worker(5)
    assert [(grant.start, grant.chunk_start) for grant in world.grants(worker)] == [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
        (4, 1),
    ]


def test_the_pace_follows_the_measurements() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 5)
    array = array_of(world, 0)
    assert array.pace_s < 0
    array.observe(1.0, 0.3)
    array.observe(2.0, 0.3)
    assert array.pace_s == 1.3
    world.submit(client, 1, 5)
    assert array_of(world, 1).pace_s == 1.3


def test_trials_are_found_from_either_side() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 100, TaskOptions(retries=2))
    array = array_of(world, 0)
    for index in (10, 20, 30):
        array.trial(index).failures += 1
    assert array.next_trial(0, 100) == 10
    assert array.next_trial(10, 100) == 20
    assert array.next_trial(29, 31) == 30
    assert array.next_trial(30, 100) == 100
    assert array.trial(10).attempt == 2
    world.cancel(client, 0, (0, 25))
    assert list(array.trials) == [30]
