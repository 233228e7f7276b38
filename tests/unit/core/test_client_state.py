from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from distcomp import protocol, rows, worker_protocol
from distcomp.config import ClientSettings
from distcomp.core.client_effects import ClientEffects, Failed, Introduction, Returned
from distcomp.core.client_state import MAX_MISREAD, ClientState
from distcomp.ids import FunctionId, Peer, SessionId
from distcomp.kinds import INLINE_BLOB_BYTES, MAX_COUNTER
from distcomp.rows import Failure, TaskOptions, Versions

FUNCTION = FunctionId(b"f" * 32)
OTHER = FunctionId(b"g" * 32)
OPTIONS = TaskOptions()
SCHEDULER = Peer(1)
AGAIN = Peer(2)
INTRODUCTION = Introduction(Versions("0", "3.11.7", "3"), "host", 7, "script.py", b"env")


def session_of(number: int) -> SessionId:
    return SessionId(bytes([number]) * 16)


class Talk:
    """A client's machine, and the scheduler's side of its connection played by hand."""

    def __init__(self, **settings: Any) -> None:
        self.state = ClientState(
            ClientSettings(**settings), (session_of(number) for number in count(1)), INTRODUCTION
        )
        self.peer = SCHEDULER
        self.now = 0.0
        self.last = ClientEffects()

    def turn(self) -> list[Any]:
        """End a turn; what is sent to the scheduler."""
        self.state.tick(self.now)
        self.last = self.state.take_effects()
        return self.last.sends.get(self.peer, [])

    def hear(self, *messages: Any) -> list[Any]:
        for message in messages:
            self.state.receive(self.peer, message, self.now)
        return self.turn()

    def open(self, peer: Peer = SCHEDULER, *, epoch: int = 5, known: tuple[Any, ...] = ()) -> list[Any]:
        self.peer = peer
        self.state.connect(peer, self.now)
        self.turn()
        return self.hear(protocol.SessionOpened(epoch, "c", 60.0, known))

    def drop(self) -> None:
        self.state.disconnect(self.peer, self.now)
        self.turn()

    def submit(self, tasks: int = 1, chunk: bytes = b"args", *, last: bool = True) -> int:
        counter = self.state.submit(FUNCTION, "f", b"code", OPTIONS)
        self.state.extend(counter, tasks, chunk, last=last)
        return counter

    def array(self, counter: int, session: int = 1) -> tuple[SessionId, int]:
        return (session_of(session), counter)


def opened(**settings: Any) -> Talk:
    talk = Talk(**settings)
    talk.open()
    return talk


def kinds(messages: list[Any]) -> list[str]:
    return [type(message).__name__ for message in messages]


def failures_of(effects: ClientEffects) -> list[tuple[int, int, int, str]]:
    return [(o.array, o.start, o.stop, o.failure.kind) for o in effects.outcomes if isinstance(o, Failed)]


# --- opening --------------------------------------------------------------------------------------


def test_a_connection_begins_with_the_introduction() -> None:
    talk = Talk()
    talk.state.connect(SCHEDULER, 0.0)
    assert talk.turn() == [protocol.OpenSession(session_of(1), *INTRODUCTION, resumes=False)]
    assert talk.hear(protocol.SessionOpened(5, "c", 60.0, ())) == []
    assert talk.last.opened


def test_what_comes_before_the_session_is_open_is_nonsense() -> None:
    talk = Talk()
    talk.state.connect(SCHEDULER, 0.0)
    talk.hear(protocol.Accepted(talk.array(1), 1))
    assert talk.last.closes
    assert talk.state.malformed == 1


def test_a_session_opens_once() -> None:
    talk = opened()
    talk.hear(protocol.SessionOpened(5, "c", 60.0, ()))
    assert talk.state.malformed == 1


def test_messages_of_other_peers_and_of_other_directions_are_not_taken() -> None:
    talk = opened()
    talk.state.receive(AGAIN, protocol.GaveNotice("unfit", "x"), 0.0)
    assert talk.state.malformed == 0
    talk.hear(worker_protocol.WorkerLeft())
    assert talk.state.malformed == 1
    talk.state.disconnect(AGAIN, 0.0)
    assert talk.state.phase == "open"


