"""Clients over HTTP, with real programs, and with what may stand or happen between."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trustme
from clusters import Programs, lasting_port, programs, until
from gateways import cluster_id, make_token, start_gateway
from web_intermediary import Intermediary

from distcomp import Client
from distcomp.config import ClientSettings, WireLimits
from distcomp.errors import AuthenticationError, ConfigError, ForeignProtocolError, UnreachableError
from distcomp.gateway_settings import gateway_file

if TYPE_CHECKING:
    from collections.abc import Iterator

HASTY = ClientSettings(connect_timeout_s=1.0)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Site(NamedTuple):
    """A scheduler and a worker, a gateway at `port`, and a token for it."""

    programs: Programs
    port: int
    token: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, programs(tmp_path_factory.mktemp("home")) as made:
        patch.setenv("DISTCOMP_HOME", str(made.home))
        made.scheduler("test", "--owner", "alice")
        made.worker()
        _, port = start_gateway(made, "--names", "gateway.example")
        yield Site(made, port, make_token(made))


@pytest.fixture(autouse=True)
def _told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTCOMP_TOKEN", raising=False)
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)


def address_of(port: int, path: str = "") -> str:
    return f"http://127.0.0.1:{port}{path}"


def nap(number: int, gate: str) -> int:
    """Sleep a little, and as the first one until the gate is there."""
    time.sleep(0.005)
    while number == 0 and not os.path.exists(gate):  # noqa: PTH110 - it travels by value, with what it needs
        time.sleep(0.005)
    return number


# --- what breaks ----------------------------------------------------------------------------------


def test_a_map_outlives_its_gateway(cluster: Programs, tmp_path: Path) -> None:
    port, gate = lasting_port(), tmp_path / "gate"
    cluster.scheduler("test", "--owner", "alice", "--local-slots", "2", "--gateway", str(port))
    told = gateway_file("test", cluster_id(cluster), cluster.home)
    until(told.exists, "the gateway listens")
    tasks, naps = 300_000, 600
    with Client(address_of(port), token=make_token(cluster)) as client:
        results = iter(client.map(abs, range(-tasks, 0)))
        slow = client.map(nap, range(naps), [str(gate)] * naps)
        seen = [next(results) for _ in range(1000)]
        assert not slow.done()
        first = json.loads(told.read_text())["pid"]
        os.kill(first, signal.SIGKILL)
        gate.touch()
        assert [*seen, *results] == list(range(tasks, 0, -1))
        assert slow.results() == list(range(naps))
        until(lambda: _pid_in(told) not in (0, first), "another gateway runs")
        assert client.submit(pow, 2, 10).result() == 1024
        totals = client.status().totals
        assert totals.accepted == totals.settled == tasks + naps + 1
        assert (totals.failed, totals.lost, totals.cancelled) == (0, 0, 0)


def _pid_in(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["pid"])
    except FileNotFoundError:
        return 0


def test_what_ends_idle_connections_is_not_noticed(
    site: Site, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, logger="distcomp")
    patient = ClientSettings(wire=WireLimits(silence_s=60.0))
    with (
        Intermediary(site.port, prefix="/here", idle_s=0.3) as between,
        Client(address_of(between.port, "/here"), token=site.token, settings=patient) as client,
    ):
        opened = tunnels(between)
        waiting = client.submit(nap, 0, str(tmp_path / "gate"))
        assert client.submit(pow, 2, 10).result() == 1024
        until(lambda: between.ended > 1, "connections are ended")
        (tmp_path / "gate").touch()
        waiting.result()
        assert list(client.map(abs, range(-1000, 0))) == list(range(1000, 0, -1))
        assert tunnels(between) == opened >= 1
        assert not [record for record in caplog.records if "is gone" in record.message]


def tunnels(between: Intermediary) -> int:
    """How often a tunnel was asked for."""
    return sum(head.startswith("POST /here/v1/tunnel HTTP/1.1\r\n") for head in between.heads)


# --- what stands between --------------------------------------------------------------------------


def test_by_tls_through_a_proxy_that_wants_to_be_asked(
    cluster: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("gateway.example")
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate.pem"))
    files = ("--tls-certificate", str(tmp_path / "certificate.pem"), "--tls-key", str(tmp_path / "key.pem"))
    cluster.scheduler("test", "--owner", "alice", "--local-slots", "1")
    port = lasting_port()
    cluster.start("gateway", "--port", str(port), *files, "--names", "gateway.example")
    until((gateway_file("test", cluster_id(cluster), cluster.home)).exists, "the gateway listens")
    with Intermediary(port, connects="gateway.example:443", idle_s=0.5) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        monkeypatch.setenv("DISTCOMP_ADDRESS", "https://gateway.example")
        monkeypatch.setenv("DISTCOMP_TOKEN", make_token(cluster))
        with Client() as client:
            assert list(client.map(abs, range(-1000, 0))) == list(range(1000, 0, -1))
            assert client.submit(len, bytes(1_000_000)).result() == 1_000_000
        assert len(proxy.heads) >= 2


def test_in_the_clear_through_a_proxy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with Intermediary(site.port, prefix="http://gateway.example") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
        with Client("http://gateway.example", token=site.token) as client:
            assert client.submit(pow, 2, 10).result() == 1024


# --- what is said ---------------------------------------------------------------------------------


def test_what_is_mistaken_is_said(site: Site) -> None:
    here = address_of(site.port)
    with pytest.raises(ConfigError, match=r"there is no token for .*distcomp token create"):
        Client(here.replace("127.0.0.1", "localhost"))
    with pytest.raises(AuthenticationError, match="does not take the token"):
        Client(here, token=site.token[:-1])
    with pytest.raises(AuthenticationError, match="needs a token with the scope submit"):
        Client(here, token=make_token(site.programs, scope="observe"))
    with pytest.raises(ConfigError, match="a token is for a gateway"):
        Client("tcp://127.0.0.1:7077", token=site.token)
    with pytest.raises(ForeignProtocolError, match="http://"):
        Client(f"tcp://127.0.0.1:{site.port}")
    scheduler = site.programs.access().addresses[0].replace("tcp", "http")
    with pytest.raises(ForeignProtocolError, match="its address begins with tcp://"):
        Client(scheduler, token=site.token)
    with pytest.raises(ForeignProtocolError, match="begins with http://"):
        Client(here.replace("http", "https"), token=site.token)
    with Intermediary(site.port, prefix="/cluster") as between, pytest.raises(ForeignProtocolError) as caught:
        Client(address_of(between.port, "/luster"), token=site.token)
    assert "ends with that path" in str(caught.value)
    with Intermediary(1) as nobody, pytest.raises(UnreachableError):
        Client(address_of(nobody.port), token=site.token, settings=HASTY)


# --- what is as over TCP --------------------------------------------------------------------------


def test_a_gateway_of_ones_own_is_used_without_token(cluster: Programs) -> None:
    cluster.scheduler("test", "--local-slots", "1")
    _, port = start_gateway(cluster)
    with Client(address_of(port)) as client:
        assert client.submit(pow, 2, 10).result() == 1024


def test_runs_and_what_is_printed(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(address_of(site.port), token=site.token) as client:
        client.options(run="fit").map(abs, [-1, -2, -3])
        client.options(logs=True).submit(print, "hello from a task").result()
        until(lambda: "hello from a task" in "".join(capsys.readouterr()), "it is shown")
    patient = ClientSettings(run_taken_s=60.0)
    with Client(
        address_of(site.port), token=site.token, store=tmp_path / "results.db", settings=patient
    ) as other:
        assert other.attach("fit").gather() == [1, 2, 3]
        assert other.options(cache=True).submit(abs, -5).result() == 5
    with Client(site.programs.access(), settings=patient) as direct:
        assert direct.attach("fit").gather() == [1, 2, 3]


def test_an_example_runs(site: Site) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / "main_hard.py"), "--address", address_of(site.port)],
        env=site.programs.environment(DISTCOMP_TOKEN=site.token),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "all is as" in ran.stdout.splitlines()[-1]
