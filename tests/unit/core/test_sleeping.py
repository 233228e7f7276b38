"""Arrays of a scheduler that was killed: a record each, until somebody or something asks for them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from scheduler_world import SchedulerWorld

from distcomp import records
from distcomp.core.image import Image
from distcomp.core.recovery import restore
from distcomp.core.sleeping import asleep, awake
from distcomp.protocol import (
    AckOutcomes,
    CloseSession,
    DefineBundle,
    DefineFunction,
    ExplainTask,
    MissingBundle,
    MissingFunction,
    SessionOpened,
    StatusReported,
    SubmitRefused,
    TaskExplained,
    TasksSettled,
    WatchStatus,
)
from distcomp.rows import TaskOptions
from distcomp.worker_protocol import BindTask

KEY = b"k" * 32
MODULES = b"modules"
BUNDLE = blake2b(MODULES, digest_size=32).digest()
CODE = b"code"
OTHER = blake2b(CODE, digest_size=32).digest()


class RestartingWorld(SchedulerWorld):
    """A world that keeps all that it records, and can begin again with that alone."""

    def __init__(self, written: list[records.Record] | None = None, **settings: Any) -> None:
        self.written = written or []
        super().__init__(**settings)
        image = Image()
        image.replay(self.written)
        image.end()
        restore(self.books, image, self.now)
        self.books.journalled = True
        self.books.epoch += len(self.written)
        self.turn()

    def turn(self) -> Any:
        effects = super().turn()
        self.written += records.unpack(records.pack(effects.records))
        self.state.committed(effects.batch)
        return effects

    def restarted(self, **settings: Any) -> RestartingWorld:
        return RestartingWorld(self.written, **settings)

    def numbers(self, client: int) -> tuple[list[int], list[int]]:
        """The arrays of a client that are asleep, and those that are awake."""
        session = self.books.sessions[client.to_bytes(16, "big")]
        return sorted(asleep(session)), sorted(array.id[1] for array in awake(session))


def waiting(arrays: int, **settings: Any) -> tuple[RestartingWorld, int]:
    """A world that was restarted with arrays of one that wait, and the number of their client."""
    world = RestartingWorld(**settings)
    client = world.client()
    for number in range(arrays):
        world.submit(client, number, 1, chunk=b"args%d" % number)
    return world.restarted(**settings), client


def test_arrays_wake_as_their_turn_comes_the_oldest_first() -> None:
    world, client = waiting(3)
    assert world.numbers(client) == ([1, 2], [0])
    assert world.pool.queue.pending == 3
    worker = world.worker(2)
    first, second = world.grants(worker)
    world.settle(worker, first.token, (0, 1))
    (third,) = world.grants(worker)
    assert [grant.chunk for grant in (first, second, third)] == [b"args0", b"args1", b"args2"]
    assert [grant.array[1] for grant in (first, second, third)] == [0, 1, 2]
    assert type(world.books.sessions[client.to_bytes(16, "big")].arrays) is dict
    for grant in (second, third):
        world.settle(worker, grant.token, (0, 1))
    assert world.books.held_bytes == world.books.outcome_bytes


def test_a_client_that_comes_back_wakes_nothing() -> None:
    world, client = waiting(3)
    peer = world.connect("client", "ann")
    world.open(peer, session=client)
    (opened,) = world.got(peer, SessionOpened)
    assert sorted(opened.known) == [((client.to_bytes(16, "big"), number), 1) for number in range(3)]
    assert world.numbers(client) == ([1, 2], [0])
    world.submit(peer, 3, 1, session=client)
    world.submit(peer, 1, 1, session=client)
    assert world.numbers(client) == ([2], [0, 1, 3])


def test_an_array_that_is_asked_for_wakes_alone() -> None:
    world, client = waiting(4)
    peer = world.connect("client", "ann")
    world.open(peer, session=client)
    world.cancel(peer, 2, session=client)
    assert world.numbers(client) == ([1, 3], [0])
    world.say(peer, ExplainTask(1, (client.to_bytes(16, "big"), 3), 0))
    (explained,) = world.got(peer, TaskExplained)
    assert "worker" in explained.text
    assert world.numbers(client) == ([1], [0, 3])
    session = world.books.sessions[client.to_bytes(16, "big")]
    assert len(session.arrays) == 3
    assert 2 not in session.arrays
    assert 1 in session.arrays
    assert session.arrays.get(9) is None


def test_observers_wake_what_they_are_told_of() -> None:
    world, client = waiting(4, max_status_arrays=2)
    observer = world.connect("observer")
    world.say(observer, WatchStatus(0.0))
    (report,) = world.got(observer, StatusReported)
    assert [row.array[1] for row in report.arrays] == [0, 1]
    assert report.totals.pending == 4
    assert world.numbers(client) == ([2, 3], [0, 1])


def test_those_that_wait_stand_between_those_under_way() -> None:
    world = RestartingWorld()
    world.worker()
    client = world.client()
    for number, priority in enumerate([0, 0, 1, 0]):
        world.submit(client, number, 1, TaskOptions(priority=priority))
    world.submit(client, 4, 2, last=False)
    world = world.restarted()
    assert world.numbers(client) == ([1, 3], [0, 2, 4])
    orders = {array.id[1]: array.order for array in awake(world.books.sessions[client.to_bytes(16, "big")])}
    assert orders[4] - orders[0] == 4
    other = world.worker(8, name=b"o" * 16)
    assert [grant.array[1] for grant in world.grants(other)] == [2, 1, 3, 4, 4]


def test_what_lacks_its_function_or_its_bundle_is_awake() -> None:
    world = RestartingWorld()
    client = world.client()
    world.submit(client, 0, 1, bundle=BUNDLE)
    world.submit(client, 1, 1, function=OTHER)
    world.submit(client, 2, 1, function=OTHER, bundle=BUNDLE)
    world = world.restarted()
    assert world.numbers(client) == ([], [0, 1, 2])
    peer = world.connect("client", "ann")
    world.open(peer, session=client)
    assert len(world.got(peer, MissingFunction)) == 2
    assert len(world.got(peer, MissingBundle)) == 2
    assert world.pool.queue.pending == 0
    world.say(peer, DefineBundle(BUNDLE, "m", 1, MODULES))
    assert world.pool.queue.pending == 1
    world.say(peer, DefineFunction(OTHER, "g", CODE))
    assert world.pool.queue.pending == 3


def test_what_has_its_bundle_sleeps() -> None:
    world = RestartingWorld()
    client = world.client()
    world.say(client, DefineBundle(BUNDLE, "m", 1, MODULES))
    for number in range(2):
        world.submit(client, number, 1, bundle=BUNDLE)
    world = world.restarted()
    assert world.numbers(client) == ([1], [0])
    worker = world.worker()
    assert [type(x).__name__ for x in world.sent[worker]][-2:] == ["DefineBundle", "GrantLease"]


def test_a_session_of_which_too_much_is_unread_sleeps_beside_the_queue() -> None:
    world = RestartingWorld(max_unread_bytes=1)
    worker, client = world.worker(2), world.client()
    world.submit(client, 0, 2)
    one, two = world.grants(worker)
    world.settle(worker, one.token, (0, 1))
    world.settle(worker, two.token, (1, 2))
    world.submit(client, 1, 1)
    world.submit(client, 2, 1)
    world = world.restarted(max_unread_bytes=1)
    assert world.numbers(client) == ([1, 2], [])
    assert world.pool.queue.pending == 0
    peer = world.connect("client", "ann")
    world.open(peer, session=client)
    world.say(peer, AckOutcomes(tuple(told.seq for told in world.got(peer, TasksSettled))))
    assert world.pool.queue.pending == 2
    worker = world.worker(2, name=b"o" * 16)
    assert [grant.array[1] for grant in world.grants(worker)] == [1, 2]


def test_a_session_that_ends_takes_its_sleepers_along() -> None:
    world, client = waiting(3)
    peer = world.connect("client", "ann")
    world.open(peer, session=client)
    world.say(peer, CloseSession())
    assert not world.books.sessions
    assert world.pool.queue.pending == 0
    assert world.books.held_bytes == 0


def test_a_compaction_says_those_that_sleep_again() -> None:
    world, _ = waiting(3)
    before = [record for record in world.written if type(record) is records.TasksAccepted]
    world.written.clear()
    world.state.begin_compaction(world.now)
    while world.state.is_compacting:
        world.turn()
    assert [record for record in world.written if type(record) is records.TasksAccepted] == before


def test_what_a_task_has_submitted_sleeps_before_what_its_client_has() -> None:
    world = RestartingWorld()
    worker = world.worker(bind_key=KEY)
    client = world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    inside = world.connect("worker")
    world.say(inside, BindTask(worker.to_bytes(16, "big"), KEY, grant.token, 0))
    world.open(inside)
    for peer in (client, inside):
        for number in (1, 2):
            world.submit(peer, number, 1)
    world = world.restarted()
    assert world.numbers(inside) == ([2], [1])
    assert world.numbers(client) == ([1, 2], [0])
    other = world.worker(4, name=b"o" * 16)
    assert [int.from_bytes(grant.array[0], "big") for grant in world.grants(other)] == [inside] * 2 + [
        client
    ] * 2
    assert not world.pool.queue.pending
    claims = world.books.sessions[client.to_bytes(16, "big")].claims.values()
    assert not any(claim.sleepers for claim in claims)


def test_it_is_known_after_a_restart_who_closed_an_array() -> None:
    detached = TaskOptions(detach=True)
    world = RestartingWorld(client_grace_s=5.0)
    client = world.client()
    world.submit(client, 0, 1, detached, last=False)
    world.cut(client)
    world.wait(5.0)
    world = world.restarted(client_grace_s=5.0)
    worker = world.worker()
    (grant,) = world.grants(worker)
    world.settle(worker, grant.token, (0, 1))
    peer = world.connect("client", "ann")
    world.open(peer, session=client)
    world.submit(peer, 0, 1, detached, start=1, session=client)
    (refused,) = world.got(peer, SubmitRefused)
    assert refused.code == "expired"
