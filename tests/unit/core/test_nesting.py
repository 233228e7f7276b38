from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from scheduler_world import BLOB, FUNCTION, SchedulerWorld, versions

from distcomp.core.nesting import MOST_NAMES, NestingTask
from distcomp.protocol import (
    CancelTasks,
    CloseSession,
    DefineFunction,
    LendRefused,
    LendSlot,
    OpenSession,
    Refused,
    SessionOpened,
    StatusReported,
    TasksSettled,
    WatchStatus,
)
from distcomp.rows import HeldLease, TaskOptions
from distcomp.worker_protocol import (
    BindTask,
    CancelLease,
    DefineSession,
    EndSession,
    SlotLent,
    WorkerDraining,
)

if TYPE_CHECKING:
    from distcomp.core.leases import OpenLease

KEY = b"k" * 32


class Nest(SchedulerWorld):
    """One worker and one client; tasks that submit tasks are bound by `inside`."""

    def __init__(self, slots: int = 1, max_lent: int = 2, **settings: Any) -> None:
        super().__init__(**settings)
        self.w = self.worker(slots, max_lent=max_lent, bind_key=KEY)
        self.c = self.client()

    @property
    def entry(self) -> Any:
        return self.books.workers[self.w.to_bytes(16, "big")]

    def bind(self, token: Any, index: int = 0, *, key: bytes = KEY, worker: int = 0) -> int:
        peer = self.connect("worker")
        name = (worker or self.w).to_bytes(16, "big")
        self.say(peer, BindTask(name, key, token, index))
        return peer

    def inside(self, token: Any, index: int = 0) -> int:
        """A client within a task, with its session open."""
        peer = self.bind(token, index)
        self.open(peer)
        return peer

    def begin(self, client: int, array: int = 1, tasks: int = 1, **fields: Any) -> Any:
        """Submit, and give the token of the first lease of it."""
        self.submit(client, array, tasks, **fields)
        return self.grants(self.w)[0].token

    def lend(self, client: int, *, lent: bool = True) -> None:
        self.say(client, LendSlot(lent))


class BelowLease:
    """What a chain is read from: a lease, its array and that array's session in one."""

    def __init__(self, task: NestingTask, lease: OpenLease) -> None:
        self.array = self.session = self
        self.definition = lease.array.definition
        self.task = task


# --- who may speak for a task ---------------------------------------------------------------------


def test_a_worker_binds_a_connection_to_a_task_that_it_runs() -> None:
    world = Nest()
    peer = world.inside(world.begin(world.c))
    assert world.got(peer, SessionOpened)
    link = world.books.links[peer]
    assert (link.role, link.owner) == ("client", "ann")


@pytest.mark.parametrize("wrong", ["key", "no key"])
def test_only_the_worker_itself_binds(wrong: str) -> None:
    world = Nest()
    token = world.begin(world.c)
    other = world.worker(bind_key=b"") if wrong == "no key" else 0
    peer = world.bind(token, key=b"x" * 32 if wrong == "key" else b"", worker=other)
    (refused,) = world.got(peer, Refused)
    assert refused.code == "role"


def test_a_client_binds_nothing() -> None:
    world = Nest()
    token = world.begin(world.c)
    peer = world.connect("client", "ann")
    world.say(peer, BindTask(world.entry.id, KEY, token, 0))
    assert world.got(peer, Refused)[0].code == "role"


def test_a_task_that_is_not_leased_there_cannot_be_bound() -> None:
    world = Nest()
    token = world.begin(world.c)
    assert world.got(world.bind(token, 1), Refused)[0].code == "expired"
    assert world.got(world.bind((7, 99)), Refused)[0].code == "expired"
    assert world.got(world.bind(token, worker=77), Refused)[0].code == "expired"


def test_a_task_that_ended_before_its_session_opened_gets_none() -> None:
    world = Nest()
    token = world.begin(world.c)
    peer = world.bind(token)
    world.settle(world.w, token, (0, 1))
    world.open(peer)
    assert world.got(peer, Refused)[0].code == "expired"
    assert peer in world.closed


