from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from distcomp.config import ClientSettings
from distcomp.errors import WindowFullError
from distcomp.window import Window

WANTED = SimpleNamespace(ended=False)
KIB = 1 << 10


def window(*, is_here: bool = False, tasks: int = 80, size_bytes: int = 64 * KIB) -> Window:
    """One in whose waits a thread finds out that it would wait."""
    lock = threading.Lock()

    def refuse() -> None:
        raise BlockingIOError

    host: Any = SimpleNamespace(
        inline=None, stay=None, patience_s=1.0, check_may_wait=refuse, explain_wait=lambda: None
    )
    settings = ClientSettings(window_tasks=tasks, window_bytes=size_bytes)
    return Window(host, settings, lock, lambda: is_here)


def submit(filled: Window, size_bytes: int = 0) -> None:
    """A single submit's way in."""
    with filled.lock:
        filled.enter(size_bytes)


def feeds(filled: Window, tasks: int, size_bytes: int = 0) -> bool:
    return filled.make_room(cast("Any", WANTED), tasks, size_bytes, waits=False)


def count_submits(filled: Window, size_bytes: int = 0) -> int:
    """How many enter before one would have to wait."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            submit(filled, size_bytes)
            count += 1
    return count


def test_single_submits_enter_beside_what_has_filled_the_window() -> None:
    filled = window()
    assert feeds(filled, 80)
    assert not feeds(filled, 1)
    assert count_submits(filled) == 80 // 8
    filled.release(1, 0, singles=(1, 0))
    assert count_submits(filled) == 1


def test_so_does_one_beside_a_chunk_larger_than_the_window() -> None:
    filled = window(tasks=1)
    assert feeds(filled, 1000)
    assert count_submits(filled) == 1


def test_single_submits_have_bytes_of_their_own() -> None:
    filled = window()
    assert feeds(filled, 1, 64 * KIB)
    assert count_submits(filled, 5 * KIB) == 2


def test_feeders_go_on_beside_single_submits_that_have_filled_the_window() -> None:
    filled = window()
    assert count_submits(filled) == 80
    assert feeds(filled, 8)
    assert feeds(filled, 2)
    assert not feeds(filled, 1)
    filled.release(5, 0, singles=(0, 0))
    assert feeds(filled, 5)


def test_a_window_of_one_kind_takes_what_it_says() -> None:
    filled = window()
    assert feeds(filled, 79)
    assert not feeds(filled, 2)
    assert feeds(filled, 1)
    filled.release(80, 0, singles=(0, 0))
    assert count_submits(filled) == 80


def test_a_loops_own_thread_is_refused_at_twice_the_window() -> None:
    filled = window(is_here=True)
    for _ in range(160):
        submit(filled)
    with pytest.raises(WindowFullError):
        submit(filled)
