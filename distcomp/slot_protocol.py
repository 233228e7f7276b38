"""What a supervisor, its template and its slot processes say to each other.

Supervisor and slot speak frames of messages, like programs do, over a socket pair of their own. A large
blob follows raw behind a `BlobFollows` and before the message it belongs to: neither side copies it more
often than once, nor stops for the time of a copy of all of it.

The template, which only forks and signals, is spoken to in orders of a fixed layout: it must stay small.
"""

from __future__ import annotations

import signal
import struct
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from distcomp.errors import FrameTooLargeError
from distcomp.ids import NO_BUNDLE
from distcomp.kinds import MAX_BLOB_BYTES, Integer
from distcomp.rows import (  # noqa: TC001 - the codec reads annotations at run time
    Blob,
    Bundle,
    Count,
    Failures,
    Function,
    LogLines,
    Runs,
    Seconds,
    Switch,
    Words,
)
from distcomp.wire import MAX_FRAME_BYTES, Codec, detach_blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distcomp.wire import Message

MAX_SLOT_FRAME_BYTES = 4 * MAX_FRAME_BYTES
"""Room for one failure with all its texts as long as they may be, each character of four bytes."""

RECEIVE_BYTES = 64 << 10
"""Read at once. For 128 KiB the C library maps memory anew, each time: six times as dear as a small read."""

codec = Codec(MAX_SLOT_FRAME_BYTES)
T = TypeVar("T", bound=type[Any])

STACKS_SIGNAL: int = getattr(signal, "SIGRTMAX", signal.SIGUSR2)
"""Makes a slot write its Python stacks to its stacks file, even while C code holds the GIL."""

INTERRUPT_SIGNAL: int = getattr(signal, "SIGRTMAX", signal.SIGUSR1 + 1) - 1
"""Makes a slot raise in the task that the page names. Real-time signals, because tasks rarely use them."""


def _message(tag: int) -> Callable[[T], T]:
    def register(record: T) -> T:
        codec.register(tag, record)
        return record

    return register


# --- either way -----------------------------------------------------------------------------------


@_message(20)
class BlobFollows(NamedTuple):
    """The next `size_bytes` bytes after this frame are a blob that the next message names."""

    transfer: Count
    size_bytes: Annotated[int, Integer(1, MAX_BLOB_BYTES)]


# --- supervisor to slot ---------------------------------------------------------------------------


@_message(1)
class PrepareSlot(NamedTuple):
    """Take over the environment of the session that this process belongs to from now on.

    Modules are imported from the bundle in `bundle_folder`, which may be of `bundle_bytes`, if there is one.
    """

    environment: Blob
    max_payload_bytes: Count
    bundle: Bundle = NO_BUNDLE
    bundle_folder: Words = ""
    bundle_bytes: Count = 0


@_message(2)
class LoadFunction(NamedTuple):
    """The bytes behind a function id, before the first run of it."""

    function: Function
    blob: Blob


@_message(3)
class ForgetFunction(NamedTuple):
    """No run of this function follows, unless it is sent again."""

    function: Function


@_message(4)
class RunTasks(NamedTuple):
    """Run the indexes `start` to `stop`, whose arguments lie in a chunk that begins at `chunk_start`.

    With an allowance of lines and bytes a second, what they print and log is passed on by `RunLogged`.
    """

    run: Count
    function: Function
    start: Count
    stop: Count
    chunk_start: Count
    chunk: Blob
    eager: Switch
    log_lines_per_s: Count = 0
    log_bytes_per_s: Count = 0


# --- slot to supervisor ---------------------------------------------------------------------------


@_message(10)
class SlotReady(NamedTuple):
    """The environment is taken over, or there is a `problem` with it."""

    problem: Words


@_message(11)
class RunProgressed(NamedTuple):
    """Outcomes of a run: results and failures by index, and the seconds since the last report.

    All below `reached` is reported. With `ended`, the slot has left the run: nothing from `reached` on
    was run, or will be.
    """

    run: Count
    runs: Runs
    failures: Failures
    busy_s: Seconds
    reached: Count
    ended: Switch


@_message(12)
class RunLogged(NamedTuple):
    """What tasks of a run have printed and logged; so many lines more were dropped."""

    run: Count
    lines: LogLines
    dropped: Count


