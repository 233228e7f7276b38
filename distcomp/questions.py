"""Questions to a scheduler that take no session: asked on a connection of their own, which then ends."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from distcomp import http_link, transport
from distcomp.auth import ClientHandshake
from distcomp.config import ClientSettings, WireLimits, parse_address
from distcomp.errors import ConnectError, RoleError, UnreachableError
from distcomp.gateway_token import token_for
from distcomp.http_roads import Road
from distcomp.protocol import (
    ForgetRun,
    ListRuns,
    Refused,
    ResizeWorker,
    RunForgotten,
    RunsListed,
    StatusReported,
    WatchStatus,
    WorkerResized,
)
from distcomp.relay import TunnelHandshake
from distcomp.settings_file import surroundings
from distcomp.web_address import is_web, parse_web_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from distcomp.protocol import Message

ANSWER_TIMEOUT_S = 5.0
ANSWERS: dict[type[Any], type[Any]] = {
    ForgetRun: RunForgotten,
    ListRuns: RunsListed,
    ResizeWorker: WorkerResized,
    WatchStatus: StatusReported,
}
"""What a question is answered by; of an answer in parts all but the last have `more`."""


class Entrance(Protocol):
    """A scheduler to ask, and as whom."""

    @property
    def role(self) -> str: ...  # noqa: D102 - as in an access file
    @property
    def owner(self) -> str: ...  # noqa: D102 - as above
    @property
    def cluster_id(self) -> bytes | None: ...  # noqa: D102 - as above
    @property
    def secret(self) -> bytes | None: ...  # noqa: D102 - as above
    @property
    def addresses(self) -> Sequence[str]: ...  # noqa: D102 - as above


async def ask(where: Entrance, *questions: Message) -> list[Any]:
    """The answers of a scheduler to questions of one kind, each in one part or in several.

    Raises:
        ConnectError: it cannot be reached, does not let this role ask that, or does not answer in time.

    Example:
        `(answer,) = await ask(access, ForgetRun(1, "fit"))`
    """
    failures: list[ConnectError] = []
    for address in where.addresses:
        try:
            return await _ask_at(address, where, questions)
        except ConnectError as error:  # noqa: PERF203 - a handful of addresses
            failures.append(error)
    raise failures[0]


@contextlib.asynccontextmanager
async def connected(
    address: str,
    where: Entrance,
    on_messages: Callable[[transport.Connection, list[Message]], None],
    on_closed: Callable[[transport.Connection, Exception | None], None],
    timeout_s: float,
) -> AsyncIterator[transport.Connection]:
    """A connection to a scheduler, directly or through the tunnel of a gateway, closed in order afterwards.

    Args:
        address: `tcp://host:port`, or `http://host:port`, for which a token is looked for as clients do.
        where: as whom; a gateway knows that by the token.
        on_messages: called with what comes.
        on_closed: called once when it is over.
        timeout_s: within which there has to be a connection.

    Raises:
        ConfigError: there is no token for the gateway.
        ConnectError: it cannot be reached, or does not take us.
    """
    made: list[transport.Connection] = []
    over = asyncio.Event()
    limits = WireLimits.from_environment(surroundings())

    def ended(connection: transport.Connection, error: Exception | None) -> None:
        over.set()
        on_closed(connection, error)

    def make() -> transport.Connection:
        handshake = (
            TunnelHandshake()
            if is_web(address)
            else ClientHandshake(where.role, where.owner, where.cluster_id, where.secret)
        )
        made.append(transport.Connection(handshake, on_messages=on_messages, on_closed=ended, limits=limits))
        return made[-1]

    if is_web(address):
        settings = replace(ClientSettings.from_environment(surroundings()), connect_timeout_s=timeout_s)
        web = parse_web_address(address)
        await http_link.dial(Road(web, token_for(web)), make, settings)
    else:
        await transport.dial(parse_address(address), make, timeout_s=timeout_s)
    try:
        yield made[-1]
    finally:
        made[-1].close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(over.wait(), limits.linger_s)


async def _ask_at(address: str, where: Entrance, questions: Sequence[Message]) -> list[Any]:
    answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    kinds = tuple({ANSWERS[type(question)] for question in questions})
    parts: list[Any] = []

    def fail(error: Exception) -> None:
        if not answer.done():
            answer.set_exception(error)

    def take(_: transport.Connection, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Refused):
                fail(RoleError(message.text))
            elif isinstance(message, kinds):
                parts.append(message)
        whole = sum(not getattr(part, "more", False) for part in parts)
        if whole == len(questions) and not answer.done():
            answer.set_result(parts)

    def closed(_: transport.Connection, error: Exception | None) -> None:
        fail(UnreachableError(f"the scheduler closed the connection: {error}"))

    async with connected(address, where, take, closed, ANSWER_TIMEOUT_S) as connection:
        connection.send(list(questions))
        try:
            return await asyncio.wait_for(answer, ANSWER_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise UnreachableError(f"the scheduler does not answer within {ANSWER_TIMEOUT_S} s") from None
