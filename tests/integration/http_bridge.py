"""A listener that takes ordinary clients in and carries what they say through a tunnel of a gateway.

It speaks the tunnel's HTTP as plainly as it can be spoken: one connection for requests up, one for the
response down, which it asks for again from where it was whenever it breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

from distcomp.auth import ServerHandshake
from distcomp.ids import ClusterId
from distcomp.protocol import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_BYTES = 256 << 10
RETRY_S = 0.05


class GoneError(Exception):
    """The tunnel is over."""


class Bridge:
    """One listener.

    Args:
        port: of the gateway on this host.
        token: for it.

    Attributes:
        breaks: how often a response down broke off and was taken up again.
    """

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
        self.breaks = 0
        self.downs: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Break every response down."""
        for writer in self.downs:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await Passage(self, self._port, self._token).carry(reader, writer)
        except (OSError, GoneError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side may leave, and a test may cut the passage, at any moment
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


class Passage:
    """What one client says and hears."""

    def __init__(self, bridge: Bridge, port: int, token: str) -> None:
        self._bridge = bridge
        self._port, self._token = port, token
        self._seen = 0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shake = ServerHandshake(ClusterId(bytes(16)), lambda *_: None, auth_required=False)
        while not shake.done:
            writer.write(shake.receive(await reader.read(READ_BYTES)))
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            body = json.dumps({"protocol": PROTOCOL}).encode()
            status, answer = await self._ask(up_reader, up_writer, "POST", "/v1/tunnel", body)
            if status != 201:
                raise GoneError(answer)
            path = f"/v1/tunnel/{json.loads(answer)['tunnel']}"
            down = asyncio.ensure_future(self._down(path, writer))
            up = asyncio.ensure_future(self._up(path, shake.rest, reader, up_reader, up_writer))
            try:
                await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (up, down):
                    task.cancel()
                await asyncio.wait([up, down])
            with contextlib.suppress(OSError):
                await self._ask(up_reader, up_writer, "DELETE", path, b"")
        finally:
            up_writer.transport.abort()

    async def _up(self, path: str, first: bytes, reader: Any, up_reader: Any, up_writer: Any) -> None:
        offset, data = 0, first or await reader.read(READ_BYTES)
        while data:
            query = f"?offset={offset}&seen={self._seen}"
            status, answer = await self._ask(up_reader, up_writer, "POST", f"{path}/up{query}", data)
            if status != 200:
                raise GoneError(answer)
            offset += len(data)
            assert json.loads(answer) == {"offset": offset}
            data = await reader.read(READ_BYTES)

    async def _down(self, path: str, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                await self._read_down(path, writer)
            except (OSError, asyncio.IncompleteReadError):  # noqa: PERF203 - each round may fail
                self._bridge.breaks += 1
                await asyncio.sleep(RETRY_S)

    async def _read_down(self, path: str, writer: asyncio.StreamWriter) -> None:
        down_reader, down_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._bridge.downs.add(down_writer)
        try:
            self._send(down_writer, "GET", f"{path}/down?offset={self._seen}", b"")
            if (await _head(down_reader))[0] != 200:
                raise GoneError
            while size := int(await down_reader.readline(), 16):
                data = await down_reader.readexactly(size + 2)
                self._seen += size
                writer.write(data[:-2])
                await writer.drain()
        except ValueError:
            raise asyncio.IncompleteReadError(b"", None) from None
        finally:
            self._bridge.downs.discard(down_writer)
            down_writer.transport.abort()

    async def _ask(self, reader: Any, writer: Any, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self._send(writer, method, path, body)
        status, length = await _head(reader)
        return status, await reader.readexactly(length)

    def _send(self, writer: asyncio.StreamWriter, method: str, path: str, body: bytes) -> None:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)


async def _head(reader: asyncio.StreamReader) -> tuple[int, int]:
    """The status of an answer, and the length of its body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    lengths = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")]
    return int(lines[0].split()[1]), lengths[0] if lengths else 0


@contextlib.contextmanager
def bridged(port: int, token: str) -> Iterator[tuple[str, Bridge]]:
    """An address at which clients reach a gateway's cluster through tunnels."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    bridge = Bridge(port, token)
    try:
        yield asyncio.run_coroutine_threadsafe(bridge.start(), loop).result(), bridge
    finally:
        asyncio.run_coroutine_threadsafe(bridge.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
