"""What the scheduler writes down: each change of what must outlive it, as it comes about.

Law of recording:

- A fact is recorded by the transition that makes it true, in the order of the transitions. What follows
  from facts is not: an array that is closed and settled is finished, a closed session without arrays is
  forgotten. So a replay of all records up to any commit gives the books as they were after that turn.
- The records of one turn become durable together or not at all. What tells somebody else that they may
  forget something leaves only then, as an *ack*: `SessionOpened`, `Accepted`, outcomes (to clients), and
  `AckSettles` (to workers). All else that a client hears of a session goes the same way, because it must
  not arrive before `SessionOpened`; only answers to its own questions leave at once, and the refusal of a
  submit, which promises nothing.
- A worker hears that something of a lease is over only then, also one that comes back: what it ended would
  be found granted after a restart, taken for not begun, and begin again.
- A grant leaves at once, as long as its loss costs no more than a task that begins again and is then
  cancelled. It waits for the commit if its tasks are not durable yet (its client may send them again, and
  they must not have begun), and if their starts are counted (`max_attempts`). Whatever else is said of a
  lease whose grant waits, waits behind it; so does `EndSession`.
- Without a journal nothing is recorded and nothing waits.

What a scheduler does not remember: shares, measured times, what slots last said that they run, and how long
a delay before a retry has lasted, which begins again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp import records
from distcomp.ids import NO_BUNDLE
from distcomp.kinds import MAX_ITEMS
from distcomp.records import NO_LEASE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.core.arrays import TaskArrayState
    from distcomp.core.books import Books
    from distcomp.core.leases import OpenLease
    from distcomp.core.roster import WorkerEntry
    from distcomp.core.sessions import EndedRun, RunKey, Session
    from distcomp.core.spans import Span
    from distcomp.ids import Token
    from distcomp.protocol import DefineBundle, DefineFunction, Submit
    from distcomp.rows import Failure


def epoch_began(books: Books, wall_s: float, version: str) -> None:
    """Record a start of the scheduler."""
    books.began = records.EpochBegan(books.epoch, wall_s, version)
    books.effects.records.append(books.began)


def worker_came(books: Books, worker: WorkerEntry) -> None:
    """Record what a worker says of itself, for the words of failures."""
    books.effects.records.append(coming_of(worker))


def coming_of(worker: WorkerEntry) -> records.WorkerCame:
    """The record of a worker's coming."""
    told = worker.record
    return records.WorkerCame(told.worker, told.name, told.host, told.pid, told.slots, told.versions)


def worker_gone(books: Books, worker: WorkerEntry) -> None:
    """Record that a worker is forgotten."""
    books.effects.records.append(records.WorkerGone(worker.id))


def session_began(books: Books, session: Session) -> None:
    """Record a new session, with the task that opened it."""
    books.effects.records.append(beginning_of(books, session))


def beginning_of(books: Books, session: Session) -> records.SessionBegan:
    """The record of a session's beginning."""
    opening, task = session.opening, session.task
    return records.SessionBegan(
        session.id,
        session.owner.name,
        opening.versions,
        opening.host,
        opening.pid,
        opening.program,
        opening.environment,
        books.settings.client_grace_s,
        NO_LEASE if task is None else task.lease.token,
        0 if task is None else task.index,
        b"" if session.home is session else session.home.id,
        session.depth,
    )


def client_left(books: Books, session: Session) -> None:
    """Record since when a session has been without connection."""
    books.effects.records.append(leaving_of(books, session))


def leaving_of(books: Books, session: Session) -> records.ClientLeft:
    """The record of a client's leaving."""
    return records.ClientLeft(session.id, max(0.0, session.away_since + books.wall_offset_s))


def client_came(books: Books, session: Session, now: float) -> None:
    """Record that a client has its session, and if it is a run, which process that is."""
    record = opening_of(books, session, now) if session.run else records.ClientCame(session.id)
    books.effects.records.append(record)


def opening_of(books: Books, session: Session, now: float) -> records.RunOpened:
    """The record of a run, and who opened it."""
    told, offset_s = session.opening, books.wall_offset_s
    process = told.nonce, told.host, told.pid, told.program
    times = max(0.0, now + offset_s), max(0.0, session.began_at + offset_s)
    return records.RunOpened(session.id, session.run, *process, *times)


