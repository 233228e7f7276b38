"""The end of tasks at the client's wish, or because nobody can run them, wherever they are."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.core.flow import finish, forward_alike, settle
from distcomp.core.sleeping import awake
from distcomp.core.spans import count, joined
from distcomp.rows import Failure
from distcomp.worker_protocol import CancelLease

if TYPE_CHECKING:
    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import Books, Link
    from distcomp.core.leases import OpenLease
    from distcomp.core.sessions import Session
    from distcomp.core.spans import Span
    from distcomp.protocol import CancelTasks

TOLD_AT_ONCE = 4096
"""Spans of ended tasks in one message to a client that did not ask for their end itself."""


def on_cancel_tasks(books: Books, link: Link, message: CancelTasks, now: float) -> None:
    """Cancel tasks of an array that the peer may touch; those that are over or unknown are over."""
    session = books.sessions.get(message.array[0])
    if session is None:
        return
    if link.role != "admin" and session.owner.name != link.owner:
        books.refuse(link, "role", "the array belongs to another owner")
        return
    array = session.arrays.get(message.array[1])
    if array is None:
        return
    array.changed_at = now
    if message.pending_only:
        books.given_up.append((array, message.spans or ((0, array.accepted),)))
        return
    taken = cancel(books, array, message.spans)
    if link.session is not session or session.run:  # of a run, who opens it next has to hear of it, too
        _tell(books, array, taken, Failure("cancelled", text=f"cancelled by {link.owner}"))
    if array.finished:
        finish(books, array)


def cancel_given_up(books: Books) -> None:
    """Cancel what clients do without if no lease holds it; called after a turn's placement pass."""
    given_up, books.given_up = books.given_up, []
    for array, spans in given_up:
        taken = [] if array.forgotten else _end_unleased(books, array, joined(spans))
        books.counts.cancelled += sum(stop - start for start, stop in taken)
        _tell(books, array, taken, Failure("cancelled", text="cancelled by its client before it was leased"))
        if array.finished:
            finish(books, array)


def cancel(books: Books, array: TaskArrayState, spans: tuple[Span, ...]) -> list[Span]:
    """Settle what of the array is not, within `spans`; no spans closes the array and means all of it.

    Returns:
        What was cancelled.
    """
    if not spans:
        close(books, array)
        spans = ((0, array.accepted),) if array.accepted else ()
    taken = _end(books, array, spans)
    books.counts.cancelled += sum(stop - start for start, stop in taken)
    return taken


def _end(books: Books, array: TaskArrayState, spans: tuple[Span, ...]) -> list[Span]:
    """Settle what of the array is not, within `spans`; return what that was."""
    wanted = joined(spans)
    taken = _end_unleased(books, array, wanted)
    held = [span for lease in list(array.leases.values()) for span in _cut_lease(books, lease, wanted)]
    settle(books, array, held)
    if books.journalled:
        recording.cancelled(books, array, held)
    return taken + held


def _end_unleased(books: Books, array: TaskArrayState, wanted: list[Span]) -> list[Span]:
    """Settle what of the array no lease holds, within sorted spans; return what that was."""
    taken = _cut_pending(array, wanted)
    for index in sorted(array.delayed):
        if contains_index(wanted, index):
            del array.delayed[index]
            taken.append((index, index + 1))
    settle(books, array, taken)
    if books.journalled:
        recording.cancelled(books, array, taken)
    return taken


def close(books: Books, array: TaskArrayState) -> None:
    """Let nothing more come to an array."""
    if array.closed:
        return
    if books.journalled:
        recording.closed(books, array)
    array.closed = array.cut = True


def contains_index(spans: list[Span], index: int) -> bool:
    """Whether `index` is in sorted spans."""
    position = bisect_left(spans, (index + 1,))
    return position > 0 and index < spans[position - 1][1]


def _cut_pending(array: TaskArrayState, wanted: list[Span]) -> list[Span]:
    taken: list[Span] = []
    for start, stop in wanted:
        if not array.pending.count:
            break
        if array.queued:
            taken += array.session.pool.queue.cut(array, start, stop)
        else:
            taken += array.pending.cut(start, stop)
    return taken


def _cut_lease(books: Books, lease: OpenLease, wanted: list[Span]) -> list[Span]:
    """Cancel what of a lease is open; its slot stays busy until the worker says that it is gone.

    The worker hears of it once that is durable: a scheduler that was killed before would take the task for
    one that had not begun, and have it begin again.
    """
    if not lease.open:
        return []
    low, high = lease.open[0][0], lease.open[-1][1]
    position = max(0, bisect_left(wanted, (low + 1,)) - 1)
    taken: list[Span] = []
    while position < len(wanted) and wanted[position][0] < high:
        taken += lease.cancel(*wanted[position])
        position += 1
    if taken:
        lease.worker.pool.queue.correct(lease.array, -count(taken) * lease.pace_s)
        books.tell(lease.worker.peer, CancelLease(lease.token, tuple(taken)))
    return taken


def _tell(books: Books, array: TaskArrayState, taken: list[Span], failure: Failure) -> None:
    """Tell the client of tasks whose end it did not ask for."""
    spans = joined(taken)
    for position in range(0, len(spans), TOLD_AT_ONCE):
        forward_alike(books, array, tuple(spans[position : position + TOLD_AT_ONCE]), failure)


def cancel_session(books: Books, session: Session, failure: Failure | None = None) -> None:
    """Cancel all of a session but the detached arrays that can come to their end without its client.

    With a failure, the client is told of it when it comes back.
    """
    for array in list(session.arrays.values()):
        if array.options.detach and array.has_needs:
            close(books, array)
        else:
            _cancel_all(books, array, failure)
        if array.finished:
            finish(books, array)


def close_open(books: Books, session: Session, unmet: Failure | None = None) -> None:
    """Let nothing more come to the arrays of a run.

    With a failure, those fail that cannot run, as what their tasks need was to come, too.
    """
    for array in list(awake(session)):
        if unmet is None or array.has_needs:
            close(books, array)
        else:
            _cancel_all(books, array, unmet)
        if array.finished:
            finish(books, array)


def _cancel_all(books: Books, array: TaskArrayState, failure: Failure | None) -> None:
    taken = cancel(books, array, ())
    if failure is not None:
        _tell(books, array, taken, failure)


def cancel_whole(books: Books, session: Session) -> None:
    """Cancel all of a session."""
    for array in list(session.arrays.values()):
        cancel(books, array, ())
        finish(books, array)


def fail_session(books: Books, session: Session, failure: Failure) -> None:
    """Let all tasks of a session that are not settled fail."""
    for array in list(session.arrays.values()):
        if array.accepted:
            _tell(books, array, _end(books, array, ((0, array.accepted),)), failure)
        if array.finished:
            finish(books, array)
