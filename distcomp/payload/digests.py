"""Digests by which tasks are recognised: of functions with what they reach, and of arguments.

A function's digest is made of named parts, so that one can be told which of them changed. It covers the
bytecode, defaults, closure and attributes of the function, and of every function, class and module of the
user's own that it reaches by a global, an attribute of a module, an import or a value; and the values of the
globals that they read. What is installed counts by its name: a new release of a package changes no digest.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.errors import UnstableArgumentError
from distcomp.payload.canonical import Encoder
from distcomp.payload.edited import edited_source
from distcomp.payload.modules import INSTALLED, home, is_local, places_of
from distcomp.payload.pickler import as_task, stands_under_its_name
from distcomp.payload.reading import ModuleRead, NameRead, encode_code, read_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ABSENT = object()
_PYTHON = "version of Python"

_NO_PART_OF_A_CLASS = frozenset({
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__module__",
    "__orig_bases__", "__parameters__", "__qualname__", "__slotnames__", "__static_attributes__",
    "__weakref__", "_abc_impl",
})  # fmt: skip
"""Members that say nothing about what a class does, or say again what others say."""

_NO_PART_OF_AN_ENUM = frozenset({
    "_generate_next_value_", "_hashable_values_", "_inverted_", "_member_map_", "_member_names_",
    "_unhashable_values_", "_unhashable_values_map_", "_use_args_", "_value2member_map_", "_value_repr_",
})  # fmt: skip


class FunctionDigest(NamedTuple):
    """What tells whether a function does what it did.

    Attributes:
        total: the digest of all.
        parts: the digests that it is made of, by words such as `code of helper` or `global LIMIT`.
    """

    total: bytes
    parts: dict[str, bytes]


def function_digest(function: Callable[..., Any]) -> FunctionDigest:
    """Give what tells a function from others, and from what it was.

    Args:
        function: any callable.

    Returns:
        The same for the same code in every process with this version of Python.

    Raises:
        UnstableArgumentError: something that it uses has no such digest; the path leads there.

    Example:
        >>> function_digest(lambda number: number + 1) == function_digest(lambda number: number + 1)
        True
    """
    return _Trace().run(as_task(function))


def argument_digest(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Give what tells the arguments of a call from others.

    Args:
        args: positional arguments.
        kwargs: keyword arguments, in any order.

    Returns:
        32 bytes, the same for equal arguments in every process.

    Raises:
        UnstableArgumentError: one of them has no such digest; the path leads there.

    Example:
        >>> argument_digest(({2, 1},), {}) == argument_digest(({1, 2},), {})
        True
    """
    names = sorted(kwargs)
    row = (*args, *(kwargs[name] for name in names))
    labels = _labels(len(args), names)
    parts = [_steady(value, label) for value, label in zip(row, labels, strict=True)]
    return sha256(_head(len(args), names) + b"".join(parts)).digest()


def argument_digests(columns: Sequence[Sequence[Any]], names: Sequence[str] = ()) -> list[bytes]:
    """Give the digests of the calls that columns of arguments describe.

    Args:
        columns: one item of each makes a call.
        names: the parameters that the last columns are for.

    Returns:
        For each call what `argument_digest` gives.

    Raises:
        UnstableArgumentError: as `argument_digest`; nothing is returned then.

    Example:
        >>> argument_digests([[1, 2], "ab"])[1] == argument_digest((2, "b"), {})
        True
    """
    positional = len(columns) - len(names)
    order = [
        *range(positional),
        *sorted(range(positional, len(columns)), key=lambda at: names[at - positional]),
    ]
    sorted_names = sorted(names)
    labels = _labels(positional, sorted_names)
    encoded = [_column(columns[place], label) for place, label in zip(order, labels, strict=True)]
    head = _head(positional, sorted_names)
    return [sha256(head + b"".join(row)).digest() for row in zip(*encoded, strict=True)]


def task_keys(function: bytes, version: str, arguments: Sequence[bytes]) -> list[bytes]:
    """Give the keys of tasks, under which a store keeps how they ended.

    Args:
        function: the function's digest.
        version: the user's own.
        arguments: the digests of the arguments.

    Example:
        >>> digest = function_digest(abs).total
        >>> [len(key) for key in task_keys(digest, "", argument_digests([[-1, -2]]))]
        [32, 32]
    """
    named = version.encode("utf-8", "surrogatepass")
    head = b"distcomp task\0" + function + b"%d:" % len(named) + named
    return [sha256(head + each).digest() for each in arguments]


# --- arguments ------------------------------------------------------------------------------------


