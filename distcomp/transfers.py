"""Blobs that travel apart from their message, in pieces: both ends of it, without any IO.

Sending, a message is in one of three states. It *leaves* at once if nothing that it must not overtake
is parked. Otherwise it is *parked*: it waits for the entries before it that hold one of its keys
(`blockers` counts them), and then, if it has large blobs, until their last piece has left. When an
entry is gone, its followers count down. Pieces of all transfers under way take turns.

Credit bounds what is under way: every piece costs its size, and the receiver gives that back.
"""

from __future__ import annotations

from collections import deque
from io import BytesIO
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from distcomp.errors import FrameTooLargeError, MalformedMessageError
from distcomp.kinds import MAX_ITEMS
from distcomp.ordering import Parked, Parking
from distcomp.protocol import PiecesStored, SendPiece, codec
from distcomp.wire import MAX_FRAME_BYTES, PIECE_BYTES, detach_blobs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distcomp.config import WireLimits
    from distcomp.protocol import Message

_MAX_PACKED_BYTES = MAX_FRAME_BYTES - 5
"""A frame of one message needs five bytes at most besides it."""
_SMALL_BLOB_BYTES = 256


class _Entry(Parked):
    """A parked message, and once it is packed, what it is beside its blobs."""

    __slots__ = ("packed", "size_bytes", "transfers")

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self.packed = b""
        self.size_bytes = 0
        self.transfers = 0


class _Transfer(NamedTuple):
    """The rest of a blob, from `offset` on."""

    number: int
    blob: bytes
    offset: int
    entry: _Entry


class Outgoing(Parking[_Entry]):
    """What leaves over one connection, and what waits to leave.

    Args:
        limits: bounds and credit.

    Example:
        Write `codec.frames(outgoing.pack(messages))`; then, while there is room to write, what
        `next_frames()` gives; call `add_credit` when the receiver says that it stored pieces.
    """

    def __init__(self, limits: WireLimits) -> None:
        super().__init__()
        self._limits = limits
        self._credit = limits.credit_bytes
        self._numbers = count(1)
        self._queued: deque[tuple[_Entry, list[tuple[int, bytes]]]] = deque()
        self._moving: deque[_Transfer] = deque()
        self._moving_bytes = 0
        self._moving_entries = 0

    def pack(self, messages: Iterable[Message]) -> list[bytes]:
        """Take in messages; give back, packed and in order, those that may leave now.

        Raises:
            FrameTooLargeError: a message is too large even without its blobs.
        """
        ready: list[bytes] = []
        is_large, pack = codec.is_large, codec.pack
        for message in messages:
            blockers = self.blockers_of(message) if self.parked else None
            if blockers:
                self.park(_Entry(message), blockers)
                continue
            if not is_large(message):
                packed = pack(message)
                if len(packed) <= _MAX_PACKED_BYTES:
                    ready.append(packed)
                    continue
            entry = _Entry(message)
            self.park(entry)
            self._detach(entry)
        return ready

    def add_credit(self, size_bytes: int) -> None:
        """The receiver stored so many bytes.

        Raises:
            MalformedMessageError: more than it was ever sent.
        """
        self._credit += size_bytes
        if self._credit > self._limits.credit_bytes:
            raise MalformedMessageError("more credit came back than was given")

    def next_frames(self) -> list[bytes | memoryview]:
        """The next piece to write, as the parts of a frame; none for now if empty.

        A last piece is followed by the message that it belongs to, in a frame of its own: a frame is
        decoded whole, and the message's blobs must be known by then.
        """
        if not self._moving:
            return []
        number, blob, offset, entry = self._moving[0]
        size_bytes = min(PIECE_BYTES, len(blob) - offset)
        if size_bytes > self._credit:
            return []
        self._moving.popleft()
        self._credit -= size_bytes
        end = offset + size_bytes
        view = memoryview(blob)[offset:end]
        frames = [*codec.frame_around(SendPiece._make((number, len(blob), view)))]
        if end < len(blob):
            self._moving.append(_Transfer(number, blob, end, entry))
        else:
            entry.transfers -= 1
            if not entry.transfers:
                self._moving_bytes -= entry.size_bytes
                self._moving_entries -= 1
                frames += codec.frames(self._leave(entry))
                self._start_queued()
        return frames

    def _detach(self, entry: _Entry) -> bool:
        """Take the large blobs out of an entry that nothing blocks; whether there are any."""
        next_number = self._numbers.__next__
        message, blobs = detach_blobs(entry.message, next_number)
        packed = codec.pack(message)
        if len(packed) > _MAX_PACKED_BYTES:
            message, blobs = detach_blobs(entry.message, next_number, _SMALL_BLOB_BYTES)
            packed = codec.pack(message)
        if len(packed) > _MAX_PACKED_BYTES:
            raise FrameTooLargeError(f"a {type(message).__name__} of {len(packed)} bytes makes no frame")
        entry.message, entry.packed, entry.transfers = (), packed, len(blobs)
        entry.size_bytes = sum(len(blob) for _, blob in blobs)
        if blobs:
            self._queued.append((entry, blobs))
            self._start_queued()
        return bool(blobs)

    def _start_queued(self) -> None:
        while self._queued:
            entry, blobs = self._queued[0]
            total_bytes = self._moving_bytes + entry.size_bytes
            fits = total_bytes <= self._limits.max_transfer_bytes
            if self._moving_entries and not (fits and self._moving_entries < self._limits.max_transfers):
                return
            self._queued.popleft()
            self._moving_bytes = total_bytes
            self._moving_entries += 1
            self._moving.extend(_Transfer(number, blob, 0, entry) for number, blob in blobs)

    def _leave(self, entry: _Entry) -> list[bytes]:
        """An entry goes; with it all that waited for it alone and has no blobs to send."""
        packed: list[bytes] = []
        leaving = deque([entry])
        while leaving:
            gone = leaving.popleft()
            packed.append(gone.packed)
            leaving += [each for each in self.leave(gone) if not self._detach(each)]
        return packed


