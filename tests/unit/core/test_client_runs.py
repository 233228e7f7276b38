"""Runs from their client's side: entering, adopting, and what is acknowledged when."""

from __future__ import annotations

from itertools import repeat
from typing import Any

from distcomp import protocol
from distcomp.config import ClientSettings
from distcomp.core.client_effects import ClientEffects, Failed, Introduction, Returned
from distcomp.core.client_runs import RunEntry
from distcomp.core.client_state import ClientState
from distcomp.ids import FunctionId, Peer, SessionId
from distcomp.rows import Failure, RunArray, TaskOptions, Versions

FUNCTION = FunctionId(b"f" * 32)
SESSION = SessionId(b"r" * 16)
NONCE = b"n" * 16
FIRST = 1000
INTRODUCTION = Introduction(Versions("0", "3.11.7", "3"), "host", 7, "script.py", b"env")
CANCELLED = Failure("cancelled", text="by its owner")


def row(number: int, tasks: int, received: tuple[tuple[int, int], ...] = ()) -> RunArray:
    return RunArray(number, FUNCTION, "f", tasks, 0, 0, closed=True, received=received)


class RunTalk:
    """A run's client, and the scheduler's side of its connection played by hand."""

    def __init__(self, *, keeps: bool = False, attaches: bool = False, is_run: bool = True) -> None:
        entry = RunEntry("fit", NONCE, FIRST, keeps=keeps, attaches=attaches) if is_run else None
        self.state = ClientState(ClientSettings(), repeat(SESSION), INTRODUCTION, entry)
        self.peers = iter(map(Peer, range(1, 100)))
        self.peer = Peer(0)
        self.last = ClientEffects()

    def turn(self) -> list[Any]:
        self.state.tick(0.0)
        self.last = self.state.take_effects()
        return self.last.sends.get(self.peer, [])

    def hear(self, *messages: Any) -> list[Any]:
        for message in messages:
            self.state.receive(self.peer, message, 0.0)
        return self.turn()

    def dial(self) -> list[Any]:
        self.peer = next(self.peers)
        self.state.connect(self.peer, 0.0)
        return self.turn()

    def open(self, *rows: RunArray, epoch: int = 5) -> list[Any]:
        self.dial()
        return self.hear(
            protocol.SessionOpened(epoch, "c", 60.0, ()), protocol.RunDescribed(rows, more=False)
        )

    def drop(self) -> None:
        self.state.disconnect(self.peer, 0.0)
        self.turn()

    def submit(self, tasks: int, *, kept: bool = False) -> int:
        counter = self.state.submit(FUNCTION, "f", b"code", TaskOptions(), kept=kept)
        self.state.extend(counter, tasks, b"args", last=True)
        return counter


def settled(seq: int, number: int, *runs: tuple[int, int, bytes]) -> protocol.TasksSettled:
    return protocol.TasksSettled(seq, (SESSION, number), runs, ())


def failed(seq: int, number: int, *spans: tuple[int, int]) -> protocol.TasksFailed:
    return protocol.TasksFailed(seq, (SESSION, number), spans, CANCELLED)


def receipts(messages: list[Any]) -> list[Any]:
    return [each for each in messages if isinstance(each, protocol.AckOutcomes | protocol.ReadOutcomes)]


# --- entering -------------------------------------------------------------------------------------


def test_a_run_is_opened_by_its_name_and_is_open_once_it_is_described() -> None:
    talk = RunTalk()
    (opening,) = talk.dial()
    assert (opening.run, opening.nonce, opening.resumes) == ("fit", NONCE, False)
    talk.hear(protocol.SessionOpened(5, "c", 60.0, ()))
    assert not talk.last.opened
    talk.hear(protocol.RunDescribed((row(3, 4),), more=True))
    assert not talk.last.opened
    talk.hear(protocol.RunDescribed((row(7, 2),), more=False))
    assert talk.last.opened
    assert [each.number for each in talk.last.adopted] == [3, 7]


def test_who_attaches_says_so_until_it_was_in() -> None:
    talk = RunTalk(attaches=True)
    assert talk.dial()[0].resumes
    talk.hear(protocol.SessionOpened(5, "c", 60.0, ()), protocol.RunDescribed((), more=False))
    talk.state._lose(Failure("scheduler_lost"))
    talk.drop()
    assert not talk.dial()[0].resumes


def test_a_description_that_nobody_waits_for_is_nonsense() -> None:
    for talk in (RunTalk(), RunTalk(is_run=False)):
        talk.dial()
        talk.hear(protocol.RunDescribed((), more=False))
        assert talk.state.malformed == 1


def test_a_run_that_is_opened_twice_is_nonsense() -> None:
    talk = RunTalk()
    talk.dial()
    talk.hear(*[protocol.SessionOpened(5, "c", 60.0, ())] * 2)
    assert talk.state.malformed == 1


