"""Clients that go away, and how long what is theirs is kept: for a grace all, then what they may still want.

A session is dropped `result_retention_s` after its client went, in seconds of the wall clock where there is
a journal, so that restarts do not prolong it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.core.cancelling import cancel_session, cancel_whole
from distcomp.core.flow import balance_others, forget, resume
from distcomp.core.nesting import part, take_back
from distcomp.core.outcomes import drop_all, halt, spill_all
from distcomp.core.runs import end_run
from distcomp.rows import Failure

if TYPE_CHECKING:
    from distcomp.core.books import Books, WorkerPool
    from distcomp.core.sessions import Session


def client_gone(books: Books, session: Session, now: float) -> None:
    """Keep the session of a client without connection for a while."""
    session.peer = None
    halt(session)
    stay_away(books, session, now, now)
    if books.journalled:
        recording.client_left(books, session)


def stay_away(books: Books, session: Session, since: float, now: float) -> None:
    """Note since when a session has been without connection."""
    session.away_since = since
    books.timers.add(now + books.settings.client_grace_s, _leave, books, session, since)


def come_back(books: Books, session: Session) -> None:
    """A client has come back to its session."""
    if session.left:
        session.left = False
        del books.left[session.id]


def _is_away(session: Session, since: float) -> bool:
    return session.peer is None and session.away_since == since and not session.closed


def _leave(books: Books, session: Session, since: float, now: float) -> None:
    """End what needs its client of a session whose client has not come back since."""
    if not _is_away(session, since):
        return
    if session.task is not None:
        end_session(books, session, now)
        return
    if not session.run:
        unfinished = len(session.arrays)
        cancel_session(books, session, _expired(books))
        if unfinished:
            books.effects.log("warning", "session expired", owner=session.owner.name, arrays=unfinished)
        if not session.arrays and not session.outbox:
            end_session(books, session, now)
            return
    session.left = True
    books.left[session.id] = session
    if session.outbox.here_bytes > books.settings.least_outcome_bytes:
        spill_all(books, session)
    books.timers.add(max(now, since + books.settings.result_retention_s), _drop, books, session, since)


def _expired(books: Books) -> Failure:
    text = f"cancelled, as its client had been away for {books.settings.client_grace_s:g} s"
    return Failure("expired", text=text)


def _drop(books: Books, session: Session, since: float, now: float) -> None:
    """Drop a session whose client has not come back since."""
    if _is_away(session, since):
        drop(books, session, now, "dropped: nobody came for its results in time")


def drop(books: Books, session: Session, now: float, why: str) -> None:
    """End a session that nobody has open, with all that is detached."""
    told = {"owner": session.owner.name, "results": len(session.outbox), "bytes": session.outbox.size_bytes}
    if session.run:
        told["run"] = session.run
    books.effects.log("warning", f"a session was {why}", arrays=len(session.arrays), **told)
    if session.run:
        end_run(books, session, "dropped" if session.arrays or session.outbox else "received", now)
    cancel_whole(books, session)
    end_session(books, session, now)


def make_room(books: Books, now: float) -> bool:
    """Drop the session whose client has been away for longest; whether there was one.

    A run goes only if there is nothing of it any more that somebody could come for.
    """
    for session in books.left.values():
        if not session.run or not (session.arrays or session.outbox):
            drop(books, session, now, "dropped: there are too many sessions")
            return True
    return False


def end_session(books: Books, session: Session, now: float) -> None:
    """Cancel what is not detached, drop what is unread, and forget the session when it is empty."""
    session.closed = True
    session.peer = None
    come_back(books, session)
    if books.journalled:
        recording.session_ended(books, session)
    drop_all(books, session)
    if session.paused:
        resume(books, session)
    balance_others(books)
    part(books, session, now)
    if session.arrays:
        cancel_session(books, session)
    else:
        forget(books, session)


def end_children(books: Books, pool: WorkerPool, now: float) -> None:
    """End the sessions of the tasks that are over, and so on downwards."""
    while pool.over:
        for session in take_back(books, pool.over.pop(), now):
            if session.peer is not None:
                link = books.links[session.peer]
                books.refuse(link, "expired", "the task that this client belongs to has ended")
            end_session(books, session, now)
