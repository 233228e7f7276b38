"""Compactions, a record a turn: what they say, and what is true beside them."""

from __future__ import annotations

from hashlib import sha256
from itertools import product
from typing import TYPE_CHECKING, Any

from scheduler_world import BLOB, FUNCTION, PLAIN, SchedulerWorld, versions

from distcomp import records
from distcomp.core import invariants
from distcomp.core.image import Image
from distcomp.core.recovery import restore
from distcomp.core.restating import SPANS_AT_ONCE, live_bytes
from distcomp.core.scheduler_state import SchedulerState
from distcomp.protocol import (
    AckOutcomes,
    CloseSession,
    DefineFunction,
    ForgetRun,
    OpenSession,
    RunDescribed,
    Submit,
    TasksFailed,
    TasksSettled,
)
from distcomp.rows import TaskOptions

if TYPE_CHECKING:
    from distcomp.core.image_parts import ArrayImage


class CompactingWorld(SchedulerWorld):
    """A world that keeps what it records since its compaction began."""

    def __init__(self, **settings: Any) -> None:
        self.written: list[records.Record] = []
        super().__init__(**{"restate_objects": 1, **settings})
        self.books.journalled = True
        self.state.begin_epoch(1000.0, "1.0", self.now)

    def turn(self) -> Any:
        effects = super().turn()
        assert len(effects.records) < 1 << 10
        self.written += records.unpack(records.pack(effects.records))
        self.state.committed(effects.batch)
        return effects

    def begin(self) -> None:
        self.turn()
        self.written.clear()
        self.state.begin_compaction(self.now)

    def end(self) -> None:
        while self.state.is_compacting:
            self.turn()

    def say_until(self, kind: type[Any]) -> None:
        """Go on until a record of a kind is said."""
        while not any(type(record) is kind for record in self.written):
            self.turn()

    def image(self) -> Image:
        image = Image(compacted=True)
        image.replay(self.written)
        image.end()
        state = SchedulerState(self.books.settings, 8, "c", auth=True)
        restore(state.books, image, self.now)
        invariants.check(state)
        again = Image(compacted=True)
        again.replay(self.written)
        again.end()
        return again

    def array(self, peer: int, counter: int) -> ArrayImage:
        return self.image().sessions[peer.to_bytes(16, "big")].array(counter)  # type: ignore[index, return-value]


def spans(found: Any) -> list[tuple[int, int]]:
    return sorted(tuple(span) for span in found)


def test_nothing_but_what_lives_is_said_again() -> None:
    world = CompactingWorld()
    worker, client = world.worker(), world.client()
    for array in range(50):
        world.submit(client, array, 1)
        (grant,) = world.grants(worker)
        world.settle(worker, grant.token, (0, 1))
        (told,) = world.sent[client][-1:]
        world.say(client, AckOutcomes((told.seq,)))
    world.begin()
    world.end()
    said = [type(record).__name__ for record in world.written]
    assert said == [
        "CompactionBegan",
        "EpochBegan",
        "WorkerCame",
        "FunctionDefined",
        "SessionBegan",
        "SessionRestated",
        "SessionRestated",
        "CompactionEnded",
    ]
    (session,) = world.image().sessions.values()
    assert list(session.finished) == [(0, 50)]


def test_work_goes_on_between_two_records() -> None:
    world = CompactingWorld()
    worker, client = world.worker(2), world.client()
    world.teach(worker, client, 0.001)
    world.submit(client, 1, 40, last=False)
    world.submit(client, 1, 40, start=40, last=False)
    first, second, *_ = world.books.leases
    world.begin()
    world.say_until(records.ArrayRestated)
    world.settle(worker, first, (0, 2))  # of a chunk that is not said yet
    world.say_until(records.ChunkRestated)
    world.submit(client, 1, 10, start=80, last=False)  # said as it comes, and only then
    world.settle(worker, second, min(world.books.leases[second].open))
    world.end()
    array, truth = world.array(client, 1), world.books.sessions[client.to_bytes(16, "big")].arrays[1]  # type: ignore[index]
    assert spans(array.pending) == spans(truth.pending)
    assert {token: spans(lease.open) for token, lease in array.leases.items()} == {
        token: spans(lease.open) for token, lease in truth.leases.items()
    }
    assert sorted(array.chunks) == [0, 40, 80]
    assert array.accepted == 90
    assert not array.closed


