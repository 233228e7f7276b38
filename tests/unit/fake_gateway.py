"""The tunnel of a gateway as one connection of a client meets it, with the breaks that a test wants."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl

PROBLEM = "application/problem+json"
TURNS = 5
"""In so many turns of the loop, connections that were just taken in have got a task."""


class FakeGateway:
    """One tunnel at a time.

    Attributes:
        came: all bytes that came up, in order.
        said: all bytes that are to go down.
        heads: the heads of all requests.
        bodies: how large the bodies were that came up.
        refusals: status, content type and body for the next requests of a kind, instead of what is right.
        swallowed: how many requests up are to be taken in and not answered; the connection ends instead.
        seen: up to where the client says that it has received.
        is_deleted: whether the client has closed it.
    """

    def __init__(
        self, *, window_bytes: int = 1 << 20, max_body_bytes: int = 1 << 30, prefix: str = ""
    ) -> None:
        self.window_bytes, self.max_body_bytes, self.prefix = window_bytes, max_body_bytes, prefix
        self.came, self.said = bytearray(), bytearray()
        self.heads: list[str] = []
        self.bodies: list[int] = []
        self.refusals: dict[str, deque[tuple[int, str, str]]] = {}
        self.swallowed = 0
        self.seen = 0
        self.is_deleted = False
        self.news = asyncio.Event()
        self.writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> int:
        """Listen; gives the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        self._server.close()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def say(self, data: bytes) -> None:
        """Have bytes go down."""
        self.said += data
        self.news.set()

    def cut(self) -> None:
        """Break every connection."""
        for writer in self.writers:
            writer.transport.abort()

    def refuse(self, kind: str, status: int, text: str = "", content: str = PROBLEM) -> None:
        """Answer the next request of a kind (`open`, `up`, `down`, `delete`) so."""
        self.refusals.setdefault(kind, deque()).append((status, content, text))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await self._answer(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a client that leaves, or a test that is over
        finally:
            self.writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(head)
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(fields.get("Content-Length", "0")))
        method, target = head.split(" ")[:2]
        url = urlsplit(target)
        path = url.path.removeprefix(self.prefix)
        kind = {"POST": "open", "GET": "down", "DELETE": "delete"}[method]
        kind = "up" if path.endswith("/up") else kind
        query = {name: int(values[0]) for name, values in parse_qs(url.query).items()}
        if not path.startswith("/v1/tunnel") or (url.path == path and self.prefix):
            writer.write(_whole(404, "text/html", b"nothing"))
        elif self.refusals.get(kind):
            status, content, text = self.refusals[kind].popleft()
            writer.write(_whole(status, content, text.encode()))
        elif kind == "open":
            self.came.clear()
            opened = {"tunnel": "t/1", "owner": "alice", "cluster_id": "ab" * 16}
            writer.write(_json(201, {**opened, "window_bytes": self.window_bytes}))
        elif kind == "up":
            self._take(writer, body, **query)
        elif kind == "down":
            await self._give(writer, **query)
        else:
            self.is_deleted = True
            writer.write(_whole(204, "", b""))
        await writer.drain()

    def _take(self, writer: asyncio.StreamWriter, body: bytes, offset: int, seen: int) -> None:
        self.bodies.append(len(body))
        if len(body) > self.max_body_bytes:
            writer.write(_whole(413, "text/html", b"large"))
            return
        assert offset <= len(self.came), "a gap"
        self.seen = max(self.seen, seen)
        self.came += body[len(self.came) - offset :]
        if self.swallowed:
            self.swallowed -= 1
            writer.transport.abort()
            return
        writer.write(_json(200, {"offset": len(self.came)}))

    async def _give(self, writer: asyncio.StreamWriter, offset: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            data = bytes(self.said[offset:])
            offset += len(data)
            if data:
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
            else:
                self.news.clear()
                await self.news.wait()


def _json(status: int, fields: dict[str, object]) -> bytes:
    return _whole(status, "application/json", json.dumps(fields).encode())


def _whole(status: int, content: str, body: bytes) -> bytes:
    return (
        f"HTTP/1.1 {status} x\r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
