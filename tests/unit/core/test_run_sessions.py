from __future__ import annotations

from typing import Any

from scheduler_world import BLOB, FUNCTION, SchedulerWorld, versions

from distcomp.protocol import (
    AckOutcomes,
    CloseSession,
    DefineFunction,
    ForgetRun,
    ListRuns,
    OpenSession,
    ReadOutcomes,
    Refused,
    RunDescribed,
    RunForgotten,
    RunsListed,
    SessionOpened,
    Submit,
    SubmitRefused,
    TasksFailed,
    TasksSettled,
)
from distcomp.rows import RunArray, RunRow, TaskOptions
from distcomp.worker_protocol import BindTask

RUN = 77
"""The number of the session that is the run."""


def open_run(world: SchedulerWorld, owner: str = "ann", name: str = "fit", **fields: Any) -> int:
    """Open a run from a new connection, which counts as a process of its own unless a nonce is given."""
    peer = world.connect("client", owner)
    session = fields.get("session", RUN).to_bytes(16, "big")
    nonce = fields.get("nonce", b"%d" % peer)
    opening = OpenSession(
        session,
        versions(fields.get("python", "3.11.4")),
        "h",
        peer,
        "p.py",
        b"env",
        fields.get("resumes", False),
    )
    world.say(peer, opening._replace(run=name, nonce=nonce))
    return peer


def begin_run(world: SchedulerWorld, tasks: int = 3, **fields: Any) -> tuple[int, int]:
    """A worker, and a client whose run has an array with its first task settled."""
    worker, client = world.worker(), open_run(world, **fields)
    world.say(client, DefineFunction(FUNCTION, "f", BLOB))
    world.submit(client, 1, tasks, session=RUN, last=False)
    world.settle(worker, world.grants(worker)[0].token, (0, 1), busy_s=1.0)
    return worker, client


def described(world: SchedulerWorld, peer: int) -> list[RunArray]:
    return [row for message in world.got(peer, RunDescribed) for row in message.arrays]


def refusal(world: SchedulerWorld, peer: int) -> Refused:
    (refused,) = world.got(peer, Refused)
    return refused


def listed(world: SchedulerWorld, peer: int) -> list[RunRow]:
    world.say(peer, ListRuns(5))
    messages = world.got(peer, RunsListed)
    assert [message.more for message in messages] == [True] * (len(messages) - 1) + [False]
    return [row for message in messages for row in message.runs]


def forget(world: SchedulerWorld, peer: int, name: str = "fit", owner: str = "") -> RunForgotten:
    world.say(peer, ForgetRun(6, name, owner))
    (answer,) = world.got(peer, RunForgotten)
    return answer


# --- opening --------------------------------------------------------------------------------------


def test_another_process_goes_on_with_a_run() -> None:
    world = SchedulerWorld()
    _, client = begin_run(world)
    (outcome,) = world.got(client, TasksSettled)
    world.say(client, AckOutcomes((outcome.seq,)))
    world.cut(client)
    other = open_run(world)
    (opened,) = world.got(other, SessionOpened)
    assert opened.known == ()
    (row,) = described(world, other)
    assert row == RunArray(1, FUNCTION, "f", 3, 1, 0, closed=True, received=((0, 1),))


def test_outcomes_come_again_to_whoever_opens_a_run_next() -> None:
    world = SchedulerWorld()
    _, client = begin_run(world)
    (outcome,) = world.got(client, TasksSettled)
    world.say(client, ReadOutcomes((outcome.seq, 99)))
    world.say(client, ReadOutcomes((outcome.seq,)))
    world.cut(client)
    other = open_run(world)
    assert world.got(other, TasksSettled) == [outcome]
    assert described(world, other)[0].received == ()


def test_a_run_goes_on_without_a_process() -> None:
    world = SchedulerWorld()
    worker, client = begin_run(world)
    world.cut(client)
    world.wait(3600.0)
    world.settle(worker, world.books.leases.popitem()[0], (1, 2), busy_s=1.0)
    world.settle(worker, world.grants(worker)[0].token, (2, 3), busy_s=1.0)
    other = open_run(world)
    assert [row.settled for row in described(world, other)] == [3]
    assert len(world.got(other, TasksSettled)) == 3


