"""Short sorted lists of ranges, as leases in a worker have them: few spans, changed at their ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Span: TypeAlias = "tuple[int, int]"
"""Indexes from `start` up to, not including, `stop`; never empty."""


def cut(spans: list[Span], start: int, stop: int) -> list[Span]:
    """Remove the indexes `start` to `stop` from `spans`, in place; return those that were in it."""
    if spans == [(start, stop)]:  # nearly always
        spans.clear()
        return [(start, stop)]
    taken, left = [], []
    for low, high in spans:
        inner_low, inner_high = max(low, start), min(high, stop)
        if inner_low >= inner_high:
            left.append((low, high))
            continue
        taken.append((inner_low, inner_high))
        if low < inner_low:
            left.append((low, inner_low))
        if inner_high < high:
            left.append((inner_high, high))
    if taken:
        spans[:] = left
    return taken


def cut_all(spans: list[Span], others: Iterable[Span]) -> list[Span]:
    """Remove all `others` from `spans`, in place; return what was in it, sorted if `others` is."""
    taken: list[Span] = []
    for start, stop in others:
        taken += cut(spans, start, stop)
    return taken


def overlap(spans: list[Span], start: int, stop: int) -> list[Span]:
    """The part of `spans` that lies between `start` and `stop`."""
    return [(max(low, start), min(high, stop)) for low, high in spans if low < stop and high > start]


def joined(spans: Iterable[Span]) -> list[Span]:
    """The same indexes, sorted, neighbours in one span."""
    result: list[Span] = []
    for start, stop in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result


def contains(spans: list[Span], index: int) -> bool:
    """Whether `index` is in one of `spans`."""
    return any(low <= index < high for low, high in spans)


def count(spans: list[Span]) -> int:
    """How many indexes `spans` hold."""
    return sum(high - low for low, high in spans)
