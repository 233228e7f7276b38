"""Finds what inside a user's object cannot be pickled, and says where it is.

The search begins when a pickle has failed: it goes down to a part that fails by itself, from there to a
part of that, until a culprit without failing parts is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from distcomp.errors import UnpicklableError
from distcomp.payload.pickler import dumps

MAX_STEPS = 12
MAX_PARTS = 10_000


def unpicklable(
    call: tuple[tuple[Any, ...], dict[str, Any]], error: Exception, *, shares_path: bool
) -> UnpicklableError:
    """Make the error for a call whose arguments cannot be pickled.

    Args:
        call: positional and keyword arguments.
        error: what pickling them raised.
        shares_path: as they were pickled with.

    Returns:
        An error whose text names the argument and the path to the culprit in it.
    """
    args, kwargs = call
    named = [(f"argument {position}", value) for position, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        reason = _failure(value, shares_path=shares_path)
        if reason is not None:
            return UnpicklableError(describe(value, name, reason, shares_path=shares_path))
    return UnpicklableError(f"arguments: {_reason(error)}")


def describe(value: Any, name: str, error: Exception, *, shares_path: bool) -> str:
    """Name the path to what cannot be pickled.

    Args:
        value: what could not be pickled.
        name: what to call it.
        error: what pickling it raised.
        shares_path: as it was pickled with.

    Returns:
        For example `argument 2 → .config → ['lock']: cannot pickle '_thread.lock' object`.
    """
    path, seen = [name], {id(value)}
    for _ in range(MAX_STEPS):
        if isinstance(error, UnpicklableError):  # it says itself what to do
            break
        step = _failing_part(value, seen, shares_path=shares_path)
        if step is None:
            break
        label, value, error = step
        path.append(label)
        seen.add(id(value))
    return f"{' → '.join(path)}: {_reason(error)}"


def _failing_part(value: Any, seen: set[int], *, shares_path: bool) -> tuple[str, Any, Exception] | None:
    """The first part that fails; None if there is none, or if looking further fails."""
    try:
        return _search_parts(value, seen, shares_path=shares_path)
    except Exception:  # noqa: BLE001 - user code, in a `__repr__` or an attribute; the path ends before it
        return None


def _search_parts(value: Any, seen: set[int], *, shares_path: bool) -> tuple[str, Any, Exception] | None:
    for number, (label, part) in enumerate(_parts(value)):
        if number >= MAX_PARTS:
            break
        if id(part) in seen:
            continue
        error = _failure(part, shares_path=shares_path)
        if error is not None:
            return label, part, error
    return None


def _failure(value: Any, *, shares_path: bool) -> Exception | None:
    try:
        dumps(value, shares_path=shares_path)
    except Exception as error:  # noqa: BLE001 - whatever pickling raises is what is asked for
        return error
    return None


def _reason(error: Exception) -> str:
    try:
        text = str(error)
    except Exception as problem:  # noqa: BLE001 - user code in the exception
        text = f"<its text cannot be had: {type(problem).__name__}>"
    return text if isinstance(error, TypeError) and text else f"{type(error).__name__}: {text}"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling a value pickles too, each part with the words for the way there."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key!r:.40}]", part
            yield f"key {key!r:.40}", key
    elif isinstance(value, (str, bytes)):
        return
    elif isinstance(value, Sequence):
        yield from ((f"[{position}]", part) for position, part in enumerate(value))
    elif isinstance(value, AbstractSet):
        yield from ((f"member {part!r:.40}", part) for part in value)
    elif isinstance(value, FunctionType):
        yield from _function_parts(value)
    elif isinstance(value, MethodType):
        yield from (("the object it is bound to", value.__self__), ("its function", value.__func__))
    elif isinstance(value, CellType):
        yield "its content", value.cell_contents
    if not isinstance(value, FunctionType):
        yield from _attributes(value)


def _function_parts(function: FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        if cell != CellType():  # it has been assigned
            yield f"closure variable {name!r}", cell.cell_contents
    for name in _names(code):
        if name in function.__globals__:
            yield f"global {name!r}", function.__globals__[name]
    yield from ((f"default {number}", part) for number, part in enumerate(function.__defaults__ or (), 1))
    yield from ((f"default {name!r}", part) for name, part in (function.__kwdefaults__ or {}).items())
    yield from ((f".{name}", part) for name, part in vars(function).items())


def _names(code: Any) -> Iterator[str]:
    """Names that a code and those nested in it may look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names(constant)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from ((f".{name}", part) for name, part in list(getattr(value, "__dict__", {}).items()))
    if isinstance(value, (type, ModuleType)):
        return
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)
