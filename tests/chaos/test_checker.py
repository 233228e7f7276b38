"""The checker, on made-up runs: each broken promise is found, and a run that shows nothing is invalid."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import chaos_work
import pytest
from audit import Audit, read_journal
from checker import Evidence, Figures, PromiseBrokenError, check
from faults import Fault, FaultsMissedError, pauses
from ledger import Try, read_ledger
from notes import Got, NoteBook, Notes, read_notes

from distcomp.ids import ClusterId
from distcomp.journal import Journal
from distcomp.records import (
    EpochBegan,
    IndexesReturned,
    LeaseGranted,
    TasksAccepted,
    TasksEnded,
    TaskTried,
)
from distcomp.rows import TaskOptions

if TYPE_CHECKING:
    from pathlib import Path

ARRAY = ("0a", 1)
KILLED, OTHER = 71, 72
RESTART = Fault("kill scheduler", 10.0, 10.5)


def made(number: int, *pids: int, began_at: float = 5.0) -> list[Try]:
    """The tries of a task, in these processes, one second each."""
    return [
        Try(number, place + 1, pid, began_at + 2 * place, began_at + 2 * place + 1)
        for place, pid in enumerate(pids)
    ]


def good_run() -> Evidence:
    """Four tasks, the odd ones to begin once, through a restart and the kill of a slot."""
    notes = Notes(
        offered={ARRAY: {index: (1.0, index) for index in range(4)}},
        acknowledged={ARRAY: [(1.1, 2), (1.2, 4)]},
        got=[Got(20.0, number, chaos_work.value_of(number)) for number in range(4)],
        done=True,
    )
    tries = {number: made(number, OTHER) for number in range(4)}
    tries[2] = made(2, KILLED, OTHER)
    faults = [Fault("kill slot", 4.0, 4.0, frozenset([KILLED])), RESTART]
    audit = Audit({ARRAY: 4}, epochs=[1, 2])
    audit.settled.update((*ARRAY, index) for index in range(4))
    return Evidence(tries, notes, faults, audit, frozenset({"TaskLostError"}))


def findings(evidence: Evidence) -> str:
    """What the checker says of a run that breaks the promise."""
    with pytest.raises(PromiseBrokenError) as caught:
        check(evidence, faults=2, in_flight=4)
    return str(caught.value)


def test_a_good_run_is_counted() -> None:
    assert check(good_run(), faults=2, in_flight=4) == Figures(4, 4, repeated=1, failed=0, faults=2)


def test_an_acknowledged_task_without_outcome_is_found() -> None:
    evidence = good_run()
    evidence.notes.got.pop()
    evidence.notes.done = False
    assert "task 3 was acknowledged and has no outcome" in findings(evidence)
    assert "the client did not come to its end" in findings(evidence)


def test_a_task_that_was_not_acknowledged_may_be_open_when_its_client_was_killed() -> None:
    evidence = good_run()
    evidence.notes.got.pop()
    evidence.notes.acknowledged[ARRAY] = [(1.1, 3)]
    assert "task 3 was handed in and has no outcome" in findings(evidence)
    evidence.notes.done = False
    assert "task 3" not in findings(evidence)


def test_a_wrong_value_is_found() -> None:
    evidence = good_run()
    evidence.notes.got[1] = Got(20.0, 1, 12345)
    assert "task 1 gave 12345" in findings(evidence)


def test_two_outcomes_are_found() -> None:
    evidence = good_run()
    evidence.notes.got.append(evidence.notes.got[0])
    assert "task 0 has 2 outcomes" in findings(evidence)


def test_an_outcome_of_nothing_is_found() -> None:
    evidence = good_run()
    evidence.notes.got.append(Got(20.0, 9, chaos_work.value_of(9)))
    assert "task 9 was never handed in" in findings(evidence)


def test_a_result_of_a_task_that_did_not_run_to_its_end_is_found() -> None:
    evidence = good_run()
    evidence.tries[0] = [evidence.tries[0][0]._replace(ended_at=0.0)]
    assert "task 0 has a result and never ran to its end" in findings(evidence)


@pytest.mark.parametrize(
    ("number", "error", "is_found"),
    [(1, "TaskLostError", False), (0, "TaskLostError", True), (1, "SchedulerLostError", True)],
)
def test_only_tasks_that_begin_once_may_fail_and_only_so(number: int, error: str, *, is_found: bool) -> None:
    evidence = good_run()
    evidence.notes.got[number] = Got(20.0, number, None, error, "why")
    if is_found:
        assert f"task {number} failed with {error}: why" in findings(evidence)
    else:
        assert check(evidence, faults=2, in_flight=4).failed == 1


def test_a_second_begin_of_what_may_begin_once_is_found_whatever_its_reason() -> None:
    evidence = good_run()
    evidence.tries[3] = made(3, KILLED, OTHER)
    assert "task 3 began 2 times and may begin once" in findings(evidence)


def test_a_repeat_without_a_reason_is_found() -> None:
    evidence = good_run()
    evidence.tries[0] = made(0, OTHER, OTHER)
    assert "task 0 began 2 times, 1 without a reason" in findings(evidence)


@pytest.mark.parametrize(("began_at", "is_found"), [(9.4, True), (9.6, False), (10.2, False), (10.6, True)])
def test_a_grant_may_be_forgotten_only_around_a_kill_of_the_scheduler(
    began_at: float, *, is_found: bool
) -> None:
    evidence = good_run()
    evidence.tries[0] = made(0, OTHER, OTHER, began_at=began_at)
    if is_found:
        assert "without a reason" in findings(evidence)
    else:
        assert check(evidence, faults=2, in_flight=4).repeated == 2


def test_a_recorded_reason_explains_one_repeat() -> None:
    evidence = good_run()
    assert evidence.audit is not None
    evidence.audit.reasons[(*ARRAY, 0)].append("crashed")
    evidence.tries[0] = made(0, OTHER, OTHER)
    assert check(evidence, faults=2, in_flight=4).repeated == 2
    evidence.tries[0] = made(0, OTHER, OTHER, OTHER)
    assert "task 0 began 3 times, 1 without a reason" in findings(evidence)


def test_an_acknowledgement_that_is_not_in_the_journal_is_found() -> None:
    evidence = good_run()
    assert evidence.audit is not None
    evidence.audit.accepted[ARRAY] = 3
    assert "4 tasks of array 1 were acknowledged, 3 recorded" in findings(evidence)


def test_a_task_that_is_settled_twice_is_found() -> None:
    evidence = good_run()
    assert evidence.audit is not None
    evidence.audit.settled[(*ARRAY, 2)] += 1
    assert "index 2 of array 1 was settled 2 times" in findings(evidence)


def test_a_task_that_stays_in_the_journal_is_found() -> None:
    evidence = good_run()
    assert evidence.audit is not None
    del evidence.audit.settled[(*ARRAY, 2)]
    assert "1 tasks of array 1 are left in the journal" in findings(evidence)


@pytest.mark.parametrize("epochs", [[2, 1], [0, 0]])
def test_an_epoch_that_does_not_grow_is_found(epochs: list[int]) -> None:
    evidence = good_run()
    assert evidence.audit is not None
    evidence.audit.epochs = epochs
    assert "do not grow" in findings(evidence)


def test_what_is_left_over_is_found() -> None:
    assert "left over: process 9" in findings(replace(good_run(), leftovers=["process 9"]))


@pytest.mark.parametrize(("wanted", "in_flight", "at"), [(3, 4, 4.0), (2, 5, 4.0), (2, 1, 30.0)])
def test_a_run_whose_faults_missed_is_invalid(wanted: int, in_flight: int, at: float) -> None:
    evidence = good_run()
    evidence.faults[0] = evidence.faults[0]._replace(at=at)
    evidence.notes.got[0] = Got(20.0, 0, 12345)  # invalid counts before wrong
    with pytest.raises(FaultsMissedError, match="invalid"):
        check(evidence, faults=wanted, in_flight=in_flight)


def test_a_schedule_of_faults_is_known_by_its_seed() -> None:
    some = [next(pauses(seed, 0.1, 0.2)) for seed in (1, 1, 2)]
    assert some[0] == some[1] != some[2]
    assert all(0.1 <= each <= 0.2 for each in some)


def test_the_ledger_holds_what_tasks_write(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert chaos_work.step(str(path), 4, 0.0) == chaos_work.value_of(4)
    with path.open("ab") as file:
        file.write(struct.pack(chaos_work.RECORD, 4, 1.0, 0.0, OTHER))
        file.write(b"torn")
    first, second = read_ledger(path)[4]
    assert first == Try(4, 1, OTHER, 1.0, 0.0)
    assert second.attempt == 2
    assert second.ended_at > second.began_at > 1.0


def test_notes_are_read_as_they_were_written(tmp_path: Path) -> None:
    book = NoteBook(str(tmp_path / "notes"))
    book.offered("0a", 1, 0, [6, 8])
    book.offered("0a", 1, 2, [10])
    book.acknowledged("0a", 1, 2)
    book.got(6, 36)
    book.failed(8, ValueError("two\nlines"))
    with (tmp_path / "notes").open("a") as file:
        file.write("12.0 got 10 1")  # it was killed here
    notes = read_notes(tmp_path / "notes")
    assert {index: number for index, (_, number) in notes.offered[ARRAY].items()} == {0: 6, 1: 8, 2: 10}
    assert [tasks for _, tasks in notes.acknowledged[ARRAY]] == [2]
    assert [got[1:] for got in notes.got] == [(6, 36, "", ""), (8, None, "ValueError", "two lines")]
    assert not notes.done


def test_the_journal_says_what_was_accepted_granted_settled_and_why_again(tmp_path: Path) -> None:
    cluster, array, token = ClusterId(b"c" * 16), (b"s" * 16, 3), (7, 1)
    journal = Journal(tmp_path / "journal.db", cluster)
    list(journal.recovered)
    never: Any = len
    journal.start(
        lambda _function, _value: None, on_committed=never, on_full=never, on_no_room=never, on_failed=never
    )
    journal.append(
        1,
        [
            EpochBegan(7, 1.0, "1"),
            TasksAccepted(array, b"f" * 32, TaskOptions(), 0, 4, 0, b"chunk", True),  # type: ignore[arg-type] # an id
            LeaseGranted(token, array, 0, 3, 1, b"w" * 16),  # type: ignore[arg-type] # as above
            IndexesReturned(token, ((0, 1),), begun=True),
            IndexesReturned(token, ((1, 2),), begun=False),
            TaskTried(array, 2, token, 0, 1, 0, 0, (), 1),  # type: ignore[arg-type] # as above
            TasksEnded(array, token, 1, ((1, 3),), ((1, 3, b"blob"),)),  # type: ignore[arg-type] # as above
        ],
    )
    journal.close()
    audit = read_journal(tmp_path / "journal.db", cluster, tmp_path / "copy")
    name = (array[0].hex(), 3)
    assert audit.accepted == {name: 4}
    assert audit.granted == {(*name, index): 1 for index in range(3)}
    assert audit.settled == {(*name, 1): 1, (*name, 2): 1}
    assert audit.reasons == {
        (*name, 0): ["its worker was lost"],
        (*name, 2): ["failed, crashed or lost"],
    }
    assert audit.epochs == [7]
    assert audit.whole
