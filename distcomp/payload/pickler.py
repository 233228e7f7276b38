"""How one user object becomes bytes: the one Pickler, and the words for what it cannot carry.

Every class, function, module and exception that a pickle meets is decided upon here:

    installed module                    by reference
    local module, path shared           by reference: slots have its bundle, or see the client's path
    local module, path not shared       by value
    `__main__`, prompt, nested, dynamic by value, through cloudpickle
    exception                           by its type, `args` and attributes; its constructor is not run again
"""

from __future__ import annotations

import copyreg
import importlib
import pickle
import sys
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import cloudpickle

from distcomp.errors import DistcompError, UnloadableTaskError
from distcomp.forking import lock_free_in_children
from distcomp.payload.classes import (
    Definitions,
    class_beside,
    definition_of,
    identity_of,
    loads_beside,
    protect,
    reduce_by_definition,
    sure_definition,
)
from distcomp.payload.modules import INSTALLED, LOCAL, home, reach_imports

if TYPE_CHECKING:
    from collections.abc import Iterable

_SKIPPED_NAMES = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__"})

NO_DEFINITIONS: Definitions = {}
"""What nearly every pickle needs beside it; never filled."""

_reducers: dict[type, Any] = dict(cloudpickle.Pickler.dispatch_table)
_known_reducers: dict[type, Any] = {}
_wrappers: set[type] = set()
_registry = lock_free_in_children()
"""Guards which modules cloudpickle pickles by value: it keeps that for all threads at once."""


def travels_as_function(cls: type) -> type:
    """Let instances of `cls`, which stand in a module under a function's name, travel like that function.

    Use as a decorator. By reference where the function would, else by what its `take_apart()` gives.
    Where such an instance itself is to be a task, what its `as_task()` gives runs instead.
    """
    _wrappers.add(cls)
    return cls


def as_task(function: Any) -> Any:
    """What runs where `function` is submitted."""
    return function.as_task() if type(function) in _wrappers else function


# --- what stands in modules ----------------------------------------------------------------------


