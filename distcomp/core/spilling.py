"""What the program says of the files of outcomes: written, read, or not.

A file that cannot be written costs no outcome: it stays in memory, and its session is paused if it has too
much there. One that cannot be read again is lost, and its tasks fail with a word about why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core.flow import balance
from distcomp.core.outbox import FETCHED
from distcomp.core.outcomes import note_stored, pump, spill_all
from distcomp.protocol import TasksFailed
from distcomp.rows import Failure

if TYPE_CHECKING:
    from distcomp.core.books import Books
    from distcomp.protocol import TasksSettled


def stored(books: Books, number: int) -> None:
    """An outcome is in its file."""
    found = books.spilled.get(number)
    if found is not None:
        session, outcome = found
        note_stored(books, session, outcome)
        balance(books, session)


def not_stored(books: Books, number: int, why: str, now: float) -> None:
    """An outcome could not be written: it stays in memory, and no other is written for a while."""
    found = books.spilled.pop(number, None)
    if found is not None:
        found[1].number = 0
    if not books.spill_rests:
        books.spill_rests = True
        books.effects.log("error", "results that wait cannot be written to files", why=why)
        books.timers.add(now + books.settings.spill_retry_s, _try_again, books)


def _try_again(books: Books, now: float) -> None:
    """Have everything written that would have been."""
    del now
    books.spill_rests = False
    for session in books.sessions.values():
        if session.outbox.here_bytes > books.settings.least_outcome_bytes:
            spill_all(books, session)


def loaded(books: Books, number: int, message: TasksSettled | TasksFailed) -> None:
    """An outcome was read from its file."""
    found = books.spilled.get(number)
    if found is None:
        return
    session, outcome = found
    if outcome.place == FETCHED or outcome.wanted:
        outcome.message = message
        pump(books, session)


def unreadable(books: Books, number: int, why: str) -> None:
    """An outcome's file does not hold it any more."""
    found = books.spilled.get(number)
    if found is None:
        return
    session, outcome = found
    books.effects.log("error", "a result is lost", owner=session.owner.name, array=outcome.array[1], why=why)
    text = f"the result was lost on the scheduler's disk: {why}"
    loaded(books, number, TasksFailed(outcome.seq, outcome.array, outcome.spans, Failure("lost", text=text)))
