"""Typed records: what their fields may hold, and the readers that check it.

A *record* is a `NamedTuple` whose fields are annotated with a kind from this module. On the wire it is
a msgpack array of its fields. Reading checks every type and bound, fills in defaults for fields that an
older peer does not send, and drops fields that only a newer peer knows.
"""

from __future__ import annotations

import re
from functools import cached_property
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

INLINE_BLOB_BYTES = 64 << 10
MAX_BLOB_BYTES = 1 << 30
MAX_ITEMS = 1 << 17
MAX_COUNTER = 2**63 - 1

_COUNTER_BOUNDS = "not v >> 63"
"""From 0 to `MAX_COUNTER`; a test of several joined by `|` tests them all."""
_unique = count()


class Kind:
    """What a field may hold. Calling a kind returns the checked value or raises `ValueError`.

    `test` is the check as an expression over `v`, which readers are compiled from, and `names` is what
    that refers to. A kind that makes something else of its value has no `test`, and is called.
    `usual` is the type that values have, unless `is_mixed`: then some have another one. `bounds` is what else
    is to be checked of a value that has it, empty if nothing is.
    `large` is an expression over `v`, too: whether it holds a blob above `INLINE_BLOB_BYTES`. It is empty
    where none can be.
    """

    usual: type[Any] = tuple
    is_mixed = False
    bounds = ""
    test = ""
    wanted = "something else"
    names: Mapping[str, Any] = MappingProxyType({})
    large = ""

    def __call__(self, value: Any) -> Any:
        """The value, checked."""
        if not eval(self.test, {"v": value, **self.names}):  # noqa: S307 - the expression is ours
            raise self.misfit(value)
        return value

    def misfit(self, value: Any) -> ValueError:
        """The error for a value that this kind refuses."""
        return ValueError(f"{value!r:.40} is not {self.wanted}")


class Integer(Kind):
    """An integer between two bounds, both included."""

    usual = int

    def __init__(self, low: int, high: int) -> None:
        self.bounds = f"{low} <= v <= {high}" if (low, high) != (0, MAX_COUNTER) else _COUNTER_BOUNDS
        self.test = f"type(v) is int and {self.bounds}"
        self.wanted = f"an integer from {low} to {high}"


class Real(Kind):
    """A finite number of at least `low`."""

    usual = float
    is_mixed = True  # an integer is a number, too

    def __init__(self, low: float = 0.0) -> None:
        self.bounds = f"{low} <= v < 1e999"  # infinity, as a constant
        self.test = f"type(v) in (float, int) and {self.bounds}"
        self.wanted = f"a finite number of at least {low}"


class Flag(Kind):
    """True or False."""

    usual = bool
    test = "type(v) is bool"
    wanted = "true or false"


class Text(Kind):
    """Unicode text of at most so many characters."""

    usual = str

    def __init__(self, longest: int) -> None:
        self.bounds = f"len(v) <= {longest}"
        self.test = f"type(v) is str and {self.bounds}"
        self.wanted = f"text of at most {longest} characters"


class Octets(Kind):
    """Bytes of a length between two bounds, both included."""

    usual = bytes

    def __init__(self, shortest: int, longest: int) -> None:
        self.bounds = f"{shortest} <= len(v) <= {longest}" if shortest < longest else f"len(v) == {longest}"
        self.test = f"type(v) is bytes and {self.bounds}"
        self.wanted = f"{shortest} to {longest} bytes"
        if longest > INLINE_BLOB_BYTES:
            self.large = f"len(v) > {INLINE_BLOB_BYTES}"


class Digest(Kind):
    """A digest of 32 bytes, or nothing."""

    usual = bytes
    bounds = "len(v) in (0, 32)"
    test = f"type(v) is bytes and {bounds}"
    wanted = "a digest of 32 bytes, or none"


