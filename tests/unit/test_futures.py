from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from overtaking import in_another_thread

from distcomp.core.client_effects import Failed, Returned
from distcomp.errors import (
    BlockingCallError,
    PayloadTooLargeError,
    SchedulerLostError,
    SubmitRefusedError,
    TaskLostError,
)
from distcomp.future_groups import FutureGroup
from distcomp.futures import wake_all
from distcomp.handles import ResultRun
from distcomp.payload import dump_failure, pack_results
from distcomp.rows import Failure
from distcomp.waiting import as_completed, gather, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distcomp.futures import Future
    from distcomp.handles import Sink


DEADLINE_S = 60.0


class PlainHost:
    """What handles need of a client, without one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.patience_s = 0.05
        self.is_run = False
        self.stay = None
        self.inline: Any = None
        self.cancelled: list[tuple[Any, tuple[tuple[int, int], ...]]] = []
        self.dispensed: list[tuple[Any, tuple[tuple[int, int], ...]]] = []
        self.explained = threading.Event()
        self.waits = threading.Event()
        self.loop_thread = 0

    def check_process(self) -> None:
        """It is the process of its client."""

    def check_may_wait(self) -> None:
        if threading.get_ident() == self.loop_thread:
            raise BlockingCallError("here")
        self.waits.set()

    def explain_wait(self) -> None:
        self.explained.set()

    def cancel_tasks(self, sink: Sink, spans: Any, *, pending_only: bool = False) -> None:
        (self.dispensed if pending_only else self.cancelled).append((sink, spans))


class Group:
    """Some futures, and their outcomes by hand."""

    def __init__(self, size: int) -> None:
        self.host = PlainHost()
        self.group = FutureGroup(self.host)
        self.futures: list[Future[Any]] = [self.group.add() for _ in range(size)]
        self.group.open_tasks = size

    def tell(self, outcome: Returned | Failed) -> None:
        woken: list[Any] = []
        with self.host.lock:
            self.group.settle(outcome, woken)
        wake_all(woken)

    def give(self, start: int, *values: Any) -> None:
        blob = pack_results([*values])[0].blob
        self.tell(Returned(1, start, start + len(values), start, blob))

    def fail(self, index: int, failure: Failure) -> None:
        self.tell(Failed(1, index, index + 1, failure))


def later(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_results_of_a_run_go_to_their_futures() -> None:
    group = Group(4)
    group.give(1, "a", "b")
    assert [future.done() for future in group.futures] == [False, True, True, False]
    assert group.futures[2].result() == "b"
    assert group.futures[2].result() == "b"
    assert group.futures[1].exception() is None
    assert group.group.open_tasks == 2


def test_part_of_a_run_belongs_to_its_own_indexes() -> None:
    group = Group(4)
    blob = pack_results(["a", "b", "c"])[0].blob
    group.tell(Returned(1, 2, 3, 1, blob))
    assert group.futures[2].result() == "b"


def test_a_failure_is_raised_as_its_own_type_each_time() -> None:
    group = Group(1)
    group.fail(0, dump_failure(KeyError("k")))
    for _ in range(2):
        with pytest.raises(KeyError, match="k"):
            group.futures[0].result()
    assert group.futures[0].exception() is group.futures[0].exception()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("scheduler_lost", SchedulerLostError),
        ("refused", SubmitRefusedError),
        ("too_large", PayloadTooLargeError),
        ("lost", TaskLostError),
    ],
)
def test_failures_have_errors_by_kind(kind: str, error: type[Exception]) -> None:
    group = Group(1)
    group.fail(0, Failure(kind, text="why"))
    with pytest.raises(error, match="why"):
        group.futures[0].result()


def test_a_result_that_cannot_be_unpacked_is_that_futures_failure() -> None:
    group = Group(1)
    group.tell(Returned(1, 0, 1, 0, b"not a pickle"))
    with pytest.raises(Exception, match="result"):
        group.futures[0].result()
    assert group.futures[0].done()


def test_result_waits_and_times_out() -> None:
    group = Group(1)
    with pytest.raises(concurrent.futures.TimeoutError):
        group.futures[0].result(timeout=0.01)
    thread = later(lambda: group.give(0, 5))
    assert group.futures[0].result(timeout=DEADLINE_S) == 5
    thread.join()


def test_cancel_settles_at_once_and_tells_the_cluster_once() -> None:
    group = Group(2)
    future = group.futures[1]
    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()
    assert group.host.cancelled == [(group.group, ((1, 2),))]
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception()
    group.give(0, 1, 2)
    assert future.cancelled()


def test_cancel_comes_too_late_for_what_is_done() -> None:
    group = Group(1)
    group.give(0, 1)
    assert not group.futures[0].cancel()
    assert group.host.cancelled == []


def test_a_future_can_be_cancelled_unless_a_worker_has_its_task() -> None:
    group = Group(1)
    (future,) = group.futures
    future.cancel_pending()
    assert group.host.dispensed == [(group.group, ((0, 1),))]
    assert group.host.cancelled == []
    assert not future.done()


def test_a_future_tells_that_its_task_has_failed() -> None:
    group = Group(3)
    returned, failed, cancelled = group.futures
    group.give(0, 7)
    group.fail(1, dump_failure(KeyError("k")))
    cancelled.cancel()
    assert [each.failed() for each in (returned, failed, cancelled)] == [False, True, False]
    returned.result()
    failed.exception()
    assert [each.failed() for each in (returned, failed)] == [False, True]


def test_cancel_wakes_who_waits() -> None:
    group = Group(1)
    outcome: list[BaseException | None] = []

    def waits() -> None:
        try:
            group.futures[0].result(DEADLINE_S)
        except concurrent.futures.CancelledError as error:
            outcome.append(error)

    thread = later(waits)
    group.futures[0].cancel()
    thread.join()
    assert len(outcome) == 1


def test_a_cancel_from_elsewhere_reads_as_cancelled() -> None:
    group = Group(1)
    group.fail(0, Failure("cancelled"))
    assert group.futures[0].cancelled()


def test_running_is_what_was_last_said() -> None:
    group = Group(3)
    group.futures[1].add_done_callback(lambda _: None)
    woken: list[Any] = []
    with group.host.lock:
        group.group.began((0, 1, 9), woken)
    wake_all(woken)
    assert [future.running() for future in group.futures] == [True, True, False]
    group.give(0, 1, 2)
    assert not group.futures[0].running()
    assert [repr(future) for future in group.futures[1:]] == ["<Future finished>", "<Future pending>"]


def test_callbacks_are_called_once_each_even_if_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    group = Group(1)
    seen: list[str] = []
    future = group.futures[0]
    future.add_done_callback(lambda _: seen.append("first"))
    future.add_done_callback(lambda _: 1 // 0)
    future.add_done_callback(lambda each: seen.append(each.result()))
    group.give(0, "x")
    future.add_done_callback(lambda _: seen.append("late"))
    assert seen == ["first", "x", "late"]
    assert "failed" in caplog.text


def test_the_standard_library_waits_for_them() -> None:
    group = Group(3)
    own: concurrent.futures.Future[int] = concurrent.futures.Future()
    group.give(0, 1)
    own.set_result(2)
    mixed = [*group.futures[:2], own]
    done, not_done = concurrent.futures.wait(mixed, timeout=0.01)
    assert (len(done), not_done) == (2, {group.futures[1]})
    thread = later(lambda: (group.give(1, 3), group.futures[2].cancel()))
    completed = concurrent.futures.as_completed(mixed, DEADLINE_S)
    assert sorted(future.result() for future in completed) == [1, 2, 3]
    thread.join()
    failing = Group(2)
    thread = later(lambda: failing.fail(1, dump_failure(ValueError("v"))))
    done, not_done = concurrent.futures.wait(failing.futures, DEADLINE_S, "FIRST_EXCEPTION")
    assert done == {failing.futures[1]}
    thread.join()
    cancelling = Group(1)
    thread = later(cancelling.futures[0].cancel)
    assert concurrent.futures.wait(cancelling.futures, DEADLINE_S).done == set(cancelling.futures)
    thread.join()


def test_only_the_client_settles_them() -> None:
    future = Group(1).futures[0]
    for settle in (
        future.set_running_or_notify_cancel,
        lambda: future.set_result(1),
        lambda: future.set_exception(ValueError()),
    ):
        with pytest.raises(concurrent.futures.InvalidStateError):
            settle()


def test_asyncio_code_awaits_them() -> None:
    group = Group(3)

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, group.give, 0, "a", "b")
        first = await group.futures[0]
        second = await asyncio.wrap_future(group.futures[1])
        waiting = asyncio.ensure_future(_await(group.futures[2]))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        return [first, second]

    assert asyncio.run(main()) == ["a", "b"]
    assert group.futures[2].cancelled()


async def _await(future: Future[Any]) -> Any:
    return await future


def test_blocking_on_the_loops_thread_is_an_error() -> None:
    group = Group(2)
    group.host.loop_thread = threading.get_ident()
    for blocks in (
        group.futures[0].result,
        lambda: wait(group.futures),
        lambda: list(as_completed(group.futures)),
        lambda: gather(group.futures),
    ):
        with pytest.raises(BlockingCallError):
            blocks()
    group.give(0, 1, 2)
    assert gather(group.futures) == [1, 2]


def test_several_threads_may_wait_for_one_result() -> None:
    group = Group(1)
    group.host.patience_s = DEADLINE_S
    future = group.futures[0]
    heard: list[int] = []
    threads = [later(lambda: heard.append(future.result(DEADLINE_S))) for _ in range(3)]
    assert group.host.waits.wait(DEADLINE_S)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.01)
    group.give(0, 5)
    for thread in threads:
        thread.join()
    assert heard == [5, 5, 5]


def test_a_result_and_a_callback_may_be_waited_for_together() -> None:
    group = Group(1)
    group.host.patience_s = DEADLINE_S
    future = group.futures[0]
    called = threading.Event()

    def give() -> None:
        group.host.waits.wait(DEADLINE_S)
        future.add_done_callback(lambda _: called.set())
        group.give(0, 5)

    thread = later(give)
    assert future.result() == 5
    assert called.wait(DEADLINE_S)
    thread.join()
    assert future._bell is not None
    assert not future._bell.locked()


def test_wait_gives_both_sets() -> None:
    group = Group(2)
    group.give(0, 1)
    done, not_done = wait(group.futures, timeout=0.01)
    assert (done, not_done) == ({group.futures[0]}, {group.futures[1]})
    assert wait(group.futures, return_when="FIRST_COMPLETED").done == {group.futures[0]}
    group.fail(1, dump_failure(ValueError("v")))
    assert len(wait(group.futures, return_when="FIRST_EXCEPTION").done) == 2
    assert wait([]).done == set()


def test_wait_ends_with_the_first_exception() -> None:
    group = Group(2)
    group.host.patience_s = DEADLINE_S
    thread = later(lambda: group.fail(0, dump_failure(ValueError("v"))))
    assert wait(group.futures, DEADLINE_S, "FIRST_EXCEPTION").not_done == {group.futures[1]}
    thread.join()


def test_as_completed_gives_futures_as_they_settle() -> None:
    group = Group(3)
    group.give(2, "c")
    given = as_completed(group.futures, timeout=DEADLINE_S)
    assert next(given) is group.futures[2]
    group.give(0, "a", "b")
    assert {future.result() for future in given} == {"a", "b"}
    with pytest.raises(concurrent.futures.TimeoutError, match="1 futures"):
        list(as_completed(Group(1).futures, timeout=0.01))


def test_gather_raises_the_first_failure_in_order() -> None:
    group = Group(3)
    group.give(0, 1)
    group.fail(2, dump_failure(KeyError("second")))
    group.fail(1, dump_failure(ValueError("first")))
    with pytest.raises(ValueError, match="first"):
        gather(group.futures)


@pytest.mark.parametrize("blocks", [lambda f: f[0].result(), wait, lambda f: list(as_completed(f)), gather])
def test_waiting_long_asks_for_the_reason(blocks: Callable[[list[Any]], object]) -> None:
    group = Group(1)

    def give() -> None:
        group.host.explained.wait(DEADLINE_S)
        group.give(0, 1)

    thread = later(give)
    blocks(group.futures)
    thread.join()
    assert group.host.explained.is_set()


@pytest.mark.parametrize("blocks", [lambda f: f[0].result(), wait, lambda f: list(as_completed(f)), gather])
def test_ctrl_c_ends_a_wait_soon_and_cancels_what_was_waited_for(
    blocks: Callable[[list[Any]], object],
) -> None:
    group = Group(2)
    group.host.patience_s = 5 * DEADLINE_S
    sent_at: list[float] = []

    def interrupt() -> None:
        group.host.waits.wait()
        sent_at.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = later(interrupt)
    with pytest.raises(KeyboardInterrupt):
        blocks(group.futures)
    assert time.monotonic() - sent_at[0] < DEADLINE_S, "it does not wait for what patience there is"
    thread.join()
    assert group.futures[0].cancelled()


class OvertakenRun(ResultRun):
    """Another thread takes a neighbour's result, once, right before this one is unpacked."""

    __slots__ = ("_overtakes",)

    def __init__(self, base: int, blob: bytes) -> None:
        super().__init__(base, blob)
        self._overtakes = iter([lambda: self.value(base + 1)])

    def _open(self) -> Sequence[Any]:
        for overtake in self._overtakes:
            in_another_thread(overtake)
        return super()._open()


def test_neighbours_are_unpacked_by_two_threads_at_once() -> None:
    (packed,) = pack_results(["a", "b"])
    assert OvertakenRun(0, packed.blob).value(0) == "a"
    assert list(OvertakenRun(0, packed.blob).values(0, 2)) == ["a", "b"]
