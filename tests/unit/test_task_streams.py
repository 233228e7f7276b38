from __future__ import annotations

import concurrent.futures
import gc
import itertools
import threading
import tracemalloc
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.config import ClientSettings
from distcomp.core.client_effects import Failed, Returned
from distcomp.errors import ClientClosedError, SchedulerLostError, UnpicklableError, UsageError
from distcomp.ids import FunctionId
from distcomp.kinds import MAX_COUNTER
from distcomp.payload import dump_call, dump_failure, open_chunk, pack_results
from distcomp.rows import Failure, TaskOptions
from distcomp.stream_source import StreamLeg, StreamSource
from distcomp.task_streams import TaskStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from distcomp.feeder import Wanted
    from distcomp.handles import Sink

BAD = dump_failure(ValueError("bad"))
CLUSTER_LOST = Failure("scheduler_lost", text="gone")


class EchoingCluster:
    """A client and its cluster: what is handed in comes back at once, or when `answer` is called.

    A task returns its arguments, one by itself, several as a tuple; the argument "bad" fails.
    """

    def __init__(self, *, at_once: bool = True, **settings: int) -> None:
        self.lock = threading.Lock()
        self.sinks: dict[int, Sink] = {}
        self.settings = ClientSettings(**settings)  # type: ignore[arg-type]  # all of them are numbers
        self.shares_path = True
        self.patience_s = 10.0
        self.is_run = False
        self.inline: Any = None
        self.stay = None
        self.stay = None
        self.max_payload_bytes = 1 << 20
        self.at_once = at_once
        self.closed = False
        self.has_room = True
        self.waited_for_room = 0
        self.handed_in = 0
        self.through = False
        self.cancelled: list[Any] = []
        self.waiting: list[tuple[int, list[Any]]] = []

    # --- as a client ------------------------------------------------------------------------------

    def post(self, action: Callable[[Any], None]) -> None:
        action(self)

    def check_usable(self) -> None:
        if self.closed:
            raise ClientClosedError("the client is closed")

    def check_process(self) -> None:
        """It is the process of its client."""

    def check_may_wait(self) -> None:
        """Every thread may."""

    def explain_wait(self) -> None:
        """Nobody asks."""

    def make_room(self, leg: Wanted, tasks: int, size_bytes: int, *, waits: bool = True) -> bool:
        assert tasks
        assert size_bytes
        assert not waits
        return self.has_room and not leg.ended

    def wait_for_room(self, tasks: int, size_bytes: int) -> None:
        assert tasks
        assert size_bytes
        self.has_room = True
        self.waited_for_room += 1

    def cancel_tasks(
        self, sink: Sink, spans: tuple[tuple[int, int], ...], *, pending_only: bool = False
    ) -> None:
        assert not self.lock.locked()
        self.cancelled.append((sink.counter, spans, pending_only))
        if not spans and not pending_only and sink.counter in self.sinks:
            failure = Failure("cancelled")
            self.tell(Failed(1, 0, MAX_COUNTER, failure))

    # --- as its machine ---------------------------------------------------------------------------

    def submit(self, *_: Any) -> int:
        return 1

    def extend(self, counter: int, tasks: int, chunk: bytes, *, last: bool) -> None:
        self.through = last
        if not tasks or not counter:
            return
        rows = [
            args[0] if len(args) == 1 else tuple(args)
            for args, _ in open_chunk(chunk).calls(0, tasks)
            if args
        ]
        self.waiting.append((self.handed_in, rows))
        self.handed_in += tasks
        if self.at_once:
            self.answer()

    def answer(self, place: int = 0) -> None:
        """Give the outcomes of a part that waits for them."""
        start, rows = self.waiting.pop(place)
        if rows and "bad" not in rows:
            self.tell(Returned(1, start, start + len(rows), start, pack_results(rows)[0].blob))
            return
        for index, row in enumerate(rows, start):
            if row == "bad":
                self.tell(Failed(1, index, index + 1, BAD))
            else:
                self.tell(Returned(1, index, index + 1, index, pack_results([row])[0].blob))

    def tell(self, outcome: Returned | Failed) -> None:
        sink = self.sinks.get(1)
        if sink is not None:
            with self.lock:
                sink.settle(outcome, [])
            if sink.open_tasks <= 0:
                del self.sinks[1]

    def stream(self, *iterables: Iterable[Any]) -> TaskStream[Any]:
        leg = StreamLeg(self)
        return TaskStream(
            StreamSource(self, leg, (FunctionId(b"f" * 32), "f", b""), TaskOptions(), iterables), leg
        )