def test_a_first_connection_that_ends_at_once_loses_what_was_handed_in() -> None:
    talk = Talk()
    talk.state.connect(SCHEDULER, 0.0)
    counter = talk.submit()
    talk.turn()
    talk.state.disconnect(SCHEDULER, 0.0)
    talk.turn()
    assert failures_of(talk.last) == [(counter, 0, 1, "scheduler_lost")]


# --- submitting -----------------------------------------------------------------------------------


def test_what_can_never_be_read_ends_the_session() -> None:
    talk = opened()
    counter = talk.submit()
    for _ in range(MAX_MISREAD):
        assert not failures_of(talk.last)
        talk.open(known=((talk.array(counter), 0),))
        talk.state.misread("too large")
        talk.drop()
    assert failures_of(talk.last) == [(counter, 0, 1, "scheduler_lost")]
    talk.open()
    assert talk.state.phase == "open"


def test_a_function_goes_out_once_before_its_tasks() -> None:
    talk = opened()
    first, second = talk.submit(2), talk.submit(3)
    assert talk.turn() == [
        protocol.DefineFunction(FUNCTION, "f", b"code"),
        protocol.Submit(talk.array(first), FUNCTION, OPTIONS, 0, 2, b"args", last=True),
        protocol.Submit(talk.array(second), FUNCTION, OPTIONS, 0, 3, b"args", last=True),
    ]
    assert talk.turn() == []


def test_an_array_grows_in_order_and_arrays_take_turns() -> None:
    talk = opened()
    one = talk.submit(2, last=False)
    two = talk.submit(5)
    talk.state.extend(one, 3, b"more", last=True)
    submits = [message for message in talk.turn() if isinstance(message, protocol.Submit)]
    assert [(m.array[1], m.start, m.tasks, m.last) for m in submits] == [
        (one, 0, 2, False),
        (two, 0, 5, True),
        (one, 2, 3, True),
    ]


def test_bytes_under_way_are_bounded_until_they_are_accepted() -> None:
    talk = opened(under_way_bytes=1 << 16)
    chunk = bytes(INLINE_BLOB_BYTES)
    one = talk.submit(1, chunk, last=False)
    talk.state.extend(one, 1, chunk, last=True)
    assert kinds(talk.turn()) == ["DefineFunction", "Submit"]
    assert kinds(talk.hear(protocol.Accepted(talk.array(one), 1))) == ["Submit"]


def test_large_chunks_leave_room_for_others() -> None:
    talk = opened(under_way_bytes=1 << 16)
    talk.submit(1, bytes(INLINE_BLOB_BYTES + 1))
    talk.submit(1)
    assert kinds(talk.turn()) == ["DefineFunction", "Submit", "Submit"]


def test_more_accepted_than_sent_is_nonsense() -> None:
    talk = opened()
    counter = talk.submit(2)
    talk.turn()
    talk.hear(protocol.Accepted(talk.array(counter), 3))
    assert talk.last.closes


def test_accepting_an_unknown_array_is_ignored() -> None:
    talk = opened()
    talk.hear(protocol.Accepted(talk.array(9), 3), protocol.Accepted(talk.array(9, session=4), 3))
    assert not talk.last.closes


def test_a_missing_function_is_defined_again_while_it_is_used() -> None:
    talk = opened()
    talk.submit()
    talk.turn()
    assert kinds(talk.hear(protocol.MissingFunction(FUNCTION))) == ["DefineFunction"]
    assert talk.hear(protocol.MissingFunction(OTHER)) == []


def test_few_functions_are_taken_to_be_known() -> None:
    talk = opened(defined_functions=1)
    talk.submit()
    talk.turn()
    other = talk.state.submit(OTHER, "g", b"other", OPTIONS)
    talk.state.extend(other, 1, b"", last=True)
    assert kinds(talk.turn()) == ["DefineFunction", "Submit"]
    talk.submit()
    assert kinds(talk.turn()) == ["DefineFunction", "Submit"]


def test_a_submit_without_room_is_sent_again_after_a_pause() -> None:
    talk = opened(refused_pause_s=0.5)
    counter = talk.submit(2, last=False)
    talk.state.extend(counter, 2, b"more", last=True)
    talk.turn()
    assert (
        talk.hear(
            protocol.SubmitRefused(talk.array(counter), 0, "full", "no room"),
            protocol.SubmitRefused(talk.array(counter), 2, "gap", "a gap"),
        )
        == []
    )
    assert talk.last.wake_at == 0.5
    talk.state.extend(talk.submit(), 0, b"", last=True)
    talk.now = 0.5
    submits = [m for m in talk.turn() if isinstance(m, protocol.Submit) and m.array[1] == counter]
    assert [(m.start, m.tasks) for m in submits] == [(0, 2), (2, 2)]


