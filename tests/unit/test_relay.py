from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import pytest

from distcomp.errors import TaskOverError, UnreachableError
from distcomp.inside import RELAYED, TASK_OVER, UNREACHABLE
from distcomp.relay import RelayEnd, RelayHandshake

if TYPE_CHECKING:
    from collections.abc import Callable

MUCH = b"x" * (4 << 20)


def test_the_worker_has_shaken_hands_already() -> None:
    shake = RelayHandshake()
    assert shake.greeting() == b""
    assert shake.receive(RELAYED + b"first") == b""
    assert (shake.done, shake.rest) == (True, b"first")


def test_the_worker_says_why_not() -> None:
    with pytest.raises(UnreachableError, match="nobody there"):
        RelayHandshake().receive(UNREACHABLE + b"nobody there")
    with pytest.raises(TaskOverError, match="has ended"):
        RelayHandshake().receive(TASK_OVER)
    assert not TaskOverError.heals


async def relay() -> tuple[socket.socket, socket.socket, RelayEnd, RelayEnd]:
    """Two sockets and the joined ends between them."""
    loop = asyncio.get_running_loop()
    left, near = socket.socketpair()
    far, right = socket.socketpair()
    for each in (left, right):
        each.setblocking(False)
    one, other = RelayEnd(), RelayEnd()
    await loop.create_unix_connection(lambda: one, sock=near)
    await loop.create_unix_connection(lambda: other, sock=far)
    return left, right, one, other


async def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := await asyncio.get_running_loop().sock_recv(sock, size)):
        data += part
    return data


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def test_bytes_pass_both_ways_no_faster_than_they_are_taken() -> None:
    async def pass_on() -> None:
        loop = asyncio.get_running_loop()
        left, right, one, other = await relay()
        with left, right:
            one.join(other)
            await loop.sock_sendall(left, b"there")
            assert await receive(right, 5) == b"there"
            await loop.sock_sendall(right, b"back")
            assert await receive(left, 4) == b"back"
            sending = asyncio.ensure_future(loop.sock_sendall(left, MUCH))
            for _ in range(50):
                await asyncio.sleep(0)
            assert not sending.done()
            assert other.transport.get_write_buffer_size() < len(MUCH) / 4
            assert await receive(right, len(MUCH)) == MUCH
            await sending
        await until(lambda: one.transport.is_closing() and other.transport.is_closing())

    asyncio.run(pass_on())


def test_the_end_of_one_side_is_that_of_the_other_after_the_rest() -> None:
    async def end() -> None:
        left, right, one, other = await relay()
        with left, right:
            one.join(other)
            left.send(b"last words")
            left.close()
            assert await receive(right, 99) == b"last words"
        await until(lambda: one.transport.is_closing() and other.transport.is_closing())

    asyncio.run(end())


@pytest.mark.parametrize("gone", [0, 1])
def test_sides_are_not_joined_to_one_that_is_gone(gone: int) -> None:
    async def join() -> list[str]:
        left, right, *ends = await relay()
        closed: list[str] = []
        with left, right:
            ends[gone]._on_closed = lambda: closed.append("closed")
            ends[gone].transport.close()
            await until(lambda: bool(closed))
            ends[0].join(ends[1])
            assert await receive((right, left)[gone], 1) == b""
        return closed

    assert asyncio.run(join()) == ["closed"]
