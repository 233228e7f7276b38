"""How leases become runs at slot processes, and how runs become answers.

Facts come in (`grant`, `progressed`, `process_ended`, `stop_lowered`, ...), change the book and the
crew, and leave answers in the outbox; `dispatch` alone hands out runs. Commands gather in `commands`.

Why a run is lowered decides where what was taken goes:

    retracted, waited, drained,   back to the scheduler, under that name
      resized
    urgent, moved, ending         among the leases that wait here
    cancelled                     the cancelled part back to the scheduler, the rest waits here
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from distcomp.core.escalation import Cause, Ending
from distcomp.core.spans import Span, contains, cut, overlap
from distcomp.core.worker_crew import Crew, Process, RunningRange, Sight
from distcomp.core.worker_effects import (
    Command,
    Discard,
    ForgetSession,
    GiveBack,
    Kill,
    LowerStop,
    ProcessEnd,
    StartRun,
    TakeProcess,
    WorkerIdentity,
)
from distcomp.ids import SessionId
from distcomp.rows import Failure, RunningTask

if TYPE_CHECKING:
    from distcomp.config import WorkerSettings
    from distcomp.core.worker_leases import Lease, LeaseBook, Shelf
    from distcomp.core.worker_outbox import Failures, Outbox
    from distcomp.ids import FunctionId
    from distcomp.slot_protocol import RunProgressed
    from distcomp.worker_protocol import GrantLease

GIVEN_BACK = frozenset({"retracted", "waited", "drained", "resized"})

UNBEGUN_DEATHS = 3
"""Slot processes that end between tasks of a function, none of which succeeds, before tasks are charged."""


class Runs:
    """The leases of a worker at work.

    Args:
        settings: of the worker.
        identity: for the failures' words.
        book: all leases.
        shelf: definitions of sessions and functions.
        outbox: where answers go.

    Attributes:
        crew: the slots.
        ending: the ends of tasks under way, by process.
        commands: what to do with slot processes.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        identity: WorkerIdentity,
        book: LeaseBook,
        shelf: Shelf,
        outbox: Outbox,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._book = book
        self._shelf = shelf
        self._outbox = outbox
        self._refused_until = 0.0
        self._stalled_most = 1 + ceil(settings.prepare_s / settings.check_interval_s)
        self._deaths: dict[FunctionId, int] = {}
        self.ending: dict[int, Ending] = {}
        self.crew = Crew(identity.slots)
        self.commands: list[Command] = []

    # --- handing out ------------------------------------------------------------------------------

    def grant(self, grant: GrantLease, now: float) -> None:
        """Take up a lease. An urgent one makes a slot come to its next task border."""
        lease = self._book.add(grant, now)
        home = self._shelf.sessions[grant.array[0]].home
        if home:
            lease.realm = (SessionId(home), grant.bundle)
        if grant.urgent and not self.crew.has_room:
            process = self.crew.least_urgent()
            if process is not None:
                self._lower_all(process, "urgent")

    def dispatch(self, now: float) -> None:
        """Hand out what waits: first to slots with nothing to run, then one run ahead to busy ones."""
        queue, crew = self._book.queue, self.crew
        if queue and not self._outbox.full:
            self._hand_out(queue, now)
        if not queue and crew.behind and crew.has_room and (run := crew.fetched_ahead()):
            run.lowered = "moved"
            self._lower(run, run.start, "moved")

    def _hand_out(self, queue: list[Lease], now: float) -> None:
        crew = self.crew
        for lease in list(queue):
            grant, waiting = lease.grant, lease.waiting
            function = self._shelf.functions.use(grant.function)
            if function is None or (grant.bundle and self._shelf.lacks_bundle(grant.bundle)):
                continue
            while waiting:
                process = crew.idle(lease.realm) or self._other_process_for(lease, now)
                if process is None:
                    break
                start, stop = waiting.pop(0)
                run = crew.start(process, lease, start, stop)
                self.commands.append(StartRun(process.number, run.number, function, grant, start, stop))
            else:
                queue.remove(lease)

    def _other_process_for(self, lease: Lease, now: float) -> Process | None:
        """A new process for a lease, or one that is busy: none of its realm is idle."""
        crew, realm = self.crew, lease.realm
        if not crew.has_room:
            return crew.ahead_of(realm, urgent=lease.grant.urgent)
        if now < self._refused_until:
            return None
        if crew.vacancies <= 0 and (oldest := crew.oldest_idle()):
            self.let_go(oldest)
        process = crew.take(realm)
        session, bundle = realm
        definition = self._shelf.sessions[lease.session]._replace(session=session, home=b"")
        self.commands.append(TakeProcess(process.number, definition, self._shelf.bundles.use(bundle)))
        return process

    def let_go(self, process: Process) -> None:
        """Give an idle process back, so that its slot is vacant."""
        self.crew.release(process)
        self.commands.append(GiveBack(process.number))

    def lend(self, lease: Lease, index: int) -> None:
        """A task waits for tasks that it submitted: one more may run here, and none behind it."""
        for run in self._runs_of(lease):
            if run.start <= index < run.stop and run is run.process.runs[0]:
                self.crew.lend(run.process, run.number, index)
                for each in run.process.runs:
                    self._lower(each, index + 1 if each is run else each.start, "retracted")

    def go_on(self, lease: Lease, index: int) -> None:
        """A task waits no more."""
        for run in self._runs_of(lease):
            if run.process.lends == (run.number, index):
                self.crew.go_on(run.process)
        self._trim()

    def _trim(self) -> None:
        """Give back idle processes as long as there are more processes than slots."""
        while self.crew.vacancies < 0 and (oldest := self.crew.oldest_idle()):
            self.let_go(oldest)

    def widen(self, slots: int) -> None:
        """There are so many slots more; below 0, fewer: then what has not begun at those goes back."""
        self.crew.widen(slots)
        self._trim()
        surplus = self.crew.surplus()
        for process in surplus:
            self._lower_all(process, "resized")
        if surplus:
            for lease in list(self._book.queue):
                self.return_waiting(lease, "resized")

    # --- taking back ------------------------------------------------------------------------------

    def retract(self, lease: Lease, *, everything: bool) -> None:
        """Give back what waits; if nothing does, the far half of what is not begun, or all of it."""
        runs = self._runs_of(lease)
        if lease.waiting:
            self._give_back(lease, lease.waiting, "retracted")
            if not everything and any(run is run.process.runs[0] for run in runs):
                return
        for run in runs:
            if everything or run is not run.process.runs[0]:
                self._lower(run, run.start, "retracted")
            elif ahead := run.ahead():
                self._lower(run, run.stop - (ahead + 1) // 2, "retracted")

    def cancel(self, lease: Lease, spans: list[Span]) -> None:
        """End these indexes: at once what waits, and by lowering and force what runs."""
        waiting = lease.cancel(spans)
        if waiting:
            self._give_back(lease, waiting, "cancelled")
        for run in self._runs_of(lease):
            parts = overlap(lease.cancelled, run.start, run.stop)
            if parts:
                self._lower(run, parts[0][0], "cancelled")

    def return_waiting(self, lease: Lease, reason: str) -> None:
        """Give back what waits of a lease."""
        self._give_back(lease, list(lease.waiting), reason)

    def return_unbegun(self, reason: str) -> None:
        """Give back all that has not begun, of all leases."""
        for lease in list(self._book.queue):
            self.return_waiting(lease, reason)
        for process in self.crew.busy.values():
            self._lower_all(process, reason)

    def stop_lowered(self, command: LowerStop, taken_from: int, now: float) -> None:
        """What a lowered run will not begin goes where the command's reason says."""
        process = self.crew.processes.get(command.process)
        run = process.run(command.run) if process else None
        if process is None or run is None:
            return
        if taken_from < run.stop:
            spans = overlap(run.lease.open, taken_from, run.stop)
            run.stop = taken_from
            run.lowered = command.reason
            self._take_back(run.lease, spans, command.reason, now)
        begun = taken_from - 1
        if (
            command.reason == "cancelled"
            and begun >= command.stop
            and run is process.runs[0]
            and contains(run.lease.cancelled, begun)
        ):
            self._end_task(run, begun, "cancelled", now)

    def _lower(self, run: RunningRange, stop: int, reason: str) -> None:
        self.commands.append(LowerStop(run.process.number, run.number, stop, reason))

    def _lower_all(self, process: Process, reason: str) -> None:
        for run in process.runs:
            run.lowered = reason
            self._lower(run, run.start, reason)

    def _take_back(self, lease: Lease, spans: list[Span], reason: str, now: float) -> None:
        """Open indexes came back from a run, not begun."""
        cancelled = [part for start, stop in spans for part in overlap(lease.cancelled, start, stop)]
        for start, stop in cancelled:
            cut(spans, start, stop)
        if cancelled:
            self._give_back(lease, cancelled, "cancelled")
        if spans and reason in GIVEN_BACK:
            self._give_back(lease, spans, reason)
        elif spans:
            lease.wait(spans, now)
            self._book.settle_place(lease)

    def _give_back(self, lease: Lease, spans: list[Span], reason: str) -> None:
        answered = [part for start, stop in list(spans) for part in lease.answer(start, stop)]
        if answered:
            self._outbox.give_back(lease.grant.token, answered, reason)
        self._book.settle_place(lease)

    def _runs_of(self, lease: Lease) -> list[RunningRange]:
        return [run for process in self.crew.busy.values() for run in process.runs if run.lease is lease]

    # --- what slots tell --------------------------------------------------------------------------

    def progressed(self, number: int, progress: RunProgressed, now: float) -> None:
        """A run told outcomes, or that it is over."""
        process = self.crew.processes.get(number)
        run = process.run(progress.run) if process else None
        if process is None or run is None:
            return
        lease = run.lease
        process.stalled = 0
        if progress.runs or progress.failures:
            self._settle(run, progress)
        ending = process.ending
        if (
            ending is not None
            and ending.run == progress.run
            and (progress.ended or progress.reached > ending.task_index)
        ):
            process.ending = None
            del self.ending[number]
        if process.lends is not None and (progress.ended or progress.reached > process.lends[1]):
            self.crew.go_on(process)
        if progress.ended:
            self.crew.ended(run)
            if lease.open:
                left = overlap(lease.open, run.start, run.stop)
                self._take_back(lease, left, run.lowered or "retracted", now)
            if not process.runs and process.session not in self._shelf.sessions:
                self.let_go(process)
                self.commands.append(ForgetSession(process.session))
        if self.crew.vacancies < 0:
            self._trim()

    def _settle(self, run: RunningRange, progress: RunProgressed) -> None:
        lease, runs, failures = run.lease, progress.runs, progress.failures
        if failures:
            failures = self._completed(run, failures)
        if self._deaths and runs:
            self._deaths.pop(lease.grant.function, None)
        answered = False
        for start, stop, _ in runs:
            if lease.answer(start, stop):
                answered = True
        for index, _ in failures:
            if lease.answer(index, index + 1):
                answered = True
        if answered:
            self._outbox.settle(lease.grant.token, runs, failures, progress.busy_s, run.process.slot)
        if not lease.open:
            self._book.settle_place(lease)

    def _completed(self, run: RunningRange, failures: Failures) -> Failures:
        """The failures with what only the worker knows; a cancelled task's is no failure."""
        completed = []
        ending = run.process.ending
        for index, failure in failures:
            told = failure
            if failure.kind == "interrupted":
                if ending is None or ending.cause == "cancelled":
                    self._give_back(run.lease, [(index, index + 1)], "cancelled")
                    continue
                told = ending.failure(failure)
            completed.append((index, self._signed(told, run.lease)))
        return tuple(completed)

    def _signed(self, failure: Failure, lease: Lease) -> Failure:
        return failure._replace(
            host=self._identity.host, worker=self._identity.name, attempt=lease.grant.attempt
        )

    def process_ended(self, number: int, end: ProcessEnd, now: float) -> None:
        """A process is gone. Only the task that it had begun is charged, and not if we killed it."""
        process = self.crew.processes.get(number)
        if process is None:
            return
        runs = process.runs
        reason = "unprepared" if process.given_up else "neighbour"
        self.crew.release(process)
        self.ending.pop(number, None)
        begun = next((place for place, run in enumerate(runs) if run.number == end.run), 0)
        for place, run in enumerate(runs):
            spans = overlap(run.lease.open, run.start, run.stop)
            if place > begun:
                self._take_back(run.lease, spans, "moved", now)
                continue
            if run.number == end.run:
                self._charge(run, end)
            elif not end.run and spans and (run.lease.grant.eager or not end.killed):
                self._count_death(run, spans[0][0], end)
            self._give_back(run.lease, spans, reason)

    def _charge(self, run: RunningRange, end: ProcessEnd) -> None:
        lease, index, ending = run.lease, end.task_index, run.process.ending
        if not contains(lease.open, index):
            return
        if ending is not None and (ending.run, ending.task_index) == (run.number, index):
            if ending.cause == "cancelled":
                self._give_back(lease, [(index, index + 1)], "cancelled")
                return
            failure = ending.failure(Failure("", output=end.output, stacks=end.stacks))
        elif end.killed and not lease.grant.eager:
            return
        else:
            text = f"the process that ran the task was lost: {end.text}"
            failure = Failure("crashed", text=text, output=end.output, stacks=end.stacks)
        lease.answer(index, index + 1)
        failures = ((index, self._signed(failure, lease)),)
        self._outbox.settle(lease.grant.token, (), failures, 0.0, run.process.slot)
        self._book.settle_place(lease)

    def _count_death(self, run: RunningRange, index: int, end: ProcessEnd) -> None:
        """A process ended between tasks. Nobody is charged, unless that is how this function always ends.

        A task of an eager lease is, because it may have run, and might not be allowed to start again.
        """
        function = run.lease.grant.function
        deaths = self._deaths.get(function, 0) + 1
        self._deaths[function] = deaths
        if deaths >= UNBEGUN_DEATHS or run.lease.grant.eager:
            self._charge(run, end._replace(run=run.number, task_index=index))

    def process_refused(self, number: int, now: float) -> bool:
        """No process could be had: its leases go back, and none is asked for within a while.

        Returns:
            Whether this was the first of those that were asked for at the same time.
        """
        process = self.crew.processes.get(number)
        if process is None:
            return False
        is_first = now >= self._refused_until
        self._refused_until = now + self._settings.process_retry_s
        self.crew.release(process)
        for run in process.runs:
            self._give_back(run.lease, overlap(run.lease.open, run.start, run.stop), "unprepared")
        return is_first

    # --- what time tells --------------------------------------------------------------------------

    def observe(self, number: int, sight: Sight) -> None:
        """What a process was seen to run just now."""
        process = self.crew.processes.get(number)
        if process is not None:
            process.sight = sight

    def stacks_dumped(self, number: int, stacks: str) -> None:
        """What a process dumped, for the failure of the task that is being ended there."""
        process = self.crew.processes.get(number)
        if process is not None and process.ending is not None:
            process.ending.stacks = stacks

    def check(self, now: float) -> None:
        """End what runs too long, and go on with what is being ended. Discard what begins nothing."""
        for process in list(self.crew.busy.values()):
            if process.ending is not None:
                self.commands += process.ending.due(now)
                continue
            run = process.run(process.sight.run)
            process.stalled = process.stalled + 1 if run is None else 0
            if process.stalled >= self._stalled_most and not process.given_up and not self._takes_in(process):
                process.given_up = True
                self.commands.append(Discard(process.number))
            timeout_s = run.lease.grant.timeout_s if run else 0.0
            if run is not None and timeout_s and now - process.sight.begun_at >= timeout_s:
                self._end_task(run, process.sight.task_index, "timeout", now)

    def _takes_in(self, process: Process) -> bool:
        """Whether a process that has begun nothing may still be reading large arguments."""
        settings = self._settings
        size_bytes = max((len(run.lease.grant.chunk) for run in process.runs), default=0)
        waited_s = (process.stalled - self._stalled_most) * settings.check_interval_s
        return waited_s < size_bytes / settings.intake_bytes

    def return_overdue(self, now: float) -> None:
        """Give back what has waited too long behind something else."""
        oldest = now - self._settings.waiting_lease_s
        for lease in list(self._book.queue):
            if lease.waiting_since <= oldest and self._is_prepared(lease):
                self.return_waiting(lease, "waited")
            elif lease.waiting_since <= now - self._settings.prepare_s:
                self.return_waiting(lease, "unprepared")
        for process in self.crew.busy.values():
            for run in process.runs[1:]:
                if run.lease.waiting_since <= oldest:
                    self._lower(run, run.start, "waited")

    def _is_prepared(self, lease: Lease) -> bool:
        """Whether what the lease needs besides a slot is here."""
        grant = lease.grant
        return self._shelf.functions.use(grant.function) is not None and not self._shelf.lacks_bundle(
            grant.bundle
        )

    def running(self, now: float, longer_than_s: float) -> tuple[RunningTask, ...]:
        """The tasks that have run for so long."""
        since = now - longer_than_s
        return tuple(
            RunningTask(run.lease.grant.token, process.sight.task_index, now - process.sight.begun_at)
            for process in self.crew.busy.values()
            if process.sight.run
            and process.sight.begun_at <= since
            and (run := process.run(process.sight.run)) is not None
        )

    def next_at(self) -> float | None:
        """When a task that is being ended needs its next step."""
        steps = [ending.next_at for ending in self.ending.values()]
        return min((at for at in steps if at is not None), default=None)

    def _end_task(self, run: RunningRange, index: int, cause: Cause, now: float) -> None:
        process = run.process
        if process.ending is not None:
            return
        timeout_s = run.lease.grant.timeout_s
        task = Kill(process.number, run.number, index)
        process.ending = Ending(task, cause, timeout_s, now, self._settings)
        self.ending[process.number] = process.ending
        for each in process.runs:
            self._lower(each, index + 1 if each is run else each.start, "ending")
        self.commands += process.ending.due(now)
