from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from distcomp.core import spans

bounds = st.integers(0, 29).flatmap(lambda low: st.tuples(st.just(low), st.integers(low + 1, 30)))
some_spans = st.lists(bounds, max_size=5).map(spans.joined)


def members(ranges: list[spans.Span]) -> set[int]:
    return {index for start, stop in ranges for index in range(start, stop)}


@given(some_spans, bounds)
def test_cutting_parts_indexes_and_loses_none(ranges: list[spans.Span], part: spans.Span) -> None:
    before, rest = members(ranges), list(ranges)
    taken = spans.cut(rest, *part)
    assert members(taken) == before & set(range(*part))
    assert members(rest) == before - set(range(*part))


@given(some_spans, some_spans)
def test_cutting_all_is_set_difference(ranges: list[spans.Span], others: list[spans.Span]) -> None:
    rest = list(ranges)
    taken = spans.cut_all(rest, others)
    assert members(taken) == members(ranges) & members(others)
    assert members(rest) == members(ranges) - members(others)


@given(some_spans, bounds)
def test_overlap_is_intersection_and_changes_nothing(ranges: list[spans.Span], part: spans.Span) -> None:
    before = list(ranges)
    assert members(spans.overlap(ranges, *part)) == members(ranges) & set(range(*part))
    assert ranges == before


@given(st.lists(bounds, max_size=6))
def test_joined_is_sorted_and_has_gaps_between(ranges: list[spans.Span]) -> None:
    joined = spans.joined(ranges)
    assert members(joined) == members(ranges)
    assert all(low[1] < high[0] for low, high in pairwise(joined))


@given(some_spans, st.integers(0, 30))
def test_contains_and_count_agree_with_the_members(ranges: list[spans.Span], index: int) -> None:
    assert spans.contains(ranges, index) == (index in members(ranges))
    assert spans.count(ranges) == len(members(ranges))
