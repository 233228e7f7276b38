from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduler_world import SchedulerWorld

from distcomp.config import SchedulerSettings
from distcomp.core.image import Image
from distcomp.core.recovery import restore
from distcomp.core.scheduler_state import SchedulerState
from distcomp.protocol import AckOutcomes, CancelTasks, CloseSession, ReadOutcomes, TasksFailed, TasksSettled
from distcomp.records import pack, unpack
from distcomp.worker_protocol import LeaseSettled

if TYPE_CHECKING:
    from distcomp.core.outcomes import Outcomes

KIB = 1 << 10


class SpillingWorld(SchedulerWorld):
    """A scheduler with little room in memory; what it wants of its disk is done when a test says so."""

    def __init__(self, **settings: Any) -> None:
        self.files: dict[int, Any] = {}
        self.asked: list[tuple[str, int]] = []
        bounds = {
            "session_outcome_bytes": 4 * KIB,
            "outcome_window_bytes": 2 * KIB,
            "least_outcome_bytes": KIB,
        }
        super().__init__(**{**bounds, **settings})

    def turn(self) -> Any:
        effects = super().turn()
        work = effects.file_work()
        for number, _, message in work.spills:
            self.files[number] = message
            self.asked.append(("store", number))
        self.asked += [("load", number) for number in work.loads]
        for number in work.unspills:
            del self.files[number]
        return effects

    def use_disk(self) -> None:
        """Do all that was asked for."""
        while self.asked:
            what, number = self.asked.pop(0)
            if what == "store":
                self.state.stored(number)
            elif number in self.files:
                self.state.loaded(number, self.files[number])
        self.turn()

    def begin(self, tasks: int, **fields: Any) -> tuple[int, int]:
        """A worker that holds leases on single tasks of a client."""
        worker, client = self.worker(64), self.client()
        self.teach(worker, client, 10.0)
        self.say(client, AckOutcomes((1,)))
        self.submit(client, 0, tasks, **fields)
        self.leases = {grant.start: grant.token for grant in self.grants(worker)}
        return worker, client

    def settle_one(self, worker: int, index: int, size_bytes: int = KIB) -> None:
        run = (index, index + 1, bytes(size_bytes))
        self.say(worker, LeaseSettled(1, self.leases[index], (run,), (), 1.0, 0))

    def box(self, client: int) -> Outcomes:
        return self.books.sessions[client.to_bytes(16, "big")].outbox


def seqs(world: SchedulerWorld, client: int) -> list[int]:
    return [message.seq for message in world.got(client, TasksSettled)]


def test_a_client_has_only_a_window_under_way() -> None:
    world = SpillingWorld()
    worker, client = world.begin(6)
    sent = []
    for index in range(4):
        world.settle_one(worker, index)
        sent += seqs(world, client)
    assert sent == [2, 3]
    world.say(client, AckOutcomes((3,)))
    assert seqs(world, client) == [4]
    world.say(client, ReadOutcomes((2,)))
    assert seqs(world, client) == [5]
    assert world.box(client).under_way_bytes == 2 * KIB


def test_one_outcome_is_never_too_large() -> None:
    world = SpillingWorld()
    worker, client = world.begin(3)
    world.settle_one(worker, 0, 9 * KIB)
    assert seqs(world, client) == [2]
    world.settle_one(worker, 1, 9 * KIB)
    assert seqs(world, client) == []
    world.use_disk()
    world.say(client, AckOutcomes((2,)))
    world.use_disk()
    assert seqs(world, client) == [3]


def test_what_exceeds_the_share_goes_to_files_and_comes_back_in_order() -> None:
    world = SpillingWorld()
    worker, client = world.begin(9)
    for index in range(9):
        world.settle_one(worker, index)
    box = world.box(client)
    assert (box.here_bytes, world.books.held_bytes) == (9 * KIB, 9 * KIB), "till it is stored"
    world.use_disk()
    assert (box.here_bytes, box.stored_bytes, world.books.spilled_bytes) == (4 * KIB, 5 * KIB, 5 * KIB)
    assert world.books.held_bytes == 4 * KIB
    got = [2, 3]
    while box.by_seq:
        world.say(client, AckOutcomes(tuple(got)))
        new = seqs(world, client)
        world.use_disk()
        got += new + seqs(world, client)
        assert len(got) == len(set(got))
    assert got == list(range(2, 11))
    assert world.files == {}
    assert world.books.spilled_bytes == 0


