from __future__ import annotations

import concurrent.futures
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.array_legs import Leg
from distcomp.core.client_effects import Failed, Returned
from distcomp.errors import UnpicklableError, UsageError
from distcomp.futures import wake_all
from distcomp.kinds import MAX_COUNTER
from distcomp.payload import dump_call, dump_failure, pack_results
from distcomp.rows import Failure
from distcomp.task_arrays import TaskArray
from distcomp.waiting import as_completed, gather, wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.explanations import TaskExplanation
    from distcomp.handles import Sink

BAD = dump_failure(ValueError("bad"))


class LoneHost:
    """What an array needs of a client, without one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.patience_s = 10.0
        self.is_run = False
        self.stay = None
        self.inline: Any = None
        self.cancelled: list[tuple[Any, tuple[tuple[int, int], ...]]] = []
        self.dispensed: list[tuple[Any, tuple[tuple[int, int], ...]]] = []

    def check_process(self) -> None:
        """It is the process of its client."""

    def check_may_wait(self) -> None:
        """Every thread may."""

    def explain_wait(self) -> None:
        """Nobody asks."""

    def cancel_tasks(self, sink: Sink, spans: Any, *, pending_only: bool = False) -> None:
        (self.dispensed if pending_only else self.cancelled).append((sink, spans))


class World:
    """An array, its legs, and their outcomes by hand."""

    def __init__(self, tasks: int, order: Sequence[int] | None = None) -> None:
        self.host = LoneHost()
        self.legs: list[Leg] = []
        self.array: TaskArray[Any] = TaskArray(self.host, tasks, self.travel, in_order=order is None)
        self.array.begin(Leg(self.array, tasks, order))
        self.leg = self.array._legs[0]

    def travel(self, indexes: Sequence[int]) -> Leg:
        self.legs.append(Leg(self.array, len(indexes), indexes))
        return self.legs[-1]

    def tell(self, outcome: Returned | Failed, leg: Leg | None = None) -> None:
        woken: list[Any] = []
        with self.host.lock:
            (leg or self.leg).settle(outcome, woken)
        wake_all(woken)

    def give(self, start: int, *values: Any, leg: Leg | None = None) -> None:
        blob = pack_results([*values])[0].blob
        self.tell(Returned(1, start, start + len(values), start, blob), leg)

    def fail(self, start: int, stop: int | None = None, failure: Failure = BAD) -> None:
        self.tell(Failed(1, start, start + 1 if stop is None else stop, failure))


def later(world: World, start: int, *values: Any) -> threading.Thread:
    thread = threading.Thread(target=world.give, args=(start, *values))
    thread.start()
    return thread


def test_results_come_in_order_and_again() -> None:
    world = World(5)
    world.give(3, "d", "e")
    world.give(0, "a", "b", "c")
    assert list(world.array) == list("abcde")
    assert list(world.array) == list("abcde")
    assert (len(world.array), world.array.done_count, world.array.done()) == (5, 5, True)
    assert repr(world.array) == "<TaskArray of 5 tasks, 5 done>"


def test_iteration_waits_for_the_next_result() -> None:
    world = World(3)
    world.give(0, 0)
    iterator = iter(world.array)
    assert next(iterator) == 0
    threads = [later(world, 2, 2), later(world, 1, 1)]
    assert list(iterator) == [1, 2]
    for thread in threads:
        thread.join()


def test_an_array_of_nothing_is_done() -> None:
    array: TaskArray[Any] = TaskArray(LoneHost(), 0, lambda _: pytest.fail("nothing travels"))
    assert list(array) == []
    assert list(array.as_completed()) == []
    assert array.results() == []
    assert array.cancel() == 0
    assert array.retry() is array


def test_a_failure_is_raised_at_its_place() -> None:
    world = World(3)
    world.give(0, "a")
    world.fail(1)
    world.give(2, "c")
    iterator = iter(world.array)
    assert next(iterator) == "a"
    with pytest.raises(ValueError, match="bad"):
        next(iterator)
    assert world.array.results("skip") == ["a", "c"]
    first, error, third = world.array.results("return")
    assert (first, third) == ("a", "c")
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="bad"):
        world.array.results()
    with pytest.raises(ValueError, match="on_error"):
        world.array.results("ignore")  # type: ignore[call-overload]
    assert list(world.array.failures()) == [1]


def test_a_cancelled_task_raises_at_its_place() -> None:
    world = World(1)
    world.array.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        next(iter(world.array))
    assert isinstance(world.array.failures()[0], concurrent.futures.CancelledError)


def test_outcomes_count_once() -> None:
    world = World(4)
    world.give(1, "b")
    world.give(0, "x", "y", "z")
    assert world.array.done_count == 3
    world.give(3, "d")
    assert list(world.array) == ["x", "b", "z", "d"]
    assert world.leg.open_tasks <= 0


def test_futures_are_made_when_asked_for_and_stay_the_same() -> None:
    world = World(4)
    world.give(1, "b")
    late, early = world.array.futures[2], world.array.futures[1]
    assert (late.done(), early.done()) == (False, True)
    world.give(2, "c")
    assert [future.result() for future in world.array.futures[1:3]] == ["b", "c"]
    assert world.array.futures[-2] is late
    assert len(world.array.futures) == 4
    assert not world.array.futures[0].done()
    with pytest.raises(IndexError):
        world.array.futures[4]
    assert "TaskArray of 4" in repr(world.array.futures)


def test_a_future_hears_that_its_task_runs() -> None:
    world = World(3, order=[2, 1, 0])
    future = world.array.futures[2]
    with world.host.lock:
        world.leg.began((0, 1), [])
    assert future.running()


def test_futures_arrive_as_they_settle() -> None:
    world = World(3)
    world.give(2, "c")
    arriving = world.array.as_completed(timeout=60)
    assert next(arriving).result() == "c"
    thread = later(world, 0, "a", "b")
    assert [future.result() for future in arriving] == ["a", "b"]
    thread.join()
    waiting = World(1).array.as_completed(timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError, match="1 tasks"):
        next(waiting)


def test_an_array_stands_for_its_futures() -> None:
    world = World(3)
    world.give(0, 1, 2, 3)
    assert gather(world.array) == [1, 2, 3]  # type: ignore[arg-type]
    assert len(wait(world.array).done) == 3  # type: ignore[arg-type]
    assert len(list(as_completed(world.array))) == 3  # type: ignore[arg-type]


def test_tasks_may_travel_in_another_order() -> None:
    world = World(4, order=[3, 1, 0, 2])
    world.give(0, "d", "b", "a")
    world.fail(3)
    assert world.array.results("skip") == ["a", "b", "d"]
    assert list(world.array.failures()) == [2]
    assert world.array.futures[3].result() == "d"


def test_cancel_settles_all_that_is_open() -> None:
    world = World(4)
    world.give(1, "b")
    future = world.array.futures[3]
    future.add_done_callback(lambda _: None)
    assert world.array.cancel() == 3
    assert world.host.cancelled == [(world.leg, ())]
    assert future.cancelled()
    assert world.leg.ended
    assert world.array.done()
    assert world.array.cancel() == 0
    world.give(0, "late")
    assert world.array.results("skip") == ["b"]


def test_cancelling_one_future_cancels_that_task_where_it_travels() -> None:
    world = World(3, order=[2, 0, 1])
    assert world.array.futures[1].cancel()
    assert world.host.cancelled == [(world.leg, ((2, 3),))]
    assert world.array.done_count == 1
    world.give(0, "c", "a", "late")
    assert world.array.results("skip") == ["a", "c"]


def test_what_no_worker_has_is_cancelled_when_the_cluster_says_so() -> None:
    world = World(4)
    world.give(0, "a")
    future = world.array.futures[1]
    future.cancel_pending()
    assert world.host.dispensed == [(world.leg, ((1, 2),))]
    world.array.cancel_pending()
    assert world.host.dispensed[1:] == [(world.leg, ())]
    assert world.leg.ended
    assert world.host.cancelled == []
    assert (future.done(), world.array.done_count) == (False, 1)
    world.fail(1, 4, Failure("cancelled"))
    assert future.cancelled()
    future.cancel_pending()
    world.array.cancel_pending()
    assert len(world.host.dispensed) == 2


def test_one_waits_for_all_outcomes() -> None:
    world = World(2)
    world.give(0, 0)
    assert not world.array.wait(0.001)
    thread = later(world, 1, 1)
    assert world.array.wait()
    thread.join()


def test_results_can_be_had_within_a_time() -> None:
    world = World(3)
    world.give(0, "a", "b")
    results = world.array.iterate(timeout=0.01)
    assert [next(results), next(results)] == ["a", "b"]
    with pytest.raises(TimeoutError):
        next(results)


class Shy:
    """Can be referred to weakly."""


def test_results_are_let_go_of_as_they_are_given() -> None:
    world = World(3)
    world.give(0, Shy(), Shy(), Shy())
    for result in world.array:
        seen = weakref.ref(result)
        del result
        assert seen() is None


def test_retry_runs_again_what_failed() -> None:
    world = World(4)
    world.give(0, "a")
    world.fail(1, 3)
    world.give(3, "d")
    before = world.array.futures[1]
    assert world.array.retry() is world.array
    (leg,) = world.legs
    assert (leg.order, leg.tasks, world.array.done_count) == ([1, 2], 2, 2)
    world.give(0, "b", "c", leg=leg)
    assert list(world.array) == list("abcd")
    assert before.exception() is not None
    assert world.array.futures[1].result() == "b"
    assert [future.result() for future in world.array.as_completed()] == list("adbc")


def test_the_old_way_of_a_retried_task_says_nothing_more() -> None:
    world = World(2)
    world.array.cancel()
    world.array.retry()
    world.fail(0, MAX_COUNTER, Failure("cancelled"))
    assert world.array.done_count == 0
    world.give(0, "a", "b", leg=world.legs[0])
    assert list(world.array) == ["a", "b"]
    assert world.array.futures[1].cancel() is False


def test_a_retried_task_is_cancelled_where_it_travels_now() -> None:
    world = World(2)
    world.fail(1)
    world.array.retry()
    world.array.futures[1].cancel()
    assert world.host.cancelled == [(world.legs[0], ((0, 1),))]


def test_a_retry_that_is_refused_leaves_all_as_it_was() -> None:
    class Refusing(World):
        def travel(self, indexes: Sequence[int]) -> Leg:
            raise UsageError(f"the arguments of {len(indexes)} tasks are gone")

    world = Refusing(3)
    world.give(0, "a")
    world.fail(1, 3)
    with pytest.raises(UsageError, match="of 2 tasks"):
        world.array.retry()
    assert (world.array.done(), world.array.failed_count) == (True, 2)
    assert list(world.array.failures()) == [1, 2]


def test_what_is_cancelled_while_it_is_handed_in_again_does_not_run() -> None:
    class Cancelling(World):
        def travel(self, indexes: Sequence[int]) -> Leg:
            assert self.array.cancel() == len(indexes)  # as another thread may
            return super().travel(indexes)

    world = Cancelling(2)
    world.fail(0, 2)
    world.array.retry()
    (again,) = world.legs
    assert again.ended
    assert (again, ()) in world.host.cancelled


def test_a_task_is_explained_while_it_is_handed_in_again() -> None:
    class Explaining(World):
        def travel(self, indexes: Sequence[int]) -> Leg:
            told.append(self.array.futures[0].explain())  # as another thread may
            return super().travel(indexes)

    told: list[TaskExplanation] = []
    world = Explaining(2)
    world.fail(0, 2)
    world.array.retry()
    assert [each.state for each in told] == ["sending"]


def test_retry_ends_a_reading_of_what_arrives() -> None:
    world = World(2)
    world.fail(0)
    arriving = world.array.as_completed()
    next(arriving)
    world.array.retry()
    with pytest.raises(UsageError, match="retry"):
        next(arriving)


def test_a_leg_that_is_given_up_fails_what_never_left() -> None:
    world = World(4)
    world.give(0, "a")
    world.fail(1, MAX_COUNTER, Failure("scheduler_lost", text="gone"))
    assert world.array.done()
    assert world.leg.ended
    assert world.leg.open_tasks == 0


def test_a_failure_made_here_is_still_to_come_from_the_cluster() -> None:
    world = World(2)
    with world.host.lock:
        world.leg.settle_here(Failed(0, 1, 2, Failure("too_large", text="too large")), [])
    assert (world.leg.open_tasks, world.array.done_count) == (2, 1)
    world.fail(1, failure=Failure("cancelled"))
    assert "too large" in str(world.array.failures()[1])


def most_fragments(world: World, order: list[int]) -> int:
    """How many entries the longest list has in the midst of which outcomes are taken in."""
    most = 0
    for start in range(0, len(order), 10):
        world.give(start, *order[start : start + 10])
        lists = [world.array._starts, *gc.get_referents(world.array._open)]
        most = max(most, *(len(each) for each in lists if isinstance(each, list)))
    assert list(world.array) == list(range(len(order)))
    return most


def test_outcomes_in_any_order_move_no_others() -> None:
    """In a list of all that is open, each would move what stands behind it: minutes for a million."""
    shuffled = sorted(range(1000), key=lambda index: pow(index, 7, 1009))
    assert most_fragments(World(1000, shuffled), shuffled) == 0
    world = World(1000)
    for index in range(0, 1000, 2):
        world.give(index, index)
    assert max(len(each) for each in gc.get_referents(world.array._open) if isinstance(each, list)) == 500


def test_handles_stay_in_their_process() -> None:
    world = World(1)
    for handle, words in [
        (world.array, r"argument 1: a TaskArray cannot leave its process; pass its results\(\)"),
        (
            world.array.futures[0],
            r"argument 1: a Future cannot leave its process; pass its result\(\)",
        ),
    ]:
        with pytest.raises(UnpicklableError, match=words):
            dump_call(({"in": handle},), {}, shares_path=True)
