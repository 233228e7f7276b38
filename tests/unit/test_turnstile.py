from __future__ import annotations

import concurrent.futures
import time
from collections import deque
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, cast

import pytest

from distcomp.errors import ClientClosedError, PayloadTooLargeError, RemoteTracebackError, UnpicklableError
from distcomp.turnstile import ChunkedTasks, HeldFuture, Turnstile, as_standard, chunks, read_chunks

if TYPE_CHECKING:
    from distcomp.client import Client


class PlainTask(concurrent.futures.Future[Any]):
    """What a client gives for a call, here settled by hand."""

    def failed(self) -> bool:
        return self.exception() is not None


class Desk:
    """A client whose tasks end by hand."""

    def __init__(self) -> None:
        self.tasks: list[PlainTask] = []
        self.calls: list[Any] = []
        self.error: Exception | None = None

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> PlainTask:
        if self.error is not None:
            raise self.error
        self.calls.append((function, args, kwargs))
        self.tasks.append(PlainTask())
        return self.tasks[-1]


def turnstile(most: int) -> tuple[Turnstile, Desk]:
    desk = Desk()
    return Turnstile(cast("Client", desk), most), desk


def submit(gate: Turnstile, *args: Any) -> HeldFuture[Any]:
    return gate.submit(abs, args, {})


def test_no_more_calls_than_allowed_are_under_way() -> None:
    gate, desk = turnstile(2)
    futures = [submit(gate, number) for number in range(4)]
    assert [args for _, args, _ in desk.calls] == [(0,), (1,)]
    assert [future.running() for future in futures] == [True, True, False, False]
    desk.tasks[1].set_result("one")
    assert len(desk.calls) == 3
    assert futures[1].result() == "one"
    assert futures[1].exception() is None
    assert not futures[1].failed()
    desk.tasks[0].set_exception(KeyError("k"))
    assert len(desk.calls) == 4
    assert futures[0].failed()
    with pytest.raises(KeyError):
        futures[0].result()
    assert isinstance(futures[0].exception(), KeyError)
    assert not futures[3].failed()
    with pytest.raises(concurrent.futures.TimeoutError):
        futures[3].exception(timeout=0)


def test_a_call_cancelled_before_its_turn_is_passed_over() -> None:
    gate, desk = turnstile(1)
    first, second, third = (submit(gate, number) for number in range(3))
    assert second.cancel()
    assert not first.cancel()
    desk.tasks[0].set_result(0)
    assert [args for _, args, _ in desk.calls] == [(0,), (2,)]
    assert concurrent.futures.wait([second]).done == {second}
    assert not second.failed()
    assert not third.done()


def test_what_waits_can_be_cancelled_and_what_is_under_way_ended() -> None:
    gate, desk = turnstile(1)
    first, second, third = (submit(gate, number) for number in range(3))
    second.cancel()
    gate.cancel_waiting()
    assert [each.cancelled() for each in (first, second, third)] == [False, True, True]
    gate.cancel()
    assert desk.tasks[0].cancelled()
    assert first.failed()
    with pytest.raises(CancelledError):
        first.result()
    assert isinstance(first.exception(), CancelledError)


def test_what_is_being_handed_in_as_all_is_cancelled_ends_too() -> None:
    class Ending(Desk):
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> PlainTask:
            task = super().submit(function, *args, **kwargs)
            gate.cancel()  # by another thread
            return task

    desk = Ending()
    gate = Turnstile(cast("Client", desk), 1)
    first, second = submit(gate, 1), submit(gate, 2)
    assert [task.cancelled() for task in desk.tasks] == [True, True]
    for future in (first, second):
        with pytest.raises(CancelledError):
            future.result(timeout=0)


def test_what_cannot_be_handed_in_fails_and_gives_its_place_back() -> None:
    gate, desk = turnstile(1)
    for error in (PayloadTooLargeError("too large"), ClientClosedError("closed")):
        desk.error = error
        with pytest.raises(type(error)):
            submit(gate).result()
    desk.error = None
    submit(gate)
    assert len(desk.calls) == 1


def test_what_could_not_be_pickled_is_told_as_the_standard_library_does() -> None:
    ours = UnpicklableError("argument 1: no")
    assert as_standard(ours) is ours
    ours.__cause__ = ValueError("no")
    standard = as_standard(ours)
    assert type(standard) is ValueError
    assert str(standard.__cause__) == "argument 1: no"
    remote, far = UnpicklableError("far"), RemoteTracebackError("there")
    remote.__cause__, far.__context__ = far, KeyError("k")
    assert type(as_standard(remote)) is KeyError
    other = ValueError("other")
    assert as_standard(other) is other


def settled(*values: Any) -> concurrent.futures.Future[Any]:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future.set_result(list(values))
    return future


def test_arguments_are_cut_into_chunks() -> None:
    assert list(chunks([range(5), "abcdefg"], 2)) == [((0, "a"), (1, "b")), ((2, "c"), (3, "d")), ((4, "e"),)]


def test_chunks_are_read_in_order_and_refilled() -> None:
    more = [settled(3), settled(4, 5)]
    futures = deque([settled(1, 2)])

    def refill() -> None:
        if more:
            futures.append(more.pop(0))

    assert list(read_chunks(futures, None, refill)) == [1, 2, 3, 4, 5]


def test_what_is_not_read_is_cancelled() -> None:
    late: concurrent.futures.Future[Any] = concurrent.futures.Future()
    tasks = ChunkedTasks([settled(1), late])
    assert not tasks.done()
    assert not tasks.wait(0)
    results = tasks.iterate(timeout=0.01)
    assert next(results) == 1
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    assert late.cancelled()
    other: concurrent.futures.Future[Any] = concurrent.futures.Future()
    tasks = ChunkedTasks([settled(1), other])
    tasks.cancel()
    assert other.cancelled()
    assert tasks.done()
    with pytest.raises(concurrent.futures.TimeoutError):
        list(read_chunks(deque([concurrent.futures.Future()]), time.monotonic()))
