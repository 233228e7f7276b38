"""What one task may cost in the machines of scheduler and client, in calls, which no busy machine changes."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
from scheduler_world import BLOB, FUNCTION, PLAIN, SchedulerWorld, versions
from test_client_state import opened

from distcomp import records
from distcomp.config import SchedulerSettings
from distcomp.core.image import Image
from distcomp.core.scheduler_state import SchedulerState
from distcomp.protocol import Accepted, AckOutcomes, Submit, TasksSettled
from distcomp.worker_protocol import GrantLease, LeaseSettled

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS_AT_MOST = 76
"""Of Python functions, from the submit of an array of one to its acknowledged outcome; some to spare."""

CLIENT_CALLS_AT_MOST = 44
"""The same in the client's machine, without acknowledgement."""

SESSION, WORKER = b"s" * 16, b"w" * 16


def calls_of(action: Callable[[], Any]) -> tuple[int, Any]:
    """How many Python functions `action` calls, itself not counted, and what it returns."""
    calls = -1

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    gc.disable()  # whose callbacks are functions, too
    sys.setprofile(count)
    try:
        result = action()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls, result


def test_an_array_of_one_takes_few_calls() -> None:
    world = SchedulerWorld()
    worker, client = world.worker(2), world.client()
    world.teach(worker, client, 0.001)
    state, now, session = world.state, world.now, client.to_bytes(16, "big")

    def submit() -> Any:
        state.receive(client, AckOutcomes((1,)), now)
        state.receive(client, Submit((session, 1), FUNCTION, PLAIN, 0, 1, b"args", True), now)
        return state.take_effects(now)

    submitting, effects = calls_of(submit)
    (grant,) = (message for message in effects.sends[worker] if type(message) is GrantLease)

    def settle() -> Any:
        state.receive(worker, LeaseSettled(2, grant.token, ((0, 1, b"r"),), (), 0.001, 0), now)
        return state.take_effects(now)

    settling, _ = calls_of(settle)
    assert submitting + settling <= CALLS_AT_MOST


def test_an_array_of_one_takes_few_calls_in_its_client() -> None:
    talk = opened()
    state, array = talk.state, talk.array(2)
    accepted, settled = Accepted(array, 1), TasksSettled(1, array, ((0, 1, b"r"),), ())

    def submit() -> Any:
        state.extend(state.submit(FUNCTION, "f", BLOB, PLAIN), 1, b"args", last=True, single=True)
        state.tick(0.0)
        return state.take_effects()

    submit()  # tells the function, which stays known
    submitting, effects = calls_of(submit)
    assert [type(message) for message in effects.sends[talk.peer]] == [Submit]

    def settle() -> Any:
        state.receive(talk.peer, accepted, 0.0)
        state.receive(talk.peer, settled, 0.0)
        state.tick(0.0)
        return state.take_effects()

    settling, effects = calls_of(settle)
    assert len(effects.outcomes) == 1
    assert submitting + settling <= CLIENT_CALLS_AT_MOST


def waiting(number: int) -> list[records.Record]:
    """An array of one that waits."""
    return [records.TasksAccepted((SESSION, number), FUNCTION, PLAIN, 0, 1, 0, b"args", last=True)]


def under_way(number: int) -> list[records.Record]:
    """An array of one that is leased."""
    return [*waiting(number), records.LeaseGranted((1, number), (SESSION, number), 0, 1, 1, WORKER)]


def ended(number: int) -> list[records.Record]:
    """An array of one that ended, and its client has the result."""
    array, seq = (SESSION, number), number + 1
    end = records.TasksEnded(array, (1, number), seq, ((0, 1),), ((0, 1, b"r"),))
    return [*under_way(number), end, records.OutcomesReceived(SESSION, (seq,))]


def calls_to_recover(told: Callable[[int], list[records.Record]], arrays: int) -> int:
    """How many Python functions are called from a journal's bytes to the books of so many arrays."""
    packed = records.pack(
        [
            records.WorkerCame(WORKER, "w", "h", 1, 2, versions("3.11.4")),
            records.SessionBegan(SESSION, "ann", versions("3.11.4"), "h", 1, "p", b"", 60.0),
            records.FunctionDefined(FUNCTION, "f", BLOB),
            *(record for number in range(arrays) for record in told(number)),
        ]
    )
    state = SchedulerState(SchedulerSettings(), 2, "c", auth=True)

    def recover() -> None:
        image = Image()
        image.replay(records.unpack(packed))
        image.end()
        state.remember(image, "here", 1.0)

    return calls_of(recover)[0]


@pytest.mark.parametrize(("told", "at_most"), [(waiting, 3), (under_way, 37), (ended, 24)])
def test_an_array_of_one_is_recovered_by_few_calls(
    told: Callable[[int], list[records.Record]], at_most: int
) -> None:
    calls_to_recover(told, 1)  # compiles the readers of these records
    more = calls_to_recover(told, 600) - calls_to_recover(told, 100)
    assert more <= 500 * at_most
