"""Classes that travel by value: the same class again wherever and however often it arrives.

Pickling a class takes cloudpickle longer than a thousand small values, so a class of arguments and results
is pickled once for each state it is in; its *definition* rides along with what needs it, and is opened
once in each process. Neighbouring values share definitions: each names them by digest, and they travel
once beside all of them. A class that came back to the process that made it is that very class: what travelled
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
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cloudpickle import cloudpickle

from distcomp.forking import lock_free_in_children
from distcomp.payload.watch import Watched, hold, is_same, is_unchanged, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_DEFINITIONS = 1024
DIGEST_BYTES = 16


Definitions: TypeAlias = "dict[bytes, tuple[str, bytes]]"
"""Classes by digest: their identity and their bytes."""


class _Trusted(threading.local):
    """The classes of which this thread knows for a while that they are unchanged."""

    classes: dict[type, ClassDefinition] | None = None


class _Beside(threading.local):
    """The definitions that came beside what this thread unpickles."""

    definitions: Definitions | None = None


_trusted = _Trusted()
_beside = _Beside()
_lock = lock_free_in_children()
_foreign: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes that were made here from bytes of another process."""


class ClassDefinition(NamedTuple):
    """The bytes of a class, and what they depend on."""

    members: tuple[tuple[str, Any], ...]
    watched: tuple[Watched, ...]
    digest: bytes
    identity: str
    blob: bytes


_definitions: weakref.WeakKeyDictionary[type, ClassDefinition] = weakref.WeakKeyDictionary()
_opened: OrderedDict[bytes, type] = OrderedDict()


@contextmanager
def unchanged_classes() -> Iterator[None]:
    """Look only once whether a class has changed while neighbouring values are pickled."""
    _trusted.classes = {}
    try:
        yield
    finally:
        _trusted.classes = None


# --- leaving --------------------------------------------------------------------------------------


def sure_definition(cls: type) -> ClassDefinition | None:
    """The definition of a class that travels by value, if it is known without a look at the class."""
    if _trusted.classes is not None and cls in _trusted.classes:
        return _trusted.classes[cls]
    return _definitions.get(cls) if cls in _foreign else None


def definition_of(cls: type, dump: Callable[[type], bytes]) -> ClassDefinition:
    """The definition of a class that travels by value.

    Args:
        cls: the class.
        dump: pickles a class whole.

    Returns:
        The one made last time if the class is what it was, else a new one.
    """
    known = _definitions.get(cls)
    if known is None or not _is_as_known(cls, known):
        known = _definitions[cls] = _defined(cls, dump)
    if _trusted.classes is not None:
        _trusted.classes[cls] = known
    return known


def reduce_by_definition(definition: ClassDefinition, shared: Definitions | None) -> tuple[Any, ...]:
    """Give what a class is in a pickle: its definition, or only the digest of that.

    Args:
        definition: of a class.
        shared: where to put the definition, if it is to travel beside the pickle; None if inside.

    Returns:
        For a Pickler's `reducer_override`.
    """
    digest, identity, blob = definition.digest, definition.identity, definition.blob
    if shared is None:
        return open_class, (identity, digest, blob)
    shared[digest] = identity, blob
    return class_beside, (digest,)


def _defined(cls: type, dump: Callable[[type], bytes]) -> ClassDefinition:
    members = tuple((name, hold(value)) for name, value in _members(cls))
    watched = tuple(each for function in _functions(cls) for each in watch(function))
    blob = zlib.compress(dump(cls))
    digest = blake2b(blob, digest_size=DIGEST_BYTES).digest()
    return ClassDefinition(members, watched, digest, identity_of(cls), blob)


def _is_as_known(cls: type, known: ClassDefinition) -> bool:
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


def loads_beside(blob: bytes, definitions: Definitions) -> Any:
    """Unpickle a value whose classes are defined beside it."""
    before = _beside.definitions
    _beside.definitions = definitions
    try:
        return pickle.loads(blob)  # noqa: S301 - only slots and clients of one owner get here
    finally:
        _beside.definitions = before


def class_beside(digest: bytes) -> type:
    """Find a class whose definition travels beside what is being unpickled."""
    if _beside.definitions is None or digest not in _beside.definitions:
        raise LookupError("the definition of its class is not with it")
    identity, blob = _beside.definitions[digest]
    return open_class(identity, digest, blob)


def open_class(identity: str, digest: bytes, blob: bytes) -> type:
    """Find a class, or make it from its definition."""
    cls = _opened.get(digest)
    if cls is not None:
        return cls
    with _lock:  # before it is looked for: what another thread makes is known before it is whole
        cls = _opened.get(digest)
        if cls is None:
            cls = _known_as(identity)
            if cls is None or cls in _foreign:
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
