"""Typed records on the wire: field kinds with bounds, the frame codec, and blobs that travel apart.

A *record* is a `NamedTuple` whose fields are annotated with a kind from this module. On the wire it is
a msgpack array of its fields. Reading checks every type and bound, fills in defaults for fields that an
older peer does not send, and drops fields that only a newer peer knows.

A *frame* is a four-byte big-endian length and a msgpack array of messages. A blob above
`INLINE_BLOB_BYTES` does not ride in its message: it is replaced by an extension value that names a
transfer, and its bytes travel before it, in pieces (see `distcomp.transport`).
"""

from __future__ import annotations

import re
import struct
import threading
from functools import cached_property
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, get_args, get_type_hints

import msgpack

from distcomp.errors import FrameTooLargeError, MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_FRAME_BYTES = 1 << 20
INLINE_BLOB_BYTES = 64 << 10
PIECE_BYTES = 256 << 10
MAX_BLOB_BYTES = 1 << 30
MAX_ITEMS = 1 << 17
TRANSFER_EXT = 1
MAX_COUNTER = 2**63 - 1

_LENGTH = struct.Struct(">I")
_TRANSFER = struct.Struct(">Q")
_ARRAY_HEAD = struct.Struct(">BI")
_BLOB_HEAD = struct.Struct(">BI")
_MAX_HEAD_BYTES = _ARRAY_HEAD.size
_unique = count()

Message: TypeAlias = tuple[Any, ...]
"""Any message: a registered `NamedTuple`. Its class tells which."""


class Kind:
    """What a field may hold. Calling a kind returns the checked value or raises `ValueError`.

    `test` is the check as an expression over `v`, which readers are compiled from, and `names` is what
    that refers to. A kind that makes something else of its value has no `test`, and is called.
    `large` is an expression over `v`, too: whether it holds a blob above `INLINE_BLOB_BYTES`. It is empty
    where none can be.
    """

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

    def __init__(self, low: int, high: int) -> None:
        bounds = f"{low} <= v <= {high}" if (low, high) != (0, MAX_COUNTER) else "not v >> 63"
        self.test = f"type(v) is int and {bounds}"
        self.wanted = f"an integer from {low} to {high}"


class Real(Kind):
    """A finite number of at least `low`."""

    def __init__(self, low: float = 0.0) -> None:
        self.test = f"type(v) in (float, int) and {low} <= v < 1e999"  # infinity, as a constant
        self.wanted = f"a finite number of at least {low}"


class Flag(Kind):
    """True or False."""

    test = "type(v) is bool"
    wanted = "true or false"


class Text(Kind):
    """Unicode text of at most so many characters."""

    def __init__(self, longest: int) -> None:
        self.test = f"type(v) is str and len(v) <= {longest}"
        self.wanted = f"text of at most {longest} characters"


class Octets(Kind):
    """Bytes of a length between two bounds, both included."""

    def __init__(self, shortest: int, longest: int) -> None:
        bounds = f"{shortest} <= len(v) <= {longest}" if shortest < longest else f"len(v) == {longest}"
        self.test = f"type(v) is bytes and {bounds}"
        self.wanted = f"{shortest} to {longest} bytes"
        if longest > INLINE_BLOB_BYTES:
            self.large = f"len(v) > {INLINE_BLOB_BYTES}"


class Digest(Kind):
    """A digest of 32 bytes, or nothing."""

    test = "type(v) is bytes and len(v) in (0, 32)"
    wanted = "a digest of 32 bytes, or none"


class Span(Kind):
    """A range as `(start, stop)`, not empty."""

    test = (
        "type(v) is tuple and len(v) == 2 and type(v[0]) is int and type(v[1]) is int "
        f"and 0 <= v[0] < v[1] <= {MAX_COUNTER}"
    )
    wanted = "a range of indexes"


