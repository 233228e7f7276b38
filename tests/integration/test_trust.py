"""Who is let in, and what strangers can do: nothing, and not for long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clusters import Programs, programs, until
from processes import command_line, descriptors, family

from distcomp import AuthenticationError, Client, VersionMismatchError, WrongClusterError, auth
from distcomp.config import ClientSettings, WorkerSettings
from distcomp.errors import ConnectError, ForeignProtocolError, RoleError
from distcomp.ids import SessionId
from distcomp.protocol import PROTOCOL, OpenSession, SendPiece, Submit, codec
from distcomp.rows import TaskOptions, Versions
from distcomp.worker import WorkerProgram
from distcomp.worker_protocol import RegisterWorker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distcomp.access import Access

TIMEOUT_S = 60.0
CALM = {"DISTCOMP_HANDSHAKE_S": "60", "DISTCOMP_SILENCE_S": "60"}
"""Nobody is given up, and that logged, because this machine was slow."""
SESSION = SessionId(b"s" * 16)
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is shown is that it is refused
OPENING = OpenSession(SESSION, Versions("0", "3.11.0", "3"), "host", 1, "test", b"", resumes=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """A scheduler and a worker that no test here is able to disturb."""
    with programs(tmp_path_factory.mktemp("home")) as made:
        scheduler = made.scheduler(**CALM)
        made.worker(**CALM)
        until(lambda: "worker registered" in made.said(scheduler), "the worker is there")
        yield made


def address_of(access: Access) -> tuple[str, int]:
    host, _, port = access.addresses[0].removeprefix("tcp://").rpartition(":")
    return host, int(port)


@contextlib.contextmanager
def dialled(access: Access) -> Iterator[socket.socket]:
    """A connection with a scheduler after the handshake, for a test to speak as it likes."""
    with socket.create_connection(address_of(access), TIMEOUT_S) as connection:
        shake = auth.ClientHandshake(access.role, access.owner, access.cluster_id, access.secret)
        connection.sendall(shake.greeting())
        while not shake.done:
            connection.sendall(shake.receive(connection.recv(4096)))
        yield connection


def all_until_closed(connection: socket.socket) -> bytes:
    """What the other side says until it closes; fails if it does not."""
    data = b""
    try:
        while part := connection.recv(1 << 16):
            data += part
    except ConnectionResetError:  # closed with something of ours unread: closed all the same
        pass
    return data


# --- who is let in --------------------------------------------------------------------------------


def test_a_wrong_secret_is_refused_and_said(shared: Programs) -> None:
    with pytest.raises(AuthenticationError, match="join string"):
        Client(replace(shared.access(), secret=bytes(32)))


def test_no_secret_and_an_unknown_owner_are_refused(shared: Programs) -> None:
    with pytest.raises(AuthenticationError, match="distcomp join"):
        Client(replace(shared.access(), secret=None))
    with pytest.raises(AuthenticationError):
        Client(replace(shared.access(), owner="mallory"))


def test_a_secret_of_another_role_is_refused(shared: Programs) -> None:
    secret = shared.access("worker").secret
    with pytest.raises(AuthenticationError):
        Client(replace(shared.access(), secret=secret))


def test_a_worker_with_a_client_s_secret_ends_and_says_what_it_needs(shared: Programs) -> None:
    said: list[str] = []

    def log(_level: str, text: str, **_values: Any) -> None:
        said.append(text)

    program = WorkerProgram(WorkerSettings(), shared.access("client"), name="w", slots=1, log=log)
    with pytest.raises(RoleError, match="use a join string for the role worker"):
        asyncio.run(asyncio.wait_for(program.run(), TIMEOUT_S))
    assert said.count("connected") == 1


def test_a_client_with_a_worker_s_secret_ends_and_says_what_it_needs(
    shared: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    shake = auth.ClientHandshake
    monkeypatch.setattr(auth, "ClientHandshake", lambda _role, *rest: shake("worker", *rest))
    with pytest.raises(RoleError, match="use a join string for the role client"):
        Client(shared.access("worker"))


def test_another_cluster_is_refused_and_said(shared: Programs) -> None:
    with pytest.raises(WrongClusterError, match="another cluster"):
        Client(replace(shared.access(), cluster_id=b"x" * 16))


@pytest.mark.parametrize("role", ["client", "worker"])
def test_another_protocol_is_refused_naming_both_and_what_to_upgrade(
    shared: Programs, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setattr(auth, "PROTOCOL", PROTOCOL + 1)
    with pytest.raises(VersionMismatchError) as caught, dialled(shared.access(role)):
        pass
    assert f"protocol {PROTOCOL + 1}" in str(caught.value)
    assert f"protocol {PROTOCOL} " in str(caught.value)
    assert "upgrade scheduler" in str(caught.value)
    scheduler = shared.running[0]
    until(lambda: f"protocol {PROTOCOL + 1}" in shared.said(scheduler), "the scheduler logs it")


def test_what_speaks_http_is_told_so_and_logged_in_one_line(shared: Programs) -> None:
    with socket.create_connection(address_of(shared.access()), TIMEOUT_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        answer = all_until_closed(connection)
    assert (answer[:13], b"tcp://" in answer) == (b"HTTP/1.1 400 ", True)
    until(lambda: "GET / HTTP" in shared.said(shared.running[0]), "the scheduler logs it")
    lines = [line for line in shared.said(shared.running[0]).splitlines() if "GET / HTTP" in line]
    assert len(lines) == 1


def test_a_client_and_a_worker_that_meet_http_say_so(cluster: Programs, shared: Programs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=answer_http, args=(listener,))
        serving.start()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ForeignProtocolError, match="HTTP"):
            Client(replace(shared.access(), addresses=(address,)))
        join = replace(shared.access("worker"), addresses=(address,)).to_join()
        worker = cluster.worker(slots=1, join=join)
        assert worker.wait(TIMEOUT_S) == 3
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()
    assert "HTTP" in cluster.said(worker).splitlines()[-1]


def answer_http(listener: socket.socket) -> None:
    """Answer all who come, until the listener is shut down."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):  # who has heard enough may be gone
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            connection.recv(4096)


