"""Work comes in: functions, bundles, and the chunks of task arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.core.arrays import HeldChunk, TaskArrayState
from distcomp.core.flow import can_run, finish, put_back
from distcomp.core.nesting import DEEPER, raised
from distcomp.errors import MalformedMessageError
from distcomp.protocol import (
    Accepted,
    DefineBundle,
    DefineFunction,
    MissingBundle,
    MissingFunction,
    SubmitRefused,
)

if TYPE_CHECKING:
    from distcomp.core.books import Books, Link
    from distcomp.core.sessions import Session
    from distcomp.ids import BundleId
    from distcomp.protocol import Submit


def on_define_function(books: Books, _link: Link, message: DefineFunction, _now: float) -> None:
    """Keep a function's bytes; what waited for them can run."""
    definition = books.functions.define(message.function, message)
    if definition is None:
        raise MalformedMessageError("a function that is not what its id names")
    if books.journalled and definition.message is message:
        recording.function_defined(books, message)
    for array in definition.take_waiting():
        _offer(array)


def on_define_bundle(books: Books, _link: Link, message: DefineBundle, _now: float) -> None:
    """Keep a bundle's bytes; what waited for them can run."""
    definition = books.bundles.define(message.bundle, message)
    if definition is None:
        raise MalformedMessageError("a bundle that is not what its digest says")
    if books.journalled and definition.message is message:
        recording.bundle_defined(books, message)
    for array in definition.take_waiting():
        array.lacking -= 1
        _offer(array)


def _offer(array: TaskArrayState) -> None:
    if array.pending.count and can_run(array):
        array.session.pool.queue.offer(array)


def on_missing_function(books: Books, link: Link, message: MissingFunction, _now: float) -> None:
    """Define a function again to a worker that has let go of it."""
    definition = books.functions.get(message.function)
    if definition is not None and definition.message is not None:
        books.send(link.peer, definition.message)


def on_missing_bundle(books: Books, link: Link, message: MissingBundle, _now: float) -> None:
    """Define a bundle again to a worker that has let go of it."""
    definition = books.bundles.get(message.bundle)
    if definition is not None and definition.message is not None:
        books.send(link.peer, definition.message)


def on_submit(books: Books, link: Link, message: Submit, now: float) -> None:
    """Add tasks to an array. What was accepted before is ignored, so a submit can be sent again."""
    session = link.session
    assert session is not None  # noqa: S101 - see `Link.opened`
    if session.task is not None:
        message = raised(session, message)
    session_id, counter = message.array
    if session_id != session.id:
        books.refuse(link, "role", "a client submits to its own session only")
        return
    if counter in session.finished:
        _answer_late(books, link, session, message)
        return
    array = session.arrays.get(counter)
    refusal = _objection(books, session, array, message)
    if refusal is not None:
        code, text = refusal
        books.send(link.peer, SubmitRefused(message.array, message.start, code, text))
        return
    if array is None:
        array = _open_array(books, session, message, now)
    grows = message.start + message.tasks > array.accepted
    closes = message.last and not array.closed
    if books.journalled and (grows or closes):
        recording.accepted(books, message, array.accepted)
    if closes:
        array.closed = True
    if grows:
        _extend(books, array, message, now)
    elif array.finished:
        finish(books, array)
    _accept(books, link, message, array.accepted)


def _answer_late(books: Books, link: Link, session: Session, message: Submit) -> None:
    """Answer a submit to a finished array: it is sent again, or it comes after the array was ended."""
    past = session.past.get(message.array[1])
    stop = message.start + message.tasks
    if past is None or stop <= past.tasks:
        _accept(books, link, message, stop)
        return
    text = f"the array was ended at {past.tasks} tasks while its client was away, or by somebody else"
    books.send(link.peer, SubmitRefused(message.array, message.start, "expired", text))


def _accept(books: Books, link: Link, message: Submit, tasks: int) -> None:
    books.tell(link.peer, Accepted(message.array, tasks))


def _objection(
    books: Books, session: Session, array: TaskArrayState | None, message: Submit
) -> tuple[str, str] | None:
    """Why nothing of a submit can be taken, as code and text; None if it can."""
    accepted = 0
    if array is not None:
        accepted = array.accepted
        if array.options != message.options or array.definition.id != message.function:
            return "options", "an array has one function and one set of options"
        if array.closed and message.start + message.tasks > accepted:
            return "expired" if array.cut else "closed", f"the array was closed at {accepted} tasks"
    elif len(session.arrays) >= books.settings.max_arrays:
        return "full", f"the session has {len(session.arrays)} unfinished arrays"
    elif session.run and len(session.arrays) + len(session.past) >= books.settings.max_run_arrays:
        return "full", f"the run has {len(session.arrays) + len(session.past)} arrays"
    if message.start > accepted:
        return "gap", f"{accepted} tasks were accepted, the next cannot begin at {message.start}"
    return lack_of_room(books, message)


def lack_of_room(books: Books, message: Submit) -> tuple[str, str] | None:
    """Why the chunk of a submit cannot be held, as code and text; None if it can."""
    if books.shut:
        return "full", books.shut
    held_bytes = books.chunk_bytes + books.outcome_bytes
    if message.tasks and held_bytes + len(message.chunk) > books.settings.max_held_bytes:
        return "full", f"the scheduler holds {held_bytes} bytes of arguments and results"
    return None


def _open_array(books: Books, session: Session, message: Submit, now: float) -> TaskArrayState:
    """Begin an array; its function is asked for if its bytes are not here."""
    definition = books.functions.use(message.function)
    claim = session.pool.queue.claim_of(session, message.options.priority)
    order = next(books.orders) - session.depth * DEEPER
    array = TaskArrayState(message.array, session, definition, message.options, claim, order=order, now=now)
    session.arrays[message.array[1]] = array
    if definition.message is None:
        definition.waiting[array.order] = array
        books.tell(session.peer, MissingFunction(definition.id))
    return array


def use_bundle(books: Books, array: TaskArrayState, bundle: BundleId) -> None:
    """Note that an array needs a bundle; it is asked for if its bytes are not here."""
    for known in array.bundles:
        if known.id == bundle:
            return
    definition = books.bundles.use(bundle)
    array.bundles += (definition,)
    if definition.message is None:
        definition.waiting[array.order] = array
        array.lacking += 1
        if array.queued:
            array.session.pool.queue.withhold(array)
        books.tell(array.session.peer, MissingBundle(bundle))


def _extend(books: Books, array: TaskArrayState, message: Submit, now: float) -> None:
    start, stop = array.accepted, message.start + message.tasks
    bundle = message.bundle
    chunk = HeldChunk(message.start, start, stop, message.chunk, bundle)
    array.chunks.append(chunk)
    if books.journalled:
        chunk.batch = books.batch + 1
    if bundle:
        use_bundle(books, array, bundle)
    array.accepted = stop
    array.changed_at = now
    books.chunk_bytes += len(message.chunk)
    books.counts.accepted += stop - start
    put_back(array, start, stop)
    session = array.session
    pool = session.pool
    if not pool.workers and not session.noticed:
        pool.unnoticed[session.id] = session
