from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scheduler_world import BLOB, FUNCTION, SchedulerWorld

from distcomp.protocol import Accepted, AckOutcomes, DefineFunction, MissingFunction, Refused, SubmitRefused
from distcomp.rows import TaskOptions

if TYPE_CHECKING:
    from distcomp.worker_protocol import GrantLease


def refusal(world: SchedulerWorld, peer: int) -> str:
    (message,) = world.got(peer, SubmitRefused)
    return message.code


def test_a_submit_is_accepted_and_can_be_sent_again() -> None:
    world = SchedulerWorld()
    client = world.client()
    for _ in range(2):
        world.submit(client, 0, 5, last=False)
        assert world.got(client, Accepted)[0].tasks == 5
    assert world.books.counts.accepted == 5


def test_an_array_grows_until_it_is_closed() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 5, last=False)
    world.submit(client, 0, 5, start=5, last=False)
    assert world.got(client, Accepted)[0].tasks == 10
    world.submit(client, 0, 0, start=10)
    world.submit(client, 0, 1, start=10)
    assert refusal(world, client) == "closed"


def test_a_finished_array_never_runs_again() -> None:
    world = SchedulerWorld()
    client, worker = world.client(), world.worker()
    world.submit(client, 0, 1)
    world.settle(worker, world.grants(worker)[0].token, (0, 1))
    world.submit(client, 0, 1)
    assert world.got(client, Accepted)[0].tasks == 1
    assert world.grants(worker) == []


def test_an_array_closed_without_tasks_is_finished() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 0)
    assert world.books.sessions[client.to_bytes(16, "big")].arrays == {}


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"start": 7}, "gap"), ({"options": TaskOptions(retries=1), "start": 5}, "options")],
)
def test_what_does_not_fit_is_refused(fields: dict[str, object], code: str) -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 5, last=False)
    world.submit(client, 0, 1, last=False, **fields)
    assert refusal(world, client) == code


def test_another_function_for_the_same_array_is_refused() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 5, last=False)
    world.submit(client, 0, 5, start=5, function=b"o" * 32)
    assert refusal(world, client) == "options"


def test_bytes_and_arrays_are_bounded() -> None:
    world = SchedulerWorld(max_held_bytes=1 << 20, max_arrays=1)
    client = world.client()
    world.submit(client, 0, 1, chunk=b"x" * (1 << 20), last=False)
    world.submit(client, 0, 1, start=1)
    assert refusal(world, client) == "full"
    world.submit(client, 1, 1)
    assert refusal(world, client) == "full"


def test_a_client_submits_to_its_own_session_only() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 1, session=55)
    assert world.got(client, Refused)[0].code == "role"


def test_tasks_wait_for_a_function_that_is_not_here() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.connect("client", "ann")
    world.open(client)
    world.submit(client, 0, 1)
    world.submit(client, 1, 1)
    world.submit(client, 2, 1)
    assert world.got(client, MissingFunction) == [MissingFunction(FUNCTION)]
    world.cancel(client, 1)
    world.cancel(client, 2, (0, 1))
    assert world.grants(worker) == []
    world.say(client, DefineFunction(FUNCTION, "f", BLOB))
    assert len(world.grants(worker)) == 1


def test_a_definition_for_tasks_that_were_cancelled_grants_nothing() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.connect("client", "ann")
    world.open(client)
    world.submit(client, 0, 1, last=False)
    world.cancel(client, 0, (0, 1))
    world.say(client, DefineFunction(FUNCTION, "f", BLOB))
    assert world.grants(worker) == []


def test_a_false_definition_ends_the_connection() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.say(client, DefineFunction(FUNCTION, "f", b"something else"))
    assert world.got(client, Refused)[0].code == "malformed"


def test_a_worker_can_ask_for_a_function_again() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(), world.client()
    world.say(worker, MissingFunction(FUNCTION), MissingFunction(b"?" * 32))
    assert world.got(worker, DefineFunction) == [DefineFunction(FUNCTION, "f", BLOB)]
    assert client


def test_an_array_without_end_is_let_go_of_as_it_settles() -> None:
    """One task that takes for ever keeps its own chunk, not those of the thousands behind it."""
    world = SchedulerWorld()
    client, worker = world.client(), world.worker(2)
    session = world.books.sessions[client.to_bytes(16, "big")]
    held: list[GrantLease] = []
    for start in range(0, 4000, 10):
        world.submit(client, 0, 10, start=start, last=False)
        held += world.grants(worker)
        while held:
            grant = held.pop()
            if grant.stop > 1:
                world.settle(worker, grant.token, (max(grant.start, 1), grant.stop))
                held += world.grants(worker)
        world.say(client, AckOutcomes(tuple(session.outbox.by_seq)))
        held += world.grants(worker)
    array = session.arrays[0]
    assert array.settled == array.accepted - 1 == 3999
    assert len(array.chunks) <= 3
    assert len(array.leases) == 1
    assert not array.pending.count
    assert not array.trials
    assert not len(session.outbox)
