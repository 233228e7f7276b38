"""Values as bytes that are the same for equal values in every process, whatever its hash seed.

Every encoding says its type and where it ends, so that no two different values have one. Dicts and sets have
no order, and numbers of different types differ, as do 0.0 and -0.0; all NaN are one. An array is its dtype,
shape and content. Other objects are what they give pickle.

A function, class or module is what `refer` makes of it.
"""

from __future__ import annotations

import copyreg
import math
import struct
import sys
import threading
from collections import OrderedDict, defaultdict
from contextvars import ContextVar
from enum import Enum
from hashlib import sha256
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from distcomp.errors import UnstableArgumentError
from distcomp.payload.modules import INSTALLED, home, is_standard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LARGE_BYTES = 4096
"""Longer texts and buffers stand in an encoding as their digests."""

_PROTOCOL = 4
_NAN = b"f" + struct.pack(">d", math.nan)
_pack_float = struct.Struct(">d").pack
_BY_TYPE_ALONE = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
    threading.Event,
    threading.local,
    ContextVar,
    TypeVar,
)
"""What code uses and no result depends on: one of these is like another."""

_CODE = (FunctionType, type, ModuleType, CodeType)


def _text(value: str) -> bytes:
    return _bytes(value.encode("utf-8", "surrogatepass"), b"s")


def _bytes(value: Any, tag: bytes = b"b") -> bytes:
    size = len(value)
    if size > LARGE_BYTES:
        return b"%bL%d:%b" % (tag, size, sha256(value).digest())
    return b"%b%d:%b" % (tag, size, value)


def _float(value: float) -> bytes:
    return b"f" + _pack_float(value) if value == value else _NAN  # noqa: PLR0124 - only NaN differs from itself


_PLAIN: dict[type, Callable[[Any], bytes]] = {
    int: b"i%x;".__mod__,
    float: _float,
    str: _text,
    bytes: _bytes,
    bool: lambda value: b"T" if value else b"F",
    type(None): lambda _: b"N",
}
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (bytes, lambda value: bytes(memoryview(value))),
    (float, float.__float__),
    (int, int.__index__),
)


