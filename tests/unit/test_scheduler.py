from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import socket
import sys
import threading
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distcomp import scheduler, transport
from distcomp.access import SchedulerAccess
from distcomp.auth import ClientHandshake
from distcomp.config import Address, JournalSettings, SchedulerSettings, WireLimits, parse_address
from distcomp.errors import AddressTakenError, AuthenticationError, ConfigError, SchedulerBusyError
from distcomp.ids import ROLES, ClusterId
from distcomp.journal import Journal
from distcomp.journal_blobs import SLICE_BYTES
from distcomp.protocol import (
    Accepted,
    AckOutcomes,
    CancelTasks,
    DefineFunction,
    OpenSession,
    Refused,
    SessionOpened,
    StatusReported,
    Submit,
    SubmitRefused,
    TasksSettled,
    WatchStatus,
)
from distcomp.records import TasksAccepted
from distcomp.rows import TaskOptions, Versions
from distcomp.scheduler import SchedulerProgram, check_exposure, reachable_at
from distcomp.transport import Connection
from distcomp.worker_protocol import AckSettles, GrantLease, LeaseSettled, RegisterWorker, WorkerRegistered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from distcomp.protocol import Message

DEADLINE_S = 60.0
PATIENT = {"handshake_s": DEADLINE_S, "silence_s": DEADLINE_S}
"""Nobody is given up here because the machine stalls."""
SESSION = b"s" * 16
CODE = b"code"
FUNCTION = hashlib.blake2b(CODE, digest_size=32).digest()
VERSIONS = Versions("0.1.0", "3.11.7", "3.0")
OPEN = OpenSession(SESSION, VERSIONS, "host", 1, "test", b"", resumes=False)
REGISTER = RegisterWorker(b"w" * 16, "w", "host", 1, 2, VERSIONS, ())
LARGE = bytes(300 << 10)
SOON = JournalSettings(
    journal_retry_first_s=0.001,
    journal_retry_most_s=0.002,
    journal_close_s=0.01,
    journal_compact_bytes=1 << 19,
)
SECRETS = {(role, "alice"): bytes([number]) * 32 for number, role in enumerate(ROLES)}


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    loop = transport.new_event_loop()
    troubles: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: troubles.append(context))
    try:
        loop.run_until_complete(asyncio.wait_for(coroutine, DEADLINE_S))
    finally:
        loop.close()
    assert troubles == []


def calls_of(action: Callable[[], Any]) -> int:
    """How many Python functions it calls."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(before)
    return calls


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.001)


class Peer:
    """A client or worker by hand."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ends: list[Exception | None] = []

    async def dial(self, cluster: Cluster, role: str, secret: bytes | None = None) -> Peer:
        secret = secret or SECRETS[role, "alice"]

        def make() -> Connection:
            return Connection(
                ClientHandshake(role, "alice", cluster.access.cluster_id, secret if cluster.auth else None),
                on_messages=lambda _, messages: self.messages.extend(messages),
                on_closed=lambda _, error: self.ends.append(error),
                limits=WireLimits(**PATIENT),
            )

        address = parse_address(cluster.program.addresses[0])
        self.connection = await transport.dial(address, make, timeout_s=DEADLINE_S)
        return self

    def send(self, *messages: Message) -> None:
        self.connection.send(messages)

    async def receive(self, kind: type[Any]) -> Any:
        await until(lambda: any(type(message) is kind for message in self.messages))
        return next(message for message in self.messages if type(message) is kind)


class Cluster:
    def __init__(self, journal: Path | None = None, **settings: Any) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.auth = settings.get("auth", True)
        self.access = SchedulerAccess(ClusterId(b"c" * 16), "test", SECRETS, owner="alice")
        self.program = SchedulerProgram(
            SchedulerSettings.from_environment({}, port=0, **{**PATIENT, **settings}),
            self.access,
            log=self.log,
            journal=None if journal is None else Journal(journal, self.access.cluster_id, SOON),
        )

    def log(self, level: str, text: str, **values: Any) -> None:
        self.lines.append((level, text, values))

    def said(self, text: str) -> list[dict[str, Any]]:
        return [values for _, said, values in self.lines if said == text]


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Cluster]:
    cluster = Cluster(**settings)
    await cluster.program.start()
    try:
        yield cluster
    finally:
        cluster.program.request_stop()
        await cluster.program.wait_closed()


