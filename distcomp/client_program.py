"""The client's program: one thread with one event loop, which alone touches `ClientState`.

Other threads hand in actions by `post` and are told of outcomes through sinks. A turn of the loop takes
in everything that was posted or received, decides once, and leaves with one write.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import hashlib
import itertools
import logging
import os
import random
import socket
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from distcomp import config, transport
from distcomp.absence_words import words_of
from distcomp.auth import ClientHandshake
from distcomp.core.client_effects import Introduction
from distcomp.core.client_state import ClientState
from distcomp.errors import (
    ClientClosedError,
    ConnectError,
    DistcompError,
    EmbeddedClusterError,
    ProtocolError,
    RoleError,
    RunTakenError,
    SchedulerBusyError,
    UnknownRunError,
    VersionMismatchError,
)
from distcomp.futures import wake_all
from distcomp.ids import Peer, SessionId
from distcomp.relay import TunnelHandshake
from distcomp.rows import Versions
from distcomp.versions import installed_versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.core.client_effects import ClientEffects
    from distcomp.core.client_runs import RunEntry
    from distcomp.discovery import Target
    from distcomp.futures import Woken
    from distcomp.handles import Sink
    from distcomp.protocol import Message, Refused
    from distcomp.transport import Connection

SETTLE_LOOK_S = 0.002
NOTICE_S = 0.7
"""Seconds without a scheduler after which is said that it is tried again, and until when."""
_log = logging.getLogger("distcomp")
_REFUSALS: dict[str, type[DistcompError]] = {
    "role": RoleError,
    "versions": VersionMismatchError,
    "full": SchedulerBusyError,
    "stopping": SchedulerBusyError,
    "taken": RunTakenError,
    "unknown": UnknownRunError,
}


class ClientProgram:
    """IO around one `ClientState`.

    Args:
        target: which scheduler, and what proves that we may use it.
        settings: the client's settings.
        introduction: what the session is opened with.
        prepare: called before each action and decision, to hand what was gathered to the state.
        tell: called in each turn with its effects, for everything but connections and sinks; before outcomes
            are told, so that whoever hears of one finds room for another task.
        run: which run the session is, if it is one.

    Attributes:
        cluster_id: of the scheduler that was met last.
        session: the session's id; of a run once a scheduler was met.
        lock: guards handles and everything that `prepare` and `tell` share with other threads.
        sinks: what takes in the outcomes of each array; for the loop's thread only.
    """

    def __init__(
        self,
        target: Target,
        settings: config.ClientSettings,
        introduction: Introduction,
        prepare: Callable[[ClientState], None],
        tell: Callable[[ClientEffects], None],
        *,
        run: RunEntry | None = None,
    ) -> None:
        self.target = target
        self.settings = settings
        self.lock = threading.Lock()
        self.sinks: dict[int, Sink] = {}
        self._prepare = prepare
        self._tell = tell
        sessions = iter(lambda: SessionId(os.urandom(16)), None)
        self._run_name = "" if run is None else run.name
        self._state = ClientState(settings, sessions, introduction, run)
        self.cluster_id = bytes(16)
        self._posts: deque[Callable[[ClientState], None]] = deque()
        self._woken = False
        self._stopping = False
        self._peers = itertools.count(1)
        self._connection: Connection | None = None
        self._main: asyncio.Task[None]
        self._over: asyncio.Future[Exception | None]
        self._refused_until: dict[str, float] = {}
        self._dial_error: ConnectError | None = None
        self._met = False
        self._alarm = transport.Alarm(self._turn)
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop = transport.new_event_loop()
        self._ident = 0
        self._thread = threading.Thread(target=self._run, name="distcomp-client", daemon=True)

    # --- for other threads ------------------------------------------------------------------------

    @property
    def session(self) -> SessionId:
        """The session's id."""
        return self._state.session

    def start(self, *, waits: bool = True) -> None:
        """Start the thread and, unless told otherwise, wait until the session is open.

        Raises:
            ConnectError: it did not come to that within `connect_timeout_s`; the thread is gone.
        """
        if not waits:
            self._state.hope(self._loop.time() + self.settings.connect_timeout_s)
        self._thread.start()
        try:
            if waits:
                self._opened.result()
        except BaseException:
            self.stop()
            raise

    def wait_until_open(self) -> None:
        """Wait until the session was opened once; raises what that failed with."""
        self._opened.result()

    def post(self, action: Callable[[ClientState], None]) -> None:
        """Have the loop's thread call `action` at the start of its next turn."""
        self._posts.append(action)
        self.wake()

    def post_soon(self, action: Callable[[ClientState], None]) -> None:
        """The same; for calls that may come while the calling thread holds locks."""
        self.post(action)

    def wake(self) -> None:
        """Have a turn made soon.

        Raises:
            ClientClosedError: the loop is gone.
        """
        if not self._woken or self._loop.is_closed():  # then no turn will come, and everybody is told
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:
                raise ClientClosedError("the client is closed") from None

    @property
    def now(self) -> float:
        """The loop's time."""
        return self._loop.time()

    def is_here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return threading.get_ident() == self._ident

    def settle_detached(self, timeout_s: float | None = None) -> None:
        """Wait until the scheduler answers for all that is detached, within `close_s` if nothing is said."""
        deadline = time.monotonic() + (self.settings.close_s if timeout_s is None else timeout_s)
        with contextlib.suppress(ClientClosedError, concurrent.futures.TimeoutError):
            while time.monotonic() < deadline and self._owes_detached():
                time.sleep(SETTLE_LOOK_S)

    def _owes_detached(self) -> bool:
        answer: concurrent.futures.Future[bool] = concurrent.futures.Future()
        self.post(lambda state: answer.set_result(state.owes_detached()))
        return answer.result(self.settings.close_s)

    def stop(self) -> None:
        """Close session, connection and loop, and wait for the thread to end."""
        with contextlib.suppress(ClientClosedError):
            self.post(self._close)
        if not self.is_here():
            self._thread.join(self.settings.close_s)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        self._ident = threading.get_ident()
        self._loop.set_exception_handler(self._on_defect)
        self._main = self._loop.create_task(self._stay_connected())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            _log.debug("the client was closed without a connection")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is ours, and somebody waits
            self._on_defect(self._loop, {"message": "the client's thread ends", "exception": error})
        finally:
            self._loop.close()
            if not self._opened.done():
                self._opened.set_exception(ClientClosedError("the client was closed while it connected"))
            self._settle_late()

    def _settle_late(self) -> None:
        """Let settle what was handed in while the loop ended; `wake` tells those who come later."""
        self._connection = None
        self._state.close()
        with contextlib.suppress(ClientClosedError):
            self._turn()

    def _on_defect(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something was raised that never should be: what was open fails, so that nobody waits for ever."""
        error = context.get("exception")
        if isinstance(error, OSError | ConnectError):  # of a connection that nobody waits for any more
            _log.info("%s: %s", context["message"], error)
            return
        _log.error("a defect in distcomp: %s", context["message"], exc_info=error)
        if not isinstance(error, Exception):
            return
        self._state.break_off(
            f"a defect in distcomp's client ({error!r}); its traceback is in the log: report it"
        )
        if self._connection is not None:
            self._connection.abort("a defect in the client")
        self._turn()

    def let_go(self) -> None:
        """Leave the connection to the parent, in a forked child: an open copy would keep it from ending."""
        if self._connection is not None:
            self._connection.let_go()

    def _close(self, state: ClientState) -> None:
        state.close()
        self._stopping = True
        if self._connection is None:
            self._main.cancel()

    async def _stay_connected(self) -> None:
        """Connect, and connect again whenever the connection is gone, until the client is closed."""
        give_up_at = self._loop.time() + self.settings.connect_timeout_s
        self._refused_until = {"taken": self._loop.time() + self.settings.run_taken_s, "silent": give_up_at}
        self._loop.call_later(NOTICE_S, self._tell_of_trying, give_up_at)
        backoff_s = self.settings.backoff_first_s
        while not self._stopping:
            self._over = self._loop.create_future()
            try:
                await self._dial()
                begun_at = self._loop.time()
                ended = await self._over
                if isinstance(ended, ConnectError) and not self._opened.done():
                    raise ended
                if self._loop.time() - begun_at > self.settings.backoff_most_s:
                    backoff_s = self.settings.backoff_first_s
            except ConnectError as error:
                self._dial_error = error
                if not self._opened.done() and (not error.heals or self._loop.time() > give_up_at):
                    self._opened.set_exception(error)
                    return
                self._state.dial_failed(self._loop.time(), refused=self._is_refusal(error))
            if self._stopping:
                return
            self._turn()
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            backoff_s = min(2 * backoff_s, self.settings.backoff_most_s)

    def _tell_of_trying(self, give_up_at: float) -> None:
        """Say that nobody has answered, if that is so, and for how long it is tried."""
        if self._met or self._stopping or self.target.cluster is not None or self.target.door is not None:
            return
        _log.warning(
            "no connection to %s: %s; it may be about to start, so this is tried for %.1f s more "
            "(connect_timeout_s=%g)",
            self.target.how,
            self._dial_error or "no answer yet",
            give_up_at - self._loop.time(),
            self.settings.connect_timeout_s,
        )

    async def _dial(self) -> None:
        """Try the scheduler's addresses in order; raises the last one's error if none will do."""
        if self.target.door is not None:
            await transport.take_up(
                self.target.connect(), self._new_connection, timeout_s=self.settings.connect_timeout_s
            )
            return
        if self.target.road is not None:
            from distcomp import http_link  # noqa: PLC0415 - nobody else has to pay for it

            await http_link.dial(self.target.road, self._new_connection, self.settings)
            return
        words = self.target.failure()
        if words is not None:
            if self._state.phase != "unopened":  # nobody starts it again while this client lives
                self._state.break_off(words)
            raise EmbeddedClusterError(words)
        for place, address in enumerate(self.target.addresses):
            try:
                await transport.dial(
                    config.parse_address(address),
                    self._new_connection,
                    timeout_s=self.settings.connect_timeout_s,
                )
            except ConnectError:  # noqa: PERF203 - few rounds, each of which may fail
                if place == len(self.target.addresses) - 1:
                    raise
            else:
                return

    def _is_refusal(self, error: ConnectError) -> bool:
        """Whether what answered says that the scheduler cannot be there; a gateway's host does not."""
        refused = getattr(error.__context__, "errno", None) == errno.ECONNREFUSED
        return not error.heals or (refused and self.target.road is None)

    def _new_connection(self) -> Connection:
        return transport.Connection(
            self.target.handshake(),
            on_ready=self._on_ready,
            on_messages=self._on_messages,
            on_closed=self._on_closed,
            limits=self.settings.wire,
        )

    def _on_ready(self, connection: Connection) -> None:
        connection.peer = Peer(next(self._peers))
        self._met = True
        self._connection = connection
        shaken, owner = connection.handshake, self.target.owner
        if isinstance(shaken, ClientHandshake | TunnelHandshake):
            self.cluster_id = shaken.met_cluster_id
        if isinstance(shaken, TunnelHandshake):
            owner = shaken.owner
        if self._run_name:
            self._state.session = run_session(self.cluster_id, owner, self._run_name)
        self._state.connect(connection.peer, self._loop.time())
        self._turn()

    def _on_messages(self, connection: Connection, messages: list[Message]) -> None:
        now, peer, receive = self._loop.time(), connection.peer, self._state.receive
        for message in messages:
            receive(peer, message, now)
        self._turn()

    def _on_closed(self, connection: Connection, error: Exception | None) -> None:
        if error is not None:
            _log.info("the connection to %s is gone: %s", connection.address, error)
        self._connection = None
        if isinstance(error, ProtocolError):
            self._state.misread(str(error))
        self._state.disconnect(connection.peer, self._loop.time())
        self._over.set_result(error)
        self._turn()

    # --- one turn ---------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._woken = False
        state = self._state
        while self._posts:
            action = self._posts.popleft()
            self._prepare(state)
            action(state)
        self._prepare(state)
        state.tick(self._loop.time())
        effects = state.take_effects()
        self._carry_out(effects)
        self._tell(effects)
        if effects.outcomes or effects.began:
            self._settle(effects)
        if (effects.opened or effects.refused) and not self._opened.done():
            self._note_opening(effects)

    def _note_opening(self, effects: ClientEffects) -> None:
        """The session is open, or will not be.

        A run that another process has may be free in a moment, and the worker of this task back.
        """
        refused = effects.refused
        if refused is None:
            self._opened.set_result(None)
        elif self._loop.time() >= self._refused_until.get(refused.code, 0.0):
            self._opened.set_exception(_error_of(refused))

    def _carry_out(self, effects: ClientEffects) -> None:
        """Send, close, log, and see to the next tick."""
        connection = self._connection
        if connection is not None:
            messages = effects.sends.get(connection.peer)
            if messages:
                connection.send(messages)
            for close in effects.closes:
                connection.close(close.reason)
            if self._stopping:
                connection.close("the client closes")
        for event in effects.events:
            values = "".join(f", {name}: {value}" for name, value in event.values.items())
            _log.log(getattr(logging, event.level.upper()), "%s%s", event.text, values)
        if effects.absence is not None and self.target.door is None:
            _log.warning("%s", words_of(effects.absence, self._named(), self._loop.time()))
        if effects.wake_at is not None:
            self._alarm.set(effects.wake_at, self._loop.time())

    def _named(self) -> str:
        """Which scheduler it is, and for which run it is spoken to, for the user."""
        road, run = self.target.road, f" (run {self._run_name!r})" if self._run_name else ""
        if road is not None:
            return f"the scheduler behind {road.address}{run}"
        return f"the scheduler at {', '.join(self.target.addresses)}{run}"

    def _settle(self, effects: ClientEffects) -> None:
        """Hand outcomes to their sinks, then wake who waits for them."""
        woken: list[Woken] = []
        with self.lock:
            for counter, indexes in effects.began:
                if counter in self.sinks:
                    self.sinks[counter].began(indexes, woken)
            for outcome in effects.outcomes:
                sink = self.sinks.get(outcome.array)
                if sink is not None:
                    sink.settle(outcome, woken)
                    if sink.open_tasks <= 0:
                        del self.sinks[outcome.array]
        if woken:
            wake_all(woken)


def introduce(environment: bytes) -> Introduction:
    """What this process says of itself when it opens a session; `environment` is for slots to take over."""
    versions = Versions(*installed_versions())
    program = os.path.basename(sys.argv[0])[:256] if sys.argv else ""  # noqa: PTH119 - no path is needed
    return Introduction(versions, socket.gethostname(), os.getpid(), program, environment)


def run_session(cluster_id: bytes, owner: str, name: str) -> SessionId:
    """The session of a run, which is the same for every process of its owner."""
    told = b"\0".join((b"distcomp run", cluster_id, owner.encode(), name.encode()))
    return SessionId(hashlib.sha256(told).digest()[:16])


def _error_of(refused: Refused) -> DistcompError:
    return _REFUSALS.get(refused.code, ConnectError)(refused.text)
