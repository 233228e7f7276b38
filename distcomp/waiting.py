"""Waiting for many futures: `wait`, `as_completed` and `gather`.

They do what the standard library's do, with our futures and with others, by the rules of the client that the
first open one belongs to.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import TYPE_CHECKING, Any, TypeVar, cast

from distcomp import waits_here
from distcomp.futures import Future
from distcomp.handles import SIGNAL_S, WAITER_S, slices

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from concurrent.futures._base import DoneAndNotDoneFutures

    from distcomp.handles import Host

__all__ = ["as_completed", "gather", "wait"]

T = TypeVar("T")


def _first_host(futures: Collection[Any]) -> Host | None:
    """The client whose rules apply to waiting for `futures`: that of the first open one of ours."""
    ours = (each for each in futures if isinstance(each, Future) and each.is_open())
    future = next(ours, None)
    return None if future is None else future.host


def _slices(host: Host | None, timeout_s: float | None, futures: int) -> Iterable[float | None]:
    """Times to wait by the rules of a client, if there is one."""
    return (timeout_s,) if host is None else slices(host, timeout_s, max(SIGNAL_S, futures * WAITER_S))


def _handles(futures: Iterable[Any]) -> Any:
    """A `TaskArray` stands for its futures."""
    return getattr(futures, "futures", futures)


def cancel_interrupted(futures: Iterable[Any]) -> None:
    """Cancel what somebody has waited for who was interrupted; a run goes on without him."""
    for future in futures:
        if not (isinstance(future, Future) and future.host.is_run):
            future.cancel()


def wait(
    fs: Iterable[Future[T]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDoneFutures[T]:
    """Wait for futures like `concurrent.futures.wait`; Ctrl-C also cancels what was waited for.

    Args:
        fs: futures, or a `TaskArray`.
        timeout: seconds to wait at most; None waits for ever.
        return_when: `FIRST_COMPLETED`, `FIRST_EXCEPTION` or `ALL_COMPLETED` of `concurrent.futures`.

    Returns:
        Two sets: `done` and `not_done`.

    Example:
        >>> done, not_done = wait(client.map(abs, [-1, -2]), timeout=60)
        >>> len(done), len(not_done)
        (2, 0)
    """
    futures = set(_handles(fs))
    inline = waits_here.inline_of(futures)
    try:
        if inline is not None:
            inline.work(lambda: _satisfied(waits_here.split(futures), return_when), timeout)
            return waits_here.split(futures)
        for slice_s in _slices(_first_host(futures), timeout, len(futures)):
            ended = concurrent.futures.wait(futures, slice_s, return_when)
            if _satisfied(ended, return_when):
                break
    except KeyboardInterrupt:
        cancel_interrupted(futures)
        raise
    return ended


def as_completed(fs: Iterable[Future[T]], timeout: float | None = None) -> Iterator[Future[T]]:
    """Give futures as they settle, like `concurrent.futures.as_completed`.

    Args:
        fs: futures, or a `TaskArray`.
        timeout: seconds that all of it may take at most; None waits for ever.

    Returns:
        An iterator over the futures in the order in which they settle.

    Raises:
        concurrent.futures.TimeoutError: not all settled in time.

    Example:
        >>> sorted(future.result() for future in as_completed(client.map(abs, [-1, -2])))
        [1, 2]
    """
    handles = list(_handles(fs))
    left: set[Any] = set(handles)
    inline = waits_here.inline_of(handles)
    host = _first_host(left)
    stay = None if host is None else host.stay
    try:
        if inline is not None:
            yield from waits_here.as_completed(inline, handles, timeout)
            return
        for slice_s in _slices(host, timeout, len(left)):
            with contextlib.suppress(concurrent.futures.TimeoutError):
                for future in concurrent.futures.as_completed(tuple(left), slice_s):
                    left.discard(future)
                    with stay.going_on() if stay is not None else contextlib.nullcontext():
                        yield cast("Future[T]", future)
            if not left:
                return
        raise concurrent.futures.TimeoutError(f"{len(left)} futures have not settled in {timeout} s")
    except KeyboardInterrupt:
        cancel_interrupted(left)
        raise


def gather(futures: Iterable[Future[T]]) -> list[T]:
    """Wait for the results of futures, in their order; the first failed one in that order raises.

    Args:
        futures: futures, or a `TaskArray`.

    Returns:
        The results.

    Example:
        >>> gather([client.submit(abs, -1), client.submit(abs, 2)])
        [1, 2]
    """
    handles = list(_handles(futures))
    try:
        return [future.result() for future in handles]
    except KeyboardInterrupt:
        cancel_interrupted(handles)
        raise


def _satisfied(ended: DoneAndNotDoneFutures[Any], return_when: str) -> bool:
    """Whether a wait was ended by its futures, not by the clock."""
    if return_when == FIRST_COMPLETED and ended.done:
        return True
    if return_when == FIRST_EXCEPTION and any(map(_raised, ended.done)):
        return True
    return not ended.not_done


def _raised(future: concurrent.futures.Future[Any]) -> bool:
    return not future.cancelled() and future.exception() is not None
