"""Draws the arguments of a `TaskArray`, packs them into chunks, and hands these in as there is room."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import ItemsView, KeysView, ValuesView
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from distcomp.core.client_effects import Failed
from distcomp.errors import ClientClosedError
from distcomp.futures import wake_all
from distcomp.kinds import MAX_COUNTER
from distcomp.payload import CHUNK_BYTES, CHUNK_TASKS, Constant, dump_failure, pack_calls, pack_columns
from distcomp.rows import Failure

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Sequence, Sized

    from distcomp.array_legs import Leg
    from distcomp.core.client_state import ClientState
    from distcomp.futures import Woken
    from distcomp.handles import Sink
    from distcomp.ids import FunctionId
    from distcomp.payload import Packed
    from distcomp.rows import TaskOptions

DRAW_BYTES = 1 << 20
"""About how many bytes of arguments are pickled before they are handed in."""
SMALL_BYTES = 1024
GROWTH = 16

_CHANGEABLE = (list, set, frozenset, dict, KeysView, ValuesView, ItemsView, deque, bytearray)
_SLICEABLE = frozenset({list, tuple, range, Constant})


Cost: TypeAlias = "Callable[..., Any] | Sequence[Any] | None"
"""How long tasks take, in any unit: a callable of their arguments, or a value for each."""


class SizedIterable(Protocol):
    """An iterable with a length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Wanted(Protocol):
    """What takes in outcomes, as long as anybody wants them."""

    ended: bool


class FedClient(Protocol):
    """What a feeder needs of its client."""

    lock: threading.Lock
    sinks: dict[int, Sink]
    shares_path: bool
    max_payload_bytes: int

    def post(self, action: Callable[[ClientState], None]) -> None:
        """Have the loop's thread call `action`."""

    def make_room(self, leg: Wanted, tasks: int, size_bytes: int, *, waits: bool = True) -> bool:
        """Wait until tasks may be handed in, and count them; False if nobody wants them any more.

        Without `waits`, it is also False if there is no room now.
        """

    def fed(self) -> None:
        """Take note that a feeder is through."""


def columns_of(iterables: Sequence[Iterable[Any]]) -> tuple[list[Any], int]:
    """The arguments of `map` as columns, and how many tasks they make.

    What can be changed while it is drawn from is copied, by reference.

    Raises:
        TypeError: there is none, or one of them has no length.
    """
    if not iterables:
        raise TypeError("map needs at least one iterable of arguments")
    lengths = []
    for each in iterables:
        try:
            lengths.append(len(each))  # type: ignore[arg-type]  # that it has a length is asked here
        except TypeError:  # noqa: PERF203 - few rounds, each of which may fail
            raise TypeError(
                f"map needs arguments with a length, and {type(each).__name__} has none; "
                "if it comes to an end, pass list(...) of it"
            ) from None
    return [copied(each) for each in iterables], min(lengths)


def have_lengths(iterables: Iterable[Any]) -> bool:
    """Whether all of them have a length."""
    try:
        for each in iterables:
            len(each)
    except TypeError:
        return False
    return True


def copied(column: Any) -> Any:
    """A copy, by reference, of what can be changed while it is drawn from."""
    return list(column) if isinstance(column, _CHANGEABLE) else column


def row_of(columns: Sequence[Any], index: int) -> tuple[Any, ...]:
    """The arguments of one task."""
    return tuple(
        column[index] if type(column) in _SLICEABLE else next(islice(iter(column), index, None))
        for column in columns
    )


def order_by_cost(cost: Callable[..., Any] | Sequence[Any], columns: Sequence[Any], tasks: int) -> list[int]:
    """The indexes of the tasks, the dearest first; equals stay in order.

    Args:
        cost: what a task costs, in any unit: a callable of its arguments, or one value for each task.
        columns: the arguments.
        tasks: how many tasks there are.

    Raises:
        TypeError: `cost` is neither.
        ValueError: there is not one value for each task.
    """
    if callable(cost):
        costs = list(islice(map(cost, *columns), tasks))
    elif hasattr(cost, "__len__"):
        costs = list(cost)
    else:
        raise TypeError(
            "cost must be a callable of the tasks' arguments, or a sequence with one value for each"
        )
    if len(costs) != tasks:
        raise ValueError(f"cost has {len(costs)} values for {tasks} tasks")
    return sorted(range(tasks), key=costs.__getitem__, reverse=True)


