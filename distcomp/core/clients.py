"""Clients come, go away, come back and leave for good."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from distcomp.core import recording, runs
from distcomp.core.cancelling import cancel_whole, close_open
from distcomp.core.effects import Close
from distcomp.core.flow import balance, balance_others
from distcomp.core.leaving import client_gone, come_back, end_session, make_room
from distcomp.core.nesting import adopt
from distcomp.core.outcomes import halt, let_go, mark_read, send_again
from distcomp.core.sessions import Owner, Session
from distcomp.core.sleeping import accepted, awake
from distcomp.errors import MalformedMessageError
from distcomp.protocol import GaveNotice, MissingBundle, MissingFunction, RunForgotten, SessionOpened

if TYPE_CHECKING:
    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import Books, Link, WorkerPool
    from distcomp.protocol import AckOutcomes, CloseSession, ForgetRun, OpenSession, ReadOutcomes

_PYTHON = re.compile(r"\d{1,3}\.\d{1,3}(\..{1,32})?")


def on_open_session(books: Books, link: Link, message: OpenSession, now: float) -> None:
    """Open a session, or go on with one; then send again all that its client has not acknowledged."""
    session = books.sessions.get(message.session)
    if session is None:
        session = _begin(books, link, message, now)
        if session is None:
            return
    else:
        refusal = _objection(books, link, session, message)
        if refusal is not None:
            books.refuse(link, *refusal)
            return
        _go_on(books, session, message, now)
    session.peer = link.peer
    link.phase, link.session = "session", session
    known = () if session.run else tuple(accepted(session))
    settings = books.settings
    durable = books.journalled
    opened = SessionOpened(books.epoch, books.cluster, settings.client_grace_s, known, durable)
    books.tell(link.peer, opened)
    if session.run:
        runs.describe(books, session)
    for array in awake(session):
        _ask_for(books, array)
    send_again(books, session)


def _objection(books: Books, link: Link, session: Session, message: OpenSession) -> tuple[str, str] | None:
    """Why a peer may not have a session, as code and text; None if it may."""
    if session.owner.name != link.owner:
        return "role", "the session belongs to another owner"
    if session.task is not link.task:
        return "role", "the session belongs to another task"
    if session.closed:
        return "expired", "the session was closed"
    return runs.objection(books, session, message)


def _go_on(books: Books, session: Session, message: OpenSession, now: float) -> None:
    """A session's client is there again."""
    if session.peer is not None:
        _displace(books, session)
    come_back(books, session)
    if session.run:
        runs.take_over(books, session, message)
    if books.journalled:
        recording.client_came(books, session, now)


def _ask_for(books: Books, array: TaskArrayState) -> None:
    """Ask an array's client for what is not here of what it needs."""
    if array.definition.message is None:
        books.tell(array.session.peer, MissingFunction(array.definition.id))
    for bundle in array.bundles:
        if bundle.message is None:
            books.tell(array.session.peer, MissingBundle(bundle.id))


def _begin(books: Books, link: Link, message: OpenSession, now: float) -> Session | None:
    refusal = _hindrance(books, link, message, now)
    if refusal is not None:
        books.refuse(link, *refusal)
        return None
    task = link.task
    if not _PYTHON.fullmatch(message.versions.python):
        raise MalformedMessageError("a Python version that is none")
    owner = books.owners.get(link.owner)
    if owner is None:
        owner = books.owners[link.owner] = Owner(link.owner)
    pool = books.pool(message.versions.python) if task is None else task.lease.worker.pool
    pool.sessions += 1
    session = books.sessions[message.session] = Session(message, owner, pool)
    session.began_at = now
    if task is not None:
        adopt(session, task)
    if session.run:
        runs.begin(books, session, now)
    if books.journalled:
        recording.session_began(books, session)
        if session.run:
            recording.client_came(books, session, now)
    return session


def _hindrance(books: Books, link: Link, message: OpenSession, now: float) -> tuple[str, str] | None:
    """Why a session cannot begin, as code and text; None if it can."""
    task = link.task
    if message.resumes and message.run:
        return "unknown", runs.unknown(books, link.owner, message.run, now)
    if message.resumes:
        return "expired", "the session is not known: the client was away for too long"
    if task is not None and (task.over or message.run):
        return "expired", "the task has ended" if task.over else "a task's client has no runs"
    if (link.owner, message.run) in books.runs:
        return "role", f"the run {message.run!r} has another session"
    if len(books.sessions) >= books.settings.max_sessions and not make_room(books, now):
        return "full", "the scheduler has as many sessions as it may hold"
    return None


def _displace(books: Books, session: Session) -> None:
    """End the connection that a session had before; the new one counts."""
    assert session.peer is not None  # noqa: S101 - asked for only then
    link = books.links[session.peer]
    link.phase = "closed"
    books.effects.closes.append(Close(link.peer, "the session was opened again"))
    halt(session)


def on_ack_outcomes(books: Books, link: Link, message: AckOutcomes, _now: float) -> None:
    """Let go of outcomes that the client has."""
    session = link.session
    assert session is not None  # noqa: S101 - see `Link.opened`
    if books.journalled:
        recording.received(books, session, message.seqs)
    before_bytes = books.spilled_bytes
    let_go(books, session, message.seqs)
    if session.paused:
        balance(books, session)
    if books.spilled_bytes < before_bytes and books.paused:
        balance_others(books)


def on_read_outcomes(books: Books, link: Link, message: ReadOutcomes, _now: float) -> None:
    """Send more, as the client has read so much that it does not acknowledge."""
    mark_read(books, link.opened(), message.seqs)


def on_close_session(books: Books, link: Link, _message: CloseSession, now: float) -> None:
    """End a session at its client's wish; a run stays, for the next process."""
    session = link.opened()
    link.phase = "closed"
    books.effects.closes.append(Close(link.peer, "the session was closed"))
    if session.run:
        close_open(books, session)
        client_gone(books, session, now)
    else:
        end_session(books, session, now)


def on_forget_run(books: Books, link: Link, message: ForgetRun, now: float) -> None:
    """End a run for good, unless a process has it open."""
    if link.phase == "new":
        link.phase = "watch"
    owner = message.owner if message.owner and link.role == "admin" else link.owner
    session = books.runs.get((owner, message.run)) if message.owner in ("", owner) else None
    if session is None:
        code, text = "unknown", runs.unknown(books, owner, message.run, now)
    elif session.peer is not None:
        code, text = "taken", f"{runs.holder(session)} has it open: end that first"
    else:
        code, text = "forgotten", f"it had {len(session.arrays)} unfinished task arrays"
        runs.end_run(books, session, "forgotten", now)
        cancel_whole(books, session)
        end_session(books, session, now)
    books.tell(link.peer, RunForgotten(message.request, code, text))


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
