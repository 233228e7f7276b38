from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcomp.core.ranges import FlagSet, RangeSet


def test_neighbours_become_one_span() -> None:
    ranges = RangeSet()
    ranges.add(0, 5)
    ranges.add(10, 15)
    ranges.add(5, 10)
    assert list(ranges) == [(0, 15)]
    assert ranges.count == 15


def test_what_is_in_cannot_be_added_again() -> None:
    ranges = RangeSet()
    ranges.add(4, 6)
    for start, stop in [(5, 7), (3, 5), (0, 9)]:
        with pytest.raises(ValueError, match="is in the set"):
            ranges.add(start, stop)


def test_the_low_end_goes_first() -> None:
    ranges = RangeSet()
    ranges.add(5, 9)
    ranges.add(0, 2)
    assert ranges.first() == (0, 2)
    ranges.drop_first(1)
    assert ranges.first() == (1, 2)
    ranges.drop_first(1)
    assert ranges.first() == (5, 9)
    assert ranges.clear() == [(5, 9)]
    assert ranges.count == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(1, 12))))
def test_it_behaves_as_a_set(steps: list[tuple[bool, int, int]]) -> None:
    ranges, model = RangeSet(), set[int]()
    for add, start, size in steps:
        indexes = set(range(start, start + size))
        if add and not indexes & model:
            ranges.add(start, start + size)
            model |= indexes
        elif not add:
            taken = ranges.cut(start, start + size)
            assert taken == sorted(taken)
            assert {index for low, high in taken for index in range(low, high)} == indexes & model
            model -= indexes
        assert ranges.count == len(model)
        assert {index for index in range(60) if index in ranges} == model
        spans = list(ranges)
        assert all(spans[at][1] < spans[at + 1][0] for at in range(len(spans) - 1))


@given(st.lists(st.tuples(st.integers(0, 31), st.integers(1, 8)), max_size=30))
def test_flags_hold_what_ranges_hold(cuts: list[tuple[int, int]]) -> None:
    flags, ranges = FlagSet(32), RangeSet()
    ranges.add(0, 32)
    for start, length in cuts:
        taken = ranges.cut(start, start + length)
        assert flags.cut(start, start + length) == taken
        assert list(flags) == list(ranges)
        assert flags.count == ranges.count
        assert [each in flags for each in range(32)] == [each in ranges for each in range(32)]
        for low, high in taken[:1]:
            flags.add(low, high)
            ranges.add(low, high)
