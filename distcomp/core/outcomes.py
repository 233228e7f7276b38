"""Outcomes that wait for their client: kept, sent in their turn, put into files, and let go of.

What of them is where says `outbox`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core.effects import Spill
from distcomp.core.outbox import AHEAD, FETCHED, READ, UNDER_WAY, Outcome, Outcomes, spans_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distcomp.core.books import Books
    from distcomp.core.outbox import Told
    from distcomp.core.sessions import Session


# --- coming and going -----------------------------------------------------------------------------


def keep(books: Books, session: Session, message: Told, size_bytes: int) -> None:
    """Send outcomes to the client, now or in their turn, and keep them until it acknowledges them."""
    box = session.outbox
    outcome = box.by_seq[message.seq] = Outcome(message, message.seq, message.array, size_bytes)
    books.outcome_bytes += size_bytes
    here_bytes = box.here_bytes = box.here_bytes + size_bytes
    before_bytes, window_bytes = box.under_way_bytes, books.settings.outcome_window_bytes
    if session.peer is None:
        pass
    elif box.ahead or box.fetched or (before_bytes and before_bytes + size_bytes > window_bytes):
        box.ahead.append(outcome)
    else:
        books.tell(session.peer, message)
        outcome.place = UNDER_WAY
        box.under_way_bytes = before_bytes + size_bytes
    if here_bytes > books.settings.least_outcome_bytes and here_bytes > _share_bytes(books):
        spill(books, session, outcome)


def put_in(books: Books, session: Session, outcome: Outcome) -> None:
    """Count an outcome of before a restart, which is here or stored."""
    box, size_bytes = session.outbox, outcome.size_bytes
    box.by_seq[outcome.seq] = outcome
    if outcome.number:
        books.spilled[outcome.number] = (session, outcome)
        box.stored_bytes += size_bytes
        books.spilled_bytes += size_bytes
    else:
        box.here_bytes += size_bytes
        books.outcome_bytes += size_bytes


def let_go(books: Books, session: Session, seqs: Iterable[int]) -> None:
    """Forget outcomes that the client holds; then there is room to send others."""
    box = session.outbox
    for seq in seqs:
        outcome = box.by_seq.pop(seq, None)
        if outcome is not None:
            _drop(books, session, outcome)
            if session.run:
                session.receive(outcome.array[1], outcome.spans or spans_of(_known(outcome)))
    if box.ahead or box.fetched:
        pump(books, session)


def mark_read(books: Books, session: Session, seqs: Iterable[int]) -> None:
    """Make room for others where the client has read and will not acknowledge."""
    box = session.outbox
    for seq in seqs:
        outcome = box.by_seq.get(seq)
        if outcome is not None and outcome.place == UNDER_WAY:
            outcome.place = READ
            box.under_way_bytes -= outcome.size_bytes
            if box.here_bytes > books.settings.least_outcome_bytes:
                spill(books, session, outcome)
    pump(books, session)


def drop_all(books: Books, session: Session) -> None:
    """Forget all outcomes of a session."""
    for outcome in session.outbox.by_seq.values():
        _drop(books, session, outcome)
    session.outbox = Outcomes()


def halt(session: Session) -> None:
    """The connection is gone: nothing is under way."""
    box = session.outbox
    for outcome in box.by_seq.values():
        outcome.place = AHEAD
        release(outcome)
    box.ahead.clear()
    box.fetched.clear()
    box.fetched_bytes = box.under_way_bytes = 0


def send_again(books: Books, session: Session) -> None:
    """There is a new connection: all that waits goes out in its turn."""
    session.outbox.ahead.extend(session.outbox.by_seq.values())
    pump(books, session)


def _drop(books: Books, session: Session, outcome: Outcome) -> None:
    box, size_bytes = session.outbox, outcome.size_bytes
    outcome.gone = True
    if outcome.place == UNDER_WAY:
        box.under_way_bytes -= size_bytes
    if outcome.number:
        del books.spilled[outcome.number]
        books.effects.file_work().unspills.append(outcome.number)
    if outcome.here:
        outcome.here = False
        box.here_bytes -= size_bytes
        books.outcome_bytes -= size_bytes
    else:
        box.stored_bytes -= size_bytes
        books.spilled_bytes -= size_bytes


# --- sending --------------------------------------------------------------------------------------


def _fits(books: Books, before_bytes: int, size_bytes: int) -> bool:
    """Whether so much more may be in a window; one outcome always may."""
    return not before_bytes or before_bytes + size_bytes <= books.settings.outcome_window_bytes


def _send(books: Books, session: Session, outcome: Outcome) -> None:
    books.tell(session.peer, _known(outcome))
    outcome.place = UNDER_WAY
    session.outbox.under_way_bytes += outcome.size_bytes


def pump(books: Books, session: Session) -> None:
    """Fetch what is to be sent next, and send what has been fetched, as far as there is room."""
    box = session.outbox
    while box.ahead:
        outcome = box.ahead[0]
        if not outcome.gone and not _fits(books, box.fetched_bytes, outcome.size_bytes):
            break
        box.ahead.popleft()
        if not outcome.gone:
            outcome.place = FETCHED
            box.fetched.append(outcome)
            box.fetched_bytes += outcome.size_bytes
            fetch(books, outcome)
    while box.fetched:
        outcome = box.fetched[0]
        if not outcome.gone:
            if outcome.message is None or not _fits(books, box.under_way_bytes, outcome.size_bytes):
                break
            _send(books, session, outcome)
            release(outcome)
        box.fetched.popleft()
        box.fetched_bytes -= outcome.size_bytes


def fetch(books: Books, outcome: Outcome) -> None:
    """Have an outcome read from its file unless it is in memory."""
    if outcome.message is None:
        books.effects.file_work().loads.append(outcome.number)


def release(outcome: Outcome) -> None:
    """Let go of a message that was only fetched, and is not waited for."""
    if not outcome.here and not outcome.wanted and outcome.place != FETCHED:
        outcome.message = None


def _known(outcome: Outcome) -> Told:
    assert outcome.message is not None  # noqa: S101 - asked only for what is in memory
    return outcome.message


# --- files ----------------------------------------------------------------------------------------


def _share_bytes(books: Books) -> int:
    """What one session may have in memory."""
    settings = books.settings
    if books.outcome_bytes > settings.max_outcome_memory_bytes:
        return settings.least_outcome_bytes
    return max(settings.session_outcome_bytes, settings.least_outcome_bytes)


def spill(books: Books, session: Session, outcome: Outcome) -> None:
    """Have an outcome written to a file, unless it is there or files cannot be written for now."""
    if outcome.number or books.spill_rests:
        return
    message = _known(outcome)
    outcome.number = next(books.spill_numbers)
    outcome.spans = spans_of(message)
    books.spilled[outcome.number] = (session, outcome)
    books.effects.file_work().spills.append(Spill(outcome.number, session.id, message))


def spill_all(books: Books, session: Session) -> None:
    """Have all that a session has in memory written, as its client stays away or files had no room."""
    for outcome in session.outbox.by_seq.values():
        spill(books, session, outcome)


def note_stored(books: Books, session: Session, outcome: Outcome) -> None:
    """An outcome is in its file, and need not be in memory."""
    box, size_bytes = session.outbox, outcome.size_bytes
    outcome.here = False
    box.here_bytes -= size_bytes
    books.outcome_bytes -= size_bytes
    box.stored_bytes += size_bytes
    books.spilled_bytes += size_bytes
    release(outcome)