def test_a_paused_array_that_was_in_line_waits() -> None:
    talk = opened(refused_pause_s=0.5)
    counter = talk.submit(2, last=False)
    talk.turn()
    talk.state.extend(counter, 1, b"", last=False)
    assert talk.hear(protocol.SubmitRefused(talk.array(counter), 0, "full", "no room")) == []
    talk.state.extend(counter, 1, b"", last=True)
    assert talk.turn() == []
    talk.now = 1.0
    assert kinds(talk.turn()) == ["Submit", "Submit", "Submit"]


def test_a_submit_refused_for_good_fails_its_array() -> None:
    talk = opened()
    counter = talk.submit(2, last=False)
    talk.turn()
    sent = talk.hear(protocol.SubmitRefused(talk.array(counter), 0, "options", "no such priority"))
    assert sent == [protocol.CancelTasks(talk.array(counter), ())]
    assert failures_of(talk.last) == [(counter, 0, 2, "refused"), (counter, 2, MAX_COUNTER, "refused")]
    assert talk.last.released_tasks == 2
    talk.hear(protocol.SubmitRefused(talk.array(counter), 0, "options", "again"))
    assert talk.last.outcomes == []


# --- outcomes -------------------------------------------------------------------------------------


def test_outcomes_are_told_acknowledged_and_leave_the_window() -> None:
    talk = opened()
    counter = talk.submit(4, b"12345678")
    talk.turn()
    bad = Failure("exception", text="x")
    settled = protocol.TasksSettled(3, talk.array(counter), ((0, 2, b"r"),), ((3, bad),))
    assert talk.hear(settled) == [protocol.AckOutcomes((3,))]
    assert talk.last.outcomes == [Returned(counter, 0, 2, 0, b"r"), Failed(counter, 3, 4, bad)]
    assert (talk.last.released_tasks, talk.last.released_bytes) == (3, 6)
    talk.hear(protocol.TasksSettled(4, talk.array(counter), ((2, 3, b"s"),), ()))
    assert (talk.last.released_tasks, talk.last.released_bytes) == (1, 2)
    assert talk.state.arrays == {}


@pytest.mark.parametrize("again", ["told twice", "cancelled late"])
def test_all_bytes_leave_the_window_however_uneven_the_parts(again: str) -> None:
    talk = opened()
    counter = talk.state.submit(OTHER, "g", b"code", OPTIONS)
    talk.state.extend(counter, 2, b"x" * 2000, last=False)
    talk.turn()
    first = protocol.TasksSettled(1, talk.array(counter), ((0, 1, b"r"),), ())
    talk.hear(first)
    released_bytes = talk.last.released_bytes
    talk.state.extend(counter, 8, b"x" * 60_000, last=True)
    talk.turn()
    if again == "told twice":
        talk.hear(first)
    else:
        talk.state.cancel(counter, ((0, 1),))
        talk.turn()
    assert (talk.last.released_tasks, talk.last.released_bytes) == (0, 0)
    talk.hear(protocol.TasksSettled(2, talk.array(counter), ((1, 10, b"r"),), ()))
    assert released_bytes + talk.last.released_bytes == 62_000


def test_what_leaves_the_window_is_told_apart_by_how_it_was_submitted() -> None:
    talk = opened()
    bulk, single = talk.submit(4, b"1234"), talk.state.submit(OTHER, "g", b"code", OPTIONS)
    talk.state.extend(single, 2, b"12", last=False, single=True)
    talk.state.extend(single, 0, b"", last=True)
    talk.turn()
    talk.hear(*(protocol.TasksSettled(1 + at, talk.array(at), ((0, 1, b"r"),), ()) for at in (bulk, single)))
    assert (talk.last.released_tasks, talk.last.released_bytes) == (2, 2)
    assert (talk.last.released_singles, talk.last.released_single_bytes) == (1, 1)
    talk.state.extend(single + 99, 3, b"123", last=True, single=True)
    talk.turn()
    assert (talk.last.released_singles, talk.last.released_single_bytes) == (3, 3)


