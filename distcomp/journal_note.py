"""The note beside a journal of how far it had come, which tells a damaged end from one never written.

Law: it is written after each commit and never waited for, so it may lag behind after a power cut, and is
never ahead. What is no whole note counts as none.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple
from zlib import crc32

from distcomp.journal_blobs import open_private

_NOTE = struct.Struct(">Qd")
_CRC_BYTES = 4


class Noted(NamedTuple):
    """The journal that began at `created_at` holds a durable commit with this number."""

    sequence: int
    created_at: float


class NoteFile:
    """The file with the note; made if there is none.

    Args:
        path: the file.

    Attributes:
        found: what it said when it was opened; None if nothing.

    Raises:
        OSError: it cannot be read or made.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        self.found = self._read()

    def _read(self) -> Noted | None:
        held = os.pread(self._descriptor, _NOTE.size + _CRC_BYTES, 0)
        said, crc = held[: _NOTE.size], held[_NOTE.size :]
        if len(crc) != _CRC_BYTES or int.from_bytes(crc, "big") != crc32(said):
            return None
        return Noted(*_NOTE.unpack(said))

    def write(self, sequence: int, created_at: float) -> None:
        """Note a durable commit; raises `OSError`."""
        said = _NOTE.pack(sequence, created_at)
        os.pwrite(self._descriptor, said + crc32(said).to_bytes(_CRC_BYTES, "big"), 0)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)
