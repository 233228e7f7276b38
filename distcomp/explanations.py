"""Where a task is and what became of it, in words: what `Future.explain` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from distcomp.html import explanation_html
from distcomp.rows import PastAttempt

if TYPE_CHECKING:
    from distcomp.protocol import TaskExplained
    from distcomp.rows import Failure

__all__ = ["TaskExplanation"]


class TaskExplanation(NamedTuple):
    """Where a task is, why it waits, or how it ended. As a string it is a text of one or more lines.

    Attributes:
        state: `sending`, `waiting`, `delayed` (until it is tried again), `held` (by a worker that has not
            begun it), `running` or `settled` (the outcome is on its way); `unknown` without a connection;
            `finished`, `failed` or `cancelled`.
        text: what there is to say about that.
        attempts: the tries that ended badly, oldest first: attempt, kind, worker, host, text.

    Example:
        >>> future = client.submit(abs, -1)
        >>> future.result(), print(future.explain())
        finished: the task has ended, and its result is here
        (1, None)
    """

    state: str
    text: str
    attempts: tuple[PastAttempt, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.state}: {self.text}", *(f"  {_line(each)}" for each in self.attempts)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return explanation_html(f"Task: {self.state}", self.text, self.attempts)


FINISHED = TaskExplanation("finished", "the task has ended, and its result is here")


def explain_open(told: TaskExplained) -> TaskExplanation:
    """What the scheduler said of a task that has no outcome here."""
    return TaskExplanation(told.state, told.text, told.past)


def explain_failure(failure: Failure | None, error: BaseException | None) -> TaskExplanation:
    """Why a task ended badly: by a failure that came from the cluster, or an error that was met here."""
    if failure is None:
        return TaskExplanation("failed", f"its result could not be unpacked here: {_words(error)}")
    if failure.kind == "cancelled":
        return TaskExplanation("cancelled", failure.text or "the task was cancelled", failure.past)
    name = failure.type_name.rpartition(".")[2]
    text = f"{name}: {failure.text}" if name else failure.text
    if not failure.worker:  # it never came to a try
        return TaskExplanation("failed", text, failure.past)
    last = PastAttempt(failure.attempt, failure.kind, failure.worker, failure.host, text)
    return TaskExplanation("failed", text, (*failure.past, last))


def _words(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"


def _line(attempt: PastAttempt) -> str:
    where = f"on worker {attempt.worker} of host {attempt.host}" if attempt.worker else ""
    said = attempt.text.splitlines()[:1]
    return " ".join(part for part in (f"attempt {attempt.attempt}", where, f"({attempt.kind})") if part) + (
        f": {said[0]}" if said else ""
    )
