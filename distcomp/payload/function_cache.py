"""Pickles a function again only when it has become another one; `distcomp.payload.watch` tells."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from threading import Lock
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.payload.functions import dump_function
from distcomp.payload.pickler import as_task
from distcomp.payload.watch import Watched, is_unchanged, watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.ids import FunctionId

MAX_KNOWN = 1024


class _Known(NamedTuple):
    """The bytes of a function, and what they depend on: itself first."""

    watched: tuple[Watched, ...]
    retry_on: tuple[type[BaseException], ...] | None
    dumped: tuple[FunctionId, bytes]


class FunctionCache:
    """The bytes of the functions that a client uses.

    Args:
        shares_path: whether slots can import this process's local modules.

    Example:
        >>> cache = FunctionCache(shares_path=True)
        >>> cache.dump(print) == cache.dump(print)
        True
    """

    def __init__(self, *, shares_path: bool) -> None:
        self._shares_path = shares_path
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._known)

    def dump(
        self, function: Callable[..., Any], retry_on: tuple[type[BaseException], ...] | None = None
    ) -> tuple[FunctionId, bytes]:
        """Turn a function into bytes, or find them.

        Args:
            function: any callable; only plain functions are remembered.
            retry_on: the exceptions that `retries` are for, or None for any.

        Returns:
            The id of the bytes, and the bytes.

        Raises:
            UnpicklableError: naming the path to what cannot be pickled.
        """
        if type(function) is not FunctionType:
            function = as_task(function)
        if type(function) is not FunctionType:
            return dump_function(function, retry_on, shares_path=self._shares_path)
        known = self._known.get(id(function))
        if known is not None and known.retry_on == retry_on and all(map(is_unchanged, known.watched)):
            return known.dumped
        watched = watch(function)  # before it is pickled: what changes meanwhile is seen next time
        dumped = dump_function(function, retry_on, shares_path=self._shares_path)
        if watched:
            self._keep(function, _Known(watched, retry_on, dumped))
        return dumped

    def _keep(self, function: FunctionType, known: _Known) -> None:
        key = id(function)
        if key not in self._known:
            weakref.finalize(function, self._known.pop, key, None).atexit = False
        with self._lock:
            self._known[key] = known
            self._known.move_to_end(key)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