def test_what_was_told_on_a_connection_that_ended_is_told_again() -> None:
    talk = RunTalk()
    talk.dial()
    talk.hear(protocol.SessionOpened(5, "c", 60.0, ()), protocol.RunDescribed((row(1, 1),), more=True))
    talk.drop()
    talk.open(row(2, 1))
    assert [each.number for each in talk.last.adopted] == [2]


def test_numbers_of_arrays_are_above_all_that_the_run_has_had() -> None:
    talk = RunTalk()
    talk.open(row(FIRST + 50, 1))
    assert talk.submit(1) == FIRST + 51
    assert RunTalk().submit(1) == FIRST + 1


def test_a_run_that_the_scheduler_forgot_is_lost_and_begun_again_under_its_name() -> None:
    talk = RunTalk()
    talk.open(row(1, 2))
    talk.drop()
    talk.dial()
    talk.hear(protocol.Refused("unknown", "there is no such run"))
    assert [(each.array, each.start, each.stop) for each in talk.last.outcomes] == [(1, 0, 2)]
    talk.drop()
    assert (talk.dial()[0].session, talk.dial()[0].resumes) == (SESSION, False)


# --- adopting -------------------------------------------------------------------------------------


def test_an_adopted_array_settles_with_what_is_still_to_come_of_it() -> None:
    talk = RunTalk()
    talk.open(row(1, 6, ((0, 2),)), row(1, 6, ((4, 5),)))
    talk.hear(settled(1, 1, (2, 4, b"two")), failed(2, 1, (5, 6)))
    assert talk.last.outcomes == [Returned(1, 2, 4, 2, b"two"), Failed(1, 5, 6, CANCELLED)]
    assert talk.last.released_tasks == 0, "nothing that another process's window counted"
    assert talk.state.arrays == {}


def test_of_an_array_that_was_received_nothing_is_awaited() -> None:
    talk = RunTalk()
    talk.open(row(1, 2, ((0, 2),)), row(2, 0))
    assert [each.number for each in talk.last.adopted] == [1, 2]
    assert talk.state.arrays == {}


def test_adopted_arrays_are_adopted_once_and_go_on_with_the_next_connection() -> None:
    talk = RunTalk()
    talk.open(row(1, 2))
    talk.drop()
    talk.open(row(1, 2), row(9, 1))
    assert not talk.last.adopted
    assert list(talk.state.arrays) == [1]
    talk.hear(settled(1, 1, (0, 2, b"both")))
    assert talk.last.outcomes == [Returned(1, 0, 2, 0, b"both")]


def test_adopted_tasks_can_be_cancelled() -> None:
    talk = RunTalk()
    talk.open(row(1, 3))
    talk.state.cancel(1, ((1, 2),))
    assert talk.turn() == [protocol.CancelTasks((SESSION, 1), ((1, 2),), pending_only=False)]


def test_outcomes_of_tasks_that_there_are_not_are_nonsense() -> None:
    for message in (settled(1, 1, (0, 3, b"")), failed(1, 1, (2, 3))):
        talk = RunTalk()
        talk.open(row(1, 2))
        talk.hear(message)
        assert talk.state.malformed == 1


def test_an_array_that_was_ended_because_its_client_was_away_fails_as_expired() -> None:
    talk = RunTalk(is_run=False)
    talk.dial()
    talk.hear(protocol.SessionOpened(5, "c", 60.0, ()))
    counter = talk.submit(1)
    talk.turn()
    talk.hear(protocol.SubmitRefused((SESSION, counter), 0, "expired", "away for too long"))
    assert [each.failure.kind for each in talk.last.outcomes if isinstance(each, Failed)] == ["expired"]


# --- receipts -------------------------------------------------------------------------------------


def test_of_a_run_without_a_store_outcomes_are_read_and_never_acknowledged() -> None:
    talk = RunTalk()
    talk.open(row(1, 2))
    assert receipts(talk.hear(settled(1, 1, (0, 1, b"x")))) == [protocol.ReadOutcomes((1,))]
    counter = talk.submit(1)
    talk.turn()
    assert receipts(talk.hear(failed(2, counter, (0, 1)))) == [protocol.ReadOutcomes((2,))]
    assert receipts(talk.hear(settled(3, 77, (0, 1, b"x")))) == [protocol.ReadOutcomes((3,))]
    assert receipts(talk.hear(failed(4, 77, (0, 1)))) == [protocol.ReadOutcomes((4,))]


def test_what_is_kept_is_acknowledged_only_when_it_is_stored() -> None:
    talk = RunTalk(keeps=True)
    talk.open(row(1, 2))
    assert receipts(talk.hear(settled(1, 1, (0, 1, b"x")))) == []
    (kept,) = talk.last.kept
    assert kept.outcomes == (Returned(1, 0, 1, 0, b"x"),)
    talk.drop()
    talk.open(row(1, 2))
    assert receipts(talk.hear(settled(1, 1, (0, 1, b"x")))) == []
    assert talk.last.kept == []
    talk.state.receipts.stored(kept.life, [kept.seq])
    assert talk.turn() == [protocol.AckOutcomes((1,))]
    assert receipts(talk.hear(settled(1, 1, (0, 1, b"x")))) == [protocol.AckOutcomes((1,))]


