"""Tells whether a function, or a class that travels by value, is still what it was.

A function is taken to be the same while its code, defaults, attributes, closure cells and the globals it
names hold the same objects as last time, and so for each function among these. Small containers of plain
values are compared by content as well, since a setting is often changed in place; larger objects are not:
changing them in place goes unnoticed until the name is bound anew.

Nothing here keeps a function alive: functions, classes and modules are held weakly.
"""

from __future__ import annotations

import weakref
from types import CellType, CodeType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.payload.plain import PLAIN_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FOLLOWED = 200
SMALL_ITEMS = 64

_ABSENT = object()
_EMPTY = CellType()
_weak = weakref.ref


class _Copy(NamedTuple):
    """A small container of plain values as it was."""

    original: Any
    content: Any


class Watched(NamedTuple):
    """One function as it was when it was pickled."""

    function: weakref.ref[FunctionType]
    code: CodeType
    defaults: Any
    kwdefaults: Any
    attributes: tuple[tuple[str, Any], ...]
    contents: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]


# --- the same as last time ------------------------------------------------------------------------


def is_unchanged(was: Watched) -> bool:
    """Say whether a function is what it was."""
    function = was.function()
    if (
        function is None
        or function.__code__ is not was.code
        or function.__defaults__ is not was.defaults
        or function.__kwdefaults__ is not was.kwdefaults
    ):
        return False
    namespace = function.__globals__
    for name, held in was.named:
        if not is_same(held, namespace.get(name, _ABSENT)):
            return False
    if was.contents and not all(map(is_same, was.contents, map(_content, function.__closure__ or ()))):
        return False
    attributes = function.__dict__
    if not attributes and not was.attributes:
        return True
    return len(attributes) == len(was.attributes) and all(
        is_same(held, attributes.get(name, _ABSENT)) for name, held in was.attributes
    )


def is_same(held: Any, value: Any) -> bool:
    """Say whether a value is what `hold` was given."""
    kind = type(held)
    if kind is _weak:
        return value is not None and held() is value  # a dead one gives None
    if kind is _Copy:
        return held.original is value and held.content == value
    return held is value


def _content(cell: CellType) -> Any:
    return cell.cell_contents if cell != _EMPTY else _ABSENT


# --- remembering ----------------------------------------------------------------------------------


def watch(function: FunctionType) -> tuple[Watched, ...]:
    """Remember a function and those it depends on; nothing if they are too many to look at each time."""
    found = {id(function): function}
    watched = []
    for number, current in enumerate(_follow(function, found)):
        if number == MAX_FOLLOWED:
            return ()
        watched.append(_as_watched(current))
    return tuple(watched)


def _follow(function: FunctionType, found: dict[int, FunctionType]) -> Iterator[FunctionType]:
    waiting = [function]
    while waiting:
        current = waiting.pop()
        yield current
        for value in _values(current):
            for dependency in _functions_in(value):
                if id(dependency) not in found:
                    found[id(dependency)] = dependency
                    waiting.append(dependency)


def _values(function: FunctionType) -> Iterator[Any]:
    """What a function can reach at once."""
    yield from (function.__globals__.get(name) for name in _names(function.__code__))
    yield from map(_content, function.__closure__ or ())
    yield from vars(function).values()


def _functions_in(value: Any) -> Iterator[FunctionType]:
    """The functions that a value brings along when it travels by value."""
    inner = getattr(value, "__dict__", {}).get("__wrapped__")
    if type(value) is FunctionType:
        yield value
    elif type(inner) is FunctionType:
        yield inner
    elif isinstance(value, type) and value.__module__ == "__main__":
        members = (getattr(member, "__func__", member) for member in vars(value).values())
        yield from (member for member in members if type(member) is FunctionType)


def _as_watched(function: FunctionType) -> Watched:
    namespace = function.__globals__
    return Watched(
        weakref.ref(function),
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        tuple((name, hold(value)) for name, value in vars(function).items()),
        tuple(hold(_content(cell)) for cell in function.__closure__ or ()),
        tuple(
            (name, hold(namespace.get(name, _ABSENT))) for name in dict.fromkeys(_names(function.__code__))
        ),
    )


def _names(code: CodeType) -> Iterator[str]:
    """Names that a code and those nested in it may look up among the globals."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def hold(value: Any) -> Any:
    """Keep hold of a value without keeping a function, class or module alive."""
    if type(value) in {list, set, dict} and len(value) <= SMALL_ITEMS and _is_plain(value):
        return _Copy(value, value.copy())
    try:
        return weakref.ref(value)
    except TypeError:  # it allows no weak references: numbers, texts, built-in containers
        return value


def _is_plain(container: Any) -> bool:
    items = [*container, *container.values()] if isinstance(container, dict) else container
    return PLAIN_TYPES.issuperset(map(type, items))
