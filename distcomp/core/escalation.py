"""How a task that has begun is ended: ever harder, until it is gone.

    step        after          what it does
    lower       at once        nothing more is begun behind it; what waits in its process goes elsewhere
    dump        at once        its Python stacks are written, whatever it is doing
    interrupt   interrupt_s    an exception in the task, which ends Python code and leaves the process whole
    kill        kill_s         the process group is killed, which ends everything

Every step asks again whether the task still runs, so that no other task is hurt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distcomp.core.worker_effects import Command, DumpStacks, Interrupt, Kill

if TYPE_CHECKING:
    from distcomp.config import WorkerSettings
    from distcomp.rows import Failure

Cause = Literal["cancelled", "timeout"]


class Ending:
    """The end of one task that has begun, under way.

    Args:
        task: which one, as the last step names it.
        cause: why it has to end.
        timeout_s: how long it was allowed to run, for the text.
        now: when it was decided.
        settings: for `interrupt_after_s` and `kill_after_s`.
    """

    __slots__ = ("_steps", "cause", "run", "stacks", "task_index", "timeout_s")

    def __init__(
        self, task: Kill, cause: Cause, timeout_s: float, now: float, settings: WorkerSettings
    ) -> None:
        self.run = task.run
        self.task_index = task.task_index
        self.cause: Cause = cause
        self.timeout_s = timeout_s
        self.stacks = ""
        self._steps: list[tuple[float, Command]] = [
            (now, DumpStacks(task.process)),
            (now + settings.interrupt_after_s, Interrupt(*task)),
            (now + settings.kill_after_s, task),
        ]

    def due(self, now: float) -> list[Command]:
        """The steps whose time has come."""
        commands = [command for at, command in self._steps if at <= now]
        del self._steps[: len(commands)]
        return commands

    @property
    def next_at(self) -> float | None:
        """When the next step is due; None after the last."""
        return self._steps[0][0] if self._steps else None

    def failure(self, left: Failure) -> Failure:
        """How a task that ran too long ended, with what the interrupt or the kill `left` of it."""
        return left._replace(
            kind="timeout",
            retriable=True,
            type_name="",
            exception=b"",
            text=f"the task ran longer than its timeout of {self.timeout_s:g} s and was stopped",
            stacks=left.stacks or self.stacks,
        )
