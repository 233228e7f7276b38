"""Threads that overtake others at a known place."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def in_another_thread(work: Callable[[], object]) -> None:
    """Do it there, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Overtaken:
    """A lock at which another thread does something of its own, once, before it is taken."""

    def __init__(self, overtake: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._overtake: Callable[[], object] | None = overtake

    def __enter__(self) -> None:
        overtake, self._overtake = self._overtake, None
        if overtake is not None:
            in_another_thread(overtake)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Gate:
    """A lock that tells when another than the main thread is about to take it."""

    def __init__(self, reached: threading.Event) -> None:
        self._lock = threading.RLock()
        self._reached = reached

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            self._reached.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
