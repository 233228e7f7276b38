"""One process of a run, as `distcomp.run_session` has it, and its end."""

from __future__ import annotations

from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING

from distcomp.core.client_runs import RunEntry
from distcomp.core.client_state import ClientState
from distcomp.protocol import Accepted
from simulator.client import SETTINGS, SimClient
from simulator.ledger import demand
from simulator.run_book import RunBook
from simulator.weather import ClientPlan

if TYPE_CHECKING:
    from distcomp.core.client_effects import ClientEffects, Introduction, KeptOutcomes
    from distcomp.protocol import Message, Refused
    from simulator.ledger import Book
    from simulator.runs import SimRun
    from simulator.tasks import Plan
    from simulator.weather import Life
    from simulator.wire import End

AGAIN_S = 0.01
"""How long somebody takes to begin again."""

DOWN_S = 0.2
"""How long the scheduler is down that is killed together with a process."""

LINGERS_S = 1.0
"""How long one is there that has come back after another one, and whose user wants nothing of it."""

LATER_S = 0.3
"""A process that stood still goes on when the next one was begun so long ago, or later."""


class SimLife(SimClient):
    """One process of a run; when its moment has come, and another is to follow, it ends.

    Law of its disk: what is written is there in the order in which it came; of what is under way when the
    process is killed the first part is there.
    """

    def __init__(self, run: SimRun, place: int, life: Life) -> None:
        plan = run.plan
        self.run_of, self.life, self._place = run, life, place
        self._entered = self._was_in = self._was_refused = self._is_leaving = False
        self._to_come = life.times
        self._opened_at = 0.0
        self._writing: deque[KeptOutcomes] = deque()
        only = ClientPlan(plan.owner, plan.python, life.arrays, "close", 0.0)
        super().__init__(run.world, run.number, only)
        self.name = f"client-{run.number}.{place}"
        if run.has_heirs:
            self.ending = "hand on"
            self._reach_moment("time")

    def _begin(self, number: int, introduction: Introduction) -> ClientState:
        life, run = self.life, self.run_of
        nonce = self._place.to_bytes(16, "big")
        above = int(self.clock.now * 1e6)
        entry = RunEntry(f"run {number}", nonce, above, keeps=life.keeps, attaches=life.attaches)
        state = ClientState(SETTINGS, repeat(run.session), introduction, entry)
        state.session = run.session
        return state

    @property
    def grounds(self) -> bool:
        return self.run_of.may_be_gone()

    @grounds.setter
    def grounds(self, value: bool) -> None:
        if value:
            self.run_of.grounds = True

    def _be_missed(self, seconds: float) -> None:
        if not self.world.weather.journalled:
            super()._be_missed(seconds)

    # --- the user ---

    @property
    def settled(self) -> bool:
        return self._was_in and not self._writing and super().settled

    def _open(self, plan: Plan) -> int:
        state, keeps = self.state, self.life.keeps
        array = state.submit(
            plan.function_id, plan.function.decode(), plan.function, plan.options, kept=keeps
        )
        book = RunBook(f"{self.name}/{array}", (state.session, array), plan, self.python)
        demand(array not in self.run_of.books, "a number of an array came twice", book.name)
        self.books[array] = self.run_of.books[array] = book
        return array

    def _extend(self, counter: int, book: Book) -> None:
        super()._extend(counter, book)
        self._reach_moment("submitting")

    def _cancel_adopted(self) -> None:
        """The user does not want some of what others have handed in."""
        books = [book for book in self.books.values() if book.cut and book.submitted > book.ended]
        if books:
            book = books[-1]
            self.run_of.count("cancelled what another had handed in")
            self._cancel(book.array[1], book, book.submitted // 2, book.submitted, False)

    def close(self) -> None:
        if not self.over:
            self.run_of.check_end()
        super().close()

    # --- what it is told ---

    def on_messages(self, end: End, messages: list[Message]) -> None:
        super().on_messages(end, messages)
        if any(type(message) is Accepted for message in messages):
            self._reach_moment("accepted")

    def _hear(self, effects: ClientEffects) -> None:
        if self.over:
            self._be_late(effects)
            return
        if effects.refused is not None:
            self._be_refused(effects.refused)
        if effects.opened:
            if not self._entered:
                self._enter(effects)
            self.run_of.last_end, self._opened_at = self.end, self.clock.now
        before = sum(book.again for book in self.run_of.books.values())
        super()._hear(effects)
        if effects.outcomes:
            self._reach_moment("told")
            if sum(book.again for book in self.run_of.books.values()) > before:
                self.run_of.count("was told again")
        for kept in effects.kept:
            self._writing.append(kept)
            self.after(self.life.write_s, self._write_one)
        self._entered = self._entered and self.state._resumes
        if self._is_leaving or (self.ending == "hand on" and self.settled):
            self.after(0.0, self._end)

    def _enter(self, effects: ClientEffects) -> None:
        self.run_of.enter(effects.adopted, self)
        if not self._was_in and self._place > 1 and self.life.cancels_after_s:
            self.after(self.life.cancels_after_s, self._cancel_adopted)
        self._entered = self._was_in = True

    def _be_refused(self, refused: Refused) -> None:
        run = self.run_of
        if refused.code == "taken":
            demand(not self._entered or self.grounds, "a run was taken from who had it", self.name)
            if not self._was_refused:
                run.count("found another process there")
            self._was_refused = True
        elif refused.code == "unknown":
            demand(run.last_end is None or run.may_be_gone(), "a run is gone", self.name, refused.text)
            if not self._was_in:
                run.repeat(self.life._replace(attaches=False))
                self._vanish()

    def _write_one(self) -> None:
        kept = self._writing.popleft()
        if self.life.disk_full:
            self.state.receipts.not_stored(kept.life, [kept.seq])
        else:
            self.run_of.store(kept)
            if self._reach_moment("stored"):
                return
            self.state.receipts.stored(kept.life, [kept.seq])
        self._turn()

    def scheduler_fell(self) -> None:
        if self.life.falls and not self.over and self.run_of.has_heirs:
            self.clock.after(self.life.after_s, self._end)

    # --- the end ---

    def _reach_moment(self, moment: str) -> bool:
        """Something happened after which the process may end; says whether it has."""
        life = self.life
        if self.over or moment != life.moment or not self.run_of.has_heirs:
            return False
        self._to_come -= 1
        if self._to_come == 0 and life.after_s:
            self.clock.after(life.after_s, self._end)
        elif self._to_come == 0:
            self._end()
        return self.over

    def _end(self) -> None:
        if self.over:
            return
        if self.life.ending == "leave":
            self._leave()
            return
        if self.life.ending == "stop":
            self._stand_still()
            return
        self._note_end()
        scheduler = self.world.scheduler
        if self.life.fells and self.world.weather.journalled and not scheduler.down and not scheduler.frozen:
            self.run_of.count("killed together with the scheduler")
            scheduler.restart(DOWN_S)
        for _ in range(self.world.air.rng.randint(0, len(self._writing))):
            if not self.life.disk_full:
                self.run_of.store(self._writing.popleft())
        self._vanish(sent=self.life.ending == "kill")
        self.run_of.hand_on(self.life.absence_s)

    def _leave(self) -> None:
        """End in order, as soon as all that was handed in is the scheduler's."""
        handed_in = all(
            book.cut or book.submitted == book.plan.tasks or self._is_dead(book)
            for book in self.books.values()
        )
        self._is_leaving = True
        if not self._was_in or self._planned or not handed_in or self.state.owes_detached() or self._writing:
            return
        self.over = True
        self.run_of.count("left")
        self.state.close()
        effects = self.state.take_effects()
        if self.end is not None:
            self.end.send(effects.sends.get(self.end.peer, ()))
            self.end.close()
        self.run_of.hand_on(self.life.absence_s)

    def _stand_still(self) -> None:
        """Do nothing for so long that another process is begun."""
        self.over = True
        self.freeze(max(self.life.absence_s + LATER_S, self.life.still_s))
        if self.end is not None:
            self.end.far.miss(self.frozen_until)
        self.clock.at(self.frozen_until + AGAIN_S, self.run, self._go_on)
        self.run_of.hand_on(self.life.absence_s)

    def _go_on(self) -> None:
        """It goes on, and comes to the scheduler as if nothing had been."""
        scheduler = self.world.scheduler
        if self.end is None and not scheduler.down and not scheduler.frozen:
            self._opened_at = self.clock.now
            self._connect()
        else:
            self._vanish()

    def _be_late(self, effects: ClientEffects) -> None:
        """The run is another process's by now, unless that one is away."""
        heir = self.run_of.life
        if effects.refused is not None and effects.refused.code == "taken":
            self.run_of.count("came back and found another there")
            self._vanish()
        elif effects.opened and self.alive:
            both = heir is not self and heir._had_it_at(self._opened_at)
            demand(not both, "a run was taken from who had it", self.name, heir.name)
            self._check_waits()
            self._hand_in_again()
            self.run_of.count("came back and had the run again")
            self.run_of.grounds = self.run_of.grounds or heir._was_in
            self.clock.after(LINGERS_S, self._vanish)

    def _had_it_at(self, time: float) -> bool:
        """Whether it was there at that time for sure, and has not gone by itself since."""
        end = self.run_of.last_end
        if end is None or end.host is not self or self._opened_at >= time:
            return False
        hindered = self.over or self.frozen or end.broken or end.stalled_until
        return not hindered and (end.far.lost_at is None or end.far.lost_at >= time)

    def _check_waits(self) -> None:
        """It waits for nothing that came to another process and was acknowledged."""
        session = self.world.scheduler.state.books.sessions.get(self.run_of.session)
        for number, array in self.state.arrays.items():
            for span in session.received.get(number, ()) if session is not None else ():
                demand(not array.open.within(*span), "waits for what never comes", self.name, number, span)

    def _hand_in_again(self) -> None:
        """What nobody found there, as it was never accepted, is handed in again, and may begin after all."""
        for number, array in self.state.arrays.items():
            book = self.run_of.books[number]
            if not book.submitted:
                book.submitted = array.submitted
                self.world.ledger.open += array.submitted

    def _vanish(self, *, sent: bool = True) -> None:
        self.over, self.alive = True, False
        self.world.say(f"*** {self.name} is no more")
        if self.end is None:
            return
        if self.life.ending == "lose":
            self.end.far.miss(float("inf"))
            self.end.broken = True
        else:
            self.end.drop(sent=sent)

    def _note_end(self) -> None:
        """Count what a kill has met with, as it truly was."""
        count, scheduler = self.run_of.count, self.world.scheduler
        count("killed")
        if scheduler.down:
            count("killed while the scheduler was down")
        else:
            session = scheduler.state.books.sessions.get(self.run_of.session)
            if session is not None and session.leases:
                count("killed while tasks ran")
            if session is not None and len(session.outbox):
                count("killed while results waited")
        own = [book for book in self.books.values() if not book.cut]
        if any(book.accepted < book.submitted for book in own):
            count("killed before its tasks were accepted")
        if any(0 < book.submitted < book.plan.tasks for book in own):
            count("killed while it handed in")
        if self._writing:
            count("killed while results went to its disk")
