"""Every decision of a worker: what runs where, what goes back, what is told and told again.

    connected ──grant──▶ waiting ──run──▶ at a slot ──settled──▶ in the outbox ──acknowledged──▶ gone
                            │                 │ lowered, or its process ended
                            └────given back───┴──────────▶ in the outbox

Law: every index of every lease granted is open (`worker_leases`) or its outcome or return is in the
outbox (`worker_outbox`) until the scheduler acknowledges it. A lost connection changes nothing of
that: runs go on, answers gather, and both are told when the worker registers again. The scheduler
then names the leases it no longer knows, and they end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distcomp.core.effects import Close, Event
from distcomp.core.worker_crew import Sight
from distcomp.core.worker_effects import (
    Departure,
    ForgetSession,
    LowerStop,
    ProcessEnd,
    WorkerEffects,
    WorkerIdentity,
)
from distcomp.core.worker_leases import LeaseBook, Shelf
from distcomp.core.worker_outbox import Outbox, held_leases
from distcomp.core.worker_runs import Runs
from distcomp.protocol import DefineBundle, DefineFunction, MissingBundle, MissingFunction, Refused
from distcomp.worker_protocol import (
    AckSettles,
    BindTask,
    CancelLease,
    DefineSession,
    EndSession,
    GrantLease,
    LeaseLogged,
    RegisterWorker,
    RetractLease,
    SetSlots,
    SlotLent,
    SlotsReported,
    SlotsSet,
    WorkerDraining,
    WorkerLeft,
    WorkerRegistered,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from distcomp.config import WorkerSettings
    from distcomp.ids import BundleId, FunctionId, Peer, SessionId, Token
    from distcomp.protocol import Message
    from distcomp.rows import HeldLease
    from distcomp.slot_protocol import RunLogged, RunProgressed

FINAL_REFUSALS = frozenset({"role", "versions"})
"""Codes of `Refused` that no waiting heals."""


class WorkerState:
    """The state machine of a worker.

    Args:
        settings: of the worker.
        identity: what it says of itself.

    Example:
        `state.connect(peer, now)`, `state.receive(peer, message, now)`, `state.take_effects(now)`
    """

    def __init__(self, settings: WorkerSettings, identity: WorkerIdentity) -> None:
        self._settings = settings
        self._identity = identity
        self._book = LeaseBook()
        self._shelf = Shelf(settings.max_function_bytes, settings.max_bundle_bytes)
        self._outbox = Outbox(settings)
        self._runs = Runs(settings, identity, self._book, self._shelf, self._outbox)
        self._effects = WorkerEffects()
        self._peer: Peer | None = None
        self._check_at: float | None = None
        self._report_at = 0.0
        self._reported: frozenset[tuple[Token, int]] = frozenset()
        self._leave_at: float | None = None
        self._left = False
        self._attempts = 0
        self._unable = ""
        self.nonsense = 0

    # --- the scheduler ----------------------------------------------------------------------------

    def connect(self, peer: Peer, now: float) -> None:
        """A connection to the scheduler stands: say who we are and what we hold."""
        del now
        self._peer = peer
        self._reported = frozenset()
        identity = self._identity
        draining = self._leave_at is not None
        self._send(
            RegisterWorker(
                identity.worker,
                identity.name,
                identity.host,
                identity.pid,
                identity.slots,
                identity.versions,
                self.held_leases(),
                draining,
                tuple(self._shelf.sessions),
                self._settings.max_lent_per_slot * identity.slots,
                identity.bind_key,
            )
        )

    def receive(self, peer: Peer, message: Message, now: float) -> None:
        """One message of the scheduler."""
        if peer != self._peer:
            return
        handler = self._HANDLERS.get(type(message))
        if handler is None:
            self._refuse(f"{type(message).__name__} is no message for a worker")
        else:
            handler(self, message, now)

    def disconnect(self, peer: Peer, now: float) -> None:
        """The connection is gone; what is held is kept for the next one."""
        del now
        if peer == self._peer:
            self._peer = None
            self._effects.sends.clear()
            self._outbox.rewind()

    def held_leases(self) -> tuple[HeldLease, ...]:
        """What this worker still answers for: what is open, and what was told and not acknowledged."""
        return held_leases((self._book.spans(), self._outbox.leases()))

    def on_worker_registered(self, message: WorkerRegistered, now: float) -> None:
        """The scheduler knows us; leases that it does not know end.

        What is held of them is told all the same, until that is acknowledged: the scheduler may have it, but
        not on its disk yet.
        """
        del now
        for token in message.stale:
            lease = self._book.get(token)
            if lease is not None:
                self._runs.cancel(lease, list(lease.open))
        for function, bundle in {(lease.grant.function, lease.grant.bundle) for lease in self._book.queue}:
            self._ask_for(function, bundle)
        self._effects.registered = True
        self._log(
            "info", "registered", cluster=message.cluster, stale=len(message.stale), held=len(self._book)
        )

    def on_define_session(self, message: DefineSession, now: float) -> None:
        """Keep what processes of a session need."""
        del now
        sessions = self._shelf.sessions
        if message.session not in sessions and len(sessions) >= self._settings.max_sessions:
            self._refuse(f"more than {self._settings.max_sessions} sessions were defined")
        else:
            sessions[message.session] = message

    def on_end_session(self, message: EndSession, now: float) -> None:
        """A session is over: whatever of it still runs here is for nobody."""
        del now
        for lease in list(self._book.values()):
            if lease.session == message.session:
                self._runs.cancel(lease, list(lease.open))
        self._end_session(message.session)

    def on_define_function(self, message: DefineFunction, now: float) -> None:
        """Keep a function."""
        del now
        self._shelf.functions.put(message.function, message)

    def on_define_bundle(self, message: DefineBundle, now: float) -> None:
        """Keep a bundle."""
        del now
        self._shelf.bundles.put(message.bundle, message)

    def on_grant_lease(self, message: GrantLease, now: float) -> None:
        """Take up a lease, or give it back at once."""
        slots = self._identity.slots + self._runs.crew.lent
        if not message.chunk_start <= message.start < message.stop:
            self._refuse("a lease without indexes, or without their arguments")
        elif message.token in self._book:
            self._refuse("a lease was granted twice")
        elif self._leave_at is not None:
            self._decline(message, "drained")
        elif message.array[0] not in self._shelf.sessions:
            self._decline(message, "unprepared")
        elif len(self._book) >= self._settings.max_leases_per_slot * slots:
            self._decline(message, "refused")
        else:
            self._ask_for(message.function, message.bundle)
            self._runs.grant(message, now)

    def on_retract_lease(self, message: RetractLease, now: float) -> None:
        """Give back what has not begun."""
        del now
        lease = self._book.get(message.token)
        if lease is not None:
            self._runs.retract(lease, everything=message.everything)

    def on_cancel_lease(self, message: CancelLease, now: float) -> None:
        """End tasks, running or not."""
        del now
        lease = self._book.get(message.token)
        if lease is not None:
            self._runs.cancel(lease, list(message.spans) or list(lease.open))

    def on_slot_lent(self, message: SlotLent, now: float) -> None:
        """A task waits for tasks that it submitted, or goes on."""
        del now
        lease = self._book.get(message.token)
        if lease is None:
            return
        if message.lent:
            self._runs.lend(lease, message.task_index)
        else:
            self._runs.go_on(lease, message.task_index)

    def on_set_slots(self, message: SetSlots, now: float) -> None:
        """Have another number of slots; what runs beyond them ends as ever."""
        del now
        before = self._identity.slots
        self._identity = self._identity._replace(slots=message.slots)
        self._runs.widen(message.slots - before)
        self._send(SlotsSet(message.slots, self._settings.max_lent_per_slot * message.slots))
        self._log("info", "slots were set", before=before, slots=message.slots)

    def on_ack_settles(self, message: AckSettles, now: float) -> None:
        """Let go of what the scheduler has."""
        del now
        self._outbox.ack(message.seqs)

    def on_refused(self, message: Refused, now: float) -> None:
        """The scheduler will not go on with this connection, or not with us at all."""
        del now
        self._close(f"refused: {message.text}")
        if message.code in FINAL_REFUSALS:
            self._depart(message.text, message)

    _HANDLERS: dict[type[Any], Callable[[WorkerState, Any, float], None]] = {  # noqa: RUF012 - a literal table
        WorkerRegistered: on_worker_registered,
        DefineSession: on_define_session,
        EndSession: on_end_session,
        DefineFunction: on_define_function,
        DefineBundle: on_define_bundle,
        GrantLease: on_grant_lease,
        RetractLease: on_retract_lease,
        CancelLease: on_cancel_lease,
        SlotLent: on_slot_lent,
        SetSlots: on_set_slots,
        AckSettles: on_ack_settles,
        Refused: on_refused,
    }

    # --- slot processes ---------------------------------------------------------------------------

    @property
    def busy(self) -> Iterable[int]:
        """The processes that have something to run: those to `observe` before a `tick`."""
        return self._runs.crew.busy.keys()

    def observe(self, process: int, run: int, task_index: int, begun_at: float) -> None:
        """What a process runs just now: task `task_index` of `run`, since `begun_at`; run 0 is nothing."""
        self._runs.observe(process, Sight(run, task_index, begun_at))

    def run_progressed(self, process: int, progress: RunProgressed, now: float) -> None:
        """A run told outcomes, or that it is over."""
        self._attempts = 0
        self._runs.progressed(process, progress, now)

    def run_logged(self, process: int, logged: RunLogged) -> None:
        """Tasks of a run have printed or logged something: it is told, or lost."""
        token = self.task_token(process, logged.run)
        if token is not None:
            self._send(LeaseLogged(token, logged.lines, logged.dropped))

    def task_token(self, process: int, run: int) -> Token | None:
        """The lease that a run of a process is of, if it has not ended."""
        known = self._runs.crew.processes.get(process)
        found = known.run(run) if known is not None else None
        return None if found is None else found.lease.grant.token

    def binding(self, token: Token, task_index: int) -> BindTask:
        """What makes a connection one of a task that runs here."""
        return BindTask(self._identity.worker, self._identity.bind_key, token, task_index)

    def stop_lowered(self, command: LowerStop, taken_from: int, now: float) -> None:
        """The answer to `LowerStop`: from `taken_from` on the run will begin nothing."""
        self._runs.stop_lowered(command, taken_from, now)

    def stacks_dumped(self, process: int, stacks: str) -> None:
        """What a process dumped since `DumpStacks`."""
        self._runs.stacks_dumped(process, stacks)

    def process_ended(self, process: int, end: ProcessEnd, now: float) -> None:
        """A process is gone, whoever ended it."""
        self._log("warning" if not end.killed else "info", "a slot process ended", how=end.text)
        self._runs.process_ended(process, end, now)

    def process_refused(self, process: int, text: str, now: float) -> None:
        """No process could be had; after too many attempts in a row this worker is of no use."""
        self._log("error", "no slot process can be started", why=text)
        if self._runs.process_refused(process, now):
            self._attempts += 1
        if self._attempts >= self._settings.process_attempts and self._leave_at is None:
            self._unable = f"no slot process could be started {self._attempts} times in a row: {text}"
            self.request_stop(now)

    # --- leaving ----------------------------------------------------------------------------------

    def request_drain(self, now: float) -> None:
        """Finish what has begun within `grace_s`, hand back the rest, then leave. Asked again: now."""
        if self._leave_at is not None:
            self._leave_at = now
            return
        self._leave_at = now + self._settings.grace_s
        self._send(WorkerDraining())
        self._runs.return_unbegun("drained")

    def request_stop(self, now: float) -> None:
        """Leave at once; what runs is lost."""
        self._leave_at = now

    # --- time and effects -------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time passed: stop what runs too long, give back what waits too long, tell what runs."""
        self._runs.check(now)
        if self._check_at is None or now < self._check_at:
            return
        self._check_at = None
        if self._peer is not None:
            self._runs.return_overdue(now)
            self._report(now)

    def take_effects(self, now: float) -> WorkerEffects:
        """Hand out runs, and hand over what is to be done and sent.

        Commands come first. While there are any, the program carries them out, feeds back what they
        answer, and asks again in the same turn.
        """
        runs = self._runs
        if self._book.queue or runs.crew.behind:
            runs.dispatch(now)
        effects = self._effects
        self._effects = WorkerEffects()
        if runs.commands:
            effects.commands, runs.commands = runs.commands, []
        if self._outbox.waiting and self._peer is not None:
            effects.sends += self._outbox.take()
        if self._check_at is None and self._book:
            self._check_at = now + self._settings.check_interval_s
        effects.wake_at = self._check_at
        if self._leave_at is not None or runs.ending:
            self._hurry(effects, now)
        return effects

    def _hurry(self, effects: WorkerEffects, now: float) -> None:
        """See to what is to end at a certain time: tasks, and this worker."""
        if self._leave_at is not None and not self._left:
            self._leave_if_done(effects, now)
        for at in (self._runs.next_at(), None if self._left else self._leave_at):
            if at is not None and (effects.wake_at is None or at < effects.wake_at):
                effects.wake_at = at

    def _leave_if_done(self, effects: WorkerEffects, now: float) -> None:
        done = not self._book and not self._outbox
        if not done and self._leave_at is not None and now < self._leave_at:
            return
        self._left = True
        if self._peer is not None:
            if not done:
                effects.sends.append(SlotsReported(self._runs.running(now, 0.0)))
            effects.sends.append(WorkerLeft(self.held_leases()))
        text = self._unable or ("drained" if done else "stopped with tasks unfinished")
        effects.departure = Departure(text, unable=bool(self._unable))

    def _report(self, now: float) -> None:
        running = self._runs.running(now, self._settings.check_interval_s)
        named = frozenset((task.token, task.task_index) for task in running)
        if named != self._reported or (running and now >= self._report_at):
            self._reported = named
            self._report_at = now + self._settings.report_interval_s
            self._send(SlotsReported(running))

    def _decline(self, grant: GrantLease, reason: str) -> None:
        self._outbox.give_back(grant.token, ((grant.start, grant.stop),), reason)

    def _ask_for(self, function: FunctionId, bundle: BundleId) -> None:
        if function not in self._shelf.functions:
            self._send(MissingFunction(function))
        if bundle and self._shelf.lacks_bundle(bundle):
            self._send(MissingBundle(bundle))

    def _end_session(self, session: SessionId) -> None:
        self._shelf.sessions.pop(session, None)
        for process in self._runs.crew.idle_processes(session):
            self._runs.let_go(process)
        self._runs.commands.append(ForgetSession(session))

    def _send(self, message: Message) -> None:
        if self._peer is not None:
            self._effects.sends.append(message)

    def _log(self, level: str, text: str, **values: Any) -> None:
        self._effects.events = (*self._effects.events, Event(level, text, values))

    def _refuse(self, text: str) -> None:
        self.nonsense += 1
        self._close(f"nonsense: {text}")

    def _close(self, reason: str) -> None:
        if self._peer is not None and not self._effects.closes:
            self._log("error", "the connection is given up", reason=reason)
            self._effects.closes = (Close(self._peer, reason),)

    def _depart(self, text: str, refused: Refused) -> None:
        self._left = True
        self._leave_at = None
        self._effects.departure = Departure(text, refused)
