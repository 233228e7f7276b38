"""Bodies of requests: read within bounds of size and time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import ClientDisconnect

from distcomp.gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from distcomp.gateway_settings import GatewaySettings

_CLOSE = {"Connection": "close"}
"""What is left of such a request is not worth waiting for."""
MAX_DEPTH = 100
_DEEP = "the JSON is nested too deeply"


async def pieces(request: Request, settings: GatewaySettings) -> AsyncIterator[bytes]:
    """The bytes of a body as they arrive.

    Raises:
        Problem: nothing came for `body_gap_s`.
        ClientDisconnect: who sent it has gone.
    """
    while True:
        try:
            with anyio.fail_after(settings.body_gap_s):  # unlike `wait_for` it starts no task
                message = await request.receive()
        except TimeoutError:
            raise Problem("slow", f"nothing came for {settings.body_gap_s:g} s", headers=_CLOSE) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        data = message.get("body", b"")
        if data:
            yield data
        if not message.get("more_body", False):
            return


async def whole(request: Request, settings: GatewaySettings, max_bytes: int) -> bytes:
    """All bytes of a body.

    Raises:
        Problem: they are too many, or come too slowly.
        ClientDisconnect: who sent it has gone.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    clock = asyncio.get_running_loop().time
    began_at, size_bytes = clock(), 0
    parts = []
    async for data in pieces(request, settings):
        size_bytes += len(data)
        parts.append(data)
        if size_bytes > max_bytes:
            raise _too_large(max_bytes)
        late_s = clock() - began_at - settings.body_gap_s
        if late_s * settings.body_bytes_per_s > size_bytes:
            raise Problem("slow", "the body comes too slowly", headers=_CLOSE)
    return b"".join(parts)


async def read_json(request: Request, settings: GatewaySettings) -> Any:
    """A JSON body.

    Raises:
        Problem: it is too large, of another type, or no JSON.
        ClientDisconnect: who sent it has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem("unsupported-media-type", "send the body as application/json", headers=_CLOSE)
    data = await whole(request, settings, settings.max_body_bytes)
    try:
        return parse_json(data)
    except ValueError as error:
        raise Problem("bad-request", f"the body is not JSON: {error!s:.200}") from None


def parse_json(data: bytes) -> Any:
    """Read JSON as the standard has it: no NaN, nothing infinite, no text but UTF-8, no endless nesting.

    Raises:
        ValueError: it is not.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError(_DEEP) from None
    if _depth(value) > MAX_DEPTH:
        raise ValueError(_DEEP)
    return value


def _depth(value: Any) -> int:
    deepest, layer = 0, [value]
    while layer and deepest <= MAX_DEPTH:
        deepest += 1
        layer = [
            inner
            for each in layer
            if isinstance(each, (list, dict))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return deepest


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _too_large(max_bytes: int) -> Problem:
    return Problem("too-large", f"the body may have at most {max_bytes:,} bytes", headers=_CLOSE)
