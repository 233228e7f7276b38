from __future__ import annotations

from typing import Any

from test_futures import Group

from distcomp.core.client_effects import Failed, Returned
from distcomp.payload import dump_failure
from distcomp.protocol import TaskExplained
from distcomp.rows import Failure, PastAttempt

ONCE = PastAttempt(1, "lost", "left", "a", "worker left on a was lost\nwith more")


def asked(group: Group, state: str) -> list[tuple[Any, int]]:
    """Have a group's client answer; gives the questions that it got."""
    questions: list[tuple[Any, int]] = []

    def explain_task(sink: Any, place: int) -> TaskExplained:
        questions.append((sink, place))
        return TaskExplained(1, state, "it waits", (ONCE,))

    group.host.explain_task = explain_task  # type: ignore[attr-defined]  # the plain host has none
    return questions


def test_the_scheduler_is_asked_about_an_open_task() -> None:
    group = Group(2)
    questions = asked(group, "waiting")
    explained = group.futures[1].explain()
    assert questions == [(group.group, 1)]
    assert (explained.state, explained.attempts) == ("waiting", (ONCE,))
    assert repr(explained).splitlines() == [
        "waiting: it waits",
        "  attempt 1 on worker left of host a (lost): worker left on a was lost",
    ]


def test_a_task_that_settles_meanwhile_is_explained_by_its_outcome() -> None:
    group = Group(1)

    def explain_task(*_: Any) -> TaskExplained:
        group.give(0, 5)
        return TaskExplained(1, "settled", "", ())

    group.host.explain_task = explain_task  # type: ignore[attr-defined]  # the plain host has none
    assert group.futures[0].explain().state == "finished"


def test_an_outcome_explains_itself_before_and_after_it_is_read() -> None:
    group = Group(4)
    group.give(0, "a")
    failure = dump_failure(KeyError("k"))._replace(worker="right", host="b", attempt=2, past=(ONCE,))
    group.fail(1, failure)
    group.futures[2].cancel()
    group.tell(Returned(1, 3, 4, 3, b"nonsense"))
    for _ in range(2):
        good, failed, cancelled, _ = (future.explain() for future in group.futures)
        assert good.state == "finished"
        assert str(failed).splitlines() == [
            "failed: KeyError: 'k'",
            "  attempt 1 on worker left of host a (lost): worker left on a was lost",
            "  attempt 2 on worker right of host b (exception): KeyError: 'k'",
        ]
        assert str(cancelled) == "cancelled: the task was cancelled"
        assert group.futures[0].result() == "a"
        for future in (group.futures[1], group.futures[3]):
            assert future.exception() is not None
    assert "could not be unpacked here" in group.futures[3].explain().text


def test_a_task_that_never_began_has_no_attempts() -> None:
    group = Group(2)
    group.tell(Failed(1, 0, 1, Failure("refused", text="full: no room")))
    group.tell(Failed(1, 1, 2, Failure("cancelled", text="cancelled by ann")))
    assert str(group.futures[0].explain()) == "failed: full: no room"
    assert str(group.futures[1].explain()) == "cancelled: cancelled by ann"
