"""The results of neighbouring tasks as one blob of bytes, and back.

A blob is the pickle of `(values, boxed, definitions)`: a list of plain values, in which those whose
positions `boxed` lists are pickles of their own, which share the definitions of their classes. These are
made as soon as a task ends and opened when a result is asked for, so that a bad one costs only itself, and
no two results share an object. Results that are all `bytes` make a column of `distcomp.byte_columns` instead,
which who must not unpickle can read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distcomp import byte_columns
from distcomp.errors import UnloadableTaskError, UnpicklableResultError
from distcomp.payload.chunks import Packed, pack
from distcomp.payload.culprit import describe
from distcomp.payload.pickler import NO_DEFINITIONS, Boxed, box, definitions_of, dumps, loads
from distcomp.payload.plain import PLAIN_TYPES, dump_plain

if TYPE_CHECKING:
    from distcomp.payload.classes import Definitions

RUN_BYTES = 1 << 20
RUN_RESULTS = 1 << 16
_SMALL_BYTES = 16
_ONLY_BYTES = {bytes}


def dump_result(value: Any) -> Any:
    """Fix a result: what its task's leftovers change afterwards changes nothing.

    Args:
        value: what a task returned.

    Returns:
        The value itself if it is plain, else a `Boxed`; for `pack_results`.

    Raises:
        UnpicklableResultError: naming the path to what cannot be pickled.
    """
    if type(value) in PLAIN_TYPES:
        return value
    try:
        return box(value, shares_path=True)
    except Exception as error:
        raise UnpicklableResultError(describe(value, "result", error, shares_path=True)) from error


def result_size_bytes(kept: Any) -> int:
    """Say about how many bytes one value made by `dump_result` takes on its way."""
    if type(kept) is Boxed:
        return len(kept.blob)
    if type(kept) is int:
        return _SMALL_BYTES + kept.bit_length() // 8
    return _SMALL_BYTES + len(kept) if isinstance(kept, (str, bytes)) else _SMALL_BYTES


def pack_results(kept: Sequence[Any], start: int = 0, *, max_bytes: int = RUN_BYTES) -> list[Packed]:
    """Put results made by `dump_result` into blobs, in order.

    Args:
        kept: plain values and `Boxed` ones.
        start: the index of the first.
        max_bytes: a blob holds at most so many, or one result.

    Returns:
        Blobs with the indexes they cover.
    """
    if len(kept) == 1:  # one alone is not cut
        return [Packed(start, start + 1, _packed(list(kept)))]

    def encode(first: int, stop: int) -> bytes:
        return _packed(list(kept[first:stop]))

    return pack(len(kept), encode, max_bytes, RUN_RESULTS, start)


def _packed(values: list[Any]) -> bytes:
    """Some values as one blob."""
    types = set(map(type, values))
    if types == _ONLY_BYTES:
        return byte_columns.write(values)
    if Boxed not in types:
        return dump_plain((values, (), NO_DEFINITIONS))
    boxed = [i for i, value in enumerate(values) if type(value) is Boxed]
    definitions = definitions_of(values[i] for i in boxed)
    for i in boxed:
        values[i] = values[i].blob
    return dump_plain((values, boxed, definitions))


class Results(Sequence[Any]):
    """Results from a blob; what is not plain is unpickled anew at each access."""

    __slots__ = ("_boxed", "_definitions", "_values")

    def __init__(self, values: list[Any], boxed: Sequence[int], definitions: Definitions) -> None:
        self._values = values
        self._definitions = definitions
        self._boxed = frozenset(boxed)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self._values)))]
        value = self._values[index]
        if not self._boxed or index % len(self._values) not in self._boxed:
            return value
        return loads(value, "the result", self._definitions)

    def pickled(self, index: int) -> bytes:
        """One result as a pickle that needs nothing beside it; most are not unpickled for that."""
        value = self._values[index]
        if index not in self._boxed:
            return dump_plain(value)
        boxed: bytes = value
        return dumps(self[index], shares_path=True) if self._definitions else boxed

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values) if not self._boxed else map(self.__getitem__, range(len(self._values)))


def open_results(blob: bytes) -> Results:
    """Open results packed by `pack_results`.

    Args:
        blob: one blob.

    Returns:
        The results in it, in order.

    Raises:
        UnloadableTaskError: the blob itself cannot be read.
    """
    if byte_columns.is_one(blob):
        return _bytes_results(blob)
    return Results(*loads(blob, "results"))


def _bytes_results(blob: bytes) -> Results:
    try:
        return Results(byte_columns.read(blob), (), NO_DEFINITIONS)
    except ValueError as error:
        raise UnloadableTaskError(str(error)) from None