def test_an_outcome_counts_once_however_often_it_comes() -> None:
    talk = opened()
    counter = talk.submit(4)
    talk.turn()
    talk.hear(protocol.TasksSettled(3, talk.array(counter), ((1, 2, b"r"),), ()))
    talk.hear(protocol.TasksSettled(4, talk.array(counter), ((0, 3, b"s"),), ((1, Failure("lost")),)))
    assert talk.last.outcomes == [Returned(counter, 0, 1, 0, b"s"), Returned(counter, 2, 3, 0, b"s")]


def test_outcomes_of_what_is_over_are_acknowledged_and_counted() -> None:
    talk = opened()
    assert talk.hear(protocol.TasksSettled(3, talk.array(8), ((0, 1, b""),), ())) == [
        protocol.AckOutcomes((3,))
    ]
    assert talk.state.late == 1


def test_outcomes_of_tasks_that_do_not_exist_are_nonsense() -> None:
    talk = opened()
    counter = talk.submit(2)
    talk.turn()
    talk.hear(protocol.TasksSettled(3, talk.array(counter), ((0, 3, b"r"),), ()))
    assert talk.last.closes
    assert talk.last.outcomes == []


def test_failures_of_tasks_that_do_not_exist_are_nonsense_with_all_that_came_with_them() -> None:
    talk = opened()
    counter = talk.submit(2)
    talk.turn()
    failures = ((1, Failure("raised")), (2, Failure("raised")))
    talk.hear(protocol.TasksSettled(3, talk.array(counter), ((0, 1, b"r"),), failures))
    assert talk.last.closes
    assert talk.last.outcomes == []
    assert talk.state.arrays[counter].open.count == 2


def test_what_runs_is_told_for_open_arrays() -> None:
    talk = opened()
    counter = talk.submit(2)
    talk.turn()
    talk.hear(protocol.TasksBegan(talk.array(counter), (1,)), protocol.TasksBegan(talk.array(9), (1,)))
    assert talk.last.began == [(counter, (1,))]


def test_questions_are_sent_if_there_is_a_connection() -> None:
    talk = opened()
    question = protocol.ExplainTask(7, talk.array(1), 0)
    assert talk.state.ask(question)
    assert talk.turn() == [question]
    talk.drop()
    assert not talk.state.ask(question)
    assert talk.turn() == []


def test_news_that_change_nothing_are_passed_on() -> None:
    talk = opened()
    news = [
        protocol.TaskExplained(7, "waiting", "for others", ()),
        protocol.TasksRetried(talk.array(1), 3),
        protocol.TasksLogged(talk.array(1), "f", "left", (), 2),
    ]
    assert talk.hear(*news) == []
    assert talk.last.news == news
    talk.turn()
    assert talk.last.news == []


# --- cancelling -----------------------------------------------------------------------------------


def test_cancelling_an_array_settles_it_here_at_once() -> None:
    talk = opened()
    counter = talk.submit(3)
    talk.turn()
    talk.state.cancel(counter, ())
    assert talk.turn() == [protocol.CancelTasks(talk.array(counter), ())]
    assert failures_of(talk.last) == [(counter, 0, 3, "cancelled")]
    talk.state.cancel(counter, ())
    assert talk.turn() == []


def test_an_array_cancelled_before_it_left_never_leaves() -> None:
    talk = opened()
    counter = talk.submit(3)
    talk.state.cancel(counter, ())
    assert talk.turn() == []


def test_tasks_handed_in_after_the_cancel_leave_the_window_at_once() -> None:
    talk = opened()
    counter = talk.submit(3, last=False)
    talk.turn()
    talk.state.cancel(counter, ())
    talk.state.extend(counter, 2, b"xy", last=True)
    assert talk.turn() == [protocol.CancelTasks(talk.array(counter), ())]
    assert (talk.last.released_tasks, talk.last.released_bytes) == (5, 6)


