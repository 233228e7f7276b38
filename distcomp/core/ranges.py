"""Sets of indexes: as ranges, which cost nothing per task however many there are, and as one byte each.

The spans of a `RangeSet` are kept from high to low, disjoint and never touching, so that taking from the
low end, where work is granted, and putting back there, where work returns, is a change at the end of a list.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distcomp.core.spans import Span


def _descending(span: Span) -> int:
    return -span[0]


class RangeSet:
    """A set of indexes, cheap as long as they come in ranges.

    Attributes:
        count: how many indexes are in the set.
    """

    __slots__ = ("_spans", "count")

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self.count = 0

    def __iter__(self) -> Iterator[Span]:
        """The spans from low to high."""
        return reversed(self._spans)

    def __contains__(self, index: int) -> bool:
        spans = self._spans
        if not spans or index >= spans[0][1]:
            return False
        position = bisect_left(spans, -index, key=_descending)
        return position < len(spans) and index < spans[position][1]

    def first(self) -> Span:
        """The lowest span; the set must not be empty."""
        return self._spans[-1]

    def add(self, start: int, stop: int) -> None:
        """Put in the indexes `start` to `stop`; none of them may be in the set.

        Raises:
            ValueError: one of them is.
        """
        spans = self._spans
        if not spans:
            spans.append((start, stop))
        elif spans[0][1] == start:
            spans[0] = (spans[0][0], stop)
        else:
            self._insert(start, stop)
        self.count += stop - start

    def _insert(self, start: int, stop: int) -> None:
        spans = self._spans
        position = bisect_left(spans, -start, key=_descending)
        low, high = start, stop
        begin = end = position
        if position < len(spans):
            below = spans[position]
            if below[1] > start:
                raise ValueError(f"{start} is in the set")
            if below[1] == start:
                low, end = below[0], position + 1
        if position:
            above = spans[position - 1]
            if above[0] < stop:
                raise ValueError(f"{above[0]} is in the set")
            if above[0] == stop:
                high, begin = above[1], position - 1
        spans[begin:end] = [(low, high)]

    def drop_first(self, count: int) -> None:
        """Take out the lowest `count` indexes, which lie in the lowest span."""
        low, high = self._spans[-1]
        if low + count == high:
            self._spans.pop()
        else:
            self._spans[-1] = (low + count, high)
        self.count -= count

    def cut(self, start: int, stop: int) -> list[Span]:
        """Take out what lies between `start` and `stop`; return it from low to high."""
        spans = self._spans
        if spans == [(start, stop)]:  # nearly always where tasks come one by one
            self._spans, self.count = [], 0
            return spans
        begin = end = bisect_right(spans, -stop, key=_descending)
        taken: list[Span] = []
        rest: list[Span] = []
        while end < len(spans) and spans[end][1] > start:
            low, high = spans[end]
            if high > stop:
                rest.append((stop, high))
            if low < start:
                rest.append((low, start))
            taken.append((max(low, start), min(high, stop)))
            end += 1
        spans[begin:end] = rest
        taken.reverse()
        for low, high in taken:
            self.count -= high - low
        return taken

    def within(self, start: int, stop: int) -> list[Span]:
        """What lies between `start` and `stop`, from low to high; it stays."""
        spans = self._spans
        position = bisect_right(spans, -stop, key=_descending)
        found: list[Span] = []
        while position < len(spans) and spans[position][1] > start:
            low, high = spans[position]
            found.append((max(low, start), min(high, stop)))
            position += 1
        found.reverse()
        return found

    def clear(self) -> list[Span]:
        """Take out everything; return it from low to high."""
        taken = list(self)
        self._spans.clear()
        self.count = 0
        return taken


class FlagSet:
    """A set of indexes that come in any order, as a flag for each; with all of them at first.

    A `RangeSet` of as many fragments would take longer for each the more there are.

    Args:
        size: all indexes lie below it.

    Attributes:
        count: how many indexes are in the set.
    """

    __slots__ = ("_flags", "count")

    def __init__(self, size: int) -> None:
        self._flags = bytearray(b"\1") * size
        self.count = size

    def __iter__(self) -> Iterator[Span]:
        """The spans from low to high."""
        return self._spans(0, len(self._flags))

    def __contains__(self, index: int) -> bool:
        return self._flags[index] == 1

    def add(self, start: int, stop: int) -> None:
        """Put in the indexes `start` to `stop`; none of them is in the set."""
        self._flags[start:stop] = b"\1" * (stop - start)
        self.count += stop - start

    def cut(self, start: int, stop: int) -> list[Span]:
        """Take out what lies between `start` and `stop`; return it from low to high."""
        if stop - start == 1:
            taken = [(start, stop)] if self._flags[start] else []
        else:
            taken = list(self._spans(start, stop))
        for low, high in taken:
            self._flags[low:high] = bytes(high - low)
            self.count -= high - low
        return taken

    def _spans(self, start: int, stop: int) -> Iterator[Span]:
        flags = self._flags
        stop = min(stop, len(flags))
        while start < stop:
            low = flags.find(1, start, stop)
            if low < 0:
                return
            high = flags.find(0, low, stop)
            start = high if high >= 0 else stop
            yield low, start
