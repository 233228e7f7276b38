from __future__ import annotations

from distcomp.allowance import Allowance


def test_a_seconds_worth_may_come_at_once_and_then_as_time_passes() -> None:
    allowance = Allowance(4, 1000, 0.0)
    assert [allowance.take(1, 0.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [allowance.take(1, 0.5) for _ in range(3)] == [True, True, False]
    assert [allowance.take(1, 99.0) for _ in range(6)] == [True] * 4 + [False] * 2


def test_bytes_are_bounded_too() -> None:
    allowance = Allowance(100, 10, 0.0)
    assert [allowance.take(6, 0.0), allowance.take(6, 0.0), allowance.take(4, 0.0)] == [True, False, True]
    assert not allowance.take(11, 9.0)
    assert allowance.take(10, 8.0), "time does not go back"
