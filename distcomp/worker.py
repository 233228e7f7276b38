"""The worker: one connection to the scheduler, slot processes, and the state machine between them.

Everything is decided in `distcomp.core.worker_state`. This program moves messages, what slots tell and
time into it, and carries out the effects: a grant leaves for its slot in the turn in which it came, and
an outcome for the scheduler likewise.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any

from distcomp import transport
from distcomp.auth import ClientHandshake
from distcomp.config import Address, parse_address
from distcomp.core.worker_effects import (
    Departure,
    Discard,
    DumpStacks,
    ForgetSession,
    GiveBack,
    Interrupt,
    Kill,
    LowerStop,
    ProcessEnd,
    StartRun,
    TakeProcess,
    WorkerIdentity,
)
from distcomp.core.worker_state import WorkerState
from distcomp.errors import ConnectError, RoleError, SlotsUnavailableError, VersionMismatchError
from distcomp.ids import Peer, WorkerId
from distcomp.inside import TASK_OVER
from distcomp.rows import Versions
from distcomp.slot_process import refuse
from distcomp.slots import SlotEnd, SlotPool, SlotProcess
from distcomp.task_links import TaskLinks
from distcomp.versions import installed_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from distcomp.access import Access
    from distcomp.config import WorkerSettings
    from distcomp.protocol import Message
    from distcomp.slot_protocol import RunLogged, RunProgressed

WITHOUT_STINT = frozenset({TakeProcess, ForgetSession})
"""Commands that are for no slot process that was taken."""

REFUSALS: dict[str, type[ConnectError]] = {"role": RoleError, "versions": VersionMismatchError}
"""What a final refusal of the scheduler is raised as."""


class Stint:
    """A slot process from `take` to `give_back` or its end, under the number the state machine gave it.

    Attributes:
        runs_before: what the process counted before this stint.
    """

    __slots__ = ("number", "process", "runs_before")

    def __init__(self, number: int, process: SlotProcess) -> None:
        self.number = number
        self.process = process
        self.runs_before = process.started


class WorkerProgram:
    """A worker from start to exit.

    Args:
        settings: of the worker.
        access: how to reach the scheduler, as which role and owner.
        name: what people call this worker.
        slots: how many tasks may run at a time.
        log: takes facts as `log(level, text, **values)`.
        on_registered: called whenever the scheduler has taken this worker in.

    Example:
        `await WorkerProgram(WorkerSettings(), access, name="left", slots=8, log=log).run()`
    """

    def __init__(
        self,
        settings: WorkerSettings,
        access: Access,
        *,
        name: str,
        slots: int,
        log: Callable[..., None],
        on_registered: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._access = access
        self._log = log
        self._on_registered = on_registered
        self._state = WorkerState(
            settings,
            WorkerIdentity(
                worker=WorkerId(secrets.token_bytes(16)),
                name=name,
                host=socket.gethostname(),
                pid=os.getpid(),
                slots=slots,
                versions=Versions(*installed_versions()),
                bind_key=secrets.token_bytes(32),
            ),
        )
        self._links = TaskLinks(settings, access, log)
        self._pool = SlotPool(
            settings.slot,
            self,
            slots=slots,
            max_payload_bytes=settings.wire.max_payload_bytes,
            variables=settings.wire.variables(),
        )
        self._stints: dict[int, Stint] = {}
        self._stints_of: dict[SlotProcess, Stint] = {}
        self._connection: transport.Connection | None = None
        self._lost = asyncio.Event()
        self._broken: Exception | None = None
        self._peers = 0
        self._turn_is_due = False
        self._alarm = transport.Alarm(self._tick)
        self._alarm_at: float | None = None  # what it was last set to; None since it rang
        self._departed: asyncio.Future[Departure] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._carry_out: dict[type[Any], Callable[[Any, float], bool]] = {
            TakeProcess: self._take_process,
            GiveBack: self._give_back,
            ForgetSession: self._forget_session,
            StartRun: self._start_run,
            LowerStop: self._lower_stop,
            DumpStacks: self._dump_stacks,
            Interrupt: self._interrupt,
            Kill: self._kill,
            Discard: self._discard,
        }

    # --- life -------------------------------------------------------------------------------------

    async def run(self) -> str:
        """Work until drained, stopped or turned away; must be called on the main thread.

        Returns:
            Why it ended, in one line.

        Raises:
            ConnectError: no waiting can bring this worker to its scheduler; `heals` is False.
            SlotsUnavailableError: slot processes cannot be started here at all.
        """
        self._loop = asyncio.get_running_loop()
        self._departed = self._loop.create_future()
        await self._pool.start()
        connecting = asyncio.ensure_future(self._stay_connected())
        try:
            await asyncio.wait((connecting, self._departed), return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                connecting.result()
            departure = self._departed.result()
        finally:
            await self._leave(connecting)
        if departure.refused is not None:
            raise REFUSALS[departure.refused.code](departure.text)
        if departure.unable:
            raise SlotsUnavailableError(departure.text)
        return departure.text

    def request_drain(self) -> None:
        """Hand back what has not begun, finish what runs within `grace_s`, then leave. Twice means now."""
        self._look()
        self._state.request_drain(time.monotonic())
        self._soon()

    def request_stop(self) -> None:
        """Leave now; what runs is lost."""
        self._look()
        self._state.request_stop(time.monotonic())
        self._soon()

    async def _leave(self, connecting: asyncio.Future[None]) -> None:
        connecting.cancel()
        self._alarm.cancel()
        if self._connection is not None:
            self._connection.close()
            await self._lost.wait()
        self._links.close()
        await self._pool.close()
        await asyncio.gather(connecting, return_exceptions=True)

    # --- the connection ---------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        """Connect, and again whenever the connection is lost; ends only with an error that cannot heal.

        Not before a slot process can begin at once: what is granted to a worker waits for nothing there.
        """
        await self._pool.ready()
        settings = self._settings
        failures, said, said_at = 0, "", -math.inf
        while True:
            try:
                self._connection = await self._dial()
            except ConnectError as error:
                if not error.heals:
                    raise
                reason = str(error)
            else:
                since = time.monotonic()
                self._begin(self._connection)
                await self._lost.wait()
                if time.monotonic() - since > settings.backoff_most_s:
                    failures, said = 0, ""
                reason = "the connection is lost; what runs goes on, and its results are kept"
            delay_s = min(settings.backoff_most_s, settings.backoff_first_s * 2 ** min(failures, 32))
            delay_s *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, guards nothing
            failures += 1
            is_news = reason != said or time.monotonic() - said_at > settings.away_reminder_s
            if is_news:
                said, said_at = reason, time.monotonic()
            why = {"why": str(self._broken)} if self._broken is not None else {}
            self._broken = None
            self._log("warning" if is_news else "debug", reason, **why, next_attempt_s=round(delay_s, 2))
            await asyncio.sleep(delay_s)

    async def _dial(self) -> transport.Connection:
        """Try every address in order; the error that can heal is the one to tell, if there is one."""
        errors: list[ConnectError] = []
        for text in self._access.addresses:
            outcome = await self._dial_one(parse_address(text))
            if isinstance(outcome, transport.Connection):
                return outcome
            errors.append(outcome)
        raise next((error for error in errors if error.heals), errors[0])

    async def _dial_one(self, address: Address) -> transport.Connection | ConnectError:
        access = self._access

        def make() -> transport.Connection:
            return transport.Connection(
                ClientHandshake(access.role, access.owner, access.cluster_id or None, access.secret),
                on_messages=self._on_messages,
                on_closed=self._on_closed,
                limits=self._settings.wire,
            )

        try:
            return await transport.dial(address, make, timeout_s=self._settings.connect_timeout_s)
        except ConnectError as error:
            return error

    def _begin(self, connection: transport.Connection) -> None:
        self._lost.clear()
        self._peers += 1
        connection.peer = Peer(self._peers)
        if connection.closed:
            self._lost.set()
            return
        self._log("info", "connected", address=connection.address)
        self._state.connect(connection.peer, time.monotonic())
        self._turn()

    def _on_messages(self, connection: transport.Connection, messages: list[Message]) -> None:
        now = time.monotonic()
        for message in messages:
            self._state.receive(connection.peer, message, now)
        self._turn()

    def _on_closed(self, connection: transport.Connection, error: Exception | None) -> None:
        self._broken = error
        self._state.disconnect(connection.peer, time.monotonic())
        self._connection = None
        self._lost.set()

    # --- turns ------------------------------------------------------------------------------------

    def _soon(self) -> None:
        """Have a turn when everything that was ready with this has been taken in."""
        if not self._turn_is_due:
            self._turn_is_due = True
            loop = self._loop or asyncio.get_running_loop()
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Carry out everything that the state machine asks for, and send once."""
        self._turn_is_due = False
        now = time.monotonic()
        effects = self._state.take_effects(now)
        while effects.commands and self._obey(effects.commands, now):
            effects.follow(self._state.take_effects(now))
        for level, text, values in effects.events:
            self._log(level, text, **values)
        if effects.registered and self._on_registered is not None:
            self._on_registered()
        if self._connection is not None:
            if effects.sends:
                self._connection.send(effects.sends)
            if effects.closes:
                self._connection.close(effects.closes[0].reason)
        if effects.wake_at != self._alarm_at:
            self._alarm_at = effects.wake_at
            self._alarm.set(effects.wake_at, now)
        if effects.departure is not None and self._departed is not None and not self._departed.done():
            self._departed.set_result(effects.departure)

    def _tick(self) -> None:
        self._alarm_at = None
        self._look()
        self._state.tick(time.monotonic())
        self._turn()

    def _look(self) -> None:
        """Show the state machine what runs."""
        for number in self._state.busy:
            stint = self._stints[number]
            run, task_index, begun_at = stint.process.progress()
            self._state.observe(number, max(0, run - stint.runs_before), task_index, begun_at)

    # --- commands: each says whether it told the state machine something ---------------------------

    def _obey(self, commands: Iterable[Any], now: float) -> bool:
        """Carry out commands, except for slot processes whose end came in between; whether one told news."""
        answered = False
        for command in commands:
            kind: type[Any] = type(command)
            if kind in WITHOUT_STINT or command.process in self._stints:
                answered = self._carry_out[kind](command, now) or answered
        return answered

    def _take_process(self, command: TakeProcess, now: float) -> bool:
        try:
            process = self._pool.take(command.session.session, command.session.environment, command.bundle)
        except SlotsUnavailableError as error:
            self._state.process_refused(command.process, str(error), now)
            return True
        stint = Stint(command.process, process)
        self._stints[stint.number] = self._stints_of[process] = stint
        return False

    def _give_back(self, command: GiveBack, now: float) -> bool:
        del now
        stint = self._stints.pop(command.process)
        del self._stints_of[stint.process]
        self._pool.give_back(stint.process)
        return False

    def _forget_session(self, command: ForgetSession, now: float) -> bool:
        del now
        self._pool.end_session(command.session)
        return False

    def _start_run(self, command: StartRun, now: float) -> bool:
        del now
        grant = command.grant
        self._stints[command.process].process.start_run(
            command.function,
            command.start,
            command.stop,
            grant.chunk_start,
            grant.chunk,
            eager=grant.eager,
            logs=grant.logs,
        )
        return False

    def _lower_stop(self, command: LowerStop, now: float) -> bool:
        stint = self._stints[command.process]
        taken_from = stint.process.lower_stop(command.run + stint.runs_before, command.stop)
        self._state.stop_lowered(command, taken_from, now)
        return True

    def _dump_stacks(self, command: DumpStacks, now: float) -> bool:
        del now
        self._stints[command.process].process.dump_stacks()
        return False

    def _interrupt(self, command: Interrupt, now: float) -> bool:
        del now
        stint = self._stints[command.process]
        self._state.stacks_dumped(command.process, stint.process.stacks())
        stint.process.interrupt(command.run + stint.runs_before, command.task_index)
        return False

    def _kill(self, command: Kill, now: float) -> bool:
        del now
        stint = self._stints[command.process]
        stint.process.kill(command.run + stint.runs_before, command.task_index)
        return False

    def _discard(self, command: Discard, now: float) -> bool:
        del now
        self._stints[command.process].process.kill_now()
        return False

    # --- what slots tell --------------------------------------------------------------------------

    def slot_ready(self, process: SlotProcess, problem: str) -> None:
        """A slot process has taken over its session's environment."""
        if problem:
            self._log("warning", "a slot process could not be prepared", pid=process.pid, why=problem)

    def run_progressed(self, process: SlotProcess, progress: RunProgressed) -> None:
        """A run told outcomes, or that it is over."""
        stint = self._stints_of.get(process)
        if stint is not None:
            if stint.runs_before:
                progress = progress._replace(run=progress.run - stint.runs_before)
            self._state.run_progressed(stint.number, progress, time.monotonic())
            self._soon()

    def connection_wanted(
        self, process: SlotProcess, run: int, task_index: int, channel: socket.socket
    ) -> None:
        """A task that runs wants to speak with the scheduler."""
        stint = self._stints_of.get(process)
        token = None if stint is None else self._state.task_token(stint.number, run - stint.runs_before)
        if token is None:
            refuse(channel, TASK_OVER)
            return
        self._pool.learn()
        self._links.open(self._state.binding(token, task_index), channel)

    def run_logged(self, process: SlotProcess, logged: RunLogged) -> None:
        """Tasks of a run have printed or logged something."""
        stint = self._stints_of.get(process)
        if stint is not None:
            self._state.run_logged(stint.number, logged._replace(run=logged.run - stint.runs_before))
            self._soon()

    def slot_exited(self, process: SlotProcess, end: SlotEnd) -> None:
        """A slot process is gone."""
        stint = self._stints_of.pop(process, None)
        if stint is not None:
            del self._stints[stint.number]
            self._state.process_ended(
                stint.number,
                ProcessEnd(
                    text=end.words,
                    run=max(0, end.run - stint.runs_before),
                    task_index=end.task_index,
                    killed=end.killed_for is not None,
                    output=end.output,
                    stacks=end.stacks,
                ),
                time.monotonic(),
            )
            self._soon()
