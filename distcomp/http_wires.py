"""HTTP/1.1 as a client of a gateway speaks it: one request at a time, and its answer as it comes.

State law of an `HttpWire`: it is *idle*, or busy with one request until the last byte of its answer was read.
After anything unexpected, or a `Connection: close`, it never becomes idle again, and is to be aborted.

Nothing of an answer is trusted: its head, its lines and bodies read as a whole are bounded.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from distcomp.errors import ForeignProtocolError, UnreachableError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

MAX_HEAD_BYTES = 64 << 10
MAX_LINE_BYTES = 4096
MAX_ANSWER_BYTES = 1 << 20
"""Of an answer that is read as a whole; what a gateway says of itself is far smaller."""
READ_BYTES = 256 << 10
_MAX_INTERIM = 8
_REMEMBERED_HEADS = 8
"""A gateway's answers to requests up have the same head, but for one or two bytes."""
_MAX_TRAILERS = 64
_MAX_SHOWN_BYTES = 40

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: .*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_BEGIN = b"HTTP/"
_EMPTY = frozenset({204, 304})
_NONE, _CHUNKS, _TO_THE_END = -1, -2, -3
"""In place of a number of bytes: no more come; they come in chunks; they last as long as the connection."""
_FINAL = 200


class Head(NamedTuple):
    """The head of an answer.

    Attributes:
        status: its number.
        fields: by names in lower case.
        stays: whether the connection can be used again, if the answer is read to its end.
        size: bytes of its body; or one of the three words for sizes that are not known, or nothing.
    """

    status: int
    fields: Mapping[str, str]
    stays: bool
    size: int = -1