def test_who_says_nothing_is_given_up(cluster: Programs) -> None:
    cluster.scheduler(DISTCOMP_HANDSHAKE_S="0.2")
    with socket.create_connection(address_of(cluster.access()), TIMEOUT_S) as connection:
        assert all_until_closed(connection) == b""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", EVERYWHERE], "--allow-plaintext"),
        (["--host", EVERYWHERE, "--no-auth"], "authentication"),
        (["--host", EVERYWHERE, "--no-auth", "--allow-plaintext"], "authentication"),
    ],
)
def test_others_are_let_in_only_if_asked_for(cluster: Programs, flags: list[str], words: str) -> None:
    scheduler = cluster.start("scheduler", "--port", "0", *flags)
    assert scheduler.wait(TIMEOUT_S) == 2
    (line,) = cluster.said(scheduler).splitlines()
    assert words in line


def test_a_scheduler_beyond_loopback_still_asks_for_secrets(cluster: Programs) -> None:
    cluster.scheduler("test", "--host", EVERYWHERE, "--allow-plaintext")
    with pytest.raises(AuthenticationError):
        Client(replace(cluster.access(), secret=bytes(32)))
    with Client() as client:
        assert client.workers() == ()


# --- hostile frames -------------------------------------------------------------------------------


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def frames_of(*messages: Any) -> bytes:
    return codec.frame([codec.pack(message) for message in messages])


