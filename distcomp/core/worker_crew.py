"""The slots of a worker, the processes at them, and their runs.

Law: a slot has at most one process and a process has exactly one slot from `take` to `release`. A
process is *busy* while it has runs and *idle* otherwise. An idle one keeps its slot until a lease of
another realm needs it, so that the next lease of its own finds it warm. A realm is a session and the
bundle of local modules that tasks need; a process never changes it.

A busy process *lends* its slot while its task waits for tasks that it submitted: there is one more slot
as long, and nothing may wait behind that task. When it goes on, there may be more processes than slots:
nobody idles then, and who comes to idle leaves. The same goes for a worker that has fewer slots than it had.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush, nlargest
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from distcomp.core.escalation import Ending
    from distcomp.core.worker_leases import Lease
    from distcomp.ids import BundleId, SessionId

    Realm: TypeAlias = tuple[SessionId, BundleId]

MOST_RUNS = 6
"""Runs that a process may have at a time, those included of which everything was taken back."""


class RunningRange:
    """A range of one lease at one process.

    Attributes:
        stop: what lies from here on was taken back.
        lowered: why it was last taken back; empty if it never was.
    """

    __slots__ = ("lease", "lowered", "number", "process", "start", "stop")

    def __init__(self, process: Process, number: int, lease: Lease, start: int, stop: int) -> None:
        self.process = process
        self.number = number
        self.lease = lease
        self.start = start
        self.stop = stop
        self.lowered = ""

    def ahead(self) -> int:
        """About how many tasks it has not begun: the first one unanswered is held to have begun."""
        for low, high in self.lease.open:
            if low < self.stop and high > self.start:
                return self.stop - max(low, self.start) - 1
        return 0


class Sight(NamedTuple):
    """What a process was last seen to run; run 0 is nothing."""

    run: int
    task_index: int
    begun_at: float


NOTHING = Sight(0, -1, 0.0)


class Process:
    """A slot process at its slot.

    Attributes:
        runs: what it was handed, the one it runs first.
        sight: what it ran when it was last looked at.
        ending: the end of its task under way.
        stalled: looks in a row at which it had runs and had begun none.
        given_up: it had none for so long that it is to be ended.
        lends: the run and the index of the task that lends the slot, or None.
    """

    __slots__ = (
        "ending",
        "given_up",
        "lends",
        "number",
        "realm",
        "runs",
        "session",
        "sight",
        "slot",
        "stalled",
        "started",
    )

    def __init__(self, number: int, realm: Realm, slot: int) -> None:
        self.number = number
        self.realm = realm
        self.session = realm[0]
        self.slot = slot
        self.runs: list[RunningRange] = []
        self.sight = NOTHING
        self.ending: Ending | None = None
        self.lends: tuple[int, int] | None = None
        self.started = 0
        self.stalled = 0
        self.given_up = False

    def run(self, number: int) -> RunningRange | None:
        """The run of that number, unless it has ended."""
        for run in self.runs:
            if run.number == number:
                return run
        return None

    def has_place_behind(self) -> bool:
        """Whether one run more can be fetched ahead, so that the slot never waits for it between leases."""
        if self.ending is not None or self.lends is not None or len(self.runs) >= MOST_RUNS:
            return False
        return not any(run.start < run.stop and not run.lowered for run in self.runs[1:])


class Crew:
    """All slots and their processes.

    Args:
        slots: how many tasks may run at a time.

    Attributes:
        processes: all by their numbers.
        busy: those that have runs.
        behind: how many runs lie behind another one at their process.
        vacancies: how many slots have no process; below 0 there are more processes than slots.
        lent: how many of the slots are lent by processes.
    """

    def __init__(self, slots: int) -> None:
        self.vacancies = slots
        self.lent = 0
        self._vacant = list(range(slots))
        self._named = slots
        self._idle: OrderedDict[int, Process] = OrderedDict()
        self._numbers = 0
        self.processes: dict[int, Process] = {}
        self.busy: dict[int, Process] = {}
        self.behind = 0

    @property
    def has_room(self) -> bool:
        """Whether a slot has nothing to run."""
        return bool(self._idle) or self.vacancies > 0

    def idle(self, realm: Realm) -> Process | None:
        """The idle process of this realm that was busy last."""
        for process in reversed(self._idle.values()):
            if process.realm == realm:
                return process
        return None

    def oldest_idle(self) -> Process | None:
        """The process that has been idle longest."""
        return next(iter(self._idle.values()), None)

    def idle_processes(self, session: SessionId) -> list[Process]:
        """All idle processes of a session."""
        return [process for process in self._idle.values() if process.session == session]

    def take(self, realm: Realm) -> Process:
        """A new process at a vacant slot, idle; there must be one."""
        self._numbers += 1
        if not self._vacant:
            self._vacant.append(self._named)
            self._named += 1
        self.vacancies -= 1
        process = Process(self._numbers, realm, heappop(self._vacant))
        self.processes[process.number] = self._idle[process.number] = process
        return process

    def release(self, process: Process) -> None:
        """The process leaves its slot."""
        del self.processes[process.number]
        if process.runs:
            del self.busy[process.number]
            self.behind -= len(process.runs) - 1
        else:
            del self._idle[process.number]
        self.go_on(process)
        self.vacancies += 1
        heappush(self._vacant, process.slot)

    def widen(self, slots: int) -> None:
        """There are so many slots more; below 0, fewer."""
        self.vacancies += slots

    def surplus(self) -> list[Process]:
        """As many busy processes as there are beyond the slots, those at the last slots first."""
        busy = [process for process in self.busy.values() if process.lends is None]
        return nlargest(max(0, -self.vacancies), busy, key=lambda process: process.slot)

    def lend(self, process: Process, run: int, task_index: int) -> None:
        """The task of a process waits for others: there is one more slot until it goes on."""
        if process.lends is None:
            self.vacancies += 1
            self.lent += 1
        process.lends = (run, task_index)

    def go_on(self, process: Process) -> None:
        """The task of a process waits no more, if it did."""
        if process.lends is not None:
            process.lends = None
            self.vacancies -= 1
            self.lent -= 1

    def start(self, process: Process, lease: Lease, start: int, stop: int) -> RunningRange:
        """Give a process one more run, behind those it has."""
        process.started += 1
        run = RunningRange(process, process.started, lease, start, stop)
        if process.runs:
            self.behind += 1
        else:
            del self._idle[process.number]
            self.busy[process.number] = process
        process.runs.append(run)
        return run

    def ended(self, run: RunningRange) -> None:
        """A run has ended."""
        process = run.process
        process.runs.remove(run)
        if process.runs:
            self.behind -= 1
        else:
            process.sight = NOTHING
            del self.busy[process.number]
            self._idle[process.number] = process

    def ahead_of(self, realm: Realm, *, urgent: bool) -> Process | None:
        """The busy process of this realm behind whose run another one is likely to begin soonest.

        That is one that was made to come to its next task border, else the one with least before it. One
        that makes way gets nothing but urgent runs: it may be making way for another session. One whose slot
        is no more gets nothing.
        """
        best = None
        fewest = 0
        for process in self.busy.values():
            if process.realm == realm and process.has_place_behind():
                running = process.runs[0]
                makes_way = running.lowered == "urgent"
                if running.lowered == "resized" or (makes_way and not urgent):
                    continue
                ahead = -1 if makes_way else running.ahead()
                if best is None or ahead < fewest:
                    best, fewest = process, ahead
        return best

    def fetched_ahead(self) -> RunningRange | None:
        """A run that waits at a process behind another and was never taken back."""
        for process in self.busy.values():
            run = process.runs[-1]
            if run is not process.runs[0] and not run.lowered:
                return run
        return None

    def least_urgent(self) -> Process | None:
        """The busy process whose run has most before it, of those that run nothing urgent."""
        best = None
        most = 0
        for process in self.busy.values():
            if (
                process.ending is not None
                or process.lends is not None
                or any(run.lease.grant.urgent for run in process.runs)
            ):
                continue
            ahead = 2 * process.runs[0].ahead() + (not process.has_place_behind())
            if ahead > most:
                best, most = process, ahead
        return best
