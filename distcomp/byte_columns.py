"""A column of byte strings as one blob, and back, by a fixed layout that nothing has to be unpickled for.

    magic (8 bytes) · count · one length for each item · the items        (numbers big-endian, 4 bytes)

Arguments and results that are nothing but `bytes` travel so, and can be read by whoever must not open
pickles. A pickle begins with another byte than the magic does.
"""

from __future__ import annotations

import struct
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"dcbytes1"
_COUNT = struct.Struct(">I")
_HEAD_BYTES = len(MAGIC) + _COUNT.size


def write(items: Sequence[bytes]) -> bytes:
    """The blob of some byte strings.

    Example:
        >>> read(write([b"a", b""]))
        [b'a', b'']
    """
    lengths = struct.pack(f">{len(items)}I", *map(len, items))
    return b"".join((MAGIC, _COUNT.pack(len(items)), lengths, *items))


def is_one(blob: bytes) -> bool:
    """Whether a blob says that it is such a column."""
    return blob.startswith(MAGIC)


def read(blob: bytes) -> list[bytes]:
    """The byte strings in a blob.

    Raises:
        ValueError: it is no such blob, or not a whole one.
    """
    if not is_one(blob) or len(blob) < _HEAD_BYTES:
        raise ValueError("these bytes hold no column of byte strings")
    (count,) = _COUNT.unpack_from(blob, len(MAGIC))
    begin = _HEAD_BYTES + 4 * count
    if len(blob) < begin:
        raise ValueError("a column of byte strings that is not whole")
    ends = list(accumulate(struct.unpack_from(f">{count}I", blob, _HEAD_BYTES), initial=begin))
    if ends[-1] != len(blob):
        raise ValueError("a column of byte strings that is not whole")
    return [blob[start:stop] for start, stop in pairwise(ends)]