def hostile() -> dict[str, bytes]:
    """Byte strings that no client sends after its handshake."""
    noise = random.Random(7)  # noqa: S311 - it guards nothing
    submit = Submit((SESSION, 1), b"f" * 32, TaskOptions(), 0, 1, b"chunk", True)  # type: ignore[arg-type]
    worker = RegisterWorker(b"w" * 16, "w", "h", 1, 1, OPENING.versions, (), False)  # type: ignore[arg-type]
    return {
        "noise": noise.randbytes(5000),
        "oversized": struct.pack(">I", 0xFFFFFFFF) + b"x" * 100,
        "no msgpack": framed(b"\xc1" * 10),
        "a deep nest": framed(b"\x91" * 100_000),
        "an unknown message": framed(b"\x91\x91\xcd\xff\xff"),
        "wrong fields": framed(b"\x91\x92\x0a\xa1x"),
        "out of order": frames_of(submit),
        "another role's": frames_of(worker),
        "opened twice": frames_of(OPENING) + frames_of(OPENING),
        "more than announced": frames_of(SendPiece(1, 2, b"three")),
    }


@pytest.mark.parametrize("kind", list(hostile()))
def test_a_hostile_frame_closes_its_connection_and_disturbs_nobody(shared: Programs, kind: str) -> None:
    scheduler = shared.running[0]
    before, files = shared.said(scheduler), len(descriptors(scheduler.pid))
    with Client(shared.access()) as client:
        client.wait_for_workers(1, timeout_s=TIMEOUT_S)
        array = client.map(abs, range(-20_000, 0))
        with dialled(shared.access()) as connection:
            connection.sendall(hostile()[kind])
            all_until_closed(connection)
        assert sum(array) == sum(range(20_001))
        assert client.submit(abs, -1).result(TIMEOUT_S) == 1
    until(lambda: len(shared.said(scheduler)) > len(before), "it is logged")
    lines = shared.said(scheduler)[len(before) :].splitlines()
    assert len([line for line in lines if " warning " in line]) == 1, lines
    until(lambda: len(descriptors(scheduler.pid)) <= files, "no connection is left")


def test_a_truncated_frame_holds_nobody_up(shared: Programs) -> None:
    with dialled(shared.access()) as connection, Client(shared.access()) as client:
        connection.sendall(frames_of(OPENING)[:-3])
        assert client.submit(abs, -1).result(TIMEOUT_S) == 1


# --- where secrets are not ------------------------------------------------------------------------


def look_around() -> tuple[dict[str, str], list[str], str]:
    files = [entry.name for entry in Path("/proc/self/fd").iterdir()]
    return dict(os.environ), files, Path("/proc/self/environ").read_text()


@pytest.mark.parametrize("way", ["own file", "typed", "variable"])
def test_secrets_are_on_no_command_line_and_in_no_tasks_environment(cluster: Programs, way: str) -> None:
    scheduler = cluster.scheduler("test", "--local-slots", "1")
    join = cluster.access("worker").to_join()
    cluster.worker(
        slots=1, **{"own file": {}, "typed": {"join": join}, "variable": {"DISTCOMP_JOIN": join}}[way]
    )
    with Client() as client:
        client.wait_for_workers(2, timeout_s=TIMEOUT_S)
        seen = list(client.map(lambda _: look_around(), range(8)))
        pids = [each for process in (scheduler, cluster.running[-1]) for each in family(process.pid)]
        lines = [command_line(pid) for pid in pids]
        assert sum("distcomp" in line for line in lines) >= 2
    secrets = [cluster.access(role).secret for role in ("client", "worker", "observer", "admin")]
    texts = [join, *(secret.hex() for secret in secrets if secret is not None)]
    assert len(texts) == 5
    shown = [*lines, *(text for environment, _, whole in seen for text in (*environment.values(), whole))]
    assert not [text for text in texts if any(text in each for each in shown)]
    assert not [name for environment, _, _ in seen for name in environment if name.startswith("DISTCOMP_J")]


def test_a_refusal_costs_no_patience(shared: Programs) -> None:
    since = time.monotonic()
    with pytest.raises(ConnectError):
        Client(replace(shared.access(), secret=bytes(32)), settings=ClientSettings(connect_timeout_s=600.0))
    assert time.monotonic() - since < TIMEOUT_S
