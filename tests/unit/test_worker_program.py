from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from distcomp import access
from distcomp.config import WorkerSettings
from distcomp.core.worker_effects import DumpStacks, GiveBack, Interrupt, Kill, LowerStop
from distcomp.ids import ClusterId
from distcomp.worker import WorkerProgram

if TYPE_CHECKING:
    from distcomp.core.worker_effects import Command

ACCESS = access.Access(
    role="worker",
    owner="pool",
    cluster_id=ClusterId(b"c" * 16),
    cluster_name="test",
    addresses=("tcp://127.0.0.1:1",),
    secret=b"s" * 32,
)
GONE = 7


@pytest.mark.parametrize(
    "command",
    [
        GiveBack(GONE),
        LowerStop(GONE, 1, 0, "drained"),
        DumpStacks(GONE),
        Interrupt(GONE, 1, 0),
        Kill(GONE, 1, 0),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_command_for_a_process_that_ended_meanwhile_is_void(command: Command) -> None:
    program = WorkerProgram(WorkerSettings(), ACCESS, name="w", slots=1, log=lambda *_, **__: None)
    assert not program._obey([command], 0.0)
