"""Gateways of real programs for tests."""

from __future__ import annotations

import http.client
import json
import re
from typing import TYPE_CHECKING, Any

from clusters import until

from distcomp.gateway.tokens import TokenFile

if TYPE_CHECKING:
    import subprocess

    from clusters import Programs

_LISTENS = re.compile(r"listens at http://127\.0\.0\.1:(\d+)")


def start_gateway(cluster: Programs, *flags: str, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    """Start a gateway and wait until it listens; returns its port, too."""
    process = cluster.start("gateway", "--port", str(port), *flags)
    return process, listening_port(cluster, process)


def listening_port(cluster: Programs, process: subprocess.Popen[str]) -> int:
    """The port at which a gateway says that it listens."""
    found = until(
        lambda: _LISTENS.search(cluster.said(process)) or process.poll() is not None, "the gateway listens"
    )
    assert isinstance(found, re.Match), cluster.said(process)
    return int(found[1])


def make_token(cluster: Programs, scope: str = "submit", owner: str = "alice", name: str = "test") -> str:
    """A token for the gateways of a cluster."""
    return TokenFile(name, cluster.home).create(scope=scope, owner=owner)[1]


def ask(
    port: int, token: str, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One request; the status, the headers and the decoded body of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        sent = {
            "Authorization": f"Bearer {token}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        data = body
        if body is not None and not isinstance(body, bytes):
            sent.setdefault("Content-Type", "application/json")
            data = json.dumps(body).encode()
        connection.request(method, path, data, sent)
        answer = connection.getresponse()
        got = answer.read()
        kind = answer.headers.get("content-type", "")
        return (
            answer.status,
            {k.lower(): v for k, v in answer.headers.items()},
            json.loads(got) if "json" in kind else got,
        )
    finally:
        connection.close()