class Span(Kind):
    """A range as `(start, stop)`, not empty."""

    bounds = f"len(v) == 2 and type(v[0]) is int and type(v[1]) is int and 0 <= v[0] < v[1] <= {MAX_COUNTER}"
    test = f"type(v) is tuple and {bounds}"
    wanted = "a range of indexes"


class Row(Kind):
    """A tuple with one kind for each place."""

    def __init__(self, *kinds: Kind) -> None:
        self.kinds = kinds
        self.wanted = f"a row of {len(kinds)}: {', '.join(kind.wanted for kind in kinds)}"
        if all(kind.test and not kind.is_mixed for kind in kinds):
            self._types = f"types{next(_unique)}"
            bounds = _joined_bounds(kinds, [f"v[{place}]" for place in range(len(kinds))])
            self.bounds = " and ".join([f"(*map(type, v),) == {self._types}", *bounds])
            self.test = f"type(v) is tuple and {self.bounds}"

    @cached_property
    def names(self) -> Mapping[str, Any]:  # type: ignore[override] # computed when it is first needed
        """The types of the places, and what their bounds refer to."""
        types = {self._types: tuple(kind.usual for kind in self.kinds)}
        return types | {name: value for kind in self.kinds for name, value in kind.names.items()}

    @cached_property
    def large(self) -> str:  # type: ignore[override] # computed when it is first needed
        """Whether a place holds a large blob."""
        return _any_large(self.kinds)

    @cached_property
    def read(self) -> Callable[[Any], Any]:
        """The reader of rows that hold records."""
        labels = [str(place) for place in range(len(self.kinds))]
        return _compiled_reader(self.kinds, labels, self._refuse, tuple)

    def __call__(self, value: Any) -> Any:
        """The row, each place checked."""
        return super().__call__(value) if self.test else self.read(value)

    def _refuse(self, value: Any) -> tuple[Any, ...]:
        raise self.misfit(value)


class Listing(Kind):
    """A tuple of values of one kind."""

    def __init__(self, kind: Kind, most: int = MAX_ITEMS) -> None:
        self.kind, self.most = kind, most
        self.wanted = f"a list of at most {most} items, each {kind.wanted}"
        if kind.test:
            self._every = f"every{next(_unique)}"
            self.bounds = f"(not v or (len(v) <= {most} and {self._every}(v)))"
            self.test = f"type(v) is tuple and {self.bounds}"

    @cached_property
    def names(self) -> Mapping[str, Any]:  # type: ignore[override] # computed when it is first needed
        """The function that tests all items."""
        return {self._every: _compiled_test(self.kind)}

    @cached_property
    def large(self) -> str:  # type: ignore[override] # computed when it is first needed
        """Whether an item holds a large blob."""
        if not self.kind.large:
            return ""
        item = f"item{next(_unique)}"
        return f"v and any([{_renamed(self.kind.large, item)} for {item} in v])"

    def __call__(self, value: Any) -> Any:
        """The list, each item checked."""
        if self.test:
            return super().__call__(value)
        if type(value) is not tuple or len(value) > self.most:
            raise self.misfit(value)
        return tuple(map(self.kind, value)) if value else value


class Nested(Kind):
    """A record within a record."""

    def __init__(self, record: type[Any]) -> None:
        self.record = record
        self.wanted = f"a {record.__name__}"

    @cached_property
    def schema(self) -> Schema:
        """The record's fields."""
        return Schema(self.record)

    @cached_property
    def large(self) -> str:  # type: ignore[override] # computed when it is first needed
        """Whether a field holds a large blob."""
        return _any_large(_kinds(self.record))

    def __call__(self, value: Any) -> Any:
        """The record, made of its fields."""
        return self.schema.build(value)


