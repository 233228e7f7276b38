from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest
from test_futures import Group
from test_task_arrays import World

from distcomp import displays
from distcomp.displays import Silence, Tally
from distcomp.payload import dump_failure
from distcomp.watching import progress


class Seen(Silence):
    """Keeps the last tally that it was to show, and lets a test act when the first one comes."""

    def __init__(self) -> None:
        self.last = Tally(None, 0, 0, 0)
        self.began = threading.Event()

    def show(self, tally: Tally) -> None:
        del tally
        self.began.set()

    def close(self, tally: Tally) -> None:
        self.last = tally


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    display = Seen()
    monkeypatch.setattr(displays, "_fitting", lambda _: display)
    return display


def test_futures_are_counted_until_all_have_settled(seen: Seen) -> None:
    group = Group(4)
    group.group.retried = 7

    def settle() -> None:
        assert seen.began.wait(60)
        group.give(0, "a", "b")
        group.fail(2, dump_failure(KeyError("k")))
        group.futures[3].cancel()

    thread = threading.Thread(target=settle)
    thread.start()
    assert progress(group.futures) is group.futures
    thread.join()
    assert seen.last == Tally(4, 4, 2, 7)
    assert group.futures[1].result() == "b"


def test_the_standard_librarys_futures_are_counted_too(seen: Seen) -> None:
    futures: list[Any] = [concurrent.futures.Future() for _ in range(3)]
    futures[0].set_result(1)
    futures[1].set_exception(ValueError())
    futures[2].cancel()
    progress(futures)
    assert seen.last == Tally(3, 3, 2, 0)
    progress([])
    assert seen.last == Tally(0, 0, 0, 0)


def test_an_iterator_is_refused() -> None:
    with pytest.raises(TypeError, match=r"list\(\.\.\.\) of the generator"):
        progress(future for future in ())  # type: ignore[call-overload]  # that is what is tested


def test_an_interrupt_cancels_what_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Silence):
        def show(self, tally: Tally) -> None:
            del tally
            raise KeyboardInterrupt

    monkeypatch.setattr(displays, "_fitting", lambda _: Interrupted())
    group = Group(2)
    group.give(0, "a")
    with pytest.raises(KeyboardInterrupt):
        progress(group.futures)
    assert group.host.cancelled == [(group.group, ((1, 2),))]


def test_an_interrupt_while_an_arrays_display_is_at_work_cancels_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> Silence:
        raise KeyboardInterrupt

    monkeypatch.setattr(displays, "_fitting", interrupted)
    world = World(3)
    world.give(0, "a")
    with pytest.raises(KeyboardInterrupt):
        progress(world.array)
    assert (world.array.done_count, len(world.array.failures())) == (3, 2)
