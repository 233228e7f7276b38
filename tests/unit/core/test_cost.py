"""What one task may cost in the scheduler's machine, counted in calls, which no busy machine changes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from scheduler_world import FUNCTION, PLAIN, SchedulerWorld

from distcomp.protocol import AckOutcomes, Submit
from distcomp.worker_protocol import GrantLease, LeaseSettled

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS_AT_MOST = 80
"""Of Python functions, from the submit of an array of one to its acknowledged outcome; some to spare."""


def calls_of(action: Callable[[], Any]) -> tuple[int, Any]:
    """How many Python functions `action` calls, itself not counted, and what it returns."""
    calls = -1

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        result = action()
    finally:
        sys.setprofile(before)
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
