"""The promise, as a check of what is known from outside: ledger, notes, faults, and the journal as a witness.

1. What was acknowledged has ended, with exactly one outcome.
2. A result is what its task gives back, and there is none of a task that did not run.
3. A task is settled once, by the scheduler's own account.
4. A task runs again only for a reason: recorded by the scheduler, or a fault that kept it from recording.
5. What may begin once does not begin twice.
6. Nothing is left over.
"""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from chaos_work import may_begin_once, value_of
from faults import Fault, check_landed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit import Audit
    from ledger import Try
    from notes import Notes

SHOWN = 8


class PromiseBrokenError(AssertionError):
    """What was promised and not kept, in one line each."""


@dataclass
class Evidence:
    """All that is known of a run.

    Attributes:
        tries: from the ledger, by task.
        notes: of the client.
        faults: that were made.
        audit: the journal's account; None if there is none.
        may_fail: names of errors that are an outcome as good as a result for tasks that may begin once.
        unwritten_s: for so long before a kill of the scheduler a grant may not have been durable.
        leftovers: what was there after the end and should not have been.
    """

    tries: dict[int, list[Try]]
    notes: Notes
    faults: list[Fault] = field(default_factory=list)
    audit: Audit | None = None
    may_fail: frozenset[str] = frozenset()
    unwritten_s: float = 0.5
    leftovers: list[str] = field(default_factory=list)


class Figures(NamedTuple):
    """What a run was, once it was found good.

    Attributes:
        tasks: that were handed in; `ended` of them have an outcome.
        repeated: tasks that began more than once, each with a reason.
        failed: tasks that ended with a failure that they may have.
        faults: that were made.
    """

    tasks: int
    ended: int
    repeated: int
    failed: int
    faults: int


def check(evidence: Evidence, *, faults: int, in_flight: int) -> Figures:
    """Check a run.

    Args:
        evidence: of it.
        faults: how many faults had to land.
        in_flight: while how many tasks were in flight.

    Raises:
        FaultsMissedError: the run is invalid.
        PromiseBrokenError: the promise was broken.
    """
    check_landed(evidence.faults, evidence.notes, wanted=faults, in_flight=in_flight)
    broken = list(_broken(evidence))
    if broken:
        raise PromiseBrokenError(f"{len(broken)} broken promises:\n" + "\n".join(broken[:50]))
    return figures_of(evidence)


def figures_of(evidence: Evidence) -> Figures:
    """Count what happened."""
    notes = evidence.notes
    return Figures(
        sum(map(len, notes.offered.values())),
        len({got.number for got in notes.got}),
        sum(1 for some in evidence.tries.values() if len(some) > 1),
        sum(1 for got in notes.got if got.value is None),
        len(evidence.faults),
    )


def _broken(evidence: Evidence) -> Iterator[str]:
    rules = (_endings, _outcomes, _once_only, _repeats, _witness)
    for rule in rules:
        found = sorted(rule(evidence))
        yield from found[:SHOWN]
        if len(found) > SHOWN:
            yield f"… and {len(found) - SHOWN} more like this"
    yield from (f"left over: {what}" for what in evidence.leftovers)


def _endings(evidence: Evidence) -> Iterator[str]:
    """What was acknowledged ends; a client that came to its end has an outcome of all that it offered."""
    notes = evidence.notes
    ended = {got.number for got in notes.got}
    for array, indexes in notes.offered.items():
        acknowledged = max((tasks for _, tasks in notes.acknowledged.get(array, ())), default=0)
        for index, (_, number) in indexes.items():
            if number not in ended and index < acknowledged:
                yield f"task {number} was acknowledged and has no outcome"
            elif number not in ended and notes.done:
                yield f"task {number} was handed in and has no outcome"
    if not notes.done:
        yield "the client did not come to its end"


def _outcomes(evidence: Evidence) -> Iterator[str]:
    """One outcome for each task: its own value, or a failure that it may have."""
    counts = Counter(got.number for got in evidence.notes.got)
    yield from (f"task {number} has {times} outcomes" for number, times in counts.items() if times > 1)
    offered = {number for some in evidence.notes.offered.values() for _, number in some.values()}
    for got in evidence.notes.got:
        if got.number not in offered:
            yield f"task {got.number} was never handed in and has an outcome"
        elif got.value is None:
            if not (may_begin_once(got.number) and got.error in evidence.may_fail):
                yield f"task {got.number} failed with {got.error}: {got.text}"
        elif got.value != value_of(got.number):
            yield f"task {got.number} gave {got.value}, which is not its value"
        elif not any(each.ended_at for each in evidence.tries.get(got.number, ())):
            yield f"task {got.number} has a result and never ran to its end"


def _once_only(evidence: Evidence) -> Iterator[str]:
    for number, tries in evidence.tries.items():
        if may_begin_once(number) and len(tries) > 1:
            yield f"task {number} began {len(tries)} times and may begin once"


def _repeats(evidence: Evidence) -> Iterator[str]:
    """Every try but the last has a reason: it was killed, or recorded, or its grant could not be."""
    killed = {pid for fault in evidence.faults for pid in fault.pids}
    restarts = sorted(fault.at for fault in evidence.faults if fault.kind == "kill scheduler")
    names = _names(evidence)
    for number, tries in evidence.tries.items():
        recorded = 0
        if evidence.audit is not None:
            recorded = sum(len(evidence.audit.reasons.get(task, ())) for task in names.get(number, ()))
        unexplained = [
            each
            for each in tries[:-1]
            if each.pid not in killed and not _unwritten(each, restarts, evidence.unwritten_s)
        ]
        if len(unexplained) > recorded:
            yield f"task {number} began {len(tries)} times, {len(unexplained) - recorded} without a reason"


def _unwritten(each: Try, restarts: list[float], unwritten_s: float) -> bool:
    """Whether a try began so shortly before a kill of the scheduler that its grant may be forgotten."""
    place = bisect.bisect_left(restarts, each.began_at - unwritten_s)
    return place < len(restarts) and restarts[place] <= each.began_at + unwritten_s


def _witness(evidence: Evidence) -> Iterator[str]:
    """What the journal says fits what was acknowledged; nothing is settled twice, nothing waits."""
    audit = evidence.audit
    if audit is None:
        return
    for array, said in evidence.notes.acknowledged.items():
        tasks = max(tasks for _, tasks in said)
        recorded = audit.accepted.get(array, 0)
        if audit.whole and recorded < tasks:
            yield f"{tasks} tasks of array {array[1]} were acknowledged, {recorded} recorded"
    for task, times in audit.settled.items():
        if times > 1:
            yield f"index {task[2]} of array {task[1]} was settled {times} times"
    for array, tasks in audit.accepted.items() if audit.whole else ():
        open_ones = sum(1 for index in range(tasks) if not audit.settled[(*array, index)])
        if open_ones:
            yield f"{open_ones} tasks of array {array[1]} are left in the journal"
    if audit.whole and audit.epochs != sorted(set(audit.epochs)):
        yield f"the epochs of the scheduler's starts do not grow: {audit.epochs}"


def _names(evidence: Evidence) -> dict[int, list[tuple[str, int, int]]]:
    """How the system names each task."""
    names: dict[int, list[tuple[str, int, int]]] = {}
    for (session, counter), indexes in evidence.notes.offered.items():
        for index, (_, number) in indexes.items():
            names.setdefault(number, []).append((session, counter, index))
    return names