class HttpWire:
    """One connection.

    Args:
        reader: of the connection; its limit is `READ_BYTES`.
        writer: of the same.
        name: of the other side, for errors.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        self._reader, self._writer = reader, writer
        self._name = name
        self._is_idle = True
        self._is_late = False
        self._head = Head(0, {}, stays=False)
        self._left = 0
        self._first_chunk = False

    @property
    def is_idle(self) -> bool:
        """Whether another request can be made."""
        return self._is_idle and not (self._reader.at_eof() or self._writer.is_closing())

    @property
    def socket(self) -> socket.socket | None:
        """What it goes through, as long as it is open."""
        found: socket.socket | None = self._writer.get_extra_info("socket")
        return None if self._writer.is_closing() else found

    def abort(self) -> None:
        """Be gone at once."""
        self._is_idle = False
        self._writer.transport.abort()

    async def ask(self, request: bytes, timeout_s: float) -> tuple[Head, bytes]:
        """Send a request, and give its whole answer.

        Raises:
            UnreachableError: the connection broke, or no answer came in time.
            ForeignProtocolError: what came is no such answer.
        """
        timer = asyncio.get_running_loop().call_later(timeout_s, self._give_up)
        try:
            head = await self.begin(request)
            parts, size_bytes = [], 0
            while part := await self.read():
                parts.append(part)
                size_bytes += len(part)
                if size_bytes > MAX_ANSWER_BYTES:
                    raise self._foreign(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes")
            return head, b"".join(parts)
        finally:
            timer.cancel()

    async def begin(self, request: bytes) -> Head:
        """Send a request, and give the head of its answer; `read` gives the rest.

        Raises:
            UnreachableError: the connection broke.
            ForeignProtocolError: what came is no answer.
        """
        self._is_idle = False
        try:
            self._writer.write(request)
            for _ in range(_MAX_INTERIM):
                self._head = read_head(await self._raw_head())
                if self._head.status >= _FINAL:
                    self._first_chunk = True
                    self._left = self._head.size
                    return self._head
        except OSError as error:
            raise UnreachableError(f"{self._name}: the connection broke: {error}") from None
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise self._foreign(str(error)) from None
        raise self._foreign("interim answers without end")

    async def read(self) -> bytes:
        """Give more of an answer's body as it comes; empty at its end.

        Raises:
            UnreachableError: the connection broke before.
            ForeignProtocolError: what came is no body.
        """
        try:
            if self._left == _CHUNKS:
                self._left = await self._next_chunk() or _NONE
            if self._left == _NONE:
                self._is_idle = self._head.stays
                return b""
            part = await self._reader.read(
                READ_BYTES if self._left == _TO_THE_END else min(self._left, READ_BYTES)
            )
            if not part and self._left != _TO_THE_END:
                raise self._broken()
        except asyncio.IncompleteReadError:
            raise self._broken() from None
        except OSError as error:
            raise UnreachableError(f"{self._name}: the connection broke: {error}") from None
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise self._foreign(str(error)) from None
        if self._left > 0:
            self._left = self._left - len(part) or (_CHUNKS if self._head.size == _CHUNKS else _NONE)
        return part

    async def _raw_head(self) -> bytes:
        try:
            begin = await self._reader.readexactly(len(_BEGIN))
        except asyncio.IncompleteReadError as error:
            if error.partial and not _BEGIN.startswith(error.partial):
                raise ValueError(f"it says {error.partial!r}") from None
            raise self._broken() from None
        if begin != _BEGIN:
            raise ValueError(f"it says {begin!r}")
        try:
            rest = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            raise self._broken() from None
        if len(rest) > MAX_HEAD_BYTES:
            raise ValueError("the head of an answer is too long")
        return begin + rest

    async def _line(self) -> bytes:
        line = await self._reader.readuntil(b"\n")
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("a line is too long")
        return line.rstrip(b"\r\n")

    async def _next_chunk(self) -> int:
        """The size of the next chunk; 0 if there is none, and then trailers are read, too."""
        if not self._first_chunk and await self._line():
            raise ValueError("a chunk is longer than it says")
        self._first_chunk = False
        line = await self._line()
        fits = _SIZE.fullmatch(line)
        if fits is None:
            raise ValueError(f"{line[:_MAX_SHOWN_BYTES]!r} is no size of a chunk")
        size = int(fits[1], 16)
        if not size:
            for _ in range(_MAX_TRAILERS):
                if not await self._line():
                    return 0
            raise ValueError("trailers without end")
        return size

    def _give_up(self) -> None:
        self._is_late = True
        self.abort()

    def _broken(self) -> UnreachableError:
        if self._is_late:
            return UnreachableError(f"{self._name} did not answer in time")
        return UnreachableError(f"{self._name} closed the connection before its answer was whole")

    def _foreign(self, words: str) -> ForeignProtocolError:
        return ForeignProtocolError(f"what answers at {self._name} does not speak HTTP as it should: {words}")


@lru_cache(_REMEMBERED_HEADS)
def read_head(raw: bytes) -> Head:
    r"""Read the head of an answer, from its first byte to its empty line.

    Raises:
        ValueError: it is none.

    Example:
        >>> read_head(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n").fields
        {'x-a': 'b'}
    """
    first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise ValueError(f"{first[:_MAX_SHOWN_BYTES]!r} is no status line")
    fields: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise ValueError(f"{line[:_MAX_SHOWN_BYTES]!r} is no field")
        name, value = field[1].decode().lower(), field[2].decode("latin-1")
        if name in fields and name in ("content-length", "transfer-encoding"):
            raise ValueError(f"there are two fields {name}")
        fields[name] = value
    length, encoding = fields.get("content-length"), fields.get("transfer-encoding")
    if length is not None and (encoding is not None or not re.fullmatch(r"[0-9]{1,15}", length)):
        raise ValueError(f"a length of {length!r:.40} says nothing")
    if encoding is not None and encoding.lower() != "chunked":
        raise ValueError(f"the transfer encoding {encoding!r:.40} is unknown")
    size = _TO_THE_END
    if int(status[2]) in _EMPTY:
        size = _NONE
    elif encoding is not None:
        size = _CHUNKS
    elif length is not None:
        size = int(length) or _NONE
    words = {word.strip() for word in fields.get("connection", "").lower().split(",")}
    stays = size != _TO_THE_END and status[1] == b"1" and "close" not in words
    return Head(int(status[2]), fields, stays, size)
