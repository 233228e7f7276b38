"""A worker's program around its state machine, as `distcomp.worker` is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distcomp.config import WorkerSettings
from distcomp.core import worker_effects as do
from distcomp.core.worker_state import WorkerState
from distcomp.ids import NO_BUNDLE, Peer, WorkerId
from distcomp.rows import Versions
from simulator.clock import Host
from simulator.ledger import demand
from simulator.slot import SimSlot
from simulator.wire import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from distcomp.core.worker_effects import ProcessEnd
    from distcomp.protocol import Message
    from distcomp.slot_protocol import RunProgressed
    from simulator.wire import End
    from simulator.world import World

SETTINGS = WorkerSettings(grace_s=5.0)
READY_S = 0.003


class SimWorker(Host):
    """One worker and its slot processes, which live on `machine`: a stopped supervisor does not stop them."""

    def __init__(self, world: World, number: int, slots: int, python: str) -> None:
        super().__init__(world.clock, f"worker-{number}")
        self.world, self.python = world, python
        self.machine = Host(world.clock, self.name)
        self.id = WorkerId(number.to_bytes(16, "big"))
        versions = Versions("0", python, "3")
        self.key = b"key of %d" % number
        identity = do.WorkerIdentity(self.id, self.name, "host", number, slots, versions, self.key)
        self.state = WorkerState(SETTINGS, identity)
        self.processes: dict[int, SimSlot] = {}
        self.end: End | None = None
        self.without_processes = False
        self.begun = 0
        self.vacant_since = self.clock.now
        self._peers = self._failures = self._wakes = 0
        self._wakes_at: float | None = None
        self._turn_comes = False
        self._carry_out: dict[type[Any], Callable[[Any, float], bool]] = {
            do.TakeProcess: self._take_process,
            do.GiveBack: self._give_back,
            do.ForgetSession: lambda _command, _now: False,
            do.StartRun: self._start_run,
            do.LowerStop: self._lower_stop,
            do.DumpStacks: lambda _command, _now: False,
            do.Interrupt: self._interrupt,
            do.Kill: self._kill,
        }
        self._dial()

    @property
    def slots(self) -> int:
        """How many it has by now."""
        return self.state._identity.slots

    # --- life ---

    def crash(self, *, silently: bool) -> None:
        """The machine is gone: at once, or without anyone being told."""
        self.alive = self.machine.alive = False
        for process in self.processes.values():
            process.drop_child()
        if self.end is not None:
            if silently:
                self.end.far.miss(float("inf"))
            else:
                self.end.far.arrive(None)
            self.end.broken = True

    def stop(self, seconds: float, *, wholly: bool) -> None:
        """The supervisor, or the machine, does nothing for a while."""
        self.freeze(seconds)
        if wholly:
            self.machine.freeze(seconds)
        if self.end is not None:
            self.end.far.miss(self.frozen_until)

    def drain(self) -> None:
        self.state.request_drain(self.clock.now)
        self._turn()

    def idle_since(self) -> float:
        """Since when the slot that has been idle longest has been so; infinity if none is."""
        times = [process.idle_since for process in self.processes.values() if process.idle]
        if len(self.processes) < self.slots:
            times.append(self.vacant_since)
        return min(times, default=float("inf"))

    # --- the connection ---

    def _dial(self) -> None:
        self.after(2 * self.world.air.draw_delay_s(), self._reach)

    def _reach(self) -> None:
        scheduler = self.world.scheduler
        if scheduler.down or scheduler.frozen:
            self._failures += 1
            self.after(self._backoff_s() if scheduler.down else SETTINGS.connect_timeout_s, self._dial)
            return
        self.end, far = connect(self.world.air, self, scheduler)
        self._peers += 1
        self.end.peer = Peer(self._peers)
        scheduler.accept(far, "worker", "pool")
        self._connected_at = self.clock.now
        self.state.connect(self.end.peer, self.clock.now)
        self._turn()

    def _backoff_s(self) -> float:
        longest = min(SETTINGS.backoff_most_s, SETTINGS.backoff_first_s * 2 ** min(self._failures, 32))
        return longest * self.world.air.rng.uniform(0.5, 1.0)

    def on_messages(self, end: End, messages: list[Message]) -> None:
        for message in messages:
            self.state.receive(end.peer, message, self.clock.now)
        self._turn()

    def on_closed(self, end: End) -> None:
        self.state.disconnect(end.peer, self.clock.now)
        self.end = None
        if self.clock.now - self._connected_at > SETTINGS.backoff_most_s:
            self._failures = 0
        delay_s = self._backoff_s()
        self._failures += 1
        self.after(delay_s, self._dial)

    # --- turns ---

    def _soon(self) -> None:
        if not self._turn_comes:
            self._turn_comes = True
            self.after(0.0, self._turn)

    def _turn(self) -> None:
        self._turn_comes = False
        now = self.clock.now
        effects = self.state.take_effects(now)
        while self._obey(effects.commands, now):
            effects.follow(self.state.take_effects(now))
        if self.end is not None:
            self.end.send(effects.sends)
            if effects.closes:
                self.end.close()
        self._wake_by(effects.wake_at)
        if effects.departure is not None:
            self.world.worker_left(self)

    def _obey(self, commands: Iterable[do.Command], now: float) -> bool:
        answered = False
        for command in commands:
            answered = self._carry_out[type(command)](command, now) or answered
        return answered

    def leave(self) -> None:
        """The program ends, its slot processes with it."""
        if self.end is not None:
            self.end.close()
        for process in list(self.processes.values()):
            process.die("left")
        self.alive = self.machine.alive = False

    def _wake_by(self, at: float | None) -> None:
        if at is None or (self._wakes_at is not None and self._wakes_at <= at + 0.001):
            return
        self._wakes += 1
        self._wakes_at = at
        self.after(max(0.0, at - self.clock.now), self._tick, self._wakes)

    def _tick(self, number: int) -> None:
        if number != self._wakes:
            return
        self._wakes_at = None
        for process in self.state.busy:
            self.state.observe(process, *self.processes[process].progress())
        self.state.tick(self.clock.now)
        self._turn()

    # --- commands ---

    def _take_process(self, command: do.TakeProcess, now: float) -> bool:
        if self.without_processes:
            self.state.process_refused(command.process, "none to be had", now)
            return True
        slot = SimSlot(self, command.process, command.session.session, READY_S)
        slot.bundle = NO_BUNDLE if command.bundle is None else command.bundle.bundle
        self.processes[command.process] = slot
        most = self.slots + self.state._runs.crew.lent
        demand(len(self.processes) <= most, "more slot processes than slots", self.name)
        return False

    def _give_back(self, command: do.GiveBack, now: float) -> bool:
        del now
        process = self.processes.pop(command.process, None)
        if process is not None:
            demand(not process.runs, "a slot process with runs was given back", self.name)
            process.alive = False
            self.vacant_since = self.clock.now
        return False

    def _start_run(self, command: do.StartRun, now: float) -> bool:
        del now
        process = self.processes.get(command.process)
        if process is not None:
            demand(process.bundle == command.grant.bundle, "a task runs in another bundle", self.name)
            process.start_run(command)
        return False

    def _lower_stop(self, command: do.LowerStop, now: float) -> bool:
        taken_from = self.processes[command.process].lower_stop(command.run, command.stop)
        self.state.stop_lowered(command, taken_from, now)
        return True

    def _interrupt(self, command: do.Interrupt, now: float) -> bool:
        del now
        self.state.stacks_dumped(command.process, "stacks")
        self.processes[command.process].interrupt(command.run, command.task_index)
        return False

    def _kill(self, command: do.Kill, now: float) -> bool:
        del now
        self.processes[command.process].kill(command.run, command.task_index)
        return False

    # --- what slots tell ---

    def slot_told(self, process: SimSlot, progress: RunProgressed) -> None:
        if progress.ended:
            del process.runs[progress.run]
        if self.processes.get(process.number) is process:
            self.state.run_progressed(process.number, progress, self.clock.now)
            self._soon()

    def slot_ended(self, process: SimSlot, end: ProcessEnd) -> None:
        if self.processes.get(process.number) is process:
            del self.processes[process.number]
            self.vacant_since = self.clock.now
            self.state.process_ended(process.number, end, self.clock.now)
            self._soon()