def test_a_task_goes_through() -> None:
    async def body() -> None:
        async with running() as cluster:
            worker, client = [await Peer().dial(cluster, role) for role in ("worker", "client")]
            worker.send(REGISTER)
            assert (await worker.receive(WorkerRegistered)).cluster == "test"
            client.send(OPEN, DefineFunction(FUNCTION, "f", CODE))
            array = (SESSION, 1)
            client.send(Submit(array, FUNCTION, TaskOptions(), 0, 1, b"chunk", last=True))
            assert (await client.receive(Accepted)).tasks == 1
            grant = await worker.receive(GrantLease)
            assert (grant.array, grant.start, grant.stop, grant.chunk) == (array, 0, 1, b"chunk")
            assert (await worker.receive(DefineFunction)).blob == CODE
            worker.send(LeaseSettled(1, grant.token, ((0, 1, b"result"),), (), 0.001, 0))
            settled = await client.receive(TasksSettled)
            assert settled.runs == ((0, 1, b"result"),)
            assert (await worker.receive(AckSettles)).seqs == (1,)
            client.send(AckOutcomes((settled.seq,)))

    run(body())


def test_the_state_is_woken_when_it_wants() -> None:
    async def body() -> None:
        async with running(client_grace_s=0.05, reconnect_grace_s=0.05) as cluster:
            client = await Peer().dial(cluster, "client")
            client.send(OPEN)
            await client.receive(SessionOpened)
            client.connection.close()
            await until(lambda: not cluster.program._state.books.sessions)

    run(body())


def test_the_log_names_who_was_not_let_in() -> None:
    async def body() -> None:
        async with running() as cluster:
            with pytest.raises(AuthenticationError):
                await Peer().dial(cluster, "worker", secret=b"x" * 32)
            await until(lambda: cluster.said("connection refused"))
            (values,) = cluster.said("connection refused")
            assert values["peer"].startswith("tcp://127.0.0.1:")
            assert "no valid proof" in values["reason"]

    run(body())


def test_nonsense_closes_that_peer_and_nothing_else() -> None:
    async def body() -> None:
        async with running() as cluster:
            good, bad, wrong = [await Peer().dial(cluster, "client") for _ in range(3)]
            bad.connection._transport.write(b"\xff" * 100)
            assert (await bad.receive(Refused)).code == "malformed"
            wrong.send(REGISTER)
            assert (await wrong.receive(Refused)).code == "role"
            await until(lambda: bad.ends and wrong.ends)
            good.send(OPEN)
            await good.receive(SessionOpened)
            good.send(WatchStatus(0.0), AckSettles(()))
            assert (await good.receive(StatusReported)).totals.nonsense == 1
            await until(lambda: good.ends)
            assert cluster.program._state.books.counts.nonsense == 2
            warnings = [text for level, text, _ in cluster.lines if level == "warning"]
            assert sorted(warnings) == [
                "connection ended",
                "peer has the wrong role",
                "peer talked nonsense",
            ], "one line for each"

    run(body())


def test_only_so_many_connections() -> None:
    async def body() -> None:
        async with running(max_connections=2) as cluster:
            first, _ = [await Peer().dial(cluster, "observer") for _ in range(2)]
            with pytest.raises(SchedulerBusyError):
                await Peer().dial(cluster, "observer")
            first.connection.close()
            await until(lambda: len(cluster.program._open) < 2)
            await Peer().dial(cluster, "observer")

    run(body())


@pytest.mark.parametrize("at_once", [False, True])
def test_stopping_tells_everybody_and_leaves_nothing(at_once: bool) -> None:  # noqa: FBT001 - a parameter
    async def body() -> None:
        cluster = Cluster()
        await cluster.program.start()
        client = await Peer().dial(cluster, "client")
        address = parse_address(cluster.program.addresses[0])
        reader, writer = await asyncio.open_connection(address.host, address.port)
        await until(lambda: len(cluster.program._open) == 2)
        cluster.program.request_stop(at_once=at_once)
        cluster.program.request_stop(at_once=at_once)
        await cluster.program.wait_closed()
        await until(lambda: client.ends)
        if not at_once:
            assert (await client.receive(Refused)).code == "stopping"
            assert await reader.read() == b""
        writer.close()
        with socket.socket() as probe:
            assert probe.connect_ex(tuple(address)) != 0

    run(body())


def test_a_peer_that_arrives_while_stopping_is_closed() -> None:
    async def body() -> None:
        cluster = Cluster()
        await cluster.program.start()
        cluster.program.request_stop()
        connection = cluster.program._take_in()
        assert connection.closed
        await cluster.program.wait_closed()

    run(body())


