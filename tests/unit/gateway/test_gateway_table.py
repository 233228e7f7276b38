"""Every operation with every scope, every host and every origin: who is answered, and who is not."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from gateway_world import World, world

from distcomp.gateway.table import OPERATIONS, Operation
from distcomp.gateway.tokens import SCOPES

if TYPE_CHECKING:
    from collections.abc import Iterator

REACHED = {
    "host": ({"hosts": ("localhost",)}, True),
    "port": ({"hosts": ("127.0.0.1:{port}",)}, True),
    "name of the settings": ({"hosts": ("cluster.example",)}, True),
    "own origin": ({"hosts": ("localhost:{port}",), "headers": {"Origin": "http://localhost:{port}"}}, True),
    "allowed origin": ({"headers": {"Origin": "https://page.example"}}, True),
    "no host": ({"hosts": ()}, False),
    "two hosts": ({"hosts": ("localhost", "evil.example")}, False),
    "foreign host": ({"hosts": ("evil.example",)}, False),
    "rebound host": ({"hosts": ("localhost.evil.example:{port}",)}, False),
    "foreign origin": ({"headers": {"Origin": "https://evil.example"}}, False),
    "origin of another port": ({"headers": {"Origin": "http://localhost:1"}}, False),
    "null origin": ({"headers": {"Origin": "null"}}, False),
    "broken origin": ({"headers": {"Origin": "http://["}}, False),
    "broken host": ({"hosts": ("[",)}, False),
    "host with a user": ({"hosts": ("evil@localhost",)}, False),
    "host with a path": ({"hosts": ("localhost/evil",)}, False),
}
HOSTS = [(name, *value) for name, value in REACHED.items()]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("home")
    names, origins = "cluster.example", "https://page.example, https://other.example"
    with world(
        folder, gateway_names=names, gateway_origins=origins, max_tunnels=1000, refusals_per_s=1e6
    ) as made:
        yield made


def asked(gateway: World, operation: Operation, scope: str | None, how: dict[str, Any]) -> tuple[int, str]:
    """The status of an answer, and which kind of problem it is."""

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fill(text) for name, text in value.items()}
        if isinstance(value, tuple):
            return tuple(map(fill, value))
        return value.format(port=gateway.port)

    path = re.sub(r"\{\w+\}", "x", operation.path)
    query = "?offset=0" if any(each.name == "offset" for each in operation.parameters) else ""
    body = {"protocol": 1} if operation.name == "open_tunnel" else {}
    reply = gateway.ask(operation.method, path + query, scope=scope, body=body, **fill(how))
    kind = (
        reply.body["type"].rpartition(":")[2] if isinstance(reply.body, dict) and "type" in reply.body else ""
    )
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    return reply.status, kind


@pytest.mark.parametrize("operation", OPERATIONS, ids=[each.name for each in OPERATIONS])
@pytest.mark.parametrize("scope", [None, *SCOPES])
def test_who_may_do_what_by_which_name(gateway: World, operation: Operation, scope: str | None) -> None:
    enough = operation.scope is None or (
        scope is not None and SCOPES.index(scope) >= SCOPES.index(operation.scope)
    )
    for name, how, known in HOSTS:
        status, kind = asked(gateway, operation, scope, how)
        if not known:
            assert (status, kind) in ((403, "foreign-host"), (403, "foreign-origin"), (400, "")), name
        elif enough:
            assert status not in (401, 403, 500), name
        elif scope is None:
            assert (status, kind) == (401, "no-token"), name
        else:
            assert (status, kind) == (403, "forbidden"), name


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer x", "Basic eDp5", "bearer dct_a_b", "é"])
def test_no_token_no_answer(gateway: World, authorization: str) -> None:
    for method, path in (("GET", "/v1/status"), ("GET", "/nothing"), ("PATCH", "/v1/status"), ("GET", "/")):
        reply = gateway.ask(method, path, scope=None, headers={"Authorization": authorization})
        assert reply.status == 401
        assert "Bearer" in reply.headers["www-authenticate"]


def test_two_tokens_are_none(gateway: World) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        field = f"Authorization: Bearer {gateway.texts['admin']}\r\n"
        raw.sendall(f"GET /v1/functions HTTP/1.1\r\nHost: localhost\r\n{field * 2}\r\n".encode())
        assert b" 401 " in raw.recv(2000)


def test_balancers_may_look_by_head(gateway: World) -> None:
    for path in ("/healthz", "/readyz"):
        assert gateway.ask("HEAD", path, scope=None).status == 200
    assert gateway.ask("HEAD", "/v1/functions", scope=None).status == 401
    assert gateway.ask("HEAD", "/v1/functions").status == 405


def test_what_is_not_there_is_said_to_those_with_a_token(gateway: World) -> None:
    assert gateway.ask("GET", "/nothing").status == 404
    reply = gateway.ask("PATCH", "/v1/tasks/x")
    assert (reply.status, reply.headers["allow"]) == (405, "DELETE, GET")
    assert gateway.ask("GET", "/v1/tasks/%2e%2e").status == 404
    assert gateway.ask("OPTIONS", "/v1/status").status == 405


def test_a_page_of_an_allowed_origin_can_ask_and_read(gateway: World) -> None:
    page = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    asked_first = gateway.ask("OPTIONS", "/v1/functions/x/tasks", scope=None, headers=page)
    assert (asked_first.status, asked_first.headers["access-control-allow-methods"]) == (204, "POST")
    assert "Authorization" in asked_first.headers["access-control-allow-headers"]
    for reply in (gateway.ask("GET", "/v1/functions", headers=page), asked_first):
        assert reply.headers["access-control-allow-origin"] == "https://page.example"
    foreign = gateway.ask("OPTIONS", "/v1/functions", scope=None, headers={"Origin": "https://evil.example"})
    assert (foreign.status, foreign.headers["access-control-allow-origin"]) == (403, None)
    assert gateway.ask("GET", "/v1/functions").headers["access-control-allow-origin"] is None


def test_a_browser_can_read_the_docs_with_its_token_as_password(gateway: World) -> None:
    import base64  # noqa: PLC0415 - here only

    login = base64.b64encode(f"me:{gateway.texts['observe']}".encode()).decode()
    headers = {"Authorization": f"Basic {login}"}
    page = gateway.ask("GET", "/docs", scope=None, headers=headers)
    assert page.status == 200
    assert all(f'id="{each.name}"'.encode() in page.body for each in OPERATIONS)
    assert b"http://" not in page.body
    assert b"<script" not in page.body
    assert gateway.ask("GET", "/v1/status", scope=None, headers=headers).status == 401
