"""A slot process as it is from within (`distcomp.slot`) and to its supervisor (`distcomp.slots`).

Law of the page: before each task the slot writes `begun` and then reads `stop`; whoever lowers `stop`
takes back what lies from `max(stop, begun + 1)` on. A stretch of plain tasks is one event here: what of it
has begun is reckoned when somebody asks.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distcomp.core.worker_effects import ProcessEnd
from distcomp.ids import NO_BUNDLE
from distcomp.kinds import MAX_COUNTER
from distcomp.page import LANES
from distcomp.rows import Failure
from distcomp.slot import SEND_AFTER_NS, SEND_LATE_S
from distcomp.slot_protocol import RunProgressed
from simulator.child import SimChild
from simulator.ledger import demand
from simulator.tasks import VALUE_BYTES, make_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.core.worker_effects import StartRun
    from distcomp.ids import SessionId
    from simulator.ledger import Book
    from simulator.tasks import Special
    from simulator.worker import SimWorker

SEND_AFTER_S = SEND_AFTER_NS / 1e9
SIGNAL_S = 0.0005
SOCKET_S = 0.00005
EXIT_S = 0.001
NOTHING = (0, -1, 0.0)
FAILURE = {"raises": ("exception", True), "refuses": ("exception", False)}


@dataclass(eq=False)
class SlotRun:
    """A run: `stop` is how it was handed over, `limit` what the page allows, `told` what was sent."""

    number: int
    command: StartRun
    book: Book
    stop: int
    limit: int
    begun: int
    told: int
    since: float = 0.0
    values: list[tuple[int, int]] = field(default_factory=list)
    failures: list[tuple[int, Failure]] = field(default_factory=list)


class SimSlot:
    """One slot process of one session."""

    def __init__(self, worker: SimWorker, number: int, session: SessionId, ready_s: float) -> None:
        self.worker, self.number, self.session = worker, number, session
        self.bundle = NO_BUNDLE
        self.clock, self.ledger = worker.clock, worker.world.ledger
        self.runs: dict[int, SlotRun] = {}
        self.alive = True
        self.ready = False
        self.idle_since = self.clock.now
        self.stretch: tuple[float, int, float, int] | None = None
        self._queue: deque[SlotRun] = deque()
        self._run: SlotRun | None = None
        self._begun_at = 0.0
        self._due = self._sent_at = 0.0
        self._event = 0
        self._killed = False
        self._machine = worker.machine
        self._child: SimChild | None = None
        self._machine.after(ready_s, self._be_ready)

    # --- the supervisor's side --------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return self._run is None

    def start_run(self, command: StartRun) -> None:
        demand(len(self.runs) < LANES, "too many runs in one slot process", self.worker.name)
        session = command.grant.array[0]
        home = self.worker.world.home_of(session)
        demand(home == self.session, "a task of another session", self.worker.name)
        book = self.ledger.books[command.grant.array]
        start, stop = command.start, command.stop
        run = SlotRun(command.run, command, book, stop, stop, start - 1, start)
        self.runs[command.run] = run
        self._machine.after(SOCKET_S, self._arrive, run)

    def progress(self) -> tuple[int, int, float]:
        """What the page says: run, task and since when; or nothing."""
        run = self._run
        if run is None or not self._begun_at or not run.command.start <= self._begun(run) < run.stop:
            return NOTHING
        return run.number, self._begun(run), self._begun_since(run)

    def lower_stop(self, number: int, stop: int) -> int:
        run = self.runs.get(number)
        if run is None:
            return MAX_COUNTER
        run.limit = min(run.limit, max(stop, run.command.start))
        taken_from = min(run.stop, max(run.limit, self._begun(run) + 1))
        if self.stretch and run is self._run:
            at, index, seconds, count = self.stretch
            if taken_from < index + count:
                self._plan(at, index, seconds, taken_from - index)
        return taken_from

    def interrupt(self, run: int, index: int) -> None:
        if self.progress()[:2] == (run, index):
            self.clock.after(SIGNAL_S, self._interrupted, run, index)

    def kill(self, run: int, index: int) -> None:
        self.lower_stop(run, index + 1)
        if self.progress()[:2] == (run, index):
            self._killed = True
            self.clock.after(SIGNAL_S, self.die, "killed")

    def _begun(self, run: SlotRun) -> int:
        """The page's `begun` of a run."""
        if run is self._run and self.stretch:
            at, index, seconds, count = self.stretch
            return index + min(count - 1, int((self.clock.now - at) / seconds + 1e-9))
        return run.begun

    def _begun_since(self, run: SlotRun) -> float:
        if self.stretch:
            at, index, seconds, _ = self.stretch
            return at + (self._begun(run) - index) * seconds
        return self._begun_at

    # --- within -----------------------------------------------------------------------------------

    def _be_ready(self) -> None:
        self.ready = True
        self._take_up()

    def _arrive(self, run: SlotRun) -> None:
        self._queue.append(run)
        self._take_up()

    def _take_up(self) -> None:
        if self.alive and self.ready and self._run is None and self._queue:
            run = self._run = self._queue.popleft()
            run.since = self.clock.now
            if run.command.grant.eager:
                self._due = 0.0
            self._come_to(run.command.start)

    def _come_to(self, index: int) -> None:
        """A task border: `begun` is written, and a moment later `stop` is read."""
        run = self._run
        assert run is not None
        run.begun, self._begun_at = index, self.clock.now
        self._then(self.worker.world.weather.border_s, self._look, index)

    def _look(self, index: int) -> None:
        run = self._run
        assert run is not None
        if run.limit <= index:
            self._leave()
            return
        book = run.book
        self.ledger.began(book, index, index + 1, self.worker.python)
        self.worker.begun += 1
        special = book.plan.special.get(index)
        seconds = book.plan.seconds_of(index)
        if special is not None and book.starts[index] <= special.times:
            self._misbehave(seconds, special)
        elif book.plan.below is not None:
            self._event += 1
            self._child = SimChild(self, run, book.plan.below)
        elif len(book.plan.seconds) == 1 and not book.plan.special:
            count = max(1, min(run.limit - index, math.ceil((self._due - self.clock.now) / seconds)))
            self._plan(self.clock.now, index, seconds, count)
        else:
            self._plan(self.clock.now, index, seconds, 1)
        if run.values or run.failures:
            self._machine.after(SEND_LATE_S, self._flush_late, self._event)

    def go_on_after(self, child: SimChild) -> None:
        """What a task waited for has ended."""
        if self.alive and child is self._child:
            self._child = None
            run = self._run
            assert run is not None
            self._then(run.book.plan.seconds_of(run.begun), self._return)

    def _return(self) -> None:
        """A task that has waited for others returns."""
        run = self._run
        assert run is not None
        index = run.begun
        self.ledger.finished(run.book, index, index + 1)
        self._keep(run, index, index + 1)
        self._go_on(run, index + 1)

    def drop_child(self) -> None:
        """A task that waited is no more."""
        child, self._child = self._child, None
        if child is not None:
            child.vanish()

    def _plan(self, at: float, index: int, seconds: float, count: int) -> None:
        self.stretch = (at, index, seconds, count)
        self._event += 1
        self._machine.after(
            max(0.0, at + count * seconds - self.clock.now), self._still, self._event, self._end
        )

    def _end(self) -> None:
        run, stretch = self._run, self.stretch
        assert run is not None
        assert stretch is not None
        _, index, _, count = stretch
        self.stretch = None
        self._note_stretch(run, index, count)
        run.begun = index + count - 1
        self._keep(run, index, index + count)
        self._go_on(run, index + count)

    def _note_stretch(self, run: SlotRun, index: int, count: int) -> None:
        """Tell the ledger that all of a stretch but its first task has begun, and all has finished."""
        if count > 1:
            self.ledger.began(run.book, index + 1, index + count, self.worker.python)
        self.ledger.finished(run.book, index, index + count)

    def _keep(self, run: SlotRun, start: int, stop: int) -> None:
        if run.values and run.values[-1][1] == start:
            run.values[-1] = (run.values[-1][0], stop)
        else:
            run.values.append((start, stop))

    def _go_on(self, run: SlotRun, index: int) -> None:
        """After a task: come to the next, or send first; while it does, the page shows no task."""
        if index < run.stop and self.clock.now < self._due:
            self._come_to(index)
            return
        self._begun_at = 0.0
        self._then(self.worker.world.weather.border_s, self._send_and_go_on, index)
        if self.worker.world.storm.takes_sender():
            self.die("killed from outside")

    def _send_and_go_on(self, index: int) -> None:
        run = self._run
        assert run is not None
        if index >= run.stop:
            self._leave()
        else:
            self._flush(ended=False)
            self._come_to(index)

    def _then(self, delay_s: float, action: Callable[..., None], *arguments: int) -> None:
        """Do something next; nothing else that was to come next will."""
        self._event += 1
        self._machine.after(delay_s, self._still, self._event, action, *arguments)

    def _still(self, event: int, action: Callable[..., None], *arguments: int) -> None:
        if self.alive and event == self._event:
            action(*arguments)

    def _misbehave(self, seconds: float, special: Special) -> None:
        if special.kind in FAILURE:
            self._then(seconds, self._raise)
        elif special.kind == "crashes":
            self._then(seconds, self.die, "crashed")
        else:
            self._event += 1  # it hangs

    def _raise(self) -> None:
        run = self._run
        assert run is not None
        index = run.begun
        special = run.book.plan.special[index]
        kind, retriable = FAILURE[special.kind]
        self.ledger.ended_badly(run.book, index, special.kind)
        run.failures.append((index, Failure(kind, retriable=retriable, text="raised")))
        self._go_on(run, index + 1)

    def _interrupted(self, number: int, index: int) -> None:
        run = self._run
        if not self.alive or run is None or self.progress()[:2] != (number, index):
            return
        special = run.book.plan.special.get(index)
        if special is not None and special.kind == "deaf" and run.book.starts[index] <= special.times:
            return
        self.drop_child()
        self._note_interrupted(run, index)
        self._event += 1
        run.begun = index
        run.failures.append((index, Failure("interrupted", text="interrupted")))
        self._go_on(run, index + 1)

    def _note_interrupted(self, run: SlotRun, index: int) -> None:
        """The task ends by force; its stretch, if it was in one, up to it."""
        if self.stretch:
            _, first, _, _ = self.stretch
            if index > first:
                self._note_stretch(run, first, index - first)
                self._keep(run, first, index)
                self.ledger.began(run.book, index, index + 1, self.worker.python)
            since = self._begun_since(run)
            self.stretch = None
        else:
            since = self._begun_at
        timeout_s = run.book.plan.options.timeout_s
        if timeout_s and self.clock.now - since >= timeout_s:
            self.ledger.ended_badly(run.book, index, "timeout")

    def _flush_late(self, event: int) -> None:
        if self.alive and event == self._event:
            self._flush(ended=False)

    def _flush(self, *, ended: bool) -> None:
        run = self._run
        assert run is not None
        if not (ended or run.values or run.failures):
            return
        grant, size = run.command.grant, run.book.plan.result_bytes
        runs = tuple(
            (start, stop, make_values(grant.chunk, grant.chunk_start, start, stop, size))
            for start, stop in _split(run.values, size)
        )
        stops = [stop for _, stop in run.values] + [index + 1 for index, _ in run.failures]
        run.told = max([run.told, *stops])
        now = self.clock.now
        message = RunProgressed(run.number, runs, tuple(run.failures), now - run.since, run.told, ended)
        run.values, run.failures, run.since = [], [], now
        self._due = 0.0 if grant.eager else now + SEND_AFTER_S
        self.clock.after(SOCKET_S, self.worker.run, self.worker.slot_told, self, message)

    def _leave(self) -> None:
        self._flush(ended=True)
        self._run, self._begun_at = None, 0.0
        self._event += 1
        self.idle_since = self.clock.now
        self._take_up()

    def die(self, text: str) -> None:
        """The process ends here and now; its supervisor hears of it a little later."""
        if not self.alive:
            return
        run, index, since = self.progress()
        current = self._run
        if current is not None:
            self._note_lost(current, run, index, since)
        end = ProcessEnd(text, run, index, killed=self._killed)
        if current is not None:
            current.begun = self._begun(current)
        self.drop_child()
        self.alive, self.stretch = False, None
        self.clock.after(EXIT_S, self.worker.run, self.worker.slot_ended, self, end)

    def _note_lost(self, run: SlotRun, begun: int, index: int, since: float) -> None:
        """Tell the ledger what this end is a reason for."""
        if self.stretch:
            _, first, _, _ = self.stretch
            done = self._begun(run)
            if done > first:
                self._note_stretch(run, first, done - first)
                self._keep(run, first, done)
                self.ledger.began(run.book, done, done + 1, self.worker.python)
        for start, stop in run.values:
            self.ledger.results_lost(run.book, start, stop)
        for failed, _ in run.failures:
            self.ledger.failure_lost(run.book, failed)
        timeout_s = run.book.plan.options.timeout_s
        # A supervisor that wakes up may look at the page of a process that ended long before.
        late = timeout_s > 0 and (self.clock.now - since >= timeout_s or self.worker.frozen)
        if not begun:
            self.ledger.unbegun_deaths += not self._killed
        elif self._killed and late:
            self.ledger.ended_badly(run.book, index, "timeout")
        elif not self._killed:
            self.ledger.ended_badly(run.book, index, "crashes late" if late else "crashes")


def _split(values: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Large results go one by one."""
    if size == VALUE_BYTES:
        return values
    return [(index, index + 1) for start, stop in values for index in range(start, stop)]
