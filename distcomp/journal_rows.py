"""What one commit of a journal looks like: records as bytes, large blobs apart, and a CRC over it all."""

from __future__ import annotations

import struct
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from distcomp.journal_blobs import DIGEST_BYTES
from distcomp.records import codec, pack, unpack, weight_bytes
from distcomp.wire import detach_blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distcomp.config import JournalSettings
    from distcomp.journal_backlog import TurnRecords
    from distcomp.records import JournalBegan, Record

MAX_ROW_RECORDS = 1 << 16
"""Records in one row; more become several."""

_STAMP = struct.Struct(">Qd")


class PackedRecords(NamedTuple):
    """Records as bytes, and the large blobs that were taken out of them, by digest."""

    packed: bytes
    blobs: tuple[tuple[bytes, bytes], ...]

    def row(self, seed: int, sequence: int, committed_at: float) -> CommitRow:
        """The row that says it, in the journal with that seed."""
        digests = b"".join(digest for digest, _ in self.blobs)
        return row_of(seed, sequence, committed_at, digests, self.packed)


class CommitRow(NamedTuple):
    """One row as it is kept; `digests` are those of what was taken out, joined."""

    sequence: int
    crc: int
    committed_at: float
    digests: bytes
    packed: bytes

    def is_whole(self, seed: int) -> bool:
        """Whether it is what was written to the journal with that seed."""
        kinds = tuple(map(type, self))
        return kinds == (int, int, float, bytes, bytes) and self == row_of(seed, self[0], *self[2:])

    def named(self) -> list[bytes]:
        """The digests one by one."""
        digests = self.digests
        return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]

    def records(self, read_blob: Callable[[bytes], bytes]) -> list[Record]:
        """What it holds.

        Args:
            read_blob: gives a large blob by its digest; raises `ValueError` if it cannot.

        Raises:
            MalformedMessageError: it holds no records, or a blob cannot be had.
        """
        named = self.named()
        return unpack(self.packed, lambda place: read_blob(named[place]))


def seed_of(head: JournalBegan) -> int:
    """What the CRC of every row of a journal begins with, so that none is taken for another journal's."""
    return crc32(head.cluster, crc32(_STAMP.pack(0, head.created_at)))


def row_of(seed: int, sequence: int, committed_at: float, digests: bytes, packed: bytes) -> CommitRow:
    """A row with its CRC."""
    crc = crc32(packed, crc32(digests, crc32(_STAMP.pack(sequence, committed_at), seed)))
    return CommitRow(sequence, crc, committed_at, digests, packed)


def packed_group(
    group: Iterable[TurnRecords], settings: JournalSettings, digest_of: Callable[[bytes], bytes]
) -> list[PackedRecords]:
    """All records of a group in order, in as few rows as the bounds allow: nearly always one.

    `digest_of` gives what names a large blob.
    """
    return [
        _packed_apart(records, settings.journal_blob_bytes, digest_of)
        for records in _portions(group, settings.journal_commit_bytes)
    ]


def _portions(group: Iterable[TurnRecords], most_bytes: int) -> Iterator[Sequence[Record]]:
    """The records of a group, cut where a row would become too large."""
    portion: list[Record] = []
    portion_bytes = 0
    for entry in group:
        fits = portion_bytes + entry.weight_bytes <= most_bytes
        if fits and len(portion) + len(entry.records) <= MAX_ROW_RECORDS:
            portion += entry.records
            portion_bytes += entry.weight_bytes
            continue
        for record in entry.records:
            if portion and (portion_bytes >= most_bytes or len(portion) >= MAX_ROW_RECORDS):
                yield portion
                portion, portion_bytes = [], 0
            portion.append(record)
            portion_bytes += weight_bytes(record)
    if portion:
        yield portion


def _packed_apart(
    records: Sequence[Record], blob_bytes: int, digest_of: Callable[[bytes], bytes]
) -> PackedRecords:
    """Records packed, without blobs of more than `blob_bytes`."""
    is_large = codec.is_large
    if not any(map(is_large, records)):
        return PackedRecords(pack(records), ())
    places = count()
    blobs: list[bytes] = []
    stripped: list[Any] = []
    for record in records:
        detached = detach_blobs(record, places.__next__, blob_bytes)
        stripped.append(detached.message)
        blobs += [blob for _, blob in detached.blobs]
    return PackedRecords(pack(stripped), tuple((digest_of(blob), blob) for blob in blobs))
