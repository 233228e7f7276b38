"""A scheduler that remembers its sessions is away: what its client says, and how long it stays for it."""

from __future__ import annotations

from test_client_runs import RunTalk
from test_client_state import AGAIN, FUNCTION, SCHEDULER, Talk, failures_of

from distcomp import protocol
from distcomp.core.client_absence import Absence
from distcomp.ids import Peer
from distcomp.rows import TaskOptions

DETACHED = TaskOptions(detach=True)
NOTICE_S, REMINDER_S, CLOSE_S = 2.0, 600.0, 60.0


def meet(talk: Talk, peer: Peer = SCHEDULER, known: tuple[int, ...] = ()) -> list[object]:
    """Open the session with a scheduler that remembers it, and some of its arrays."""
    talk.peer = peer
    talk.state.connect(peer, talk.now)
    talk.turn()
    arrays = tuple((talk.array(counter), 2) for counter in known)
    return talk.hear(protocol.SessionOpened(5, "c", 30.0, arrays, durable=True))


def away(*, accepted: int = 2, options: TaskOptions | None = None) -> Talk:
    """A client with an array of two tasks, whose scheduler is gone at 10 s."""
    talk = Talk(away_notice_s=NOTICE_S, away_reminder_s=REMINDER_S, away_close_s=CLOSE_S)
    meet(talk)
    counter = talk.state.submit(FUNCTION, "f", b"code", options or TaskOptions())
    talk.state.extend(counter, 2, b"args", last=True)
    talk.turn()
    if accepted:
        talk.hear(protocol.Accepted(talk.array(counter), accepted))
    talk.now = 10.0
    talk.drop()
    return talk


def at(talk: Talk, now: float) -> Absence | None:
    """What is said in a turn at a time."""
    talk.now = now
    talk.turn()
    return talk.last.absence


def test_an_absence_is_told_of_after_a_while_and_rarely_again() -> None:
    talk = away()
    assert at(talk, 10.5) is None
    assert talk.last.wake_at == 10.0 + NOTICE_S
    assert at(talk, 12.0) == Absence("away", 10.0, 2, 0, 0, 30.0)
    assert talk.last.wake_at == 12.0 + REMINDER_S
    assert at(talk, 13.0) is None
    again = at(talk, 12.0 + REMINDER_S)
    assert again is not None
    assert again.state == "away"


def test_its_end_is_told_if_it_was_told_of() -> None:
    talk = away()
    at(talk, 12.0)
    talk.now = 15.0
    meet(talk, AGAIN, known=(1,))
    assert talk.last.absence == Absence("back", 10.0, 0, 0, 0, 30.0)
    talk.drop()
    talk.now = 16.0
    meet(talk, Peer(3), known=(1,))
    assert talk.last.absence is None


def test_a_connection_that_does_not_come_to_a_session_is_no_end() -> None:
    talk = away()
    talk.peer = AGAIN
    talk.state.connect(AGAIN, 11.0)
    told = at(talk, 12.0)
    assert told is not None
    assert told.since == 10.0
    talk.drop()
    assert talk.last.wake_at == 12.0 + REMINDER_S


def test_nothing_is_said_where_nothing_waits_until_something_does() -> None:
    talk = Talk(away_notice_s=NOTICE_S)
    meet(talk)
    talk.now = 10.0
    talk.drop()
    assert at(talk, 20.0) is None
    assert talk.last.wake_at is None
    talk.submit(3)
    assert at(talk, 21.0) == Absence("away", 10.0, 0, 0, 3, 30.0)


def test_a_scheduler_that_forgets_is_given_up_as_before() -> None:
    talk = Talk()
    talk.open()
    talk.submit()
    talk.turn()
    talk.drop()
    assert at(talk, 30.0) is None
    talk.now = 61.0
    talk.turn()
    assert failures_of(talk.last) == [(1, 0, 1, "expired")]
    assert talk.last.absence is None


def test_who_leaves_waits_no_longer_than_agreed() -> None:
    talk = away(accepted=1)
    at(talk, 12.0)
    talk.state.leave(20.0)
    talk.state.leave(50.0)
    assert at(talk, 21.0) is None
    assert talk.last.wake_at == 20.0 + CLOSE_S
    assert at(talk, 20.0 + CLOSE_S) == Absence("left", 10.0, 1, 0, 1, 30.0)
    assert failures_of(talk.last) == [(1, 0, 2, "scheduler_lost")]
    assert talk.last.wake_at is None
    talk.state.close()
    talk.turn()
    assert talk.last.absence is None


def test_an_absence_that_begins_while_the_user_leaves_counts_from_its_beginning() -> None:
    talk = away()
    meet(talk, AGAIN, known=(1,))
    talk.state.leave(11.0)
    talk.now = 40.0
    talk.drop()
    assert not failures_of(talk.last)
    at(talk, 40.0 + CLOSE_S - 1)
    assert not failures_of(talk.last)
    told = at(talk, 40.0 + CLOSE_S)
    assert told is not None
    assert (told.state, told.since) == ("left", 40.0)


def test_what_was_cancelled_meanwhile_is_left_behind_too() -> None:
    talk = away()
    detached = away(options=DETACHED)
    for each in (talk, detached):
        each.state.cancel(1, ())
        at(each, 11.0)
        each.state.close()
    assert at(talk, 11.0) == Absence("left", 10.0, 2, 0, 0, 30.0)
    assert at(detached, 11.0) == Absence("left", 10.0, 0, 2, 0, 30.0)


def test_single_tasks_that_were_cancelled_meanwhile_count_as_left() -> None:
    talk = away()
    talk.state.cancel(1, ((0, 1),))
    told = at(talk, 12.0)
    assert told is not None
    assert told.attached == 1
    talk.state.close()
    left = at(talk, 12.0)
    assert left is not None
    assert left.attached == 2


def test_single_tasks_that_were_cancelled_meanwhile_are_told_to_a_scheduler_that_is_back() -> None:
    talk = away()
    talk.state.cancel(1, ((0, 1),))
    assert at(talk, 12.0) is not None
    assert protocol.CancelTasks(talk.array(1), ((0, 1),)) in meet(talk, AGAIN, known=(1,))


def test_what_was_cancelled_meanwhile_is_told_to_a_scheduler_that_is_back() -> None:
    talk = away()
    talk.state.cancel(1, ())
    assert at(talk, 13.0) is None
    assert protocol.CancelTasks(talk.array(1), ()) in meet(talk, AGAIN, known=(1,))
    talk.drop()
    talk.state.close()
    talk.turn()
    assert talk.last.absence is None


def test_who_leaves_nothing_behind_says_nothing() -> None:
    talk = Talk()
    meet(talk)
    talk.now = 10.0
    talk.drop()
    talk.state.close()
    talk.turn()
    assert talk.last.absence is None


def test_the_tasks_of_a_run_go_on() -> None:
    talk = RunTalk()
    talk.dial()
    talk.hear(protocol.SessionOpened(5, "c", 60.0, (), durable=True), protocol.RunDescribed((), more=False))
    counter = talk.submit(2)
    talk.turn()
    talk.hear(protocol.Accepted((talk.state.session, counter), 2))
    talk.drop()
    talk.state.close()
    talk.turn()
    assert talk.last.absence == Absence("left", 0.0, 0, 2, 0, 60.0)


def test_a_wait_is_explained_as_one_for_a_scheduler_that_is_away() -> None:
    talk = away()
    talk.state.explain(14.0)
    talk.turn()
    assert [each.code for each in talk.last.explanations] == ["away"]
