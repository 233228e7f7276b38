from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from distcomp import discovery, inside
from distcomp.access import Access
from distcomp.auth import ServerHandshake
from distcomp.config import SLOT_VARIABLE
from distcomp.errors import (
    AmbiguousClusterError,
    AuthenticationError,
    ConfigError,
    UnreachableError,
    UsageError,
)
from distcomp.ids import ClusterId
from distcomp.page import BEGUN, RUN, Page, lane_of, page_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = b"s" * 32


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    monkeypatch.delenv(SLOT_VARIABLE, raising=False)
    monkeypatch.setattr(discovery.probe, "__defaults__", (60.0,))  # however long an answer takes


def access_to(name: str, address: str, *, role: str = "client") -> Access:
    return Access(
        role=role,
        owner="alice",
        cluster_id=name.encode().ljust(16, b"-"),
        cluster_name=name,
        addresses=(address,),
        secret=SECRET,
    )


@contextlib.contextmanager
def answering(name: str, secret: bytes = SECRET) -> Iterator[str]:
    """A scheduler that shakes hands, at the address given."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        cluster = ClusterId(name.encode().ljust(16, b"-"))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        _shake(connection, ServerHandshake(cluster, lambda *_: secret))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _shake(connection: socket.socket, shake: ServerHandshake) -> None:
    connection.sendall(shake.greeting())
    while not shake.done:
        data = connection.recv(4096)
        if not data:
            return
        try:
            connection.sendall(shake.receive(data))
        except ConnectionError:
            connection.sendall(shake.farewell)
            return


@pytest.fixture
def free_address() -> Iterator[str]:
    """One at which nobody listens, and nobody else will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


def test_an_address_is_followed_whatever_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCOMP_ADDRESS", "tcp://b.example:1")
    told = discovery.find("a.example")
    assert (told.addresses, told.secret) == (("tcp://a.example:7077",), None)
    assert "as told" in told.how
    assert discovery.find().addresses == ("tcp://b.example:1",)
    with pytest.raises(ConfigError):
        discovery.find("http://a.example")


@pytest.mark.parametrize("address", ["tcp://a.example:7077", "inline:"])
def test_a_journal_is_for_embedded_clusters(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a journal is for an embedded cluster"):
        discovery.find(address, journal=tmp_path / "work.db")


def test_an_address_takes_the_access_file_that_names_it() -> None:
    access_to("left", "tcp://a.example:1").save()
    access_to("left", "tcp://a.example:1", role="worker").save()
    access_to("right", "tcp://a.example:2").save()
    target = discovery.find("tcp://a.example:1")
    assert (target.owner, target.secret, target.cluster_id) == ("alice", SECRET, b"left".ljust(16, b"-"))


def test_of_two_access_files_for_one_address_the_one_that_is_right_counts() -> None:
    with answering("right") as address:
        access_to("right", address).save()
        access_to("left", address).save()
        assert discovery.find(address).cluster_id == b"right".ljust(16, b"-")


def test_an_access_is_followed_as_it_is() -> None:
    target = discovery.find(access_to("left", "tcp://a.example:1"))
    assert (target.addresses, target.secret, target.failure()) == (("tcp://a.example:1",), SECRET, None)


def test_the_running_scheduler_is_found_and_stale_files_are_said(
    caplog: pytest.LogCaptureFixture, free_address: str
) -> None:
    with answering("right") as address, caplog.at_level(logging.WARNING, logger="distcomp"):
        access_to("right", address).save()
        gone = access_to("gone", free_address).save()
        broken = access_to("broken", "tcp://a.example:1").save()
        broken.write_text("{")
        target = discovery.find()
    assert target.addresses == (address,)
    assert "gone is stale" in caplog.text
    assert f"delete {gone}" in caplog.text
    assert str(broken) in caplog.text


def test_two_running_schedulers_are_both_named() -> None:
    with answering("left") as left, answering("right") as right:
        access_to("left", left).save()
        access_to("right", right).save()
        with pytest.raises(AmbiguousClusterError) as caught:
            discovery.find()
    assert left in str(caught.value)
    assert right in str(caught.value)


def test_a_probe_says_what_is_wrong(free_address: str) -> None:
    with pytest.raises(UnreachableError):
        discovery.probe(access_to("gone", free_address))
    with answering("right", secret=b"t" * 32) as address, pytest.raises(AuthenticationError):
        discovery.probe(access_to("right", address))


def test_what_a_task_starts_has_no_cluster_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLOT_VARIABLE, "1")
    with pytest.raises(UsageError, match="started by a task"):
        discovery.find()
    assert discovery.find("tcp://a.example:1").addresses


def test_a_task_is_in_the_cluster_that_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(memoryview(bytearray(page_bytes(1024))))
    page.open_lane(3, 0, 9)
    page.words[RUN], page.words[lane_of(3) + BEGUN] = 3, 7
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setenv(SLOT_VARIABLE, "1")
    monkeypatch.setenv("DISTCOMP_ADDRESS", "tcp://a.example:1")
    monkeypatch.setattr(inside, "door", inside.Door(near, page, lambda: None, lambda _seconds: None))
    target = discovery.find()
    assert (target.task, target.addresses, target.cluster, target.secret) == ((3, 7), (), None, None)
    with near, far, target.connect() as connection:
        data, (descriptor,), _, _ = socket.recv_fds(far, 64, 1)
        with socket.socket(fileno=descriptor) as other:
            other.sendall(inside.RELAYED)
            assert connection.recv(9) == inside.RELAYED
        assert inside.REQUEST.unpack(data) == (3, 7)
    with pytest.raises(UnreachableError, match="cannot be asked"):
        target.connect()
    page.release()


def test_what_is_no_address_is_refused() -> None:
    wrong: Any = 7077
    with pytest.raises(TypeError, match="named by text like 'tcp://host:7077', not by 7077"):
        discovery.find(wrong)


def test_alone_there_is_an_embedded_cluster_with_as_many_slots_as_asked_for() -> None:
    with pytest.raises(ValueError, match="1 or more slots, not 0"):
        discovery.find(slots=0)
    target = discovery.find(slots=3)
    assert target.cluster is not None
    try:
        assert target.addresses == (target.cluster.address,)
        assert target.failure() is None
        assert target.cluster.slots == 3
        assert "3 slots" in target.how
    finally:
        target.cluster.close()
