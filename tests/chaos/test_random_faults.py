"""All kinds of faults, in an order that the seed decides, on one cluster under load."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from faults import Fault, dice
from harness import SCALE, SEED, Run

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from clusters import Programs

FAULTS = int(12 * SCALE)
MOST_PAUSE_S = 0.4
WORKERS = 3
CHANCES = {"slot": 10, "worker": 4, "scheduler": 4, "order": 2, "pause": 3}
"""How often which fault is made, compared with the others."""

SETTINGS = {
    "DISTCOMP_CRASH_LIMIT": "1000",
    "DISTCOMP_LOSS_LIMIT": "1000",
    "DISTCOMP_SILENCE_S": "1.5",
    "DISTCOMP_HEARTBEAT_S": "0.3",
    "DISTCOMP_RECONNECT_GRACE_S": "0.5",
    "DISTCOMP_RESTART_GRACE_S": "1.5",
    "DISTCOMP_BACKOFF_MOST_S": "0.5",
    "CHAOS_DISK_S": "0.005",
}
"""Tasks bear any number of faults, and what is gone is given up soon."""

PAUSED_S = 2.5
ENDS = frozenset({"TaskCrashedError", "TaskLostError"})


def test_random_faults_break_no_promise(cluster: Programs, tmp_path: Path) -> None:
    run, chance = Run(cluster, tmp_path), dice(SEED)
    run.begin(workers=WORKERS, **SETTINGS)
    client = run.load(until=str(run.enough), block=200, lanes=3, seconds=0.004, once_seconds=0.01)
    run.await_progress(100)

    def strike() -> None:
        make_fault(run, chance)
        time.sleep(chance.uniform(0.0, MOST_PAUSE_S))

    run.strike(strike, FAULTS, wanted=FAULTS // 2, in_flight=100)
    run.end(client)
    run.check(run.evidence(may_fail=ENDS), faults=FAULTS // 2, in_flight=100)


def make_fault(run: Run, chance: random.Random) -> None:
    """Make one fault of some kind, and see to it that there are enough programs afterwards."""
    (kind,) = chance.choices(list(CHANCES), list(CHANCES.values()))
    worker, slots = chance.choice(run.workers), run.slots()
    if kind == "slot" and slots:
        run.kill_slot(chance.choice(slots))
    elif kind == "worker":
        run.kill_worker(worker)
        run.add_worker()
    elif kind == "scheduler":
        run.kill_scheduler()
    elif kind == "order":
        run.faults.append(Fault("stop worker", time.monotonic(), time.monotonic()))
        worker.send_signal(signal.SIGTERM)
        run.workers.remove(worker)
        run.add_worker()
    elif kind == "pause":
        at = time.monotonic()
        worker.send_signal(signal.SIGSTOP)
        time.sleep(PAUSED_S)  # the fault itself, not a wait for something
        worker.send_signal(signal.SIGCONT)
        run.faults.append(Fault("pause worker", at, time.monotonic()))