# --- the stream between supervisor and slot -------------------------------------------------------

_LENGTH = struct.Struct(">I")


class SlotStream:
    """One end of the stream: messages to bytes and back."""

    def __init__(self) -> None:
        self._transfers = count()
        self._rest = bytearray()
        self._blobs: dict[int, bytes] = {}
        self._awaited: BlobFollows | None = None
        self._parts: list[bytes] = []
        self._missing = 0

    def encode(self, messages: Sequence[Message]) -> list[memoryview]:
        """What to write for `messages`, in order."""
        frame = codec.small_frame(messages)
        if frame is not None:
            return [memoryview(frame)]
        views: list[memoryview] = []
        for message in messages:
            bare, blobs = detach_blobs(message, self._transfers.__next__)
            for transfer, blob in blobs:
                announced = codec.pack(BlobFollows(transfer, len(blob)))
                views += (memoryview(codec.frame([announced])), memoryview(blob))
            views.append(memoryview(codec.frame([codec.pack(bare)])))
        return views

    def feed(self, data: bytes) -> list[Message]:
        """Take in bytes as they arrived; give the messages that are now whole.

        Raises:
            ProtocolError: it is no such stream.
        """
        if self._missing:
            data = self._take_raw(data)
        size_bytes = len(data) - _LENGTH.size
        may_be_whole = not self._rest and 0 <= size_bytes <= MAX_SLOT_FRAME_BYTES
        if may_be_whole and data.startswith(_LENGTH.pack(size_bytes)):  # one frame, as nearly always
            found = codec.decode(data[_LENGTH.size :], self._blob)
            return self._await_blobs(found) if BlobFollows in map(type, found) else found
        messages: list[Message] = []
        self._rest += data
        while not self._missing and len(self._rest) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._rest)
            if length > MAX_SLOT_FRAME_BYTES:
                raise FrameTooLargeError(f"a frame of {length} bytes; the limit is {MAX_SLOT_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._rest) < end:
                break
            found = codec.decode(bytes(self._rest[_LENGTH.size : end]), self._blob)
            del self._rest[:end]
            messages += self._await_blobs(found) if BlobFollows in map(type, found) else found
        return messages

    def _await_blobs(self, messages: list[Message]) -> list[Message]:
        """Await what messages announce; gives the others."""
        for message in messages:
            if isinstance(message, BlobFollows):
                self._await_raw(message)
        return [message for message in messages if not isinstance(message, BlobFollows)]

    def _await_raw(self, announced: BlobFollows) -> None:
        self._awaited, self._missing = announced, announced.size_bytes
        after, self._rest = bytes(self._rest), bytearray()
        self._rest += self._take_raw(after)

    def _take_raw(self, data: bytes) -> bytes:
        """Put what belongs to the awaited blob away; returns what follows it."""
        part = data[: self._missing]
        self._parts.append(part)
        self._missing -= len(part)
        if not self._missing and self._awaited is not None:
            self._blobs[self._awaited.transfer] = b"".join(self._parts)
            self._parts, self._awaited = [], None
        return data[len(part) :]

    def _blob(self, transfer: int) -> bytes:
        blob = self._blobs.pop(transfer, None)
        if blob is None:
            raise ValueError(f"blob {transfer} was not sent")
        return blob


# --- supervisor and template ----------------------------------------------------------------------

ORDER = struct.Struct("=cqi")
"""To the template: what, for which slot process, and a signal number."""

FORK = b"F"
"""Fork a slot process. Its socket, page, output pipe, door and stacks file come along as descriptors."""

SIGNAL = b"S"
"""Send the signal to the slot process alone."""

SIGNAL_GROUP = b"G"
"""Send the signal to the slot process and what its tasks started."""

LEARN = b"L"
"""Import what tasks need that submit tasks themselves: slot processes forked from now on have it."""

NEWS = struct.Struct("=cqi")
"""From the template: what, of which slot process, and a number."""

FORKED = b"P"
"""The slot process runs; the number is its process id."""

ENDED = b"X"
"""The slot process and its group are gone; the number is its exit code, negative for a signal."""

UNFORKED = b"N"
"""The slot process could not be made; the number is the system's error number."""