def run_ended(books: Books, key: RunKey, ended: EndedRun) -> None:
    """Record what became of a run."""
    books.effects.records.append(records.RunEnded(*key, ended.ended_at, ended.why))


def session_ended(books: Books, session: Session) -> None:
    """Record that a session was closed."""
    books.effects.records.append(records.SessionEnded(session.id))


def function_defined(books: Books, message: DefineFunction) -> None:
    """Record the bytes of a function."""
    books.effects.records.append(records.FunctionDefined(*message))


def bundle_defined(books: Books, message: DefineBundle) -> None:
    """Record the bytes of a bundle."""
    books.effects.records.append(records.BundleDefined(*message))


def accepted(books: Books, message: Submit, start: int) -> None:
    """Record the tasks of a submit from `start` on."""
    tasks = max(0, message.start + message.tasks - start)
    books.effects.records.append(
        records.TasksAccepted(
            message.array,
            message.function,
            message.options,
            start,
            tasks,
            message.start,
            message.chunk if tasks else b"",
            message.last,
            message.bundle if tasks else NO_BUNDLE,
        )
    )


def closed(books: Books, array: TaskArrayState) -> None:
    """Record that nothing comes to an array any more."""
    books.effects.records.append(records.ArrayClosed(array.id))


def granted(books: Books, lease: OpenLease, attempt: int) -> None:
    """Record a grant, and note on the lease whether it has to wait for its commit."""
    array = lease.array
    ((start, stop),) = lease.open
    record = records.LeaseGranted(lease.token, array.id, start, stop, attempt, lease.worker.id)
    books.effects.records.append(record)
    if array.eager or lease.chunk.batch > books.committed:
        lease.batch = books.batch + 1


def returned(books: Books, lease: OpenLease, spans: list[Span], *, begun: bool) -> None:
    """Record which indexes left a lease without an outcome."""
    if spans:
        books.effects.records.append(records.IndexesReturned(lease.token, tuple(spans), begun))


def tried(books: Books, array: TaskArrayState, index: int, token: Token, delay_s: float) -> None:
    """Record all that counts against an index, which left a lease for another try."""
    books.effects.records.append(trial_of(array, index, token, delay_s))


def trial_of(
    array: TaskArrayState, index: int, token: Token = NO_LEASE, delay_s: float = 0.0
) -> records.TaskTried:
    """The record of an index's past."""
    trial = array.trials[index]
    counts = (trial.failures, trial.crashes, trial.losses, trial.starts)
    return records.TaskTried(array.id, index, token, *counts, trial.past, array.retried, delay_s)


def ended(
    books: Books,
    array: TaskArrayState,
    seq: int,
    outcomes: tuple[tuple[tuple[int, int, bytes], ...], tuple[tuple[int, Failure], ...]],
    left: tuple[Token, Sequence[Span]],
) -> None:
    """Record outcomes (runs and failures); `left` are the lease and the indexes that they settle.

    Where nobody waits for them, what they are is not worth a word.
    """
    token, spans = left
    runs, failures = outcomes if seq else ((), ())
    if seq or spans:
        record = records.TasksEnded(array.id, token, seq, tuple(spans), runs, failures)
        books.effects.records.append(record)


def failed_alike(
    books: Books, array: TaskArrayState, seq: int, spans: tuple[Span, ...], failure: Failure
) -> None:
    """Record outcomes that tasks have in common, of which it is recorded that they are settled."""
    books.effects.records.append(records.SpansFailed(array.id, seq, spans, failure))


def cancelled(books: Books, array: TaskArrayState, spans: list[Span]) -> None:
    """Record which indexes were settled without outcome."""
    for at in range(0, len(spans), MAX_ITEMS):
        some = tuple(spans[at : at + MAX_ITEMS])
        books.effects.records.append(records.TasksCancelled(array.id, some))


def received(books: Books, session: Session, seqs: tuple[int, ...]) -> None:
    """Record which outcomes a client holds."""
    books.effects.records.append(records.OutcomesReceived(session.id, seqs))
