"""Pickles a function again only when it has become another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distcomp.payload_functions import dump_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.ids import FunctionId


class FunctionCache:
    """Remembers functions' bytes."""

    def __init__(self, *, shares_path: bool) -> None:
        self._shares_path = shares_path

    def dump(
        self, function: Callable[..., Any], retry_on: tuple[type[BaseException], ...] | None = None
    ) -> tuple[FunctionId, bytes]:
        """Like `dump_function`."""
        return dump_function(function, retry_on, shares_path=self._shares_path)
