"""Hands published functions' tasks to the scheduler: one session for each owner and Python version.

Laws:

- Whatever is handed in here is on the shelf before, and stays open there until its outcomes are, too. So
  everything in memory may be lost at any time: after a start, and after the loss of a session, what is open
  on the shelf is handed in again, under the same number where the scheduler may know it.
- What may start only once is not handed in to another session than the one it was in: it is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import socket
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp import byte_columns, transport
from distcomp.config import ClientSettings
from distcomp.core.client_effects import Failed, Introduction, Returned
from distcomp.core.client_state import ClientState
from distcomp.errors import ConfigError, ConnectError
from distcomp.gateway.doors import dial
from distcomp.gateway.problems import Problem
from distcomp.gateway.shelf import TaskOutcome
from distcomp.ids import BundleId, FunctionId, Peer, SessionId
from distcomp.protocol import DefineBundle, TasksLogged
from distcomp.published_calls import Publication, read_result
from distcomp.rows import TaskOptions, Versions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from distcomp.auth import ClientHandshake
    from distcomp.core.client_effects import ClientEffects, KeptOutcomes
    from distcomp.gateway.doors import Doors
    from distcomp.gateway.shelf import HandedIn, TaskShelf
    from distcomp.gateway_settings import GatewaySettings
    from distcomp.protocol import Message
    from distcomp.rows import Failure
    from distcomp.transport import Connection

BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.1, 2.0
DISK_RETRY_S = 1.0
KEPT_PUBLICATIONS = 16
LOG_CHARACTERS = 64 << 10
_HEALS = frozenset({"scheduler_lost", "expired", "refused"})
"""How tasks end whose session is lost: they are handed in to the next one."""

_log = logging.getLogger("distcomp")


class _News(NamedTuple):
    """What a turn has brought, to be kept."""

    state: ClientState
    outcomes: list[tuple[HandedIn, Returned | Failed]]
    logs: dict[tuple[str, int], str]
    kept: list[KeptOutcomes]


class Submitter:
    """The tasks of one owner for one Python version.

    Args:
        owner: whose tasks they are.
        python: `major.minor`.
        settings: of the gateway.
        doors: the ways to the scheduler.
        shelf: where all of it lies.
        told: called with owner and id of a submission that has new outcomes on the shelf.
    """

    def __init__(  # noqa: PLR0917 - as its caller has them
        self,
        owner: str,
        python: str,
        settings: GatewaySettings,
        doors: Doors,
        shelf: TaskShelf,
        told: Callable[[str, str], None],
    ) -> None:
        self._owner, self._python = owner, python
        self._settings, self._doors, self._shelf, self._told = settings, doors, shelf, told
        self._state: ClientState | None = None
        self._counters: dict[str, int] = {}
        self._open: dict[int, HandedIn] = {}
        self._printed: dict[tuple[str, int], str] = {}
        self._running: set[tuple[int, int]] = set()
        self._known: OrderedDict[tuple[str, str], Publication] = OrderedDict()
        self._to_keep: list[_News] = []
        self._news = asyncio.Event()
        self._entering = asyncio.Lock()
        self._connection: Connection | None = None
        self._over: asyncio.Future[None] | None = None
        self._peers = itertools.count(1)
        self._alarm = transport.Alarm(self._turn)
        self._tasks = [asyncio.ensure_future(self._stay()), asyncio.ensure_future(self._keep())]

    async def stop(self) -> None:
        """Disconnect. Everything stays as it is, here and at the scheduler."""
        self._alarm.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        if self._connection is not None:
            self._connection.close("the gateway was stopped")

    # --- what requests do ---

    async def hand_in(self, submitted: HandedIn, chunks: Sequence[tuple[int, int, bytes]]) -> None:
        """Hand in what has just come to the shelf; without a connection that is done with the next one."""
        state = self._state
        if state is not None and state.phase in ("open", "opening", "apart"):
            settled: Sequence[int] = ()
            has_to_wait = self._entering.locked()
            async with self._entering:
                if has_to_wait:  # it may have been handed in meanwhile, and even be over
                    chunks, settled = await self._shelf.arguments(submitted.id)
                await self._enter(state, submitted, chunks, settled)
            self._turn()

    async def cancel(self, submitted: HandedIn, spans: tuple[tuple[int, int], ...]) -> None:
        """Cancel places of a submission, wherever they are; returns when that is on the shelf."""
        counter = self._counters.get(submitted.id)
        if counter is not None and self._state is not None:
            self._state.cancel(counter, spans)
            self._turn()
        now = time.time()
        _, settled = await self._shelf.arguments(submitted.id)
        left = set(range(submitted.tasks)).difference(settled)
        chosen = sorted(place for start, stop in spans for place in left.intersection(range(start, stop)))
        failure = {"kind": "cancelled", "text": "cancelled by its client"}
        await self._shelf.settle(
            [TaskOutcome(submitted.id, place, "cancelled", None, _whole(failure), now) for place in chosen]
        )
        self._settled(submitted)

    def is_running(self, submitted: HandedIn, place: int) -> bool:
        """Whether a worker said that it runs a task."""
        counter = self._counters.get(submitted.id)
        return counter is not None and (counter, place) in self._running

    # --- the connection ---

    async def _stay(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            loop = asyncio.get_running_loop()
            self._over = loop.create_future()
            try:
                if self._state is None:
                    await self._begin()
                await dial(self._doors.find("client", self._owner), self._settings, self._make)
                begun_at = loop.time()
                await self._over
                if loop.time() - begun_at > BACKOFF_MOST_S:
                    backoff_s = BACKOFF_FIRST_S
            except (ConnectError, ConfigError, Problem) as error:
                _log.warning("tasks of %s wait: %s", self._owner, error)
                if self._state is not None:
                    self._state.dial_failed(loop.time(), refused=False)
            self._turn()
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            backoff_s = min(2 * backoff_s, BACKOFF_MOST_S)

    async def _begin(self) -> None:
        """Make the state, for the session from before if there is one."""
        before = await self._shelf.session(self._owner, self._python)
        versions = Versions("", f"{self._python}.0", "")
        introduction = Introduction(versions, socket.gethostname(), os.getpid(), "distcomp-gateway", b"")
        self._state = ClientState(ClientSettings(), _sessions(before), introduction)

    def _make(self, handshake: ClientHandshake) -> Connection:
        return transport.Connection(
            handshake,
            on_ready=self._on_ready,
            on_messages=self._on_messages,
            on_closed=self._on_closed,
            limits=self._settings.wire,
        )

    def _on_ready(self, connection: Connection) -> None:
        state = self._state
        assert state is not None  # noqa: S101 - it is made before the connection
        connection.peer = Peer(next(self._peers))
        self._connection = connection
        is_new = state.phase == "unopened"
        if is_new:
            self._counters.clear()
            self._open.clear()
            self._running.clear()
        state.connect(connection.peer, asyncio.get_running_loop().time())
        if is_new:
            self._tasks[2:] = [asyncio.ensure_future(self._persist(partial(self._enter_all, state)))]
        else:
            self._turn()

    def _on_messages(self, connection: Connection, messages: list[Message]) -> None:
        state = self._state
        assert state is not None  # noqa: S101 - see `_on_ready`
        now = asyncio.get_running_loop().time()
        for message in messages:
            state.receive(connection.peer, message, now)
        self._turn()

    def _on_closed(self, connection: Connection, error: Exception | None) -> None:
        del error
        self._connection = None
        if self._state is not None:
            self._state.disconnect(connection.peer, asyncio.get_running_loop().time())
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        self._turn()

    # --- handing in ---

    async def _persist(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do what needs the disk, again and again until that plays along: nothing is let go of before."""
        while True:
            try:
                await action()
            except Problem as problem:  # noqa: PERF203 - each try may fail
                _log.error("tasks of %s wait for the disk: %s", self._owner, problem)
                await asyncio.sleep(DISK_RETRY_S)
            else:
                return

    async def _enter_all(self, state: ClientState) -> None:
        """Hand in everything that is open; what the scheduler has of it, it only confirms."""
        async with self._entering:
            moved = await self._shelf.enter(self._owner, self._python, bytes(state.session))
            for submitted in moved:
                if submitted.options.get("max_attempts") == 1:
                    await self._lose(
                        submitted, "its session was lost, and max_attempts=1 forbids another start"
                    )
            for submitted in await self._shelf.open_ones(self._owner, self._python):
                await self._enter(state, submitted, *await self._shelf.arguments(submitted.id))
        self._turn()

    async def _enter(
        self,
        state: ClientState,
        submitted: HandedIn,
        chunks: Sequence[tuple[int, int, bytes]],
        settled: Sequence[int] = (),
    ) -> None:
        """Hand in one submission, but for what has an outcome; nothing, if it is in another session."""
        publication = await self._publication(submitted)
        is_here = state.phase != "unopened" and submitted.session == bytes(state.session)
        if publication is None or not chunks or not is_here or submitted.id in self._counters:
            return
        counter = state.submit(
            FunctionId(publication.function),
            submitted.name,
            publication.blob,
            TaskOptions(**submitted.options, detach=True),
            kept=True,
            counter=submitted.counter or 0,
        )
        self._counters[submitted.id] = counter
        self._open[counter] = submitted
        state.bundle = _bundle(publication)
        for start, stop, chunk in chunks:
            state.extend(counter, stop - start, chunk, last=stop == submitted.tasks)
        state.bundle = None
        array = state.arrays.get(counter)
        for place in settled:
            if array is not None:
                array.open.cut(place, place + 1)

    async def _lose(self, submitted: HandedIn, text: str) -> None:
        """End what is left of a submission that cannot be handed in."""
        now, failure = time.time(), _whole({"kind": "lost", "text": text})
        _, settled = await self._shelf.arguments(submitted.id)
        places = sorted(set(range(submitted.tasks)).difference(settled))
        await self._shelf.settle(
            [TaskOutcome(submitted.id, each, "failed", None, failure, now) for each in places]
        )
        self._settled(submitted)

    async def _publication(self, submitted: HandedIn) -> Publication | None:
        key = (submitted.name, submitted.version)
        known = self._known.get(key)
        if known is None:
            data = await self._shelf.publication(*key)
            if not data:
                await self._lose(submitted, "its function is not published any more")
                return None
            known = self._known[key] = Publication.from_bytes(data)
            if len(self._known) > KEPT_PUBLICATIONS:
                self._known.popitem(last=False)
        return known

    # --- turns ---

    def _turn(self) -> None:
        """Take in what came and send what is due; outcomes go to the shelf meanwhile."""
        state = self._state
        if state is None:
            return
        now = asyncio.get_running_loop().time()
        state.tick(now)
        effects = state.take_effects()
        connection = self._connection
        if connection is not None:
            messages = effects.sends.get(connection.peer)
            if messages:
                connection.send(messages)
            for close in effects.closes:
                connection.close(close.reason)
        for event in effects.events:
            _log.log(getattr(logging, event.level.upper()), "%s: %s", event.text, event.values)
        for counter, indexes in effects.began:
            self._running.update((counter, index) for index in indexes)
        if effects.outcomes or effects.news or effects.kept:
            self._to_keep.append(self._gathered(state, effects))
            self._news.set()
        if effects.wake_at is not None:
            self._alarm.set(effects.wake_at, now)

    def _gathered(self, state: ClientState, effects: ClientEffects) -> _News:
        """What is to be kept of a turn's effects; who settles is found now, as numbers mean others later."""
        lost = state.phase == "unopened"
        outcomes: list[tuple[HandedIn, Returned | Failed]] = []
        for outcome in effects.outcomes:
            submitted = self._open.get(outcome.array)
            heals = lost and isinstance(outcome, Failed) and outcome.failure.kind in _HEALS
            if submitted is not None and not heals:
                outcomes.append((submitted, outcome))
            self._running -= {
                (array, place)
                for array, place in self._running
                if array == outcome.array and outcome.start <= place < outcome.stop
            }
        logs: dict[tuple[str, int], str] = {}
        for message in effects.news:
            if isinstance(message, TasksLogged):
                logs.update(self._gather(message))
        return _News(state, outcomes, logs, effects.kept)

    async def _keep(self) -> None:
        """Bring outcomes to the shelf, all that came meanwhile at once, then let go of them."""
        while True:
            await self._news.wait()
            self._news.clear()
            taken, self._to_keep = self._to_keep, []
            rows = [row for news in taken for each in news.outcomes for row in _rows(*each)]
            logs = [(*key, text) for news in taken for key, text in news.logs.items()]
            if rows or logs:
                await self._persist(partial(self._shelf.settle, rows, logs))
            for news in taken:
                for kept in news.kept:
                    news.state.receipts.stored(kept.life, [kept.seq])
                for submitted, _ in news.outcomes:
                    self._settled(submitted)
            self._turn()

    def _settled(self, submitted: HandedIn) -> None:
        """Outcomes of a submission are on the shelf."""
        self._told(submitted.owner, submitted.id)
        counter = self._counters.get(submitted.id)
        if counter is not None and self._state is not None and counter not in self._state.arrays:
            del self._counters[submitted.id]
            self._open.pop(counter, None)
            for key in [key for key in self._printed if key[0] == submitted.id]:
                del self._printed[key]

    def _gather(self, message: TasksLogged) -> Iterator[tuple[tuple[str, int], str]]:
        """What tasks have printed so far, the last of it."""
        submitted = self._open.get(message.array[1])
        if submitted is None:
            return
        for line in message.lines:
            key = (submitted.id, line.task_index)
            text = f"{self._printed.get(key, '')}{line.text}\n"[-LOG_CHARACTERS:]
            self._printed[key] = text
            yield key, text


