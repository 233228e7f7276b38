"""What one task may cost in a worker's machine, counted in calls, which no busy machine changes."""

from __future__ import annotations

from typing import Any

from test_cost import calls_of
from worker_world import World

from distcomp.core.worker_effects import StartRun
from distcomp.slot_protocol import RunProgressed
from distcomp.worker_protocol import AckSettles, LeaseSettled

CALLS_AT_MOST = 35
"""Of Python functions, from the grant of one task to the acknowledgement of its outcome; some to spare."""


def test_a_task_alone_takes_few_calls() -> None:
    world = World()
    token = world.grant(1)
    world.tell()
    world.ack_all()
    (first,) = [command for command in world.commands if isinstance(command, StartRun)]
    state, peer, now = world.state, world.peer, world.now
    grant = first.grant._replace(token=(token[0], token[1] + 1))
    progress = RunProgressed(2, ((0, 1, b"r"),), (), 0.1, 1, ended=True)

    def take_up() -> Any:
        state.receive(peer, grant, now)
        return state.take_effects(now)

    def settle() -> Any:
        state.run_progressed(first.process, progress, now)
        return state.take_effects(now)

    granting, effects = calls_of(take_up)
    assert [type(command) for command in effects.commands] == [StartRun]
    settling, effects = calls_of(settle)
    (settled,) = effects.sends
    assert isinstance(settled, LeaseSettled)
    acknowledgement = AckSettles((settled.seq,))
    acknowledging, _ = calls_of(lambda: state.receive(peer, acknowledgement, now))
    assert granting + settling + acknowledging <= CALLS_AT_MOST
