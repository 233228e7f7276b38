"""What becomes of a task that ended badly: another try, or its failure as the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core import recording
from distcomp.core.flow import put_back, tell_retried
from distcomp.rows import Failure

if TYPE_CHECKING:
    from distcomp.core.arrays import TaskArrayState, Trial
    from distcomp.core.books import Books
    from distcomp.core.leases import OpenLease
    from distcomp.core.roster import WorkerEntry

RETRIED_KINDS = frozenset({"exception", "timeout"})
"""Kinds of failure that `retries` may be spent on."""


def retry(books: Books, lease: OpenLease, index: int, failure: Failure, now: float) -> bool:
    """Charge a failure to an index that has left a lease, and try it again if its limits allow.

    Returns:
        Whether it will run again; if not, it is for the caller to settle it.
    """
    array = lease.array
    trial = array.trial(index)
    if not _charge(books, array, trial, failure):
        return False
    if array.eager and trial.starts >= array.options.max_attempts:
        return False
    trial.remember(failure)
    _count_retry(books, array, now)
    delay_s = array.options.retry_delay_s if failure.kind in RETRIED_KINDS else 0.0
    if books.journalled:
        recording.tried(books, array, index, lease.token, delay_s)
    if delay_s:
        due = now + delay_s
        array.delayed[index] = due
        books.timers.add(due, end_delay, array, index, due)
    else:
        put_back(array, index, index + 1)
    return True


def with_past(array: TaskArrayState, index: int, failure: Failure) -> Failure:
    """The final failure of an index that is not settled yet, with the tries before it."""
    trial = array.trials.get(index)
    return failure if trial is None or not trial.past else failure._replace(past=trial.past)


def _count_retry(books: Books, array: TaskArrayState, now: float) -> None:
    """Count one more try; the client hears of all that come within a while at once."""
    books.counts.retried += 1
    array.retried += 1
    if not array.untold:
        array.untold = True
        books.timers.add(now + books.settings.tell_retries_s, _tell_late, books, array)


def _tell_late(books: Books, array: TaskArrayState, _now: float) -> None:
    if array.untold:
        tell_retried(books, array)


def _charge(books: Books, array: TaskArrayState, trial: Trial, failure: Failure) -> bool:
    """Count one more bad end; whether that leaves the task another try."""
    if failure.kind == "crashed":
        trial.crashes += 1
        return trial.crashes < books.settings.crash_limit
    if failure.kind == "lost":
        trial.losses += 1
        return trial.losses < books.settings.loss_limit
    if failure.kind == "timeout" and not array.options.retries_timeouts:
        return False
    if failure.kind in RETRIED_KINDS and failure.retriable:
        trial.failures += 1
        return trial.failures <= array.options.retries
    return False


def end_delay(array: TaskArrayState, index: int, due: float, _now: float) -> None:
    """Make an index pending whose delay is over, unless it was cancelled meanwhile."""
    if array.delayed.get(index) == due:
        del array.delayed[index]
        put_back(array, index, index + 1)


def lost_with(worker: WorkerEntry, array: TaskArrayState, index: int) -> Failure:
    """The failure of a task whose worker was lost."""
    record = worker.record
    trial = array.trials.get(index)
    attempt = trial.attempt if trial is not None else 1
    text = f"worker {record.name} on {record.host} was lost with this task (attempt {attempt})"
    return Failure("lost", text=text, host=record.host, worker=record.name, attempt=attempt)
