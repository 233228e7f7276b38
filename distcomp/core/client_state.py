"""Every decision of a client: what to send and when, what came of it, when to give up.

The session's life, which only this file moves along:

    unopened ── connect ──> opening ── SessionOpened ──> open
    open, or opening again ── disconnect ──> apart ── connect ──> opening
    opening for the first time ── disconnect ──> unopened
    apart, or opening again ── away too long, or refused ──> unopened, with a fresh session
    any ── close ──> closed

A run is a session with a name, which other processes have had open before, and will. It is open once all of
its arrays are described: those of others are adopted then, with what is still to come of them.

Laws:

- An array lives from `submit` until it is closed and all its indexes are settled. Each index settles
  once, whatever is sent again.
- What the scheduler has not accepted is kept and sent again, the same bytes, after a reconnect.
- A session of a scheduler that remembers it (`SessionOpened.durable`) waits for it as long as it takes, or
  as long as who leaves will wait.
- When a session is lost, every open index settles with a failure that says why, and what is submitted
  until there is a scheduler again fails at once: nothing waits for ever. Only after a scheduler that is
  there has refused a session that it does not know, tasks wait a bounded time for the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distcomp import protocol
from distcomp.core.client_absence import ClientAbsence
from distcomp.core.client_effects import ClientEffects, Explanation, Failed, Introduction
from distcomp.core.client_needs import ClientNeeds
from distcomp.core.client_outbox import ClientOutbox
from distcomp.core.client_patience import ClientPatience
from distcomp.core.client_receipts import Receipts, fresh_outcomes
from distcomp.core.client_runs import RunEntrance, taken_elsewhere
from distcomp.core.effects import Close
from distcomp.core.submission import Submission
from distcomp.ids import NO_BUNDLE, Peer
from distcomp.kinds import MAX_COUNTER
from distcomp.rows import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distcomp.config import ClientSettings
    from distcomp.core.client_runs import RunEntry
    from distcomp.ids import FunctionId, SessionId
    from distcomp.protocol import Message
    from distcomp.rows import RunArray, TaskOptions

    Spans = tuple[tuple[int, int], ...]

_NOBODY = Peer(-1)
_HEALING = frozenset({"duplicate", "full", "stopping", "silent"})
"""Refusals after which the same session may be tried again."""


class ClientState:
    """One client's side of its session.

    Args:
        settings: the client's settings.
        sessions: gives identities for sessions, one at each need, never the same.
        introduction: what to say when a session is opened.
        run: which run it is, if it is one; its `session` has then to be set before `connect`.

    Attributes:
        receipts: what came and was not acknowledged.
        bundle: what tasks that are handed in now find their modules in; None if they need no local ones.
    """

    def __init__(
        self,
        settings: ClientSettings,
        sessions: Iterator[SessionId],
        introduction: Introduction,
        run: RunEntry | None = None,
    ) -> None:
        self.settings = settings
        self.introduction = introduction
        self.phase = "unopened"
        self.session = next(sessions)
        self.arrays: dict[int, Submission] = {}
        self.malformed = 0
        self.late = 0
        self._sessions = sessions
        self._peer = _NOBODY
        self._resumes = False
        self._epoch = self._requests = self._misread = 0
        self._patience = ClientPatience(settings)
        self._absence = ClientAbsence(settings, self._patience, detached=run is not None)
        self._loss = Failure("scheduler_lost", text="there is no connection to a scheduler")
        self._run = None if run is None else RunEntrance(run)
        self._keeps_run = run is not None and run.keeps
        self._counter = 0 if run is None else run.first_array
        self._status_wanted = False
        self._lends = False
        self._needs = ClientNeeds(settings.defined_functions)
        self.bundle: protocol.DefineBundle | None = None
        self._outbox = ClientOutbox(settings, self.arrays, self._needs)
        self.receipts = Receipts(self._outbox, of_run=run is not None)
        self._effects = ClientEffects()
        self._report: protocol.StatusReported | None = None

    # --- the connection ---------------------------------------------------------------------------

    def connect(self, peer: Peer, now: float) -> None:
        """A scheduler has been reached and has proved who it is."""
        del now
        self._peer = peer
        self._patience.dialled()
        self.phase = "opening"
        opening = protocol.OpenSession(self.session, *self.introduction, resumes=self._resumes)
        self._send(opening if self._run is None else self._run.introduce(opening))

    def misread(self, reason: str) -> None:
        """The connection ends because of what the scheduler sent, which it will send again on the next."""
        self._misread += 1
        if self._misread >= MAX_MISREAD and self._resumes:
            self._misread = 0
            self.break_off(f"what the scheduler sends cannot be taken here: {reason}")

    def break_off(self, why: str) -> None:
        """Nothing that is open can come to its end here; the next connection opens another session."""
        self._lose(Failure("scheduler_lost", text=why))

    def disconnect(self, peer: Peer, now: float) -> None:
        """The connection to the scheduler is gone."""
        if peer != self._peer:
            return
        self._drop_connection()
        if self.phase == "open":
            self._patience.part(now)
        if self.phase in ("open", "opening"):
            self.phase = "apart"
            if not self._resumes:
                self._lose(Failure("scheduler_lost", text="the scheduler closed the connection at once"))

    def dial_failed(self, now: float, *, refused: bool) -> None:
        """A try to reach the scheduler came to nothing; `refused` says that its host answered so."""
        self._patience.dial_failed(now, refused=refused)

    def hope(self, until: float) -> None:
        """Let what is handed in wait for the first connection, up to a time."""
        self._patience.hopes_until = until

    def receive(self, peer: Peer, message: Message, now: float) -> None:
        """Take in one message of the scheduler; nonsense closes the connection and is counted."""
        if peer != self._peer:
            return
        handler = _HANDLERS.get(type(message))
        if handler is None:
            self._nonsense(f"a client takes no {type(message).__name__}")
        elif self.phase == "open" or type(message) in _OPENING:
            handler(self, message, now)
        else:
            self._nonsense(f"{type(message).__name__} came before the session was open")

    def tick(self, now: float) -> None:
        """Give up a session that was away too long; send again what was refused for a while."""
        if self.phase == "open":
            if self._outbox.paused:
                self._outbox.resume(now)
            return
        loss = self._patience.loss(now) if self.phase == "apart" else None
        if loss is not None:
            self._lose(loss)
        if self._is_away:
            self._effects.absence = self._absence.news(now, self.arrays.values())
            if self._absence.is_overdue(now):
                self._end(Failure("scheduler_lost", text="the client was closed, and its scheduler is away"))
        if self.phase == "unopened" and self._patience.despairs(now):
            self._lose(self._loss)

    def take_effects(self) -> ClientEffects:
        """What must leave and what is to be told, exactly once."""
        if self.phase == "open":
            messages = self._outbox.take(self.session)
            if messages:
                self._effects.sends.setdefault(self._peer, []).extend(messages)
            if self._status_wanted:
                self._status_wanted = False
                self._send(protocol.WatchStatus(0.0))
        effects, self._effects = self._effects, ClientEffects()
        if self.phase != "open" or self._outbox.paused:
            effects.wake_at = self._wake_at()
        return effects

    # --- what the user does -----------------------------------------------------------------------

    def submit(
        self,
        function: FunctionId,
        name: str,
        blob: bytes,
        options: TaskOptions,
        *,
        kept: bool = False,
        counter: int = 0,
    ) -> int:
        """Open an array of tasks of one function; returns its number, for `extend`.

        The outcomes of one that is `kept` are acknowledged when `receipts` are told that they are stored.
        Who goes on with a session of an earlier process gives each array the `counter` that it had.
        """
        counter = counter or self._counter + 1
        self._counter = max(self._counter, counter)
        self.arrays[counter] = Submission(function, options, kept=kept)
        if self._run is not None:
            self.receipts.know(counter)
        need = self._needs.held.get(function)
        if need is None:
            need = self._needs.add(function, protocol.DefineFunction(function, name, blob))
        need.users += 1
        return counter

    def extend(self, counter: int, tasks: int, chunk: bytes, *, last: bool, single: bool = False) -> None:
        """Add tasks to an array, with their arguments in one chunk; `last` closes it.

        Those that are `single` were submitted one by one, which the window tells apart.
        """
        array = self.arrays.get(counter)
        if array is None:
            self._effects.release(tasks, len(chunk), single=single)
            return
        bundle = self.bundle
        array.extend(tasks, chunk, NO_BUNDLE if bundle is None else bundle.bundle, last=last, single=single)
        if bundle is not None and bundle.bundle not in array.bundles:
            array.bundles += (bundle.bundle,)
            self._needs.use_bundle(bundle)
        if self.phase == "closed" or (self.phase == "unopened" and self._patience.hopes_until is None):
            self._fail(counter, array, self._loss)
        elif tasks or not array.over:
            self._outbox.queue(counter, array)
        else:
            self._forget(counter, array)

    def cancel(self, counter: int, spans: Spans) -> None:
        """Settle indexes as cancelled and have the scheduler told; no spans means the whole array."""
        array = self.arrays.get(counter)
        if array is None:
            return
        failure = Failure("cancelled", text="cancelled by its client")
        if not spans:
            self._abandon(counter, array, failure)
            return
        for start, stop in spans:
            for fresh in array.withdraw(start, min(stop, array.submitted)):
                self._effects.outcomes.append(Failed(counter, *fresh, failure))
        self._release(array)
        self._outbox.withdraw(counter)
        if array.over:
            self._abandon(counter, array, failure)

    def cancel_pending(self, counter: int, spans: Spans) -> None:
        """Have the scheduler cancel what no lease holds, and say which; no spans means all there is.

        Tasks that it does not have yet are sent first: there may be room for them.
        """
        array = self.arrays.get(counter)
        if array is not None:
            for start, stop in spans or ((0, array.submitted),):
                array.dispense(start, min(stop, array.submitted))
            self._outbox.withdraw(counter)

    def lend(self, *, lent: bool) -> None:
        """Have the slot lent in which this client's task waits, or take it back."""
        self._lends = lent
        if self.phase == "open":
            self._send(protocol.LendSlot(lent))

    def owes_detached(self) -> bool:
        """Whether the scheduler does not answer yet for all detached tasks that were submitted."""
        return any(
            array.options.detach and (array.accepted < array.submitted or not array.closed)
            for array in self.arrays.values()
        )

    def ask_status(self) -> None:
        """Have the scheduler send one snapshot, as soon as there is one to ask."""
        self._status_wanted = True

    def ask(self, question: Message) -> bool:
        """Send a question if there is a connection; whether there is."""
        if self.phase == "open":
            self._send(question)
        return self.phase == "open"

    def explain(self, now: float) -> None:
        """Ask why nothing of this session runs; without a connection the answer is known here."""
        if self.phase == "open":
            self._requests += 1
            self._send(protocol.ExplainWait(self._requests))
        elif self.phase == "apart":
            text = f"the connection to the scheduler has been gone for {self._patience.away_s(now):.0f} s"
            self._effects.explanations += (Explanation("away" if self._is_away else "apart", text),)

    def leave(self, now: float) -> None:
        """The user leaves when all is done, and does not wait for ever for a scheduler that is away."""
        self._absence.leave(now)

    def close(self) -> None:
        """End the session for good. What is still open settles as cancelled."""
        if self.phase == "open":
            for acks in self._outbox.take_acks():
                self._send(acks)
            self._send(protocol.CloseSession())
        self._end(Failure("cancelled", text="the client was closed"))

    def _end(self, failure: Failure) -> None:
        if self._is_away:
            self._effects.absence = self._absence.left(self.arrays.values())
        self._loss = failure
        self.phase = "closed"
        for counter, array in list(self.arrays.items()):
            self._fail(counter, array, self._loss)

    # --- what the scheduler says ------------------------------------------------------------------

    def on_session_opened(self, message: protocol.SessionOpened, now: float) -> None:
        """The session stands; what there is of a run follows."""
        del now
        run = self._run
        if self.phase != "opening" or (run is not None and not run.begin(message)):
            self._nonsense("the session was opened twice")
        elif run is None:
            known = {number: tasks for (session, number), tasks in message.known if session == self.session}
            for counter in self._go_on(message, known):
                self._send(protocol.CancelTasks((self.session, counter), ()))

    def on_run_described(self, message: protocol.RunDescribed, now: float) -> None:
        """All that the run has, in parts: what others handed in is adopted, once."""
        del now
        if self._run is None or not self._run.is_told:
            self._nonsense("a run was described that was not opened")
            return
        told = self._run.take(message)
        if told is None:
            return
        opened, rows = told
        is_first = not self._resumes
        others = self._go_on(opened, {number: row.tasks for number, row in rows.items()})
        if is_first:
            self._effects.adopted = [self._adopt(rows[counter]) for counter in others]
        for array, outcomes in () if is_first else taken_elsewhere(self.arrays, rows):
            self._effects.outcomes += outcomes
            self._release(array)
            if array.over:
                self._forget(outcomes[0].array, array)
        self._counter = max(self._counter, *rows, 0)

    def _adopt(self, row: RunArray) -> RunArray:
        self.receipts.know(row.number)
        array = Submission.adopted(row, kept=self._keeps_run)
        if not array.over:
            self.arrays[row.number] = array
        return row

    def _go_on(self, message: protocol.SessionOpened, known: dict[int, int]) -> list[int]:
        """The session stands: go on with every array; gives those that only the scheduler has."""
        restarted = self._resumes and message.epoch != self._epoch and not message.durable
        self._patience.durable = message.durable
        self.phase, self._resumes, self._epoch = "open", True, message.epoch
        self._patience.grace_s = message.client_grace_s
        self._effects.opened = True
        self._effects.absence = self._absence.end()
        if self._lends:
            self._send(protocol.LendSlot(lent=True))
        for counter, array in list(self.arrays.items()):
            self._take_up(counter, array, known.pop(counter, None), restarted=restarted)
        return list(known)

    def _take_up(self, counter: int, array: Submission, known: int | None, *, restarted: bool) -> None:
        """Go on with an array on a new connection, or give it up if the scheduler lost part of it.

        One that forgot nothing has settled what it no longer knows: it tells that again, and accepts resends.
        """
        if known is None and not restarted:
            known = array.accepted
        if (known is None and array.offered) or (known or 0) < array.accepted:
            self._fail(counter, array, Failure("scheduler_lost", text="the scheduler started anew"))
            return
        self._outbox.accepted(array, known or 0)
        if array.say_again():
            self._outbox.withdraw(counter)
        self._outbox.queue(counter, array)

    def on_refused(self, message: protocol.Refused, now: float) -> None:
        """The scheduler will not go on with this connection."""
        self._effects.refused = message
        if message.code in ("expired", "unknown"):
            is_back = self._resumes and self.phase == "opening"
            self._lose(self._patience.forgotten(now) if is_back else Failure("expired", text=message.text))
            self._patience.hope_again(now)
        elif message.code not in _HEALING:
            self._lose(Failure("refused", text=f"the scheduler refused this client: {message.text}"))

    def on_accepted(self, message: protocol.Accepted, now: float) -> None:
        """The scheduler answers for the first tasks of an array from now on."""
        del now
        array = self._array(message.array)
        if array is not None and message.tasks > array.submitted:
            self._nonsense("more was accepted than was submitted")
        elif array is not None:
            self._outbox.accepted(array, message.tasks)

    def on_submit_refused(self, message: protocol.SubmitRefused, now: float) -> None:
        """A submit was not taken: try again after a pause if that can help."""
        array = self._array(message.array)
        counter = message.array[1]
        if array is None:
            return
        if message.code in ("full", "gap"):
            self._outbox.pause(counter, array, now + self.settings.refused_pause_s)
        elif message.code == "expired":
            self._abandon(counter, array, Failure("expired", text=message.text))
        else:
            self._abandon(counter, array, Failure("refused", text=f"{message.code}: {message.text}"))

    def on_outcomes(self, message: protocol.TasksSettled | protocol.TasksFailed, now: float) -> None:
        """Outcomes came, or one for many tasks; those of indexes that are open are news."""
        del now
        counter, array = message.array[1], self._array(message.array)
        if array is None:
            self.late += 1
            kept = self._keeps_run and self.receipts.knows(counter)
            self.receipts.take_in(message.seq, [], self._effects, kept=kept)
            return
        outcomes = fresh_outcomes(array, message)
        if outcomes is None:
            self._nonsense("outcomes came for tasks that were never submitted")
            return
        self.receipts.take_in(message.seq, outcomes, self._effects, kept=array.kept)
        self._release(array)
        if array.closed and not array.open.count:
            self._forget(counter, array)

    def on_tasks_began(self, message: protocol.TasksBegan, now: float) -> None:
        """A worker said that it runs these indexes."""
        del now
        if self._array(message.array) is not None:
            self._effects.began.append((message.array[1], message.indexes))

    def on_missing(self, message: protocol.MissingFunction | protocol.MissingBundle, now: float) -> None:
        """The scheduler has let go of a function or bundle that it needs again."""
        del now
        definition = self._needs.tell_again(message[0])
        if definition is not None:
            self._send(definition)

    def on_gave_notice(self, message: protocol.GaveNotice, now: float) -> None:
        """There is something that the user should read."""
        del now
        self._effects.notices += ((message.code, message.text),)

    def on_lend_refused(self, message: protocol.LendRefused, now: float) -> None:
        """The slot cannot be lent: too many are."""
        del now
        self._lends = False
        self._effects.lend_refused = message

    def on_wait_explained(self, message: protocol.WaitExplained, now: float) -> None:
        """The answer to `explain`."""
        del now
        self._effects.explanations += (Explanation(message.code, message.text),)

    def on_news(self, message: Message, now: float) -> None:
        """Pass on what changes nothing here."""
        del now
        self._effects.news.append(message)

    def on_status_reported(self, message: protocol.StatusReported, now: float) -> None:
        """The answer to `ask_status`."""
        del now
        report = message if self._report is None else self._report.joined(message)
        self._report = report if message.more else None
        if not message.more:
            self._effects.reports += (report,)

    # --- sending ----------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        self._effects.sends.setdefault(self._peer, []).append(message)

    # --- ends -------------------------------------------------------------------------------------

    def _array(self, array: tuple[SessionId, int]) -> Submission | None:
        return self.arrays.get(array[1]) if array[0] == self.session else None

    def _release(self, array: Submission) -> None:
        """Have leave the window what has settled; what another process handed in was never in it."""
        if not array.is_adopted:
            tasks, size_bytes = array.release()
            self._effects.release(tasks, size_bytes, single=array.is_single)

    def _abandon(self, counter: int, array: Submission, failure: Failure) -> None:
        """End an array for everyone: here at once, at the scheduler as soon as it hears of it."""
        if self.phase == "open" and array.offered:
            self._send(protocol.CancelTasks((self.session, counter), ()))
        elif self._is_away:
            self._absence.drop(array)
        self._fail(counter, array, failure)

    def _fail(self, counter: int, array: Submission, failure: Failure) -> None:
        """Settle everything open of an array, what is still to be handed in included, and forget it."""
        for span in array.open.cut(0, array.submitted):
            self._effects.outcomes.append(Failed(counter, *span, failure))
        self._release(array)
        if not array.closed:
            self._effects.outcomes.append(Failed(counter, array.submitted, MAX_COUNTER, failure))
        self._forget(counter, array)

    def _forget(self, counter: int, array: Submission) -> None:
        del self.arrays[counter]
        self._outbox.forget(counter, array)
        if not array.is_adopted:
            self._needs.release(array.function)
            for bundle in array.bundles:
                self._needs.release(bundle)

    def _lose(self, failure: Failure) -> None:
        """The session is gone: everything open ends, and the next connection opens another one."""
        self._loss = failure
        self._patience.hopes_until = None
        self.phase = "unopened"
        was_open, self._resumes = self._resumes, False
        if self._run is None:
            self.session = next(self._sessions)
        self.receipts.begin_life()
        for counter, array in list(self.arrays.items()):
            self._fail(counter, array, failure)
        if was_open:
            self._effects.log("warning", "the session is lost", why=failure.text)

    @property
    def _is_away(self) -> bool:
        """Whether a scheduler that remembers the session cannot be spoken to."""
        return self._resumes and self._patience.durable and self.phase in ("apart", "opening")

    def _drop_connection(self) -> None:
        self._peer = _NOBODY
        self._report = None
        self._patience.dialled()
        self._outbox.disconnect()
        if self._run is not None:
            self._run.disconnect()
        self._effects.sends.clear()

    def _nonsense(self, reason: str) -> None:
        self.malformed += 1
        self._effects.closes.append(Close(self._peer, reason))
        self._effects.log("warning", "the scheduler sent nonsense", reason=reason)

    def _wake_at(self) -> float | None:
        times = self._outbox.pauses() + self._patience.wake_times(self.phase)
        if self._is_away:
            times += self._absence.wake_times()
        return min(times, default=None)


