"""What comes from the scheduler besides outcomes: answers that threads wait for, and news of tasks."""

from __future__ import annotations

import logging
from concurrent.futures import Future as StandardFuture
from concurrent.futures import TimeoutError as StandardTimeoutError
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from distcomp.errors import DistcompError, UnreachableError
from distcomp.handles import routes
from distcomp.protocol import (
    ExplainTask,
    ForgetRun,
    RunForgotten,
    TaskExplained,
    TasksLogged,
    TasksRetried,
)
from distcomp.task_prints import Said, TaskPrinter

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.client_program import ClientProgram
    from distcomp.core.client_effects import ClientEffects
    from distcomp.core.client_state import ClientState
    from distcomp.handles import Sink
    from distcomp.inline_program import InlineProgram
    from distcomp.protocol import StatusReported

T = TypeVar("T")

GLANCE_S = 1.0
MAX_NOTICES = 100
_log = logging.getLogger("distcomp")


class News:
    """The questions of a client's threads, and what the scheduler tells unasked.

    Law: a question is in `_status` or `_asked`, under the program's lock, from when it is asked until it is
    answered or nobody waits for the answer any more.

    Args:
        program: which speaks with the scheduler.
    """

    def __init__(self, program: ClientProgram | InlineProgram) -> None:
        self._program = program
        self._numbers = count(1)
        self._noticed: set[str] = set()
        self._printer = TaskPrinter(program.settings.max_unprinted_lines)
        self._status: list[StandardFuture[StatusReported]] = []
        self._asked: dict[int, StandardFuture[Any]] = {}
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            TaskExplained: self._on_answer,
            TasksRetried: self._on_tasks_retried,
            TasksLogged: self._on_tasks_logged,
            RunForgotten: self._on_answer,
        }

    # --- for other threads ------------------------------------------------------------------------

    def glance(self) -> StatusReported | None:
        """The cluster in numbers, if that can be had without much waiting."""
        if self._program.is_here():
            return None
        try:
            return self.status(GLANCE_S)
        except DistcompError:
            return None

    def status(self, timeout_s: float | None = None) -> StatusReported:
        """The cluster in numbers.

        Args:
            timeout_s: seconds to wait for the answer; `connect_timeout_s` if left out.

        Raises:
            UnreachableError: there was no answer in time.
        """
        asked: StandardFuture[StatusReported] = StandardFuture()
        with self._program.lock:
            self._status.append(asked)
        self._program.post(lambda state: state.ask_status())
        return self._await(asked, timeout_s)

    def explain_task(self, sink: Sink, place: int) -> TaskExplained:
        """Where the task is that stands at `place` of an array of the cluster.

        Raises:
            UnreachableError: there was no answer within `connect_timeout_s`.
        """

        def ask(state: ClientState, number: int) -> None:
            where = next(routes(sink, ((place, place + 1),)), None)
            if where is None:
                text = "it is being looked for in the store"
                self._on_answer(TaskExplained(number, "unknown", text, ()))
            elif not state.ask(ExplainTask(number, (state.session, where[0]), where[1][0][0])):
                text = "there is no connection to the scheduler, which would know; one is being tried"
                self._on_answer(TaskExplained(number, "unknown", text, ()))

        explained: TaskExplained = self._ask(ask)
        return explained

    def forget_run(self, name: str) -> RunForgotten:
        """Have the scheduler forget a run.

        Raises:
            UnreachableError: there was no answer within `connect_timeout_s`.
        """

        def ask(state: ClientState, number: int) -> None:
            state.ask(ForgetRun(number, name))

        forgotten: RunForgotten = self._ask(ask)
        return forgotten

    def close(self) -> None:
        """Show what tasks have printed; nothing more will come."""
        self._printer.close(self._program.settings.close_s)

    def _ask(self, ask: Callable[[ClientState, int], None]) -> Any:
        """The answer to a question that `ask` sends under a number of its own."""
        asked: StandardFuture[Any] = StandardFuture()
        number = next(self._numbers)
        with self._program.lock:
            self._asked[number] = asked
        try:
            self._program.post(lambda state: ask(state, number))
            return self._await(asked)
        finally:
            with self._program.lock:
                self._asked.pop(number, None)

    def _await(self, asked: StandardFuture[T], timeout_s: float | None = None) -> T:
        try:
            return asked.result(self._program.settings.connect_timeout_s if timeout_s is None else timeout_s)
        except StandardTimeoutError:
            raise UnreachableError("the scheduler did not answer") from None

    # --- on the loop's thread ---------------------------------------------------------------------

    def take_in(self, effects: ClientEffects) -> None:
        """Give answers to those who wait for them, and note what is told unasked."""
        if effects.reports:
            with self._program.lock:
                asked, self._status = self._status, []
            for each in asked:
                each.set_result(effects.reports[-1])
        for code, text in effects.notices:
            if text not in self._noticed and len(self._noticed) < MAX_NOTICES:
                self._noticed.add(text)
                _log.warning("%s: %s", code, text)
        for message in effects.news:
            self._handlers[type(message)](message)

    def _on_answer(self, message: TaskExplained | RunForgotten) -> None:
        with self._program.lock:
            asked = self._asked.pop(message.request, None)
        if asked is not None:
            asked.set_result(message)

    def _on_tasks_retried(self, message: TasksRetried) -> None:
        sink = self._program.sinks.get(message.array[1])
        if sink is not None:
            sink.retried = message.retried

    def _on_tasks_logged(self, message: TasksLogged) -> None:
        sink = self._program.sinks.get(message.array[1])
        for line in message.lines:
            place = "" if sink is None else sink.label(line.task_index)
            self._printer.add(Said(f"{message.function}{place}@{message.worker}", line))
        if message.dropped:
            self._printer.add(Said(f"{message.function}@{message.worker}", None, message.dropped))