class Repeated(Kind):
    """A field that mostly says what it said before: an equal value is taken as it was checked, or made, then.

    Args:
        kind: what the values are; without large blobs.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind, self.wanted, self.usual = kind, kind.wanted, kind.usual

    def __call__(self, value: Any) -> Any:
        """The value, checked."""
        return self.kind(value)


class Schema:
    """The fields of one record class, read from its annotations and compiled into one reader.

    Args:
        record: the class.
        skip: how many values stand before its fields (a message has its tag there).
    """

    def __init__(self, record: type[Any], skip: int = 0) -> None:
        kinds = _kinds(record)
        self.record = record
        self._skip, self._places = skip, len(kinds)
        self._defaults = tuple(record._field_defaults.values())
        self._required = len(kinds) - len(self._defaults)
        labels = [f"{record.__name__}.{name}" for name in record._fields]
        self.build = _compiled_reader(kinds, labels, self._fit, record, skip)
        """Makes a record from decoded values; raises `ValueError` naming the field that is wrong."""

    def _fit(self, values: Any) -> tuple[Any, ...]:
        """Values of another version: fill in defaults, or drop what only a newer peer knows."""
        if type(values) is not tuple:
            raise ValueError(f"{self.record.__name__} is a list of its fields")
        given = len(values) - self._skip
        if given < self._required:
            raise ValueError(f"{self.record.__name__} needs at least {self._required} fields")
        return (*values, *self._defaults[given - self._required :])[: self._skip + self._places]


def _renamed(test: str, place: str) -> str:
    return re.sub(r"\bv\b", place, test)


def _joined_bounds(kinds: Sequence[Kind], names: Sequence[str]) -> list[str]:
    """Expressions for the bounds of values that have their kinds' usual types; one for all counters."""
    placed = list(zip(kinds, names, strict=True))
    counters = [name for kind, name in placed if kind.bounds == _COUNTER_BOUNDS]
    together = [_renamed(_COUNTER_BOUNDS, f"({' | '.join(counters)})")] if counters else []
    return together + [
        f"({_renamed(kind.bounds, name)})"
        for kind, name in placed
        if kind.bounds not in ("", _COUNTER_BOUNDS)
    ]


def _compiled_reader(
    kinds: Sequence[Kind],
    labels: list[str],
    fit: Callable[[Any], tuple[Any, ...]],
    record: type[Any],
    skip: int = 0,
) -> Callable[[Any], Any]:
    """One function that takes a tuple, checks all its places, and makes a `record` of them.

    Written out and compiled, because a call for each field would make reading a message four times dearer.
    The types of all places are compared at once, and all counters with one shift. What does not pass goes
    to a second function, made when it is first needed, which goes place by place: it takes what is unusual,
    and names what is wrong. What is no tuple of the right length goes to `fit` there, which makes one of it
    or raises.
    """
    scope: dict[str, Any] = {"new": tuple.__new__, "misfit": _misfit, "fit": fit}
    scope.update(record=record, kinds=kinds, labels=labels)
    scope["usual"] = (*[int] * skip, *(kind.usual for kind in kinds))

    def thorough(values: Any) -> Any:
        made = _compiled("thorough", _thorough_lines(kinds, skip, scope), scope)
        return made(values)

    scope["thorough"] = thorough
    return _compiled("read", _usual_lines(kinds, skip, scope), scope)


def _compiled(name: str, lines: Sequence[str], scope: dict[str, Any]) -> Callable[[Any], Any]:
    """A function of `values`, which stands in `scope` by its name from now on."""
    exec("\n    ".join([f"def {name}(values):", *lines]), scope)  # noqa: S102 - the source is ours
    made: Callable[[Any], Any] = scope[name]
    return made


def _usual_lines(kinds: Sequence[Kind], skip: int, scope: dict[str, Any]) -> list[str]:
    """The body of a reader of tuples whose values all have their usual types."""
    names = _places(kinds)
    plain = [(kind, name) for kind, name in zip(kinds, names, strict=True) if kind.test]
    for kind, _ in plain:
        scope.update(kind.names)
    bounds = _joined_bounds([kind for kind, _ in plain], [name for _, name in plain])
    made = [(place, kind) for place, kind in enumerate(kinds) if not kind.test]
    return [
        "if type(values) is tuple and (*map(type, values),) == usual:",
        *_unpacking(names, skip, "    "),
        f"    if {' and '.join(bounds) or True}:",
        *(f"        {line}" for place, kind in made for line in _reading_lines(kind, place, scope)),
        f"        return new(record, ({''.join(f'{name}, ' for name in names)}))",
        "return thorough(values)",
    ]


