from __future__ import annotations

from typing import Any

import pytest

from distcomp.core.client_effects import Failed, Returned
from distcomp.ids import FunctionId
from distcomp.inline_engine import SPELL_TASKS, InlineEngine
from distcomp.kinds import MAX_COUNTER
from distcomp.payload import dump_function, pack_columns, pack_results
from distcomp.protocol import ExplainTask, TaskExplained
from distcomp.rows import Failure, TaskOptions

FAILED = Failure("exception", retriable=True)


class Play:
    """An engine, and somebody who runs what it gives."""

    def __init__(self) -> None:
        self.engine = InlineEngine()
        self.now = 0.0

    def submit(self, *columns: Any, last: bool = True, **options: Any) -> int:
        _, blob = dump_function(pow if len(columns) > 1 else abs, shares_path=True)
        counter = self.engine.submit(FunctionId(b"f" * 32), "f", blob, TaskOptions(**options))
        self.extend(counter, *columns, last=last)
        return counter

    def extend(self, counter: int, *columns: Any, last: bool = True) -> None:
        (packed,) = pack_columns(columns, shares_path=True)
        self.engine.extend(counter, packed.stop, packed.blob, last=last)

    def spell(self) -> tuple[int, int, int] | None:
        """The next array and indexes, which stay taken."""
        spell = self.engine.take_spell(self.now)
        return None if spell is None else (spell.array.counter, spell.start, spell.stop)

    def run(self) -> list[Any]:
        """Run one spell to its end, and give its results."""
        spell = self.engine.take_spell(self.now)
        assert spell is not None
        while spell.wants_next():
            spell.values.append(spell.call_next())
        for start, stop, blob in pack_results(spell.values, spell.start):
            self.engine.returned(spell.array, start, stop, blob)
        self.engine.give_back(spell.array, spell.index, spell.stop)
        return spell.values

    def fail(self, failure: Failure = FAILED) -> int:
        """Let the next task fail."""
        spell = self.engine.take_spell(self.now)
        assert spell is not None
        self.engine.failed(spell.array, spell.index, failure, self.now)
        self.engine.give_back(spell.array, spell.index + 1, spell.stop)
        return spell.index

    def outcomes(self) -> list[tuple[int, int, int, str]]:
        return [
            (each.array, each.start, each.stop, each.failure.kind if isinstance(each, Failed) else "ok")
            for each in self.engine.take_effects().outcomes
        ]


def test_tasks_run_in_order_and_leave_the_window() -> None:
    play = Play()
    play.submit([-1, -2, -3])
    play.submit([2], [3])
    assert play.engine.has_due()
    assert play.run() == [1, 2, 3]
    assert play.run() == [8]
    assert play.spell() is None
    assert not play.engine.has_due()
    effects = play.engine.take_effects()
    assert [(each.start, each.stop) for each in effects.outcomes] == [(0, 3), (0, 1)]
    assert all(isinstance(each, Returned) for each in effects.outcomes)
    assert effects.released_tasks == 4
    assert effects.released_bytes > 0
    assert not play.engine.arrays


def test_a_spell_is_bounded_and_what_is_given_back_comes_again() -> None:
    play = Play()
    counter = play.submit(range(3000))
    spell = play.engine.take_spell(0.0)
    assert spell is not None
    assert (spell.start, spell.stop) == (0, SPELL_TASKS)
    play.engine.give_back(spell.array, 7, SPELL_TASKS)
    assert play.spell() == (counter, 7, 7 + SPELL_TASKS)


def test_depth_goes_before_priority_and_priority_before_age() -> None:
    play = Play()
    old, high = play.submit([1]), play.submit([1], priority=5)
    play.engine.depth = 1
    child = play.submit([1], priority=-5)
    assert [play.spell() for _ in range(3)] == [(child, 0, 1), (high, 0, 1), (old, 0, 1)]


@pytest.mark.parametrize(
    ("options", "failure", "tries"),
    [
        ({"retries": 2}, FAILED, 3),
        ({"retries": 2}, Failure("exception"), 1),
        ({"retries": 2}, Failure("unpicklable", retriable=True), 1),
        ({"retries": 2}, Failure("timeout", retriable=True), 3),
        ({"retries": 2, "retries_timeouts": False}, Failure("timeout", retriable=True), 1),
        ({"retries": 9, "max_attempts": 2}, FAILED, 2),
        ({}, FAILED, 1),
    ],
)
def test_retries_are_spent_by_the_rules(options: dict[str, Any], failure: Failure, tries: int) -> None:
    play = Play()
    counter = play.submit([1, 2], **options)
    for _ in range(tries):
        assert play.outcomes() == []
        assert play.fail(failure) == 0
    assert play.outcomes() == [(counter, 0, 1, failure.kind)]
    assert play.run() == [2]