def test_cancelling_some_tasks_is_told_once_the_scheduler_has_them() -> None:
    talk = opened(under_way_bytes=1 << 16)
    chunk = bytes(INLINE_BLOB_BYTES)
    counter = talk.submit(2, chunk, last=False)
    talk.state.extend(counter, 2, chunk, last=True)
    talk.state.cancel(counter, ((1, 2), (3, 9)))
    sent = talk.turn()
    assert kinds(sent) == ["DefineFunction", "Submit", "CancelTasks"]
    assert sent[-1].spans == ((1, 2),)
    assert failures_of(talk.last) == [(counter, 1, 2, "cancelled"), (counter, 3, 4, "cancelled")]
    sent = talk.hear(protocol.Accepted(talk.array(counter), 2))
    assert kinds(sent) == ["Submit", "CancelTasks"]
    assert sent[-1].spans == ((3, 4),)


def test_only_what_no_lease_holds_is_cancelled_by_the_scheduler() -> None:
    talk = opened()
    counter = talk.submit(4)
    talk.state.cancel_pending(counter, ((0, 1), (1, 2), (3, 9)))
    sent = talk.turn()
    assert kinds(sent) == ["DefineFunction", "Submit", "CancelTasks"]
    assert sent[-1] == protocol.CancelTasks(talk.array(counter), ((0, 2), (3, 4)), pending_only=True)
    assert talk.last.outcomes == []
    failed = ((3, Failure("cancelled")),)
    talk.hear(protocol.TasksSettled(1, talk.array(counter), (), failed))
    assert failures_of(talk.last) == [(counter, 3, 4, "cancelled")]
    talk.state.cancel_pending(99, ())
    assert talk.turn() == []


def test_tasks_to_be_cancelled_if_pending_are_sent_first() -> None:
    talk = opened(under_way_bytes=1 << 16)
    chunk = bytes(INLINE_BLOB_BYTES)
    counter = talk.submit(2, chunk, last=False)
    talk.state.extend(counter, 2, chunk, last=True)
    talk.state.cancel_pending(counter, ())
    sent = talk.turn()
    assert kinds(sent) == ["DefineFunction", "Submit", "CancelTasks"]
    assert sent[-1].spans == ((0, 2),)
    sent = talk.hear(protocol.Accepted(talk.array(counter), 2))
    assert kinds(sent) == ["Submit", "CancelTasks"]
    assert sent[-1].spans == ((2, 4),)


def test_an_empty_array_has_nothing_to_cancel() -> None:
    talk = opened()
    counter = talk.submit(0, b"", last=False)
    talk.state.cancel_pending(counter, ())
    assert "CancelTasks" not in kinds(talk.turn())


def test_cancelling_the_last_open_task_ends_the_array() -> None:
    talk = opened()
    counter = talk.submit(1)
    talk.turn()
    talk.state.cancel(counter, ((0, 1),))
    assert talk.turn() == [protocol.CancelTasks(talk.array(counter), ())]
    assert talk.state.arrays == {}
    assert talk.hear(protocol.TasksSettled(1, talk.array(counter), ((0, 1, b""),), ())) == [
        protocol.AckOutcomes((1,))
    ]
    assert talk.last.outcomes == []


def test_an_array_whose_tasks_have_settled_ends_when_it_is_closed() -> None:
    talk = opened()
    counter = talk.submit(1, last=False)
    talk.turn()
    talk.hear(protocol.TasksSettled(1, talk.array(counter), ((0, 1, b""),), ()))
    assert counter in talk.state.arrays
    talk.state.extend(counter, 0, b"", last=True)
    assert talk.state.arrays == {}


# --- connections that break -----------------------------------------------------------------------


def test_after_a_cut_what_was_not_accepted_goes_out_again() -> None:
    talk = opened()
    one = talk.submit(2, b"a", last=False)
    talk.state.extend(one, 2, b"b", last=True)
    two = talk.submit(1, b"c")
    talk.turn()
    talk.drop()
    assert talk.state.phase == "apart"
    talk.state.connect(AGAIN, 1.0)
    talk.peer = AGAIN
    assert talk.turn()[0].resumes
    sent = talk.hear(protocol.SessionOpened(5, "c", 60.0, ((talk.array(one), 2),)))
    assert sent == [
        protocol.DefineFunction(FUNCTION, "f", b"code"),
        protocol.Submit(talk.array(one), FUNCTION, OPTIONS, 2, 2, b"b", last=True),
        protocol.Submit(talk.array(two), FUNCTION, OPTIONS, 0, 1, b"c", last=True),
    ]


