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
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, get_args, get_type_hints

import msgpack

from distcomp.errors import FrameTooLargeError, MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_FRAME_BYTES = 1 << 20
INLINE_BLOB_BYTES = 64 << 10
PIECE_BYTES = 256 << 10
MAX_BLOB_BYTES = 1 << 30
MAX_ITEMS = 1 << 17
TRANSFER_EXT = 1
MAX_COUNTER = 2**63 - 1

_LENGTH = struct.Struct(">I")
_TRANSFER = struct.Struct(">Q")

Message: TypeAlias = tuple[Any, ...]
"""Any message: a registered `NamedTuple`. Its class tells which."""

Check: TypeAlias = "Callable[[Any], Any]"


class Kind:
    """What a field may hold. Calling a kind returns the checked value or raises `ValueError`.

    `test` is the same check as an expression over `v`, for the compiled readers of `Schema`; a kind
    that has to convert or to look into its value has none, and is called.
    """

    test = ""
    wanted = "something else"
    large = False
    """Whether a value may hold a blob above `INLINE_BLOB_BYTES`."""

    def __call__(self, value: Any) -> Any:
        """The value, checked."""
        if not eval(self.test, {"v": value}):  # noqa: S307 - the expression is ours
            raise self.misfit(value)
        return value

    def misfit(self, value: Any) -> ValueError:
        """The error for a value that this kind refuses."""
        return ValueError(f"{value!r:.40} is not {self.wanted}")


class Integer(Kind):
    """An integer between two bounds, both included."""

    def __init__(self, low: int, high: int) -> None:
        self.test = f"type(v) is int and {low} <= v <= {high}"
        self.wanted = f"an integer from {low} to {high}"


class Real(Kind):
    """A finite number of at least `low`."""

    def __init__(self, low: float = 0.0) -> None:
        self.test = f"type(v) in (float, int) and {low} <= v < float('inf')"
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
        self.test = f"type(v) is bytes and {shortest} <= len(v) <= {longest}"
        self.wanted = f"{shortest} to {longest} bytes"
        self.large = longest > INLINE_BLOB_BYTES


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
        self.wanted = f"a row of {len(kinds)}"
        self.convert = _compiled(
            kinds, [str(place) for place in range(len(kinds))], len(kinds), lambda *row: row
        )
        self.places = len(kinds)
        self.large = any(kind.large for kind in kinds)

    def __call__(self, value: Any) -> Any:
        """The row, each place checked."""
        if type(value) is not tuple or len(value) != self.places:
            raise self.misfit(value)
        return self.convert(*value)


class Listing(Kind):
    """A tuple of values of one kind."""

    def __init__(self, kind: Kind, most: int = MAX_ITEMS) -> None:
        self.kind, self.most = kind, most
        self.large = kind.large
        self.wanted = f"a list of at most {most} items"
        self.item = kind if not kind.test else _compiled([kind], ["item"], 1, lambda item: item)

    def __call__(self, value: Any) -> Any:
        """The list, each item checked."""
        if type(value) is not tuple or len(value) > self.most:
            raise self.misfit(value)
        return tuple(map(self.item, value)) if value else value


class Nested(Kind):
    """A record within a record."""

    def __init__(self, record: type[Any]) -> None:
        self.schema = Schema(record)
        self.large = bool(self.schema.large_places)

    def __call__(self, value: Any) -> Any:
        """The record, made of its fields."""
        return self.schema.build(value)


class Schema:
    """The fields of one record class, read from its annotations and compiled into one reader."""

    def __init__(self, record: type[Any]) -> None:
        hints = get_type_hints(record, include_extras=True)
        kinds = [_kind_of(record, name, hints[name]) for name in record._fields]
        self.record = record
        self.required = len(kinds) - len(record._field_defaults)
        self.places = len(kinds)
        self.large_places = tuple(place for place, kind in enumerate(kinds) if kind.large)
        self._kinds = kinds

    @cached_property
    def read(self) -> Callable[..., Any]:
        """Makes a record of its fields, checked. Compiled when it is first needed."""
        labels = [f"{self.record.__name__}.{name}" for name in self.record._fields]
        defaults = tuple(self.record._field_defaults.values())
        return _compiled(self._kinds, labels, self.required, self.record, defaults)

    def build(self, values: Any) -> Any:
        """Make a record from decoded `values`; raises `ValueError` naming the field that is wrong."""
        if type(values) is not tuple or len(values) < self.required:
            raise ValueError(f"{self.record.__name__} needs at least {self.required} fields")
        return self.read(*values[: self.places])


