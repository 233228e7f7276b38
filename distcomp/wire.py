"""Frames on the wire, and blobs that travel apart.

A *frame* is a four-byte big-endian length and a msgpack array of messages, each a record of
`distcomp.kinds` with its tag before it. A blob above `INLINE_BLOB_BYTES` does not ride in its message: it
is replaced by an extension value that names a transfer, and its bytes travel before it, in pieces (see
`distcomp.transport`).
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgpack

from distcomp.errors import FrameTooLargeError, MalformedMessageError
from distcomp.kinds import INLINE_BLOB_BYTES, MAX_ITEMS, Schema, large_test

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_FRAME_BYTES = 1 << 20
PIECE_BYTES = 256 << 10
TRANSFER_EXT = 1

_LENGTH = struct.Struct(">I")
_TRANSFER = struct.Struct(">Q")
_ARRAY_HEAD = struct.Struct(">BI")
_BLOB_HEAD = struct.Struct(">BI")
_MAX_HEAD_BYTES = _ARRAY_HEAD.size

Message: TypeAlias = tuple[Any, ...]
"""Any message: a registered `NamedTuple`. Its class tells which."""


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
        self[record] = large_test(record)
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