def test_stopping_without_peers() -> None:
    async def body() -> None:
        async with running() as cluster:
            address = parse_address(cluster.program.addresses[0])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(address.host, address.port)

    run(body())


def test_a_taken_port() -> None:
    async def body() -> None:
        async with running() as cluster:
            port = parse_address(cluster.program.addresses[0]).port
            second = SchedulerProgram(SchedulerSettings(port=port), cluster.access, log=cluster.log)
            with pytest.raises(AddressTakenError, match=f"port {port}"):
                await second.start()

    run(body())


def test_a_peer_that_waits_at_an_inherited_socket_is_served() -> None:
    async def body() -> None:
        cluster = Cluster()
        made = socket.create_server(("127.0.0.1", 0))
        cluster.program.addresses = (str(Address(*made.getsockname())),)
        early = asyncio.ensure_future(Peer().dial(cluster, "client"))
        for _ in range(5):
            await asyncio.sleep(0)
        await cluster.program.start([made])
        client = await early
        client.send(OPEN)
        assert (await client.receive(SessionOpened)).epoch
        cluster.program.request_stop()
        await cluster.program.wait_closed()

    run(body())


def test_inherited_sockets_are_checked_too() -> None:
    async def body() -> None:
        cluster = Cluster()
        made = socket.create_server(("0.0.0.0", 0))  # noqa: S104 - it is refused
        with pytest.raises(ConfigError, match="--allow-plaintext"):
            await cluster.program.start([made])
        assert made.fileno() == -1

    run(body())


def test_without_authentication() -> None:
    async def body() -> None:
        async with running(auth=False) as cluster:
            client = await Peer().dial(cluster, "client")
            client.send(OPEN)
            assert (await client.receive(SessionOpened)).epoch

    run(body())


