"""Clients come, go away, come back and leave for good."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.core.cancelling import cancel_session
from distcomp.core.effects import Close
from distcomp.core.flow import forget, resume
from distcomp.core.nesting import adopt, part, take_back
from distcomp.core.sessions import Owner, Session
from distcomp.errors import MalformedMessageError
from distcomp.protocol import GaveNotice, MissingBundle, MissingFunction, SessionOpened

if TYPE_CHECKING:
    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import Books, Link, WorkerPool
    from distcomp.protocol import AckOutcomes, CloseSession, OpenSession

_PYTHON = re.compile(r"\d{1,3}\.\d{1,3}(\..{1,32})?")


def on_open_session(books: Books, link: Link, message: OpenSession, _now: float) -> None:
    """Open a session, or go on with one; then send again all that its client has not acknowledged."""
    session = books.sessions.get(message.session)
    if session is None:
        session = _begin(books, link, message)
        if session is None:
            return
    elif session.owner.name != link.owner:
        books.refuse(link, "role", "the session belongs to another owner")
        return
    elif session.task is not link.task:
        books.refuse(link, "role", "the session belongs to another task")
        return
    elif session.closed:
        books.refuse(link, "expired", "the session was closed")
        return
    elif session.peer is not None:
        _displace(books, session)
    session.peer = link.peer
    link.phase, link.session = "session", session
    known = tuple((array.id, array.accepted) for array in session.arrays.values())
    settings = books.settings
    durable = books.journalled
    opened = SessionOpened(books.epoch, books.cluster, settings.client_grace_s, known, durable)
    books.tell(link.peer, opened)
    for array in session.arrays.values():
        _ask_for(books, array)
    for outcome, _ in session.outbox.values():
        books.tell(link.peer, outcome)


def _ask_for(books: Books, array: TaskArrayState) -> None:
    """Ask an array's client for what is not here of what it needs."""
    if array.definition.message is None:
        books.tell(array.session.peer, MissingFunction(array.definition.id))
    for bundle in array.bundles:
        if bundle.message is None:
            books.tell(array.session.peer, MissingBundle(bundle.id))


def _begin(books: Books, link: Link, message: OpenSession) -> Session | None:
    if message.resumes:
        books.refuse(link, "expired", "the session is not known: the client was away for too long")
        return None
    if len(books.sessions) >= books.settings.max_sessions:
        books.refuse(link, "full", "the scheduler has as many sessions as it may hold")
        return None
    task = link.task
    if task is not None and task.over:
        books.refuse(link, "expired", "the task has ended")
        return None
    if not _PYTHON.fullmatch(message.versions.python):
        raise MalformedMessageError("a Python version that is none")
    owner = books.owners.get(link.owner)
    if owner is None:
        owner = books.owners[link.owner] = Owner(link.owner)
    pool = books.pool(message.versions.python) if task is None else task.lease.worker.pool
    pool.sessions += 1
    session = books.sessions[message.session] = Session(message, owner, pool)
    if task is not None:
        adopt(session, task)
    if books.journalled:
        recording.session_began(books, session)
    return session


def _displace(books: Books, session: Session) -> None:
    """End the connection that a session had before; the new one counts."""
    assert session.peer is not None  # noqa: S101 - asked for only then
    link = books.links[session.peer]
    link.phase = "closed"
    books.effects.closes.append(Close(link.peer, "the session was opened again"))


def on_ack_outcomes(books: Books, link: Link, message: AckOutcomes, _now: float) -> None:
    """Let go of outcomes that the client has."""
    session = link.opened()
    if books.journalled:
        recording.received(books, session, message.seqs)
    for seq in message.seqs:
        held = session.outbox.pop(seq, None)
        if held is not None:
            session.unread_bytes -= held[1]
            books.held_bytes -= held[1]
    if session.paused and session.unread_bytes <= books.settings.max_unread_bytes // 2:
        resume(session)


def on_close_session(books: Books, link: Link, _message: CloseSession, now: float) -> None:
    """End a session at its client's wish."""
    link.phase = "closed"
    books.effects.closes.append(Close(link.peer, "the session was closed"))
    end_session(books, link.opened(), now)


def end_children(books: Books, pool: WorkerPool, now: float) -> None:
    """End the sessions of the tasks that are over, and so on downwards."""
    while pool.over:
        for session in take_back(books, pool.over.pop(), now):
            if session.peer is not None:
                link = books.links[session.peer]
                books.refuse(link, "expired", "the task that this client belongs to has ended")
            end_session(books, session, now)


def client_gone(books: Books, session: Session, now: float) -> None:
    """Keep the session of a client without connection for a while."""
    session.peer = None
    session.away_since = now
    books.timers.add(now + books.settings.client_grace_s, _expire, books, session, now)


def _expire(books: Books, session: Session, since: float, now: float) -> None:
    """End a session whose client has not come back since."""
    if session.peer is None and session.away_since == since and not session.closed:
        books.effects.log("warning", "session expired", owner=session.owner.name, arrays=len(session.arrays))
        end_session(books, session, now)


def end_session(books: Books, session: Session, now: float) -> None:
    """Cancel what is not detached, drop what is unread, and forget the session when it is empty."""
    session.closed = True
    session.peer = None
    if books.journalled:
        recording.session_ended(books, session)
    session.outbox.clear()
    books.held_bytes -= session.unread_bytes
    session.unread_bytes = 0
    if session.paused:
        resume(session)
    part(books, session, now)
    if session.arrays:
        cancel_session(books, session)
    else:
        forget(books, session)


def notice_unfit(books: Books, pool: WorkerPool) -> None:
    """Tell each user once that no worker can run their tasks although there are workers."""
    if pool.workers:
        pool.unnoticed.clear()
    elif books.workers:
        versions = sorted({worker.pool.python for worker in books.workers.values()})
        text = (
            f"no worker can run these tasks: they need Python {pool.python}, "
            f"the workers run Python {', '.join(versions)}"
        )
        for session in pool.unnoticed.values():
            if session.arrays:
                session.noticed = True
                books.tell(session.peer, GaveNotice("unfit", text))
        pool.unnoticed.clear()