def test_pasts_and_delays_are_said_again() -> None:
    world = CompactingWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 1, 1, TaskOptions(retries=2, retry_delay_s=30.0))
    (grant,) = world.grants(worker)
    world.fail(worker, grant.token, 0, "exception")
    world.submit(client, 2, 3, TaskOptions(max_attempts=2))
    world.now += 10.0
    world.begin()
    world.end()
    delayed, counted = world.array(client, 1), world.array(client, 2)
    assert delayed.trials[0].failures == 1
    assert delayed.delays == {0: 20.0}
    assert counted.trials[0].starts == 1
    assert len(counted.leases) == 1


def test_what_nothing_has_come_of_is_said_as_it_was_accepted() -> None:
    world = CompactingWorld()
    client = world.client()
    world.submit(client, 1, 3, chunk=b"whole")
    world.submit(client, 2, 3, last=False)
    world.submit(client, 3, 2, last=False)
    world.submit(client, 3, 2, start=2)
    world.submit(client, 4, 3)
    world.cancel(client, 4, (1, 2))
    world.begin()
    world.end()
    session = client.to_bytes(16, "big")
    (accepted,) = (record for record in world.written if type(record) is records.TasksAccepted)
    assert accepted[:7] == ((session, 1), FUNCTION, PLAIN, 0, 3, 0, b"whole")
    assert accepted.last
    assert [spans(world.array(client, array).pending) for array in (1, 2, 3, 4)] == [
        [(0, 3)],
        [(0, 3)],
        [(0, 4)],
        [(0, 1), (2, 3)],
    ]


def test_large_blobs_are_prepared_before_they_are_said() -> None:
    world = CompactingWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 1, 1, chunk=b"running")
    (grant,) = world.grants(worker)
    world.submit(client, 2, 1, chunk=b"waiting")
    world.submit(client, 3, 1, chunk=b"part 1", last=False)
    world.submit(client, 3, 1, start=1, chunk=b"part 2")
    world.submit(client, 4, 1, chunk=b"s")
    world.settle(worker, grant.token, (0, 1))
    world.turn()
    world.written.clear()
    world.state.begin_compaction(world.now, large_bytes=1)
    asked = []
    while world.state.is_compacting:
        effects = world.turn()
        blobs = {blob for record in world.written for blob in record if type(blob) is bytes}
        assert blobs.isdisjoint(effects.prepares)
        before = len(world.written)
        if effects.prepares:
            world.turn()
            assert len(world.written) == before, "nothing is said until that is done"
            asked += effects.prepares
            world.state.prepared()
    world.state.prepared()  # when all is over it means nothing
    assert asked == [BLOB, b"waiting", b"part 1", b"part 2"]
    assert sorted(world.array(client, 3).chunks) == [0, 1]


def test_what_ends_while_it_is_prepared_is_not_said() -> None:
    world = CompactingWorld()
    client = world.client()
    for array, tasks in ((1, 1), (2, 1), (3, 1)):
        world.submit(client, array, tasks, chunk=b"part 1", last=array < 3)
    world.submit(client, 3, 1, start=1, chunk=b"part 2", last=False)
    world.turn()
    world.written.clear()
    world.state.begin_compaction(world.now, large_bytes=1)
    while world.state.is_compacting:
        effects = world.turn()
        if effects.prepares == [b"part 1"]:
            world.cancel(client, 1, (0, 1))
        if effects.prepares == [b"part 2"]:
            world.cancel(client, 3, (1, 2))
        world.state.prepared()
    said = [record.array[1] for record in world.written if isinstance(record, records.ArrayRestated)]
    accepted = [record.array[1] for record in world.written if isinstance(record, records.TasksAccepted)]
    assert (said, accepted) == ([3], [2])
    assert spans(world.array(client, 3).pending) == [(0, 1)]


def test_a_chunk_in_many_fragments_takes_several_records() -> None:
    world = CompactingWorld()
    client = world.client()
    tasks = 2 * SPANS_AT_ONCE + 4
    world.submit(client, 1, tasks, last=False)
    world.cancel(client, 1, *[(index, index + 1) for index in range(0, tasks, 2)])
    world.begin()
    world.end()
    assert sum(type(record) is records.ChunkRestated for record in world.written) == 2
    assert spans(world.array(client, 1).pending) == [(index, index + 1) for index in range(1, tasks, 2)]