class HeldDisk:
    """What holds every sync of a large blob's file until it is let go; `busy` once it holds one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.busy, self._free = threading.Event(), threading.Event()
        self.syncs = 0
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().parent.name.endswith("-blobs"):
            self.busy.set()
            self.syncs += 1
            assert self._free.wait(DEADLINE_S)
        self._sync(descriptor)

    def let_go(self) -> None:
        self._free.set()


def test_a_large_payload_holds_up_no_other_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = HeldDisk(monkeypatch)

    async def body() -> None:
        async with running(journal=tmp_path / "journal.db") as cluster:
            one, other = [await Peer().dial(cluster, "client") for _ in range(2)]
            one.send(OPEN)
            await one.receive(SessionOpened)
            one.send(Submit((SESSION, 1), FUNCTION, TaskOptions(), 0, 1, LARGE, last=True))
            await until(disk.busy.is_set)
            try:
                session = b"o" * 16
                other.send(OPEN._replace(session=session))
                other.send(Submit((session, 1), FUNCTION, TaskOptions(), 0, 1, b"small", last=True))
                assert (await other.receive(Accepted)).tasks == 1
                assert not any(type(message) is Accepted for message in one.messages)
            finally:
                disk.let_go()
            assert (await one.receive(Accepted)).tasks == 1

    run(body())


def test_a_large_payload_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    blobs = tmp_path / "journal.db-blobs"

    async def body() -> None:
        async with running(journal=tmp_path / "journal.db", max_held_bytes=1 << 20) as cluster:
            client = await Peer().dial(cluster, "client")
            client.send(OPEN)
            await client.receive(SessionOpened)
            for array in range(1, 5):
                client.send(
                    Submit((SESSION, array), FUNCTION, TaskOptions(), 0, 1, LARGE + b"%d" % array, last=True)
                )
            assert (await client.receive(SubmitRefused)).code == "full"
            await until(lambda: len(list(blobs.iterdir())) == 3)

    run(body())


def test_a_compaction_reads_and_writes_no_large_payload_between_two_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distcomp.scheduler_memory.LOOK_S", 0.01)
    monkeypatch.setattr("distcomp.journal_storing.digest_of", pytest.fail)
    blobs = tmp_path / "journal.db-blobs"

    async def body() -> None:
        async with running(journal=tmp_path / "journal.db") as cluster:
            client = await Peer().dial(cluster, "client")
            client.send(OPEN)
            for array in range(1, 5):
                chunk = LARGE + b"%d" % array
                client.send(Submit((SESSION, array), FUNCTION, TaskOptions(), 0, 1, chunk, last=True))
            await until(lambda: len(list(blobs.iterdir())) == 4 if blobs.is_dir() else None)
            inodes = {path.stat().st_ino for path in blobs.iterdir()}
            for array in range(1, 4):
                client.send(CancelTasks((SESSION, array), ((0, 1),)))
            await until(lambda: cluster.said("the journal is compacted"))
            await until(lambda: len(list(blobs.iterdir())) == 1)
            assert {path.stat().st_ino for path in blobs.iterdir()} <= inodes

    run(body())
    journal = Journal(tmp_path / "journal.db", ClusterId(b"c" * 16))
    held = [record for commit in journal.recovered for record in commit.records]
    assert [record.chunk for record in held if isinstance(record, TasksAccepted)] == [LARGE + b"4"]
    journal.close()


def test_who_leaves_while_a_large_payload_is_stored_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HeldDisk(monkeypatch)
    blobs = tmp_path / "journal.db-blobs"

    async def body() -> None:
        async with running(journal=tmp_path / "journal.db") as cluster:
            client = await Peer().dial(cluster, "client")
            client.send(OPEN)
            await client.receive(SessionOpened)
            client.send(Submit((SESSION, 1), FUNCTION, TaskOptions(), 0, 1, LARGE, last=True))
            await until(disk.busy.is_set)
            client.connection.close()
            await until(lambda: not cluster.program._peers)
            assert list(blobs.iterdir())
            disk.let_go()
            await until(lambda: not list(blobs.iterdir()))

    run(body())


def test_stopping_waits_for_no_large_payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = HeldDisk(monkeypatch)

    async def body() -> None:
        cluster = Cluster(tmp_path / "journal.db")
        await cluster.program.start()
        client = await Peer().dial(cluster, "client")
        client.send(OPEN)
        await client.receive(SessionOpened)
        client.send(Submit((SESSION, 1), FUNCTION, TaskOptions(), 0, 1, bytes(3 * SLICE_BYTES), last=True))
        await until(disk.busy.is_set)
        cluster.program.request_stop()
        await cluster.program.wait_stopped()
        disk.let_go()
        await cluster.program.wait_closed()
        assert disk.syncs == 1, "that of the slice under way"
        assert not list((tmp_path / "journal.db-blobs").iterdir())

    run(body())


def test_a_journal_adds_no_call_to_messages_without_large_payloads(tmp_path: Path) -> None:
    async def body() -> None:
        calls = []
        for journal in (None, tmp_path / "journal.db"):
            async with running(journal=journal) as cluster:
                await Peer().dial(cluster, "observer")
                await until(lambda: cluster.program._peers)
                (connection,) = cluster.program._peers.values()
                take_in = partial(cluster.program._on_messages, connection, [WatchStatus(9.0)])
                calls.append(calls_of(take_in))
        assert calls[0] == calls[1]

    run(body())


def test_exposure() -> None:
    check_exposure(SchedulerSettings(auth=False), ["127.0.0.1", "::1", "localhost"])
    check_exposure(SchedulerSettings(allow_plaintext=True), ["0.0.0.0"])  # noqa: S104 - only checked
    with pytest.raises(ConfigError, match="--allow-plaintext"):
        check_exposure(SchedulerSettings(), ["127.0.0.1", "10.0.0.1"])
    with pytest.raises(ConfigError, match="without authentication"):
        check_exposure(SchedulerSettings(auth=False, allow_plaintext=True), ["a.example"])


def test_addresses_for_others() -> None:
    here, anywhere = Address("127.0.0.1", 5), Address("0.0.0.0", 5)  # noqa: S104 - only named
    assert reachable_at("", [here]) == ("tcp://127.0.0.1:5",)
    assert reachable_at("", [Address("::1", 5), here]) == ("tcp://[::1]:5", "tcp://127.0.0.1:5")
    assert reachable_at("", [anywhere]) == (f"tcp://{socket.gethostname()}:5", "tcp://127.0.0.1:5")
    assert reachable_at("a.example", [anywhere]) == ("tcp://a.example:5", "tcp://127.0.0.1:5")
    assert reachable_at("a.example:99", [here]) == ("tcp://a.example:99",)
    assert reachable_at("tcp://[2001::1]", [Address("::", 5)]) == ("tcp://[2001::1]:5", "tcp://[::1]:5")


def test_as_many_files_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 20))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert scheduler._file_limit() == 20
    assert asked == [(20, 20)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    assert scheduler._file_limit() == 20
