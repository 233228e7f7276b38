"""Python clients over HTTP, by a tunnel: real programs, an ordinary client, a bridge between."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from clusters import DEADLINE_S, until
from gateways import Gatewayed, alices_cluster, ask, cluster_id, listening_port, make_token, start_gateway
from http_bridge import bridged

from distcomp import Client
from distcomp.access import SchedulerAccess, this_user
from distcomp.gateway_settings import gateway_file
from distcomp.protocol import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clusters import Programs


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatewayed]:
    with alices_cluster(tmp_path_factory.mktemp("home")) as made:
        yield made


def test_a_client_works_through_a_tunnel_that_breaks(alice: Gatewayed) -> None:
    port = alice.port
    with bridged(port, alice.token()) as (address, bridge), Client(address) as client:
        assert client.submit(pow, 2, 10).result() == 1024
        array = client.map(abs, range(-200_000, 0))
        results = iter(array)
        seen = [next(results) for _ in range(1000)]
        for _ in range(3):
            bridge.cut()
            seen += [next(results) for _ in range(10_000)]
        assert [*seen, *results] == list(range(200_000, 0, -1))
        assert client.submit(bytes, 5_000_000).result() == bytes(5_000_000)
        assert client.submit(len, bytes(5_000_000)).result() == 5_000_000
        assert bridge.breaks >= 1
        with pytest.raises(ZeroDivisionError):
            client.submit(divmod, 1, 0).result()
        assert client.status().cluster == "test"


def test_a_client_goes_on_after_its_gateway_was_killed(tmp_path: Path) -> None:
    with (
        alices_cluster(tmp_path / "home") as alice,
        bridged(alice.port, alice.token()) as (address, _),
        Client(address) as client,
    ):
        results = iter(client.map(abs, range(-100_000, 0)))
        seen = [next(results) for _ in range(1000)]
        alice.kill()
        assert [*seen, *results] == list(range(100_000, 0, -1))


def test_a_tunnel_belongs_to_its_token_and_counts_its_bytes(alice: Gatewayed) -> None:
    port = alice.port
    token, other = (alice.token() for _ in range(2))
    status, _, opened = ask(port, token, "POST", "/v1/tunnel", {"protocol": PROTOCOL})
    assert status == 201
    assert opened["owner"] == "alice"
    assert bytes.fromhex(opened["cluster_id"]) == alice.cluster.access().cluster_id
    path = f"/v1/tunnel/{opened['tunnel']}"
    assert ask(port, other, "POST", f"{path}/up?offset=0", b"")[0] == 404
    assert ask(port, token, "POST", f"{path}/up?offset=0", b"\0\0")[2] == {"offset": 2}
    assert ask(port, token, "POST", f"{path}/up?offset=0", b"\0\0\0")[2] == {"offset": 3}
    status, _, problem = ask(port, token, "POST", f"{path}/up?offset=9", b"\0")
    assert (status, problem["offset"]) == (409, 3)
    assert ask(port, token, "GET", f"{path}/down?offset=5000")[0] == 409
    assert ask(port, token, "POST", f"{path}/up?offset=3", b"\xff")[2] == {"offset": 4}
    status, _, problem = ask(port, token, "POST", f"{path}/up?offset=4", bytes(255) + b"\xff\xff\xff\xff")
    assert (status, "frame" in problem["detail"]) == (400, True)
    assert ask(port, token, "POST", f"{path}/up?offset=4", b"\0")[0] == 410
    assert ask(port, token, "DELETE", path)[0] == 204
    assert ask(port, token, "POST", "/v1/tunnel", {"protocol": PROTOCOL + 1})[0] == 409


def test_a_tunnel_is_opened_for_owners_that_the_scheduler_knows(alice: Gatewayed) -> None:
    port = alice.port
    token = alice.token(owner="bob")
    status, _, problem = ask(port, token, "POST", "/v1/tunnel", {"protocol": PROTOCOL})
    assert (status, "bob" in problem["detail"]) == (403, True)
    SchedulerAccess.open("test", alice.cluster.home).add_owner("bob")
    assert ask(port, token, "POST", "/v1/tunnel", {"protocol": PROTOCOL})[2]["owner"] == "bob"


def test_without_scheduler_a_gateway_says_so(cluster: Programs) -> None:
    cluster.scheduler("test", "--owner", "alice")
    _, port = start_gateway(cluster)
    token = make_token(cluster)
    until(lambda: ask(port, token, "GET", "/readyz")[0] == 200, "the gateway is ready")
    cluster.running[0].send_signal(signal.SIGKILL)
    cluster.running[0].wait()
    until(lambda: ask(port, token, "GET", "/readyz")[0] == 503, "the gateway has noticed")
    status, headers, _ = ask(port, token, "POST", "/v1/tunnel", {"protocol": PROTOCOL})
    assert (status, headers["retry-after"]) == (503, "1")


def test_requests_that_never_come_end_and_change_nothing_for_others(tmp_path: Path) -> None:
    with alices_cluster(tmp_path / "home", "--head-s", "5", "--max-http-connections", "1000") as alice:
        check_requests_that_never_come(alice.port, alice.token())


def check_requests_that_never_come(port: int, token: str) -> None:
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(500)]
    try:
        for each in slow:
            each.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
        assert ask(port, token, "GET", "/openapi.json")[0] == 200
        assert all(each.recv(100) == b"" for each in slow)
    finally:
        for each in slow:
            each.close()
    assert ask(port, token, "GET", "/healthz")[0] == 200


def test_a_head_without_end_is_not_kept(alice: Gatewayed) -> None:
    port = alice.port
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {f"X-{number}": "x" * 10_000 for number in range(100)}
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        _ask_with(connection, headers)
    connection.close()


def _ask_with(connection: http.client.HTTPConnection, headers: dict[str, str]) -> None:
    connection.request("GET", "/healthz", headers=headers)
    connection.getresponse()


def test_one_command_is_a_whole_cluster_whose_gateway_is_started_again(cluster: Programs) -> None:
    scheduler = cluster.start(
        "scheduler", "--port", "0", "--name", "test", "--quiet", "--local-slots", "1", "--gateway", "0"
    )
    port = listening_port(cluster, scheduler)
    token = make_token(cluster, owner=this_user())
    until(lambda: ask(port, token, "GET", "/v1/workers")[2].get("items"), "the worker is there")
    own = gateway_file("test", cluster_id(cluster), cluster.home)
    first = json.loads(own.read_text())
    os.kill(first["pid"], signal.SIGKILL)
    again = until(lambda: another(own, first), "it was started again")
    port = int(again["address"].rpartition(":")[2])
    assert ask(port, token, "GET", "/healthz")[0] == 200
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(DEADLINE_S) == 0
    assert not own.exists()


def another(file: Path, first: Any) -> Any:
    """What a gateway's file says once it is not the first one's; there may be none for a moment."""
    with contextlib.suppress(FileNotFoundError):
        says = json.loads(file.read_text())
        return says if says["pid"] != first["pid"] else None
    return None