def _compiled(
    kinds: Sequence[Kind],
    labels: list[str],
    required: int,
    make: Callable[..., Any],
    defaults: tuple[Any, ...] = (),
) -> Callable[..., Any]:
    """One function that checks all places and hands them to `make`.

    Written out and compiled, because a call per field made reading a message four times dearer.
    """
    names = [f"v{place}" for place in range(len(kinds))]
    lines: list[str] = []
    scope: dict[str, Any] = {
        "make": make,
        "misfit": _misfit,
        "kinds": kinds,
        "labels": labels,
        "defaults": defaults,
    }
    for place, kind in enumerate(kinds):
        if kind.test:
            test = re.sub(r"\bv\b", names[place], kind.test)
            lines.append(
                f"    if not ({test}): raise misfit(kinds[{place}], labels[{place}], {names[place]})"
            )
        else:
            scope[f"k{place}"] = kind
            lines.append(f"    {names[place]} = k{place}({names[place]})")
    optional = [f"{name}=defaults[{place}]" for place, name in enumerate(names[required:])]
    head = f"def read({', '.join(names[:required] + optional)}):"
    exec("\n".join([head, *lines, f"    return make({', '.join(names)})"]), scope)  # noqa: S102 - source is ours
    read: Callable[..., Any] = scope["read"]
    return read


def _misfit(kind: Kind, label: str, value: Any) -> ValueError:
    return ValueError(f"{label}: {kind.misfit(value)}")


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
        self._schemas: dict[int, Schema] = {}
        self._tags: dict[type[Any], int] = {}

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
        tag = self._tags[type(message)]
        places = (self._schemas.get(tag) or self._schema(tag)).large_places
        return any(_is_large(message[place]) for place in places)

    def pack(self, message: Message) -> bytes:
        """One message as bytes, to be put into a frame by `frame`."""
        packed: bytes = msgpack.packb((self._tags[type(message)], *message))
        return packed

    def frame(self, packed: list[bytes]) -> bytes:
        """One frame of messages made by `pack`; the caller keeps their sum within the limit."""
        header = msgpack.Packer().pack_array_header(len(packed))
        body = b"".join((header, *packed))
        if len(body) > self.max_frame_bytes:
            raise FrameTooLargeError(
                f"a frame of {len(body)} bytes; at most {self.max_frame_bytes} may leave"
            )
        return _LENGTH.pack(len(body)) + body

    def frames(self, packed: list[bytes]) -> list[bytes]:
        """As few frames as the limit allows, in order."""
        frames: list[bytes] = []
        batch: list[bytes] = []
        size_bytes = 5
        for message in packed:
            if batch and size_bytes + len(message) > self.max_frame_bytes:
                frames.append(self.frame(batch))
                batch, size_bytes = [], 5
            batch.append(message)
            size_bytes += len(message)
        if batch:
            frames.append(self.frame(batch))
        return frames

    def decode(self, body: bytes, blob_of: Callable[[int], bytes] | None = None) -> list[Message]:
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
            return [self._build(item) for item in items]
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise MalformedMessageError(f"unreadable frame: {error}") from None

    def _build(self, item: Any) -> Message:
        if type(item) is not tuple or not item or type(item[0]) is not int:
            raise ValueError("a message is a list that begins with its tag")
        schema = self._schemas.get(item[0]) or self._schema(item[0])
        message: Message = schema.build(item[1:])
        return message

    def _schema(self, tag: int) -> Schema:
        if tag not in self._records:
            raise ValueError(f"no message has the tag {tag}")
        self._schemas[tag] = Schema(self._records[tag])
        return self._schemas[tag]


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

    def strip(value: Any) -> Any:
        if type(value) is bytes and len(value) > above_bytes:
            transfer = next_transfer()
            blobs.append((transfer, value))
            return msgpack.ExtType(TRANSFER_EXT, _TRANSFER.pack(transfer))
        if isinstance(value, tuple) and not isinstance(value, msgpack.ExtType):
            items = [strip(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        return value

    return Detached(strip(message), blobs)


class FrameSplitter:
    """Cuts a stream of bytes into the bodies of frames; holds at most one unfinished frame.

    Args:
        max_frame_bytes: a frame that announces more ends the stream.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take in bytes as they arrived; give back the bodies that are now whole.

        Raises:
            FrameTooLargeError: a frame announces more than `max_frame_bytes`; nothing can follow.
        """
        self._rest += data
        bodies: list[bytes] = []
        position, end = 0, len(self._rest)
        with memoryview(self._rest) as source:
            while end - position >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(source, position)
                if length > self.max_frame_bytes:
                    raise FrameTooLargeError(
                        f"a frame of {length} bytes; the limit is {self.max_frame_bytes}"
                    )
                begin = position + _LENGTH.size
                if end - begin < length:
                    break
                position = begin + length
                bodies.append(bytes(source[begin:position]))
        del self._rest[:position]
        return bodies
