from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import threading
from typing import TYPE_CHECKING, Any

import pytest
from overtaking import in_another_thread

from distcomp.errors import UnpicklableError
from distcomp.pool_results import AsyncResult, CallOutcome, ImapIterator, MapOutcome
from distcomp.turnstile import ChunkedTasks, chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    StandardFuture = concurrent.futures.Future[Any]


def future_of(*result: Any) -> StandardFuture:
    future: StandardFuture = concurrent.futures.Future()
    if result:
        future.set_result(result[0])
    return future


class Tasks:
    """Notes what is handed in; its tasks end by hand."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.futures: list[StandardFuture] = []

    def hand_in(self, rows: Any) -> StandardFuture:
        self.rows.append(rows)
        self.futures.append(future_of())
        return self.futures[-1]

    def end(self, number: int) -> None:
        self.futures[number].set_result([10 * row[0] for row in self.rows[number]])


def imap(
    tasks: Tasks, items: Any, size: int = 1, most: int = 2, *, in_order: bool = True
) -> ImapIterator[int]:
    return ImapIterator(chunks([items], size), tasks.hand_in, most, in_order=in_order)


def test_a_result_is_loaded_once_and_kept() -> None:
    result: AsyncResult[Any] = AsyncResult(MapOutcome(ChunkedTasks([future_of([1, 2]), future_of([3])])))
    assert (result.ready(), result.successful()) == (True, True)
    assert result.get() == [1, 2, 3]
    assert result.get() is result.get()


def test_a_result_that_is_not_there_says_so() -> None:
    future = future_of()
    result: AsyncResult[Any] = AsyncResult(CallOutcome(future))
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0)
    error = UnpicklableError("argument 1")
    error.__cause__ = KeyError("k")
    future.set_exception(error)
    with pytest.raises(KeyError):
        result.get()


def test_callbacks_come_before_those_who_wait() -> None:
    told: list[Any] = []
    for future, outcome in ((future_of(), None), (future_of(), ValueError("no"))):
        result: AsyncResult[Any] = AsyncResult(CallOutcome(future), told.append, told.append)
        waiter = threading.Thread(target=lambda result=result: (result.wait(), told.append("waited")))
        waiter.start()
        assert not result.ready()
        future.set_exception(outcome) if outcome else future.set_result(1)
        waiter.join()
    assert told == [1, "waited", outcome, "waited"]


def test_a_callback_without_its_case_is_not_called() -> None:
    result: AsyncResult[Any] = AsyncResult(
        CallOutcome(future_of(3)), None, lambda _: pytest.fail("it is well")
    )
    assert result.get(timeout=60) == 3


def test_items_are_handed_in_as_results_are_read() -> None:
    tasks = Tasks()
    results = imap(tasks, range(5), size=2)
    assert tasks.rows == [((0,), (1,)), ((2,), (3,))]
    tasks.end(1)
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0)
    tasks.end(0)
    assert [next(results), next(results)] == [0, 10]
    assert tasks.rows[2:] == [((4,),)]
    tasks.end(2)
    assert list(results) == [20, 30, 40]


def test_results_may_come_in_any_order() -> None:
    tasks = Tasks()
    results = imap(tasks, range(3), in_order=False)
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0)
    tasks.end(1)
    assert next(results) == 10
    tasks.end(2)
    tasks.end(0)
    assert list(results) == [20, 0]


def test_all_can_be_handed_in_or_nothing_more() -> None:
    fed, stopped = Tasks(), Tasks()
    eager, lazy = imap(fed, range(9)), imap(stopped, range(9))
    eager.feed_all()
    assert len(fed.rows) == 9
    lazy.stop()
    lazy.feed_all()
    assert len(stopped.rows) == 2


def test_an_error_of_drawing_comes_behind_what_was_drawn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("k")

    tasks = Tasks()
    results = imap(tasks, items())
    tasks.end(0)
    assert next(results) == 10
    with pytest.raises(KeyError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


class OvertakenFuture(concurrent.futures.Future[Any]):
    """Another thread reads on, once, while its result is taken."""

    def __init__(self, overtake: Callable[[], object]) -> None:
        super().__init__()
        self._overtakes = iter([overtake])

    def result(self, timeout: float | None = None) -> Any:
        for overtake in self._overtakes:
            in_another_thread(overtake)
        return super().result(timeout)


@pytest.mark.parametrize("in_order", [True, False])
def test_threads_that_read_at_once_get_all_results(in_order: bool) -> None:  # noqa: FBT001 - a parameter of the case
    got: list[int] = []

    def read_on() -> None:
        with contextlib.suppress(multiprocessing.TimeoutError):  # while it is another's turn
            got.append(results.next(timeout=0))

    def hand_in(rows: Any) -> StandardFuture:
        future = OvertakenFuture(read_on)
        future.set_result([10 * row[0] for row in rows])
        return future

    results: ImapIterator[int] = ImapIterator(chunks([range(6)], 2), hand_in, 2, in_order=in_order)
    got += results
    assert sorted(got) == [0, 10, 20, 30, 40, 50]
