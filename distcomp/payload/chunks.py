"""The arguments of neighbouring tasks as one chunk of bytes, and back.

A chunk is the pickle of one of two tuples of plain values:

    (count, definitions, names, plan, plain, shared, own)    calls of one shape, column by column
    (count, definitions, entries)    calls of any shape: `(args, kwargs)`, or its pickle as bytes

`plan` says for each column where its values are: a list or range of plain values in `plain`, the same
pickle `shared` by all tasks, or the pickle that each task has of its `own`. The last `len(names)` columns
are keyword arguments. What is not plain stays pickled until its task's turn, so that a task that cannot
be rebuilt fails alone, and no two tasks share an object. The pickles of a chunk share the `definitions` of
classes that travel by value.

A chunk can also be a column of `distcomp.byte_columns`, made by who cannot pickle: each task gets one
item of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from distcomp import byte_columns
from distcomp.errors import UnloadableTaskError, UnpicklableError
from distcomp.payload.classes import unchanged_classes
from distcomp.payload.culprit import unpicklable
from distcomp.payload.failures import dump_failure, load_failure
from distcomp.payload.pickler import NO_DEFINITIONS, Boxed, box, definitions_of, loads
from distcomp.payload.plain import PLAIN_TYPES, dump_plain
from distcomp.rows import Failure

if TYPE_CHECKING:
    from distcomp.payload.classes import Definitions

CHUNK_BYTES = 64 << 10
CHUNK_TASKS = 4096
REST_BYTES = 256
"""More than a large argument takes besides its bytes, and than a call takes besides its arguments."""


class LargeCall(NamedTuple):
    """A call of plain values, with large bytes among them: nobody can change these, so they need no copy."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Call: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]] | LargeCall | Boxed"
"""One call's arguments: `(args, kwargs)` of plain values, or the pickle of such a pair."""

_PLAIN, _SHARED, _OWN = 0, 1, 2
_NO_KEYWORDS: dict[str, Any] = {}


class Packed(NamedTuple):
    """The bytes of the items `start` to `stop` of what was packed."""

    start: int
    stop: int
    blob: bytes


class Constant(Sequence[Any]):
    """A column with the same object for every task: it travels once a chunk.

    Example:
        >>> list(Constant("a", 3))
        ['a', 'a', 'a']
    """

    def __init__(self, value: Any, count: int) -> None:
        self.value = value
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return repeat(self.value, self._count)

    def __getitem__(self, index: Any) -> Any:
        chosen = range(self._count)[index]
        return [self.value] * len(chosen) if isinstance(chosen, range) else self.value


def pack(
    count: int, encode: Callable[[int, int], bytes], max_bytes: int, max_items: int, first: int = 0
) -> list[Packed]:
    """Cut `count` items into blobs of at most `max_bytes`, or one item, and at most `max_items` each.

    The items are counted from 0 for `encode`, and from `first` in what is returned.
    """
    packed = []
    start, items = 0, max_items
    while start < count:
        stop = min(count, start + items)
        blob = encode(start, stop)
        if len(blob) > max_bytes and stop - start > 1:
            items = max(1, (stop - start) * max_bytes * 9 // (10 * len(blob)))
            continue
        packed.append(Packed(first + start, first + stop, blob))
        start = stop
        if 2 * len(blob) < max_bytes:
            items = min(2 * items, max_items)
    return packed


# --- calls one by one -----------------------------------------------------------------------------


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any], *, shares_path: bool) -> Call:
    """Fix the arguments of one call: what the caller changes afterwards changes nothing.

    Large texts are pickled at once, like what is not plain: that tells how large they are.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        shares_path: whether slots can import this process's local modules.

    Returns:
        The call, for `pack_calls`.

    Raises:
        UnpicklableError: naming the path to what cannot be pickled.
    """
    if _are_small_and_plain(args) and (not kwargs or _are_small_and_plain(kwargs.values())):
        return args, kwargs
    if _need_no_copy(args) and _need_no_copy(kwargs.values()):
        return LargeCall(args, kwargs)
    try:
        return box((args, kwargs), shares_path=shares_path)
    except Exception as error:
        raise unpicklable((args, kwargs), error, shares_path=shares_path) from error


def _are_small_and_plain(values: Collection[Any]) -> bool:
    for value in values:
        kind = type(value)
        if kind not in PLAIN_TYPES or ((kind is str or kind is bytes) and len(value) > CHUNK_BYTES):
            return False
    return True


def _need_no_copy(values: Collection[Any]) -> bool:
    """Whether values are plain, and only bytes among them large."""
    for value in values:
        kind = type(value)
        if kind not in PLAIN_TYPES or (kind is str and len(value) > CHUNK_BYTES):
            return False
    return True


