from __future__ import annotations

import asyncio
import pickle
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from distcomp.errors import NestedSubmitError
from distcomp.handles import slices
from distcomp.protocol import LendRefused
from distcomp.stay import LEND_AFTER_S, Stay, too_deep

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.handles import Host
    from distcomp.inside import Door

REFUSED = LendRefused(("outer", "inner", "inner"), 2)


class Surroundings:
    """A door and a client's loop, whose time passes by `run`."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.said: list[bool] = []
        self.posts: list[Callable[[Any], None]] = []
        self.stay = Stay(cast("Door", self), self.posts.append)

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def lend(self, *, lent: bool) -> None:
        self.said.append(lent)

    def run(self) -> None:
        """Let the loop do what was posted, for longer than a wait has to last."""

        async def turns() -> None:
            for _ in range(3):
                while self.posts:
                    self.posts.pop(0)(self)
                await asyncio.sleep(2 * LEND_AFTER_S)

        asyncio.run(turns())


def test_a_wait_that_lasts_lends_the_slot() -> None:
    around = Surroundings()
    with around.stay.waiting():
        around.run()
        assert around.said == [True]
        with around.stay.waiting():
            around.run()
    around.run()
    assert around.said == [True, False]
    assert len(around.waits) == 1


def test_what_is_told_is_how_it_is_whatever_was_posted_first() -> None:
    around = Surroundings()
    with around.stay.waiting():
        around.posts.clear()
        around.stay._look()
    lends, goes_on = around.posts
    around.posts[:] = [goes_on, lends]  # the one thread was overtaken by the other
    around.run()
    assert around.said == []


def test_a_short_wait_tells_nobody() -> None:
    around = Surroundings()
    for _ in range(3):
        with around.stay.waiting():
            pass
    around.run()
    assert around.said == []
    assert len(around.waits) == 3


def test_a_wait_that_follows_at_once_counts_for_the_look_under_way() -> None:
    around = Surroundings()
    with around.stay.waiting():
        pass
    with around.stay.waiting():
        assert len(around.posts) == 1
        around.run()
        assert around.said == [True]


def test_who_goes_on_in_between_has_the_slot_back() -> None:
    around = Surroundings()
    with around.stay.waiting():
        around.run()
        with around.stay.going_on():
            around.run()
            assert around.said == [True, False]
        around.run()
        assert around.said == [True, False, True]


def test_a_refusal_ends_the_wait_and_no_later_one() -> None:
    around = Surroundings()
    around.stay.hear(REFUSED, is_idle=False)
    around.stay.check()
    with around.stay.waiting():
        around.run()
        around.stay.hear(REFUSED, is_idle=False)
        with pytest.raises(NestedSubmitError, match=r"^outer > inner \(2 times\): .* at most 2 slots"):
            around.stay.check()
    with around.stay.waiting():
        around.stay.check()
    around.run()
    assert around.said == [True], "what was refused need not be taken back"


def test_who_waits_by_other_means_lends_until_nothing_is_open() -> None:
    around = Surroundings()
    for _ in range(2):
        around.stay.give_way()
    with around.stay.waiting():
        around.run()
    around.stay.hear(None, is_idle=False)
    around.run()
    assert around.said == [True]
    with around.stay.waiting():
        around.stay.hear(None, is_idle=True)
        around.stay.give_way()
    around.run()
    assert around.said == [True, False]
    around.stay.give_way()
    around.run()
    around.stay.hear(REFUSED, is_idle=False)
    around.stay.check()
    around.run()
    assert around.said == [True, False, True]


def test_who_waits_by_other_means_beside_a_waiting_thread_lends_on() -> None:
    around = Surroundings()
    with around.stay.waiting():
        around.run()
        other = threading.Thread(target=around.stay.give_way)
        other.start()
        other.join()
    around.run()
    assert around.said == [True]


def test_another_thread_may_end_a_wait() -> None:
    around = Surroundings()
    around.stay.begin_wait()
    around.run()
    other = threading.Thread(target=around.stay.end_wait)
    other.start()
    other.join()
    around.run()
    assert around.said == [True, False]


def test_the_error_travels_with_its_chain() -> None:
    error = pickle.loads(pickle.dumps(too_deep(REFUSED)))  # noqa: S301 - made in this line
    assert (type(error), error.chain) == (NestedSubmitError, REFUSED.chain)


class WaitingHost:
    """What waiting needs of a client."""

    def __init__(self, stay: Stay) -> None:
        self.stay = stay
        self.lock = threading.Lock()
        self.patience_s = 10.0
        self.is_run = False

    def check_may_wait(self) -> None:
        self.stay.check()


def test_slices_of_a_wait_lend_until_they_are_left() -> None:
    around = Surroundings()
    host = cast("Host", WaitingHost(around.stay))
    for slice_s in slices(host, 600.0):
        assert slice_s <= 0.1
        around.run()
        break
    around.run()
    assert around.said == [True, False]


def test_slices_end_with_a_refusal_on_any_thread() -> None:
    around = Surroundings()
    host = cast("Host", WaitingHost(around.stay))
    seen: list[float] = []

    ended: list[bool] = []

    def wait() -> None:
        for slice_s in slices(host, None):
            seen.append(slice_s)
            around.run()
            if len(seen) == 3:
                around.stay.hear(REFUSED, is_idle=False)

    def expect_refusal() -> None:
        with pytest.raises(NestedSubmitError):
            wait()
        ended.append(True)

    thread = threading.Thread(target=expect_refusal)
    thread.start()
    thread.join()
    assert (seen, ended) == ([0.1] * 3, [True])
