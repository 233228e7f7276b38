"""What may stand between a client and a gateway: proxies, and servers that put the gateway below a path."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

READ_BYTES = 64 << 10


class Intermediary:
    """Passes on what comes to one port of this host to another one.

    Args:
        port: where to.
        prefix: a path that is taken from the front of every request's; others are answered by 404.
        connects: only pass on after a CONNECT, and only for this host and port.
        idle_s: end connections by which nothing goes for so long, in either direction.

    Attributes:
        port: where it listens.
        heads: the heads of requests, or of what is connected.
        ended: how many connections were ended for being idle.
    """

    def __init__(self, port: int, *, prefix: str = "", connects: str = "", idle_s: float = 0.0) -> None:
        self._target = port
        self._prefix, self._connects, self._idle_s = prefix, connects, idle_s
        self.heads: list[str] = []
        self.ended = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if self._connects:
                head = await self._head(reader)
                if not head.startswith(f"CONNECT {self._connects} HTTP/1.1\r\n"):
                    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                    return
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await self._join(reader, writer)
        writer.transport.abort()
        self._tasks.discard(task)

    async def _head(self, reader: asyncio.StreamReader) -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        return head

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        clock = [self._loop.time()]
        up = self._strip(reader, far_writer, writer) if self._prefix else _pump(reader, far_writer, clock)
        works = [asyncio.ensure_future(each) for each in (up, _pump(far_reader, writer, clock))]
        if self._idle_s:
            works.append(asyncio.ensure_future(self._watch(clock)))
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for work in works:
                work.cancel()
            far_writer.transport.abort()
            await asyncio.wait(works)

    async def _watch(self, clock: list[float]) -> None:
        """Come to an end as soon as nothing has gone for too long."""
        while (left_s := clock[0] + self._idle_s - self._loop.time()) > 0:  # noqa: ASYNC110 - time is waited for
            await asyncio.sleep(left_s)
        self.ended += 1

    async def _strip(
        self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, near: asyncio.StreamWriter
    ) -> None:
        """Pass on requests without the front of their path."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self._head(reader)
                method, path, rest = head.split(" ", 2)
                lengths = [line.partition(":")[2] for line in head.split("\r\n") if "Content-Length:" in line]
                body = await reader.readexactly(int(lengths[0]) if lengths else 0)
                if path.startswith(f"{self._prefix}/"):
                    far.write(f"{method} {path.removeprefix(self._prefix)} {rest}".encode() + body)
                    await far.drain()
                else:
                    near.write(
                        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"
                    )


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: list[float]) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            clock[0] = asyncio.get_running_loop().time()
            writer.write(data)
            await writer.drain()
