"""The book of one array of a run, which outlives the processes that ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.ledger import CANCELLED, OPEN, OUT_OF_REACH, Book, demand

if TYPE_CHECKING:
    from distcomp.ids import ArrayId
    from distcomp.rows import Failure
    from simulator.tasks import Plan

RECEIVED = 5
"""A task's outcome was received by a process before, and comes no more."""


class RunBook(Book):
    """An array of a run. What only its own process says, that a task is not wanted, is no outcome.

    Attributes:
        wanted_not: what the present process has said that of.
        stored: what is on the run's disk.
    """

    def __init__(self, name: str, array: ArrayId, plan: Plan, python: str) -> None:
        super().__init__(name, array, plan, python)
        self.heard = bytearray(plan.tasks)
        self.wanted_not = bytearray(plan.tasks)
        self.stored = bytearray(plan.tasks)
        self.failures: dict[int, Failure] = {}
        self.again = 0

    def settle(self, start: int, stop: int, outcome: int, failure: Failure | None = None) -> None:
        self.heard[start:stop] = bytes([outcome]) * (stop - start)
        self.ended += stop - start
        for index in range(start, stop):
            own = outcome == CANCELLED and self.wanted_not[index]
            if own or (failure is not None and failure.kind in OUT_OF_REACH):
                continue
            known = self.outcomes[index]
            same = known == outcome and self.failures.get(index) == failure
            demand(known == OPEN or same, "another outcome than before", self.name, index, known, outcome)
            self.again += known != OPEN
            self.outcomes[index] = outcome
            if failure is not None:
                self.failures[index] = failure

    def withdraw(self, start: int, stop: int, *, at_once: bool) -> None:
        super().withdraw(start, stop, at_once=at_once)
        if at_once:
            self.wanted_not[start:stop] = b"\1" * (stop - start)

    def enter(self, tasks: int, received: tuple[tuple[int, int], ...]) -> int:
        """A process goes on with the first tasks, all that there are; returns how many more wait now."""
        waited = self.submitted - self.ended
        self.submitted, self.ended, self.cut = tasks, 0, True
        self.heard, self.wanted_not = bytearray(self.plan.tasks), bytearray(self.plan.tasks)
        for start, stop in received:
            demand(stop <= tasks, "more was received than there is", self.name, start, stop)
            self.heard[start:stop] = bytes([RECEIVED]) * (stop - start)
            self.ended += stop - start
        return self.submitted - self.ended - waited
