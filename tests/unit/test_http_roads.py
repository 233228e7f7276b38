from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from fake_gateway import FakeGateway

from distcomp import transport
from distcomp.errors import (
    AuthenticationError,
    CertificateError,
    ConfigError,
    ForeignProtocolError,
    UnreachableError,
)
from distcomp.http_roads import Road, WebProxy, proxy_of
from distcomp.web_address import parse_web_address

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path
    from typing import Any

HOST = "gateway.example"
TIMEOUT_S = 60.0


def run(test: Coroutine[Any, Any, None]) -> None:
    loop = transport.new_event_loop()
    try:
        loop.run_until_complete(test)
    finally:
        loop.close()


# --- which proxy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "variables", "proxy"),
    [
        ("http://a.b", {}, None),
        ("http://a.b", {"http_proxy": "http://p:8080"}, WebProxy("p", 8080)),
        ("http://a.b", {"HTTP_PROXY": "p:8080"}, WebProxy("p", 8080)),
        ("http://a.b", {"http_proxy": "http://p", "HTTP_PROXY": "q"}, WebProxy("p", 3128)),
        ("http://a.b", {"https_proxy": "p:8080"}, None),
        ("https://a.b", {"HTTPS_PROXY": "http://p:8080/"}, WebProxy("p", 8080)),
        ("https://a.b", {"all_proxy": "http://[::1]:8080"}, WebProxy("::1", 8080)),
        ("http://a.b", {"HTTP_PROXY": "p:8080", "REQUEST_METHOD": "GET"}, None),
        ("http://a.b", {"http_proxy": ""}, None),
        ("http://localhost:1", {"http_proxy": "p:8080"}, None),
        ("http://127.0.0.1:1", {"http_proxy": "p:8080"}, None),
        ("http://a.b", {"http_proxy": "p:8080", "no_proxy": "*"}, None),
        ("http://a.b", {"http_proxy": "p:8080", "NO_PROXY": "x, A.b"}, None),
        ("http://a.b", {"http_proxy": "p:8080", "no_proxy": "b"}, None),
        ("http://a.b", {"http_proxy": "p:8080", "no_proxy": ".b"}, None),
        ("http://a.b", {"http_proxy": "p:8080", "no_proxy": "*.b"}, None),
        ("http://a.b", {"http_proxy": "p:8080", "no_proxy": "a.b:80"}, None),
        ("http://a.b", {"http_proxy": "p:8080", "no_proxy": "a.b:81"}, WebProxy("p", 8080)),
        ("http://ab", {"http_proxy": "p:8080", "no_proxy": "b"}, WebProxy("p", 8080)),
        ("http://10.1.2.3", {"http_proxy": "p:8080", "no_proxy": "10.1.0.0/16"}, None),
        ("http://10.2.2.3", {"http_proxy": "p:8080", "no_proxy": "10.1.0.0/16"}, WebProxy("p", 8080)),
        ("http://[fd00::1]", {"http_proxy": "p:8080", "no_proxy": "fd00::/8"}, None),
        ("http://[fd00::1]", {"http_proxy": "p:8080", "no_proxy": "[fd00::1]"}, None),
    ],
)
def test_variables_name_the_proxy(address: str, variables: dict[str, str], proxy: WebProxy | None) -> None:
    assert proxy_of(parse_web_address(address), variables) == proxy


def test_a_proxy_may_want_a_login_which_is_shown_nowhere() -> None:
    found = proxy_of(parse_web_address("http://a.b"), {"http_proxy": "http://me:p%40ss@p:8080"})
    assert found is not None
    assert base64.b64decode(found.login) == b"me:p@ss"
    road = Road(parse_web_address("http://a.b/x"), "dct_1", {"http_proxy": "http://me:p%40ss@p:8080"})
    request = road.request("POST", "/v1", b"body")
    assert request.startswith(b"POST http://a.b/x/v1 HTTP/1.1\r\nHost: a.b\r\n")
    assert b"\r\nProxy-Authorization: Basic " + found.login.encode() + b"\r\n" in request
    assert request.endswith(b"\r\nContent-Length: 4\r\n\r\nbody")
    for shown in (str(road), repr(road)):
        assert "through the proxy p:8080" in shown
        assert "dct_1" not in shown
        assert found.login not in shown


@pytest.mark.parametrize("proxy", ["https://p:1", "socks5://p:1", "http://", "http://p:x"])
def test_a_proxy_that_cannot_be_used_is_said(proxy: str) -> None:
    with pytest.raises(ConfigError, match="has to be named like"):
        proxy_of(parse_web_address("https://a.b"), {"https_proxy": proxy})


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "ä", " "])
def test_a_token_is_one_word(token: str) -> None:
    with pytest.raises(ConfigError, match="a token is one word"):
        Road(parse_web_address("http://a"), token, {})


def test_requests_have_their_address_and_the_token() -> None:
    road = Road(parse_web_address("https://a:8443/x"), "dct_1", {})
    request = road.request("GET", "/v1/tunnel").decode()
    assert request.startswith("GET /x/v1/tunnel HTTP/1.1\r\nHost: a:8443\r\nAuthorization: Bearer dct_1\r\n")
    assert request.endswith("\r\n\r\n")
    assert "Content-Length" not in request


# --- connecting -----------------------------------------------------------------------------------


