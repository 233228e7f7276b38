"""Below a path, behind TLS, and within an application of somebody else's."""

from __future__ import annotations

import http.client
import resource
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
from gateway_world import world

from distcomp.gateway.guard import is_exposed
from distcomp.gateway.serving import allow_files
from distcomp.gateway_settings import GatewaySettings
from distcomp.publishing import make_publication

if TYPE_CHECKING:
    from pathlib import Path


def test_it_works_below_a_path_whether_a_proxy_leaves_that_or_not(tmp_path: Path) -> None:
    data = make_publication(abs, "absolute", project=False).to_bytes()
    with world(tmp_path, root_path="/cluster/") as gateway:
        assert gateway.ask("PUT", "/cluster/v1/functions/absolute/versions/1", body=data).status == 201
        for prefix in ("", "/cluster"):
            made = gateway.ask("POST", f"{prefix}/v1/functions/absolute/tasks", body={"args": [1]})
            assert made.headers["location"] == f"/cluster/v1/tasks/{made.body['id']}"
            assert gateway.ask("GET", f"{prefix}/v1/tasks/{made.body['id']}").status == 200
        assert gateway.ask("GET", "/openapi.json").body["servers"] == [{"url": "/cluster"}]
        assert gateway.ask("GET", "/clusters/v1/tasks").status == 404


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_it_speaks_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    with world(tmp_path / "home", tls_certificate=str(certificate), tls_key=str(key)) as gateway:
        trusting = ssl.create_default_context(cafile=str(certificate))
        secured = http.client.HTTPSConnection("localhost", gateway.port, context=trusting, timeout=60)
        secured.request("GET", "/healthz", headers={"Origin": f"https://localhost:{gateway.port}"})
        assert secured.getresponse().status == 200
        secured.close()
        plain = http.client.HTTPConnection("localhost", gateway.port, timeout=60)
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask_for_health(plain)
        plain.close()


def ask_for_health(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/healthz")
    connection.getresponse()


def test_as_many_files_as_are_wanted_may_be_open() -> None:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 100, hard))
        assert allow_files(soft - 50) == soft - 50
        assert allow_files(soft - 200) == soft - 50
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft - 50, hard)
        assert allow_files(hard + 1) == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("settings", "exposed"),
    [
        ({}, False),
        ({"gateway_host": "::1"}, False),
        ({"gateway_host": "0.0.0.0"}, True),  # noqa: S104 - nothing listens
        ({"gateway_host": "a.example"}, True),
        ({"gateway_host": "a.example", "behind_proxy": True}, False),
        ({"gateway_host": "a.example", "tls_certificate": "c", "tls_key": "k"}, False),
    ],
)
def test_what_others_can_reach_is_encrypted(settings: dict[str, object], *, exposed: bool) -> None:
    assert is_exposed(GatewaySettings(**settings)) == exposed
