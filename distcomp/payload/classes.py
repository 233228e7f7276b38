"""Classes that travel by value: the same class again wherever and however often it arrives.

Pickling a class takes cloudpickle longer than a thousand small values, so a class of arguments and results
is pickled once for each state it is in; its *definition* rides along with what needs it, and is opened
once in each process. A class that came back to the process that made it is that very class: what travelled
never overwrites it. cloudpickle gives each class an identity of its own for that.
"""

from __future__ import annotations

import pickle
import threading
import weakref
import zlib
from collections import OrderedDict
from contextlib import contextmanager
from hashlib import blake2b
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from cloudpickle import cloudpickle

from distcomp.payload.watch import Watched, hold, is_same, is_unchanged, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_DEFINITIONS = 1024
DIGEST_BYTES = 16


class _Trusted(threading.local):
    """The classes of which this thread knows for a while that they are unchanged."""

    classes: frozenset[type] | set[type] = frozenset()

    def add(self, cls: type) -> None:
        if isinstance(self.classes, set):
            self.classes.add(cls)


_trusted = _Trusted()
_lock = threading.RLock()
_foreign: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes that were made here from bytes of another process."""


class _Definition(NamedTuple):
    """The bytes of a class, and what they depend on."""

    members: tuple[tuple[str, Any], ...]
    watched: tuple[Watched, ...]
    reduced: tuple[Any, ...]


_definitions: weakref.WeakKeyDictionary[type, _Definition] = weakref.WeakKeyDictionary()
_opened: OrderedDict[bytes, type] = OrderedDict()


@contextmanager
def unchanged_classes() -> Iterator[None]:
    """Look only once whether a class has changed while neighbouring values are pickled."""
    _trusted.classes = set()
    try:
        yield
    finally:
        _trusted.classes = frozenset()


# --- leaving --------------------------------------------------------------------------------------


def reduce_by_definition(cls: type, dump: Callable[[type], bytes]) -> tuple[Any, ...]:
    """Give what a class is in a pickle: its identity and its definition.

    Args:
        cls: a class that travels by value.
        dump: pickles a class whole.

    Returns:
        For a Pickler's `reducer_override`.
    """
    known = _definitions.get(cls)
    if known is not None and (cls in _foreign or cls in _trusted.classes or _is_as_known(cls, known)):
        _trusted.add(cls)
        return known.reduced
    members = tuple((name, hold(value)) for name, value in _members(cls))
    watched = tuple(each for function in _functions(cls) for each in watch(function))
    blob = zlib.compress(dump(cls))
    digest = blake2b(blob, digest_size=DIGEST_BYTES).digest()
    reduced = open_class, (identity_of(cls), digest, blob)
    _definitions[cls] = _Definition(members, watched, reduced)
    return reduced


def _is_as_known(cls: type, known: _Definition) -> bool:
    members = list(_members(cls))
    return (
        len(members) == len(known.members)
        and all(
            name == was and is_same(held, value)
            for (name, value), (was, held) in zip(members, known.members, strict=True)
        )
        and all(map(is_unchanged, known.watched))
    )


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """What a class and those it is made from hold, as far as they travel with it."""
    for base in cls.__mro__:
        if base is cls or base.__module__ == cls.__module__:
            yield from ((n, _inner(member)) for n, member in vars(base).items() if n not in _CHANGING)


def _inner(member: Any) -> Any:
    """The function in a property or method: it can be held weakly, and leads back to its class."""
    return getattr(member, "fget", getattr(member, "__func__", member))


def _functions(cls: type) -> Iterator[FunctionType]:
    yield from (member for _, member in _members(cls) if type(member) is FunctionType)


_CHANGING = frozenset({"__weakref__", "__dict__", "_abc_impl", "__annotations__", "__annotations_cache__"})
"""Members that tell nothing about whether a class is the same."""


def identity_of(cls: type) -> str:
    """The name under which every process knows a class that travels by value."""
    return str(cloudpickle._get_or_create_tracker_id(cls))  # noqa: SLF001 - both ends must use the same one


# --- arriving -------------------------------------------------------------------------------------


def _known_as(identity: str) -> type | None:
    return cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(identity)  # type: ignore[no-any-return]  # noqa: SLF001 - see above


def open_class(identity: str, digest: bytes, blob: bytes) -> type:
    """Find a class, or make it from its definition."""
    cls = _known_as(identity)
    if cls is not None and cls not in _foreign:
        return cls
    with _lock:
        cls = _opened.get(digest)
        if cls is None:
            cls = _opened[digest] = pickle.loads(zlib.decompress(blob))  # noqa: S301 - it came inside of a pickle
            if len(_opened) > MAX_DEFINITIONS:
                _opened.popitem(last=False)
    return cls


def protect(identity: str, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Change what cloudpickle made of a class so that it never overwrites a class of its own process."""
    make, args, state, _, _, fill = reduced
    return _make, (identity, make, args), (fill, state), None, None, _fill


def _make(identity: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    is_new = _known_as(identity) is None
    cls = make(*args)
    if is_new:
        _foreign.add(cls)
    return cls


def _fill(cls: type, filling: tuple[Callable[[type, Any], Any], Any]) -> None:
    fill, state = filling
    if cls in _foreign:
        fill(cls, state)
