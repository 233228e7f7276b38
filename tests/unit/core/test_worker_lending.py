from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker_world import EPOCH, OTHER, SESSION, VERSIONS, World

from distcomp.config import WorkerSettings
from distcomp.core.worker_effects import GiveBack, TakeProcess, WorkerIdentity
from distcomp.core.worker_state import WorkerState
from distcomp.ids import Peer, SessionId, WorkerId
from distcomp.worker_protocol import BindTask, DefineSession, EndSession, RegisterWorker, SlotLent

if TYPE_CHECKING:
    from distcomp.ids import Token

CHILD = SessionId(b"c" * 16)


class Lending(World):
    """A worker whose tasks submit tasks; their session's home is `SESSION`."""

    def connect(self, **fields: Any) -> None:
        super().connect(**fields)
        self.receive(DefineSession(CHILD, "alice", b"environment", SESSION))

    def lend(self, token: Token, index: int = 0, *, lent: bool = True) -> None:
        self.receive(SlotLent(token, index, lent))

    def child(self, stop: int = 1, **fields: Any) -> Token:
        return self.grant(stop, array=(CHILD, 1), **fields)

    def _start_run(self, command: Any) -> None:
        """Tasks of tasks run in their home's processes."""
        if command.grant.array[0] == CHILD:
            command = command._replace(grant=command.grant._replace(array=(SESSION, 1)))
        super()._start_run(command)

    @property
    def running(self) -> list[int]:
        """How many runs each process has."""
        return [len(slot.runs) for slot in self.slots.values()]


def test_a_lent_slot_runs_one_task_more() -> None:
    world = Lending()
    parent = world.grant(1)
    world.begin()
    world.lend(parent)
    world.child()
    assert world.running == [1, 1]
    assert {slot.session for slot in world.slots.values()} == {SESSION}


def test_nothing_waits_behind_a_task_that_waits() -> None:
    world = Lending()
    parent = world.grant(5)
    world.begin()
    behind = world.grant(1)
    assert world.running == [2]
    world.lend(parent)
    assert world.returned() == [(parent, ((1, 5),), "retracted"), (behind, ((0, 1),), "retracted")]
    world.child()
    world.child()
    assert [sum(run.stop > run.start for run in slot.runs) for slot in world.slots.values()] == [1, 2]


def test_an_urgent_lease_does_not_ask_it_to_make_way() -> None:
    world = Lending()
    parent = world.grant(1)
    world.begin()
    world.lend(parent)
    world.grant(9)
    world.begin(1)
    world.grant(1, urgent=True)
    parent_run, other_run = (slot.runs[0] for slot in world.slots.values())
    assert (parent_run.stop, other_run.stop) == (1, other_run.begun + 1)


def test_the_child_leaves_when_its_parent_goes_on() -> None:
    world = Lending()
    parent = world.grant(1)
    world.begin()
    world.lend(parent)
    child = world.child()
    world.begin(1)
    world.tell(1)
    assert world.settled() == [(child, [(0, 1)], [])]
    assert len(world.slots) == 2, "it idles while there are two slots"
    world.lend(parent, lent=False)
    assert len(world.slots) == 1
    assert [type(command) for command in world.commands].count(GiveBack) == 1
    world.tell()
    assert world.settled() == [(parent, [(0, 1)], [])]


def test_who_still_runs_when_the_parent_goes_on_leaves_later() -> None:
    world = Lending()
    parent = world.grant(1)
    world.begin()
    world.lend(parent)
    world.child()
    world.begin(1)
    world.lend(parent, lent=False)
    assert world.running == [1, 1]
    world.grant(1, array=(OTHER, 1))
    assert world.running == [1, 1], "there is no slot for it"
    world.tell(1)
    assert world.running == [1]
    world.tell()
    assert [slot.session for slot in world.slots.values()] == [OTHER]


def test_a_slot_comes_back_with_the_end_of_its_task() -> None:
    for end in ("told", "ended", "died"):
        world = Lending()
        parent = world.grant(2)
        world.begin()
        world.lend(parent)
        world.child()
        world.begin(1)
        if end == "told":
            world.tell(upto=1, ended=False)
        elif end == "ended":
            world.tell()
        else:
            world.die()
        world.child()
        assert sum(world.running) == (3 if end == "told" else 2), end
        assert len(world.slots) <= 2


def test_it_is_lent_once_and_only_by_what_runs() -> None:
    world = Lending()
    parent = world.grant(1)
    world.begin()
    for _ in range(2):
        world.lend(parent)
    world.lend((EPOCH, 99))
    world.lend(parent, 7)
    world.lend(parent, 7, lent=False)
    for _ in range(3):
        world.child()
    assert len(world.slots) == 2


def test_slots_are_named_anew_only_when_all_are_taken() -> None:
    world = Lending(slots=2)
    parent = world.grant(1)
    world.begin()
    world.lend(parent)
    for _ in range(2):
        world.child()
    crew = world.state._runs.crew
    assert sorted(process.slot for process in crew.processes.values()) == [0, 1, 2]


def test_more_leases_fit_as_slots_are_lent() -> None:
    world = Lending(max_leases_per_slot=2)
    parent = world.grant(1)
    world.begin()
    world.lend(parent)
    for _ in range(3):
        world.child()
    assert not world.returned()
    refused = world.child()
    assert world.returned() == [(refused, ((0, 1),), "refused")]


def test_the_end_of_a_session_of_a_task_leaves_its_home_alone() -> None:
    world = Lending()
    parent = world.grant(1)
    world.begin()
    world.lend(parent)
    world.child()
    world.begin(1)
    world.tell(1)
    world.receive(EndSession(CHILD))
    assert [slot.session for slot in world.slots.values()] == [SESSION, SESSION]
    taken = [command for command in world.commands if isinstance(command, TakeProcess)]
    assert {command.session.home for command in taken} == {b""}


def test_it_says_how_many_slots_it_lends_and_binds_by_its_key() -> None:
    settings = WorkerSettings(max_lent_per_slot=3)
    identity = WorkerIdentity(WorkerId(b"w" * 16), "left", "host", 9, 2, VERSIONS, b"key")
    state = WorkerState(settings, identity)
    state.connect(Peer(1), 0.0)
    (said,) = state.take_effects(0.0).sends
    assert isinstance(said, RegisterWorker)
    assert (said.max_lent, said.bind_key) == (6, b"key")
    assert state.binding((7, 1), 4) == BindTask(WorkerId(b"w" * 16), b"key", (7, 1), 4)


def test_the_token_of_what_runs_is_known() -> None:
    world = Lending()
    token = world.grant(1)
    process = world.slot()
    assert world.state.task_token(process, 1) == token
    assert world.state.task_token(process, 2) is None
    assert world.state.task_token(99, 1) is None