def test_a_task_opens_no_session_but_its_own() -> None:
    world = Nest(slots=2)
    first, second = world.begin(world.c), world.begin(world.c, 2)
    inner = world.inside(first)
    others = world.bind(second), world.bind(second), world.connect("client", "ann")
    for peer, session in zip(others, (inner, world.c, inner), strict=True):
        world.open(peer, session=session, resumes=True)
        assert world.got(peer, Refused)[0].code == "role"


def test_a_session_of_a_task_survives_a_cut_connection() -> None:
    world = Nest()
    token = world.begin(world.c)
    first = world.inside(token)
    world.lend(first)
    child = world.begin(first)
    world.cut(first)
    again = world.bind(token)
    world.open(again, session=first, resumes=True)
    assert world.got(again, SessionOpened)[0].known == (((first.to_bytes(16, "big"), 1), 1),)
    world.settle(world.w, child, (0, 1))
    assert world.got(again, TasksSettled)
    assert world.entry.lent == 1


# --- the slot -------------------------------------------------------------------------------------


def test_a_waiting_task_lends_its_slot_until_it_goes_on() -> None:
    world = Nest()
    inner = world.inside(world.begin(world.c))
    world.submit(inner, 1, 1)
    assert not world.grants(world.w)
    world.lend(inner)
    (grant,) = world.grants(world.w)
    (lent,) = world.got(world.w, SlotLent)
    assert (lent.task_index, lent.lent) == (0, True)
    assert world.sent[world.w].index(lent) < world.sent[world.w].index(grant)
    world.settle(world.w, grant.token, (0, 1))
    world.lend(inner, lent=False)
    assert world.got(world.w, SlotLent)[0].lent is False
    assert (world.entry.slots, world.entry.lent, world.pool.roster.idle) == (1, 0, 0)


def test_several_clients_of_one_task_lend_one_slot() -> None:
    world = Nest()
    token = world.begin(world.c)
    first, second = world.inside(token), world.inside(token)
    world.lend(first)
    world.lend(first)
    world.lend(second)
    assert world.entry.lent == 1
    world.lend(first, lent=False)
    assert world.entry.lent == 1
    world.say(second, CloseSession())
    assert world.entry.lent == 0


def test_only_clients_of_tasks_lend() -> None:
    world = Nest()
    world.lend(world.c)
    assert world.got(world.c, Refused)[0].code == "malformed"


def test_beyond_the_bound_the_chain_is_named() -> None:
    world = Nest(max_lent=1)
    outer = world.inside(world.begin(world.c))
    world.lend(outer)
    world.say(outer, DefineFunction(FUNCTION, "f", BLOB))
    inner = world.inside(world.begin(outer))
    world.lend(inner)
    assert world.got(inner, LendRefused) == [LendRefused(("f", "f"), 1)]
    assert not world.got(world.w, SlotLent)
    world.lend(outer, lent=False)
    world.lend(inner)
    assert world.entry.lent == 1