class _Arriving:
    """The beginning of a blob. A `BytesIO` gives what was written to it without another copy of it all."""

    __slots__ = ("content", "size_bytes", "stored_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.stored_bytes = 0
        self.content = BytesIO()


class Incoming:
    """Blobs that arrive over one connection, until the messages that name them claim them.

    Args:
        limits: bounds; what exceeds them is the peer's mistake.

    Attributes:
        claimed_bytes: what was claimed since somebody set it to 0.
        withheld: set it, and the peer gets no credit back.
    """

    def __init__(self, limits: WireLimits) -> None:
        self._limits = limits
        self._arriving: dict[int, _Arriving] = {}
        self._whole: dict[int, bytes] = {}
        self._held_bytes = 0
        self._owed_bytes = 0
        self._newest = 0
        self.claimed_bytes = 0
        self.withheld = False

    def store(self, piece: SendPiece) -> None:
        """Take in a piece.

        Raises:
            MalformedMessageError: it does not continue its transfer, or exceeds a limit.
        """
        arriving = self._arriving.get(piece.transfer) or self._begin(piece)
        arriving.stored_bytes += len(piece.data)
        if piece.size_bytes != arriving.size_bytes or arriving.stored_bytes > arriving.size_bytes:
            raise MalformedMessageError(f"transfer {piece.transfer} changed its size")
        arriving.content.write(piece.data)
        self._owed_bytes += len(piece.data)
        if arriving.stored_bytes == arriving.size_bytes:
            del self._arriving[piece.transfer]
            self._whole[piece.transfer] = arriving.content.getvalue()

    def claim(self, transfer: int) -> bytes:
        """The blob of a transfer, once; raises `ValueError` if it is not whole or not known."""
        blob = self._whole.pop(transfer, None)
        if blob is None:
            raise ValueError(f"transfer {transfer} is not whole")
        self._held_bytes -= len(blob)
        self.claimed_bytes += len(blob)
        return blob

    def take_credit(self) -> PiecesStored | None:
        """What to tell the sender, when it is worth a message."""
        too_little = self._owed_bytes < PIECE_BYTES  # not by our own credit: the peer's may be another
        if too_little or self.withheld:
            return None
        stored = PiecesStored(self._owed_bytes)
        self._owed_bytes = 0
        return stored

    def _begin(self, piece: SendPiece) -> _Arriving:
        if piece.transfer <= self._newest:
            raise MalformedMessageError(f"transfer {piece.transfer} was over, or never began")
        if piece.size_bytes > self._limits.max_payload_bytes:
            raise MalformedMessageError(
                f"a payload of {piece.size_bytes} bytes; at most {self._limits.max_payload_bytes} may come"
            )
        self._held_bytes += piece.size_bytes
        if self._held_bytes > self._limits.max_transfer_bytes:
            raise MalformedMessageError(
                f"payloads of {self._held_bytes} bytes under way; "
                f"at most {self._limits.max_transfer_bytes} may be"
            )
        if len(self._arriving) + len(self._whole) >= MAX_ITEMS:
            raise MalformedMessageError(f"more than {MAX_ITEMS} payloads under way")
        self._newest = piece.transfer
        self._arriving[piece.transfer] = _Arriving(piece.size_bytes)
        return self._arriving[piece.transfer]