def test_what_one_process_has_cancelled_is_told_to_the_next() -> None:
    world = SchedulerWorld()
    _, client = begin_run(world)
    world.cancel(client, 1, (1, 2), session=RUN)
    (told,) = world.got(client, TasksFailed)
    assert (told.spans, told.failure.kind) == (((1, 2),), "cancelled")
    world.cancel(client, 1, (1, 2), session=RUN)
    assert world.got(client, TasksFailed) == []
    world.cut(client)
    other = open_run(world)
    assert described(world, other)[0].settled == 2
    assert world.got(other, TasksFailed) == [told]
    world.cancel(other, 1, session=RUN)
    assert [message.spans for message in world.got(other, TasksFailed)] == [((2, 3),)]


def test_what_lacks_its_function_when_another_process_comes_never_runs() -> None:
    world = SchedulerWorld()
    client = open_run(world, nonce=b"same")
    world.submit(client, 1, 2, session=RUN)
    world.cut(client)
    again = open_run(world, nonce=b"same")
    assert world.got(again, TasksFailed) == []
    world.cut(again)
    other = open_run(world)
    (failed,) = world.got(other, TasksFailed)
    assert (failed.spans, failed.failure.kind) == (((0, 2),), "expired")
    assert "never came" in failed.failure.text
    assert described(world, other)[0].settled == 2
    assert world.pool.queue.pending == 0


def test_the_same_process_finds_open_what_it_left_open() -> None:
    world = SchedulerWorld()
    _, client = begin_run(world, nonce=b"same")
    world.cut(client)
    back = open_run(world, nonce=b"same", resumes=True)
    assert not described(world, back)[0].closed
    world.submit(back, 1, 2, session=RUN, start=3)
    again = open_run(world, nonce=b"same", resumes=True)
    assert world.closed == [back]
    assert described(world, again)[0].tasks == 5


def test_a_process_that_leaves_a_run_closes_its_arrays() -> None:
    world = SchedulerWorld()
    worker, client = begin_run(world, tasks=1)
    world.submit(client, 2, 1, session=RUN, last=False)
    world.say(client, CloseSession())
    assert world.closed == [client]
    world.settle(worker, world.books.leases.popitem()[0], (0, 1))
    session = world.books.sessions[RUN.to_bytes(16, "big")]
    assert session.arrays == {}
    assert sorted(session.past) == [1, 2]


def test_one_process_at_a_time_has_a_run() -> None:
    world = SchedulerWorld()
    _, client = begin_run(world)
    refused = refusal(world, open_run(world))
    assert refused.code == "taken"
    assert f"process {client} (p.py) on h has the run 'fit' open" in refused.text


def test_a_run_keeps_its_python() -> None:
    world = SchedulerWorld()
    _, client = begin_run(world)
    world.cut(client)
    refused = refusal(world, open_run(world, python="3.12.1"))
    assert refused.code == "versions"
    assert "begun with Python 3.11, and this process runs Python 3.12.1" in refused.text


def test_a_session_is_that_of_its_run_only() -> None:
    world = SchedulerWorld()
    begin_run(world)
    assert refusal(world, open_run(world, name="other")).code == "role"
    assert refusal(world, open_run(world, session=78)).code == "role"
    plain = world.client("ann")
    assert refusal(world, open_run(world, session=plain)).code == "role"
    assert refusal(world, open_run(world, owner="bob")).code == "role"


def test_an_unknown_run_is_told_from_near_names() -> None:
    world = SchedulerWorld()
    assert refusal(world, open_run(world, resumes=True)).text == "there is no run 'fit' of ann"
    open_run(world, name="fit-2", session=1)
    open_run(world, name="fit-2", session=2, owner="bob")
    open_run(world, name="other", session=3)
    refused = refusal(world, open_run(world, resumes=True))
    assert (refused.code, refused.text) == ("unknown", "there is no run 'fit' of ann; there is 'fit-2'")
    assert refusal(world, open_run(world, name="zzz", resumes=True)).text.endswith(
        "there is 'fit-2', 'other'"
    )


def test_arrays_of_a_run_are_bounded() -> None:
    world = SchedulerWorld(max_run_arrays=2)
    worker, client = begin_run(world, tasks=1)
    world.submit(client, 1, 0, session=RUN, start=1)
    world.submit(client, 2, 1, session=RUN)
    world.submit(client, 3, 1, session=RUN)
    assert world.got(client, SubmitRefused)[0].text == "the run has 2 arrays"
    assert len(world.grants(worker)) == 0