@pytest.fixture(autouse=True)
def _parts_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long drawing takes."""
    monkeypatch.setattr("distcomp.stream_source.DRAW_S", 600.0)


def some(*items: Any) -> Iterator[Any]:
    yield from items


def broken(*items: Any) -> Iterator[Any]:
    yield from items
    raise OSError("the disk is gone")


def test_results_come_in_order_and_once() -> None:
    cluster = EchoingCluster()
    stream = cluster.stream(some(*range(10_000)))
    assert (next(stream), next(iter(stream))) == (0, 1)
    assert list(stream) == list(range(2, 10_000))
    assert list(stream) == []
    assert stream.done_count == 10_000
    assert repr(stream) == "<TaskStream, 10000 results read, 0 tasks under way>"
    assert cluster.through
    assert not cluster.sinks
    assert not cluster.cancelled


def test_order_is_kept_whatever_comes_first() -> None:
    cluster = EchoingCluster(at_once=False)
    stream = cluster.stream(some(*range(3)))
    reader = concurrent.futures.ThreadPoolExecutor(1)
    first = reader.submit(next, stream)
    while len(cluster.waiting) < 2:
        assert not first.done()
    cluster.answer(1)
    assert not first.done()
    cluster.answer(0)
    assert [first.result(60), *stream] == [0, 1, 2]
    reader.shutdown()


def test_nothing_and_several_iterables() -> None:
    cluster = EchoingCluster()
    assert list(cluster.stream(some())) == []
    assert not cluster.sinks
    kept = [1, 2, 3]
    stream = cluster.stream(kept, itertools.count(7), itertools.repeat("x"))
    kept.clear()
    assert list(stream) == [(1, 7, "x"), (2, 8, "x"), (3, 9, "x")]


def test_it_has_no_length_and_no_futures() -> None:
    stream = EchoingCluster().stream(some(1))
    with pytest.raises(TypeError, match="len"):
        len(stream)  # type: ignore[arg-type]  # this is what is tested
    with pytest.raises(TypeError, match="as_completed"):
        stream.futures  # noqa: B018 - it raises
    with pytest.raises(UnpicklableError):
        dump_call((stream,), {}, shares_path=True)
    assert list(stream) == [1]


def test_a_failure_is_raised_at_its_place_and_ends_the_stream() -> None:
    cluster = EchoingCluster()
    stream = cluster.stream(itertools.chain([1, "bad"], itertools.count()))
    assert next(stream) == 1
    with pytest.raises(ValueError, match="bad"):
        next(stream)
    assert list(stream) == []
    assert cluster.cancelled == [(1, (), False)]
    assert not cluster.sinks


def test_results_skips_or_returns_failures() -> None:
    assert EchoingCluster().stream(some(1, "bad", 3)).results("skip") == [1, 3]
    first, error, third = EchoingCluster().stream(some(1, "bad", 3)).results("return")
    assert (first, third) == (1, 3)
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="bad"):
        EchoingCluster().stream(some(1, "bad", 3)).results()
    stream = EchoingCluster().stream(some(1, 2))
    assert next(stream) == 1
    assert stream.results() == [2]
    with pytest.raises(ValueError, match="on_error"):
        stream.results("ignore")  # type: ignore[call-overload]  # this is what is tested


def test_as_completed_gives_what_comes_first() -> None:
    cluster = EchoingCluster(at_once=False)
    stream = cluster.stream(some("bad", 1, 2))
    futures = stream.as_completed()
    reader = concurrent.futures.ThreadPoolExecutor(1)
    taken = reader.submit(next, futures)
    while len(cluster.waiting) < 2:
        assert not taken.done()
    cluster.answer(1)
    rest = reader.submit(list, futures)
    assert taken.result(60).result(0) in (1, 2)
    while cluster.waiting:
        cluster.answer()
    failed = [each for each in rest.result(60) if each.exception() is not None]
    assert len(failed) == 1
    assert len(rest.result()) == 2
    reader.shutdown()
    with pytest.raises(UsageError, match="once"):
        next(stream)
    with pytest.raises(UsageError, match="once"):
        stream.as_completed()


def test_as_completed_gives_up_in_time_and_cancels() -> None:
    cluster = EchoingCluster(at_once=False)
    with pytest.raises(concurrent.futures.TimeoutError, match="no outcome"):
        next(cluster.stream(itertools.count()).as_completed(0.01))
    assert cluster.cancelled == [(1, (), False)]


def test_an_iterable_that_breaks_is_raised_behind_what_it_gave() -> None:
    cluster = EchoingCluster()
    stream = cluster.stream(broken(1, 2))
    assert (next(stream), next(stream)) == (1, 2)
    with pytest.raises(OSError, match="disk"):
        next(stream)
    with pytest.raises(OSError, match="disk"):
        list(cluster.stream(broken()).as_completed())


@pytest.mark.parametrize("way", ["close", "with", "garbage", "cycle"])
def test_leaving_cancels_the_rest(way: str) -> None:
    cluster = EchoingCluster(at_once=False)
    cluster.at_once = True
    stream: TaskStream[int] | None = cluster.stream(itertools.count())
    assert stream is not None
    if way == "with":
        with stream:
            assert next(stream) == 0
    elif way == "close":
        assert next(stream) == 0
        stream.close()
        stream.close()
        assert list(stream) == []
    else:
        for number in stream:
            if number == 100:
                break
        ring: list[Any] = [stream]
        if way == "cycle":
            ring.append(ring)
        del stream, ring
        gc.collect()
    assert cluster.cancelled == [(1, (), False)]
    assert not cluster.sinks


def test_a_stream_that_was_never_read_draws_nothing() -> None:
    cluster = EchoingCluster()
    with cluster.stream(broken()) as stream:
        assert not cluster.handed_in
    assert list(stream) == []
    stream = cluster.stream(some(1))
    stream.close()
    assert list(stream.as_completed()) == []
    assert not cluster.cancelled


def test_garbage_collection_may_come_while_the_lock_is_held() -> None:
    cluster = EchoingCluster()
    stream = cluster.stream(itertools.count())
    assert next(stream) == 0
    leg, posted = stream._leg, []
    cluster.cancel_tasks = lambda *args, **_: posted.append(args)  # type: ignore[method-assign]
    with cluster.lock:
        del stream
    assert leg.left
    assert posted == [(leg, ())]


def test_what_was_cancelled_can_be_read_as_far_as_it_is_here() -> None:
    cluster = EchoingCluster()
    stream = cluster.stream(itertools.count())
    assert next(stream) == 0
    handed_in = cluster.handed_in
    assert stream.cancel() == 0
    assert stream.cancel() == 0
    got = [0]
    with pytest.raises(CancelledError):
        got.extend(stream)
    assert got[0] == 0
    assert cluster.handed_in == handed_in
    slow = EchoingCluster(at_once=False, window_tasks=3)
    stream = slow.stream(itertools.count())
    with pytest.raises(concurrent.futures.TimeoutError):
        next(stream.as_completed(0.01))
    assert stream.cancel() == 0


def test_cancel_wakes_the_reader() -> None:
    cluster = EchoingCluster(at_once=False, window_tasks=5)
    stream = cluster.stream(itertools.count())
    reader = concurrent.futures.ThreadPoolExecutor(1)
    waits = reader.submit(next, stream)
    while stream._leg._ready is None:
        assert not waits.done()
    assert stream.cancel() == 5
    with pytest.raises(CancelledError):
        waits.result(60)
    other = EchoingCluster(at_once=False, window_tasks=5)
    stream = other.stream(itertools.count())
    waits = reader.submit(next, stream)
    while stream._leg._ready is None:
        assert not waits.done()
    stream.close()
    with pytest.raises(CancelledError):
        waits.result(60)
    reader.shutdown()


def test_what_no_worker_has_can_be_cancelled_alone() -> None:
    cluster = EchoingCluster()
    stream = cluster.stream(itertools.count())
    assert next(stream) == 0
    stream.cancel_pending()
    assert cluster.cancelled == [(1, (), True)]
    with pytest.raises(CancelledError):
        list(stream)


def test_the_reader_hears_of_a_lost_cluster_and_a_closed_client() -> None:
    cluster = EchoingCluster()
    stream = cluster.stream(itertools.count())
    assert next(stream) == 0
    cluster.tell(Failed(1, cluster.handed_in, MAX_COUNTER, CLUSTER_LOST))
    with pytest.raises(SchedulerLostError):
        list(stream)
    cluster = EchoingCluster()
    stream = cluster.stream(itertools.count())
    assert next(stream) == 0
    cluster.closed = True
    with pytest.raises(ClientClosedError):
        list(stream)


@pytest.mark.parametrize("window", [1, 10, 5000])
def test_no_more_than_a_window_is_ahead(window: int) -> None:
    cluster = EchoingCluster(at_once=False, window_tasks=window)
    stream = cluster.stream(itertools.count())
    with pytest.raises(concurrent.futures.TimeoutError):
        next(stream.as_completed(0.2))
    assert cluster.handed_in == window
    quick = EchoingCluster(window_tasks=window)
    stream = quick.stream(itertools.count())
    for count, _ in zip(range(1, 4 * window + 1000), stream, strict=False):
        assert quick.handed_in - count <= window
    stream.close()


def test_the_window_counts_bytes_of_arguments_and_results() -> None:
    large = EchoingCluster(at_once=False, window_bytes=1 << 20)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(large.stream(bytes(100_000) for _ in itertools.count()).as_completed(0.05))
    assert 5 <= large.handed_in <= 11
    results = EchoingCluster(window_bytes=1 << 20)
    stream = results.stream(bytes(100_000) for _ in itertools.count())
    for count, _ in zip(range(1, 50), stream, strict=False):
        assert results.handed_in - count <= 11
    stream.close()


def test_a_client_without_room_is_waited_for_only_if_nothing_is_under_way() -> None:
    cluster = EchoingCluster()
    cluster.has_room = False
    assert list(cluster.stream(some(1, 2))) == [1, 2]
    assert cluster.waited_for_room == 1
    slow = EchoingCluster(at_once=False)
    stream = slow.stream(itertools.count())
    reader = concurrent.futures.ThreadPoolExecutor(1)
    first = reader.submit(next, stream)
    while not slow.waiting:
        assert not first.done()
    slow.has_room = False
    while stream._leg._ready is None:
        assert not first.done()
    while slow.waiting:
        slow.answer()
    assert first.result(60) == 0
    assert not slow.waited_for_room
    reader.shutdown()
    stream.close()


def test_arguments_that_are_too_large_fail_their_task_alone() -> None:
    cluster = EchoingCluster()
    cluster.max_payload_bytes = 1000
    small, error, last = cluster.stream(some(b"a", bytes(2000), b"c")).results("return")
    assert (small, last) == (b"a", b"c")
    assert "max_payload_bytes" in str(error)
    assert (1, ((1, 2),), False) in cluster.cancelled


def test_what_was_read_is_let_go_of() -> None:
    cluster = EchoingCluster()
    stream = cluster.stream(itertools.count())
    for _ in zip(range(10_000), stream, strict=False):
        pass
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in zip(range(30_000), stream, strict=False):
            pass
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 500_000
    finally:
        tracemalloc.stop()
    stream.close()


def test_a_stream_that_is_closed_while_another_thread_hands_in_ends_there() -> None:
    class Closing(EchoingCluster):
        def make_room(self, leg: Wanted, tasks: int, size_bytes: int, *, waits: bool = True) -> bool:
            there_is = super().make_room(leg, tasks, size_bytes, waits=waits)
            stream.close()
            return there_is

    stream = Closing().stream(iter(range(3)))
    assert list(stream.runs()) == []


def test_a_stream_that_is_closed_while_it_draws_ends_there() -> None:
    def closing() -> Iterator[int]:
        yield 0
        stream.close()
        yield 1

    stream = EchoingCluster().stream(closing())
    assert [list(run) for run in stream.runs()] == [[0]]
