"""Functions as bytes: made once for each state of a function, loaded once in each slot process.

A function's blob is the pickle of `(function, retry_on, sources)`: the first two are pickles of their own,
so that the source lines are in place before any code runs.
"""

from __future__ import annotations

import inspect
import linecache
from hashlib import blake2b
from pathlib import Path
from types import BuiltinFunctionType, CodeType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from distcomp.errors import UnloadableTaskError, UnpicklableError, UnpicklableResultError
from distcomp.ids import FunctionId
from distcomp.payload.culprit import describe
from distcomp.payload.pickler import as_task, dumps_with_codes, loads
from distcomp.payload.plain import dump_plain

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SOURCE_LINES = 4000
MAX_NAME_LENGTH = 256

_PERMANENT = (UnpicklableError, UnpicklableResultError, UnloadableTaskError)
"""What another try on the same bytes cannot heal."""

Sources: TypeAlias = "dict[str, dict[int, str]]"
"""Source lines by file name and line number."""


class LoadedFunction(NamedTuple):
    """A function in a slot process, and which exceptions `retries` may be spent on (None: any)."""

    function: Callable[..., Any]
    retry_on: tuple[type[BaseException], ...] | None

    def is_retriable(self, error: BaseException) -> bool:
        """Say whether a try that ended with `error` may be followed by another."""
        if isinstance(error, _PERMANENT):
            return False
        return isinstance(error, Exception if self.retry_on is None else self.retry_on)


def check_runnable(function: Any) -> None:
    """Refuse what cannot be run by calling it.

    Raises:
        TypeError: it cannot be called, or a call only makes a coroutine.
    """
    if type(function) is BuiltinFunctionType:  # these are checked at each call
        return
    if not callable(function):
        raise TypeError(f"a task is a function and its arguments; {function!r:.80} cannot be called")
    if any(map(inspect.iscoroutinefunction, (function, type(function).__call__))):
        name = function_name(function)
        raise TypeError(
            f"{name} is a coroutine function, and tasks are plain calls; let one run it: "
            f"def task(*args): return asyncio.run({name}(*args))"
        )


def dump_function(
    function: Callable[..., Any],
    retry_on: tuple[type[BaseException], ...] | None = None,
    *,
    shares_path: bool,
) -> tuple[FunctionId, bytes]:
    """Turn a function into bytes.

    Args:
        function: any callable.
        retry_on: the exceptions that `retries` are for, or None for any.
        shares_path: whether slots can import this process's local modules.

    Returns:
        The id of the bytes, and the bytes.

    Raises:
        TypeError: it is no function; see `check_runnable`.
        UnpicklableError: naming the path to what cannot be pickled.

    Example:
        >>> load_function(dump_function(abs, shares_path=True)[1]).function(-1)
        1
    """
    function = as_task(function)
    check_runnable(function)
    try:
        pickled, codes = dumps_with_codes((function, retry_on), shares_path=shares_path)
    except Exception as error:
        raise UnpicklableError(describe(function, "function", error, shares_path=shares_path)) from error
    blob = dump_plain((pickled, _sources(codes)))
    return FunctionId(blake2b(blob, digest_size=32).digest()), blob


def load_function(blob: bytes) -> LoadedFunction:
    """Build a function from bytes made by `dump_function`.

    Args:
        blob: the bytes.

    Returns:
        The function with what belongs to it.

    Raises:
        UnloadableTaskError: it cannot be rebuilt here; the text says why, and names a missing module.
    """
    pickled, sources = loads(blob, "the function")
    _install_sources(sources)
    return LoadedFunction(*loads(pickled, "the function"))


def function_name(function: Callable[..., Any]) -> str:
    """Name a callable for people: `module.qualname`, or the name of its type."""
    named = getattr(function, "func", function)
    name = getattr(named, "__qualname__", type(named).__qualname__)
    module = getattr(named, "__module__", None)
    return (f"{module}.{name}" if module and module != "__main__" else name)[:MAX_NAME_LENGTH]


# --- source lines ---------------------------------------------------------------------------------


def _sources(codes: list[CodeType]) -> Sources:
    """The source lines of functions that travel by value, as far as this process has them."""
    sources: Sources = {}
    left = MAX_SOURCE_LINES
    for code in codes:
        lines = linecache.getlines(code.co_filename)
        stop = min(_last_line(code), len(lines), code.co_firstlineno + left)
        found = {number: lines[number - 1] for number in range(code.co_firstlineno, stop + 1)}
        if found:
            sources.setdefault(code.co_filename, {}).update(found)
            left = max(0, left - len(found))
    return sources


def _last_line(code: CodeType) -> int:
    own = max((line for _, _, line in code.co_lines() if line is not None), default=code.co_firstlineno)
    nested = (_last_line(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return max(own, *nested, 0)


def _install_sources(sources: Sources) -> None:
    """Let tracebacks of this process show lines of files that it does not have."""
    for name, found in sources.items():
        if Path(name).is_file():
            continue
        lines = linecache.getlines(name)
        lines += ["\n"] * (max(found) - len(lines))
        for number, line in found.items():
            lines[number - 1] = line
        # Without a modification time the entry stays when `linecache.checkcache` looks at files.
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
