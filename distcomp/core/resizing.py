"""Another number of slots for a worker that runs.

Law of resizing: `wanted` is what a worker was asked to have last and has not said that it has. Fewer slots
count at once, so that nothing new goes to those that end; more count when the worker has them. What it says
of an older wish counts for nothing. A worker that lost its connection before it answered is asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.protocol import WorkerResized
from distcomp.worker_protocol import SetSlots

if TYPE_CHECKING:
    from distcomp.core.books import Books, Link
    from distcomp.core.roster import WorkerEntry
    from distcomp.protocol import ResizeWorker
    from distcomp.worker_protocol import SlotsSet


def on_resize_worker(books: Books, link: Link, message: ResizeWorker, now: float) -> None:
    """Ask a worker to have another number of slots, at the wish of an admin."""
    if link.phase == "new":
        link.phase = "watch"
    code, text = _ask_for(books, message, now)
    books.send(link.peer, WorkerResized(message.request, code, text))


def _ask_for(books: Books, message: ResizeWorker, now: float) -> tuple[str, str]:
    worker = books.workers.get(message.worker)
    if worker is None:
        return "unknown", f"there is no worker {message.worker.hex()}; it may have left"
    name, before = worker.record.name, worker.record.slots
    if worker.peer is None:
        return "away", f"the worker {name} has no connection now: ask again when it is back"
    worker.wanted = message.slots
    _ask(books, worker, now)
    values = {"name": name, "before": before, "slots": message.slots}
    books.effects.log("info", "a worker was asked for another number of slots", **values)
    return "asked", f"{before} slots before"


def ask_again(books: Books, worker: WorkerEntry, now: float) -> None:
    """Ask a worker that has come back without having said that it has what it was asked for."""
    if worker.wanted:
        _ask(books, worker, now)


def _ask(books: Books, worker: WorkerEntry, now: float) -> None:
    if worker.wanted < worker.record.slots:
        worker.pool.roster.resize(worker, worker.wanted, now)
    books.send(worker.peer, SetSlots(worker.wanted))


def on_slots_set(books: Books, link: Link, message: SlotsSet, now: float) -> None:
    """Count the slots that a worker has by now."""
    worker = link.working()
    if message.slots != worker.wanted:
        return
    worker.wanted = 0
    worker.pool.roster.resize(worker, message.slots, now)
    worker.record = worker.record._replace(max_lent=message.max_lent)
    if books.journalled:
        recording.worker_came(books, worker)
