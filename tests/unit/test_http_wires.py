from __future__ import annotations

import asyncio
from typing import Any

import pytest

from distcomp.errors import ForeignProtocolError, UnreachableError
from distcomp.http_wires import MAX_ANSWER_BYTES, MAX_HEAD_BYTES, MAX_LINE_BYTES, READ_BYTES, Head, HttpWire


class Ends:
    """The writing end of a wire, which records, and can be aborted."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.written = b""
        self.transport = self
        self._reader = reader
        self._is_closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self._is_closing = True
        if not self._reader.at_eof():
            self._reader.feed_eof()

    def is_closing(self) -> bool:
        return self._is_closing

    def get_extra_info(self, name: str) -> str:
        return name


def made() -> tuple[HttpWire, asyncio.StreamReader, Ends]:
    reader = asyncio.StreamReader(READ_BYTES)
    ends = Ends(reader)
    writer: Any = ends
    return HttpWire(reader, writer, "http://a"), reader, ends


async def answered(raw: bytes, step: int = 1 << 20, *, ends: bool = False) -> tuple[Head, bytes, HttpWire]:
    """What a wire makes of an answer that comes in steps."""
    wire, reader, _ = made()
    asking = asyncio.ensure_future(wire.ask(b"GET / HTTP/1.1\r\n\r\n", 30))
    for begin in range(0, len(raw), step):
        reader.feed_data(raw[begin : begin + step])
        await asyncio.sleep(0)
    if ends:
        reader.feed_eof()
    head, body = await asking
    return head, body, wire


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("raw", "body", "stays"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 200 \r\ncontent-length:0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\nab", b"ab", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", b"ab", False),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding:chunked\r\n\r\n3;x\r\nabc\r\n8\r\n0\r\n34567\r\n0\r\n\r\n",
            b"abc0\r\n34567",
            True,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\nZ: z\r\n\r\n",
            b"a",
            True,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", True),
    ],
)
def test_an_answer_is_read_to_its_end(raw: bytes, body: bytes, step: int, *, stays: bool) -> None:
    async def run() -> None:
        head, got, wire = await answered(raw, step)
        assert (got, head.stays, wire.is_idle) == (body, stays, stays)

    asyncio.run(run())


def test_an_answer_without_length_lasts_as_long_as_its_connection() -> None:
    async def run() -> None:
        _, body, wire = await answered(b"HTTP/1.1 200 OK\r\n\r\nall of it", ends=True)
        assert (body, wire.is_idle) == (b"all of it", False)

    asyncio.run(run())


def test_a_wire_takes_one_request_after_the_other() -> None:
    async def run() -> None:
        wire, reader, ends = made()
        assert wire.socket == "socket"
        for number in range(3):
            reader.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
            assert (await wire.ask(b"%d" % number, 30))[1] == b"%d" % number
        assert ends.written == b"012"
        wire.abort()
        assert not wire.is_idle
        assert wire.socket is None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "it says b'SSH-2'"),
        (b"HTTP/2 200\r\n\r\n", "is no status line"),
        (b"HTTP/1.1 999 x\r\n\r\n", "is no status line"),
        (b"HTTP/1.1 200 OK\r\nno field\r\n\r\n", "is no field"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "is no field"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "says nothing"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "two fields content-length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "says nothing"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "is unknown"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "is no size of a chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "longer than it says"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 99, "trailers"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * MAX_LINE_BYTES + b"\n",
            "too long",
        ),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n", "too long"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 2 * READ_BYTES, "speak HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 99, "interim answers without end"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * MAX_ANSWER_BYTES)
            + bytes(MAX_ANSWER_BYTES + 1),
            "an answer of more than",
        ),
    ],
)
def test_nonsense_ends_it(raw: bytes, words: str) -> None:
    async def run() -> None:
        with pytest.raises(ForeignProtocolError, match=words):
            await answered(raw, ends=True)

    asyncio.run(run())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTT",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_a_broken_connection(raw: bytes) -> None:
    async def run() -> None:
        with pytest.raises(UnreachableError, match="before its answer was whole"):
            await answered(raw, ends=True)

    asyncio.run(run())


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async def run() -> None:
        wire, _, _ = made()
        with pytest.raises(UnreachableError, match="did not answer in time"):
            await wire.ask(b"GET / HTTP/1.1\r\n\r\n", 0.01)
        assert not wire.is_idle

    asyncio.run(run())


def test_a_broken_connection_is_said() -> None:
    async def run() -> None:
        wire, reader, _ = made()
        reader.set_exception(ConnectionResetError("reset"))
        with pytest.raises(UnreachableError, match="reset"):
            await wire.ask(b"GET / HTTP/1.1\r\n\r\n", 30)
        wire, reader, _ = made()
        reader.feed_data(b"HTTP/1.1 200 OK\r\n\r\n")
        await wire.begin(b"GET / HTTP/1.1\r\n\r\n")
        reader.set_exception(ConnectionResetError("reset"))
        with pytest.raises(UnreachableError, match="reset"):
            await wire.read()

    asyncio.run(run())
