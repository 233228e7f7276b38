"""One run of programs under load and faults: what is started, what is done to it, what is known of it.

Everything that is known comes from outside the system: files that tasks and the client write, what the
harness did, what is left of processes; and the journal, read when all is over, as a witness.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from audit import read_journal
from checker import Evidence, Figures, check
from clusters import Programs, until
from faults import Fault, landed
from ledger import begun_count, read_ledger
from load import Plan
from notes import Notes, read_notes
from processes import alive, family
from pulse import standstill_s

from distcomp.access import SchedulerAccess
from distcomp.config import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from audit import Audit

SCALE = float(os.environ.get("CHAOS_SCALE", "1"))
"""How many times as long as in CI a run is. Many runs are better than long ones: see `rounds.py`."""

SEED = int(os.environ.get("CHAOS_SEED", "1"))
"""Has faults come at other moments."""

FOLDER = Path(__file__).resolve().parent
END_S = float(os.environ.get("CHAOS_END_S", "120"))
"""How long a client may take to its end once nothing goes wrong any more."""

GRACES = ("DISTCOMP_SILENCE_S", "DISTCOMP_RECONNECT_GRACE_S", "DISTCOMP_RESTART_GRACE_S")
PATIENT = dict.fromkeys(GRACES, "120")
"""Settings with which nobody is given up because the machine stood still."""

NOTES_UNDER_WAY = 10
"""So many notes at most are taken by now and not written yet."""

MORE_BLOWS = 20
"""So much longer one may strike than was planned, until enough has been hit."""


class Run:
    """One run.

    Args:
        cluster: where its programs are started.
        folder: for the ledger and the notes.

    Attributes:
        ledger, notes, enough: files; the last one tells the client that it may end.
        faults: that were made, in order.
    """

    def __init__(self, cluster: Programs, folder: Path) -> None:
        self.cluster = cluster
        self.ledger = folder / "ledger"
        self.notes = folder / "notes"
        self.enough = folder / "enough"
        self.faults: list[Fault] = []
        self.scheduler: subprocess.Popen[str] | None = None
        self.workers: list[subprocess.Popen[str]] = []
        self._folder = folder
        self._variables: dict[str, str] = {}
        self.port = 0

    # --- programs ---

    def begin(self, *flags: str, workers: int = 1, slots: int = 2, **variables: str) -> None:
        """Start a scheduler and workers, all with the same variables, and wait until it has them."""
        self._variables = variables
        self.scheduler = self.cluster.scheduler("test", *flags, **variables)
        self.port = parse_address(self.cluster.access().addresses[0]).port
        for _ in range(workers):
            self.add_worker(slots)
        until(lambda: self.said().count("worker registered") >= workers, "the workers are there")

    def add_worker(self, slots: int = 2) -> subprocess.Popen[str]:
        """Start one more worker."""
        self.workers.append(self.cluster.worker(slots=slots, **self._variables))
        return self.workers[-1]

    def said(self) -> str:
        """What the present scheduler has printed and logged."""
        assert self.scheduler is not None
        return self.cluster.said(self.scheduler)

    def load(self, **plan: object) -> subprocess.Popen[str]:
        """Start a client; see `load.Plan`."""
        made = Plan(str(self.ledger), str(self.notes), **plan)  # type: ignore[arg-type] # the caller's own words
        path = self._folder / f"plan-{len(self.cluster.running)}.json"
        path.write_text(json.dumps(asdict(made)))
        return self.cluster.script(FOLDER / "load.py", str(path), **self._variables)

    def start_scheduler_again(self, *more: str) -> float:
        """Start a scheduler where one was; gives when it listens, in monotonic seconds."""
        flags = ("--quiet", "--name", "test", "--port", str(self.port), *more)
        if "CHAOS_DISK_S" in self._variables:
            self.scheduler = self.cluster.script(FOLDER / "slow_scheduler.py", *flags, **self._variables)
        else:
            self.scheduler = self.cluster.start("scheduler", *flags, **self._variables)
        scheduler = self.scheduler
        until(
            lambda: "journal " in self.cluster.said(scheduler) or scheduler.poll() is not None, "a scheduler"
        )
        assert scheduler.poll() is None, self.cluster.said(scheduler)
        return time.monotonic()

    def await_workers(self, count: int) -> None:
        """Wait until so many workers have registered at the present scheduler."""
        until(lambda: self.said().count("worker registered") >= count, f"{count} workers")

    # --- faults ---

    def kill_scheduler(self) -> None:
        """Kill it and start it again at once."""
        assert self.scheduler is not None
        at = time.monotonic()
        self.scheduler.kill()
        self.scheduler.wait()
        self.faults.append(Fault("kill scheduler", at, self.start_scheduler_again()))

    def kill_worker(self, worker: subprocess.Popen[str]) -> None:
        """Kill a worker, and with it all that runs there."""
        at, pids = time.monotonic(), _held_still(worker.pid)
        worker.kill()
        worker.wait()
        for pid in pids:
            _signal(pid, signal.SIGCONT)
        until(lambda: not any(map(alive, pids)), "all of the worker's processes end")
        self.faults.append(Fault("kill worker", at, time.monotonic(), frozenset(pids)))
        self.workers.remove(worker)

    def kill_slot(self, pid: int) -> None:
        """Kill a slot process."""
        at = time.monotonic()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.faults.append(Fault("kill slot", at, at, frozenset([pid])))

    def kill_everything(self, client: subprocess.Popen[str]) -> None:
        """Kill client, scheduler and workers, with all that runs in them."""
        at, programs = time.monotonic(), [client, *self.workers]
        if self.scheduler is not None:
            programs.append(self.scheduler)
        pids = {pid for process in programs for pid in _held_still(process.pid)}
        for process in programs:
            process.kill()
        for process in programs:
            process.wait()
        for pid in pids:
            _signal(pid, signal.SIGCONT)
        until(lambda: not any(map(alive, pids)), "all processes end")
        self.faults.append(Fault("kill everything", at, time.monotonic(), frozenset(pids)))

    def strike(
        self, blow: Callable[[], object], times: int, *, wanted: int, in_flight: int, repeats: bool = False
    ) -> None:
        """Strike so often, and then until enough faults have landed, but not for ever.

        Args:
            blow: makes faults.
            times: how often at least.
            wanted: how many faults have to land.
            in_flight: while how many tasks are in flight.
            repeats: and until a task has begun again.
        """
        for number in range(3 * times + MORE_BLOWS):
            if number >= times:
                hits = landed(self.faults, self.read_notes(), in_flight + NOTES_UNDER_WAY)
                began_again = any(len(some) > 1 for some in read_ledger(self.ledger).values())
                if len(hits) >= wanted and (began_again or not repeats):
                    return
            blow()

    def start_everything_again(self, *flags: str) -> None:
        """Start a scheduler and as many workers as there were."""
        self.start_scheduler_again(*flags)
        for _ in range(len(self.workers)):
            self.workers.pop(0)
            self.add_worker()

    def slots(self) -> list[int]:
        """The processes that have begun a task lately and still run."""
        tries = read_ledger(self.ledger)
        recent = {some[-1].pid for number, some in sorted(tries.items())[-200:] if number >= 0}
        return [pid for pid in recent if alive(pid)]

    # --- what is known ---

    def progress(self) -> int:
        """How far the work is: grows with every begin and every end."""
        return begun_count(self.ledger)

    def await_progress(self, records: int) -> None:
        """Wait until so much more was begun or ended."""
        goal = self.progress() + records
        until(lambda: self.progress() >= goal, f"{records} more records in the ledger")

    def await_acknowledgement(self) -> None:
        """Wait until something more is acknowledged."""
        with self.notes.open("rb") as notes:
            place = notes.seek(0, os.SEEK_END)
            until(lambda: notes.seek(place) and b" acknowledged " in notes.read(), "an acknowledgement")

    def standstill_s(self, since: float = 0.0) -> float:
        """How long the machine or its disk has stood still at most."""
        return standstill_s(self._folder / "pulse", since)

    def read_notes(self) -> Notes:
        """What the client has noted by now."""
        return read_notes(self.notes)

    def end(self, client: subprocess.Popen[str], timeout_s: float = END_S) -> None:
        """Let the client come to its end, then stop everything else in order."""
        self.enough.touch()
        try:
            code = client.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = -1
        assert code in (0, -1), self.cluster.said(client)
        self.cluster.stop(END_S)

    def evidence(self, *, audit: bool = True, may_fail: frozenset[str] = frozenset()) -> Evidence:
        """All that is known, once everything has ended."""
        return Evidence(
            read_ledger(self.ledger),
            self.read_notes(),
            self.faults,
            self._audit() if audit else None,
            may_fail,
            unwritten_s=Evidence.unwritten_s + self.standstill_s(),
            leftovers=self._leftovers(),
        )

    def check(self, evidence: Evidence, *, faults: int, in_flight: int) -> Figures:
        """Check it, and say what it was."""
        figures = check(evidence, faults=faults, in_flight=in_flight)
        sys.stdout.write(f"{figures}\n")
        return figures

    def _audit(self) -> Audit:
        path = self.cluster.home / "schedulers" / "test" / "journal.db"
        cluster = SchedulerAccess.open("test").cluster_id
        return read_journal(path, cluster, self._folder / "audited")

    def _leftovers(self) -> list[str]:
        """Tasks that run on although everything was stopped."""
        pids = {each.pid for some in read_ledger(self.ledger).values() for each in some}
        return [f"process {pid} of a task" for pid in sorted(pids) if alive(pid)]


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _held_still(pid: int) -> set[int]:
    """A process and all that descend from it, stopped, so that these are all."""
    stopped: set[int] = set()
    while more := set(family(pid)) - stopped:
        for each in more:
            _signal(each, signal.SIGSTOP)
        stopped |= more
    return stopped
