"""The scheduler program: a listener, its connections, and one `SchedulerState`.

State law: a connection is *open* from its arrival to its end, and a *peer* from the end of its handshake
on; the state knows exactly the peers. Whatever arrives changes the state at once, but for what waits in the
`Anteroom` until it is on the disk. What comes of it leaves in one turn, which is scheduled when something
arrived or the state wanted to be woken, never twice: one placement pass, one commit (see
`scheduler_memory`), one write for each peer.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from distcomp import listening, transport
from distcomp.anteroom import Anteroom
from distcomp.auth import ServerHandshake
from distcomp.config import Address, is_loopback, parse_address
from distcomp.core.scheduler_state import SchedulerState
from distcomp.errors import ConfigError, ProtocolError
from distcomp.ids import Peer
from distcomp.protocol import Refused
from distcomp.scheduler_memory import SchedulerMemory
from distcomp.spill import FileNews, SpillFiles
from distcomp.transport import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distcomp.access import SchedulerAccess
    from distcomp.config import SchedulerSettings
    from distcomp.journal import Journal
    from distcomp.protocol import Message

_SPARE_FILES = 64
_STOPPING = Refused("stopping", "the scheduler was stopped")


class SchedulerProgram:
    """A scheduler in this process's event loop.

    Args:
        settings: see `config.SchedulerSettings`.
        access: the cluster's id and secrets.
        log: takes a level, a constant text, and values.
        journal: where it writes down what must outlive it; it is read here.

    Raises:
        JournalError: the journal cannot be read.

    Attributes:
        memory: what it remembers of before; None without a journal.

    Example:
        `program = SchedulerProgram(settings, access, log=log); await program.start();
        await program.wait_closed()`
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        access: SchedulerAccess,
        *,
        log: Callable[..., None],
        journal: Journal | None = None,
    ) -> None:
        self.addresses: tuple[str, ...] = ()
        self._settings = settings
        self._access = access
        self._log = log
        self._files = SpillFiles(
            Path(tempfile.gettempdir()) if journal is None else journal.path.parent,
            memory_bytes=settings.max_outcome_memory_bytes,
            segment_bytes=settings.spill_segment_bytes,
        )
        self.memory = None if journal is None else SchedulerMemory(journal, log, self._files)
        epoch = time.time_ns() if self.memory is None else self.memory.read()
        self._state = SchedulerState(
            settings,
            epoch,
            access.cluster_name,
            auth=settings.auth,
            wall_offset_s=time.time() - time.monotonic(),
        )
        if self.memory is not None:
            self.memory.recall(self._state, time.monotonic())
        self._anteroom = (
            None
            if journal is None or self.memory is None
            else Anteroom(
                self.memory,
                journal.settings,
                go_on=self._on_admitted,
                has_room_for=self._state.has_room_for,
            )
        )
        self._numbers = count(1)
        self._open: set[Connection] = set()
        self._peers: dict[Peer, Connection] = {}
        self._max_open = settings.max_connections
        self._listener: listening.Listener | None = None
        self._turn_comes = False
        self._stopping = False
        self._alarm = transport.Alarm(self._on_alarm)
        self._closed = asyncio.Event()

    # --- what the command line calls ---

    async def start(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Listen.

        Args:
            sockets: bound already; by the settings' host and port if None. They are closed at the end.

        Raises:
            AddressTakenError: another program listens there.
            ConfigError: that address may not be listened at with these settings.
            JournalError: the journal cannot be written.
        """
        self._loop = asyncio.get_running_loop()
        self._files.start(self._loop.call_soon_threadsafe, self._on_file_news)
        settings = self._settings
        if sockets is None:
            check_exposure(settings, [settings.host])
            sockets = listening.bind(settings.host, settings.port, backlog=settings.listen_backlog)
        try:
            check_exposure(settings, [str(each.getsockname()[0]) for each in sockets])
        except ConfigError:
            for each in sockets:
                each.close()
            raise
        if self.memory is not None:
            await self._begin_to_write(self.memory, sockets)
        self._max_open = min(settings.max_connections, _file_limit() - _SPARE_FILES)
        self._listener = await listening.listen(sockets, self._take_in, backlog=settings.listen_backlog)
        self.addresses = reachable_at(settings.advertise, self._listener.addresses)
        self._plan_turn()

    def request_stop(self, *, at_once: bool = False) -> None:
        """Tell all peers, close everything; `wait_closed` returns when that is done.

        Args:
            at_once: do not wait until the last words have left, nor for room on the journal's disk. It can
                still be asked for when a stop is under way.
        """
        if self.memory is not None and at_once:
            self.memory.hurry()
        if self.memory is not None and self._listener is not None and not self._stopping:
            self._turn()
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        self._alarm.cancel()
        for connection in list(self._open):
            connection.send([_STOPPING])
            if at_once:
                connection.abort("stopped")
            else:
                connection.close("stopped")
        if not self._open:
            self._closed.set()

    async def wait_stopped(self) -> None:
        """Return when `request_stop` was called, or the journal failed, and the last connection is gone."""
        await self._closed.wait()

    async def wait_closed(self) -> None:
        """Return after `wait_stopped`, when all that should outlive this scheduler is written down.

        Raises:
            JournalError: not all of it could be.
        """
        await self.wait_stopped()
        await asyncio.to_thread(self._files.close)
        if self.memory is not None:
            await asyncio.to_thread(self.memory.close)

    async def _begin_to_write(self, memory: SchedulerMemory, sockets: Sequence[socket.socket]) -> None:
        try:
            await memory.start(
                self._send, lambda: self.request_stop(at_once=True), self._plan_turn, self._on_no_room
            )
        except BaseException:
            for each in sockets:
                each.close()
            memory.hurry()
            await asyncio.to_thread(memory.close)
            raise

    # --- connections ---

    def _take_in(self) -> Connection:
        """A connection for a peer that arrived; it is told so if there is no room."""
        handshake = ServerHandshake(
            self._access.cluster_id,
            self._access.lookup,
            auth_required=self._settings.auth,
            busy=len(self._open) >= self._max_open,
        )
        connection = Connection(
            handshake,
            on_ready=self._on_ready,
            on_messages=self._on_messages,
            on_closed=self._on_closed,
            on_failed=self._on_failed,
            limits=self._settings.wire,
        )
        self._open.add(connection)
        if self._stopping:  # it arrived as the listener was closed
            connection.close("stopped")
        return connection

    def _on_ready(self, connection: Connection) -> None:
        identity = connection.handshake.identity
        assert identity is not None  # noqa: S101 - a server's handshake is not done without one
        role, owner = identity
        peer = connection.peer = Peer(next(self._numbers))
        self._peers[peer] = connection
        self._log("debug", "peer connected", peer=connection.address, role=role, owner=owner)
        self._state.connect(peer, role, owner, connection.address, time.monotonic())
        self._plan_turn()

    def _on_messages(self, connection: Connection, messages: list[Message]) -> None:
        if self._anteroom is not None and connection.incoming.claimed_bytes:
            messages = self._anteroom.let_in(connection, messages)
        receive, peer, now = self._state.receive, connection.peer, time.monotonic()
        for message in messages:
            receive(peer, message, now)
        self._plan_turn()

    def _on_admitted(self, peer: Peer, messages: list[Message]) -> None:
        for message in messages:
            self._state.receive(peer, message, time.monotonic())
        self._plan_turn()

    def _on_no_room(self, lacking: dict[Peer, int]) -> None:
        self._state.lack_room(lacking)
        if self._anteroom is not None:
            self._anteroom.lack_room(lacking)

    def _on_closed(self, connection: Connection, error: Exception | None) -> None:
        level = "debug" if error is None else "warning"
        role, owner = connection.handshake.identity or ("", "")
        values = {"peer": connection.address, "role": role, "owner": owner}
        self._log(level, "connection ended", **values, reason=connection.reason)
        if isinstance(error, ProtocolError):
            self._state.note_nonsense()
        self._peers.pop(connection.peer, None)
        if self._anteroom is not None:
            self._anteroom.leave(connection.peer)
        self._state.disconnect(connection.peer, time.monotonic())
        self._forget(connection)
        self._plan_turn()

    def _on_failed(self, connection: Connection, error: Exception) -> None:
        self._log("warning", "connection refused", peer=connection.address, reason=str(error))
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._stopping and not self._open:
            self._closed.set()

    # --- turns ---

    def _plan_turn(self) -> None:
        if not self._turn_comes:
            self._turn_comes = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One placement pass over all that arrived, one commit, and one write for each peer it concerns."""
        self._turn_comes = False
        if self._stopping:
            return
        now = time.monotonic()
        effects = self._state.take_effects(now)
        if self.memory is not None:
            self.memory.keep(effects)
        self._send(effects.sends)
        if effects.files is not None:
            self._files.work(effects.files.spills, effects.files.loads, effects.files.unspills)
        for peer, reason in effects.closes:
            if peer in self._peers:
                self._log("debug", "peer closed", peer=self._peers[peer].address, reason=reason)
                self._peers[peer].close(reason)
        for level, text, values in effects.events:
            self._log(level, text, **values)
        if effects.wake_at is not None:
            self._alarm.set(effects.wake_at, now)

    def _send(self, sends: dict[Peer, list[Message]]) -> None:
        for peer, messages in sends.items():
            connection = self._peers.get(peer)
            if connection is not None:
                connection.send(messages)

    def _on_file_news(self, news: list[FileNews]) -> None:
        state = self._state
        for what, number, message, why in news:
            if what == "stored":
                state.stored(number)
            elif what == "failed":
                state.not_stored(number, why, time.monotonic())
            elif message is not None:
                state.loaded(number, message)
            else:
                state.unreadable(number, why)
        self._plan_turn()

    def _on_alarm(self) -> None:
        self._state.tick(time.monotonic())
        self._plan_turn()


def check_exposure(settings: SchedulerSettings, hosts: Sequence[str]) -> None:
    """Refuse to let others in without proof, or to let secrets and code cross a network unasked.

    Raises:
        ConfigError: a host is reachable from elsewhere, and the settings do not allow that.
    """
    exposed = [host for host in hosts if not is_loopback(host)]
    if exposed and not settings.auth:
        raise ConfigError(
            f"without authentication only this host may connect, but others can reach {exposed[0]!r}: "
            "switch authentication on, or listen at 127.0.0.1"
        )
    if exposed and not settings.allow_plaintext:
        raise ConfigError(
            f"others can reach {exposed[0]!r}, and nothing on the way there is encrypted: "
            "allow that with --allow-plaintext if you trust the network, or listen at 127.0.0.1"
        )


def reachable_at(advertise: str, bound: Sequence[Address]) -> tuple[str, ...]:
    """The addresses for join strings, in order of trial: as advertised, or as bound; this host's last."""
    port = bound[0].port
    found: list[Address] = []
    if advertise:
        has_port = advertise.rpartition(":")[2].isdigit()
        found.append(
            Address(parse_address(advertise).host, parse_address(advertise).port if has_port else port)
        )
    for host, _ in bound:
        anywhere = host in ("0.0.0.0", "::")  # noqa: S104 - read from the socket, not bound here
        if not advertise:
            found.append(Address(socket.gethostname() if anywhere else host, port))
        if anywhere:
            found.append(Address("127.0.0.1" if host == "0.0.0.0" else "::1", port))  # noqa: S104 - as above
    ordered = sorted(dict.fromkeys(found), key=lambda address: is_loopback(address.host))
    return tuple(str(address) for address in ordered)


def _file_limit() -> int:
    """How many files this process may have open, after asking for as many as it can get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