def _sessions(first: bytes | None) -> Iterator[SessionId]:
    """Sessions, the one from before first."""
    if first is not None:
        yield SessionId(first)
    while True:
        yield SessionId(os.urandom(16))


def _bundle(publication: Publication) -> DefineBundle | None:
    if not publication.bundle:
        return None
    return DefineBundle(
        BundleId(publication.bundle), publication.bundle_name, publication.bundle_files, publication.modules
    )


def _rows(submitted: HandedIn, outcome: Returned | Failed) -> Iterator[TaskOutcome]:
    """The outcomes of single tasks, as they are kept."""
    now, stop = time.time(), min(outcome.stop, submitted.tasks)
    if isinstance(outcome, Failed):
        state = "cancelled" if outcome.failure.kind == "cancelled" else "failed"
        failure = _described(outcome.failure)
        for place in range(outcome.start, stop):
            yield TaskOutcome(submitted.id, place, state, None, failure, now)
        return
    results: list[bytes] = []
    with contextlib.suppress(ValueError):
        results = byte_columns.read(outcome.blob)
    for place in range(outcome.start, stop):
        if place - outcome.base < len(results) and _is_result(results[place - outcome.base]):
            yield TaskOutcome(submitted.id, place, "done", results[place - outcome.base], None, now)
        else:
            failure = _whole(
                {"kind": "unreadable", "text": "the result is not what published functions give"}
            )
            yield TaskOutcome(submitted.id, place, "failed", None, failure, now)


def _is_result(data: bytes) -> bool:
    try:
        read_result(data)
    except ValueError:
        return False
    return True


def _described(failure: Failure) -> dict[str, Any]:
    text = failure.text
    return _whole(
        {
            "kind": failure.kind,
            "type": failure.type_name,
            "text": text,
            "traceback": failure.traceback,
            "host": failure.host,
            "worker": failure.worker,
            "attempt": failure.attempt,
            "output": failure.output,
        }
    )


def _whole(failure: dict[str, Any]) -> dict[str, Any]:
    """A failure with all its members."""
    empty = dict.fromkeys(("kind", "type", "text", "traceback", "host", "worker", "output"), "")
    return {**empty, "attempt": 1, **failure}
