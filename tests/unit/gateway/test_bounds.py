"""Bounds of size, rate and number: what is too much is said, and changes nothing for others."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest
from gateway_world import PATIENCE_S, Reply, World, until, world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUBMIT = "/v1/functions/x/tasks"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[World]:
    with world(
        tmp_path,
        max_body_bytes=2000,
        max_upload_bytes=3000,
        max_tunnels=2,
        max_streams=1,
    ) as made:
        yield made


def test_bodies_are_bounded_whether_they_say_their_length_or_not(gateway: World) -> None:
    assert gateway.ask("POST", SUBMIT, body=b"[" * 2001).status == 413
    assert gateway.ask("PUT", "/v1/functions/x/versions/1", body=bytes(3001)).status == 413
    assert gateway.ask("POST", SUBMIT, body=b"[" * 2000).status == 400
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(head(gateway, "Transfer-Encoding: chunked") + b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert b" 413 " in raw.recv(1000)


def test_a_body_that_does_not_come_ends_its_request(tmp_path: Path) -> None:
    with (
        world(tmp_path, body_gap_s=0.2) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as raw,
    ):
        raw.sendall(head(gateway, "Content-Length: 100") + b"{")
        assert b" 408 " in raw.recv(1000)


def test_a_body_that_comes_too_slowly_ends_its_request(tmp_path: Path) -> None:
    with (
        world(tmp_path, body_gap_s=0.5) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as raw,
    ):
        raw.sendall(head(gateway, "Content-Length: 1000"))
        raw.settimeout(0.05)
        answer, deadline = b"", time.monotonic() + PATIENCE_S
        while not answer and time.monotonic() < deadline:
            try:
                raw.sendall(b" ")
                answer = raw.recv(1000)
            except TimeoutError:  # noqa: PERF203 - each round may
                continue
        assert b" 408 " in answer


def test_a_body_that_nobody_wants_any_more_does_not_keep_its_connection(tmp_path: Path) -> None:
    request = f"POST {SUBMIT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
    with world(tmp_path, head_s=0.3) as gateway, answered(gateway, request, b"}") as (raw, answer):
        assert b" 401 " in answer
        raw.settimeout(0.05)

        def is_cut() -> bool:
            try:
                raw.sendall(b" ")
                return raw.recv(1000) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(is_cut)


def test_rates_are_bounded_by_token(tmp_path: Path) -> None:
    with world(tmp_path, requests_per_s=2.0) as gateway:
        assert [gateway.ask("GET", "/v1/functions").status for _ in range(2)] == [200, 200]
        refused = until(lambda: (reply := gateway.ask("GET", "/v1/functions")).status != 200 and reply)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert gateway.ask("GET", "/v1/functions", scope="observe").status == 200
        assert gateway.ask("GET", "/healthz", scope=None).status == 200


def test_guesses_are_slowed_down(tmp_path: Path) -> None:
    with world(tmp_path, refusals_per_s=1.0) as gateway:
        assert gateway.ask("GET", "/v1/functions", scope=None).status == 401
        assert until(lambda: (found := gateway.ask("GET", "/", scope=None).status) != 401 and found) == 429
        assert gateway.ask("GET", "/v1/functions").status == 200


def test_tunnels_are_bounded_by_token(gateway: World) -> None:
    opened = [gateway.ask("POST", "/v1/tunnel", body={"protocol": 1}) for _ in range(3)]
    assert [each.status for each in opened] == [201, 201, 429]
    assert gateway.ask("POST", "/v1/tunnel", scope="submit", body={"protocol": 1}).status == 201
    assert gateway.ask("DELETE", f"/v1/tunnel/{opened[0].body['tunnel']}").status == 204


def test_tunnels_that_nobody_needs_make_room(tmp_path: Path) -> None:
    with world(tmp_path, max_tunnels=2, tunnel_yield_s=0.05) as gateway:

        def opened() -> Reply:
            return gateway.ask("POST", "/v1/tunnel", body={"protocol": 1})

        for _ in range(3):  # what its client has closed is not counted
            assert gateway.ask("DELETE", f"/v1/tunnel/{opened().body['tunnel']}").status == 204
        with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
            used, left = opened().body["tunnel"], opened().body["tunnel"]
            token = gateway.texts["admin"]
            raw.sendall(
                f"GET /v1/tunnel/{used}/down?offset=0 HTTP/1.1\r\nHost: localhost\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            assert b" 200 " in raw.recv(1000)
            until(lambda: opened().status == 201)
            assert gateway.ask("POST", f"/v1/tunnel/{left}/up?offset=0", body=b"").status == 404
            assert gateway.ask("POST", f"/v1/tunnel/{used}/up?offset=0", body=b"").status == 200


def test_streams_are_bounded_by_token(gateway: World) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        token = gateway.texts["admin"]
        raw.sendall(
            f"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        assert b" 200 " in raw.recv(1000)
        assert gateway.ask("GET", "/v1/events").status == 429


def test_a_head_that_does_not_come_ends_its_connection(tmp_path: Path) -> None:
    request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with world(tmp_path, head_s=0.3) as gateway, answered(gateway, request, b"}") as (raw, _):
        raw.sendall(b"GET /heal")
        assert raw.recv(1000) == b""


def test_the_body_of_a_request_behind_another_one_has_its_own_time(tmp_path: Path) -> None:
    with world(tmp_path, head_s=0.3) as gateway:
        requests = (
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            "POST /v1/functions/unknown/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            f"Content-Type: application/json\r\nAuthorization: Bearer {gateway.texts['admin']}\r\n\r\n"
        )
        with answered(gateway, requests, b"}") as (raw, _):
            raw.settimeout(1.0)
            with pytest.raises(TimeoutError):
                raw.recv(1)
            raw.settimeout(None)
            raw.sendall(b"{}")
            assert b" 404 " in raw.recv(1000)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"args": NaN}',
        b'{"args": [1e999]}',
        b'{"args": ["\\ud800"]}',
        b"[" * 1000,
        b'{"args": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"args": 1}',
        b'{"kwargs": []}',
        b'{"map": []}',
        b'{"map": [1]}',
        b'{"more": 1}',
        b'{"options": {"retries": -1}}',
        b'{"options": {"detach": true}}',
        b'{"args": 1' + b"0" * 1000 + b"}",
    ],
)
def test_hostile_bodies_are_refused(gateway: World, body: bytes) -> None:
    assert gateway.ask("POST", SUBMIT, body=body).status in (400, 422)


def test_what_comes_after_a_body_is_no_header(gateway: World) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        body = b"2\r\n{}\r\n0\r\nHost: evil.example\r\n\r\n"
        raw.sendall(head(gateway, "Transfer-Encoding: chunked") + body)
        assert b" 404 " in raw.recv(2000)


def test_a_body_that_an_upgrade_hides_is_refused_in_words(gateway: World) -> None:
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(head(gateway, upgrade + "Content-Length: 2") + b"{}")
        answer = until_end(raw)
        assert b" 400 " in answer
        assert b"leave out Upgrade" in answer
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        for fields in (upgrade, ""):  # without a body it is answered, and so is what follows
            raw.sendall(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
            assert b'{"status":"ok"}' in raw.recv(4000)


@contextlib.contextmanager
def answered(gateway: World, requests: str, end: bytes) -> Iterator[tuple[socket.socket, bytes]]:
    """A connection and what came first on it, up to `end`; one on which nothing was said in time is none."""

    def tried() -> tuple[socket.socket, bytes] | None:
        raw, answer = socket.create_connection(("127.0.0.1", gateway.port)), b""
        with contextlib.suppress(ConnectionError):
            raw.sendall(requests.encode())
            while part := raw.recv(2000):
                answer += part
                if answer.endswith(end):
                    return raw, answer
        raw.close()
        return None

    raw, answer = until(tried)
    with raw:
        yield raw, answer


def until_end(raw: socket.socket) -> bytes:
    answer = b""
    while part := raw.recv(1000):
        answer += part
    return answer


def head(gateway: World, line: str) -> bytes:
    return (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {gateway.texts['admin']}\r\n"
        f"Content-Type: application/json\r\n{line}\r\n\r\n"
    ).encode()
