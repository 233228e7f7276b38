"""Runs: sessions with a name, which any process of their owner may go on with.

Of a run that is no more the last word is remembered for a while, so that who looks for it hears what became
of it. All names are an owner's: two owners may have runs of the same name, and neither knows of the other's.
"""

from __future__ import annotations

from difflib import get_close_matches
from itertools import chain
from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.core.cancelling import close_open
from distcomp.core.sessions import EndedRun
from distcomp.protocol import RunDescribed, RunsListed
from distcomp.rows import Failure, RunArray, RunRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distcomp.core.books import Books, Link
    from distcomp.core.sessions import RunKey, Session
    from distcomp.core.spans import Span
    from distcomp.protocol import ListRuns, OpenSession

DESCRIBED_SPANS = 4096
"""Spans in one part of a description; an array takes as much as `ARRAY_SPANS` besides its own."""

ARRAY_SPANS = 16
LISTED_RUNS = 64
"""Runs in one part of a list."""

TOLD_FUNCTIONS = 8
ALL_SEEN = frozenset({"observer", "admin"})
"""Roles that see the runs of all owners; a client sees those of its own."""

_UNMET = Failure(
    "expired",
    text="its function or modules never came: the process that submitted it ended before it sent them",
)


# --- opening --------------------------------------------------------------------------------------


def objection(books: Books, session: Session, message: OpenSession) -> tuple[str, str] | None:
    """Why a process may not open a session as the run that it names, as code and text; None if it may."""
    told = session.opening
    if session.run != message.run:
        return "role", f"the session is that of the run {session.run!r}" if session.run else "it is no run's"
    if not session.run:
        return None
    if session.peer is not None and told.nonce != message.nonce:
        return "taken", f"{holder(session)} has the run {session.run!r} open: one process at a time may"
    if session.pool is not books.pool(message.versions.python):
        text = f"the run {session.run!r} was begun with Python {session.pool.python}"
        return "versions", f"{text}, and this process runs Python {message.versions.python}"
    return None


def holder(session: Session) -> str:
    """The process that has or had a run open."""
    told = session.opening
    return f"process {told.pid} ({told.program}) on {told.host}"


def begin(books: Books, session: Session, now: float) -> None:
    """A run begins; what was remembered of one of that name is forgotten."""
    key = session.owner.name, session.run
    books.runs[key] = session
    books.ended_runs.pop(key, None)
    session.began_at = now


def take_over(books: Books, session: Session, message: OpenSession) -> None:
    """Let a process have a run; nothing more comes to what another one has left open of it.

    Tasks go on in the environment in which it began, as slots have that already.
    """
    told = session.opening
    if told.nonce != message.nonce:
        close_open(books, session, _UNMET)
    session.opening = message._replace(environment=told.environment)


def unknown(books: Books, owner: str, run: str, now: float) -> str:
    """Why there is no such run, for its owner."""
    ended = books.ended_runs.get((owner, run))
    if ended is not None:
        ago_s = max(0.0, now + books.wall_offset_s - ended.ended_at)
        return f"the run {run!r} was {_ENDS[ended.why]} {_duration(ago_s)} ago"
    names = sorted(name for whose, name in books.runs if whose == owner)
    near = get_close_matches(run, names, n=3) or names[:3]
    text = f"there is no run {run!r} of {owner}"
    return f"{text}; there is {', '.join(map(repr, near))}" if near else text


_ENDS = {
    "dropped": "dropped, as no process had it open for the time that results are kept,",
    "received": "let go of, as all of its results had been received,",
    "forgotten": "forgotten at its owner's wish",
}


def _duration(seconds: float) -> str:
    for size_s, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {name}"
    return f"{seconds:.0f} s"


# --- describing -----------------------------------------------------------------------------------


def describe(books: Books, session: Session) -> None:
    """Tell whoever opened a run what there is of it."""
    part: list[RunArray] = []
    spans = 0
    for row in _rows(session):
        if spans > DESCRIBED_SPANS:
            books.tell(session.peer, RunDescribed(tuple(part), more=True))
            part, spans = [], 0
        part.append(row)
        spans += len(row.received) + ARRAY_SPANS
    books.tell(session.peer, RunDescribed(tuple(part), more=False))


def _rows(session: Session) -> Iterator[RunArray]:
    for counter in sorted(chain(session.past, session.arrays)):
        for spans in _portions(list(session.received.get(counter, ()))):
            past = session.past.get(counter)
            if past is None:
                array = session.arrays[counter]
                definition = array.definition
                counts = array.accepted, array.settled, array.failed, array.closed
                yield RunArray(counter, definition.id, definition.name, *counts, spans)
            else:
                function, name, tasks, failed = past
                yield RunArray(counter, function, name, tasks, tasks, failed, closed=True, received=spans)


def _portions(spans: list[Span]) -> Iterator[tuple[Span, ...]]:
    for at in range(0, max(1, len(spans)), DESCRIBED_SPANS):
        yield tuple(spans[at : at + DESCRIBED_SPANS])


def on_list_runs(books: Books, link: Link, message: ListRuns, now: float) -> None:
    """Tell a peer of the runs that it may see."""
    if link.phase == "new":
        link.phase = "watch"
    rows = [
        _row(books, session, now)
        for (owner, _), session in sorted(books.runs.items())
        if link.role in ALL_SEEN or owner == link.owner
    ]
    for at in range(0, max(1, len(rows)), LISTED_RUNS):
        more = at + LISTED_RUNS < len(rows)
        books.send(link.peer, RunsListed(message.request, tuple(rows[at : at + LISTED_RUNS]), more))


def _row(books: Books, session: Session, now: float) -> RunRow:
    """One run as the scheduler has it."""
    arrays, past, box, told = session.arrays.values(), session.past.values(), session.outbox, session.opening
    names = [session.past[counter].name for counter in sorted(session.past)]
    names += [array.definition.name for array in arrays]
    functions = tuple(dict.fromkeys(reversed(names)))[:TOLD_FUNCTIONS]
    offset_s = books.wall_offset_s
    left_at = drop_at = 0.0
    if session.peer is None:
        left_at = max(0.0, session.away_since + offset_s)
        drop_at = max(left_at + books.settings.result_retention_s, now + offset_s)
    return RunRow(
        session.owner.name,
        session.run,
        functions,
        sum(array.tasks for array in past) + sum(array.accepted for array in arrays),
        sum(array.tasks for array in past) + sum(array.settled for array in arrays),
        sum(array.failed for array in past) + sum(array.failed for array in arrays),
        len(box),
        box.size_bytes,
        box.stored_bytes,
        max(0.0, session.began_at + offset_s),
        left_at,
        drop_at,
        told.host,
        told.pid,
        told.program,
    )


# --- ends -----------------------------------------------------------------------------------------


def end_run(books: Books, session: Session, why: str, now: float) -> None:
    """Remember what became of a run, which ends."""
    key = session.owner.name, session.run
    del books.runs[key]
    ended = EndedRun(why, max(0.0, now + books.wall_offset_s))
    remember_end(books, key, ended)
    if books.journalled:
        recording.run_ended(books, key, ended)


def remember_end(books: Books, key: RunKey, ended: EndedRun) -> None:
    """Remember what became of a run, among the last that have ended."""
    books.ended_runs[key] = ended
    books.ended_runs.move_to_end(key)
    while len(books.ended_runs) > books.settings.max_ended_runs:
        books.ended_runs.popitem(last=False)
