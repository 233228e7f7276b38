"""Handles whose tasks settle by what others found: the ways between, and what is handed in of them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.adopted_arrays import AdoptedArray
from distcomp.core.client_effects import Failed, Returned
from distcomp.detour_feed import DetourFeed, KnownTasks
from distcomp.detours import MissingTasks, stretches
from distcomp.future_groups import FutureGroup
from distcomp.handles import routes
from distcomp.ids import FunctionId
from distcomp.keeper import settle_found
from distcomp.kinds import MAX_COUNTER
from distcomp.payload import Packed, pack_results
from distcomp.rows import Failure, RunArray, TaskOptions
from distcomp.store import StoredFunction, StoredOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KNOWN = StoredFunction("f", b"digest", "", {})
FAILURE = Failure("exception", text="no")
KEYS = [bytes([number]) * 32 for number in range(20)]


class PlainHost:
    """As much of a client as groups of futures need."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_run = False
        self.inline = None
        self.sinks: dict[int, Any] = {}
        self.posted: list[Callable[[Any], None]] = []

    def post(self, action: Callable[[Any], None]) -> None:
        self.posted.append(action)


def group_of(count: int) -> FutureGroup:
    group = FutureGroup(PlainHost())  # type: ignore[arg-type]  # as much as it needs
    group.detours = []
    for _ in range(count):
        group.add()
    group.open_tasks = count
    return group


def results(*values: Any) -> bytes:
    (packed,) = pack_results(list(values), 0)
    return packed.blob


def missing(group: FutureGroup, *places: int) -> MissingTasks:
    tasks = MissingTasks(group, KNOWN, grows=False)
    tasks.add(places, KEYS[: len(places)])
    tasks.close()
    assert group.detours is not None
    group.detours.append(tasks)
    return tasks


def row(tasks: int, *received: tuple[int, int]) -> RunArray:
    return RunArray(9, FunctionId(b"f" * 32), "f", tasks, 0, 0, closed=True, received=received)


# --- what is missing ------------------------------------------------------------------------------


def test_results_reach_the_places_that_their_tasks_have_in_front() -> None:
    group = group_of(6)
    futures = [future for future in group.futures if future is not None]
    tasks = missing(group, 0, 1, 3, 5)
    tasks.settle(Returned(1, 1, 4, 0, results("a", "b", "d", "f")), [])
    tasks.settle(Failed(1, 0, 1, FAILURE), [])
    assert [future.done() for future in futures] == [True, True, False, True, False, True]
    assert [futures[place].result() for place in (1, 3, 5)] == ["b", "d", "f"]
    assert futures[0].failed()
    assert tasks.open_tasks == 0


def test_a_lost_array_ends_its_front_if_more_was_to_come() -> None:
    for grows, ended in ((True, 4), (False, 2)):
        group = group_of(4)
        futures = [future for future in group.futures if future is not None]
        tasks = MissingTasks(group, KNOWN, grows=grows)
        tasks.add([0, 1], KEYS[:2])
        tasks.settle(Failed(1, 0, MAX_COUNTER, FAILURE), [])
        assert sum(future.done() for future in futures) == ended
        assert tasks.open_tasks == 0


def test_places_are_found_in_both_directions() -> None:
    group = group_of(8)
    tasks = missing(group, 1, 2, 5, 7)
    tasks.counter = 4
    assert tasks.places_of(((0, 3), (3, 5), (5, 8))) == ((0, 2), (2, 4))
    assert list(routes(group, ((3, 5),))) == []
    assert list(routes(group, ((5, 6),))) == [(4, ((2, 3),))]
    assert list(routes(group, ())) == [(4, ())]
    assert [label and label[1] for label in tasks.labels(1, 3)] == KEYS[1:3]


def test_a_task_that_was_said_to_run_runs_in_front() -> None:
    group = group_of(3)
    future = group.futures[2]
    assert future is not None
    missing(group, 2).began([0, 5], [])
    assert future.running()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        ([4], [(0, 1, 4)]),
        ([1, 2, 3], [(0, 3, 1)]),
        ([1, 3, 4, 9], [(0, 1, 1), (1, 3, 3), (3, 4, 9)]),
    ],
)
def test_stretches_are_as_long_as_can_be(places: list[int], expected: list[tuple[int, int, int]]) -> None:
    assert list(stretches(places, 0, len(places))) == expected


# --- what is found --------------------------------------------------------------------------------