def test_a_closed_session_that_ends_meanwhile_is_gone() -> None:
    world = CompactingWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 1, 2, TaskOptions(detach=True))
    (grant,) = world.grants(worker)
    world.say(client, CloseSession())
    world.begin()
    world.say_until(records.SessionRestated)
    world.settle(worker, grant.token, (0, 1))
    (grant,) = world.grants(worker)
    world.settle(worker, grant.token, (1, 2))
    assert not world.books.sessions
    world.end()
    assert not world.image().sessions


def test_a_session_that_begins_anew_meanwhile_is_another() -> None:
    world = CompactingWorld()
    client = world.client()
    world.begin()
    world.say_until(records.SessionBegan)
    world.say(client, CloseSession())
    again = world.connect("client", "ann")
    world.open(again, session=client)
    world.submit(again, 0, 3, session=client, function=b"x" * 32)
    world.end()
    (session,) = world.image().sessions.values()
    assert not session.closed
    assert session.array(0) is not None


def test_bytes_bound_a_turn_as_well() -> None:
    world = CompactingWorld(restate_objects=1000, restate_bytes=1000)
    client = world.client()
    for array in range(4):
        world.submit(client, array, 1, chunk=bytes(900))
    assert live_bytes(world.books) > 3600
    world.begin()
    turns = 0
    while world.state.is_compacting:
        world.turn()
        turns += 1
    assert turns > 4


def test_without_a_beginning_there_is_none_to_say() -> None:
    world = CompactingWorld()
    world.books.began = None
    world.begin()
    world.end()
    assert [type(record).__name__ for record in world.written] == ["CompactionBegan", "CompactionEnded"]


def test_what_is_gone_before_its_turn_is_not_said() -> None:
    world = CompactingWorld()
    worker, client = world.worker(), world.client()
    world.submit(client, 1, 1, function=b"x" * 32)
    world.begin()
    world.cut(worker)
    world.wait(60.0)
    world.say(client, CloseSession())
    world.end()
    said = {type(record) for record in world.written}
    assert records.SessionBegan not in said
    assert not world.image().sessions


RUN = sha256(b"distcomp run\0" + b"c" + b"ann" + b"fit").digest()[:16]


class RunWorld(CompactingWorld):
    """A world with a run, and a worker that does its tasks one by one."""

    def open_run(self, nonce: bytes = b"1", *, resumes: bool = False) -> int:
        peer = self.connect("client", "ann")
        process = ("h", 1, "p", b"env", resumes)
        self.say(peer, OpenSession(RUN, versions("3.11.4"), *process, run="fit", nonce=nonce))
        return peer

    def submit_to_run(self, peer: int, array: int, tasks: int) -> None:
        self.say(peer, DefineFunction(FUNCTION, "f", BLOB))
        self.say(peer, Submit((RUN, array), FUNCTION, PLAIN, 0, tasks, b"args", last=True))

    def settle_next(self, worker: int) -> None:
        (grant,) = self.grants(worker)
        self.settle(worker, grant.token, (grant.start, grant.stop))

    def restarted(self) -> RunWorld:
        """A world whose scheduler was killed, and has only what was written since the compaction."""
        image = Image(compacted=True)
        image.replay(self.written)
        image.end()
        world = RunWorld()
        world.now = self.now
        restore(world.books, image, world.now)
        invariants.check(world.state)
        return world