class Row(Kind):
    """A tuple with one kind for each place."""

    def __init__(self, *kinds: Kind) -> None:
        self.kinds = kinds
        self.wanted = f"a row of {len(kinds)}: {', '.join(kind.wanted for kind in kinds)}"
        if all(kind.test for kind in kinds):
            tests = [f"({_renamed(kind.test, f'v[{place}]')})" for place, kind in enumerate(kinds)]
            self.test = " and ".join([f"type(v) is tuple and len(v) == {len(kinds)}", *tests])

    @cached_property
    def names(self) -> Mapping[str, Any]:  # type: ignore[override] # computed when it is first needed
        """What the tests of the places refer to."""
        return {name: value for kind in self.kinds for name, value in kind.names.items()}

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
            self.test = f"type(v) is tuple and len(v) <= {most} and (not v or {self._every}(v))"

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
        self.kind, self.wanted = kind, kind.wanted

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


def _compiled_reader(
    kinds: Sequence[Kind],
    labels: list[str],
    fit: Callable[[Any], tuple[Any, ...]],
    record: type[Any],
    skip: int = 0,
) -> Callable[[Any], Any]:
    """One function that takes a tuple, checks all its places, and makes a `record` of them.

    What is no tuple of the right length goes to `fit`, which makes one of it or raises.
    Written out and compiled, because a call for each field would make reading a message four times dearer.
    """
    names = [f"v{place}" for place in range(len(kinds))]
    scope: dict[str, Any] = {"new": tuple.__new__, "misfit": _misfit, "fit": fit}
    scope.update(record=record, kinds=kinds, labels=labels)
    length = skip + len(kinds)
    lines = [
        "def read(values):",
        f"    if type(values) is not tuple or len(values) != {length}: values = fit(values)",
    ]
    if length:
        lines.append(f"    {', '.join(['tag'] * skip + names)}, = values")
    if skip:  # a dict finds the readers for 1 by True and 1.0 as well
        lines.append("    if type(tag) is not int: raise ValueError('a tag is an integer')")
    for place, kind in enumerate(kinds):
        lines += _reading_lines(kind, place, scope)
    lines.append(f"    return new(record, ({''.join(f'{name}, ' for name in names)}))")
    exec("\n".join(lines), scope)  # noqa: S102 - the source is ours
    read: Callable[[Any], Any] = scope["read"]
    return read


def _reading_lines(kind: Kind, place: int, scope: dict[str, Any]) -> list[str]:
    """The lines of a reader that check, or make, the value `v<place>`."""
    name = f"v{place}"
    if isinstance(kind, Repeated):
        scope[f"last{place}"] = object(), None
        return [
            f"    global last{place}",
            f"    known = last{place}",
            f"    if {name} == known[0]: {name} = known[1]",
            "    else:",
            f"        given = {name}",
            *(f"    {line}" for line in _reading_lines(kind.kind, place, scope)),
            f"        last{place} = given, {name}",
        ]
    if kind.test:
        scope.update(kind.names)
        failed = f"misfit(kinds[{place}], labels[{place}], {name})"
        return [f"    if not ({_renamed(kind.test, name)}): raise {failed}"]
    scope[f"k{place}"] = kind
    unless = f"if {name} != (): " if isinstance(kind, Listing) else ""  # most lists are empty
    return [f"    {unless}{name} = k{place}({name})"]


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


def _any_large(kinds: Sequence[Kind]) -> str:
    """An expression over a tuple `v`: whether one of its places holds a large blob."""
    tests = [_renamed(kind.large, f"v[{place}]") for place, kind in enumerate(kinds) if kind.large]
    return " or ".join(f"({test})" for test in tests)


def _kind_of(record: type[Any], name: str, hint: Any) -> Kind:
    for extra in get_args(hint)[1:]:
        if isinstance(extra, Kind):
            return extra
    raise TypeError(f"{record.__name__}.{name} is annotated with no kind")


