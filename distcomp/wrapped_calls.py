"""What executors and pools have run in place of the user's function; imported in slot processes.

Each names the function it stands for as `func`, as `functools.partial` does, so that people read its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distcomp.errors import InitializerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_failures: dict[bytes, str | None] = {}
"""By executor: how its initializer failed in this process, or None once it has run."""


class InitializedCall:
    """Calls a function once its executor's initializer has run in this process.

    Args:
        func: the function.
        initializer: what to run first, once in each process.
        initargs: what to call it with.
        key: names the executor.
    """

    __slots__ = ("func", "initargs", "initializer", "key")

    def __init__(
        self, func: Callable[..., Any], initializer: Callable[..., Any], initargs: Sequence[Any], key: bytes
    ) -> None:
        self.func = func
        self.initializer = initializer
        self.initargs = tuple(initargs)
        self.key = key

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the initializer if it has not run here, then the function."""
        if self.key not in _failures:
            self._initialize()
        failure = _failures[self.key]
        if failure is not None:
            raise InitializerError(failure)
        return self.func(*args, **kwargs)

    def _initialize(self) -> None:
        """Run the initializer; a task that is cancelled meanwhile says nothing about it."""
        try:
            self.initializer(*self.initargs)
        except (Exception, SystemExit) as error:
            text = f"the executor's initializer failed: {type(error).__qualname__}: {error}"
            _failures[self.key] = text
            raise InitializerError(text) from error
        _failures[self.key] = None


class ChunkCall:
    """Calls a function for each of several tuples of arguments; gives the list of its results."""

    __slots__ = ("func",)

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run the function for each tuple of arguments."""
        return [self.func(*args) for args in calls]


class StarCall:
    """Calls a function with the items of its one argument."""

    __slots__ = ("func",)

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, args: Sequence[Any]) -> Any:
        """Run the function for one tuple of arguments."""
        return self.func(*args)