class ConnectProxy:
    """A proxy that connects whoever asks with one port of this host.

    Attributes:
        asked: the heads of what it was asked.
        answer: what it says in place of its consent.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.asked: list[str] = []
        self.answer = b""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if self.answer:
                writer.write(self.answer)
                await writer.drain()
            else:
                await self._join(reader, writer)
        writer.close()
        self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
        pumps = [asyncio.ensure_future(_pump(*pair)) for pair in ((reader, far_writer), (far_reader, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            far_writer.transport.abort()
            await asyncio.wait(pumps)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


def tls_of(authority: trustme.CA, host: str = HOST) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


async def opened(road: Road) -> str:
    """Open a tunnel by a road; what the answer says."""
    wire = await road.open(TIMEOUT_S)
    try:
        assert wire.is_idle
        _, answer = await wire.ask(road.request("POST", "/v1/tunnel", b"{}"), TIMEOUT_S)
        return answer.decode()
    finally:
        wire.abort()
        await asyncio.sleep(0)


@pytest.mark.usefixtures("trusted")
def test_certificates_are_checked_against_those_that_are_trusted(authority: trustme.CA) -> None:
    async def test() -> None:
        gateway = FakeGateway()
        port = await gateway.start(tls_of(authority, "127.0.0.1"))
        road = Road(parse_web_address(f"https://127.0.0.1:{port}"), "dct_1", {})
        assert "alice" in await opened(road)
        await gateway.stop()

    run(test())


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_host_does_not_convince(authority: trustme.CA) -> None:
    async def test() -> None:
        gateway = FakeGateway()
        port = await gateway.start(tls_of(authority, "other.example"))
        with pytest.raises(CertificateError, match=r"127\.0\.0\.1"):
            await Road(parse_web_address(f"https://127.0.0.1:{port}"), "dct_1", {}).open(TIMEOUT_S)
        await gateway.stop()

    run(test())


def test_an_unknown_authority_does_not_convince(authority: trustme.CA) -> None:
    async def test() -> None:
        gateway = FakeGateway()
        port = await gateway.start(tls_of(authority, "127.0.0.1"))
        with pytest.raises(CertificateError, match="SSL_CERT_FILE names the file"):
            await Road(parse_web_address(f"https://127.0.0.1:{port}"), "dct_1", {}).open(TIMEOUT_S)
        await gateway.stop()

    run(test())


def test_who_speaks_no_tls_is_told_apart() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ForeignProtocolError, match="its address begins with http://"):
            await Road(parse_web_address(f"https://127.0.0.1:{port}"), "dct_1", {}).open(TIMEOUT_S)
        server.close()
        await server.wait_closed()

    run(test())


@pytest.mark.usefixtures("trusted")
def test_by_tls_a_proxy_is_asked_to_connect(authority: trustme.CA) -> None:
    async def test() -> None:
        gateway = FakeGateway()
        proxy = ConnectProxy(await gateway.start(tls_of(authority)))
        variables = {"https_proxy": f"http://me:secret@127.0.0.1:{await proxy.start()}"}
        road = Road(parse_web_address(f"https://{HOST}/"), "dct_1", variables)
        assert "alice" in await opened(road)
        (asked,) = proxy.asked
        assert asked.startswith(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\nProxy-Authorization: ")
        assert "dct_1" not in asked
        assert "Proxy-Authorization" not in gateway.heads[0]
        await proxy.stop()
        await gateway.stop()

    run(test())


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"HTTP/1.1 407 x\r\n\r\n", AuthenticationError, "wants another login"),
        (b"HTTP/1.1 403 x\r\n\r\n", UnreachableError, "it answers 403"),
        (b"HTTP/1.1 502 x\r\nA: b\r\n\r\n", UnreachableError, "does not connect to gateway.example:8443"),
        (b"SSH-2.0\r\n\r\n", ForeignProtocolError, "does not answer as a proxy"),
        (b"SSH-2.0\r\n", ForeignProtocolError, "does not answer as a proxy"),
        (b"x" * 200_000, ForeignProtocolError, "does not answer as a proxy"),
    ],
)
def test_a_proxy_that_does_not_connect_is_said(answer: bytes, error: type[Exception], words: str) -> None:
    async def test() -> None:
        proxy = ConnectProxy(1)
        proxy.answer = answer
        variables = {"https_proxy": f"http://127.0.0.1:{await proxy.start()}"}
        with pytest.raises(error, match=words):
            await Road(parse_web_address(f"https://{HOST}:8443/"), "dct_1", variables).open(TIMEOUT_S)
        await proxy.stop()

    run(test())


def test_a_proxy_that_is_not_there_is_named() -> None:
    async def test() -> None:
        with socket.socket() as taken:  # nobody listens there, and nobody else will
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            for scheme in ("http", "https"):
                road = Road(
                    parse_web_address(f"{scheme}://{HOST}"),
                    "dct_1",
                    {f"{scheme}_proxy": f"http://127.0.0.1:{port}"},
                )
                with pytest.raises(UnreachableError, match=f"through the proxy 127.0.0.1:{port} cannot be"):
                    await road.open(TIMEOUT_S)

    run(test())


def test_what_does_not_answer_is_not_waited_for() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for address, variables in (
            (f"https://127.0.0.1:{port}", {}),
            (f"https://{HOST}", {"https_proxy": f"http://127.0.0.1:{port}"}),
        ):
            with pytest.raises(UnreachableError, match="did not answer within"):
                await Road(parse_web_address(address), "dct_1", variables).open(0.05)
        server.close()
        await server.wait_closed()

    run(test())


def test_a_name_that_is_unknown_is_said() -> None:
    async def test() -> None:
        with pytest.raises(UnreachableError, match="the name is unknown"):
            await Road(parse_web_address("http://nowhere.invalid"), "dct_1", {}).open(TIMEOUT_S)

    run(test())