def _find(module: str, qualname: str) -> Any:
    """What stands in a module under a dotted name, or None."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def stands_under_its_name(obj: Any) -> bool:
    """Whether a function or class is what its module has under its name."""
    return _find(obj.__module__, obj.__qualname__) is obj


def _wrapped_depth(found: Any, function: Any) -> int:
    """How many `__wrapped__` lie between what stands in a module and the function; 0 if it is not there."""
    for depth in range(1, 9):
        found = getattr(found, "__wrapped__", None)
        if found is function:
            return depth
        if found is None:
            break
    return 0


def _unwrap(module: str, qualname: str, depth: int) -> Any:
    """Find a function behind the decorators that took its name."""
    importlib.import_module(module)
    found = _find(module, qualname)
    for _ in range(depth):
        found = found.__wrapped__
    return found


# --- modules and exceptions by value --------------------------------------------------------------


def _make_module(name: str) -> ModuleType:
    return ModuleType(name)


def _fill_module(module: ModuleType, content: dict[str, Any]) -> None:
    module.__dict__.update(content)


def _module_content(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _SKIPPED_NAMES}


class ExceptionParts(NamedTuple):
    """What an exception can be made of again, without its own constructor, which may not take its own `args`.

    `given` is what the built-in type behind it takes; `args` is what the exception shows.
    """

    cls: type[BaseException]
    given: tuple[Any, ...]
    args: tuple[Any, ...]
    state: dict[str, Any]


def take_apart(error: BaseException) -> ExceptionParts | None:
    """Give the parts of an exception; nothing if its type has a way of its own to be pickled."""
    cls = type(error)
    owner = next(base for base in cls.__mro__ if "__reduce__" in vars(base) or "__reduce_ex__" in vars(base))
    if owner.__module__ != "builtins":
        return None
    reduced: Any = error.__reduce__()
    state = reduced[2] if len(reduced) > 2 and reduced[2] else {}  # noqa: PLR2004 - (type, args, state)
    return ExceptionParts(cls, reduced[1], error.args, dict(state))


def remake_exception(
    cls: type[BaseException], given: tuple[Any, ...], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    """Build an exception from its parts."""
    bases = [base for base in cls.__mro__ if base.__module__ == "builtins"]
    error: BaseException = bases[0].__new__(cls, *given)
    builtin = next(base for base in bases if "__init__" in vars(base))
    try:
        vars(builtin)["__init__"](error, *given)
    except TypeError:  # its args are not what the built-in type takes, which the user's own type allows
        BaseException.__init__(error, *given)
    vars(BaseException)["args"].__set__(error, args)  # whatever the type has made of the name
    BaseException.__setstate__(error, state)
    return error


def _reduce_exception(error: BaseException) -> Any:
    parts = take_apart(error)
    if parts is None or parts.cls.__module__ == "builtins":
        return NotImplemented
    return remake_exception, tuple(parts)


# --- the Pickler ----------------------------------------------------------------------------------


class TaskPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle ships no types
    """Pickles what a task takes and gives; see the top of this file.

    Attributes:
        inlines_classes: whether classes that go by value stand in the pickle itself, or their definitions.
        definitions: collects the definitions that are to travel beside the pickle; None if within it.
        codes: the code of the functions that went by value.
    """

    dispatch_table = _reducers

    def __init__(self, file: Any, *, shares_path: bool) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.shares_path = shares_path
        self.inlines_classes = False
        self.definitions: Definitions | None = None
        self.codes: list[CodeType] = []

    def reducer_override(self, obj: Any) -> Any:
        """Decide how a class, function, module or exception travels; leave the rest to pickle."""
        kind = type(obj)
        if kind is FunctionType:
            return NotImplemented if obj is class_beside else self._reduce_function(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if issubclass(kind, BaseException):
            return _reduce_exception(obj)
        if kind is ModuleType:
            return self._reduce_module(obj)
        if kind in _wrappers:
            referable = self._is_referable(obj.__module__) and stands_under_its_name(obj)
            return obj.__qualname__ if referable else obj.take_apart()
        return NotImplemented

    def _is_referable(self, module: str | None) -> bool:
        """Whether the other side can import a module of this name and get the same."""
        where = home(module)
        return where is INSTALLED or (where is LOCAL and self.shares_path)

    def _reduce_function(self, function: FunctionType) -> Any:
        module, name = function.__module__, function.__qualname__
        if "<" not in name and self._is_referable(module):
            found = _find(module, name)
            if found is function:
                return NotImplemented
            depth = _wrapped_depth(found, function)
            if depth:
                return _unwrap, (module, name, depth)
        self.codes.append(function.__code__)
        reach_imports(function)
        return self._by_value(function)

    def _reduce_class(self, cls: type) -> Any:
        sure = None if self.inlines_classes else sure_definition(cls)
        if sure is not None:
            return reduce_by_definition(sure, self.definitions)
        module, name = sys.modules.get(cls.__module__), cls.__qualname__
        stands = module and (vars(module).get(name) is cls or ("." in name and stands_under_its_name(cls)))
        if stands and self._is_referable(cls.__module__):
            return NotImplemented
        if self.inlines_classes or cls.__module__ == "builtins":
            return self._class_by_value(cls)
        return reduce_by_definition(definition_of(cls, self._define), self.definitions)

    def _class_by_value(self, cls: type) -> Any:
        reduced = self._by_value(cls)
        is_built = type(reduced) is tuple and len(reduced) == _FULL_REDUCTION
        return protect(identity_of(cls), reduced) if is_built else reduced

    def _define(self, cls: type) -> bytes:
        return dumps_with_codes(cls, shares_path=self.shares_path)[0]

    def _reduce_module(self, module: ModuleType) -> Any:
        name = module.__name__
        if name == "__main__" or self._is_referable(name):
            return NotImplemented
        return _make_module, (name,), _module_content(module), None, None, _fill_module

    def _by_value(self, obj: Any) -> Any:
        """What cloudpickle makes of a function or class of a module that the other side lacks."""
        module = sys.modules.get(obj.__module__)
        if home(obj.__module__) is not LOCAL or module is None or self.shares_path:
            return super().reducer_override(obj)
        with _registry:
            was_registered = module.__name__ in cloudpickle.list_registry_pickle_by_value()
            cloudpickle.register_pickle_by_value(module)
            try:
                return super().reducer_override(obj)
            finally:
                if not was_registered:
                    cloudpickle.unregister_pickle_by_value(module)


_Pressed: TypeAlias = "tuple[bytes, list[CodeType]]"


class Boxed:
    """The pickle of a value, and the definitions of classes that have to travel beside it."""

    __slots__ = ("blob", "definitions")

    def __init__(self, blob: bytes, definitions: Definitions = NO_DEFINITIONS) -> None:
        self.blob = blob
        self.definitions = definitions


class _Parts:
    """What a Pickler writes to: it writes a small pickle at once, and of a large one large parts."""

    __slots__ = ("parts", "write")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append


class _Press:
    """A Pickler with what it writes to, used again: making one costs more than most arguments do."""

    __slots__ = ("_parts", "_pickler")

    def __init__(self, *, shares_path: bool) -> None:
        parts = _Parts()
        self._parts = parts.parts
        self._pickler = TaskPickler(parts, shares_path=shares_path)

    def dump(self, value: Any, *, inlines_classes: bool, definitions: Definitions | None) -> _Pressed:
        pickler = self._pickler
        pickler.inlines_classes = inlines_classes
        pickler.definitions = definitions
        pickler.dump(value)
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts), pickler.codes

    def clean(self) -> None:
        """Forget what was pickled."""
        pickler = self._pickler
        self._parts.clear()
        pickler.clear_memo()
        if pickler.globals_ref:
            pickler.globals_ref.clear()
        if pickler.codes:
            pickler.codes = []


_FULL_REDUCTION = 6
_MAX_IDLE_PRESSES = 8
_idle_presses: dict[bool, list[_Press]] = {True: [], False: []}


def dumps(value: Any, *, shares_path: bool) -> bytes:
    """Pickle one value.

    Args:
        value: anything.
        shares_path: whether who loads it can import this process's local modules.

    Returns:
        The pickle.

    Raises:
        Exception: whatever the value or pickle raises; `distcomp.payload.culprit` finds words for it.
    """
    return _dump(value, shares_path=shares_path, inlines_classes=False)[0]


def box(value: Any, *, shares_path: bool) -> Boxed:
    """Pickle one of several values that travel together, and share the definitions of their classes.

    Args:
        value: anything.
        shares_path: whether who loads it can import this process's local modules.

    Returns:
        The pickle, and what has to travel beside it.

    Raises:
        Exception: as `dumps`.
    """
    definitions: Definitions = {}
    blob = _dump(value, shares_path=shares_path, inlines_classes=False, definitions=definitions)[0]
    return Boxed(blob, definitions) if definitions else Boxed(blob)


def definitions_of(boxes: Iterable[Boxed]) -> Definitions:
    """What has to travel beside all of these."""
    found: Definitions = {}
    for each in boxes:
        if each.definitions is not NO_DEFINITIONS:
            found.update(each.definitions)
    return found


def dumps_with_codes(value: Any, *, shares_path: bool) -> tuple[bytes, list[CodeType]]:
    """Pickle a function or class with all it needs, and name the code of the functions that went by value."""
    return _dump(value, shares_path=shares_path, inlines_classes=True)


def _dump(
    value: Any, *, shares_path: bool, inlines_classes: bool, definitions: Definitions | None = None
) -> _Pressed:
    if len(copyreg.dispatch_table) != len(_known_reducers):
        registered = dict(copyreg.dispatch_table)
        _reducers.update(registered)
        _known_reducers.update(registered)  # last: by their number another thread takes all to be there
    idle = _idle_presses[shares_path]
    try:  # taken out of the list, because pickling can call user code, and that this function
        press = idle.pop()
    except IndexError:
        press = _Press(shares_path=shares_path)
    # After an error the press is dropped: it may have stopped halfway.
    pickled = press.dump(value, inlines_classes=inlines_classes, definitions=definitions)
    press.clean()
    if len(idle) < _MAX_IDLE_PRESSES:
        idle.append(press)
    return pickled


def loads(blob: bytes, what: str, definitions: Definitions | None = None) -> Any:
    """Unpickle one value.

    Args:
        blob: the pickle.
        what: what it is, for the error's text: `the arguments`, `the function` ….
        definitions: of classes, that came beside it.

    Raises:
        UnloadableTaskError: it cannot be rebuilt here.
    """
    try:
        if definitions:
            return loads_beside(blob, definitions)
        return pickle.loads(blob)  # noqa: S301 - only slots and clients of one owner get here
    except DistcompError:
        raise
    except Exception as error:
        raise unloadable(what, error) from error


def unloadable(what: str, error: BaseException) -> UnloadableTaskError:
    """Put into words why something could not be rebuilt in this process."""
    python = "{}.{}.{}".format(*sys.version_info[:3])
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        reason = f"no module named {error.name!r}; install {error.name.partition('.')[0]!r} there"
    return UnloadableTaskError(f"{what} could not be rebuilt under Python {python}: {reason}")