class Encoder:
    """Encodes values.

    Args:
        refer: encodes what is code: functions that are not built in, classes, modules.

    Attributes:
        met_own_reduce: whether an object that was met decides itself what it gives pickle, which need not be
            the same each time.
    """

    def __init__(self, refer: Callable[[Any], bytes]) -> None:
        self._refer = refer
        self._above: dict[int, int] = {}
        self.met_own_reduce = False

    def encode(self, value: Any) -> bytes:
        """Encode one value.

        Raises:
            UnstableArgumentError: nothing says the same about it in another process; `path` leads there.
        """
        kind = type(value)
        plain = _PLAIN.get(kind)
        if plain is not None:
            return plain(value)
        above, place = self._above, id(value)
        if place in above:  # it holds itself
            return b"@%d;" % above[place]
        above[place] = len(above)
        try:
            return self._encode(kind, value)
        finally:
            del above[place]

    def column(self, values: Sequence[Any]) -> list[bytes]:
        """Encode the arguments that neighbouring tasks have at one place.

        Raises:
            UnstableArgumentError: as `encode`.
        """
        kinds = set(map(type, values))
        plain = _PLAIN.get(kinds.pop()) if len(kinds) == 1 else None
        return list(map(plain or self.encode, values))

    def _encode(self, kind: type, value: Any) -> bytes:
        exact = _EXACT.get(kind)
        if exact is not None:
            return exact(self, value)
        if issubclass(kind, _CODE):
            return self._refer(value)
        module = kind.__module__  # of an extension's class this may be anything
        special = _SPECIAL.get(module.partition(".")[0]) if isinstance(module, str) else None
        found = special(self, value) if special is not None else None
        if found is not None:
            return found
        derived = next((each for base, each in _DERIVED if issubclass(kind, base)), Encoder.instance)
        return derived(self, value)

    # --- built-in types ---

    def plain_tuple(self, value: Any) -> bytes:
        """Encode a tuple."""
        return b"t" + self._items(value)

    def plain_list(self, value: Any) -> bytes:
        """Encode a list."""
        return b"l" + self._items(value)

    def plain_dict(self, value: Any) -> bytes:
        """Encode a dict."""
        return b"d" + self._mapping(value)

    def plain_set(self, value: Any) -> bytes:
        """Encode a set."""
        return b"S" + self._members(value)

    def frozen(self, value: Any) -> bytes:
        """Encode a frozenset."""
        return b"Z" + self._members(value)

    def cell(self, value: Any) -> bytes:
        """Encode what a closure holds."""
        return b"c" if value == CellType() else b"C" + self.at("its content", value.cell_contents)

    def builtin(self, value: Any) -> bytes:
        """Encode a function written in C, by its name and by what it is bound to."""
        bound = getattr(value, "__self__", None)
        if bound is None or isinstance(bound, ModuleType):
            return b"R" + _text(f"{value.__module__}.{value.__qualname__}")
        return b"M" + self.at("the object it is bound to", bound) + _text(value.__name__)

    # --- types made from them ---

    def by_type(self, value: Any) -> bytes:
        """Encode what is like any other of its type."""
        return b"k" + _text(type(value).__qualname__)

    def descriptor(self, value: Any) -> bytes:
        """Encode what stands in a class for one of its slots."""
        return b"R" + _text(value.__qualname__)

    def enum(self, value: Any) -> bytes:
        """Encode a member of an enumeration."""
        return b"E" + self._refer(type(value)) + self.encode(value.name) + self.at(".value", value.value)

    def path(self, value: Any) -> bytes:
        """Encode a path."""
        return b"P" + self._refer(type(value)) + _text(str(value))

    def scalar(self, value: Any) -> bytes:
        """Encode a text, bytes or number of a type of its own."""
        base, convert = next(each for each in _BASES if isinstance(value, each[0]))
        return b"x" + self._refer(type(value)) + _PLAIN[base](convert(value)) + self._state(value)

    def sequence(self, value: Any) -> bytes:
        """Encode a tuple or list of a type of its own."""
        return b"y" + self._refer(type(value)) + self._items(value) + self._state(value)

    def ordered(self, value: Any) -> bytes:
        """Encode a dict whose order counts."""
        return b"o" + self._refer(type(value)) + self._items([*value.items()]) + self._state(value)

    def mapping(self, value: Any) -> bytes:
        """Encode a dict of a type of its own."""
        factory = value.default_factory if isinstance(value, defaultdict) else None
        made = self.at("its default_factory", factory)
        return b"D" + self._refer(type(value)) + made + self._mapping(value) + self._state(value)

    def members(self, value: Any) -> bytes:
        """Encode a set of a type of its own."""
        return b"e" + self._refer(type(value)) + self._members(value) + self._state(value)

    def view(self, value: Any) -> bytes:
        """Encode a view of a buffer."""
        return b"v" + _text(value.format) + self._items(value.shape or ()) + _bytes(value.tobytes())

    # --- parts ---

    def at(self, label: str, value: Any) -> bytes:
        """Encode a part of a value; an error says the way to it."""
        try:
            return self.encode(value)
        except UnstableArgumentError as error:
            path = f"{label} → {error.path}" if error.path else label
            raise UnstableArgumentError(path, error.reason) from None

    def _items(self, values: Sequence[Any]) -> bytes:
        plain = _PLAIN
        parts = []
        for place, value in enumerate(values):
            simple = plain.get(type(value))
            parts.append(self.at(f"[{place}]", value) if simple is None else simple(value))
        return b"%d:%b" % (len(parts), b"".join(parts))

    def _mapping(self, value: dict[Any, Any]) -> bytes:
        pairs = dict.items(value)
        parts = sorted(self.at("a key", key) + self.at(f"[{key!r:.40}]", part) for key, part in pairs)
        return b"%d:%b" % (len(parts), b"".join(parts))

    def _members(self, values: Iterable[Any]) -> bytes:
        parts = sorted(self.at("a member", value) for value in values)
        return b"%d:%b" % (len(parts), b"".join(parts))

    def _state(self, value: Any) -> bytes:
        """The attributes of a value, as far as it has any."""
        found = dict(getattr(value, "__dict__", ()))
        for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]  # noqa: SLF001 - as pickle does
            if hasattr(value, name):
                found[name] = getattr(value, name)
        return self._attributes(found)

    def _attributes(self, found: dict[str, Any]) -> bytes:
        parts = [_text(name) + self.at(f".{name}", found[name]) for name in sorted(found)]
        return b"a%d:%b" % (len(parts), b"".join(parts))

    def instance(self, value: Any) -> bytes:
        """Encode what an object gives pickle."""
        kind = type(value)
        try:
            own = copyreg.dispatch_table.get(kind)
            reduced: Any = own(value) if own is not None else value.__reduce_ex__(_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - whatever pickle would have met
            _refuse(kind, error)
        self.met_own_reduce = self.met_own_reduce or _decides_itself(kind)
        if isinstance(reduced, str):
            return self._named(value, reduced)
        make, args, state, items, pairs = (*reduced, None, None, None)[:5]
        made = self.at("what makes it", make) + self._arguments(make, args)
        held = b"-" if items is None else self._items([*items])
        return (
            b"O" + made + self._given(state) + held + (b"-" if pairs is None else self._mapping(dict(pairs)))
        )

    def _named(self, value: Any, name: str) -> bytes:
        """What pickle finds again by its name: a function in a decorator's wrapper, or a constant."""
        module = getattr(value, "__module__", None) or type(value).__module__
        wrapped = None if home(module) is INSTALLED else getattr(value, "__wrapped__", None)
        if wrapped is not None:
            return b"W" + self._refer(type(value)) + self.at("what it wraps", wrapped)
        return b"R" + _text(f"{module}.{name}")

    def _given(self, state: Any) -> bytes:
        """What an object is filled with: most often its attributes, or these and its slots."""
        if type(state) is dict and all(type(name) is str for name in state):
            return self._attributes(state)
        if type(state) is tuple and len(state) == 2 and type(state[1]) is dict:  # noqa: PLR2004 - as pickle has it
            return self._attributes({**(state[0] or {}), **state[1]})
        return self.at("its state", state)

    def _arguments(self, make: Any, args: Any) -> bytes:
        """What an object is made from; the usual maker takes its class."""
        if getattr(make, "__name__", "") in ("__newobj__", "__newobj_ex__"):
            return b"n" + self._items(args)
        return b"m" + b"".join(self.at(f"part {place}", part) for place, part in enumerate(args, 1)) + b";"


def _decides_itself(kind: type) -> bool:
    """Whether code that is no standard one says what an object gives pickle."""
    for base in kind.__mro__:
        if base is object:
            return False
        if not {"__reduce__", "__reduce_ex__", "__getstate__"}.isdisjoint(vars(base)):
            return not is_standard(base.__module__.partition(".")[0])
    return False


def _refuse(kind: type, error: Exception) -> NoReturn:
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    raise UnstableArgumentError(
        "", f"nothing tells one {name} from another in the next process ({error})"
    ) from None


# --- packages that many tasks use ----------------------------------------------------------------


def _numpy(encoder: Encoder, value: Any) -> bytes | None:
    numpy = sys.modules["numpy"]
    if type(value) is numpy.ndarray or type(value) is numpy.memmap:
        return b"A" + _array(encoder, value)
    if isinstance(value, numpy.generic):
        return b"G" + _array(encoder, numpy.asarray(value))
    return None


def _array(encoder: Encoder, value: Any) -> bytes:
    dtype = value.dtype
    head = _text(dtype.str) + encoder.encode(tuple(map(int, value.shape)))
    if dtype.names:  # between fields there may be bytes that nobody has set
        fields = (_text(name) + encoder.at(f"[{name!r}]", value[name]) for name in dtype.names)
        return b"r" + head + b"%d:" % len(dtype.names) + b"".join(fields)
    if dtype.hasobject or dtype.kind == "T":
        return b"j" + head + encoder.encode(value.tolist())
    if dtype.kind in "fc" and dtype.itemsize > 8 * (1 + (dtype.kind == "c")):  # its bytes are not all used
        return b"w" + head + encoder.encode([repr(each) for each in value.ravel()])
    try:
        whole = value if value.flags.c_contiguous else value.copy(order="C")
        return head + _bytes(memoryview(whole).cast("B"))
    except (TypeError, ValueError):  # what memoryview has no letter for: times, texts, no items at all
        return head + _bytes(value.tobytes())


def _pandas(encoder: Encoder, value: Any) -> bytes | None:
    pandas = sys.modules["pandas"]
    parts: Iterable[Any]
    if isinstance(value, pandas.DataFrame):
        parts = (value.columns, value.index, *(value.iloc[:, place].array for place in range(value.shape[1])))
    elif isinstance(value, pandas.Series):
        parts = (value.name, value.index, value.array)
    elif isinstance(value, pandas.MultiIndex):
        parts = (list(value.names), list(value))
    elif isinstance(value, pandas.Index):
        parts = (list(value.names), value.array)
    elif isinstance(value, pandas.Categorical):
        parts = (value.codes, value.categories, value.ordered)
    elif isinstance(value, pandas.api.extensions.ExtensionArray):
        parts = (str(value.dtype), value.to_numpy())
    else:
        return None
    return b"p" + _text(type(value).__name__) + encoder.encode(tuple(parts))


_SPECIAL: dict[str, Callable[[Encoder, Any], bytes | None]] = {"numpy": _numpy, "pandas": _pandas}
"""By the package that an object's class is from."""

_EXACT: dict[type, Callable[[Encoder, Any], bytes]] = {
    tuple: Encoder.plain_tuple,
    list: Encoder.plain_list,
    dict: Encoder.plain_dict,
    set: Encoder.plain_set,
    frozenset: Encoder.frozen,
    CellType: Encoder.cell,
    BuiltinFunctionType: Encoder.builtin,
    MemberDescriptorType: Encoder.descriptor,
    GetSetDescriptorType: Encoder.descriptor,
    memoryview: Encoder.view,
    **dict.fromkeys(_BY_TYPE_ALONE, Encoder.by_type),
}

_DERIVED: tuple[tuple[Any, Callable[[Encoder, Any], bytes]], ...] = (
    (Enum, Encoder.enum),
    (PurePath, Encoder.path),
    ((str, bytes, float, int), Encoder.scalar),
    ((tuple, list), Encoder.sequence),
    (OrderedDict, Encoder.ordered),
    (dict, Encoder.mapping),
    ((set, frozenset), Encoder.members),
    (threading.local, Encoder.by_type),
)
"""By a class that an object's class is made from; the first that fits."""