class Codec:
    """Encodes and decodes the messages of one protocol.

    Args:
        max_frame_bytes: a longer frame is refused on reading and never written.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._records: dict[int, type[Any]] = {}
        self._readers = _Readers(self._records)
        self._tags: dict[type[Any], int] = {}
        self._large_tests = _LargeTests()
        self._packer = _Packer()

    def register(self, tag: int, record: type[Any]) -> None:
        """Give `record` its tag. A tag is never used twice, nor again after its message is gone.

        Its reader is made when the first one arrives: a program reads few of the messages there are,
        and making all of them would take a third of its start.
        """
        if tag in self._records:
            raise TypeError(f"tag {tag} belongs to {self._records[tag].__name__}")
        self._records[tag] = record
        self._tags[record] = tag

    def messages(self) -> Iterator[tuple[int, type[Any]]]:
        """Every tag with its message class, in the order of tags."""
        for tag in sorted(self._records):
            yield tag, self._records[tag]

    def is_large(self, message: Message) -> bool:
        """Whether `message` holds a blob that has to be detached before `pack`."""
        test = self._large_tests[type(message)]
        return test is not None and bool(test(message))

    def pack(self, message: Message) -> bytes:
        """One message as bytes, to be put into a frame by `frame`."""
        return self._packer.pack((self._tags[type(message)], *message))

    def frame(self, packed: list[bytes]) -> bytes:
        """One frame of messages made by `pack`; the caller keeps their sum within the limit."""
        body = b"".join((_array_head(len(packed)), *packed))
        if len(body) > self.max_frame_bytes:
            raise FrameTooLargeError(
                f"a frame of {len(body)} bytes; at most {self.max_frame_bytes} may leave"
            )
        return _LENGTH.pack(len(body)) + body

    def frame_around(self, message: Message) -> tuple[bytes, Any]:
        """One frame of one message in two parts, the second being its last field, a blob, uncopied."""
        *fields, blob = message
        packed = map(msgpack.packb, (self._tags[type(message)], *fields))
        heads = _array_head(1), _array_head(len(message) + 1)
        head = b"".join((*heads, *packed, _BLOB_HEAD.pack(0xC6, len(blob))))
        return _LENGTH.pack(len(head) + len(blob)) + head, blob

    def small_frame(self, messages: Sequence[Message]) -> bytes | None:
        """One frame of all `messages`, packed at once; None if a blob is large or they fit no one frame."""
        tags, tests, items = self._tags, self._large_tests, []
        for message in messages:
            record = type(message)
            test = tests[record]
            if test is not None and test(message):
                return None
            items.append((tags[record], *message))
        body = self._packer.pack(items)
        return _LENGTH.pack(len(body)) + body if len(body) <= self.max_frame_bytes else None

    def body(self, messages: Sequence[Message]) -> bytes:
        """The body of one frame of any length, packed at once: for what no peer has to read."""
        tags = self._tags
        return self._packer.pack([(tags[type(message)], *message) for message in messages])

    def frames(self, packed: list[bytes]) -> list[bytes]:
        """As few frames as the limit allows, in order."""
        if packed and sum(map(len, packed)) <= self.max_frame_bytes - _MAX_HEAD_BYTES:
            return [self.frame(packed)]
        frames: list[bytes] = []
        batch: list[bytes] = []
        size_bytes = _MAX_HEAD_BYTES
        for message in packed:
            if batch and size_bytes + len(message) > self.max_frame_bytes:
                frames.append(self.frame(batch))
                batch, size_bytes = [], _MAX_HEAD_BYTES
            batch.append(message)
            size_bytes += len(message)
        if batch:
            frames.append(self.frame(batch))
        return frames

    def decode(
        self, body: bytes | memoryview, blob_of: Callable[[int], bytes] | None = None
    ) -> list[Message]:
        """The messages of one frame's body, checked.

        Args:
            body: the frame without its length.
            blob_of: gives the bytes of a finished transfer; raises `ValueError` for an unknown one.

        Raises:
            MalformedMessageError: the body is anything but a list of known messages within bounds.
        """
        try:
            items = msgpack.unpackb(
                body,
                use_list=False,
                strict_map_key=True,
                max_map_len=0,
                max_array_len=MAX_ITEMS,
                max_ext_len=_TRANSFER.size,
                ext_hook=lambda code, data: _resolve(code, data, blob_of),
            )
            if type(items) is not tuple:
                raise ValueError("a frame holds a list of messages")  # noqa: TRY301 - one way out
            readers = self._readers
            return [readers[item[0]](item) for item in items]
        except (ValueError, TypeError, LookupError, msgpack.UnpackException, RecursionError) as error:
            raise MalformedMessageError(f"unreadable frame: {error}") from None


class _Readers(dict[int, "Callable[[Any], Message]"]):
    """The reader of each tag, made when its first message arrives."""

    def __init__(self, records: dict[int, type[Any]]) -> None:
        super().__init__()
        self._records = records

    def __missing__(self, tag: Any) -> Callable[[Any], Message]:
        if type(tag) is not int or tag not in self._records:
            raise ValueError(f"no message has the tag {tag!r:.20}")
        self[tag] = Schema(self._records[tag], skip=1).build
        return self[tag]


class _LargeTests(dict[type[Any], "Callable[[Any], object] | None"]):
    """What tells whether a message holds a large blob, made when the first one leaves; None if none can."""

    def __missing__(self, record: type[Any]) -> Callable[[Any], object] | None:
        expression = _any_large(_kinds(record))
        self[record] = eval(f"lambda v: {expression}") if expression else None  # noqa: S307 - it is ours
        return self[record]


class _Packer(threading.local):
    """What packs: making one anew takes as long as packing a message. Threads must not share one."""

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = msgpack.Packer().pack


def _array_head(length: int) -> bytes:
    """How msgpack begins an array."""
    return bytes((0x90 | length,)) if length < 16 else _ARRAY_HEAD.pack(0xDD, length)  # noqa: PLR2004 - its format


def _resolve(code: int, data: bytes, blob_of: Callable[[int], bytes] | None) -> bytes:
    if code != TRANSFER_EXT or len(data) != _TRANSFER.size or blob_of is None:
        raise ValueError(f"extension {code} has no place here")
    (transfer,) = _TRANSFER.unpack(data)
    return blob_of(transfer)


class Detached(NamedTuple):
    """A message whose large blobs were taken out, and those blobs by transfer number."""

    message: Message
    blobs: list[tuple[int, bytes]]


def _is_large(value: Any) -> bool:
    if type(value) is bytes:
        return len(value) > INLINE_BLOB_BYTES
    return isinstance(value, tuple) and any(map(_is_large, value))


def detach_blobs(
    message: Message, next_transfer: Callable[[], int], above_bytes: int = INLINE_BLOB_BYTES
) -> Detached:
    """Replace every blob of more than `above_bytes` in `message` by the name of a transfer."""
    blobs: list[tuple[int, bytes]] = []
    return Detached(_stripped(message, blobs, next_transfer, above_bytes), blobs)


def _stripped(
    value: Any, blobs: list[tuple[int, bytes]], next_transfer: Callable[[], int], above_bytes: int
) -> Any:
    """A value whose large blobs have gone into `blobs`.

    No closure that calls itself: that would be a cycle, and keep them until the garbage collector comes.
    """
    if type(value) is bytes and len(value) > above_bytes:
        transfer = next_transfer()
        blobs.append((transfer, value))
        return msgpack.ExtType(TRANSFER_EXT, _TRANSFER.pack(transfer))
    if isinstance(value, tuple) and not isinstance(value, msgpack.ExtType):
        items = [_stripped(item, blobs, next_transfer, above_bytes) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


class FrameSplitter:
    """Cuts a stream of bytes into the bodies of frames; holds at most one unfinished frame.

    Args:
        max_frame_bytes: a frame that announces more ends the stream.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._rest = bytearray()

    def rest(self) -> bytes:
        """The bytes of the frame that is not whole yet."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> list[bytes | memoryview]:
        """Take in bytes as they arrived; give back the bodies that are now whole.

        Raises:
            FrameTooLargeError: a frame announces more than `max_frame_bytes`; nothing can follow.
        """
        size_bytes = len(data) - _LENGTH.size
        may_be_whole = not self._rest and 0 <= size_bytes <= self.max_frame_bytes
        if may_be_whole and data.startswith(_LENGTH.pack(size_bytes)):
            return [data[_LENGTH.size :]]  # one frame, as nearly always
        self._rest += data
        source = self._rest
        bodies: list[bytes | memoryview] = []
        position, end = 0, len(source)
        while end - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(source, position)
            if length > self.max_frame_bytes:
                raise FrameTooLargeError(f"a frame of {length} bytes; the limit is {self.max_frame_bytes}")
            begin = position + _LENGTH.size
            if end - begin < length:
                break
            position = begin + length
            bodies.append(memoryview(source)[begin:position])  # pieces of payloads are dear to copy
        if bodies:
            self._rest = source[position:]
        return bodies
