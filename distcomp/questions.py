"""Questions to a scheduler that take no session: asked on a connection of their own, which then ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from distcomp import transport
from distcomp.auth import ClientHandshake
from distcomp.config import WireLimits, parse_address
from distcomp.errors import ConnectError, RoleError, UnreachableError
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
from distcomp.settings_file import surroundings

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def make() -> transport.Connection:
        return transport.Connection(
            ClientHandshake(where.role, where.owner, where.cluster_id, where.secret),
            on_messages=take,
            on_closed=lambda _, error: fail(
                UnreachableError(f"the scheduler closed the connection: {error}")
            ),
            limits=WireLimits.from_environment(surroundings()),
        )

    connection = await transport.dial(parse_address(address), make, timeout_s=ANSWER_TIMEOUT_S)
    try:
        connection.send(list(questions))
        return await asyncio.wait_for(answer, ANSWER_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise UnreachableError(f"the scheduler does not answer within {ANSWER_TIMEOUT_S} s") from None
    finally:
        connection.close()
