from __future__ import annotations

import gc
import weakref
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pytest
from test_futures import Group

from distcomp.core.client_effects import Failed
from distcomp.errors import UsageError
from distcomp.feeder import row_of
from distcomp.payload import Constant, FunctionCache, dump_call, dump_failure, pack_calls
from distcomp.rows import Failure

if TYPE_CHECKING:
    from types import TracebackType


def divide(number: int, by: int = 0) -> float:
    return number / by


def sent(*calls: tuple[tuple[Any, ...], dict[str, Any]], max_tasks: int = 99) -> Group:
    """A group whose calls have been sent."""
    group = Group(len(calls))
    _, blob = FunctionCache(shares_path=True).dump(divide, None)
    boxed = [dump_call(args, kwargs, shares_path=True) for args, kwargs in calls]
    group.group.keep_calls(blob, pack_calls(boxed, max_tasks=max_tasks))
    return group


def test_a_failed_call_is_made_again_under_the_debugger() -> None:
    group = sent(((8,), {"by": 2}), ((9,), {}))
    group.give(0, 4.0)
    group.fail(1, dump_failure(ZeroDivisionError("there")))
    seen: list[TracebackType] = []
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        group.futures[1].replay(debugger=seen.append)
    (trace,) = seen
    assert trace.tb_frame.f_code.co_name == "divide"
    assert trace.tb_frame.f_locals == {"number": 9, "by": 0}


def test_the_debugger_is_pdb_if_no_other_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    group = sent(((9,), {}))
    group.fail(0, dump_failure(ZeroDivisionError("there")))
    seen: list[Any] = []
    monkeypatch.setattr("pdb.post_mortem", seen.append)
    with pytest.raises(ZeroDivisionError):
        group.futures[0].replay()
    assert len(seen) == 1


def test_a_call_that_fails_only_there_gives_its_result_here() -> None:
    group = sent(((8,), {"by": 2}))
    group.fail(0, Failure("crashed", text="killed by signal 11"))
    assert group.futures[0].exception() is not None
    assert group.futures[0].replay() == 4.0


def test_only_failed_calls_can_be_made_again() -> None:
    group = sent(((8,), {"by": 2}), ((9,), {}))
    group.give(0, 4.0)
    group.futures[1].cancel()
    with pytest.raises(UsageError, match="did not fail"):
        group.futures[0].replay()
    with pytest.raises(CancelledError):
        group.futures[1].replay()


def test_arguments_are_let_go_of_when_their_tasks_are_settled() -> None:
    group = sent(*[((number,), {}) for number in range(4)], max_tasks=1)
    parts = group.group._parts
    group.give(1, 1)
    assert [bool(part.blob) for part in parts] == [True, False, True, True]
    group.fail(2, dump_failure(ZeroDivisionError()))
    group.give(0, 1)
    group.give(3, 1)
    assert group.group._parts == []
    failed = group.futures.pop(2)
    assert failed._failed_call.place == 0
    reference = weakref.ref(failed)
    del failed
    gc.collect()
    assert reference() is None


def test_what_was_never_sent_cannot_be_made_again() -> None:
    group = Group(1)
    group.tell(Failed(1, 0, 1, Failure("scheduler_lost", text="gone")))
    with pytest.raises(UsageError, match="let go of"):
        group.futures[0].replay()


def test_arguments_of_one_task_are_taken_from_all_kinds_of_columns() -> None:
    class Countdown:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            return iter((3, 2, 1))

    columns = [range(5), ["a", "b", "c"], Constant("x", 3), Countdown()]
    assert row_of(columns, 1) == (1, "b", "x", 2)
