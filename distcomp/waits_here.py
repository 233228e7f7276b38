"""Waiting for many futures in a thread that runs their tasks itself; see `distcomp.inline_program`."""

from __future__ import annotations

import concurrent.futures
import time
from concurrent.futures._base import DoneAndNotDoneFutures
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator


class RunsHere(Protocol):
    """What runs tasks in the threads that wait for them; see `distcomp.inline_program`."""

    def work(self, done: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Run tasks until `done()`; whether it came to that in time."""

    def look(self, done: Callable[[], bool]) -> None:
        """Somebody looks whether it is `done()`: get on with it."""

    def want(self, done: Callable[[], bool]) -> None:
        """Somebody wants to be told once it is `done()`."""


def inline_of(futures: Collection[Any]) -> RunsHere | None:
    """What runs tasks in this thread, if the first open future of ours needs that."""
    future = next((each for each in futures if hasattr(each, "is_open") and each.is_open()), None)
    if future is None or future.host.inline is None:
        return None
    future.host.check_may_wait()
    inline: RunsHere = future.host.inline
    return inline


def split(futures: Collection[Any]) -> DoneAndNotDoneFutures[Any]:
    """Which futures have ended, and which have not."""
    ended = set(filter(_has_ended, futures))
    return DoneAndNotDoneFutures(ended, set(futures) - ended)


def as_completed(inline: RunsHere, futures: list[Any], timeout_s: float | None) -> Iterator[Any]:
    """Give futures as they settle, running tasks between them."""
    left: dict[Any, None] = dict.fromkeys(futures)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while left:
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is None or left_s > 0:
            inline.work(lambda: any(map(_has_ended, left)), left_s)
        ended = list(filter(_has_ended, left))
        if not ended:
            raise concurrent.futures.TimeoutError(f"{len(left)} futures have not settled in {timeout_s} s")
        for future in ended:
            del left[future]
            yield future


def _has_ended(future: Any) -> bool:
    return not future.is_open() if hasattr(future, "is_open") else future.done()