def _thorough_lines(kinds: Sequence[Kind], skip: int, scope: dict[str, Any]) -> list[str]:
    """The body of a reader that takes place by place."""
    names = _places(kinds)
    lines = [
        f"if type(values) is not tuple or len(values) != {skip + len(kinds)}: values = fit(values)",
        *_unpacking(names, skip),
    ]
    if skip:  # a dict finds the readers for 1 by True and 1.0 as well
        lines.append("if type(tag) is not int: raise ValueError('a tag is an integer')")
    for place, kind in enumerate(kinds):
        lines += _reading_lines(kind, place, scope)
    return [*lines, f"return new(record, ({''.join(f'{name}, ' for name in names)}))"]


def _places(kinds: Sequence[Kind]) -> list[str]:
    return [f"v{place}" for place in range(len(kinds))]


def _unpacking(names: Sequence[str], skip: int, indent: str = "") -> list[str]:
    return [f"{indent}{', '.join(['tag'] * skip + list(names))}, = values"] if skip or names else []


def _reading_lines(kind: Kind, place: int, scope: dict[str, Any]) -> list[str]:
    """The lines of a reader that check, or make, the value `v<place>`."""
    name = f"v{place}"
    if isinstance(kind, Repeated):
        scope[f"last{place}"] = object(), None
        return [
            f"global last{place}",
            f"known = last{place}",
            f"if {name} == known[0]: {name} = known[1]",
            "else:",
            f"    given = {name}",
            *(f"    {line}" for line in _reading_lines(kind.kind, place, scope)),
            f"    last{place} = given, {name}",
        ]
    if kind.test:
        scope.update(kind.names)
        failed = f"misfit(kinds[{place}], labels[{place}], {name})"
        return [f"if not ({_renamed(kind.test, name)}): raise {failed}"]
    scope[f"k{place}"] = kind
    unless = f"if {name} != (): " if isinstance(kind, Listing) else ""  # most lists are empty
    return [f"{unless}{name} = k{place}({name})"]


def _compiled_test(kind: Kind) -> Callable[[tuple[Any, ...]], bool]:
    """A function that tells whether every item of a tuple is of a kind."""
    scope = dict(kind.names)
    lines = ["def every(items):", " for v in items:", f"  if not ({kind.test}): return False", " return True"]
    exec("\n".join(lines), scope)  # noqa: S102 - the source is ours
    every: Callable[[tuple[Any, ...]], bool] = scope["every"]
    return every


def _misfit(kind: Kind, label: str, value: Any) -> ValueError:
    return ValueError(f"{label}: {kind.misfit(value)}")


def _kinds(record: type[Any]) -> tuple[Kind, ...]:
    hints = get_type_hints(record, include_extras=True)
    return tuple(_kind_of(record, name, hints[name]) for name in record._fields)


def large_test(record: type[Any]) -> Callable[[Any], object] | None:
    """A function that tells whether a record holds a large blob; None if none of its fields can."""
    expression = _any_large(_kinds(record))
    return eval(f"lambda v: {expression}") if expression else None  # noqa: S307 - it is ours


def _any_large(kinds: Sequence[Kind]) -> str:
    """An expression over a tuple `v`: whether one of its places holds a large blob."""
    tests = [_renamed(kind.large, f"v[{place}]") for place, kind in enumerate(kinds) if kind.large]
    return " or ".join(f"({test})" for test in tests)


def _kind_of(record: type[Any], name: str, hint: Any) -> Kind:
    for extra in get_args(hint)[1:]:
        if isinstance(extra, Kind):
            return extra
    raise TypeError(f"{record.__name__}.{name} is annotated with no kind")
