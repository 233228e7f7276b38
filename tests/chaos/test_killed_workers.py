"""Workers and slot processes are killed at random, all the time; then all programs are stopped in turn."""

from __future__ import annotations

import math
import signal
import time
from typing import TYPE_CHECKING

from faults import Fault, dice
from harness import END_S, SCALE, SEED, Run

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from clusters import Programs

KILLING_S = 30 * SCALE
EVERY_S = 0.2
WORKERS = 3
ROUNDS = math.ceil(2 * SCALE)

TOUGH = {"DISTCOMP_CRASH_LIMIT": "1000", "DISTCOMP_LOSS_LIMIT": "1000"}
"""Tasks that are hit by many faults do not fail for it: what is asked is that all are done."""

ENDS = frozenset({"TaskCrashedError", "TaskLostError"})
"""How a task may end that must not begin again, when what it ran in was killed."""


def test_random_kills_of_workers_and_slots_lose_nothing(cluster: Programs, tmp_path: Path) -> None:
    run, chance = Run(cluster, tmp_path), dice(SEED)
    run.begin(workers=WORKERS, **TOUGH)
    client = run.load(until=str(run.enough), block=300, lanes=2, seconds=0.005, once_seconds=0.01)
    run.await_progress(100)
    wanted = int(KILLING_S / EVERY_S / 4)

    def kill() -> None:
        due = time.monotonic() + EVERY_S
        slots = run.slots()
        if slots and chance.random() < 0.8:
            run.kill_slot(chance.choice(slots))
        else:
            run.kill_worker(chance.choice(run.workers))
            run.add_worker()
        time.sleep(max(0.0, due - time.monotonic()))

    until = time.monotonic() + KILLING_S
    while time.monotonic() < until:
        kill()
    run.strike(kill, 0, wanted=wanted, in_flight=100)
    run.end(client)
    evidence = run.evidence(may_fail=ENDS)
    run.check(evidence, faults=wanted, in_flight=100)
    killed = {pid for fault in run.faults for pid in fault.pids}
    for got in evidence.notes.got:
        tries = evidence.tries.get(got.number, [])
        assert got.value is not None or not tries or tries[-1].pid in killed


def stop(run: Run, process: subprocess.Popen[str], kind: str) -> None:
    """Stop a program in order, and wait until it has left."""
    at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(END_S) == 0, run.cluster.said(process)
    run.faults.append(Fault(kind, at, time.monotonic()))


def test_stopping_every_program_in_turn_repeats_nothing(cluster: Programs, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path)
    run.begin(workers=2)
    client = run.load(until=str(run.enough), block=300, lanes=2, seconds=0.005, once_seconds=0.01)

    def stop_all() -> None:
        for worker in run.workers.copy():
            run.await_progress(100)
            registered = run.said().count("worker registered")
            run.add_worker()
            run.await_workers(registered + 1)
            stop(run, worker, "stop worker")
            run.workers.remove(worker)
        run.await_progress(100)
        assert run.scheduler is not None
        stop(run, run.scheduler, "stop scheduler")
        run.start_scheduler_again()

    run.strike(stop_all, ROUNDS, wanted=3 * ROUNDS, in_flight=100)
    run.end(client)
    figures = run.check(run.evidence(), faults=3 * ROUNDS, in_flight=100)
    assert figures.failed == 0
    assert figures.repeated == 0