def call_size_bytes(call: Call) -> int:
    """Say about how many bytes a call takes on its way, not less; 0 for one that is small."""
    if type(call) is tuple:
        return 0
    if isinstance(call, Boxed):
        return len(call.blob)
    values = (*call[0], *call[1].values())
    large = [value for value in values if type(value) is bytes and len(value) > CHUNK_BYTES]
    rest = [b"" if type(value) is bytes and len(value) > CHUNK_BYTES else value for value in values]
    return len(dump_plain((rest, tuple(call[1])))) + sum(REST_BYTES + len(value) for value in large)


def pack_calls(
    calls: Sequence[Call], *, max_bytes: int = CHUNK_BYTES, max_tasks: int = CHUNK_TASKS
) -> list[Packed]:
    """Put calls made by `dump_call` into chunks, in order.

    Args:
        calls: at least one.
        max_bytes: a chunk holds at most so many, or one task.
        max_tasks: and at most so many tasks.

    Returns:
        Chunks with the positions they cover.
    """
    if len(calls) == 1 and type(calls[0]) is tuple:
        return [Packed(0, 1, dump_plain((1, NO_DEFINITIONS, calls)))]
    shapes = {(len(call[0]), *call[1]) if type(call) is tuple else None for call in calls}
    if len(shapes) == 1 and None not in shapes:
        return _pack_alike(calls, max_bytes, max_tasks)

    def encode(start: int, stop: int) -> bytes:
        chosen = calls[start:stop]
        definitions = definitions_of(call for call in chosen if type(call) is Boxed)
        entries = [call.blob if isinstance(call, Boxed) else (call[0], call[1]) for call in chosen]
        return dump_plain((stop - start, definitions, entries))

    return pack(len(calls), encode, max_bytes, max_tasks)


def _pack_alike(calls: Sequence[Any], max_bytes: int, max_tasks: int) -> list[Packed]:
    """Chunks of plain calls of one shape."""
    names = tuple(calls[0][1])
    columns: list[Sequence[Any]] = [list(column) for column in zip(*(args for args, _ in calls), strict=True)]
    columns += [[kwargs[name] for _, kwargs in calls] for name in names]
    plan = (_PLAIN,) * len(columns)

    def encode(start: int, stop: int) -> bytes:
        parts = [column[start:stop] for column in columns]
        return dump_plain((stop - start, NO_DEFINITIONS, names, plan, parts, b"", ()))

    return pack(len(calls), encode, max_bytes, max_tasks)


# --- calls by columns -----------------------------------------------------------------------------


def pack_columns(
    columns: Sequence[Sequence[Any]],
    names: Sequence[str] = (),
    *,
    shares_path: bool,
    max_bytes: int = CHUNK_BYTES,
    max_tasks: int = CHUNK_TASKS,
) -> list[Packed]:
    """Put the calls that columns of arguments describe into chunks, in order.

    An item that cannot be pickled fails its own task, with an `UnpicklableError` raised at its turn.

    Args:
        columns: at least one; one item of each makes a call. All have the same length.
        names: the parameters that the last columns are for; those before are positional.
        shares_path: whether slots can import this process's local modules.
        max_bytes: a chunk holds at most so many, or one task.
        max_tasks: and at most so many tasks.

    Returns:
        Chunks with the positions they cover.

    Example:
        >>> chunk = open_chunk(pack_columns([[1, 2], "ab"], shares_path=True)[0].blob)
        >>> list(chunk.calls(0, 2))
        [((1, 'a'), {}), ((2, 'b'), {})]
    """
    count, names = len(columns[0]), tuple(names)
    plan = tuple(map(_kind, columns))
    plain = [_as_plain(column) for column, kind in zip(columns, plan, strict=True) if kind == _PLAIN]
    shared = tuple(column[0] for column, kind in zip(columns, plan, strict=True) if kind == _SHARED and count)
    shared_box = _box_or_poison(shared, plan, _SHARED, shares_path=shares_path) if shared else Boxed(b"")
    rows = zip(*(column for column, kind in zip(columns, plan, strict=True) if kind == _OWN), strict=True)
    with unchanged_classes():
        own = [_box_or_poison(row, plan, _OWN, shares_path=shares_path) for row in rows]

    def encode(start: int, stop: int) -> bytes:
        parts = [column[start:stop] for column in plain]
        boxes = own[start:stop]
        definitions = definitions_of((shared_box, *boxes))
        blobs = [each.blob for each in boxes]
        return dump_plain((stop - start, definitions, names, plan, parts, shared_box.blob, blobs))

    return pack(count, encode, max_bytes, max_tasks)


def _kind(column: Sequence[Any]) -> int:
    if type(column) is range:
        return _PLAIN
    if isinstance(column, Constant):
        return _PLAIN if type(column.value) in PLAIN_TYPES else _SHARED
    if PLAIN_TYPES.issuperset(map(type, column)):
        return _PLAIN
    return _SHARED if len(column) > 1 and len(set(map(id, column))) == 1 else _OWN


def _as_plain(column: Sequence[Any]) -> Any:
    return column if type(column) is range else list(column)