def _head(positional: int, names: Sequence[str]) -> bytes:
    return b"%d;%b;" % (positional, "\0".join(names).encode("utf-8", "surrogatepass"))


def _labels(positional: int, names: Sequence[str]) -> list[str]:
    return [
        *(f"argument {place}" for place in range(1, positional + 1)),
        *(f"argument {name!r}" for name in names),
    ]


def _column(values: Sequence[Any], label: str) -> list[bytes]:
    if len(values) > 1 and type(values) is not range and all(each is values[0] for each in values):
        return list(repeat(_steady(values[0], label), len(values)))
    encoder = Encoder(_CodeDigests())
    try:
        encoded = encoder.column(values)
    except (UnstableArgumentError, RecursionError):
        encoder.met_own_reduce = True
        encoded = []
    if not encoder.met_own_reduce:
        return encoded
    return [_steady(value, label, encoder) for value in values]


def _steady(value: Any, label: str, encoder: Encoder | None = None) -> bytes:
    """Encode a value; one that decides itself what to say has to say the same twice."""
    encoder = encoder or Encoder(_CodeDigests())
    try:
        encoded = encoder.at(label, value)
        if encoder.met_own_reduce and encoder.encode(value) != encoded:
            raise UnstableArgumentError(label, "it describes itself in another way each time it is pickled")
    except RecursionError:
        raise UnstableArgumentError(label, "it is nested too deeply") from None
    return encoded