def test_what_is_found_settles_in_runs_and_unpacks_a_blob_once(monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_of(5)
    futures = [future for future in group.futures if future is not None]
    first, second = results("a", "b", "c", "d"), results("z")
    opened = []
    from distcomp import handles  # noqa: PLC0415 - to be patched

    unpack = handles.open_results
    monkeypatch.setattr(handles, "open_results", lambda blob: opened.append(blob) or unpack(blob))
    places = [(0, first, 1), (1, first, 2), (3, first, 0), (4, second, 0)]
    settle_found(
        group, [(at, StoredOutcome("f", "", 0.0, blob, position)) for at, blob, position in places], []
    )
    assert [futures[at].result() for at in (0, 1, 3, 4)] == ["b", "c", "a", "z"]
    assert not futures[2].done()
    assert opened == [first, second]


# --- what is adopted ------------------------------------------------------------------------------


def test_claims_settle_with_what_comes_and_the_rest_is_held_until_the_store_has_it() -> None:
    group = group_of(4)
    futures = [future for future in group.futures if future is not None]
    array = AdoptedArray(row(6, (0, 1)))
    assert array.claim(2, group, 0, [])
    assert array.claim(2, group, 1, [])
    assert not array.claim(0, group, 2, [])
    assert not array.claim(6, group, 2, [])
    assert list(routes(group, ((0, 1),))) == [(9, ((2, 3),))]
    assert list(routes(group, ())) == [(9, ((2, 3), (2, 3)))]
    array.began([2, 3], [])
    assert futures[0].running()
    array.settle(Returned(9, 1, 5, 0, results("a", "b", "c", "d", "e")), [])
    assert [futures[at].result() for at in (0, 1)] == ["c", "c"]
    assert array.claim(4, group, 2, [])
    assert futures[2].result() == "e"
    array.let_go(1, 5)
    assert not array.claim(3, group, 3, [])
    assert array.open_tasks == 1


def test_a_failure_that_nobody_has_claimed_is_not_found_again() -> None:
    array = AdoptedArray(row(2))
    array.settle(Failed(9, 0, MAX_COUNTER, FAILURE), [])
    assert array.open_tasks == 0
    assert not array.claim(0, group_of(1), 0, [])


def test_who_collects_an_array_gets_all_of_it() -> None:
    group = group_of(3)
    futures = [future for future in group.futures if future is not None]
    array = AdoptedArray(row(3), group)
    array.began([1], [])
    array.settle(Returned(9, 0, 3, 0, results(1, 2, 3)), [])
    assert [future.result() for future in futures] == [1, 2, 3]
    assert array.label(2) == "[2]"


# --- handing in -----------------------------------------------------------------------------------


class SlowKeeper:
    """A store that takes its time to note what is handed in."""

    notes_first = True

    def __init__(self) -> None:
        self.noted: list[Callable[[Any], None]] = []

    def submitted(self, *given: Any) -> None:
        self.noted.append(given[-1])


class State:
    """What a client's machine was told."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def submit(self, *_given: Any, kept: bool) -> int:
        assert kept
        return 5

    def extend(self, counter: int, tasks: int, chunk: bytes, *, last: bool, single: bool = False) -> None:
        assert single == bool(tasks)
        self.said.append((counter, tasks, chunk, last))

    def cancel(self, counter: int, spans: Sequence[tuple[int, int]]) -> None:
        self.said.append((counter, spans))


def test_tasks_of_a_run_are_sent_in_their_order_when_they_are_noted() -> None:
    group, keeper, state = group_of(4), SlowKeeper(), State()
    host: Any = group.host
    work = KnownTasks((FunctionId(b"f" * 32), "f", b"code"), TaskOptions(), KNOWN)
    feed = DetourFeed(host, keeper, group, work, grows=False)  # type: ignore[arg-type]  # a slow one
    feed.send([0, 1], KEYS[:2], [Packed(0, 2, b"first")])
    feed.send([3], KEYS[2:3], [Packed(0, 1, b"second")])
    feed.close()
    last = group.futures[3]
    assert last is not None
    group.settle(Failed(0, 3, 4, Failure("cancelled")), [])  # while it was looked for
    for action in host.posted:
        action(state)
    assert state.said == []
    keeper.noted[1](state)
    assert state.said == []
    keeper.noted[0](state)
    assert state.said == [
        (5, 2, b"first", False),
        (5, 1, b"second", False),
        (5, ((2, 3),)),
        (5, 0, b"", True),
    ]
    assert host.sinks == {5: feed.tasks}