def _box_or_poison(values: tuple[Any, ...], plan: Sequence[int], kind: int, *, shares_path: bool) -> Boxed:
    """Pickle some arguments of one task; what cannot be pickled becomes an error at the task's turn."""
    try:
        return box(values, shares_path=shares_path)
    except Exception as error:  # noqa: BLE001 - it is raised where the task would run
        places = [position for position, other in enumerate(plan) if other == kind]
        problem = unpicklable((_spread(values, places), {}), error, shares_path=shares_path)
        return Boxed(dump_plain(_Poison(str(problem), error)))


def _spread(values: tuple[Any, ...], places: Sequence[int]) -> tuple[Any, ...]:
    """Put values where they stand among a call's arguments, so that an error counts right."""
    row: list[Any] = [None] * (places[-1] + 1)
    for place, value in zip(places, values, strict=True):
        row[place] = value
    return tuple(row)


class _Poison:
    """Raises when it is unpickled, from the error that pickling the arguments had raised."""

    def __init__(self, text: str, origin: Exception) -> None:
        self._text = text
        self._origin = tuple(dump_failure(origin))

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise_unpicklable, (self._text, self._origin)


def _raise_unpicklable(text: str, origin: tuple[Any, ...]) -> None:
    raise UnpicklableError(text) from load_failure(Failure(*origin))


# --- reading --------------------------------------------------------------------------------------


class Chunk:
    """The calls of a chunk. `count` is how many."""

    def __init__(self, count: int, definitions: Definitions, entries: Any) -> None:
        self.count = count
        self._definitions = definitions
        self._entries = entries

    def calls(self, start: int, stop: int) -> Iterator[tuple[Sequence[Any], dict[str, Any]]]:
        """Give the calls from `start` up to `stop`, in order.

        The iterator may raise at one call, `UnloadableTaskError` or `UnpicklableError`, and goes on
        with the next one after it. The dict may be shared: it must not be changed.

        Args:
            start: position of the first call, from the chunk's beginning.
            stop: position after the last.

        Returns:
            Pairs of positional and keyword arguments.
        """
        entries = self._entries[start:stop]
        return map(self._open_entry, entries) if bytes in map(type, entries) else iter(entries)

    def _open_entry(self, entry: Any) -> Any:
        return self._loads(entry) if type(entry) is bytes else entry

    def _loads(self, blob: bytes) -> Any:
        return loads(blob, "its arguments", self._definitions)


class ColumnChunk(Chunk):
    """The calls of a chunk that holds columns."""

    def __init__(  # noqa: PLR0917 - in the order in which they stand in the bytes
        self,
        count: int,
        definitions: Definitions,
        names: tuple[str, ...],
        plan: tuple[int, ...],
        plain: list[Sequence[Any]],
        shared: bytes,
        own: Sequence[bytes],
    ) -> None:
        super().__init__(count, definitions, ())
        self._names = names
        self._plan = plan
        self._plain = plain
        self._shared = shared
        self._own = own

    def calls(self, start: int, stop: int) -> Iterator[tuple[Sequence[Any], dict[str, Any]]]:
        """See `Chunk.calls`."""
        kinds = set(self._plan)
        if kinds == {_OWN} and not self._names:
            return zip(map(self._loads, self._own[start:stop]), repeat(_NO_KEYWORDS))
        if not kinds <= {_PLAIN}:
            return map(self._open, range(start, stop))
        columns = [column[start:stop] for column in self._plain]
        split = len(columns) - len(self._names)
        rows: Any = zip(*columns[:split], strict=True) if split else repeat((), stop - start)
        if not self._names:
            return zip(rows, repeat(_NO_KEYWORDS))
        values = zip(*columns[split:], strict=True)
        return zip(rows, map(dict, map(zip, repeat(self._names), values)), strict=True)

    def _open(self, position: int) -> tuple[Sequence[Any], dict[str, Any]]:
        own = iter(self._loads(self._own[position]) if self._own else ())
        shared = iter(self._loads(self._shared) if self._shared else ())
        plain = (column[position] for column in self._plain)
        sources = (plain, shared, own)
        values = [next(sources[kind]) for kind in self._plan]
        if not self._names:
            return values, _NO_KEYWORDS
        split = len(values) - len(self._names)
        return values[:split], dict(zip(self._names, values[split:], strict=True))


def open_chunk(blob: bytes) -> Chunk:
    """Open a chunk; what is not plain stays pickled until its task's turn.

    Args:
        blob: made by `pack_calls` or `pack_columns`.

    Returns:
        The calls in it.

    Raises:
        UnloadableTaskError: the chunk itself cannot be read.
    """
    if byte_columns.is_one(blob):
        return _bytes_chunk(blob)
    content = loads(blob, "a chunk of arguments")
    return Chunk(*content) if len(content) == 3 else ColumnChunk(*content)  # noqa: PLR2004 - see the top


def _bytes_chunk(blob: bytes) -> ColumnChunk:
    try:
        column = byte_columns.read(blob)
    except ValueError as error:
        raise UnloadableTaskError(str(error)) from None
    return ColumnChunk(len(column), NO_DEFINITIONS, (), (_PLAIN,), [column], b"", ())
