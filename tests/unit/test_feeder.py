from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.array_legs import Leg
from distcomp.errors import ClientClosedError
from distcomp.feeder import Feeder, columns_of, order_by_cost
from distcomp.ids import FunctionId
from distcomp.payload import Constant, open_chunk
from distcomp.rows import TaskOptions
from distcomp.task_arrays import TaskArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distcomp.handles import Sink


class RecordingState:
    """Notes what is handed in."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, bytes, bool]] = []
        self.dispensed: list[Any] = []
        self.cancelled: list[Any] = []

    def submit(self, *_: Any) -> int:
        return 1

    def extend(self, counter: int, tasks: int, chunk: bytes, *, last: bool) -> None:
        assert counter == 1
        self.parts.append((tasks, chunk, last))

    def cancel(self, counter: int, spans: Any) -> None:
        assert counter == 1
        self.cancelled.append(spans)

    def cancel_pending(self, counter: int, spans: Any) -> None:
        assert counter == 1
        self.dispensed.append(spans)

    def rows(self) -> list[Any]:
        """The arguments of all tasks handed in, in the order in which they travel."""
        return [
            (*args, *kwargs.values())
            for tasks, chunk, _ in self.parts
            if tasks
            for args, kwargs in open_chunk(chunk).calls(0, tasks)
        ]


class ClientInPlay:
    """What a feeder needs of a client; actions happen at once."""

    def __init__(self, max_payload_bytes: int = 1 << 30) -> None:
        self.lock = threading.Lock()
        self.sinks: dict[int, Sink] = {}
        self.shares_path = True
        self.patience_s = 10.0
        self.is_run = False
        self.stay = None
        self.inline: Any = None
        self.max_payload_bytes = max_payload_bytes
        self.state = RecordingState()
        self.wanted = 10**9
        self.through = 0

    def check_process(self) -> None:
        """It is the process of its client."""

    def check_may_wait(self) -> None:
        """Every thread may."""

    def explain_wait(self) -> None:
        """Nobody asks."""

    def cancel_tasks(self, sink: Sink, spans: Any, *, pending_only: bool = False) -> None:
        """Nothing runs."""

    def post(self, action: Callable[[Any], None]) -> None:
        action(self.state)

    def make_room(self, leg: Leg, tasks: int, size_bytes: int) -> bool:
        assert leg.tasks >= tasks
        assert size_bytes
        self.wanted -= tasks
        return self.wanted >= 0

    def fed(self) -> None:
        self.through += 1


def feed(
    client: ClientInPlay, columns: Sequence[Any], tasks: int, order: Sequence[int] | None = None
) -> TaskArray[Any]:
    array: TaskArray[Any] = TaskArray(client, tasks, lambda _: pytest.fail("nothing is retried"))
    leg = Leg(array, tasks, order)
    array.begin(leg)
    feeder = Feeder(client, leg, (FunctionId(b"f" * 32), "f", b""), TaskOptions(), columns)
    feeder.begin()
    feeder.run()
    assert client.through == 1
    return array


def test_all_tasks_are_handed_in_and_the_last_part_says_so() -> None:
    client = ClientInPlay()
    feed(client, [range(10_000), ["x"] * 10_000], 10_000)
    assert client.state.rows() == [(number, "x") for number in range(10_000)]
    assert [last for *_, last in client.state.parts] == [False] * (len(client.state.parts) - 1) + [True]
    assert client.sinks[1].open_tasks == 10_000


def test_an_order_is_followed() -> None:
    client = ClientInPlay()
    feed(client, [{3: "a", 4: "b"}.values(), Constant("c", 2), (5, 6)], 2, order=[1, 0])
    assert client.state.rows() == [("b", "c", 6), ("a", "c", 5)]


def test_large_arguments_are_pickled_as_there_is_room_for_them() -> None:
    client = ClientInPlay()
    client.wanted = 3
    feed(client, [[bytes(600_000)] * 100], 100)
    assert [tasks for tasks, *_ in client.state.parts] == [1, 1, 1, 0]
    assert client.state.parts[-1] == (0, b"", True)


def test_what_is_not_wanted_any_more_is_cancelled() -> None:
    client = ClientInPlay()
    client.wanted = 3
    array = feed(client, [[bytes(600_000)] * 5], 5)
    assert [future.cancelled() for future in array.futures] == [False] * 3 + [True] * 2
    assert client.state.dispensed == [()]


def test_a_client_that_closes_meanwhile_ends_the_feeding() -> None:
    class Closing(ClientInPlay):
        def make_room(self, leg: Leg, tasks: int, size_bytes: int) -> bool:
            self.is_closed = True
            return super().make_room(leg, tasks, size_bytes)

        def post(self, action: Callable[[Any], None]) -> None:
            if hasattr(self, "is_closed"):
                raise ClientClosedError("the client is closed")
            super().post(action)

    client = Closing()
    feed(client, [range(3)], 3)
    assert client.state.parts == []


def test_an_iterable_that_gives_too_few_fails_the_rest() -> None:
    class Short:
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Any:
            return iter([1, 2])

    client = ClientInPlay()
    array = feed(client, [Short()], 5)
    assert array.done_count >= 3
    with pytest.raises(ValueError, match="fewer"):
        array.futures[4].result()
    assert client.state.parts[-1] == (0, b"", True)


def test_arguments_that_are_too_large_fail_their_task_alone() -> None:
    client = ClientInPlay(max_payload_bytes=1000)
    array = feed(client, [[b"a", bytes(2000), b"c"]], 3)
    assert "max_payload_bytes" in str(array.futures[1].exception())
    assert array.done_count == 1
    assert client.state.rows() == [(b"a",), (), (b"c",)]
    assert client.state.cancelled == [((1, 2),)]


def test_columns_are_copied_if_they_can_change() -> None:
    given = [1, 2, 3]
    columns, tasks = columns_of([given, range(5), {"a": 1, "b": 2}, deque([7, 8])])
    given.clear()
    assert (columns, tasks) == ([[1, 2, 3], range(5), ["a", "b"], [7, 8]], 2)
    for bad, words in (
        ([], "at least one"),
        ([iter([1])], "has none"),
        ([range(3), (x for x in "a")], "list"),
    ):
        with pytest.raises(TypeError, match=words):
            columns_of(bad)


def test_the_dearest_come_first_and_equals_stay_in_order() -> None:
    assert order_by_cost([1, 3, 3, 2], [], 4) == [1, 2, 3, 0]
    assert order_by_cost(lambda one, two: one * two, [[1, 5, 2], [1, 1, 9]], 3) == [2, 1, 0]
    with pytest.raises(ValueError, match="2 values for 3"):
        order_by_cost([1, 2], [], 3)
    with pytest.raises(TypeError, match="callable"):
        order_by_cost(5, [], 3)  # type: ignore[arg-type]
