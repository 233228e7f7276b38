from __future__ import annotations

from distcomp.core.timers import NEVER, Timers


def test_actions_run_in_the_order_of_their_times_and_not_before() -> None:
    timers, done = Timers(), []
    timers.add(2.0, lambda name, now: done.append((name, now)), "late")
    timers.add(1.0, lambda name, now: done.append((name, now)), "early")
    assert timers.next_at == 1.0
    timers.run(0.5)
    assert done == []
    timers.run(1.5)
    assert done == [("early", 1.5)]
    assert len(timers) == 1


def test_an_action_may_add_another_that_is_due() -> None:
    timers, done = Timers(), []
    timers.add(1.0, lambda now: timers.add(now, lambda _now: done.append("second")))
    timers.run(1.0)
    assert done == ["second"]
    assert timers.next_at == NEVER
