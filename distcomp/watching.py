"""`progress`: shows how far tasks are until all of them have ended."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar, overload

from distcomp.displays import Tally, follow
from distcomp.futures import Future
from distcomp.handles import slices
from distcomp.task_arrays import TaskArray
from distcomp.task_streams import TaskStream
from distcomp.waiting import cancel_interrupted

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["progress"]

T = TypeVar("T")
Waited = TypeVar("Waited", bound="TaskArray[Any] | Collection[Future[Any]]")


@overload
def progress(fs: TaskStream[T]) -> Iterator[T]: ...


@overload
def progress(fs: Waited) -> Waited: ...


def progress(fs: Any) -> Any:
    """Show how far tasks are until all have ended: done, failed, retried, rate, time left.

    It waits as `wait` does: Ctrl-C cancels what was waited for. A bar is shown in terminals and notebooks
    where tqdm is installed (`distcomp[progress]`), else a plain line each second; where lines stay, as
    in a file, one now and then. Nothing is shown for what ends at once.

    Args:
        fs: futures, a `TaskArray`, or a `TaskStream`. Retries are counted by array: those of single futures
            include the retries of calls that were submitted together with them.

    Returns:
        What it was given, all of it settled. Of a stream, which nobody waits for, an iterator over the
        results that shows how far it is.

    Raises:
        TypeError: it was given an iterator, which would be used up.

    Example:
        >>> progress(client.map(abs, [-1, -2])).results()
        [1, 2]
    """
    if isinstance(fs, TaskArray | TaskStream):
        return fs.progress()
    if not hasattr(fs, "__len__"):
        raise TypeError(f"progress needs futures that it can give back: pass list(...) of the {_name(fs)}")
    counted = _Counted(fs)
    try:
        follow(counted.wait, counted.tally)
    except KeyboardInterrupt:
        cancel_interrupted(fs)
        raise
    return fs


def _name(value: object) -> str:
    return type(value).__name__


class _Counted:
    """Futures, counted as they settle."""

    def __init__(self, futures: Iterable[concurrent.futures.Future[Any]]) -> None:
        self._lock = threading.Lock()
        self._all_done = threading.Event()
        self._failed = self._done = 0
        handles = list(futures)
        self._total = len(handles)
        ours = [future for future in handles if isinstance(future, Future)]
        self._books = {id(future.book): future.book for future in ours}.values()
        if not handles:
            self._all_done.set()
        for future in handles:
            future.add_done_callback(self._settled)

    def _settled(self, future: concurrent.futures.Future[Any]) -> None:
        if isinstance(future, Future):
            failed = future.cancelled() or future.failed()
        else:
            failed = future.cancelled() or future.exception() is not None
        with self._lock:
            self._done += 1
            self._failed += failed
            if self._done == self._total:
                self._all_done.set()

    def tally(self) -> Tally:
        retried = sum(book.retried_count for book in self._books)
        return Tally(self._total, self._done, self._failed, retried)

    def wait(self, timeout_s: float) -> bool:
        """Wait by the rules of the futures' client, if it is one of ours."""
        host = next((book.host for book in self._books), None)
        if self._all_done.is_set() or host is None:
            return self._all_done.wait(timeout_s)
        return any(self._all_done.wait(slice_s) for slice_s in slices(host, timeout_s))