class Feeder:
    """Hands in the tasks of one leg.

    Args:
        client: whose tasks they are.
        leg: what takes in their outcomes.
        function: the function's identity, name and bytes.
        options: how the tasks are to be treated.
        columns: the arguments of all tasks of the array.
    """

    def __init__(
        self,
        client: FedClient,
        leg: Leg,
        function: tuple[FunctionId, str, bytes],
        options: TaskOptions,
        columns: Sequence[Any],
    ) -> None:
        self._client = client
        self._leg = leg
        self._function = function
        self._options = options
        self._columns = columns
        self._handed_in = 0
        self._rows = 1

    @property
    def is_quick(self) -> bool:
        """Whether the tasks are few and their arguments there, so that no thread is needed."""
        return self._leg.tasks <= CHUNK_TASKS and all(type(each) in _SLICEABLE for each in self._columns)

    def begin(self) -> None:
        """Have the array opened."""
        self._client.post(self._open)

    def run(self) -> None:
        """Draw, pack and hand in until all tasks are, or nobody wants them any more."""
        try:
            self._rows = self._first_rows()
            for columns in self._draw():
                packed = self._take(columns)
                if packed is None:
                    return
                row_bytes = 1 + sum(len(part.blob) for part in packed) // len(columns[0])
                self._rows = max(1, min(CHUNK_TASKS, self._rows * GROWTH, DRAW_BYTES // row_bytes))
        except Exception as error:  # noqa: BLE001 - whatever the caller's iterable raises belongs to its tasks
            self._end(dump_failure(error))
        finally:
            self._client.fed()

    def _pack(self, columns: Sequence[Sequence[Any]]) -> list[Packed]:
        """Chunks of tasks that were drawn."""
        most_bytes = min(CHUNK_BYTES, self._client.max_payload_bytes)
        return pack_columns(columns, shares_path=self._client.shares_path, max_bytes=most_bytes)

    def _take(self, columns: Sequence[Sequence[Any]]) -> list[Packed] | None:
        """Hand in what was drawn; gives the chunks that it made, or None if nobody wants more."""
        packed = self._pack(columns)
        if all(self._hand_in(part.stop - part.start, part.blob) for part in packed):
            return packed
        return None

    def _open(self, state: ClientState) -> None:
        self._leg.counter = state.submit(*self._function, self._options)
        self._client.sinks[self._leg.counter] = self._leg

    def _first_rows(self) -> int:
        """How many tasks to draw at first: one, unless it is clear that they are small."""
        for column in self._columns:
            first = column[0] if type(column) in _SLICEABLE else None
            if type(first) not in (int, float, bool) and not (
                type(first) in (str, bytes) and len(first) < SMALL_BYTES  # type: ignore[arg-type]  # it has a length
            ):
                return 1
        return CHUNK_TASKS

    def _draw(self) -> Iterator[list[Sequence[Any]]]:
        """Pieces of the columns, in the order in which the tasks travel."""
        order, tasks = self._leg.order, self._leg.tasks
        sources = [_source(column, self._leg.array, order is not None) for column in self._columns]
        start = 0
        while start < tasks:
            stop = min(tasks, start + self._rows)
            if order is None:
                yield [_piece(source, start, stop) for source in sources]
            else:
                places = order[start:stop]
                yield [
                    Constant(source.value, len(places))
                    if type(source) is Constant
                    else [source[i] for i in places]
                    for source in sources
                ]
            start = stop

    def _hand_in(self, tasks: int, chunk: bytes) -> bool:
        if len(chunk) > self._client.max_payload_bytes:
            return self._refuse(len(chunk))
        if self._leg.ended or not self._client.make_room(self._leg, tasks, len(chunk)):
            self._client.post(lambda state: state.cancel_pending(self._leg.counter, ()))
            self._end(Failure("cancelled", text="cancelled by its client"))
            return False
        self._handed_in += tasks
        last = self._handed_in == self._leg.tasks
        self._client.post(lambda state: state.extend(self._leg.counter, tasks, chunk, last=last))
        return True

    def _refuse(self, size_bytes: int) -> bool:
        """Let a task whose arguments are too large fail here, and send an empty one in its place."""
        place = self._handed_in
        text = f"the arguments take {size_bytes} bytes; max_payload_bytes is {self._client.max_payload_bytes}"
        failed = Failed(0, place, place + 1, Failure("too_large", text=text))
        woken: list[Woken] = []
        with self._client.lock:
            self._leg.settle_here(failed, woken)
        wake_all(woken)
        went_on = self._hand_in(1, pack_calls([((), {})])[0].blob)
        self._client.post(lambda state: state.cancel(self._leg.counter, ((place, place + 1),)))
        return went_on

    def _end(self, failure: Failure) -> None:
        """Let everything fail that has not been drawn."""

        def end(state: ClientState) -> None:
            state.extend(self._leg.counter, 0, b"", last=True)
            woken: list[Woken] = []
            with self._client.lock:
                self._leg.settle(Failed(self._leg.counter, self._handed_in, MAX_COUNTER, failure), woken)
                if self._leg.open_tasks <= 0:
                    self._client.sinks.pop(self._leg.counter, None)
            wake_all(woken)

        with contextlib.suppress(ClientClosedError):  # with the client, all of it has settled
            self._client.post(end)


def _source(column: Any, tasks: Sized, by_index: bool) -> Any:  # noqa: FBT001 - called in one place
    """What pieces of a column are taken from: itself, an iterator, or a list."""
    if type(column) in _SLICEABLE:
        return column
    return list(islice(column, len(tasks))) if by_index else iter(column)


def _piece(source: Any, start: int, stop: int) -> Sequence[Any]:
    if type(source) is Constant:
        return Constant(source.value, stop - start)
    if type(source) in _SLICEABLE:
        piece: Sequence[Any] = source[start:stop]
        return piece
    drawn = list(islice(source, stop - start))
    if len(drawn) < stop - start:
        raise ValueError("an iterable of map gave fewer items than its length promised")
    return drawn