def test_a_long_description_comes_in_parts() -> None:
    world = SchedulerWorld()
    client = open_run(world)
    for array in range(600):
        world.state.receive(client, _empty(array), world.now)
    world.turn()
    session = world.books.sessions[RUN.to_bytes(16, "big")]
    session.receive(7, ((index, index + 1) for index in range(0, 20_000, 2)))
    session.receive(7, ((4, 5),))
    world.cut(client)
    other = open_run(world)
    messages = world.got(other, RunDescribed)
    assert [message.more for message in messages] == [True] * (len(messages) - 1) + [False]
    rows = described(world, other)
    assert {row.number for row in rows} == set(range(600))
    assert sum(len(row.received) for row in rows) == 10_000
    assert max(len(message.arrays) for message in messages) < 600


def _empty(array: int) -> Any:
    return Submit((RUN.to_bytes(16, "big"), array), FUNCTION, TaskOptions(), 0, 0, b"", last=True)


# --- lists ----------------------------------------------------------------------------------------


def test_a_list_says_what_there_is_of_each_run() -> None:
    world = SchedulerWorld(result_retention_s=1000.0)
    _, client = begin_run(world)
    (row,) = listed(world, client)
    process = ("h", client, "p.py")
    assert row == RunRow("ann", "fit", ("f",), 3, 1, 0, 1, 1, 0, 100.0, 0.0, 0.0, *process)
    world.cut(client)
    world.wait(10.0)
    (row,) = listed(world, world.connect("observer", "eve"))
    assert (row.left_at, row.drop_at) == (100.0, 1100.0)


def test_clients_see_the_runs_of_their_owner_only() -> None:
    world = SchedulerWorld()
    for number in range(70):
        open_run(world, name=f"run-{number:02}", session=1000 + number)
    open_run(world, name="secret", session=2000, owner="bob")
    assert len(listed(world, world.connect("client", "ann"))) == 70
    assert [row.run for row in listed(world, world.connect("client", "bob"))] == ["secret"]
    assert len(listed(world, world.connect("observer", "eve"))) == 71
    assert len(listed(world, world.connect("admin", "root"))) == 71
    assert listed(world, world.connect("client", "eve")) == []


# --- ends -----------------------------------------------------------------------------------------


def test_a_run_is_dropped_after_its_retention() -> None:
    world = SchedulerWorld(result_retention_s=100.0)
    _, client = begin_run(world)
    world.cut(client)
    world.wait(99.0)
    assert len(world.books.sessions) == 1
    world.wait(1.0)
    assert world.books.sessions == world.books.runs == {}
    assert world.books.held_bytes == world.books.unread_bytes == 0
    world.wait(200_000.0)
    refused = refusal(world, open_run(world, resumes=True))
    assert refused.code == "unknown"
    assert "dropped, as no process had it open" in refused.text
    assert refused.text.endswith("2 d ago")
    begun = open_run(world)
    assert len(world.got(begun, SessionOpened)) == 1
    assert world.books.ended_runs == {}


def test_an_owner_forgets_a_run_that_nobody_has_open() -> None:
    world = SchedulerWorld()
    worker, client = begin_run(world)
    other = world.connect("client", "ann")
    assert forget(world, other).code == "taken"
    world.cut(client)
    assert forget(world, world.connect("client", "bob"), owner="ann").code == "unknown"
    assert forget(world, other).code == "forgotten"
    assert world.books.sessions == {}
    assert forget(world, other) == RunForgotten(
        6, "unknown", "the run 'fit' was forgotten at its owner's wish 0 s ago"
    )
    assert len(world.books.workers[worker.to_bytes(16, "big")].leases) == 1, "till the worker has stopped it"


def test_an_admin_forgets_runs_of_all_owners() -> None:
    world = SchedulerWorld(max_ended_runs=1)
    for number, name in enumerate(("one", "two")):
        peer = open_run(world, name=name, session=number)
        world.cut(peer)
    admin = world.connect("admin", "root")
    assert forget(world, admin, "one").code == "unknown"
    assert forget(world, admin, "one", "ann").code == "forgotten"
    assert forget(world, admin, "two", "ann").code == "forgotten"
    assert list(world.books.ended_runs) == [("ann", "two")]


def test_tasks_have_no_runs() -> None:
    world = SchedulerWorld()
    name = b"w" * 16
    worker, client = world.worker(name=name, bind_key=b"key"), world.client()
    world.submit(client, 0, 1)
    (grant,) = world.grants(worker)
    child = world.connect("worker")
    world.say(child, BindTask(name, b"key", grant.token, 0))
    world.say(child, OpenSession(b"c" * 16, versions("3.11.4"), "h", 1, "p", b"", False, "fit", b"n"))
    assert refusal(world, child).text == "a task's client has no runs"
