"""A scheduler for one worker that grants exactly what a test tells it to, over real connections."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from clusters import lasting_port

from distcomp import listening, transport
from distcomp.access import Access
from distcomp.auth import ServerHandshake
from distcomp.config import WireLimits
from distcomp.ids import ClusterId, FunctionId, SessionId, Token
from distcomp.payload import dump_call, dump_function, open_results, pack_calls
from distcomp.protocol import DefineFunction, MissingFunction
from distcomp.worker_protocol import (
    AckSettles,
    DefineSession,
    GrantLease,
    LeaseReturned,
    LeaseSettled,
    RegisterWorker,
    WorkerRegistered,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.protocol import Message
    from distcomp.rows import Failure

CLUSTER = ClusterId(b"c" * 16)
SECRET = b"x" * 32
SESSION = SessionId(b"s" * 16)
PATIENCE_S = 60.0


class FakeScheduler:
    """Acknowledges what it is told, and keeps it for the test to look at.

    Attributes:
        acks: whether settles and returns are acknowledged.
        stale: whether it knows none of the leases that a worker reports.
    """

    def __init__(self, *, secret: bytes = SECRET) -> None:
        self.secret = secret
        self.epoch = 1
        self.acks = True
        self.stale = False
        self.messages: list[Message] = []
        self.connection: transport.Connection | None = None
        self._server: asyncio.Server | None = None
        self._tokens = 0
        self._functions: dict[FunctionId, DefineFunction] = {}
        self._news = asyncio.Event()
        self.port = lasting_port()

    async def start(self) -> None:
        sockets = listening.bind("127.0.0.1", self.port)
        self._server = await listening.listen(sockets, self._make)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self.connection is not None:
            self.connection.abort()
            await self.until(lambda: self.connection is None)

    def access(self) -> Access:
        return Access(
            role="worker",
            owner="alice",
            cluster_id=CLUSTER,
            cluster_name="test",
            addresses=(f"tcp://127.0.0.1:{self.port}",),
            secret=SECRET,
        )

    def _make(self) -> transport.Connection:
        shake = ServerHandshake(CLUSTER, lambda _role, _owner: self.secret)
        return transport.Connection(
            shake, on_messages=self._on_messages, on_closed=self._on_closed, limits=WireLimits()
        )

    def _on_closed(self, connection: transport.Connection, _error: Exception | None) -> None:
        if self.connection is connection:
            self.connection = None
        self._news.set()

    def _on_messages(self, connection: transport.Connection, messages: list[Message]) -> None:
        self.messages += messages
        for message in messages:
            if isinstance(message, RegisterWorker):
                self.connection = connection
                stale = tuple(lease.token for lease in message.leases) if self.stale else ()
                connection.send(
                    [
                        WorkerRegistered(self.epoch, "test", stale),
                        DefineSession(SESSION, "alice", b""),
                    ]
                )
            elif isinstance(message, MissingFunction):
                connection.send([self._functions[message.function]])
            elif isinstance(message, LeaseSettled | LeaseReturned) and self.acks:
                connection.send([AckSettles((message.seq,))])
        self._news.set()

    # --- what a test does

    def send(self, *messages: Message) -> None:
        assert self.connection is not None
        self.connection.send(messages)

    def grant(self, function: Callable[..., Any], calls: list[tuple[Any, ...]], **fields: Any) -> Token:
        """Grant one lease of all these calls; the function is defined when the worker asks for it."""
        self._tokens += 1
        function_id, blob = dump_function(function, shares_path=False)
        self._functions[function_id] = DefineFunction(function_id, function.__name__, blob)
        (packed,) = pack_calls([dump_call(args, {}, shares_path=False) for args in calls])
        values: dict[str, Any] = {
            "token": (self.epoch, self._tokens),
            "array": (SESSION, 1),
            "function": function_id,
            "start": 0,
            "stop": len(calls),
            "chunk_start": 0,
            "chunk": packed.blob,
            "attempt": 1,
            "timeout_s": 0.0,
            "priority": 0,
            "urgent": False,
            "eager": False,
            **fields,
        }
        self.send(GrantLease(**values))
        return (self.epoch, self._tokens)

    async def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait for news until the condition holds; fails with what was heard when patience ends."""
        deadline = time.monotonic() + patience_s
        while not condition():
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise AssertionError(f"nothing like it in {self.messages}") from None

    async def heard(self, kind: type[Any], count: int = 1) -> list[Any]:
        """The messages of one kind, once there are so many."""
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    async def answered(self, token: Token, count: int) -> None:
        """Wait until so many indexes of a lease have come back, in whatever way."""
        await self.until(lambda: self._answers(token) >= count)

    def results(self, token: Token) -> dict[int, Any]:
        values: dict[int, Any] = {}
        for message in self.of(LeaseSettled):
            if message.token == token:
                for start, stop, blob in message.runs:
                    opened = open_results(blob)
                    values.update((start + place, opened[place]) for place in range(stop - start))
        return values

    def failures(self, token: Token) -> dict[int, Failure]:
        return {
            index: failure
            for message in self.of(LeaseSettled)
            if message.token == token
            for index, failure in message.failures
        }

    def returned(self, token: Token) -> dict[int, str]:
        return {
            index: message.reason
            for message in self.of(LeaseReturned)
            if message.token == token
            for start, stop in message.spans
            for index in range(start, stop)
        }

    def _answers(self, token: Token) -> int:
        return len(self.results(token)) + len(self.failures(token)) + len(self.returned(token))
