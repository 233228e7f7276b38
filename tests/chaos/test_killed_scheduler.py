"""The scheduler is killed again and again while clients submit and workers run."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING

import chaos_work
from checker import Evidence
from clusters import until
from faults import pauses
from harness import END_S, PATIENT, SCALE, SEED, Run
from ledger import read_ledger

from distcomp import Client, TaskCrashedError

if TYPE_CHECKING:
    from pathlib import Path

    from clusters import Programs
    from notes import Notes

KILLS = int(20 * SCALE)
TASKS = int(100_000 * SCALE)
COMPACTING_KILLS = math.ceil(4 * SCALE)
COMPACTS = {
    "DISTCOMP_JOURNAL_COMPACT_BYTES": "1",
    "DISTCOMP_JOURNAL_COMPACT_FACTOR": "1.1",
    "DISTCOMP_RESTATE_OBJECTS": "1",
}
"""A journal that is compacted all the time, and slowly, so that it is most often killed meanwhile."""

FIRST_ACK_S = 1.0
IDLE_RESTART_S = 0.6
"""How long a restart takes on a machine that has nothing else to do: a busy one gets more time for all."""


def first_acknowledgements(run: Run, notes: Notes) -> list[float]:
    """How long after each restart the first acknowledgement came."""
    said = sorted(at for some in notes.acknowledged.values() for at, _ in some)
    return [min(at for at in said if at > fault.until) - fault.until for fault in run.faults]


def test_kills_under_load_lose_nothing(cluster: Programs, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path)
    run.begin(workers=2, DISTCOMP_BACKOFF_MOST_S="0.5", CHAOS_DISK_S="0.01")
    client = run.load(until=str(run.enough), tasks=TASKS, block=1000, lanes=3, seconds=0.0002)
    run.await_progress(2000)
    pauses_s = pauses(SEED, 0.0, 0.3)

    def kill() -> None:
        run.kill_scheduler()
        run.await_acknowledgement()
        run.await_progress(TASKS // KILLS)
        time.sleep(next(pauses_s))

    run.strike(kill, KILLS, wanted=KILLS, in_flight=200)
    run.end(client)
    evidence = run.evidence()
    figures = run.check(evidence, faults=KILLS, in_flight=200)
    assert figures.tasks > TASKS
    assert figures.failed == 0
    delays_s = sorted(first_acknowledgements(run, evidence.notes))
    restarts_s = [fault.until - fault.at for fault in run.faults]
    print(f"restarts {statistics.median(restarts_s):.2f} s, first acknowledgement {delays_s[-1]:.2f} s")  # noqa: T201 - figures for people
    slowness = max(1.0, max(restarts_s) / IDLE_RESTART_S)
    assert delays_s[int(0.99 * len(delays_s))] <= FIRST_ACK_S * slowness + run.standstill_s()


def test_kills_while_the_journal_is_compacted_lose_nothing(cluster: Programs, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path)
    run.begin(DISTCOMP_BACKOFF_MOST_S="0.5", **COMPACTS)
    client = run.load(until=str(run.enough), block=300, seconds=0.002)

    def kill() -> None:
        run.await_progress(600)
        run.kill_scheduler()

    run.strike(kill, COMPACTING_KILLS, wanted=COMPACTING_KILLS, in_flight=200)
    until(lambda: "the journal is compacted" in run.said(), "one that nothing interrupts ends")
    run.end(client)
    figures = run.check(run.evidence(), faults=COMPACTING_KILLS, in_flight=200)
    assert figures.failed == 0


def begun_for_s(run: Run, tasks: int) -> float:
    """How long ago the last of so many tasks began; 0 if not all have."""
    begun = [some[-1].began_at for some in read_ledger(run.ledger).values()]
    return time.monotonic() - max(begun) if len(begun) == tasks else 0.0


def test_running_tasks_are_adopted(cluster: Programs, tmp_path: Path) -> None:
    run, gate = Run(cluster, tmp_path), tmp_path / "gate"
    run.begin(workers=2, slots=8, **PATIENT)
    client = run.load(tasks=40, block=20, lanes=2, gate=str(gate), once_block=2, single_s=0.0)
    until(
        lambda: begun_for_s(run, 16) > Evidence.unwritten_s + run.standstill_s(),
        "all slots work, and have for a while",
    )
    for _ in range(math.ceil(3 * SCALE)):
        run.kill_scheduler()
        run.await_workers(2)
    gate.touch()
    run.end(client)
    evidence = run.evidence()
    figures = run.check(evidence, faults=1, in_flight=16)
    adopted = [some for some in evidence.tries.values() if some[0].began_at < run.faults[0].at]
    assert len(adopted) == 16
    assert all(len(some) == 1 for some in adopted)
    assert figures.repeated == 0


def test_a_task_is_charged_for_crashes_before_a_restart(cluster: Programs, tmp_path: Path) -> None:
    run, gate = Run(cluster, tmp_path), tmp_path / "gate"
    run.begin(slots=2, **PATIENT)

    def begun(times: int) -> int:
        """The process of a try, once that has begun."""
        until(lambda: len(read_ledger(run.ledger).get(0, ())) >= times, f"the task has begun {times} times")
        return read_ledger(run.ledger)[0][-1].pid

    with Client(project=False) as client:
        future = client.submit(chaos_work.deadly, str(run.ledger), 0, str(gate))
        for times in (1, 2):
            (tmp_path / f"gate-{begun(times)}").touch()
            begun(times + 1)
            assert client.submit(abs, -1).result(END_S) == 1  # so what came before is durable
            run.kill_scheduler()
            run.await_workers(1)
        (tmp_path / f"gate-{begun(3)}").touch()
        assert isinstance(future.exception(END_S), TaskCrashedError)
    assert len(read_ledger(run.ledger)[0]) == 3
