"""Why nothing of a session runs, in words for the person who waits."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from distcomp.protocol import WaitExplained

if TYPE_CHECKING:
    from distcomp.core.books import Books, Link
    from distcomp.core.sessions import Session
    from distcomp.protocol import ExplainWait

LOOKED_AT = 10_000
"""Leases that are looked at to find out whose work keeps the slots busy."""


def on_explain_wait(books: Books, link: Link, message: ExplainWait, _now: float) -> None:
    """Answer with the first reason that holds."""
    session = link.opened()
    code, text = _why_unfit(books, session) or _why_busy(books, session)
    books.send(link.peer, WaitExplained(message.request, code, text))


def _why_unfit(books: Books, session: Session) -> tuple[str, str] | None:
    """Why no worker at all could run the session's tasks; None if one could."""
    roster = session.pool.roster
    if roster.workers:
        return None
    present = [worker for worker in books.workers.values() if worker.peer is not None]
    if not present:
        return "no_workers", "no workers are connected"
    if not session.pool.workers:
        versions = ", ".join(sorted({worker.pool.python for worker in present}))
        return "unfit", (
            f"{_number(len(present), 'worker')} of Python {versions} "
            f"cannot run tasks of this client, which needs Python {session.pool.python}"
        )
    return "no_workers", "the workers that could run these tasks are leaving, resting or cut off"


def _why_busy(books: Books, session: Session) -> tuple[str, str]:
    """What the session's tasks wait for, although there are workers for them."""
    roster = session.pool.roster
    slots = _number(roster.slots, "slot")
    if session.leases:
        return "running", f"{_number(session.leases, 'lease')} of this client are with workers, of {slots}"
    if (text := _why_withheld(session)) is not None:
        return "idle", text
    if roster.idle:
        return "idle", f"{roster.idle} of {slots} are idle: the tasks are about to start"
    holders: dict[str, dict[int, None]] = {}
    leases = chain.from_iterable(worker.leases.values() for worker in books.workers.values())
    for lease in islice(leases, LOOKED_AT):
        array = lease.array
        holders.setdefault(array.session.owner.name, {})[array.order] = None
    whose = ", ".join(
        f"{_number(len(arrays), 'task array')} of {owner}" for owner, arrays in sorted(holders.items())
    )
    return "busy", f"all {slots} are busy with {whose}"


def _why_withheld(session: Session) -> str | None:
    """Why nothing of the session is queued; None if something is."""
    if session.paused:
        return "results of this client are not being read, so nothing more is started"
    if any(array.queued for array in session.arrays.values()):
        return None
    if any(array.definition.message is None for array in session.arrays.values()):
        return "the scheduler waits for a function that this client has to send"
    if any(array.lacking for array in session.arrays.values()):
        return "the scheduler waits for a bundle of local modules that this client has to send"
    if delayed := sum(len(array.delayed) for array in session.arrays.values()):
        return f"{_number(delayed, 'task')} failed and will be tried again after the delay"
    return "nothing of this client is left to do: arguments are on their way here, or results to it"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