def test_an_array_of_an_ordinary_session_may_be_kept_too() -> None:
    talk = RunTalk(is_run=False)
    talk.dial()
    talk.hear(protocol.SessionOpened(5, "c", 60.0, ()))
    kept, plain = talk.submit(1, kept=True), talk.submit(1)
    talk.turn()
    told = talk.hear(settled(1, kept, (0, 1, b"x")), settled(2, plain, (0, 1, b"y")))
    assert receipts(told) == [protocol.AckOutcomes((2,))]
    talk.state.receipts.stored(0, [1])
    assert talk.turn() == [protocol.AckOutcomes((1,))]


def test_what_cannot_be_stored_stays_with_a_run_and_is_let_go_of_elsewhere() -> None:
    talk = RunTalk(keeps=True)
    talk.open(row(1, 1))
    talk.hear(settled(1, 1, (0, 1, b"x")))
    talk.state.receipts.not_stored(0, [1])
    assert talk.turn() == [protocol.ReadOutcomes((1,))]
    ordinary = RunTalk(is_run=False)
    ordinary.dial()
    ordinary.hear(protocol.SessionOpened(5, "c", 60.0, ()))
    counter = ordinary.submit(1, kept=True)
    ordinary.turn()
    ordinary.hear(settled(1, counter, (0, 1, b"x")))
    ordinary.state.receipts.not_stored(0, [1])
    assert ordinary.turn() == [protocol.AckOutcomes((1,))]


def test_what_could_not_be_stored_is_not_acknowledged_when_it_comes_again() -> None:
    talk = RunTalk(keeps=True)
    talk.open(row(1, 1))
    talk.hear(settled(1, 1, (0, 1, b"x")))
    talk.state.receipts.not_stored(0, [1])
    talk.turn()
    talk.drop()
    talk.open(row(1, 1))
    assert receipts(talk.hear(settled(1, 1, (0, 1, b"x")))) == [protocol.ReadOutcomes((1,))]
    assert talk.last.kept == []


def test_what_another_process_has_handed_in_meanwhile_is_read_and_left_to_it() -> None:
    talk = RunTalk(keeps=True)
    talk.open(row(1, 1))
    own = talk.submit(1, kept=True)
    talk.turn()
    talk.state.cancel(own, ())
    talk.turn()
    talk.drop()
    talk.open(row(1, 1), row(own, 1), row(own + 7, 2))
    told = talk.hear(settled(3, own + 7, (0, 1, b"x")), failed(4, own + 7, (1, 2)), failed(5, own, (0, 1)))
    assert receipts(told) == [protocol.AckOutcomes((5,)), protocol.ReadOutcomes((3, 4))]
    assert talk.last.kept == []


def test_what_another_process_has_received_meanwhile_is_not_awaited() -> None:
    talk = RunTalk(keeps=True)
    talk.open(row(1, 4))
    talk.hear(settled(1, 1, (0, 1, b"x")))
    own = talk.submit(2)
    talk.turn()
    talk.drop()
    talk.open(row(1, 4, received=((0, 2), (3, 4))), row(own, 2, received=((0, 2),)), row(own + 7, 2))
    told = [(each.array, each.start, each.stop) for each in talk.last.outcomes]
    assert told == [(1, 1, 2), (1, 3, 4), (own, 0, 2)]
    kinds = [each.failure.kind for each in talk.last.outcomes if isinstance(each, Failed)]
    assert kinds == ["scheduler_lost"] * 3
    assert list(talk.state.arrays) == [1]
    assert talk.last.released_tasks == 2


def test_numbers_of_a_session_that_was_lost_mean_nothing_to_the_next() -> None:
    talk = RunTalk(keeps=True)
    talk.open(row(1, 1))
    talk.hear(settled(1, 1, (0, 1, b"x")))
    talk.state._lose(Failure("scheduler_lost"))
    talk.drop()
    talk.open(row(1, 1))
    talk.hear(settled(1, 1, (0, 1, b"other")))
    (kept,) = talk.last.kept
    talk.state.receipts.stored(0, [1])
    assert talk.turn() == []
    talk.state.receipts.stored(kept.life, [1])
    assert talk.turn() == [protocol.AckOutcomes((1,))]


def test_receipts_leave_before_the_session_is_closed() -> None:
    talk = RunTalk(keeps=True)
    talk.open(row(1, 1))
    talk.hear(settled(1, 1, (0, 1, b"x")))
    talk.state.receipts.stored(0, [1])
    talk.state.close()
    assert talk.turn() == [protocol.AckOutcomes((1,)), protocol.CloseSession()]