def test_what_was_read_and_is_kept_goes_to_files_first() -> None:
    world = SpillingWorld()
    worker, client = world.begin(3)
    world.settle_one(worker, 0)
    world.settle_one(worker, 1)
    world.say(client, ReadOutcomes((2, 3)))
    world.use_disk()
    assert world.box(client).stored_bytes == 2 * KIB
    world.say(client, AckOutcomes((2, 3)))
    assert world.files == {}


def test_all_clients_together_have_a_share() -> None:
    world = SpillingWorld(max_outcome_memory_bytes=2 * KIB)
    worker, client = world.begin(4)
    for index in range(4):
        world.settle_one(worker, index)
    world.use_disk()
    assert world.box(client).stored_bytes == 2 * KIB


def test_a_client_that_comes_back_gets_all_again() -> None:
    world = SpillingWorld()
    worker, client = world.begin(9)
    for index in range(9):
        world.settle_one(worker, index)
    world.use_disk()
    world.say(client, AckOutcomes((2, 3, 4)))
    world.cut(client)
    back = world.connect("client", "ann")
    world.open(back, session=client, resumes=True)
    got = seqs(world, back)
    world.use_disk()
    assert got == [5]
    assert seqs(world, back) == [6]
    world.say(back, CloseSession())
    assert world.files == {}
    assert world.books.spilled == {}


def test_what_is_acknowledged_unsent_is_not_sent() -> None:
    world = SpillingWorld()
    worker, client = world.begin(9)
    for index in range(9):
        world.settle_one(worker, index)
    world.use_disk()
    world.say(client, AckOutcomes((4, 5, 6, 7)))
    world.use_disk()
    world.say(client, AckOutcomes((8, 9)))
    world.say(client, AckOutcomes((2, 3)))
    world.use_disk()
    assert world.box(client).by_seq.keys() == {10}


def test_who_stays_away_leaves_memory_to_others() -> None:
    world = SpillingWorld()
    worker, client = world.begin(3)
    world.settle_one(worker, 0)
    world.settle_one(worker, 1)
    world.cut(client)
    world.wait(60.0)
    world.use_disk()
    assert world.box(client).here_bytes == 0


def test_a_slow_disk_pauses_who_needs_it() -> None:
    world = SpillingWorld(session_outcome_bytes=1, least_outcome_bytes=1)
    worker, client = world.begin(9)
    other = world.client("bob")
    world.settle_one(worker, 0)
    assert world.books.paused.keys() == {client.to_bytes(16, "big")}
    world.say(other, CancelTasks((other.to_bytes(16, "big"), 0), ()))
    world.use_disk()
    assert world.books.paused == {}


def test_full_files_pause_who_fills_them() -> None:
    world = SpillingWorld(session_outcome_bytes=1, least_outcome_bytes=1, max_spill_bytes=3 * KIB)
    worker, client = world.begin(9)
    for index in range(4):
        world.settle_one(worker, index)
        world.use_disk()
    second = world.client("bob")
    assert world.books.paused.keys() == {client.to_bytes(16, "big")}
    world.say(client, AckOutcomes((2,)))
    assert world.books.paused, "there is too much until half of it is gone"
    world.say(client, AckOutcomes((3, 4)))
    assert world.books.paused == {}
    assert world.box(second).stored_bytes == 0


