"""A worker's state machine with slots that run exactly what a test tells them to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distcomp.config import WorkerSettings
from distcomp.core import worker_effects as do
from distcomp.core.worker_state import WorkerState
from distcomp.ids import FunctionId, Peer, SessionId, WorkerId
from distcomp.protocol import DefineFunction
from distcomp.rows import Failure, Versions
from distcomp.slot_protocol import RunProgressed
from distcomp.worker_protocol import (
    AckSettles,
    DefineSession,
    GrantLease,
    LeaseReturned,
    LeaseSettled,
    WorkerRegistered,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from distcomp.core.effects import Close, Event
    from distcomp.ids import Token
    from distcomp.protocol import Message

EPOCH = 7
SESSION, OTHER = SessionId(b"s" * 16), SessionId(b"o" * 16)
FUNCTION = FunctionId(b"f" * 32)
VERSIONS = Versions("0", "3.11.0", "3")


@dataclass
class SlotRun:
    number: int
    grant: GrantLease
    start: int
    stop: int
    begun: int
    told: int


@dataclass
class SlotSide:
    """One slot process: `begun` of its first run is what the page says."""

    session: SessionId
    runs: list[SlotRun] = field(default_factory=list)
    stacks: str = ""
    interrupted: list[tuple[int, int]] = field(default_factory=list)
    killed: list[tuple[int, int]] = field(default_factory=list)
    dumped: int = 0


class World:
    """Drives a `WorkerState` as the program does, with time and slots in the test's hands."""

    def __init__(self, slots: int = 1, *, connected: bool = True, **settings: Any) -> None:
        self.settings = WorkerSettings(**settings)
        self.state = WorkerState(
            self.settings, do.WorkerIdentity(WorkerId(b"w" * 16), "left", "host", 9, slots, VERSIONS)
        )
        self.now = 100.0
        self.peer = Peer(0)
        self.sent: list[Any] = []
        self.slots: dict[int, SlotSide] = {}
        self.commands: list[do.Command] = []
        self.closes: list[Close] = []
        self.events: list[Event] = []
        self.departure: do.Departure | None = None
        self.registered = 0
        self.discarded: list[int] = []
        self.forgotten: list[SessionId] = []
        self.wake_at: float | None = None
        self.refuses_processes = False
        self._counter = 0
        self.begun_at: dict[int, float] = {}
        self._carry_out: dict[type, Callable[[Any], bool | None]] = {
            do.TakeProcess: self._take_process,
            do.GiveBack: self._give_back,
            do.ForgetSession: self._forget_session,
            do.StartRun: self._start_run,
            do.LowerStop: self._lower_stop,
            do.DumpStacks: self._dump_stacks,
            do.Interrupt: self._interrupt,
            do.Kill: self._kill,
            do.Discard: self._discard,
        }
        if connected:
            self.connect()

    # --- the scheduler's side

    def connect(self, *, stale: tuple[Token, ...] = (), epoch: int = EPOCH, defined: bool = True) -> None:
        self.peer = Peer(self.peer + 1)
        self.state.connect(self.peer, self.now)
        self.receive(WorkerRegistered(epoch, "cluster", stale))
        if defined:
            self.receive(
                define_session(SESSION), define_session(OTHER), DefineFunction(FUNCTION, "f", b"code")
            )

    def disconnect(self) -> None:
        self.state.disconnect(self.peer, self.now)
        self.turn()

    def receive(self, *messages: Message) -> None:
        for message in messages:
            self.state.receive(self.peer, message, self.now)
        self.turn()

    def grant(self, stop: int, **fields: Any) -> Token:
        """Grant `stop` tasks, from index 0 unless told; gives the token."""
        self._counter += 1
        values = {
            "token": (EPOCH, self._counter), "array": (SESSION, 1), "function": FUNCTION, "start": 0,
            "stop": stop, "chunk_start": 0, "chunk": b"chunk", "attempt": 1, "timeout_s": 0.0,
            "priority": 0, "urgent": False, "eager": False, **fields,
        }  # fmt: skip
        self.receive(GrantLease(**values))
        return values["token"]

    def ack_all(self) -> None:
        seqs = [m.seq for m in self.sent if isinstance(m, LeaseSettled | LeaseReturned)]
        self.receive(AckSettles(tuple(seqs)))

    def take(self, *kinds: type[Any]) -> list[Any]:
        """Everything sent of these kinds since it was last asked for."""
        taken = [message for message in self.sent if isinstance(message, kinds)]
        self.sent = [message for message in self.sent if not isinstance(message, kinds)]
        return taken

    def returned(self) -> list[Any]:
        """What was given back, as (token, spans, reason)."""
        return [(m.token, m.spans, m.reason) for m in self.take(LeaseReturned)]

    def settled(self) -> list[Any]:
        """What was settled, as (token, runs without bytes, failures by kind)."""
        return [
            (m.token, [run[:2] for run in m.runs], [(i, f.kind) for i, f in m.failures])
            for m in self.take(LeaseSettled)
        ]

    # --- the program's side

    def turn(self) -> None:
        effects = self.state.take_effects(self.now)
        while self._obey(effects.commands):
            effects.follow(self.state.take_effects(self.now))
        self.sent += effects.sends
        self.closes += effects.closes
        self.events += effects.events
        self.registered += effects.registered
        self.wake_at = effects.wake_at
        self.departure = effects.departure or self.departure

    def _obey(self, commands: Iterable[do.Command]) -> bool:
        answered = False
        for command in commands:
            self.commands.append(command)
            answered = self._carry_out[type(command)](command) or answered
        return answered

    def wait(self, seconds: float) -> None:
        """Let time pass, with ticks exactly when they are asked for."""
        until = self.now + seconds
        while self.wake_at is not None and self.wake_at <= until:
            self.now = max(self.now, self.wake_at)
            self.tick()
        self.now = until

    def tick(self) -> None:
        for number in list(self.state.busy):
            runs = self.slots[number].runs
            if runs and runs[0].begun >= runs[0].start:
                self.state.observe(number, runs[0].number, runs[0].begun, self.begun_at[number])
            else:
                self.state.observe(number, 0, -1, 0.0)
        self.state.tick(self.now)
        self.turn()

    def _take_process(self, command: do.TakeProcess) -> bool:
        if self.refuses_processes:
            self.state.process_refused(command.process, "the template ends at once", self.now)
            return True
        self.slots[command.process] = SlotSide(command.session.session)
        return False

    def _give_back(self, command: do.GiveBack) -> None:
        slot = self.slots.pop(command.process)
        assert not slot.runs

    def _forget_session(self, command: do.ForgetSession) -> None:
        self.forgotten.append(command.session)

    def _start_run(self, command: do.StartRun) -> None:
        slot = self.slots.get(command.process)
        if slot:
            assert slot.session == command.grant.array[0]
            start = command.start
            slot.runs.append(SlotRun(command.run, command.grant, start, command.stop, start - 1, start))

    def _lower_stop(self, command: do.LowerStop) -> bool:
        stop = command.stop
        for run in self.slots[command.process].runs:
            if run.number == command.run:
                run.stop = stop = min(run.stop, max(stop, run.begun + 1))
                self.state.stop_lowered(command, stop, self.now)
        return True

    def _dump_stacks(self, command: do.DumpStacks) -> None:
        self.slots[command.process].dumped += 1

    def _interrupt(self, command: do.Interrupt) -> None:
        slot = self.slots[command.process]
        self.state.stacks_dumped(command.process, slot.stacks)
        slot.interrupted.append((command.run, command.task_index))

    def _kill(self, command: do.Kill) -> None:
        self.slots[command.process].killed.append((command.run, command.task_index))

    def _discard(self, command: do.Discard) -> None:
        self.discarded.append(command.process)

    # --- the slots' side

    def slot(self, place: int = 0) -> int:
        """The number of the process that was taken as the so-manieth of those alive."""
        return list(self.slots)[place]

    def begin(self, place: int = 0, index: int | None = None) -> int:
        """The first run of a process begins its next task, or the one named."""
        run = self.slots[self.slot(place)].runs[0]
        run.begun = run.begun + 1 if index is None else index
        assert run.begun < run.stop
        self.begun_at[self.slot(place)] = self.now
        return run.begun

    def tell(
        self,
        place: int = 0,
        *,
        upto: int | None = None,
        failures: tuple[tuple[int, Failure], ...] = (),
        ended: bool | None = None,
        skip: tuple[int, ...] = (),
    ) -> None:
        """The first run tells its results below `upto` (all by default), except failures and `skip`."""
        number = self.slot(place)
        run = self.slots[number].runs[0]
        upto = run.stop if upto is None else upto
        ended = upto >= run.stop if ended is None else ended
        bad = {index for index, _ in failures} | set(skip)
        results = tuple(
            (index, index + 1, b"r") for index in range(run.told, upto) if index not in bad
        )  # fmt: skip
        if not bad and upto > run.told:
            results = ((run.told, upto, b"r" * (upto - run.told)),)
        run.told = max(run.told, upto)
        run.begun = max(run.begun, upto - 1)
        if ended:
            self.slots[number].runs.pop(0)
        progress = RunProgressed(run.number, results, tuple(failures), 0.5, upto, ended)
        self.state.run_progressed(number, progress, self.now)
        self.turn()

    def die(self, place: int = 0, *, killed: bool = False, idle: bool = False, stacks: str = "") -> None:
        """A process ends; charged is what its first run had begun."""
        number = self.slot(place)
        slot = self.slots.pop(number)
        run = slot.runs[0] if slot.runs and not idle else None
        begun = run is not None and run.begun >= run.start
        end = do.ProcessEnd(
            "killed by signal 11 (SIGSEGV)",
            run.number if begun else 0,
            run.begun if begun else -1,
            killed,
            "printed",
            stacks,
        )
        self.state.process_ended(number, end, self.now)
        self.turn()


def define_session(session: SessionId) -> DefineSession:
    return DefineSession(session, "alice", b"environment")


def interrupted(index: int) -> tuple[int, Failure]:
    return (index, Failure("interrupted", traceback="where it was", output="so far"))