def test_a_run_is_there_with_all_that_was_of_it() -> None:
    world = RunWorld(least_outcome_bytes=1 << 20)
    worker, client = world.worker(), world.open_run()
    for array in range(3):
        world.submit_to_run(client, array, 1)
        world.settle_next(worker)
    (told,) = world.got(client, TasksSettled)
    world.say(client, AckOutcomes((told.seq,)))
    world.submit_to_run(client, 3, 2)
    world.cut(client)
    world.wait(50.0)
    world.begin()
    world.end()
    again = world.restarted()
    (left,) = again.books.runs.values()
    assert again.books.sessions[RUN] is left
    assert left.away_since == world.books.sessions[RUN].away_since
    attached = again.open_run(b"2", resumes=True)
    (described,) = again.got(attached, RunDescribed)
    assert [(row.number, row.tasks, row.settled, row.closed) for row in described.arrays] == [
        (0, 1, 1, True),
        (1, 1, 1, True),
        (2, 1, 1, True),
        (3, 2, 0, True),
    ]
    assert [row.name for row in described.arrays] == ["f"] * 4
    assert [list(row.received) for row in described.arrays] == [[], [], [(0, 1)], []]
    assert {message.array[1] for message in again.got(attached, TasksSettled)} == {0, 1}


def test_what_ends_while_a_run_is_said_is_told_and_written_once() -> None:
    world = RunWorld()
    worker, client = world.worker(), world.open_run()
    for array in range(3):
        world.submit_to_run(client, array, 1)
    (token,) = world.books.leases
    world.begin()
    world.say_until(records.SessionBegan)
    world.settle(worker, token, (0, 1))
    world.end()
    assert sum(type(record) is records.TasksEnded for record in world.written) == 1
    assert not any(type(record) is records.OutcomeRestated for record in world.written)
    again = world.restarted()
    attached = again.open_run(b"2", resumes=True)
    (described,) = again.got(attached, RunDescribed)
    assert [row.settled for row in described.arrays] == [1, 0, 0]
    assert {message.array[1] for message in again.got(attached, TasksSettled)} == {0}


def test_a_run_that_is_forgotten_while_it_is_said_is_no_more() -> None:
    world = RunWorld()
    world.cut(world.open_run())
    world.begin()
    world.say_until(records.SessionBegan)
    world.say(world.connect("client", "ann"), ForgetRun(1, "fit"))
    world.end()
    again = world.restarted()
    assert again.books.ended_runs == world.books.ended_runs != {}
    assert not again.books.runs


def test_a_run_that_is_forgotten_and_begun_anew_at_any_moment_is_the_new_one() -> None:
    for turns, begins_anew in product(range(12), (False, True)):
        world = RunWorld()
        client = world.open_run()
        world.submit_to_run(client, 1, 1)
        world.cut(client)
        asking, opening = world.connect("client", "ann"), world.connect("client", "ann")
        world.begin()
        for _ in range(turns):
            world.turn()
        process = ("h", 1, "p", b"env", False)
        world.state.receive(asking, ForgetRun(1, "fit"), world.now)
        forgotten = dict(world.books.ended_runs)
        anew = OpenSession(RUN, versions("3.11.4"), *process, run="fit", nonce=b"2")
        if begins_anew:
            world.state.receive(opening, anew, world.now)
            world.state.receive(opening, DefineFunction(FUNCTION, "f", BLOB), world.now)
            submit = Submit((RUN, 7), FUNCTION, PLAIN, 0, 3, b"args", last=True)
            world.state.receive(opening, submit, world.now)
        world.turn()
        world.end()
        again = world.restarted()
        if begins_anew:
            assert [*again.books.sessions[RUN].arrays] == [7], turns
            assert not again.books.ended_runs
        else:
            assert not again.books.runs
            assert again.books.ended_runs == forgotten != {}, turns


def test_ends_that_tasks_have_in_common_are_said_again() -> None:
    world = CompactingWorld(client_grace_s=1.0)
    client = world.client()
    world.submit(client, 1, 5, last=False)
    world.cut(client)
    world.wait(2.0)
    world.begin()
    world.end()
    (session,) = world.image().sessions.values()
    (outcome,) = session.outbox.values()
    assert type(outcome.message) is TasksFailed
    assert outcome.message.spans == ((0, 5),)
    assert session.past[1].failed == 5
    away = world.books.sessions[session.beginning.session]
    assert session.left_at == away.away_since + world.books.wall_offset_s


def test_it_is_said_again_which_runs_are_no_more() -> None:
    world = RunWorld(client_grace_s=1.0, result_retention_s=5.0)
    world.cut(world.open_run())
    world.wait(1.0)
    world.wait(5.0)
    world.begin()
    world.end()
    again = world.restarted()
    assert again.books.ended_runs == world.books.ended_runs != {}
