"""A run, and the processes of it that come one after the other, as `distcomp.run_session` has them.

What is demanded at the opening of a run, besides what the ledger demands of all tasks:

    each array of which a process was told that tasks were accepted is there, with at least these tasks
    each of these tasks is on the run's disk, or its outcome comes to whoever has the run open
    an outcome that one process was told is that outcome, whoever is told it again
    what was never accepted may be there or not; what is not there when the run is opened never begins,
    unless the process that has handed it in comes back
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.ids import SessionId
from simulator.client import GRACE_SLACK_S
from simulator.ledger import CANCELLED, FAILED, OPEN, VALUE, demand
from simulator.lives import AGAIN_S, SimLife

if TYPE_CHECKING:
    from distcomp.core.client_effects import KeptOutcomes
    from distcomp.rows import RunArray
    from simulator.run_book import RunBook
    from simulator.weather import ClientPlan, Life
    from simulator.wire import End
    from simulator.world import World


class SimRun:
    """A run: its books, the disk of its user, and one process at a time.

    Attributes:
        grounds: it may have been lost by now, as far as that does not follow from when it was open last.
        last_end: the last connection on which it was open.
    """

    def __init__(self, world: World, number: int, plan: ClientPlan) -> None:
        self.world, self.number, self.plan = world, number, plan
        self.session = SessionId(b"%08d%08d" % (number, 0))
        self.grounds = False
        self.last_end: End | None = None
        self.books: dict[int, RunBook] = {}
        self._lives = list(plan.lives)
        self._began = 0
        self.life = self._take_up()

    @property
    def has_heirs(self) -> bool:
        """Whether another process comes after the present one."""
        return bool(self._lives)

    def _take_up(self) -> SimLife:
        self._began += 1
        return SimLife(self, self._began, self._lives.pop(0))

    def hand_on(self, absence_s: float) -> None:
        """The present process is no more; the next one comes later."""
        self.world.unborn += 1
        self.world.clock.after(absence_s, self._begin_next)

    def repeat(self, life: Life) -> None:
        """Have a process come once more, that finds no run."""
        self._lives.insert(0, life)
        self.hand_on(AGAIN_S)

    def _begin_next(self) -> None:
        self.world.unborn -= 1
        place = self.world.clients.index(self.life)
        self.life = self.world.clients[place] = self._take_up()

    def may_be_gone(self) -> bool:
        """Whether the scheduler may have let go of it: as nobody came for long, or without a journal."""
        settings = self.world.weather.scheduler
        lost_at = None if self.last_end is None else self.last_end.far.lost_at
        kept_s = max(settings.client_grace_s, settings.result_retention_s) - GRACE_SLACK_S
        return self.grounds or (lost_at is not None and self.world.clock.now - lost_at > kept_s)

    def count(self, what: str) -> None:
        """Note that something came about that is to come about."""
        self.world.storm.lives[what] += 1

    # --- the disk ---

    def store(self, kept: KeptOutcomes) -> None:
        for outcome in kept.outcomes:
            book = self.books[outcome.array]
            stop = min(outcome.stop, book.submitted)
            book.stored[outcome.start : stop] = b"\1" * (stop - outcome.start)

    # --- what is told of it ---

    def enter(self, rows: list[RunArray], life: SimLife) -> None:
        """A process has opened the run, and was told what there is of it."""
        told: dict[int, RunArray] = {}
        for row in rows:
            demand(row.number in self.books, "an array that nobody has handed in", life.name, row.number)
            told[row.number] = row
        for number, book in self.books.items():
            row_or_none = told.get(number)
            if row_or_none is not None:
                self._enter(book, row_or_none)
                life.books[number] = book
            else:
                there = book.accepted and not self.may_be_gone()
                demand(not there, "an array that was accepted is gone", book.name, book.accepted)
                self.world.ledger.open += book.enter(0, ())
                book.accepted = 0
        assert life.end is not None
        self.grounds = self.grounds and life.end.broken

    def _enter(self, book: RunBook, row: RunArray) -> None:
        demand(row.closed, "an array of another process is open", book.name)
        demand(row.tasks <= book.submitted, "more tasks than were handed in", book.name, row.tasks)
        demand(row.tasks >= book.accepted, "accepted tasks are gone", book.name, row.tasks, book.accepted)
        demand(row.settled <= row.tasks, "more has settled than there is", book.name, row.settled)
        ended = len(book.outcomes) - book.outcomes.count(OPEN)
        demand(row.settled >= ended, "what was told counts as open", book.name, row.settled, ended)
        for start, stop in row.received:
            for index in range(start, stop):
                has = book.stored[index] or book.cancelled[index]
                demand(has, "received and on no disk", book.name, index)
        self.world.ledger.open += book.enter(row.tasks, row.received)
        self.world.ledger.accepted(book, row.tasks)
        self.count("found results on its disk" if row.received else "found nothing on its disk")
        if row.settled < row.tasks:
            self.count("found tasks under way")
        if row.settled > ended + len(row.received):
            self.count("found results that nobody had heard of")

    def check_end(self) -> None:
        """The last process is done: whatever was accepted has an outcome that somebody was told of."""
        if self.may_be_gone():
            return
        self.count("was whole in the end")
        for book in self.books.values():
            demand(book.ended == book.submitted >= book.accepted, "accepted and never ended", book.name)
            for index in range(book.submitted):
                ended = book.outcomes[index] in (VALUE, FAILED, CANCELLED)
                demand(ended or book.cancelled[index], "never told", book.name, index)