def test_a_long_chain_is_told_without_its_middle() -> None:
    world = Nest()
    token = world.begin(world.c)
    lease = world.entry.leases[token]
    task = NestingTask(lease, 0)
    assert task.chain() == ("f",)
    for _ in range(MOST_NAMES + 5):
        task = NestingTask(cast("OpenLease", BelowLease(task, lease)), 0)
    names = task.chain()
    assert len(names) == MOST_NAMES + 1
    assert names[MOST_NAMES // 2] == "..."


def test_a_worker_that_comes_back_hears_what_is_lent() -> None:
    world = Nest(slots=2)
    token = world.begin(world.c)
    quiet = world.begin(world.c, 2)
    world.bind(quiet)
    inner = world.inside(token)
    world.lend(inner)
    world.cut(world.w)
    assert world.pool.roster.slots == 0
    again = world.connect("worker")
    name = world.w.to_bytes(16, "big")
    held = tuple(HeldLease(each, ((0, 1),)) for each in (token, quiet))
    world.register(again, 2, name=name, leases=held, max_lent=2, bind_key=KEY)
    assert world.got(again, SlotLent) == [SlotLent(token, 0, lent=True), SlotLent(quiet, 0, lent=False)]
    assert world.pool.roster.slots == 3


def test_a_draining_worker_lends_nothing_to_the_roster() -> None:
    world = Nest()
    inner = world.inside(world.begin(world.c))
    world.say(world.w, WorkerDraining())
    world.lend(inner)
    assert world.entry.slots == 2
    assert world.pool.roster.slots == 0


def test_a_lease_that_waits_begins_at_the_lent_slot() -> None:
    world = Nest()
    world.teach(world.w, world.c, 0.001)
    world.submit(world.c, 1, 1)
    world.submit(world.c, 2, 1)
    first, second = list(world.books.leases.values())
    assert second.waits
    world.lend(world.inside(first.token))
    assert not second.waits


def test_status_shows_what_is_lent() -> None:
    world = Nest()
    inner = world.inside(world.begin(world.c))
    world.lend(inner)
    world.begin(inner)
    world.say(inner, WatchStatus(0.0))
    (report,) = world.got(inner, StatusReported)
    (row,) = report.workers
    assert (row.slots, row.busy, row.lent) == (1, 1, 1)
    assert (report.totals.slots, report.totals.busy) == (1, 1)


# --- whose turn it is -----------------------------------------------------------------------------


def test_children_go_before_all_that_their_client_has_waiting() -> None:
    world = Nest()
    token = world.begin(world.c, tasks=3)
    inner = world.inside(token)
    world.say(inner, DefineFunction(FUNCTION, "f", BLOB))
    world.submit(inner, 1, 2)
    world.lend(inner)
    (child,) = world.grants(world.w)
    assert child.array[0] == inner.to_bytes(16, "big")
    deeper = world.inside(child.token)
    world.submit(deeper, 1, 1)
    world.lend(deeper)
    (grandchild,) = world.grants(world.w)
    assert grandchild.array[0] == deeper.to_bytes(16, "big")
    world.settle(world.w, grandchild.token, (0, 1))
    assert world.grants(world.w)[0].array == child.array


def test_children_share_what_is_their_clients() -> None:
    world = Nest(slots=2)
    other = world.client("bob")
    token = world.begin(world.c)
    inner = world.inside(token)
    world.submit(other, 1, 100)
    world.submit(inner, 1, 100)
    claims = {array.claim for session in world.books.sessions.values() for array in session.arrays.values()}
    assert len(claims) == 2


def test_no_child_is_less_urgent_than_its_parent() -> None:
    world = Nest()
    inner = world.inside(world.begin(world.c, options=TaskOptions(priority=5)))
    for array, priority in ((1, 0), (2, 9)):
        world.submit(inner, array, 1, TaskOptions(priority=priority))
    arrays = world.books.sessions[inner.to_bytes(16, "big")].arrays
    assert [array.options.priority for array in arrays.values()] == [5, 9]


def test_functions_that_nest_are_leased_one_by_one() -> None:
    world = Nest()
    world.teach(world.w, world.c, 0.0001)
    token = world.begin(world.c, tasks=100)
    assert world.books.leases[token].size > 1
    world.bind(token)
    world.give_back(world.w, token, (1, 100))
    world.settle(world.w, token, (0, 1), busy_s=0.0001)
    (grant,) = world.grants(world.w)
    assert grant.stop - grant.start == 1
    lease = world.books.leases[grant.token]
    assert (lease.long, lease.brisk) == (True, False)


def test_workers_learn_the_home_of_a_session_first() -> None:
    world = Nest()
    inner = world.inside(world.begin(world.c))
    other = world.worker(bind_key=KEY)
    world.submit(inner, 1, 1)
    home, own = world.got(other, DefineSession)
    assert (home.session, home.home) == (world.c.to_bytes(16, "big"), b"")
    assert (own.session, own.home) == (inner.to_bytes(16, "big"), home.session)
    assert own.environment == home.environment == b"env"


# --- the end --------------------------------------------------------------------------------------


def chain_of_three(world: Nest) -> tuple[Any, Any, Any]:
    """A task, its child and its grandchild, as tokens of leases; the first two wait."""
    top = world.begin(world.c)
    inner = world.inside(top)
    world.say(inner, DefineFunction(FUNCTION, "f", BLOB))
    world.lend(inner)
    child = world.begin(inner)
    deeper = world.inside(child)
    world.lend(deeper)
    return top, child, world.begin(deeper)


@pytest.mark.parametrize("way", ["cancel", "settle", "fail", "give back"])
def test_with_a_task_all_below_it_ends(way: str) -> None:
    world = Nest()
    top, child, grandchild = chain_of_three(world)
    if way == "cancel":
        world.cancel(world.c, 1)
    elif way == "settle":
        world.settle(world.w, top, (0, 1))
    elif way == "fail":
        world.fail(world.w, top, 0, "exception", retriable=False)
    else:
        world.give_back(world.w, top, (0, 1), reason="neighbour")
    cancelled = {message.token for message in world.got(world.w, CancelLease)}
    assert cancelled >= {child, grandchild}
    assert {peer for peer in range(3, world.peers + 1) if world.got(peer, Refused)} == {3, 4}
    assert world.entry.lent == 0
    assert len(world.books.sessions) == 1


def test_a_lost_worker_ends_what_its_tasks_submitted_elsewhere() -> None:
    world = Nest()
    inner = world.inside(world.begin(world.c))
    other = world.worker(bind_key=KEY)
    world.submit(inner, 1, 1)
    (child,) = world.grants(other)
    world.lend(inner)
    world.cut(world.w)
    world.wait(2.5)
    assert world.got(other, CancelLease)[0].token == child.token
    assert len(world.books.sessions) == 1
    world.give_back(other, child.token, (0, 1), reason="cancelled")
    assert world.grants(other), "the parent runs again"


def test_detached_children_go_on_and_others_do_not() -> None:
    world = Nest()
    top = world.begin(world.c)
    inner = world.inside(top)
    world.submit(inner, 1, 1, TaskOptions(detach=True))
    world.submit(inner, 2, 1)
    world.settle(world.w, top, (0, 1))
    (grant,) = world.grants(world.w)
    assert grant.array == (inner.to_bytes(16, "big"), 1)
    world.say(world.c, CloseSession())
    assert world.got(world.w, EndSession)
    world.settle(world.w, grant.token, (0, 1))
    assert not world.books.sessions


def test_a_detached_child_finds_its_home_gone() -> None:
    world = Nest()
    top = world.begin(world.c)
    inner = world.inside(top)
    world.submit(inner, 1, 1, TaskOptions(detach=True))
    world.settle(world.w, top, (0, 1))
    world.say(world.c, CloseSession())
    world.say(world.w, WorkerDraining())
    world.give_back(world.w, next(iter(world.books.leases)), (0, 1), reason="drained")
    other = world.worker()
    (own,) = world.got(other, DefineSession)
    assert own.home == world.c.to_bytes(16, "big")


def test_a_cut_off_client_of_a_task_ends_with_it() -> None:
    world = Nest()
    top = world.begin(world.c)
    inner = world.inside(top)
    world.cut(inner)
    world.settle(world.w, top, (0, 1))
    assert len(world.books.sessions) == 1
    world.wait(99)


def test_a_late_wish_to_lend_is_refused() -> None:
    world = Nest()
    top = world.begin(world.c)
    inner = world.inside(top)
    world.state.receive(world.c, CancelTasks((world.c.to_bytes(16, "big"), 1), ()), world.now)
    world.lend(inner)
    assert world.got(inner, LendRefused)
    assert world.entry.lent == 0


def test_a_session_of_a_task_that_waits_opens_with_the_tasks_python() -> None:
    world = Nest()
    peer = world.bind(world.begin(world.c))
    world.say(peer, OpenSession(b"p" * 16, versions("3.13.0"), "h", 1, "p", b"", resumes=False))
    assert world.books.sessions[b"p" * 16].pool is world.pool
