"""What tasks print and log, on its way from workers to clients: bounded, and lost rather than kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.allowance import Allowance
from distcomp.protocol import TasksLogged

if TYPE_CHECKING:
    from distcomp.core.books import Books, Link
    from distcomp.worker_protocol import LeaseLogged

LINE_BYTES = 64
"""What a line is taken to weigh besides its text."""


def on_lease_logged(books: Books, link: Link, message: LeaseLogged, now: float) -> None:
    """Pass on what the session's allowance lets through, and how many lines were dropped."""
    worker = link.working()
    lease = worker.leases.get(message.token)
    if lease is None:
        return
    array = lease.array
    session = array.session
    if session.peer is None:
        return
    if session.allowance is None:
        settings = books.settings
        session.allowance = Allowance(settings.session_log_lines_per_s, settings.session_log_bytes_per_s, now)
    take = session.allowance.take
    lines = tuple(line for line in message.lines if take(LINE_BYTES + len(line.text), now))
    dropped = message.dropped + len(message.lines) - len(lines)
    definition = array.definition.message
    name = "" if definition is None else definition.name
    books.send(session.peer, TasksLogged(array.id, name, worker.record.name, lines, dropped))
