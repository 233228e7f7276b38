"""Why nothing of a session runs, and where one task is, in words for the person who waits."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from distcomp.errors import MalformedMessageError
from distcomp.protocol import TaskExplained, WaitExplained

if TYPE_CHECKING:
    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import Books, Link
    from distcomp.core.leases import OpenLease
    from distcomp.core.sessions import Session
    from distcomp.protocol import ExplainTask, ExplainWait

LOOKED_AT = 10_000
"""Leases that are looked at to find out whose work keeps the slots busy, or which holds a task."""

_SENDING = "its arguments are on their way to the scheduler"
_SETTLED = "it has ended; what came of it is on its way to the client"


def on_explain_wait(books: Books, link: Link, message: ExplainWait, _now: float) -> None:
    """Answer with the first reason that holds."""
    session = link.opened()
    code, text = _why_shut(books, link) or _why_unfit(books, session) or _why_busy(books, session)
    books.send(link.peer, WaitExplained(message.request, code, text))


def on_explain_task(books: Books, link: Link, message: ExplainTask, now: float) -> None:
    """Answer where a task of the session is."""
    session = link.opened()
    if message.array[0] != session.id:
        raise MalformedMessageError("a task of another session cannot be explained")
    array = session.arrays.get(message.array[1])
    if array is None:
        known = message.array[1] in session.finished
        state, text = ("settled", _SETTLED) if known else ("sending", _SENDING)
    else:
        state, text = _where(books, array, message.task_index, now)
    trial = None if array is None else array.trials.get(message.task_index)
    past = () if trial is None else trial.past
    books.send(link.peer, TaskExplained(message.request, state, text, past))


def _where(books: Books, array: TaskArrayState, index: int, now: float) -> tuple[str, str]:
    """Where a task of an unfinished array is."""
    if index >= array.accepted:
        return "sending", _SENDING
    if index in array.delayed:
        return "delayed", f"it failed, and is tried again in {max(0.0, array.delayed[index] - now):.1f} s"
    if index in array.pending:
        return "waiting", _why_waiting(books, array)
    for lease in islice(array.leases.values(), LOOKED_AT):
        if any(start <= index < stop for start, stop in lease.open):
            return _at_worker(lease, index)
    if array.leased:  # there were more leases than are looked at
        return "held", "a worker has it"
    return "settled", _SETTLED


def _at_worker(lease: OpenLease, index: int) -> tuple[str, str]:
    """What a worker does with a task of its lease."""
    worker = lease.worker
    where = f"worker {worker.record.name} on {worker.record.host}"
    cut_off = "" if worker.peer is not None else ", which is cut off just now"
    running_s = worker.running.get((lease.token, index))
    if running_s is not None:
        return "running", f"{where}{cut_off} runs it, for {running_s:.1f} s when it last said so"
    return "held", f"{where}{cut_off} has it, and has not said that it runs: it has just come, or waits there"


def _why_waiting(books: Books, array: TaskArrayState) -> str:
    """Why no worker has a pending task."""
    session = array.session
    unfit = _why_unfit(books, session)
    if unfit is not None:
        return unfit[1]
    if not array.queued and (text := _why_withheld(session)) is not None:
        return text
    if session.pool.roster.idle:
        return "it is about to start: slots are idle"
    pending = array.pending.count
    return f"{_who_is_busy(books, session)}; {_number(pending, 'task')} of its array wait"


def room_words(books: Books, size_bytes: int) -> str:
    """What has to be done for what does not fit on the disk."""
    return (
        f"{size_bytes:,} bytes of arguments or results do not fit on the scheduler's disk: free some room at "
        f"{books.journal} on its host, and it goes on by itself"
    )


def _why_shut(books: Books, link: Link) -> tuple[str, str] | None:
    """Why the scheduler takes nothing and passes no outcomes on, or not all of this peer; None if it does."""
    if books.shut:
        return "full", books.shut
    size_bytes = books.no_room.get(link.peer)
    return ("full", room_words(books, size_bytes)) if size_bytes else None


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
    return "busy", _who_is_busy(books, session)


def _who_is_busy(books: Books, session: Session) -> str:
    """Whose work keeps all slots busy."""
    slots = _number(session.pool.roster.slots, "slot")
    holders: dict[str, dict[int, None]] = {}
    leases = chain.from_iterable(worker.leases.values() for worker in books.workers.values())
    for lease in islice(leases, LOOKED_AT):
        array = lease.array
        holders.setdefault(array.session.owner.name, {})[array.order] = None
    whose = ", ".join(
        f"{_number(len(arrays), 'task array')} of {owner}" for owner, arrays in sorted(holders.items())
    )
    return f"all {slots} are busy with {whose}"


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