def test_others_go_on_when_files_have_room_again() -> None:
    world = SpillingWorld(session_outcome_bytes=1, least_outcome_bytes=1, max_spill_bytes=3 * KIB)
    worker, client = world.begin(9)
    other = world.client("bob")
    world.submit(other, 0, 2)
    bobs = {grant.start: grant.token for grant in world.grants(worker)}
    for index in range(3):
        world.settle_one(worker, index)
        world.use_disk()
    world.say(worker, LeaseSettled(1, bobs[0], ((0, 1, bytes(KIB)),), (), 1.0, 0))
    world.use_disk()
    assert world.books.paused.keys() == {client.to_bytes(16, "big"), other.to_bytes(16, "big")}
    world.say(client, AckOutcomes((2, 3, 4)))
    assert world.books.paused == {}


def test_what_cannot_be_written_stays_and_is_tried_again() -> None:
    world = SpillingWorld(spill_retry_s=5.0)
    worker, client = world.begin(9)
    for index in range(6):
        world.settle_one(worker, index)
    for _, number in world.asked:
        world.state.not_stored(number, "no room", world.now)
    world.asked.clear()
    world.state.not_stored(99, "no room", world.now)
    world.settle_one(worker, 6)
    assert world.asked == []
    world.wait(5.0)
    assert len(world.asked) == 7
    world.use_disk()
    assert world.box(client).here_bytes == 0


def test_what_cannot_be_read_fails_its_tasks() -> None:
    world = SpillingWorld(session_outcome_bytes=1, least_outcome_bytes=1)
    worker, client = world.begin(3)
    world.settle_one(worker, 0, 3 * KIB)
    world.settle_one(worker, 1, 3 * KIB)
    world.use_disk()
    world.say(client, AckOutcomes((2,)))
    ((_, number),) = world.asked
    world.state.unreadable(number, "bad")
    world.state.unreadable(99, "bad")
    world.turn()
    (failed,) = world.got(client, TasksFailed)
    assert (failed.seq, failed.spans) == (3, ((1, 2),))
    assert failed.failure.text == "the result was lost on the scheduler's disk: bad"
    world.say(client, AckOutcomes((3,)))
    world.state.loaded(number, failed)
    world.state.stored(number)
    world.turn()


def test_what_nobody_waits_for_any_more_is_not_kept() -> None:
    world = SpillingWorld(session_outcome_bytes=1, least_outcome_bytes=1)
    worker, client = world.begin(3)
    world.settle_one(worker, 0, 3 * KIB)
    world.settle_one(worker, 1, 3 * KIB)
    world.use_disk()
    world.say(client, AckOutcomes((2,)))
    ((_, number),) = world.asked
    world.cut(client)
    world.state.loaded(number, world.files[number])
    world.turn()
    assert all(outcome.message is None for outcome in world.box(client).by_seq.values())


class Files:
    """Files that are full after some messages."""

    memory_bytes = 1

    def __init__(self, room: int) -> None:
        self.room = room
        self.kept: dict[int, Any] = {}

    def store(self, spill: Any, /) -> None:
        if len(self.kept) == self.room:
            raise OSError(28, "full")
        self.kept[spill.number] = spill.message

    def drop(self, number: int) -> None:
        del self.kept[number]


def test_a_restart_puts_into_files_what_does_not_fit_memory() -> None:
    world = SpillingWorld()
    journal = []
    world.books.journalled = True
    take = world.state.take_effects

    def keep(now: float) -> Any:
        effects = take(now)
        if effects.records:
            journal.append(pack(effects.records))
        world.state.committed(effects.batch)
        return effects

    world.state.take_effects = keep  # type: ignore[method-assign] # to see what is recorded
    worker, client = world.begin(6)
    for index in range(5):
        world.settle_one(worker, index)
    world.say(client, AckOutcomes((3,)))
    files = Files(3)
    image = Image(files=files)
    for packed in journal:
        image.replay(unpack(packed))
    image.end()
    state = SchedulerState(SchedulerSettings(), 9, "c", auth=True)
    restore(state.books, image, 1.0)
    (session,) = state.books.sessions.values()
    assert list(session.outbox.by_seq) == [2, 4, 5, 6]
    stored = [outcome.number for outcome in session.outbox.by_seq.values() if not outcome.here]
    assert sorted(files.kept) == stored
    assert next(state.books.spill_numbers) > max(stored)
    assert session.outbox.here_bytes == KIB * (4 - len(stored))