class _CodeDigests:
    """What stands for functions, classes and modules among arguments; each is looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes]] = {}

    def __call__(self, code: Any) -> bytes:
        known = self._known.get(id(code))
        if known is None:
            known = self._known[id(code)] = code, b"L" + _Trace().run(code).total
        return known[1]


# --- functions ------------------------------------------------------------------------------------


class _Trace:
    """Follows what a function reaches, and makes a part of each thing that is the user's own."""

    def __init__(self) -> None:
        self._encoder = Encoder(self._refer)
        self._labels: dict[int, str] = {}
        self._names: dict[str, int] = {}
        self._waiting: list[tuple[str, Any]] = []
        self._globals: set[tuple[int, str]] = set()
        self._kept: list[Any] = []
        self.parts: dict[str, bytes] = {}

    def run(self, root: Any) -> FunctionDigest:
        """Follow everything from here."""
        try:
            start = self._encoder.at("the function", root)
            while self._waiting:
                label, found = self._waiting.pop(0)
                _PARTS[_kind(found)](self, label, found)
        except RecursionError:
            raise UnstableArgumentError("the function", "what it uses is nested too deeply") from None
        self.parts[_PYTHON] = _digest(str(sys.implementation.cache_tag).encode())
        told = b"".join(self._encoder.encode(name) + self.parts[name] for name in sorted(self.parts))
        return FunctionDigest(_digest(start + told), self.parts)

    def _refer(self, found: Any) -> bytes:
        """Name what is code, and see to it that it gets its part."""
        if isinstance(found, CodeType):
            return encode_code(found, self._encoder.encode)
        name = _name_if_installed(found)
        if name is not None:
            return b"R" + self._encoder.encode(name)
        label = self._labels.get(id(found))
        if label is None:
            label = self._labels[id(found)] = self._unused(
                getattr(found, "__qualname__", None) or found.__name__
            )
            self._waiting.append((label, found))
            self._kept.append(found)
        return b"L" + self._encoder.encode(label)

    def _unused(self, name: str) -> str:
        """A label that nothing else has: of several things with one name, the first met has it."""
        number = self._names[name] = self._names.get(name, 0) + 1
        return name if number == 1 else f"{name}#{number}"

    def _add(self, name: str, encoded: bytes) -> None:
        self.parts[name] = _digest(encoded)

    # --- parts ---

    def function(self, label: str, function: FunctionType) -> None:
        """The parts of a function."""
        at = self._encoder.at
        reached = [self._read(function, read, label) for read in dict.fromkeys(read_by(function.__code__))]
        code = encode_code(function.__code__, self._encoder.encode)
        self._add(f"code of {label}", code + b"".join(reached))
        edited = edited_source(function, self._encoder.encode)
        if edited:
            self._add(f"file of {label}", edited)
        if function.__defaults__ or function.__kwdefaults__:
            defaults = (function.__defaults__, function.__kwdefaults__)
            self._add(f"defaults of {label}", at(f"the defaults of {label}", defaults))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._add(
                f"closure variable {name} of {label}", at(f"closure variable {name!r} of {label}", cell)
            )
        if vars(function):
            self._add(f"attributes of {label}", at(f"the attributes of {label}", vars(function)))

    def class_(self, label: str, cls: type) -> None:
        """The part of a class; its methods have parts of their own."""
        skipped = _NO_PART_OF_A_CLASS
        if hasattr(cls, "__members__") and hasattr(cls, "_member_map_"):
            skipped |= _NO_PART_OF_AN_ENUM
        told = [self._encoder.encode((type(cls), cls.__bases__))]
        for name, member in sorted(vars(cls).items()):
            if name not in skipped:
                told.append(self._encoder.encode(name) + self._member(f"{label}.{name}", member))
        self._add(f"class {label}", b"".join(told))

    def _member(self, path: str, member: Any) -> bytes:
        if isinstance(member, property):
            member = ("property", member.fget, member.fset, member.fdel)
        elif isinstance(member, (staticmethod, classmethod)):
            member = (type(member).__name__, member.__func__)
        elif type(member).__module__ == "functools":
            member = (type(member).__name__, vars(member))
        return self._encoder.at(path, member)

    def module(self, label: str, module: ModuleType) -> None:
        """The part of a module that is used as a whole."""
        told = []
        for name, value in sorted(vars(module).items()):
            if not name.startswith("__"):
                try:
                    told.append(self._encoder.encode(name) + self._encoder.encode(value))
                except UnstableArgumentError:  # nobody knows whether it is used at all
                    told.append(self._encoder.encode(name))
        self._add(f"module {label}", b"".join(told))

    # --- what code reads ---

    def _read(self, function: FunctionType, read: NameRead | ModuleRead, label: str) -> bytes:
        if isinstance(read, ModuleRead):
            return b"".join(self._imported(function, read))
        namespace = function.__globals__
        value, attributes, path = namespace.get(read.name, _ABSENT), read.attributes, read.name
        while isinstance(value, ModuleType) and attributes and _name_if_installed(value) is None:
            if attributes[0] not in vars(value):
                break
            namespace, path = vars(value), f"{path}.{attributes[0]}"
            value, attributes = namespace[attributes[0]], attributes[1:]
        if value is _ABSENT:  # one that is built in, or not there yet
            return b"B" + self._encoder.encode(read.name)
        return self._value(namespace, path, value, label)

    def _value(self, namespace: dict[str, Any], path: str, value: Any, label: str) -> bytes:
        """What a name stands for: code by its name, other values in parts of their own."""
        value = as_task(value)
        named = self._encoder.encode(path)
        if _kind(value) is not None:
            return named + self._refer(value)
        if home(namespace.get("__name__")) is INSTALLED:
            return named  # what installed packages keep for themselves
        place = (id(namespace), path.rpartition(".")[2])
        if place not in self._globals:
            self._globals.add(place)
            encoded = self._encoder.at(f"global {path!r} of {label}", value)
            self._add(f"global {self._unused(f'global {place[1]}').removeprefix('global ')}", encoded)
        return named

    def _imported(self, function: FunctionType, read: ModuleRead) -> Iterator[bytes]:
        """What a function imports when it runs, as far as it is the user's own."""
        package = function.__globals__.get("__package__")
        for name in filter(None, (read.name, f"{package}.{read.name}" if package else None)):
            module = sys.modules.get(name)
            if module is not None and name != "__main__":
                if _name_if_installed(module) is None:
                    taken = [vars(module).get(each, _ABSENT) for each in read.taken]
                    whole = not taken or _ABSENT in taken
                    values = (
                        [(name.rpartition(".")[2], module)] if whole else zip(read.taken, taken, strict=True)
                    )
                    yield from (self._value(vars(module), path, value, name) for path, value in values)
            elif is_local(name):
                origin, _ = places_of(name)
                self._add(f"module {name}", Path(origin).read_bytes() if origin else b"")


def _kind(found: Any) -> type | None:
    """What sort of code something is; None if it is none."""
    kind = type(found)
    if kind is FunctionType:
        return FunctionType
    if issubclass(kind, type):
        return type
    return ModuleType if issubclass(kind, ModuleType) else None


_PARTS: dict[type | None, Callable[[_Trace, str, Any], None]] = {
    FunctionType: _Trace.function,
    type: _Trace.class_,
    ModuleType: _Trace.module,
}


def _name_if_installed(found: Any) -> str | None:
    """The name of code that any process with the same packages finds again; None if it is the user's."""
    if isinstance(found, ModuleType):
        return found.__name__ if home(found.__name__) is INSTALLED else None
    module, name = found.__module__, found.__qualname__
    if home(module) is not INSTALLED or "<" in name:
        return None
    return f"{module}.{name}" if stands_under_its_name(found) or found.__module__ == "builtins" else None


def _digest(encoded: bytes) -> bytes:
    return sha256(encoded).digest()
