"""The oracle: what clients were told and what slots ran, and nothing of what the machines believe.

It raises `BrokenPromiseError` at the first thing that distcomp's promise does not allow:

    a task has one outcome, and if that is a value, it is the right one and some slot has computed it
    a failure is one that happened, as often as its limits say
    a task begins again only for a reason: it ended badly, or its slot process or its worker was lost
    no task begins more often than `max_attempts`, nor after its crash limit, nor where it does not fit
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from simulator.tasks import expected_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.config import SchedulerSettings
    from distcomp.core.client_effects import Failed, Returned
    from distcomp.ids import ArrayId
    from distcomp.rows import Failure
    from simulator.tasks import Plan

OPEN, VALUE, FAILED, CANCELLED, LEFT = range(5)
OUT_OF_REACH = frozenset({"scheduler_lost", "expired", "refused"})
"""Failures that a client tells itself, as its session is lost."""


class BrokenPromiseError(AssertionError):
    """A promise was broken."""


def demand(holds: object, words: str, *where: object) -> None:
    if not holds:
        raise BrokenPromiseError(f"{words}: {' '.join(map(str, where))}")


class Book:
    """All that is known of one array.

    Attributes:
        heard: what the present client was told of each task.
        cut: nothing more comes to it.
    """

    def __init__(self, name: str, array: ArrayId, plan: Plan, python: str) -> None:
        self.name, self.array, self.plan, self.python = name, array, plan, python
        self.submitted = self.accepted = self.ended = 0
        self.outcomes = bytearray(plan.tasks)
        self.starts = bytearray(plan.tasks)
        self.finishes = bytearray(plan.tasks)
        self.reasons: Counter[int] = Counter()
        self.ends: Counter[tuple[int, str]] = Counter()
        self.cancelled = bytearray(plan.tasks)
        self.heard = self.outcomes
        self.cut = False

    def settle(self, start: int, stop: int, outcome: int, failure: Failure | None = None) -> None:
        """Note that tasks ended, as somebody was told."""
        del failure
        self.outcomes[start:stop] = bytes([outcome]) * (stop - start)
        self.ended += stop - start

    def withdraw(self, start: int, stop: int, *, at_once: bool) -> None:
        """Note that tasks are not wanted any more; of those that end `at_once` nothing more is told."""
        del at_once
        self.cancelled[start:stop] = b"\1" * (stop - start)

    def had(self, index: int, kind: str) -> int:
        return self.ends[index, kind]


class Ledger:
    """The books of all arrays of a world; rings once more tasks than `alarm_at` have begun."""

    def __init__(self, settings: SchedulerSettings, ring: Callable[[], None]) -> None:
        self.settings = settings
        self.alarm_at: int | None = None
        self._ring = ring
        self.books: dict[ArrayId, Book] = {}
        self.begun = 0
        self.open = 0
        self.waiting: Counter[str] = Counter()
        self.unbegun_deaths = 0

    # --- what users do ---

    def opened(self, book: Book) -> None:
        self.books[book.array] = book

    def submitted(self, book: Book, tasks: int) -> None:
        book.submitted += tasks
        self.open += tasks

    def cancelled(self, book: Book, start: int, stop: int, *, at_once: bool) -> None:
        book.withdraw(start, max(start, min(stop, book.submitted)), at_once=at_once)

    def abandoned(self, book: Book) -> None:
        """The client is gone; nobody is told of what is open."""
        for index in range(book.submitted):
            if not book.outcomes[index]:
                self._end(book, index, LEFT)

    # --- what clients were told ---

    def returned(self, book: Book, told: Returned) -> None:
        start, stop, size = told.start, told.stop, book.plan.result_bytes
        demand(0 <= start < stop <= book.submitted, "a value for a task that is none", book.name, told[:4])
        blob = told.blob[(start - told.base) * size : (stop - told.base) * size]
        demand(
            blob == expected_values(book.array, start, stop, size), "a wrong value", book.name, start, stop
        )
        demand(
            book.finishes.find(0, start, stop) < 0, "a value that no slot computed", book.name, start, stop
        )
        demand(not any(book.heard[start:stop]), "a second outcome", book.name, start, stop)
        book.settle(start, stop, VALUE)
        self.open -= stop - start

    def failed(self, book: Book, told: Failed, *, grounds: bool) -> None:
        """`grounds` says that the session may have been lost or closed."""
        for index in range(told.start, min(told.stop, book.submitted)):
            demand(not book.heard[index], "a second outcome", book.name, index, told.failure.kind)
            kind = told.failure.kind
            if kind == "cancelled":
                demand(book.cancelled[index] or grounds, "cancelled by nobody", book.name, index)
            elif kind in OUT_OF_REACH:
                demand(grounds, "the session was lost without a reason", book.name, index, told.failure.text)
            else:
                self._check_failure(book, index, kind)
            self._end(book, index, CANCELLED if kind == "cancelled" else FAILED, told.failure)

    def _check_failure(self, book: Book, index: int, kind: str) -> None:
        options, settings, where = book.plan.options, self.settings, (book.name, index)
        begun = max(book.starts[index], book.had(index, "crashes"))  # a page may say so too early
        begun += book.had(index, "lost")  # where it may have begun
        bounded = options.max_attempts > 0 and begun >= options.max_attempts
        late_crashes = book.had(index, "crashes late")
        if kind == "exception":
            raised, final = book.had(index, "raises"), book.had(index, "refuses")
            demand(final or raised > options.retries or (raised and bounded), "a failure early", *where)
        elif kind == "timeout":
            timeouts = book.had(index, "timeout") + late_crashes
            bad = timeouts + book.had(index, "raises")
            final = bad > options.retries or not options.retries_timeouts
            demand(final or (bad and bounded), "a timeout early", *where)
            demand(timeouts, "a timeout that was none", *where)
        elif kind == "crashed":
            crashes = book.had(index, "crashes") + late_crashes + self.unbegun_deaths
            demand(crashes >= settings.crash_limit or (crashes and bounded), "a crash early", *where)
        elif kind == "lost":
            losses = book.had(index, "lost")
            demand(losses >= (1 if options.max_attempts else settings.loss_limit), "lost early", *where)
        else:
            raise BrokenPromiseError(f"an outcome of another kind: {kind} {where}")

    def _end(self, book: Book, index: int, outcome: int, failure: Failure | None = None) -> None:
        book.settle(index, index + 1, outcome, failure)
        self.open -= 1
        if index < book.accepted and not book.starts[index]:
            self.waiting[book.python] -= 1

    def accepted(self, book: Book, tasks: int) -> None:
        demand(tasks <= book.submitted, "more was accepted than submitted", book.name, tasks)
        for index in range(book.accepted, tasks):
            if not book.starts[index] and not book.outcomes[index]:
                self.waiting[book.python] += 1
        book.accepted = max(book.accepted, tasks)

    # --- what slots run ---

    def began(self, book: Book, start: int, stop: int, python: str) -> None:
        demand(python == book.python, "a task where it does not fit", book.name, start, python)
        demand(stop <= book.submitted, "a task that is none", book.name, start, stop)
        self.begun += stop - start
        if self.alarm_at is not None and self.begun > self.alarm_at:
            self.alarm_at = None
            self._ring()
        if not any(book.starts[start:stop]):
            book.starts[start:stop] = b"\1" * (stop - start)
            self.waiting[book.python] -= sum(
                1 for index in range(start, min(stop, book.accepted)) if not book.outcomes[index]
            )
            return
        for index in range(start, stop):
            self._began_again(book, index)

    def _began_again(self, book: Book, index: int) -> None:
        options, where = book.plan.options, (book.name, index)
        if book.starts[index]:
            demand(book.reasons[index] > 0, "a task ran again without a reason", *where)
            book.reasons[index] -= 1
        elif index < book.accepted and not book.outcomes[index]:
            self.waiting[book.python] -= 1
        book.starts[index] += 1
        if options.max_attempts:
            demand(book.starts[index] <= options.max_attempts, "too many attempts", *where)
        unheard = book.had(index, "lost") + book.had(index, "untold")  # how a try ended may be lost, too
        crashes = book.had(index, "crashes") - unheard
        demand(crashes < self.settings.crash_limit, "a start after the crash limit", *where)
        raised, timeouts = book.had(index, "raises"), book.had(index, "timeout")
        demand(raised + timeouts - unheard <= options.retries, "a start after the last retry", *where)
        final = timeouts > unheard and not options.retries_timeouts
        demand(not final, "a start after a timeout that is final", *where)

    def finished(self, book: Book, start: int, stop: int) -> None:
        book.finishes[start:stop] = b"\1" * (stop - start)

    def ended_badly(self, book: Book, index: int, kind: str) -> None:
        book.ends[index, kind] += 1
        if kind != "refuses":
            book.reasons[index] += 1

    def results_lost(self, book: Book, start: int, stop: int) -> None:
        """What a slot process had finished and not told died with it."""
        for index in range(start, stop):
            book.reasons[index] += 1

    def failure_lost(self, book: Book, index: int) -> None:
        """How a task had failed was not told when its slot process died."""
        book.ends[index, "untold"] += 1
        book.reasons[index] += 1

    def grant_forgotten(self, array: ArrayId, start: int, stop: int) -> None:
        """A scheduler was killed before it had written down a grant that had left."""
        book = self.books[array]
        demand(
            not book.plan.options.max_attempts, "a grant left before it was written down", book.name, start
        )
        for index in range(start, stop):
            book.ends[index, "untold"] += 1
            book.reasons[index] += 1

    def worker_lost(self, book: Book, start: int, stop: int) -> None:
        for index in range(start, stop):
            book.ends[index, "lost"] += 1
            book.reasons[index] += 1
