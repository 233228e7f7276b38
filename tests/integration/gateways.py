"""Gateways of real programs for tests."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from clusters import lasting_port, programs, until

from distcomp.gateway import table
from distcomp.gateway.openapi import problems_of
from distcomp.gateway.problems import TITLES
from distcomp.gateway.schemas import check
from distcomp.gateway.shapes import PROBLEM
from distcomp.gateway.tokens import TokenFile
from distcomp.gateway_settings import gateway_folder

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from clusters import Programs

_LISTENS = re.compile(r"listens at http://127\.0\.0\.1:(\d+)")


def start_gateway(cluster: Programs, *flags: str, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    """Start a gateway and wait until it listens; returns its port, too."""
    process = cluster.start("gateway", "--port", str(port or lasting_port()), *flags)
    return process, listening_port(cluster, process)


@contextlib.contextmanager
def alices_cluster(home: Path, *flags: str) -> Iterator[Gatewayed]:
    """A scheduler, a worker and a gateway of `alice`."""
    with pytest.MonkeyPatch.context() as patch, programs(home) as cluster:
        patch.setenv("DISTCOMP_HOME", str(home))
        patch.delenv("DISTCOMP_ADDRESS", raising=False)
        cluster.scheduler("test", "--owner", "alice")
        cluster.worker()
        yield Gatewayed(cluster, *start_gateway(cluster, *flags))


class Gatewayed:
    """A cluster with a gateway, which can be killed."""

    def __init__(self, cluster: Programs, process: subprocess.Popen[str], port: int) -> None:
        self.cluster, self.port = cluster, port
        self._process = process

    def kill(self) -> None:
        """End the gateway as abruptly as can be, and start another one in its place."""
        self._process.kill()
        self._process.wait()
        self._process, _ = start_gateway(self.cluster, port=self.port)

    def token(self, scope: str = "submit", owner: str = "alice") -> str:
        """A token for the gateway."""
        return make_token(self.cluster, scope, owner)


def listening_port(cluster: Programs, process: subprocess.Popen[str]) -> int:
    """The port at which a gateway says that it listens."""
    found = until(
        lambda: _LISTENS.search(cluster.said(process)) or process.poll() is not None, "the gateway listens"
    )
    assert isinstance(found, re.Match), cluster.said(process)
    return int(found[1])


def make_token(cluster: Programs, scope: str = "submit", owner: str = "alice", name: str = "test") -> str:
    """A token for the gateways of a cluster."""
    folder = gateway_folder(name, cluster_id(cluster, name), cluster.home)
    return TokenFile(folder).create(scope=scope, owner=owner)[1]


def cluster_id(cluster: Programs, name: str = "test") -> bytes:
    """The id of a cluster whose scheduler has run."""
    path = cluster.home / "schedulers" / name / "cluster.json"
    return bytes.fromhex(json.loads(path.read_text())["cluster_id"])


def ask(
    port: int, token: str, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One request; the status, the headers and the decoded body of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
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
        told = {name.lower(): text for name, text in answer.headers.items()}
        if "json" not in told.get("content-type", ""):
            return answer.status, told, got
        body = json.loads(got)
        hold_to_document(method, path, answer.status, body)
        return answer.status, told, body
    finally:
        connection.close()


def hold_to_document(method: str, path: str, status: int, body: Any) -> None:
    """Fail if an answer is not what the OpenAPI document says."""
    found = table.find(method, path.partition("?")[0])
    assert found is not None
    assert found.operation is not None
    if status >= 400:
        check(PROBLEM, body, "the problem")
        assert status in {TITLES[kind][0] for kind in problems_of(found.operation)}
        return
    schemas = [each.schema for each in found.operation.answers if each.status == status]
    assert schemas, f"{method} {path} answers {status}"
    check(schemas[0] or {}, body, "the answer")