def test_a_delay_is_waited_for() -> None:
    play = Play()
    counter = play.submit([1], retries=1, retry_delay_s=3.0)
    play.fail()
    assert play.engine.next_delay_s(1.0) == 2.0
    assert play.spell() is None
    play.now = 3.0
    assert play.run() == [1]
    assert play.engine.next_delay_s(3.0) is None
    assert play.outcomes() == [(counter, 0, 1, "ok")]


def test_what_was_cancelled_does_not_run() -> None:
    play = Play()
    counter = play.submit([1, 2, 3], last=False)
    play.engine.cancel(counter, ((1, 2),))
    play.engine.cancel(counter, ((1, 2),))
    assert play.outcomes() == [(counter, 1, 2, "cancelled")]
    assert play.run() == [1]
    play.engine.cancel(counter, ())
    assert play.outcomes()[1:] == [(counter, 2, 3, "cancelled"), (counter, 3, MAX_COUNTER, "cancelled")]
    play.extend(counter, [4])
    assert play.engine.take_effects().released_tasks == 1
    play.engine.cancel(counter, ())
    play.engine.cancel_pending(counter, ())
    assert play.spell() is None


def test_a_delayed_task_can_be_cancelled_and_one_that_runs_has_its_outcome_dropped() -> None:
    play = Play()
    counter = play.submit([1], retries=1, retry_delay_s=3.0)
    play.fail()
    play.engine.cancel(counter, ((0, 1),))
    play.now = 9.0
    assert play.spell() is None
    other = play.submit([1, 2])
    spell = play.engine.take_spell(play.now)
    assert spell is not None
    play.engine.cancel_pending(other, ())
    assert spell.wants_next()
    play.engine.cancel(other, ())
    assert not spell.wants_next()
    play.outcomes()
    play.engine.returned(spell.array, 0, 1, pack_results([1])[0].blob)
    play.engine.failed(spell.array, 1, FAILED, play.now)
    play.engine.give_back(spell.array, 1, 2)
    assert play.outcomes() == []


def test_only_what_nobody_runs_is_cancelled_if_so_wished() -> None:
    play = Play()
    counter = play.submit(range(2000))
    assert play.spell() == (counter, 0, SPELL_TASKS)
    play.engine.cancel_pending(counter, ((0, 1500),))
    assert play.outcomes() == [(counter, SPELL_TASKS, 1500, "cancelled")]


def test_closing_settles_what_is_open_and_what_comes_after() -> None:
    play = Play()
    counter = play.submit([1], last=False)
    play.engine.close()
    assert play.outcomes() == [(counter, 0, 1, "cancelled"), (counter, 1, MAX_COUNTER, "cancelled")]
    late = play.submit([1])
    assert play.outcomes() == [(late, 0, 1, "cancelled")]


def test_the_status_is_that_of_one_worker() -> None:
    play = Play()
    play.submit([1, 2, 3])
    play.submit([4])
    assert play.run() == [1, 2, 3]
    play.engine.note_time(0.5)
    play.engine.ask_status()
    (report,) = play.engine.take_effects().reports
    (worker,) = report.workers
    assert (worker.name, worker.slots, worker.settled, worker.busy_s) == ("inline", 1, 3, 0.5)
    assert (report.totals.pending, report.totals.settled) == (1, 3)


def test_where_a_task_is_can_be_asked() -> None:
    play = Play()
    waiting = play.submit([1], [1])
    delayed = play.submit([1], retries=1, retry_delay_s=3.0, priority=1)
    play.fail()
    running = play.submit([1], priority=2)
    play.spell()
    play.engine.take_effects()
    states = []
    for counter in (waiting, delayed, running, 99):
        play.engine.ask(ExplainTask(1, (play.engine.session, counter), 0))
        (answer,) = play.engine.take_effects().news
        assert isinstance(answer, TaskExplained)
        states.append(answer.state)
    assert states == ["waiting", "delayed", "running", "settled"]
    play.engine.explain(0.0)
    assert play.engine.take_effects().explanations[0].code == "busy"