MAX_MISREAD = 3
"""Connections that may end by what the scheduler sent before its session is given up."""
_OPENING = frozenset({protocol.SessionOpened, protocol.RunDescribed, protocol.Refused})
"""What may come before the session is open."""

_HANDLERS: dict[type[Any], Callable[[ClientState, Any, float], None]] = {
    protocol.SessionOpened: ClientState.on_session_opened,
    protocol.RunDescribed: ClientState.on_run_described,
    protocol.Refused: ClientState.on_refused,
    protocol.Accepted: ClientState.on_accepted,
    protocol.SubmitRefused: ClientState.on_submit_refused,
    protocol.TasksSettled: ClientState.on_outcomes,
    protocol.TasksFailed: ClientState.on_outcomes,
    protocol.TasksBegan: ClientState.on_tasks_began,
    protocol.MissingFunction: ClientState.on_missing,
    protocol.MissingBundle: ClientState.on_missing,
    protocol.GaveNotice: ClientState.on_gave_notice,
    protocol.LendRefused: ClientState.on_lend_refused,
    protocol.WaitExplained: ClientState.on_wait_explained,
    protocol.StatusReported: ClientState.on_status_reported,
    protocol.TaskExplained: ClientState.on_news,
    protocol.TasksLogged: ClientState.on_news,
    protocol.TasksRetried: ClientState.on_news,
    protocol.RunsListed: ClientState.on_news,
    protocol.RunForgotten: ClientState.on_news,
}
