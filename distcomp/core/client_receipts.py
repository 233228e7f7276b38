"""What a client tells the scheduler of outcomes that came: that it may let go of them, and when.

Laws:

- What is kept is acknowledged once it is on the disk, and not before, however often it comes meanwhile. What
  a run could not bring there stays with the scheduler, and is not acknowledged when it comes again either.
- Of a run without a disk nothing is ever acknowledged: it was read, and stays for whoever opens the run next.
  The same goes for arrays that another process has handed in since this one opened the run.
- Numbers belong to one life of a session. What is told of an earlier life counts no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.core.client_effects import ClientEffects, Failed, KeptOutcomes, Returned
from distcomp.core.ranges import RangeSet
from distcomp.protocol import TasksFailed

if TYPE_CHECKING:
    from distcomp.core.client_outbox import ClientOutbox
    from distcomp.core.submission import Submission
    from distcomp.protocol import TasksSettled


def fresh_outcomes(array: Submission, message: TasksSettled | TasksFailed) -> list[Returned | Failed] | None:
    """Settle what a message brings for an array.

    Returns:
        What of it is news; None if some of it is for tasks that were never submitted.
    """
    if isinstance(message, TasksFailed):
        return _fresh_failures(array, message)
    counter, submitted = message.array[1], array.submitted
    for start, stop, _ in message.runs:
        if not start < stop <= submitted:
            return None
    if message.failures and any(index >= submitted for index, _ in message.failures):
        return None
    outcomes: list[Returned | Failed] = []
    for start, stop, blob in message.runs:
        for low, high in array.open.cut(start, stop):
            outcomes.append(Returned(counter, low, high, start, blob))
    for index, failure in message.failures:
        for low, high in array.open.cut(index, index + 1):
            outcomes.append(Failed(counter, low, high, failure))
    return outcomes


def _fresh_failures(array: Submission, message: TasksFailed) -> list[Returned | Failed] | None:
    """The same for a failure that many tasks have in common."""
    if any(stop > array.submitted for _, stop in message.spans):
        return None
    fresh = [span for each in message.spans for span in array.open.cut(*each)]
    return [Failed(message.array[1], *span, message.failure) for span in fresh]


class Receipts:
    """The numbers of one session's outcomes.

    Args:
        outbox: takes what is to be told.
        of_run: the session is a run.
    """

    def __init__(self, outbox: ClientOutbox, *, of_run: bool) -> None:
        self._outbox = outbox
        self._of_run = of_run
        self._keeping: set[int] = set()
        self._left: set[int] = set()
        self._life = 0
        self._known = RangeSet()

    def know(self, counter: int) -> None:
        """An array of a run was handed in or adopted."""
        if counter not in self._known:
            self._known.add(counter, counter + 1)

    def knows(self, counter: int) -> bool:
        """Whether an array was handed in or adopted, be it over or not."""
        return counter in self._known

    def take_in(
        self, seq: int, outcomes: list[Returned | Failed], effects: ClientEffects, *, kept: bool
    ) -> None:
        """Outcomes came, as far as they are news; those of a kept array go to the disk first."""
        effects.outcomes += outcomes
        if seq in self._keeping:
            return
        if kept and outcomes:
            self._keeping.add(seq)
            effects.kept.append(KeptOutcomes(self._life, seq, tuple(outcomes)))
        elif (kept and seq not in self._left) or not self._of_run:
            self._outbox.acks.append(seq)
        else:
            self._outbox.reads.append(seq)

    def stored(self, life: int, seqs: list[int]) -> None:
        """These are on the disk."""
        self._outbox.acks += self._taken(life, seqs)

    def not_stored(self, life: int, seqs: list[int]) -> None:
        """These cannot be brought to the disk: of a run they stay with the scheduler."""
        taken = self._taken(life, seqs)
        if self._of_run:
            self._left.update(taken)
            self._outbox.reads += taken
        else:
            self._outbox.acks += taken

    def begin_life(self) -> None:
        """The session is another one from now on."""
        self._life += 1
        self._keeping.clear()
        self._left.clear()

    def _taken(self, life: int, seqs: list[int]) -> list[int]:
        if life != self._life:
            return []
        taken = [seq for seq in seqs if seq in self._keeping]
        self._keeping.difference_update(taken)
        return taken
