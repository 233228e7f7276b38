"""Programs that stop for longer than their peers wait for them, and then go on as if nothing had been."""

from __future__ import annotations

import math
import os
import signal
import time
from typing import TYPE_CHECKING

from clusters import until
from faults import Fault
from harness import SCALE, Run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from clusters import Programs

STOPPED_S = float(os.environ.get("CHAOS_STOPPED_S", "4"))
"""How long each program stands still; with 20 all settings are the defaults."""

SILENCE = {
    "DISTCOMP_SILENCE_S": f"{STOPPED_S / 2:g}",
    "DISTCOMP_HEARTBEAT_S": f"{STOPPED_S / 10:g}",
    "DISTCOMP_RECONNECT_GRACE_S": f"{STOPPED_S / 10:g}",
}
ROUNDS = math.ceil(SCALE)


def pause(
    run: Run, process: subprocess.Popen[str], kind: str, noticed: Callable[[], bool] = lambda: True
) -> None:
    """Stop a program for longer than its peers wait, and until they have noticed, and let it go on."""
    at = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_S)  # the fault itself, not a wait for something
    until(noticed, f"{kind} is noticed")
    process.send_signal(signal.SIGCONT)
    run.faults.append(Fault(kind, at, time.monotonic()))


def test_programs_that_stood_still_bring_nothing_stale(cluster: Programs, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path)
    run.begin(workers=2, slots=1, **SILENCE)
    client = run.load(
        until=str(run.enough), block=60, lanes=2, seconds=0.02, once_block=4, once_seconds=0.02, single_s=0.05
    )
    run.await_progress(50)

    def pause_each() -> None:
        lost, registered = (run.said().count(f"worker {what}") for what in ("lost", "registered"))
        pause(run, run.workers[0], "stop worker", lambda: run.said().count("worker lost") > lost)
        until(lambda: run.said().count("worker registered") > registered, "the worker is back")
        run.await_progress(50)
        assert run.scheduler is not None
        pause(run, run.scheduler, "stop scheduler")
        run.await_progress(50)
        pause(run, client, "stop client")
        run.await_progress(50)

    run.strike(pause_each, ROUNDS, wanted=3 * ROUNDS, in_flight=30, repeats=True)
    run.end(client)
    evidence = run.evidence(may_fail=frozenset({"TaskLostError"}))
    figures = run.check(evidence, faults=3 * ROUNDS, in_flight=30)
    assert figures.repeated > 0