def test_after_a_cut_cancels_are_told_again() -> None:
    talk = opened()
    one, two = talk.submit(3), talk.submit(1)
    talk.turn()
    talk.hear(protocol.Accepted(talk.array(one), 3), protocol.Accepted(talk.array(two), 1))
    talk.state.cancel(one, ((1, 2),))
    talk.turn()
    talk.drop()
    talk.state.cancel(two, ())
    sent = talk.open(AGAIN, known=((talk.array(one), 3), (talk.array(two), 1)))
    assert sent == [
        protocol.CancelTasks(talk.array(two), ()),
        protocol.CancelTasks(talk.array(one), ((1, 2),)),
    ]


def test_after_a_cut_it_is_said_again_what_may_be_cancelled_if_pending() -> None:
    talk = opened()
    one = talk.submit(3)
    talk.turn()
    talk.hear(protocol.Accepted(talk.array(one), 3))
    talk.state.cancel_pending(one, ((1, 3),))
    talk.turn()
    talk.drop()
    sent = talk.open(AGAIN, known=((talk.array(one), 3),))
    assert sent == [protocol.CancelTasks(talk.array(one), ((1, 3),), pending_only=True)]


def test_tasks_submitted_while_apart_leave_with_the_next_connection() -> None:
    talk = opened()
    talk.drop()
    counter = talk.submit()
    assert talk.turn() == []
    sent = talk.open(AGAIN)
    assert kinds(sent) == ["DefineFunction", "Submit"]
    assert sent[1].array == talk.array(counter)


def test_a_scheduler_that_started_anew_fails_what_it_had() -> None:
    talk = opened()
    had = talk.submit(2)
    talk.turn()
    talk.drop()
    new = talk.submit(1)
    sent = talk.open(AGAIN, epoch=6)
    assert failures_of(talk.last) == [(had, 0, 2, "scheduler_lost")]
    assert [m.array[1] for m in sent if isinstance(m, protocol.Submit)] == [new]


def test_a_scheduler_that_forgot_accepted_tasks_fails_their_array() -> None:
    talk = opened()
    counter = talk.submit(2)
    talk.turn()
    talk.hear(protocol.Accepted(talk.array(counter), 2))
    talk.drop()
    talk.open(AGAIN, known=((talk.array(counter), 1),))
    assert failures_of(talk.last) == [(counter, 0, 2, "scheduler_lost")]


def test_an_array_that_the_scheduler_has_settled_ends_with_the_outcomes_told_again() -> None:
    talk = opened()
    counter = talk.submit(2)
    talk.turn()
    talk.hear(protocol.Accepted(talk.array(counter), 2))
    talk.drop()
    talk.open(AGAIN)
    assert failures_of(talk.last) == []
    talk.hear(protocol.TasksSettled(1, talk.array(counter), ((0, 2, b"ab"),), ()))
    assert talk.last.outcomes == [Returned(counter, 0, 2, 0, b"ab")]
    assert not talk.state.arrays


def test_a_session_away_for_its_grace_expires() -> None:
    talk = opened()
    counter = talk.submit(2)
    talk.turn()
    talk.drop()
    assert talk.last.wake_at == 60.0
    talk.now = 59.0
    talk.turn()
    assert talk.last.outcomes == []
    talk.now = 60.0
    talk.turn()
    assert failures_of(talk.last) == [(counter, 0, 2, "expired")]
    talk.submit(1)
    talk.turn()
    assert failures_of(talk.last) == [(counter + 1, 0, 1, "expired")]
    assert talk.open(AGAIN) == []
    assert talk.state.session == session_of(2)


def test_a_host_that_refuses_for_long_has_no_scheduler() -> None:
    talk = opened(lost_after_s=8.0)
    counter = talk.submit(2)
    talk.turn()
    talk.drop()
    talk.now = 1.0
    talk.state.dial_failed(1.0, refused=True)
    talk.turn()
    assert talk.last.wake_at == 9.0
    talk.state.dial_failed(8.9, refused=True)
    talk.now = 9.0
    talk.turn()
    assert failures_of(talk.last) == [(counter, 0, 2, "scheduler_lost")]


def test_a_host_that_is_out_of_reach_may_come_back() -> None:
    talk = opened(lost_after_s=8.0)
    talk.submit(2)
    talk.turn()
    talk.drop()
    talk.state.dial_failed(1.0, refused=True)
    talk.state.dial_failed(2.0, refused=False)
    talk.now = 20.0
    talk.turn()
    assert talk.last.outcomes == []


