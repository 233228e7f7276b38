"""What a worker's state machine asks its program to do with slot processes, and what it hears of them.

A *process* here is a slot process from the moment it is taken to the moment it is given back or ends,
named by a number that is never reused. A *run* is a range of one lease handed to one process; it is
named by its process and that process's counter, from 1. A process takes up its runs in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.core.effects import Close, Event
    from distcomp.ids import SessionId, WorkerId
    from distcomp.protocol import DefineBundle, DefineFunction, Message, Refused
    from distcomp.rows import Versions
    from distcomp.worker_protocol import DefineSession, GrantLease


class TakeProcess(NamedTuple):
    """Have a slot process of this session and bundle, an idle one or a new one.

    If none can be had, the program answers `WorkerState.process_refused`.
    """

    process: int
    session: DefineSession
    bundle: DefineBundle | None = None


class GiveBack(NamedTuple):
    """This process has no run and its slot is needed for another session."""

    process: int


class ForgetSession(NamedTuple):
    """Idle processes of this session can go."""

    session: SessionId


class StartRun(NamedTuple):
    """Hand a process the indexes `start` to `stop` of a lease."""

    process: int
    run: int
    function: DefineFunction
    grant: GrantLease
    start: int
    stop: int


class LowerStop(NamedTuple):
    """Take back from `stop` on what the run has not begun.

    The program answers at once with `WorkerState.stop_lowered(command, taken_from, now)`.
    """

    process: int
    run: int
    stop: int
    reason: str


class DumpStacks(NamedTuple):
    """Have the process write its Python stacks, whatever it is doing."""

    process: int


class Interrupt(NamedTuple):
    """Raise in the task that runs, if it is still this one.

    Before it does, the program hands in what was dumped with `WorkerState.stacks_dumped`.
    """

    process: int
    run: int
    task_index: int


class Kill(NamedTuple):
    """Kill the process and all that it started, if it still runs this task."""

    process: int
    run: int
    task_index: int


class Discard(NamedTuple):
    """Kill the process, whatever it does: it was handed runs and begins none."""

    process: int


Command: TypeAlias = (
    TakeProcess | GiveBack | ForgetSession | StartRun | LowerStop | DumpStacks | Interrupt | Kill | Discard
)


class ProcessEnd(NamedTuple):
    """How a slot process ended.

    Attributes:
        text: for people, such as "killed by signal 11 (SIGSEGV)".
        run: the run of which it had begun a task and not ended it; 0 if none.
        task_index: that task's index.
        killed: whether it was by our own `Kill` or `Discard`.
        output: the last that the task printed.
        stacks: the stacks it dumped, asked to or not.
    """

    text: str
    run: int = 0
    task_index: int = -1
    killed: bool = False
    output: str = ""
    stacks: str = ""


class Departure(NamedTuple):
    """The worker is to end.

    Attributes:
        text: why, in one line.
        refused: set if the scheduler would not have it.
        unable: whether it ends because it cannot have slot processes.
    """

    text: str
    refused: Refused | None = None
    unable: bool = False


class WorkerEffects:
    """Effects of a worker. Most turns ask for one thing or two: what is not set stays the class's.

    Attributes:
        commands: what to do with slot processes, in order, before anything is sent.
        sends: messages for the scheduler, in order.
        closes: connections to end, after the sends.
        events: facts for the log.
        wake_at: when the machine wants its next `tick` at the latest, or None.
        registered: the scheduler has just taken this worker in.
        departure: set when the program is to end after its sends.
    """

    commands: Sequence[Command] = ()
    closes: Sequence[Close] = ()
    events: Sequence[Event] = ()
    wake_at: float | None = None
    registered = False
    departure: Departure | None = None

    def __init__(self) -> None:
        self.sends: list[Message] = []

    def follow(self, later: WorkerEffects) -> None:
        """Add effects that came about while the commands were carried out; their commands take the place."""
        self.commands = later.commands
        self.sends += later.sends
        self.closes = (*self.closes, *later.closes)
        self.events = (*self.events, *later.events)
        self.wake_at = later.wake_at
        self.registered = self.registered or later.registered
        self.departure = later.departure or self.departure


class WorkerIdentity(NamedTuple):
    """What a worker says of itself when it registers; `bind_key` is random, and nobody else's to know."""

    worker: WorkerId
    name: str
    host: str
    pid: int
    slots: int
    versions: Versions
    bind_key: bytes = b""
