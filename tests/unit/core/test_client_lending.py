from __future__ import annotations

from test_client_state import FUNCTION, Talk, opened

from distcomp.protocol import Accepted, LendRefused, LendSlot
from distcomp.rows import TaskOptions


def test_a_task_that_waits_says_so_on_every_connection() -> None:
    talk = Talk()
    talk.state.lend(lent=True)
    assert talk.turn() == []
    assert talk.open() == [LendSlot(lent=True)]
    talk.drop()
    assert talk.open() == [LendSlot(lent=True)]
    talk.state.lend(lent=False)
    assert talk.turn() == [LendSlot(lent=False)]
    talk.drop()
    assert talk.open() == []


def test_a_refusal_is_told_once() -> None:
    talk = opened()
    talk.state.lend(lent=True)
    talk.turn()
    refusal = LendRefused(("outer", "inner"), 1)
    talk.hear(refusal)
    assert talk.last.lend_refused == refusal
    talk.drop()
    assert talk.open() == []
    assert talk.last.lend_refused is None


def test_detached_tasks_are_owed_until_they_are_accepted() -> None:
    talk = opened()
    assert not talk.state.owes_detached()
    talk.submit()
    assert not talk.state.owes_detached()
    counter = talk.state.submit(FUNCTION, "f", b"code", TaskOptions(detach=True))
    assert talk.state.owes_detached(), "more may come"
    talk.state.extend(counter, 2, b"args", last=True)
    talk.turn()
    talk.hear(Accepted(talk.array(counter), 1))
    assert talk.state.owes_detached()
    talk.hear(Accepted(talk.array(counter), 2))
    assert not talk.state.owes_detached()