def refused_after(away_s: float, code: str) -> Talk:
    talk = opened()
    talk.submit(1)
    talk.turn()
    talk.drop()
    talk.now = away_s
    talk.state.connect(AGAIN, talk.now)
    talk.peer = AGAIN
    talk.hear(protocol.Refused(code, "words"))
    return talk


def test_a_refused_session_was_away_too_long_or_is_unknown() -> None:
    assert failures_of(refused_after(61.0, "expired").last) == [(1, 0, 1, "expired")]
    assert failures_of(refused_after(1.0, "expired").last) == [(1, 0, 1, "scheduler_lost")]
    assert failures_of(refused_after(1.0, "versions").last) == [(1, 0, 1, "refused")]


def test_who_was_not_away_is_not_told_so() -> None:
    talk = opened()
    talk.now = 9000.0
    talk.submit(1)
    talk.turn()
    talk.hear(protocol.Refused("expired", "the task has ended"))
    (failed,) = talk.last.outcomes
    assert isinstance(failed, Failed)
    assert failed.failure == Failure("expired", text="the task has ended")


def test_only_a_session_that_was_open_is_said_to_be_lost() -> None:
    assert [event.text for event in refused_after(1.0, "versions").last.events] == ["the session is lost"]
    talk = Talk()
    talk.state.connect(SCHEDULER, 0.0)
    talk.hear(protocol.Refused("versions", "words"))
    assert talk.last.refused is not None
    assert talk.last.events == []


def test_tasks_wait_a_while_for_the_next_session_of_a_scheduler_that_is_there() -> None:
    talk = refused_after(1.0, "expired")
    talk.drop()
    second = talk.submit()
    talk.turn()
    assert (talk.last.outcomes, talk.last.wake_at) == ([], 9.0)
    sent = talk.open(Peer(3))
    assert sent[1].array == (session_of(2), second)
    talk = refused_after(1.0, "expired")
    talk.drop()
    third = talk.submit()
    talk.now = 9.0
    talk.turn()
    assert failures_of(talk.last) == [(third, 0, 1, "scheduler_lost")]


def test_a_refusal_that_heals_leaves_the_session_alone() -> None:
    talk = refused_after(1.0, "duplicate")
    assert talk.last.outcomes == []
    assert talk.last.refused is not None
    talk.drop()
    assert talk.state.phase == "apart"
    assert talk.open(Peer(3), known=()) != []


# --- questions and the end ------------------------------------------------------------------------


def test_questions_and_answers_pass_through() -> None:
    talk = opened()
    talk.state.ask_status()
    talk.state.explain(0.0)
    assert kinds(talk.turn()) == ["ExplainWait", "WatchStatus"]
    talk.hear(protocol.GaveNotice("unfit", "none fits"), protocol.WaitExplained(1, "busy", "all busy"))
    assert talk.last.notices == (("unfit", "none fits"),)
    assert talk.last.explanations == (("busy", "all busy"),)
    totals = rows.Totals(0.0, *([0] * 13), 0.0, 0.0)
    report = protocol.StatusReported(True, "c", 5, True, totals, (), (), (), ())
    talk.hear(report)
    assert talk.last.reports == (report,)


def test_without_a_connection_the_wait_is_explained_here() -> None:
    talk = opened()
    talk.drop()
    talk.state.explain(12.0)
    talk.turn()
    assert talk.last.explanations[0].code == "apart"
    assert "12 s" in talk.last.explanations[0].text
    lost = Talk()
    lost.state.explain(0.0)
    lost.turn()
    assert lost.last.explanations == ()


def test_closing_leaves_for_good_and_cancels_what_is_open() -> None:
    talk = opened()
    counter = talk.submit(2)
    talk.turn()
    talk.hear(protocol.TasksSettled(7, talk.array(counter), ((0, 1, b""),), ()))
    talk.state.close()
    assert talk.turn() == [protocol.CloseSession()]
    assert failures_of(talk.last) == [(counter, 1, 2, "cancelled")]
    late = talk.submit()
    assert talk.turn() == []
    assert failures_of(talk.last) == [(late, 0, 1, "cancelled")]
    talk.drop()
    assert talk.state.phase == "closed"


def test_closing_while_apart_sends_nothing() -> None:
    talk = opened()
    talk.drop()
    talk.state.close()
    assert talk.turn() == []
